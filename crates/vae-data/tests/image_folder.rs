//! Folders and zips of photos, from files to batches; the tests create the photos.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use flate2::Crc;
use image::{DynamicImage, ImageFormat, RgbImage};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use vae_data::image_folder::{ImageFolder, PackProblem};
use vae_data::loader::{Batches, shuffled_order};
use vae_data::{DataError, Dataset, DatasetConfig, HoldOut, Splits};
use zip::write::SimpleFileOptions;

const SIDE: i64 = 16;

/// A temporary folder with `photos/`, next to which packs are written.
struct Workplace {
    folder: TempDir,
}

impl Workplace {
    fn new(n_photos: usize) -> Workplace {
        let folder = TempDir::new().expect("a temporary folder");
        let workplace = Workplace { folder };
        fs::create_dir(workplace.photos()).expect("created");
        for i in 0..n_photos {
            workplace.put(&photo_name(i), &jpeg(&photo(i)));
        }
        workplace
    }

    fn photos(&self) -> PathBuf {
        self.folder.path().join("photos")
    }

    fn put(&self, name: &str, content: &[u8]) {
        let path = self.photos().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, content).expect("written");
    }

    /// A config of `photos/` with additional lines.
    fn config(&self, more: &str) -> DatasetConfig {
        config(&self.photos(), more)
    }

    fn load(&self, more: &str) -> Splits {
        self.config(more).load().expect("a data set")
    }

    /// The files next to `photos/`.
    fn beside(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.is_file()).collect()
    }
}

fn config(path: &Path, more: &str) -> DatasetConfig {
    let path = path.display();
    let text = format!("[image_folder]\npath = '{path}'\nimage_size = {SIDE}\n{more}");
    toml::from_str(&text).expect("a config")
}

fn open(config: &DatasetConfig) -> ImageFolder {
    let table = config.image_folder.as_ref().expect("a folder");
    ImageFolder::open(table).expect("a listing")
}

fn photo_name(i: usize) -> String {
    format!("{}/{i:03}.jpg", i % 3)
}

/// Brighter to the right; each photo has its own color and size.
fn photo(i: usize) -> RgbImage {
    let size = 20 + i as u32 % 7;
    RgbImage::from_fn(size + 4, size, |x, _| {
        image::Rgb([(i * 37 % 200) as u8, (i * 11 % 150) as u8, 5 + 7 * x as u8])
    })
}

fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = DynamicImage::from(image.clone());
    image.write_to(&mut bytes, format).expect("encoded");
    bytes.into_inner()
}

fn jpeg(image: &RgbImage) -> Vec<u8> {
    encoded(image, ImageFormat::Jpeg)
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/photos");
    fs::read(folder.join(name)).expect("a fixture")
}

/// A valid PNG of `side`² white pixels of one bit.
fn white_png(side: u32) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        let content = [kind, data].concat();
        let mut crc = Crc::new();
        crc.update(&content);
        file.extend((data.len() as u32).to_be_bytes());
        file.extend(content);
        file.extend(crc.sum().to_be_bytes());
    };
    let [a, b, c, d] = side.to_be_bytes();
    chunk(b"IHDR", &[a, b, c, d, a, b, c, d, 1, 0, 0, 0, 0]);
    let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut row = vec![0xff; 1 + side.div_ceil(8) as usize];
    row[0] = 0; // No filter.
    for _ in 0..side {
        deflated.write_all(&row).expect("a Vec takes every byte");
    }
    chunk(b"IDAT", &deflated.finish().expect("a Vec takes every byte"));
    chunk(b"IEND", b"");
    file
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path],
        })
        .collect()
}

fn bytes(images: Tensor) -> Vec<u8> {
    Vec::try_from(images.flatten(0, -1)).expect("bytes")
}

fn file_names(dataset: &Dataset) -> Vec<&str> {
    (0..dataset.len())
        .map(|i| dataset.file_name(i).expect("a name"))
        .collect()
}

fn all(dataset: &Dataset) -> Vec<u8> {
    bytes(dataset.first(dataset.len()).expect("images"))
}

fn passes(batches: Batches) -> Vec<Vec<u8>> {
    batches
        .map(|batch| bytes(batch.expect("a batch").items))
        .collect()
}

/// Every image of all splits, ordered by name.
fn all_images(config: &DatasetConfig) -> (Vec<String>, Vec<u8>) {
    let (dataset, _) = open(config).images().expect("images");
    let names = file_names(&dataset)
        .into_iter()
        .map(str::to_owned)
        .collect();
    (names, all(&dataset))
}

