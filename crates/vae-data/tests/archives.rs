//! Zips, lists and idx folders as they are found in practice; the tests create them.

mod common;

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use common::{gzip, image_file, label_file, put};
use image::{DynamicImage, ImageFormat, RgbImage};
use tempfile::TempDir;
use vae_data::{DataError, Dataset, DatasetConfig, ImageShape, Inputs, Splits};
use zip::CompressionMethod::{Deflated, Stored};
use zip::write::SimpleFileOptions;

const SHAPE: ImageShape = ImageShape {
    channels: 3,
    height: 8,
    width: 8,
};

/// A photo of one color.
fn photo(red: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(8, 8, image::Rgb([red, 100, 50]));
    let image = DynamicImage::from(image);
    image
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("encoded");
    bytes.into_inner()
}

/// A zip of these members, alternately stored and deflated.
fn zip_of<'a>(members: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (i, (name, content)) in members.into_iter().enumerate() {
        let options = SimpleFileOptions::default()
            .compression_method([Stored, Deflated][i % 2])
            // Some with fields of zip64.
            .large_file(i % 3 == 0);
        zip.start_file(name, options).expect("started");
        zip.write_all(&content).expect("written");
    }
    zip.finish().expect("finished").into_inner()
}

/// Where the headers of the zip's directory begin.
fn listed(zip: &[u8]) -> Vec<usize> {
    let windows = zip.windows(4).enumerate();
    windows
        .filter(|(_, bytes)| bytes == b"PK\x01\x02")
        .map(|(at, _)| at)
        .collect()
}

/// Replaces every occurrence of `old`.
fn replace(zip: &mut [u8], old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len());
    let mut n_found = 0;
    for at in 0..zip.len() - old.len() {
        if &zip[at..][..old.len()] == old {
            zip[at..][..old.len()].copy_from_slice(new);
            n_found += 1;
        }
    }
    assert!(n_found > 0);
}

fn config(path: &Path, more: &str) -> DatasetConfig {
    let path = path.display();
    let text = format!("[image_folder]\npath = '{path}'\nimage_size = 8\npack = false\n{more}");
    toml::from_str(&text).expect("a config")
}

fn load(path: &Path, more: &str) -> Splits {
    config(path, more).load().expect("a data set")
}

fn names(dataset: &Dataset) -> Vec<&str> {
    (0..dataset.len())
        .map(|i| dataset.file_name(i).expect("a name"))
        .collect()
}

/// The names of the images that `vae encode PATH` reads.
fn inputs(path: &Path) -> Result<Vec<String>, DataError> {
    let inputs = Inputs::open(&config(path, ""), SHAPE, &[path.to_owned()], None)?;
    Ok(inputs.read(1000)?.names)
}

/// All images of the data set, by name.
fn all_names(splits: &Splits) -> Vec<&str> {
    let validation = splits.validation.as_ref();
    let parts = [Some(&splits.train), validation, Some(&splits.test)];
    let mut all: Vec<&str> = parts.into_iter().flatten().flat_map(names).collect();
    all.sort_unstable();
    all
}

#[test]
fn names_in_zips_are_those_of_lists() {
    let folder = TempDir::new().expect("a folder");
    let zip = zip_of([
        ("./a.png", photo(1)),
        ("img\\b.png", photo(2)),
        ("/img//c.png", photo(3)),
        (".\\.hidden\\d.png", photo(4)),
        ("img\\", Vec::new()),
    ]);
    let path = put(folder.path(), "photos.zip", &zip);
    put(
        folder.path(),
        "list_eval_partition.txt",
        b"a.png 0\nb.png 2\nc.png 1\n",
    );
    let splits = load(&path, "");
    assert_eq!(names(&splits.train), ["a.png"]);
    assert_eq!(names(&splits.test), ["img/b.png"]);
    assert_eq!(all_names(&splits), ["a.png", "img/b.png", "img/c.png"]);
    assert_eq!(
        inputs(&path).expect("images"),
        ["a.png", "img/b.png", "img/c.png"]
    );
}

