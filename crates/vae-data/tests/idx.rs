//! Reading idx files: what was written is read back, and errors name the problem.

mod common;

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tempfile::TempDir;
use vae_data::DataError;
use vae_data::idx::{IdxImages, read_images, read_labels};

use crate::common::{gzip, image_file, label_file, put};

/// The message for a file with these bytes, without the folder before its name.
fn message<T: std::fmt::Debug>(
    read: impl Fn(&Path) -> Result<T, DataError>,
    content: &[u8],
) -> String {
    let folder = TempDir::new().expect("a temporary folder");
    let error = read(&put(folder.path(), "file", content)).expect_err("a file that is not right");
    let prefix = format!("{}/", folder.path().display());
    let message = error.to_string();
    message
        .strip_prefix(&prefix)
        .expect("each message starts with its file")
        .to_owned()
}

fn any_images() -> impl Strategy<Value = IdxImages> {
    (1..20_usize, 1..40_usize, 1..40_usize).prop_flat_map(|(n_images, height, width)| {
        let pixels = prop::collection::vec(any::<u8>(), n_images * height * width);
        pixels.prop_map(move |pixels| IdxImages {
            n_images,
            height,
            width,
            pixels,
        })
    })
}

proptest! {
    // The same cases every time.
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn images_round_trip(images in any_images(), cut in any::<prop::sample::Index>()) {
        let folder = TempDir::new().unwrap();
        let sides = [images.n_images, images.height, images.width].map(|n| n as u32);
        let plain = image_file(sides[0], sides[1], sides[2], &images.pixels);
        let path = put(folder.path(), "plain", &plain);
        prop_assert_eq!(&read_images(&path).unwrap(), &images);
        let path = put(folder.path(), "gzip", &gzip(&plain));
        prop_assert_eq!(&read_images(&path).unwrap(), &images);

        let (start, end) = plain.split_at(cut.index(plain.len()));
        let two_members = [gzip(start), gzip(end)].concat();
        let path = put(folder.path(), "two-members", &two_members);
        prop_assert_eq!(&read_images(&path).unwrap(), &images);
    }

    #[test]
    fn labels_round_trip(labels in prop::collection::vec(any::<u8>(), 1..500)) {
        let folder = TempDir::new().unwrap();
        let plain = label_file(&labels);
        prop_assert_eq!(&read_labels(&put(folder.path(), "plain", &plain)).unwrap(), &labels);
        let path = put(folder.path(), "gzip", &gzip(&plain));
        prop_assert_eq!(&read_labels(&path).unwrap(), &labels);
    }
}

#[test]
fn a_file_larger_than_the_first_buffer_round_trips_through_gzip() {
    let folder = TempDir::new().unwrap();
    let pixels: Vec<u8> = (0..300 * 40 * 50_u32).map(|i| (i % 251) as u8).collect();
    let path = put(
        folder.path(),
        "file",
        &gzip(&image_file(300, 40, 50, &pixels)),
    );
    let images = read_images(&path).unwrap();
    assert_eq!(
        (images.n_images, images.height, images.width),
        (300, 40, 50)
    );
    assert!(images.pixels == pixels);
}

#[test]
fn another_kind_of_file_is_recognized() {
    let images = image_file(1, 2, 2, &[1, 2, 3, 4]);
    let labels = label_file(&[1]);
    let wanted = "expected 0x00000803";
    assert_eq!(
        message(read_images, &labels),
        format!(
            "file: magic number 0x00000801, {wanted} (this is a file of labels, not of images)"
        )
    );
    assert_eq!(
        message(read_labels, &images),
        "file: magic number 0x00000803, expected 0x00000801 \
         (this is a file of images, not of labels)"
    );
    assert_eq!(
        message(read_images, &gzip(&gzip(&images))),
        format!("file: magic number 0x1f8b0800, {wanted} (gzipped twice?)")
    );
    assert_eq!(
        message(read_images, b"<!DOCTYPE html>"),
        format!(
            "file: magic number 0x3c21444f, {wanted} (a web page, saved in place of the file?)"
        )
    );
}

#[test]
fn a_file_without_a_whole_header_is_refused() {
    let fetch = "(interrupted download? fetch it again)";
    for (content, found) in [
        (&[][..], 0),
        (&[0, 0, 8], 3),
        (&image_file(1, 1, 1, &[])[..15], 15),
    ] {
        assert_eq!(
            message(read_images, content),
            format!("file: {found} bytes, expected a header of 16 bytes {fetch}")
        );
    }
}

#[test]
fn a_length_other_than_the_headers_is_refused() {
    let short = "file: 19 bytes, expected 20 by its header (interrupted download? fetch it again)";
    let long = "file: more bytes than the 20 by its header (damaged file? fetch it again)";
    for pack in [<[u8]>::to_vec, gzip] {
        assert_eq!(
            message(read_images, &pack(&image_file(1, 2, 2, &[1, 2, 3]))),
            short
        );
        assert_eq!(
            message(read_images, &pack(&image_file(1, 2, 2, &[1, 2, 3, 4, 5]))),
            long
        );
    }
}

#[test]
fn impossible_dimensions_are_refused() {
    let message = |n, h, w| message(read_images, &image_file(n, h, w, &[]));
    assert_eq!(
        message(0, 2, 2),
        "file: number of images 0 in the header, expected 1 to 4294967295 (damaged file?)"
    );
    assert_eq!(
        message(1, 0, 2),
        "file: height 0 in the header, expected 1 to 4096 (damaged file?)"
    );
    assert_eq!(
        message(1, 2, 4097),
        "file: width 4097 in the header, expected 1 to 4096 (damaged file?)"
    );
    // (2^32 − 1) · 2^24 + 16 bytes.
    assert_eq!(
        message(u32::MAX, 4096, 4096),
        "file: the header declares 72057594021150736 bytes, expected at most 17179869184 \
         (damaged file?)"
    );
}

#[test]
fn a_damaged_gzip_stream_is_refused_with_its_cause() {
    let whole = gzip(&image_file(2, 2, 2, &[1, 2, 3, 4, 5, 6, 7, 8]));
    let mut wrong_checksum = whole.clone();
    let n_bytes = wrong_checksum.len();
    wrong_checksum[n_bytes - 8] ^= 1;
    let followed_by_garbage = [&whole[..], b"garbage"].concat();
    for damaged in [&whole[..n_bytes - 1], &wrong_checksum, &followed_by_garbage] {
        let folder = TempDir::new().unwrap();
        let error = read_images(&put(folder.path(), "file", damaged)).unwrap_err();
        assert!(matches!(error, DataError::Gzip { .. }), "{error:?}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let error = read_images(folder.path()).unwrap_err();
    let name = folder.path().display();
    assert_eq!(error.to_string(), format!("{name}: is not a regular file"));
    let error = read_labels(&folder.path().join("absent")).unwrap_err();
    assert_eq!(error.to_string(), format!("{name}/absent: cannot be read"));
    assert!(matches!(error, DataError::Io { .. }));
}