#[test]
fn exactly_the_bad_files_are_reported() {
    let workplace = Workplace::new(200);
    let good = jpeg(&photo(3));
    workplace.put("empty.jpg", b"");
    workplace.put("truncated.jpg", &good[..good.len() * 2 / 3]);
    workplace.put("without its end.jpg", &good[..good.len() - 2]);
    workplace.put("text.jpg", b"this is no photo\n");
    workplace.put("png.jpg", &encoded(&photo(4), ImageFormat::Png));
    workplace.put("cmyk.jpg", &fixture("cmyk.jpg"));
    workplace.put("one pixel.png", &white_png(1));
    workplace.put("bomb.png", &white_png(20_000));
    workplace.put("rotated.jpg", &fixture("exif-rotated.jpg"));
    workplace.put("no extension", &good);
    workplace.put("notes.txt", b"not meant to be an image");
    workplace.put(".hidden.jpg", b"");
    let mut wanted = vec![
        (
            "bomb.png",
            "has 20000×20000 pixels, expected at most 100000000 in all (max_pixels)",
        ),
        ("empty.jpg", "is empty"),
        (
            "one pixel.png",
            "is too small: 1×1 pixels after the crop would be enlarged more than 4 times to 16×16",
        ),
        ("text.jpg", "is not a readable JPEG, PNG, WebP or BMP"),
        ("truncated.jpg", "is a JPEG cut short: it has no end marker"),
        (
            "without its end.jpg",
            "is a JPEG cut short: it has no end marker",
        ),
    ];
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(b"caf\xe9.jpg");
        fs::write(workplace.photos().join(name), &good).expect("written");
        fs::create_dir(workplace.photos().join("loop")).expect("created");
        std::os::unix::fs::symlink("..", workplace.photos().join("loop/back")).expect("linked");
        wanted.insert(1, ("caf\u{fffd}.jpg", "its name is not UTF-8"));
    }

    for more in [
        "max_bad_fraction = 0.05",
        "max_bad_fraction = 0.05\npack = false",
    ] {
        let config = workplace.config(more);
        // The second time from the pack, which stores the bad files.
        for _ in 0..2 {
            let (dataset, bad) = open(&config).images().expect("images");
            assert_eq!(dataset.len(), 204, "200 and the four other good ones");
            let found: Vec<_> = bad.files().iter().collect();
            let (links, found): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|file| file.name == "loop/back");
            let found: Vec<_> = found
                .iter()
                .map(|file| (file.name.as_str(), file.reason.as_str()))
                .collect();
            assert_eq!(found, wanted);
            if cfg!(target_os = "linux") {
                assert!(
                    links[0].reason.starts_with("is a link back to "),
                    "{links:?}"
                );
                assert_eq!(bad.to_text().lines().count(), wanted.len() + 1);
            }
            let splits = config.load().expect("a data set");
            assert_eq!(splits.report.bad_files, bad);
            let validation = splits.validation.expect("a validation split");
            let n_held_out = validation.len() + splits.test.len();
            assert_eq!(splits.train.len() + n_held_out, 204);
        }
    }

    let error = workplace.config("").load().unwrap_err();
    assert!(
        matches!(error, DataError::TooManyBad { n_files: 208.., .. }),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("expected at most a share of 0.01"),
        "{message}"
    );
    assert!(
        message.contains("bomb.png has 20000×20000 pixels"),
        "{message}"
    );
}

/// The beginning of a HEIC file, without content.
const HEIC: &[u8] = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";

#[test]
fn small_files_of_a_folder_are_counted() {
    let workplace = Workplace::new(40); // Photos of 20×24 to 26×30 pixels, made to 16×16.
    let enlarged = |more: &str| workplace.load(more).report.enlarged;
    let found = enlarged("pack = false");
    assert_eq!((found.n_seen, found.n_enlarged), (40, 0));
    // A photo of n pixels is cropped to ⌊0.7·n + ½⌋: 14 to 18.
    let found = enlarged("pack = false\ncrop_fraction = 0.7");
    let n_small = (0..40)
        .filter(|i| (7 * (20 + i % 7) + 5) / 10 < SIDE)
        .count();
    assert_eq!((found.n_seen, found.n_enlarged), (40, n_small));
    workplace.put("broken.jpg", b"\xff\xd8\xff");
    let found = enlarged("pack = false\nmax_bad_fraction = 0.5");
    assert_eq!((found.n_seen, found.n_enlarged), (40, 0));
}