#[test]
fn the_last_of_several_members_of_one_name_is_used() {
    let folder = TempDir::new().expect("a folder");
    let mut zip = zip_of([
        ("a1.png", photo(1)),
        ("b.png", photo(2)),
        ("a2.png", photo(3)),
        ("./b.png", photo(4)),
        ("c.png", photo(5)),
    ]);
    replace(&mut zip, b"a1.png", b"a2.png");
    let path = put(folder.path(), "photos.zip", &zip);
    let inputs = Inputs::open(&config(&path, ""), SHAPE, &[path], None).expect("inputs");
    let batch = inputs.read(10).expect("images");
    assert_eq!(batch.names, ["a2.png", "b.png", "c.png"]);
    let reds = batch.items.select(1, 0).select(1, 0).select(1, 0);
    assert_eq!(Vec::<u8>::try_from(reds).expect("bytes"), [3, 4, 5]);
}

#[test]
fn names_that_are_not_utf8_are_of_code_page_437() {
    let folder = TempDir::new().expect("a folder");
    let mut zip = zip_of([
        ("_x_.png", photo(1)),
        ("b.png", photo(2)),
        ("c.png", photo(3)),
    ]);
    replace(&mut zip, b"_x_.png", b"_\x84_.png");
    let path = put(folder.path(), "photos.zip", &zip);
    // As macOS spells it: a and a combining diaeresis.
    put(
        folder.path(),
        "list_eval_partition.txt",
        "_a\u{308}_.png 2\nb.png 0\nc.png 1".as_bytes(),
    );
    assert_eq!(names(&load(&path, "").test), ["_\u{e4}_.png"]);
}

#[test]
fn other_archives_are_named_by_their_format() {
    let folder = TempDir::new().expect("a folder");
    let mut tar = vec![0; 1024];
    tar[..5].copy_from_slice(b"a.jpg");
    tar[257..262].copy_from_slice(b"ustar");
    let again = "(interrupted download? fetch it again)";
    let unpack = "(unpack it, and give the folder)";
    for (content, reason) in [
        (
            b"\xef\xbb\xbf\n<!DOCTYPE html><html>".to_vec(),
            "it is a web page, saved in place of the file? (fetch the file itself)".to_owned(),
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid 1".to_vec(),
            "it is a text file that begins \"version https://git-lfs.github.com/spec/v1\" (fetch the file \
             itself)"
                .to_owned(),
        ),
        (b"Rar!\x1a\x07\x01\0".to_vec(), format!("it is a RAR archive {unpack}")),
        (b"7z\xbc\xaf\x27\x1c\0\x04".to_vec(), format!("it is a 7z archive {unpack}")),
        (gzip(b"1"), format!("it is a gzip file {unpack}")),
        (tar, format!("it is a tar archive {unpack}")),
        (Vec::new(), format!("it is empty {again}")),
        (photo(1), "it is an image (give the folder that it is in)".to_owned()),
    ] {
        let path = put(folder.path(), "photos.ZIP", &content);
        let wanted = format!(
            "{}: is neither a folder nor a zip that can be read: {reason}",
            path.display()
        );
        assert_eq!(config(&path, "").load().unwrap_err().to_string(), wanted);
        assert_eq!(inputs(&path).unwrap_err().to_string(), wanted);
    }
    let zip = zip_of([("a.png", photo(1))]);
    let path = put(folder.path(), "cut.zip", &zip[..zip.len() - 30]);
    for error in [
        config(&path, "").load().unwrap_err(),
        inputs(&path).unwrap_err(),
    ] {
        assert!(error.to_string().ends_with(again), "{error}");
    }
    // Without a zip's extension an archive is still distinguished from an image.
    let path = put(folder.path(), "photos", b"Rar!\x1a\x07\x01\0");
    let error = inputs(&path).unwrap_err().to_string();
    assert!(
        error.ends_with("is a RAR archive: unpack it, and give the folder"),
        "{error}"
    );
}

