//! Images for a trained model, of every source, compared with what training makes of the same files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{ImageFormat, RgbImage};
use tch::{Kind, Tensor};
use vae_data::{DataError, DatasetConfig, ImageShape, InputBatch, Inputs, Split};

const GRAY: ImageShape = ImageShape {
    channels: 1,
    height: 3,
    width: 4,
};
const COLOR: ImageShape = ImageShape {
    channels: 3,
    height: 8,
    width: 8,
};

fn config(text: &str) -> DatasetConfig {
    toml::from_str(text).expect("a config")
}

fn write_idx(path: &Path, n: usize, labels: bool) {
    let mut bytes = [0x803_u32, n as u32, 3, 4].map(u32::to_be_bytes).concat();
    bytes.extend((0..n * 12).map(|i| (i % 251) as u8));
    fs::write(path, bytes).expect("written");
    if labels {
        let mut bytes = [0x801_u32, n as u32].map(u32::to_be_bytes).concat();
        bytes.extend((0..n).map(|i| (i % 10) as u8));
        let name = path
            .to_str()
            .expect("UTF-8")
            .replace("images-idx3", "labels-idx1");
        fs::write(name, bytes).expect("written");
    }
}

fn gzip(path: &Path) -> PathBuf {
    let to = PathBuf::from(format!("{}.gz", path.display()));
    let mut encoder = GzEncoder::new(File::create(&to).expect("created"), Compression::fast());
    encoder
        .write_all(&fs::read(path).expect("bytes"))
        .expect("written");
    encoder.finish().expect("written");
    to
}

/// A folder of idx files of 30 and 10 images.
fn idx_folder(folder: &Path) -> DatasetConfig {
    write_idx(&folder.join("train-images-idx3-ubyte"), 30, true);
    write_idx(&folder.join("t10k-images-idx3-ubyte"), 10, true);
    config(&format!("[idx]\nfolder = '{}'", folder.display()))
}

/// Six photos of 20×16 pixels.
fn photos(folder: &Path) -> DatasetConfig {
    let photos = folder.join("photos");
    fs::create_dir_all(photos.join("b")).expect("created");
    for i in 0..6_u32 {
        let name = if i < 3 {
            format!("{i}.png")
        } else {
            format!("b/{i}.jpg")
        };
        let image = RgbImage::from_fn(20, 16, |x, y| {
            image::Rgb([(x * 12) as u8, (y * 15) as u8, (i * 40) as u8])
        });
        let format = if i < 3 {
            ImageFormat::Png
        } else {
            ImageFormat::Jpeg
        };
        image
            .save_with_format(photos.join(name), format)
            .expect("written");
    }
    config(&format!(
        "[image_folder]\npath = '{}'\nimage_size = 8\ncrop_fraction = 0.75\nmax_bad_fraction = 0.5\n\
         [image_folder.split]\ntest_fraction = 0.5",
        photos.display()
    ))
}

fn read(inputs: &Inputs) -> InputBatch {
    inputs.read(1000).expect("images")
}

fn open(config: &DatasetConfig, shape: ImageShape, paths: &[&Path]) -> Inputs {
    let paths: Vec<PathBuf> = paths.iter().map(|&path| path.to_owned()).collect();
    Inputs::open(config, shape, &paths, None).expect("inputs")
}

#[test]
fn an_idx_file_gives_the_images_of_the_split_whole_or_in_part_plain_or_gzipped() {
    let folder = tempfile::tempdir().expect("a folder");
    for binarization in ["", "binarization = 'dynamic'\n"] {
        let plain = idx_folder(folder.path());
        let text = toml::to_string(&plain).expect("TOML");
        let config = config(&format!("{binarization}{text}"));
        let splits = config.load().expect("splits");
        let wanted = splits.test.first(10).expect("images");
        let file = folder.path().join("t10k-images-idx3-ubyte");
        let zipped = gzip(&file);
        for path in [&file, &zipped] {
            let found = read(&open(&config, GRAY, &[path]));
            assert_eq!(found.items, wanted);
            assert_eq!(found.names[7], format!("{}#7", path.display()));
            let labels: Vec<_> = (0..10).map(Some).collect();
            assert_eq!(found.labels, labels);
            let part = PathBuf::from(format!("{}#4..9", path.display()));
            let part = read(&open(&config, GRAY, &[&part]));
            assert_eq!(part.items, wanted.narrow(0, 4, 5));
            assert_eq!(part.labels[0], Some(4));
            assert_eq!(part.names[0], format!("{}#4", path.display()));
        }
        fs::remove_file(zipped).expect("removed");
        let held_out = Inputs::of_split(&config, GRAY, Split::Test, None).expect("inputs");
        assert_eq!(read(&held_out).items, wanted);
        assert_eq!(held_out.n_images(), 10);
        assert!(held_out.has_labels());
        let both = open(&config, GRAY, &[folder.path()]);
        assert_eq!(both.n_images(), 40);
        // Without the five that are held out for validation.
        assert_eq!(splits.train.len(), 25);
        let train = splits.train.first(25).expect("images");
        assert_eq!(read(&both).items.narrow(0, 0, 25), train);
        let trained_on = Inputs::of_split(&config, GRAY, Split::Train, None).expect("inputs");
        assert_eq!(read(&trained_on).items, train);
    }
}