#[test]
fn images_in_formats_that_are_not_read_are_counted_and_named() {
    let workplace = Workplace::new(40);
    workplace.put("IMG_0.HEIC", HEIC);
    workplace.put("1/IMG_1.heic", HEIC);
    workplace.put("no extension", HEIC);
    workplace.put("scan.tif", b"II*\0\x08\0\0\0");
    workplace.put("notes.txt", b"not meant to be an image");
    // With the name of a supported image it is a bad file.
    workplace.put("renamed.jpg", HEIC);
    let splits = workplace.load("max_bad_fraction = 0.05");
    let n_validation = splits.validation.as_ref().map_or(0, Dataset::len);
    assert_eq!(splits.train.len() + n_validation + splits.test.len(), 40);
    let counts: Vec<_> = splits.report.unread_files.counts().collect();
    assert_eq!(counts, [("HEIC", 3), ("TIFF", 1)]);
    let bad = splits.report.bad_files.to_text();
    let reason = "is in the format HEIC, which is not read: convert it to JPEG or PNG";
    assert_eq!(bad, format!("renamed.jpg\t{reason}\n"));

    let workplace = Workplace::new(0);
    workplace.put("IMG_0.HEIC", HEIC);
    let error = workplace.config("").load().unwrap_err().to_string();
    let wanted =
        "holds no JPEG, PNG, WebP or BMP; 1 HEIC file is not read: convert it to JPEG or PNG";
    assert!(error.contains(wanted), "{error}");
}

#[test]
fn pictures_of_runs_and_systems_are_never_data() {
    let workplace = Workplace::new(12);
    let picture = jpeg(&photo(0));
    for folder in [
        "runs/tiny/pictures",
        "@eaDir",
        "1/$Recycle.Bin/S-1-5",
        "System Volume Information",
        "__MACOSX",
        ".thumbnails",
        "lost+found",
    ] {
        workplace.put(&format!("{folder}/picture.jpg"), &picture);
    }
    workplace.put("runs/tiny/config.toml", b"seed = 0");
    workplace.put("runs/tiny/metrics.jsonl", b"");
    workplace.put("runs/tiny/curves.png", &picture);
    // Another program's folder with a file of that name is not a run.
    workplace.put("camera/config.toml", b"");
    workplace.put("camera/1.jpg", &picture);
    // A pack in the folder, for another config whose folder is inside this one.
    let inner = config(&workplace.photos().join("0"), "");
    assert_eq!(all_images(&inner).0.len(), 4);
    assert!(open(&inner).pack_file().starts_with(workplace.photos()));

    let (names, _) = all_images(&workplace.config(""));
    assert_eq!(names.len(), 13, "{names:?}");
    assert!(names.contains(&"camera/1.jpg".to_owned()));

    let path = workplace.folder.path().join("photos.zip");
    let mut zip = zip::ZipWriter::new(File::create(&path).expect("created"));
    workplace.put("IMG_0.HEIC", HEIC);
    for file in files_below(&workplace.photos()) {
        let name = file.strip_prefix(workplace.photos()).expect("below");
        zip.start_file_from_path(name, SimpleFileOptions::default())
            .expect("started");
        zip.write_all(&fs::read(&file).expect("read"))
            .expect("written");
    }
    zip.finish().expect("finished");
    let zipped = config(&path, "");
    assert_eq!(all_images(&zipped).0, names);
    let unread = zipped.load().expect("a data set").report.unread_files;
    assert_eq!(unread.counts().collect::<Vec<_>>(), [("HEIC", 1)]);
}

#[test]
#[cfg(target_os = "linux")]
fn pipes_devices_and_the_running_system_are_no_photos() {
    use std::os::unix::fs::symlink;

    let workplace = Workplace::new(100);
    let photos = workplace.photos();
    let pipe = |path: &Path| {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.expect("mkfifo").success());
    };
    pipe(&photos.join("pipe.jpg"));
    pipe(&photos.join("pipe"));
    symlink("/dev/zero", photos.join("endless.png")).expect("linked");
    symlink("/dev/zero", photos.join("endless")).expect("linked");
    symlink("/proc", photos.join("system")).expect("linked");
    symlink("/proc/kmsg", photos.join("log.jpg")).expect("linked");
    // Where the pack would be.
    let config = workplace.config("max_bad_fraction = 0.05");
    pipe(&open(&config).pack_file());

    let (dataset, bad) = open(&config).images().expect("images");
    assert_eq!(dataset.len(), 100);
    assert_eq!(
        bad.to_text(),
        "endless.png\tis not a regular file\n\
         log.jpg\tbelongs to the running system\n\
         pipe.jpg\tis not a regular file\n\
         system\tbelongs to the running system\n"
    );
    // The pack replaced the pipe.
    assert_eq!(open(&config).check_pack(), Ok(()));

    let zip = workplace.folder.path().join("photos.zip");
    pipe(&zip);
    let error = self::config(&zip, "").load().unwrap_err().to_string();
    assert!(error.contains("photos.zip"), "{error}");
}

