//! Sprites: how a file is read and split, and the errors for invalid files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use vae_data::loader::Batches;
use vae_data::{Dataset, DatasetConfig};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// 48 combinations.
const SIZES: [usize; 6] = [1, 3, 2, 4, 2, 1];
const N: usize = 48;
const HEIGHT: usize = 3;
const WIDTH: usize = 5;

/// Pixels of an image: the bits of its number, and a frame that distinguishes rows from columns.
fn pixels(image: usize) -> Vec<u8> {
    (0..HEIGHT * WIDTH)
        .map(|i| {
            if i < 6 {
                (image >> i & 1) as u8
            } else {
                (i % 3 == 0) as u8
            }
        })
        .collect()
}

fn classes(mut image: usize) -> Vec<i64> {
    let mut classes = vec![0; 6];
    for (class, size) in classes.iter_mut().zip(SIZES).rev() {
        *class = (image % size) as i64;
        image /= size;
    }
    classes
}

fn array(kind: &str, shape: &str, numbers: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(numbers);
    bytes
}

fn images() -> Vec<u8> {
    array(
        "|u1",
        "48, 3, 5",
        &(0..N).flat_map(pixels).collect::<Vec<_>>(),
    )
}

fn table() -> Vec<u8> {
    let rows = (0..N).flat_map(classes).flat_map(i64::to_le_bytes);
    array("<i8", "48, 6", &rows.collect::<Vec<_>>())
}

struct Workplace {
    folder: TempDir,
}