#[test]
fn batches_are_the_whole_whatever_their_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = idx_folder(folder.path());
    let inputs = open(&config, GRAY, &[folder.path()]);
    let wanted = read(&inputs);
    for size in [1, 7, 30, 100] {
        let (mut images, mut names) = (Vec::new(), Vec::new());
        for batch in inputs.batches(size) {
            let batch = batch.expect("a batch");
            assert!(batch.names.len() <= size);
            images.push(batch.items);
            names.extend(batch.names);
        }
        assert_eq!(Tensor::cat(&images, 0), wanted.items);
        assert_eq!(names, wanted.names);
    }
}

#[test]
fn photos_are_those_of_training_from_folder_zip_and_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = photos(folder.path());
    let splits = config.load().expect("splits");
    let wanted = |name: &str| -> Tensor {
        let validation = splits.validation.as_ref().expect("a validation split");
        for split in [&splits.train, validation, &splits.test] {
            if let Some(i) = (0..split.len()).find(|&i| split.file_name(i) == Some(name)) {
                return split.select(&[i]).expect("an image").squeeze_dim(0);
            }
        }
        panic!("no {name}");
    };
    let check = |batch: &InputBatch, strip: &str| {
        for (i, name) in batch.names.iter().enumerate() {
            let name = name.strip_prefix(strip).expect("below the folder");
            assert_eq!(batch.items.get(i as i64), wanted(name), "{name}");
        }
    };
    let path = folder.path().join("photos");
    let all = read(&open(&config, COLOR, &[&path]));
    assert_eq!(
        all.names,
        ["0.png", "1.png", "2.png", "b/3.jpg", "b/4.jpg", "b/5.jpg"]
    );
    check(&all, "");

    let zip_path = folder.path().join("photos.zip");
    let mut zip = zip::ZipWriter::new(File::create(&zip_path).expect("created"));
    for name in &all.names {
        zip.start_file(name, zip::write::SimpleFileOptions::default())
            .expect("started");
        zip.write_all(&fs::read(path.join(name)).expect("bytes"))
            .expect("written");
    }
    zip.finish().expect("written");
    check(&read(&open(&config, COLOR, &[&zip_path])), "");

    let (one, two) = (path.join("b/4.jpg"), path.join("0.png"));
    let named = read(&open(&config, COLOR, &[&one, &two]));
    assert_eq!(named.names.len(), 2);
    check(&named, &format!("{}/", path.display()));

    let mixed = open(&config, COLOR, &[&one, &zip_path, &two]);
    let names = read(&mixed).names;
    assert_eq!(names.len(), 8);
    assert_eq!(names[0], one.display().to_string());
    assert_eq!(names[1], format!("{}/0.png", zip_path.display()));
    assert_eq!(names[7], two.display().to_string());

    // The split without its pack is the same.
    let held_out = Inputs::of_split(&config, COLOR, Split::Train, None).expect("inputs");
    check(&read(&held_out), "");
}

#[test]
fn a_photo_for_a_model_of_digits_and_digits_for_one_of_photos() {
    let folder = tempfile::tempdir().expect("a folder");
    let digits = idx_folder(folder.path());
    let photos = photos(folder.path());
    // A gray image of the model's size is unchanged.
    let bytes: Vec<u8> = (0..12).map(|i| i * 20).collect();
    let picture = folder.path().join("digit.png");
    image::GrayImage::from_raw(4, 3, bytes.clone())
        .expect("an image")
        .save(&picture)
        .expect("written");
    let found = read(&open(&digits, GRAY, &[&picture]));
    assert_eq!(found.items.size(), [1, 1, 3, 4]);
    assert_eq!(
        Vec::<u8>::try_from(found.items.view(-1)).expect("bytes"),
        bytes
    );

    let file = folder.path().join("train-images-idx3-ubyte#0..2");
    let found = read(&open(&photos, COLOR, &[&file]));
    assert_eq!(found.items.size(), [2, 3, 8, 8]);
    let channel = |i| found.items.select(1, i).to_kind(Kind::Uint8);
    assert_eq!(channel(0), channel(2));
}