#[test]
fn a_zip_is_read_in_place_and_gives_what_its_folder_gives() {
    let workplace = Workplace::new(12);
    let path = workplace.folder.path().join("photos.zip");
    let mut zip = zip::ZipWriter::new(File::create(&path).expect("created"));
    let good = jpeg(&photo(0));
    for i in 0..12 {
        let method = [
            zip::CompressionMethod::Stored,
            zip::CompressionMethod::Deflated,
        ][i % 2];
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(photo_name(i), options).expect("started");
        zip.write_all(&jpeg(&photo(i))).expect("written");
    }
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for name in [
        "list.txt",
        "../outside.jpg",
        "secret.jpg",
        "corrupt.jpg",
        "__MACOSX/x.jpg",
    ] {
        zip.start_file(name, options).expect("started");
        zip.write_all(&good).expect("written");
    }
    zip.finish().expect("finished");
    // `list.txt` begins like an image and therefore counts as one.
    let mut archive = fs::read(&path).expect("bytes");
    let find = |archive: &[u8], what: &[u8]| -> Vec<usize> {
        let windows = archive.windows(what.len()).enumerate();
        windows
            .filter(|(_, bytes)| *bytes == what)
            .map(|(at, _)| at)
            .collect()
    };
    // The name is at byte 30 of the local header and byte 46 of the central one; the first flag, encryption, at bytes
    // 6 and 8.
    let [local, central] = find(&archive, b"secret.jpg")[..] else {
        panic!("two headers")
    };
    archive[local - 30 + 6] |= 1;
    archive[central - 46 + 8] |= 1;
    let corrupt = find(&archive, b"corrupt.jpg")[0];
    archive[corrupt + 100] ^= 0x55;
    fs::write(&path, archive).expect("written");

    let zipped = config(&path, "max_bad_fraction = 0.5");
    let (dataset, bad) = open(&zipped).images().expect("images");
    let bad: Vec<_> = bad
        .files()
        .iter()
        .map(|f| (f.name.as_str(), f.reason.as_str()))
        .collect();
    assert_eq!(
        bad[0],
        ("../outside.jpg", "its path leaves the archive: refused")
    );
    assert!(
        bad[1].1.starts_with("is corrupt in the zip: CRC-32"),
        "{bad:?}"
    );
    assert_eq!(bad[2], ("secret.jpg", "is encrypted"));
    assert_eq!(bad.len(), 3);
    assert_eq!(dataset.len(), 13);
    let in_folder = all_images(&workplace.config(""));
    let without_list = dataset.subset(&(0..12).collect::<Vec<_>>());
    assert_eq!((file_names(&without_list), all(&without_list)), {
        (
            in_folder.0.iter().map(String::as_str).collect(),
            in_folder.1.clone(),
        )
    });
    assert_eq!(dataset.file_name(12), Some("list.txt"));
    let unpacked = config(&path, "max_bad_fraction = 0.5\npack = false");
    assert_eq!(all_images(&unpacked).1, all(&dataset));

    fs::write(&path, b"PK\x03\x04 cut short").expect("written");
    let error = zipped.load().unwrap_err().to_string();
    assert!(error.contains("is neither a folder nor a zip"), "{error}");
}

#[test]
fn every_kind_of_file_shows_the_same_scene() {
    let workplace = Workplace::new(0);
    let upright = image::load_from_memory(&fixture("upright.png")).expect("a picture");
    let rgb = upright.to_rgb8();
    workplace.put("bmp", &encoded(&rgb, ImageFormat::Bmp));
    workplace.put("cmyk.jpg", &fixture("cmyk.jpg"));
    workplace.put("png.png", &fixture("upright.png"));
    workplace.put("rotated.jpg", &fixture("exif-rotated.jpg"));
    workplace.put("webp.webp", &encoded(&rgb, ImageFormat::WebP));
    let gray = Workplace::new(0);
    gray.put("color.png", &fixture("upright.png"));
    gray.put("progressive.jpg", &fixture("progressive-gray.jpg"));
    let size = "split.test_fraction = 0.5\n";
    for (workplace, more) in [(&workplace, ""), (&gray, "grayscale = true\n")] {
        let mut config = workplace.config(&format!("{more}{size}"));
        let table = config.image_folder.as_mut().expect("a folder");
        table.image_size.width = 24; // 32×48 halved.
        let (dataset, bad) = open(&config).images().expect("images");
        assert!(bad.is_empty(), "{bad:?}");
        let first = bytes(dataset.select(&[0]).expect("an image"));
        for i in 1..dataset.len() {
            let other = bytes(dataset.select(&[i]).expect("an image"));
            let largest = first.iter().zip(&other).map(|(a, b)| a.abs_diff(*b)).max();
            // JPEG loses detail at the edges of the blue corner.
            assert!(
                largest < Some(12),
                "{:?}: {largest:?}",
                dataset.file_name(i)
            );
        }
    }
}