#[test]
fn a_zip_within_a_zip_is_named() {
    let folder = TempDir::new().expect("a folder");
    let inner = || zip_of([("a.png", photo(1))]);
    let outer = zip_of([("x/inner.zip", inner()), ("readme.txt", b"hello".to_vec())]);
    let path = put(folder.path(), "outer.zip", &outer);
    let wanted =
        "it holds no image, but x/inner.zip in it is a zip (unpack it, and give its content)";
    for error in [
        config(&path, "").load().unwrap_err(),
        inputs(&path).unwrap_err(),
    ] {
        assert!(error.to_string().ends_with(wanted), "{error}");
    }
    // Next to images it is ignored.
    let outer = zip_of([
        ("inner.zip", inner()),
        ("b.png", photo(2)),
        ("c.png", photo(2)),
    ]);
    fs::write(&path, outer).expect("written");
    assert_eq!(inputs(&path).expect("images"), ["b.png", "c.png"]);
}

#[test]
fn a_program_that_unpacks_itself_is_a_zip_for_every_command() {
    let folder = TempDir::new().expect("a folder");
    let members = ["0.png", "1.png", "2.png", "3.png"];
    let zip = zip_of(
        members
            .iter()
            .map(|&name| (name, photo(name.as_bytes()[0]))),
    );
    for program in [&b"MZ a program of some bytes"[..], b"#!/bin/sh\nexit\n"] {
        // Offsets count from the start of the zip; in other programs they count from the start of the file.
        let path = put(folder.path(), "photos.exe", &[program, &zip].concat());
        assert_eq!(inputs(&path).expect("images"), members);
        let splits = load(&path, "split.test_fraction = 0.5");
        assert_eq!(all_names(&splits), members);
    }
}