#[test]
fn bad_files_are_skipped_in_a_folder_and_an_error_where_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = photos(folder.path());
    let path = folder.path().join("photos");
    let bad = path.join("bad.jpg");
    fs::write(&bad, b"\xff\xd8\xff no image").expect("written");
    let inputs = open(&config, COLOR, &[&path]);
    let mut batches = inputs.batches(4);
    let n: usize = (&mut batches)
        .map(|batch| batch.expect("images").names.len())
        .sum();
    assert_eq!((n, inputs.n_images()), (6, 7));
    assert_eq!(batches.bad().len(), 1);
    assert_eq!(batches.bad()[0].name, "bad.jpg");

    let error = |path: &Path| -> DataError {
        match Inputs::open(&config, COLOR, &[path.to_owned()], None) {
            Ok(inputs) => inputs.read(100).expect_err("an error"),
            Err(error) => error,
        }
    };
    let said = error(&bad).to_string();
    assert!(
        said.starts_with(&format!("{}: is a broken JPEG", bad.display())),
        "{said}"
    );
    let said = error(&path.join("none.png")).to_string();
    assert!(
        said.contains("none.png: cannot be read: No such file"),
        "{said}"
    );
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).expect("created");
    assert!(error(&empty).to_string().contains("empty: holds no JPEG"));
    fs::copy(&bad, empty.join("bad.jpg")).expect("copied");
    let said = error(&empty).to_string();
    assert!(
        said.contains("empty: none of its files is a usable image (bad.jpg is"),
        "{said}"
    );
    let text = folder.path().join("notes.txt");
    fs::write(&text, "no image").expect("written");
    assert!(
        error(&text)
            .to_string()
            .contains("notes.txt: is not a readable JPEG, PNG, WebP or BMP")
    );
    idx_folder(folder.path());
    let labels = folder.path().join("train-labels-idx1-ubyte");
    assert!(error(&labels).to_string().contains("a file of labels"));
    let beyond = folder.path().join("t10k-images-idx3-ubyte#10");
    let said = error(&beyond).to_string();
    assert!(
        said.contains("image 10 was requested, but it holds 10"),
        "{said}"
    );
}

#[test]
fn attributes_are_joined_by_file_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = photos(folder.path());
    let path = folder.path().join("photos");
    let table = folder.path().join("table.csv");
    fs::write(&table, "file,age,glasses\n1.png,30,true\n4.jpg,50,false\n").expect("written");
    let inputs =
        Inputs::open(&config, COLOR, std::slice::from_ref(&path), Some(&table)).expect("inputs");
    assert_eq!(inputs.attribute_names(), ["age", "glasses"]);
    let rows = read(&inputs).attributes;
    assert!(rows[0].is_nan());
    assert_eq!(rows[2..4], [30.0, 1.0]);
    assert_eq!(rows[8..10], [50.0, 0.0]);

    // The run's own table applies only to its own folder.
    let list = folder.path().join("list_attr_celeba.txt");
    fs::write(&list, "1\nSmiling\n1.png -1\n").expect("written");
    let own = open(&config, COLOR, &[&path]);
    assert_eq!(read(&own).attributes[1], -1.0);
    let own = open(&config, COLOR, &[&path.join("1.png")]);
    assert_eq!(own.attribute_names(), ["Smiling"]);
    let other = folder.path().join("1.png");
    fs::copy(path.join("1.png"), &other).expect("copied");
    assert!(open(&config, COLOR, &[&other]).attribute_names().is_empty());
    let split = Inputs::of_split(&config, COLOR, Split::Train, None).expect("inputs");
    assert_eq!(split.attribute_names(), ["Smiling"]);
}

#[test]
fn a_truncated_stream_is_an_error_that_ends_the_batches() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = idx_folder(folder.path());
    let file = folder.path().join("train-images-idx3-ubyte");
    let zipped = gzip(&file);
    let bytes = fs::read(&zipped).expect("bytes");
    fs::write(&zipped, &bytes[..bytes.len() - 20]).expect("written");
    let inputs = open(&config, GRAY, &[&zipped]);
    let mut batches = inputs.batches(8);
    let error = batches.find_map(Result::err).expect("an error");
    assert!(
        error.to_string().contains("train-images-idx3-ubyte.gz"),
        "{error}"
    );
    assert!(batches.next().is_none());
}