#[test]
fn resizing_is_pillows_antialiased_bilinear() {
    let workplace = Workplace::new(0);
    workplace.put("detailed.png", &fixture("detailed.png"));
    for side in [20, 64, 100] {
        let wanted = fixture(&format!("detailed-{side}.png"));
        let wanted = image::load_from_memory(&wanted)
            .expect("a picture")
            .to_rgb8();
        let config = format!("crop_fraction = {}", 148.0 / 178.0);
        let mut config = workplace.config(&config);
        let table = config.image_folder.as_mut().expect("a folder");
        (table.image_size.height, table.image_size.width) = (side, side);
        let (dataset, _) = open(&config).images().expect("images");
        let found = dataset
            .first(1)
            .expect("an image")
            .permute([0, 2, 3, 1])
            .contiguous();
        let largest = bytes(found)
            .iter()
            .zip(wanted.as_raw())
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(largest <= Some(1), "side {side}: {largest:?}");
    }
}

#[test]
fn a_pack_is_written_once_and_anew_where_it_no_longer_holds() {
    let workplace = Workplace::new(9);
    let config = workplace.config("");
    let folder = open(&config);
    let pack = folder.pack_file();
    assert_eq!(folder.check_pack(), Err(PackProblem::Missing));
    let fresh = all_images(&config);
    assert_eq!(workplace.beside(), std::slice::from_ref(&pack));
    assert_eq!(folder.check_pack(), Ok(()));
    let written = fs::metadata(&pack)
        .expect("a file")
        .modified()
        .expect("a time");
    assert_eq!(all_images(&config), fresh);
    let unchanged = fs::metadata(&pack)
        .expect("a file")
        .modified()
        .expect("a time");
    assert_eq!(written, unchanged, "the second use reads it");
    assert_eq!(all_images(&workplace.config("pack = false")), fresh);

    // The documented format, parsed without this crate's reader.
    let content = fs::read(&pack).expect("bytes");
    let tensors = safetensors::SafeTensors::deserialize(&content).expect("safetensors");
    let images = tensors.tensor("images").expect("images");
    assert_eq!(images.shape(), [9, 3, 16, 16]);
    assert_eq!(images.data(), fresh.1);
    let files = tensors.tensor("files").expect("files");
    let files: serde_json::Value = serde_json::from_slice(files.data()).expect("JSON");
    assert_eq!(files["names"][0], "0/000.jpg");

    let n = content.len();
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(Damage, &str); 5] = [
        (|bytes| bytes[..bytes.len() - 1].to_vec(), "cut by one byte"),
        (
            |bytes| bytes[..5000].to_vec(),
            "cut in the middle of the images",
        ),
        (|_| Vec::new(), "emptied"),
        (
            |mut bytes| {
                bytes[4096 + 3 * 768 + 17] ^= 1;
                bytes
            },
            "one bit of an image",
        ),
        (
            |mut bytes| {
                let n = bytes.len();
                bytes[n - 5] ^= 1;
                bytes
            },
            "one bit of the list",
        ),
    ];
    for (damage, what) in damages {
        fs::write(&pack, damage(content.clone())).expect("written");
        let problem = folder.check_pack().unwrap_err();
        assert!(
            matches!(problem, PackProblem::Damaged(_)),
            "{what}: {problem}"
        );
        assert_eq!(all_images(&config), fresh, "{what}");
        assert_eq!(fs::read(&pack).expect("bytes").len(), n, "{what}");
        assert_eq!(folder.check_pack(), Ok(()), "{what}");
    }

    // Another transform has its own file; other files make it outdated.
    all_images(&workplace.config("crop_fraction = 0.5"));
    assert_eq!(workplace.beside().len(), 2);
    assert_eq!(folder.check_pack(), Ok(()));
    workplace.put("0/000.png", &encoded(&photo(77), ImageFormat::Png));
    assert_eq!(open(&config).check_pack(), Err(PackProblem::Outdated));
    assert_eq!(all_images(&config).0.len(), 10);
    assert_eq!(open(&config).check_pack(), Ok(()));
}

#[test]
fn a_pack_that_cannot_be_written_is_done_without() {
    let workplace = Workplace::new(5);
    let config = workplace.config("");
    let folder = open(&config);
    // A file cannot replace a folder, even for root, who may write anywhere else.
    fs::create_dir_all(folder.pack_file().join("in the way")).expect("created");
    let decoded = all_images(&config);
    assert_eq!(decoded, all_images(&workplace.config("pack = false")));
    assert!(matches!(folder.write_pack(), Err(DataError::Pack { .. })));
    assert_eq!(
        workplace.beside(),
        [] as [PathBuf; 0],
        "nothing half-written stays"
    );
}