impl Workplace {
    fn new() -> Workplace {
        Workplace {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("sprites.npz")
    }

    fn write(&self, members: &[(&str, Vec<u8>)]) {
        let mut archive = ZipWriter::new(File::create(self.path()).expect("a file"));
        for (name, bytes) in members {
            let options = SimpleFileOptions::default();
            archive.start_file(*name, options).expect("a member");
            archive.write_all(bytes).expect("written");
        }
        archive.finish().expect("a zip");
    }

    fn whole() -> Workplace {
        let workplace = Workplace::new();
        workplace.write(&[
            ("metadata.npy", b"a pickle that nobody reads".to_vec()),
            ("imgs.npy", images()),
            ("latents_classes.npy", table()),
        ]);
        workplace
    }

    fn config(&self, more: &str) -> DatasetConfig {
        config(&self.path(), more)
    }

    /// The error about the file, without its path and the suggested fix.
    fn problem(&self) -> String {
        let error = self.config("").load().expect_err("an error").to_string();
        let path = format!("{}: ", self.path().display());
        let error = error.strip_prefix(&path).expect("its path").to_owned();
        let (problem, fix) = error.split_once(" (interrupted").expect("a fix");
        assert!(fix.contains("`cargo xtask fetch-data sprites`"), "{fix}");
        problem.to_owned()
    }
}

fn config(path: &Path, more: &str) -> DatasetConfig {
    let text = format!(
        "{more}\n[sprites]\nfile = '{}'\ntest_fraction = 0.25\n",
        path.display()
    );
    toml::from_str(&text).expect("a config")
}

fn bytes(images: &Tensor) -> Vec<u8> {
    Vec::try_from(images.flatten(0, -1)).expect("bytes")
}

/// The expected bytes of the image at a position.
fn wanted(position: usize) -> Vec<u8> {
    pixels(position).iter().map(|pixel| pixel * 255).collect()
}

fn assert_is_right(dataset: &Dataset) {
    let factors = dataset.factors().expect("factors");
    assert_eq!(factors.positions().len(), dataset.len());
    assert_eq!(dataset.shape().to_string(), "1×3×5");
    let labels = Vec::<i64>::try_from(dataset.labels().expect("labels")).expect("integers");
    let batches = Batches::sequential(dataset, 5, Device::Cpu);
    let images: Vec<Vec<u8>> = batches
        .flat_map(|batch| {
            let batch = batch.expect("a batch").items;
            (0..batch.size()[0])
                .map(|i| bytes(&batch.get(i)))
                .collect::<Vec<_>>()
        })
        .collect();
    for (i, &position) in factors.positions().iter().enumerate() {
        assert_eq!(images[i], wanted(position), "{i}");
        assert_eq!(labels[i], classes(position)[1], "{i}");
    }
}

#[test]
fn every_image_is_in_one_split_with_its_factors() {
    let workplace = Workplace::whole();
    let splits = workplace.config("").load().expect("splits");
    let validation = splits.validation.as_ref().expect("a validation split");
    let of_all = [&splits.train, validation, &splits.test];
    // A quarter for testing, a tenth for validation.
    assert_eq!(of_all.map(Dataset::len), [32, 4, 12]);
    for split in of_all {
        assert_is_right(split);
    }
    let positions = |dataset: &Dataset| dataset.factors().expect("factors").positions().to_vec();
    let mut all = of_all.map(positions).concat();
    assert!(
        all[..32].windows(2).any(|pair| pair[0] > pair[1]),
        "shuffled"
    );
    all.sort();
    assert!(all.into_iter().eq(0..N));
    let space = splits.train.factors().expect("factors").space();
    assert_eq!(space.sizes(), SIZES);
    assert_eq!(space.names()[3], "orientation");
    assert_eq!(
        &workplace.config("").item_spec().expect("a shape"),
        splits.train.item()
    );
}

#[test]
fn limits_take_the_first_of_the_same_order_and_a_seed_makes_another() {
    let workplace = Workplace::whole();
    let positions = |config: DatasetConfig| {
        let splits = config.load().expect("splits");
        assert_is_right(&splits.train);
        assert_is_right(&splits.test);
        let of = |dataset: &Dataset| dataset.factors().expect("factors").positions().to_vec();
        (of(&splits.train), of(&splits.test))
    };
    let (train, test) = positions(workplace.config(""));
    let limited = positions(workplace.config("train_limit = 7\ntest_limit = 100"));
    assert_eq!(limited, (train[..7].to_vec(), test));
    let mut other = workplace.config("");
    other.sprites.as_mut().expect("a table").split_seed = 1;
    assert_ne!(positions(other).0, train);
}

#[test]
fn the_first_training_images_are_of_all_kinds() {
    let workplace = Workplace::whole();
    let train = workplace
        .config("train_limit = 18")
        .load()
        .expect("splits")
        .train;
    let labels = train.labels().expect("labels");
    for shape in 0..3 {
        let n = labels.eq(shape).sum(Kind::Int64).int64_value(&[]);
        assert!((2..=12).contains(&n), "{n} of shape {shape}");
    }
}

#[test]
fn the_grid_has_every_image_at_its_position() {
    let workplace = Workplace::whole();
    let grid = workplace
        .config("train_limit = 1")
        .factor_grid()
        .expect("read")
        .expect("a grid");
    assert_eq!(grid.space().n_positions(), N);
    let positions = [47, 0, 13, 13];
    let images = grid.images(&positions).expect("images");
    for (i, &position) in positions.iter().enumerate() {
        assert_eq!(bytes(&images.get(i as i64)), wanted(position));
    }
    let photos: DatasetConfig = toml::from_str("[idx]\nfolder = 'x'\n").expect("a config");
    assert!(photos.factor_grid().expect("no file is opened").is_none());
}

#[test]
fn a_missing_file_says_how_to_make_it() {
    let error = config(Path::new("nowhere/sprites.npz"), "")
        .load()
        .expect_err("an error");
    let error = error.to_string();
    assert!(
        error.starts_with("nowhere/sprites.npz: no such file in /"),
        "{error}"
    );
    assert!(
        error.contains("run `cargo xtask fetch-data sprites`"),
        "{error}"
    );
    assert!(
        error.ends_with("or correct dataset.sprites.file)"),
        "{error}"
    );
}

#[test]
fn a_truncated_file_is_refused() {
    let workplace = Workplace::whole();
    let whole = fs::read(workplace.path()).expect("bytes");
    for n in [0, 10, whole.len() / 2, whole.len() - 1] {
        fs::write(workplace.path(), &whole[..n]).expect("written");
        let problem = workplace.problem();
        assert!(problem.starts_with("is not a readable .npz: "), "{problem}");
    }
}

#[test]
fn another_byte_is_noticed() {
    let workplace = Workplace::new();
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut archive = ZipWriter::new(File::create(workplace.path()).expect("a file"));
    for (name, bytes) in [("imgs.npy", images()), ("latents_classes.npy", table())] {
        archive.start_file(name, stored).expect("a member");
        archive.write_all(&bytes).expect("written");
    }
    archive.finish().expect("a zip");
    let mut whole = fs::read(workplace.path()).expect("bytes");
    let first = wanted(0).iter().map(|byte| byte / 255).collect::<Vec<_>>();
    let at = whole
        .windows(15)
        .position(|bytes| bytes == first)
        .expect("the first image");
    whole[at] ^= 1;
    fs::write(workplace.path(), &whole).expect("written");
    assert_eq!(workplace.problem(), "imgs is damaged: Invalid checksum");
}

#[test]
fn another_layout_is_refused() {
    let problem = |members: &[(&str, Vec<u8>)]| {
        let workplace = Workplace::new();
        workplace.write(members);
        workplace.problem()
    };
    let with_images = |images| problem(&[("imgs.npy", images), ("latents_classes.npy", table())]);
    let with_table = |table| problem(&[("imgs.npy", images()), ("latents_classes.npy", table)]);

    assert_eq!(
        problem(&[("imgs.npy", images())]),
        "holds no array latents_classes, only imgs.npy; expected the layout of dSprites"
    );
    assert_eq!(
        problem(&[("latents_classes.npy", table())]),
        "holds no array imgs, only latents_classes.npy; expected the layout of dSprites"
    );
    assert_eq!(
        with_images(array("<f4", "48, 3, 5", &[0; 48 * 15 * 4])),
        "imgs is <f4 [48, 3, 5], expected |u1 [48, any, any]"
    );
    assert_eq!(
        with_images(array("|u1", "47, 3, 5", &[0; 47 * 15])),
        "imgs is |u1 [47, 3, 5], expected |u1 [48, any, any]"
    );
    assert_eq!(
        with_images(array("|u1", "48, 15", &[0; 48 * 15])),
        "imgs is |u1 [48, 15], expected |u1 [48, any, any]"
    );
    assert_eq!(
        with_images(array("|u1", "48, 3, 0", &[])),
        "imgs is [48, 3, 0], expected 1 to 68719476736 pixels together"
    );
    let huge = with_images(array("|u1", "48, 9000000000, 9000000000", &[]));
    assert!(huge.contains("68719476736 pixels together"), "{huge}");
    assert!(
        with_images(array("|u1", "48, 3, 5", &[0; 47 * 15]))
            .starts_with("imgs is damaged or cut short: ")
    );
    assert_eq!(
        with_images(array("|u1", "48, 3, 5", &[0; 48 * 15 + 1])),
        "imgs is longer than its header declares"
    );
    assert_eq!(
        with_images(array("|u1", "48, 3, 5", &[255; 48 * 15])),
        "imgs has a pixel of 255 in image 0, expected 0 or 1"
    );
    let none = with_images(b"no array".to_vec());
    assert_eq!(none, "imgs does not begin like a NumPy array");
    assert_eq!(
        with_table(array("<i4", "48, 6", &[0; 48 * 24])),
        "latents_classes is <i4 [48, 6], expected <i8 [any, 6]"
    );
    assert!(
        with_table(array("<i8", "48, 6", &[0; 48 * 48])).contains("ends with [0, 0, 0, 0, 0, 0]")
    );
    assert_eq!(
        with_table(array("<i8", "48, 6", &[255; 48 * 48])),
        "latents_classes has -1, expected 0 to 47"
    );
    let mut swapped = table();
    let rows = swapped.len() - 48 * N;
    let (first, second) = swapped[rows..].split_at_mut(48);
    first.swap_with_slice(&mut second[..48]);
    assert_eq!(
        with_table(swapped),
        "latents_classes has [0, 0, 0, 0, 1, 0] in row 0, expected [0, 0, 0, 0, 0, 0]: every \
         combination of factors once, the last factor fastest"
    );
}

#[test]
fn configs_are_checked() {
    for fraction in ["0.0", "1.0", "-0.1", "nan"] {
        let text = format!("[sprites]\nfile = 'x'\ntest_fraction = {fraction}\n");
        let config: DatasetConfig = toml::from_str(&text).expect("a config");
        let error = config.validate().expect_err("an error").to_string();
        assert!(
            error.starts_with("dataset.sprites.test_fraction: found "),
            "{error}"
        );
    }
    let two = "[sprites]\nfile = 'x'\n[idx]\nfolder = 'y'\n";
    let two: DatasetConfig = toml::from_str(two).expect("a config");
    let error = two.validate().expect_err("an error").to_string();
    assert!(error.contains("two sources of images"), "{error}");
    assert!(
        error.ends_with(
            "[dataset.sprites], [dataset.arrays], [dataset.audio_folder], [dataset.text] or [dataset.melodies]"
        ),
        "{error}"
    );
    let written = toml::to_string(&config(Path::new("a.npz"), "")).expect("text");
    let read: DatasetConfig = toml::from_str(&written).expect("read");
    assert_eq!(read, config(Path::new("a.npz"), ""));
}