#[test]
fn members_that_cannot_be_read_say_why() {
    let folder = TempDir::new().expect("a folder");
    let mut zip = zip_of([
        ("lzma.png", photo(1)),
        ("lies.png", photo(2)),
        ("lzma.txt", b"text".to_vec()),
        ("good.png", photo(3)),
    ]);
    let headers = listed(&zip);
    // The method is at byte 10 of a directory header, the size at byte 24.
    zip[headers[0] + 10] = 14;
    zip[headers[2] + 10] = 14;
    zip[headers[1] + 24..][..4].copy_from_slice(&700_000_000_u32.to_le_bytes());
    let path = put(folder.path(), "photos.zip", &zip);
    let error = config(&path, "").load().unwrap_err();
    let DataError::TooManyBad { first, n_files, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(n_files, 3);
    assert_eq!(
        first,
        [
            "lies.png is corrupt in the zip: 700000000 bytes, which its compressed bytes cannot hold",
            "lzma.png is compressed by Lzma, expected stored or deflated (unpack the zip)",
        ]
    );
}

#[test]
fn members_that_share_bytes_are_one_image() {
    let folder = TempDir::new().expect("a folder");
    let n = 100;
    let file_names: Vec<String> = (0..n).map(|i| format!("{i:03}.png")).collect();
    let members = file_names.iter().map(|name| (name.as_str(), photo(9)));
    let mut zip = zip_of(members);
    let headers = listed(&zip);
    // Byte 42 of a directory header holds the member's position: all get that of number 6.
    let place: [u8; 4] = zip[headers[6] + 42..][..4].try_into().expect("four bytes");
    for header in headers {
        zip[header + 42..][..4].copy_from_slice(&place);
    }
    let path = put(folder.path(), "photos.zip", &zip);
    assert_eq!(inputs(&path).expect("images"), ["000.png"]);
    let error = config(&path, "").load().unwrap_err();
    let DataError::TooManyBad { n_bad, first, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(n_bad, n - 1);
    assert_eq!(
        first[0],
        "001.png shares bytes of the zip with 000.png (a damaged zip, or a zip bomb)"
    );
}

/// A folder with a zip and a folder of the 4 images `a.png` to `d.png`, and a list of two of them in Kaggle's layout.
fn kaggle() -> (TempDir, Vec<(&'static str, Vec<u8>)>) {
    let images = ["a.png", "b.png", "c.png", "d.png"].map(|name| (name, photo(name.as_bytes()[0])));
    (TempDir::new().expect("a folder"), images.to_vec())
}

const KAGGLES_LIST: &[u8] = b"image_id,partition\na.png,0\nb.png,1\nc.png,2\n";
const KAGGLES_ATTRIBUTES: &[u8] = b"image_id,Smiling\na.png,-1\nb.png,1\nc.png,1\n";

fn check_kaggle(path: &Path, list: &Path, attributes: &Path) {
    let splits = load(path, "");
    let found = [
        &splits.train,
        splits.validation.as_ref().expect("a split"),
        &splits.test,
    ]
    .map(|split| names(split).concat());
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    assert_eq!(found.map(|name| last(&name)), ["a.png", "b.png", "c.png"]);
    assert_eq!(splits.report.n_unlisted, 1);
    let real = |path: &Path| fs::canonicalize(path).unwrap_or(path.to_owned());
    assert_eq!(
        splits.report.partition_file.as_deref().map(real),
        Some(real(list))
    );
    assert_eq!(
        splits.report.attributes_file.as_deref().map(real),
        Some(real(attributes))
    );
    let smiling = splits
        .train
        .attributes()
        .expect("attributes")
        .column("Smiling");
    assert_eq!(smiling.expect("a column").collect::<Vec<_>>(), [Some(-1.0)]);
    // The run's own table belongs to its images, wherever the table was found.
    let own = Inputs::open(&config(path, ""), SHAPE, &[path.to_owned()], None).expect("inputs");
    assert_eq!(own.attribute_names(), ["Smiling"]);
}

#[test]
fn celebas_lists_are_found_where_kaggle_and_the_publishers_put_them() {
    let (folder, images) = kaggle();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, content: &[u8]| -> PathBuf {
        let path = at(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(&path, content).expect("written");
        path
    };
    for doubled in [
        "k/img_align_celeba/img_align_celeba",
        "l/Img/img_align_celeba",
    ] {
        for (name, content) in &images {
            write(&format!("{doubled}/{name}"), content);
        }
    }
    let list = write("k/list_eval_partition.csv", KAGGLES_LIST);
    let attributes = write("k/list_attr_celeba.csv", KAGGLES_ATTRIBUTES);
    for path in [
        "k",
        "k/img_align_celeba",
        "k/img_align_celeba/img_align_celeba",
    ] {
        check_kaggle(&at(path), &list, &attributes);
    }
    let list = write(
        "l/Eval/list_eval_partition.txt",
        b"a.png 0\nb.png 1\nc.png 2\n",
    );
    let attributes = write(
        "l/Anno/list_attr_celeba.txt",
        b"3\nSmiling\na.png -1\nb.png 1\nc.png 1\n",
    );
    check_kaggle(&at("l/Img/img_align_celeba"), &list, &attributes);

    let mut members = vec![
        ("list_eval_partition.csv", KAGGLES_LIST.to_vec()),
        ("x/list_attr_celeba.csv", KAGGLES_ATTRIBUTES.to_vec()),
    ];
    members.extend(images);
    let zip = write("z/archive.zip", &zip_of(members));
    check_kaggle(
        &zip,
        &zip.join("list_eval_partition.csv"),
        &zip.join("x/list_attr_celeba.csv"),
    );
}

#[test]
fn a_list_of_other_images_is_refused_with_both_names() {
    let (folder, images) = kaggle();
    let path = put(folder.path(), "photos.zip", &zip_of(images));
    let list = put(folder.path(), "list.txt", b"000001.jpg 0\n000002.jpg 2\n");
    let error = config(&path, &format!("partition = '{}'", list.display()))
        .load()
        .unwrap_err()
        .to_string();
    let wanted = format!(
        "{}: has none of the 4 images (it has \"000001.jpg\", the first image is \"a.png\"; a list of \
         other images?)",
        list.display()
    );
    assert_eq!(error, wanted);
    let table = put(folder.path(), "table.csv", b"file,x\n000001.jpg,1\n");
    let more = format!(
        "attributes = '{}'\nsplit.test_fraction = 0.5",
        table.display()
    );
    for error in [
        config(&path, &more).load().unwrap_err(),
        Inputs::open(
            &config(&path, ""),
            SHAPE,
            std::slice::from_ref(&path),
            Some(&table),
        )
        .unwrap_err(),
    ] {
        assert_eq!(error.to_string(), wanted.replace("list.txt", "table.csv"));
    }
    for (list, problem) in [
        (folder.path().to_owned(), "is not a regular file"),
        (path.join("nowhere.txt"), "is not in the zip"),
    ] {
        let more = format!("partition = '{}'", list.display());
        let error = config(&path, &more).load().unwrap_err().to_string();
        assert!(error.ends_with(problem), "{error}");
    }
}

const DIGITS: ImageShape = ImageShape {
    channels: 1,
    height: 2,
    width: 3,
};

/// MNIST's four files, with 6 and 4 images.
fn mnist() -> [(&'static str, Vec<u8>); 4] {
    let labels = |n: u8| label_file(&(0..n).collect::<Vec<u8>>());
    let images = |n: u8| {
        let pixels: Vec<u8> = (0..6 * n).collect();
        image_file(n.into(), 2, 3, &pixels)
    };
    [
        ("train-images-idx3-ubyte", images(6)),
        ("train-labels-idx1-ubyte", labels(6)),
        ("t10k-images-idx3-ubyte", images(4)),
        ("t10k-labels-idx1-ubyte", labels(4)),
    ]
}

fn idx_config(folder: &Path) -> DatasetConfig {
    let text = format!("[idx]\nfolder = '{}'", folder.display());
    toml::from_str(&text).expect("a config")
}

#[test]
fn mnist_is_found_however_kaggle_unpacks_it() {
    type Place = fn(&str) -> String;
    let plain: Place = str::to_owned;
    let dotted: Place = |name| name.replace("-idx", ".idx");
    let doubled: Place = |name| format!("{name}/{name}");
    let mixed: Place = |name| format!("{name}/{}", name.replace("-idx", ".idx"));
    let compressed: Place = |name| format!("{0}/{0}.gz", name.replace("-idx", ".idx"));
    for places in [
        [doubled; 4],
        [mixed; 4],
        [compressed; 4],
        [doubled, plain, dotted, compressed],
        [dotted, doubled, mixed, doubled],
    ] {
        let folder = TempDir::new().expect("a folder");
        for ((name, content), place) in mnist().into_iter().zip(places) {
            let path = folder.path().join(place(name));
            fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            let content = match path.extension() {
                Some(ending) if ending == "gz" => gzip(&content),
                _ => content,
            };
            fs::write(path, content).expect("written");
            // An empty folder with the other spelling, as after an interrupted unpacking.
            fs::create_dir_all(folder.path().join(format!("{name}.gz"))).expect("created");
        }
        let config = idx_config(folder.path());
        let splits = config.load().expect("a data set");
        assert_eq!(splits.test.len(), 4);
        let labels = splits.test.labels().expect("labels");
        assert_eq!(Vec::<i64>::try_from(labels).expect("numbers"), [0, 1, 2, 3]);
        let inputs = Inputs::open(&config, DIGITS, &[folder.path().to_owned()], None);
        let batch = inputs.expect("inputs").read(100).expect("images");
        let labels: Vec<_> = batch.labels.into_iter().flatten().collect();
        assert_eq!(labels, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]);
    }
}

#[test]
fn labels_of_other_images_are_told_before_the_images_are_read() {
    // With a limit, the end of a gzip stream is not even read.
    let cut = |name: &str, content: Vec<u8>| match name.contains("images") {
        true => {
            let content = gzip(&content);
            content[..content.len() - 10].to_vec()
        }
        false => content,
    };
    for wrong in ["train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"] {
        let folder = TempDir::new().expect("a folder");
        for (name, content) in mnist() {
            let content = match name == wrong {
                true => label_file(&[1; 5]),
                false => cut(name, content),
            };
            put(folder.path(), name, &content);
        }
        let config = idx_config(folder.path());
        let images = folder
            .path()
            .join(wrong.replace("labels-idx1", "images-idx3"));
        for error in [
            config.load().unwrap_err(),
            Inputs::open(&config, DIGITS, &[images], None).unwrap_err(),
        ] {
            assert!(
                matches!(error, DataError::LabelCount { n_labels: 5, .. }),
                "{error}"
            );
        }
    }
}