#[test]
fn the_test_split_is_never_trained_on() {
    let workplace = Workplace::new(60);
    let config = || DatasetConfig {
        validation: Some(HoldOut::Fraction(0.2)),
        ..workplace.config("split = { test_fraction = 0.3, seed = 4 }")
    };
    let splits = config().load().expect("a data set");
    let validation = splits.validation.as_ref().expect("a validation split");
    let parts = [&splits.train, validation, &splits.test].map(file_names);
    let mut together = parts.concat();
    together.sort_unstable();
    let wanted: Vec<_> = all_images(&workplace.config("")).0;
    assert_eq!(together, wanted, "every image is in exactly one split");
    assert!(parts.iter().all(|part| part.len() > 5), "{parts:?}");

    // The images seen in training, compared by their pixels, are exactly those of the training split.
    let names: std::collections::HashMap<Vec<u8>, &str> = (0..splits.train.len())
        .map(|i| {
            (
                bytes(splits.train.select(&[i]).expect("an image")),
                parts[0][i],
            )
        })
        .collect();
    let held_out: Vec<_> = (0..splits.test.len())
        .map(|i| bytes(splits.test.select(&[i]).expect("an image")))
        .collect();
    for epoch in 0..2 {
        for image in passes(Batches::shuffled(&splits.train, 1, Device::Cpu, 1, epoch)) {
            assert!(names.contains_key(&image) && !held_out.contains(&image));
        }
    }

    // Adding files does not move an image to another split.
    for i in 60..90 {
        workplace.put(&photo_name(i), &jpeg(&photo(i)));
    }
    let more = config().load().expect("a data set");
    let test = file_names(&more.test);
    assert!(parts[2].iter().all(|name| test.contains(name)));
    let train = file_names(&more.train);
    assert!(parts[0].iter().all(|name| train.contains(name)));
    assert!(train.len() > parts[0].len() && test.len() > parts[2].len());
}

#[test]
fn a_partition_list_beside_the_images_decides() {
    let workplace = Workplace::new(6);
    // 005 is in no split: it may be a test image.
    let list = "000.jpg 0\n001.jpg 2\n002.jpg 1\n003.jpg 0\n004.jpg 2\n";
    let path = workplace.folder.path().join("list_eval_partition.txt");
    fs::write(&path, list).expect("written");
    let splits = workplace.load("");
    assert_eq!(file_names(&splits.train), ["0/000.jpg", "0/003.jpg"]);
    assert_eq!(file_names(&splits.test), ["1/001.jpg", "1/004.jpg"]);
    let validation = splits.validation.expect("a validation split");
    assert_eq!(file_names(&validation), ["2/002.jpg"]);
    assert_eq!(splits.report.n_unlisted, 1);
    assert_eq!(splits.report.partition_file, Some(path.clone()));

    let limited = DatasetConfig {
        train_limit: Some(1),
        test_limit: Some(9),
        ..workplace.config("")
    };
    let splits = limited.load().expect("a data set");
    assert_eq!((splits.train.len(), splits.test.len()), (1, 2));

    // With 0 they are trained on; any other value conflicts with the list.
    let with = |validation| DatasetConfig {
        validation: Some(validation),
        ..workplace.config("")
    };
    let splits = with(HoldOut::Count(0)).load().expect("a data set");
    let train = ["0/000.jpg", "0/003.jpg", "2/002.jpg"];
    assert_eq!(file_names(&splits.train), train);
    assert!(splits.validation.is_none());
    let error = with(HoldOut::Count(1)).load().unwrap_err().to_string();
    assert!(
        error.contains("list_eval_partition.txt says which images are for validation"),
        "{error}"
    );
    // A list with only two splits: validation images are taken from the training images.
    fs::write(&path, list.replace("002.jpg 1", "002.jpg 0")).expect("written");
    let splits = with(HoldOut::Count(2)).load().expect("a data set");
    assert_eq!(file_names(&splits.test), ["1/001.jpg", "1/004.jpg"]);
    let validation = splits.validation.expect("a validation split");
    let mut both = [file_names(&splits.train), file_names(&validation)];
    assert_eq!([both[0].len(), both[1].len()], [1, 2]);
    both[0].extend(both[1].clone());
    both[0].sort_unstable();
    assert_eq!(both[0], train);

    fs::write(&path, "000.jpg 0\n").expect("written");
    let error = workplace.config("").load().unwrap_err().to_string();
    assert!(error.contains("none of the 6 items is a"), "{error}");
    let error = workplace
        .config("partition = 'nowhere'")
        .load()
        .unwrap_err();
    assert!(matches!(error, DataError::Io { .. }), "{error}");
}

#[test]
fn attributes_follow_their_images_into_the_splits() {
    let workplace = Workplace::new(8);
    let rows: String = (0..7).map(|i| format!("{i:03}.jpg  {i} -1\n")).collect();
    let path = workplace.photos().join("list_attr_celeba.txt");
    fs::write(&path, format!("7\nNumber Smiling\n{rows}")).expect("written");
    let splits = workplace.load("split.test_fraction = 0.5");
    assert_eq!(splits.report.n_without_attributes, 1);
    assert_eq!(splits.report.attributes_file, Some(path));
    for split in [&splits.train, &splits.test, &splits.test.subset(&[1, 0])] {
        let attributes = split.attributes().expect("attributes");
        assert_eq!(attributes.names(), ["Number", "Smiling"]);
        let numbers = attributes.column("Number").expect("a column");
        for (name, number) in file_names(split).iter().zip(numbers) {
            let wanted: f32 = name[2..5].parse().expect("a number");
            assert_eq!(
                number,
                Some(wanted).filter(|&wanted| wanted < 7.0),
                "{name}"
            );
        }
    }
}

#[test]
fn batches_are_the_same_from_pack_and_files_and_from_any_place() {
    let workplace = Workplace::new(40);
    let flips = "random_flip = true\nsplit.test_fraction = 0.2\n";
    let packed = workplace.load(flips);
    let unpacked = workplace.load(&format!("{flips}pack = false\nworkers = 3"));
    let n = packed.train.len();
    for epoch in [1, 2] {
        let pass = |splits| Batches::shuffled(splits, 4, Device::Cpu, 9, epoch);
        let whole = passes(pass(&packed.train));
        assert_eq!(whole.len(), n.div_ceil(4));
        assert_eq!(passes(pass(&unpacked.train)), whole);
        for k in [1, 3, whole.len()] {
            let rest: Vec<_> = pass(&unpacked.train)
                .skip(k)
                .map(|batch| bytes(batch.expect("a batch").items))
                .collect();
            assert_eq!(rest, whole[k..], "from batch {k}");
        }
        // In the middle of a pass, while batches are being read.
        let mut pass = pass(&packed.train);
        let first = bytes(pass.next().expect("a batch").expect("an image").items);
        let fourth = bytes(pass.nth(2).expect("a batch").expect("an image").items);
        assert_eq!((&first, &fourth), (&whole[0], &whole[3]));
        assert_eq!(pass.len(), whole.len() - 4);
        assert!(pass.waited() > std::time::Duration::ZERO);
    }
    let in_order = passes(Batches::sequential(&packed.test, 3, Device::Cpu)).concat();
    assert_eq!(
        in_order,
        all(&packed.test),
        "held-out images are never mirrored"
    );
}

#[test]
fn flips_mirror_and_depend_on_epoch_and_image_alone() {
    let workplace = Workplace::new(120);
    let flipped = |splits: &Splits, seed, epoch, batch_size| -> Vec<bool> {
        let train = &splits.train;
        let order = shuffled_order(train.len(), seed, epoch);
        let batches = Batches::shuffled(train, batch_size, Device::Cpu, seed, epoch);
        let images = batches.flat_map(|batch| {
            let batch = batch.expect("a batch").items;
            (0..batch.size()[0])
                .map(move |i| batch.get(i))
                .collect::<Vec<_>>()
        });
        let mut flipped = vec![false; train.len()];
        for (image, position) in images.zip(order) {
            let original = train.select(&[position as usize]).expect("an image").get(0);
            let mirrored = image == original.flip([2]);
            assert!(
                mirrored || image == original,
                "an image is itself or mirrored"
            );
            assert!(
                original != original.flip([2]),
                "the photos are not symmetric"
            );
            flipped[position as usize] = mirrored;
        }
        flipped
    };
    let with = workplace.load("random_flip = true");
    let first = flipped(&with, 1, 1, 7);
    let n_flipped = first.iter().filter(|&&flipped| flipped).count() as f64;
    // Half of them, within five standard deviations.
    let n = with.train.len() as f64;
    assert!(
        (n_flipped - n / 2.0).abs() < 5.0 * (n / 4.0).sqrt(),
        "{n_flipped} of {n}"
    );
    assert_eq!(
        flipped(&with, 1, 1, 32),
        first,
        "the batch size has no effect"
    );
    assert_ne!(flipped(&with, 1, 2, 7), first);
    assert_ne!(flipped(&with, 2, 1, 7), first);
    let without = workplace.load("");
    assert!(flipped(&without, 1, 1, 7).iter().all(|&flipped| !flipped));
}

#[test]
fn a_file_that_goes_bad_while_in_use_is_an_error_that_names_it() {
    let workplace = Workplace::new(10);
    let splits = workplace.load("pack = false\nworkers = 2");
    fs::remove_file(workplace.photos().join("0/003.jpg")).expect("removed");
    let is_there = |name| file_names(&splits.train).contains(&name);
    assert!(is_there("0/003.jpg"), "the hash of its name puts it there");
    let errors: Vec<_> = Batches::sequential(&splits.train, 1, Device::Cpu)
        .filter_map(Result::err)
        .map(|error| error.to_string())
        .collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("0/003.jpg cannot be read"), "{errors:?}");
}

#[test]
fn a_rectangle_may_be_cut_out_and_made_any_shape() {
    let workplace = Workplace::new(0);
    let photo = RgbImage::from_fn(30, 20, |x, y| image::Rgb([x as u8, y as u8, 0]));
    workplace.put("a.png", &encoded(&photo, ImageFormat::Png));
    let mut config = workplace.config("crop = { top = 3, left = 11, height = 5, width = 8 }");
    let table = config.image_folder.as_mut().expect("a folder");
    (table.image_size.height, table.image_size.width) = (5, 8);
    let (dataset, _) = open(&config).images().expect("images");
    let image = dataset.first(1).expect("an image");
    assert_eq!(
        (image.size(), image.kind()),
        (vec![1, 3, 5, 8], Kind::Uint8)
    );
    for (y, x) in [(0, 0), (4, 7)] {
        assert_eq!(image.int64_value(&[0, 0, y, x]), 11 + x);
        assert_eq!(image.int64_value(&[0, 1, y, x]), 3 + y);
    }
}

#[test]
fn configs_that_make_no_sense_are_refused() {
    let workplace = Workplace::new(1);
    for (more, message) in [
        (
            "crop_fraction = 0",
            "dataset.image_folder.crop_fraction: found 0, expected a number above 0, at most 1",
        ),
        (
            "max_pixels = 0",
            "dataset.image_folder.max_pixels: found 0, expected at least 1",
        ),
        (
            "workers = 0",
            "dataset.image_folder.workers: found 0, expected at least 1",
        ),
        (
            "max_bad_fraction = 2",
            "dataset.image_folder.max_bad_fraction: found 2, expected 0 to 1",
        ),
        (
            "crop_fraction = 0.5\ncrop = { top = 0, left = 0, height = 9, width = 9 }",
            "dataset.image_folder.crop: found together with crop_fraction, expected one of the two",
        ),
    ] {
        let error = workplace.config(more).validate().unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    for size in ["0", "-3", "5000", "[64]", "[64, 64, 3]", "'64'", "[64, 0]"] {
        let text = format!("[image_folder]\npath = 'x'\nimage_size = {size}\n");
        let config: Result<DatasetConfig, _> = toml::from_str(&text);
        assert!(
            config.is_err() || config.is_ok_and(|config| config.validate().is_err()),
            "{size}"
        );
    }
    let both = "[idx]\nfolder = 'x'\n[image_folder]\npath = 'x'\n";
    let both: DatasetConfig = toml::from_str(both).expect("a config");
    assert!(matches!(both.validate(), Err(DataError::TwoSources)));

    let message = |path: &Path| config(path, "").load().unwrap_err().to_string();
    let folder = workplace.folder.path();
    let missing = message(&folder.join("datasets/celeba/img_align_celeba.zip"));
    assert!(missing.contains("no such folder or zip (run `cargo xtask fetch-data celeba`, or correct dataset.image_folder.path)"), "{missing}");
    fs::create_dir(folder.join("none")).expect("created");
    assert!(message(&folder.join("none")).contains("holds no JPEG, PNG, WebP or BMP"));
}

#[test]
fn a_config_written_out_is_the_same_config() {
    let workplace = Workplace::new(0);
    for more in [
        "",
        "crop = { top = 3, left = 11, height = 5, width = 8 }\nworkers = 3\npartition = 'p'\n",
        "grayscale = true\nrandom_flip = true\n[image_folder.split]\nseed = 5\n",
    ] {
        let config = workplace.config(more);
        let written = toml::to_string(&config).expect("TOML");
        assert_eq!(
            toml::from_str::<DatasetConfig>(&written).expect("read"),
            config
        );
        for key in [
            "crop_fraction = ",
            "image_size = 16",
            "max_bad_fraction = 0.01",
            "test_fraction = 0.1",
        ] {
            assert!(written.contains(key), "{key} in {written}");
        }
    }
}
