//! A config's data set, from its folder to tensors.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};
use tempfile::TempDir;
use vae_data::config::{DatasetConfig, IdxConfig};
use vae_data::{DataError, Dataset, HoldOut, Splits};

use crate::common::{image_file, label_file, put};

fn config(folder: impl Into<PathBuf>) -> DatasetConfig {
    let idx = Some(IdxConfig {
        folder: folder.into(),
    });
    DatasetConfig {
        idx,
        ..Default::default()
    }
}

fn fixture() -> DatasetConfig {
    config(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture"))
}

/// 3 training and 2 test images of 2×3 pixels, with labels.
fn small_folder() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    put(
        folder.path(),
        "train-images-idx3-ubyte",
        &image_file(3, 2, 3, &[1; 18]),
    );
    put(
        folder.path(),
        "train-labels-idx1-ubyte",
        &label_file(&[7, 8, 9]),
    );
    put(
        folder.path(),
        "t10k-images-idx3-ubyte",
        &image_file(2, 2, 3, &[2; 12]),
    );
    put(
        folder.path(),
        "t10k-labels-idx1-ubyte",
        &label_file(&[5, 6]),
    );
    folder
}

/// The message about `folder`, whose path is replaced by `FOLDER`.
fn message(folder: &Path, config: &DatasetConfig) -> String {
    let error = config.load().expect_err("a folder that is not right");
    error
        .to_string()
        .replace(&folder.display().to_string(), "FOLDER")
}

fn first_labels(labels: Option<&Tensor>, n_labels: i64) -> Vec<i64> {
    let labels = labels.expect("labels").narrow(0, 0, n_labels);
    Vec::try_from(labels).expect("i64 numbers")
}

#[test]
fn the_fixture_loads_as_it_was_written() {
    let config = DatasetConfig {
        validation: Some(HoldOut::Count(0)),
        ..fixture()
    };
    let Splits { train, test, .. } = config.load().unwrap();
    for (split, n_images) in [(&train, 12), (&test, 4)] {
        assert_eq!(split.first(99).unwrap().size(), [n_images, 1, 7, 5]);
        assert_eq!(split.first(1).unwrap().kind(), Kind::Uint8);
        assert_eq!(split.labels().unwrap().kind(), Kind::Int64);
        for (i, y, x) in [(0, 0, 0), (1, 2, 3), (2, 6, 4), (3, 5, 0)] {
            // The rule in tests/fixture/make.py.
            assert_eq!(
                split.first(99).unwrap().int64_value(&[i, 0, y, x]),
                (100 * i + 10 * y + x) % 256
            );
        }
    }
    assert_eq!(
        first_labels(train.labels(), 12),
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    );
}

#[test]
fn mnist_is_what_its_authors_published() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/mnist");
    if !folder.exists() {
        // Not `eprintln!`, which the test harness hides when a test passes.
        let note = "note: datasets/mnist is not there (`cargo xtask fetch-data mnist` fetches it): \
                    checking the fixture in its place\n";
        std::io::stderr().write_all(note.as_bytes()).unwrap();
        return the_fixture_loads_as_it_was_written();
    }
    assert_eq!(
        sizes(&config(&folder).load().unwrap()),
        [50_000, 10_000, 10_000]
    );
    let config = DatasetConfig {
        validation: Some(HoldOut::Count(0)),
        ..config(folder)
    };
    let Splits { train, test, .. } = config.load().unwrap();
    assert_eq!(train.first(99_999).unwrap().size(), [60_000, 1, 28, 28]);
    assert_eq!(test.first(99_999).unwrap().size(), [10_000, 1, 28, 28]);
    assert_eq!(first_labels(train.labels(), 5), [5, 0, 4, 1, 9]);
    assert_eq!(first_labels(test.labels(), 5), [7, 2, 1, 0, 4]);
    let mean = train
        .first(60_000)
        .unwrap()
        .mean(Kind::Double)
        .double_value(&[]);
    assert!((mean - 33.318).abs() < 1e-3, "mean pixel {mean}");
}

#[test]
fn limits_take_the_first_images_and_their_labels() {
    let config = DatasetConfig {
        train_limit: Some(5),
        test_limit: Some(1),
        ..fixture()
    };
    let Splits { train, test, .. } = config.load().unwrap();
    assert_eq!((train.len(), test.len()), (5, 1));
    let all = fixture().load().unwrap().train;
    assert_eq!(train.first(5).unwrap(), all.first(5).unwrap());
    assert_eq!(first_labels(train.labels(), 5), [0, 1, 2, 3, 4]);
}

#[test]
fn a_limit_beyond_the_data_uses_all_of_it() {
    let config = DatasetConfig {
        train_limit: Some(13),
        validation_limit: Some(3),
        test_limit: Some(usize::MAX),
        ..fixture()
    };
    assert_eq!(sizes(&config.load().unwrap()), [10, 2, 4]);
}

/// Training, validation and test images.
fn sizes(splits: &Splits) -> [usize; 3] {
    let validation = splits.validation.as_ref().map_or(0, Dataset::len);
    [splits.train.len(), validation, splits.test.len()]
}

#[test]
fn the_last_training_images_are_for_validation() {
    let load = |validation| {
        let config = DatasetConfig {
            validation,
            ..fixture()
        };
        config.load()
    };
    let whole = load(Some(HoldOut::Count(0))).unwrap();
    assert_eq!(sizes(&whole), [12, 0, 4]);
    let all = whole.train.first(12).unwrap();
    let labels = first_labels(whole.train.labels(), 12);
    for (validation, n) in [
        (None, 2), // A sixth.
        (Some(HoldOut::Count(5)), 5),
        (Some(HoldOut::Fraction(0.25)), 3),
    ] {
        let splits = load(validation).unwrap();
        assert_eq!(sizes(&splits), [12 - n, n, 4]);
        let kept_back = splits.validation.unwrap();
        let images = [
            splits.train.first(12).unwrap(),
            kept_back.first(12).unwrap(),
        ];
        assert_eq!(Tensor::cat(&images, 0), all);
        assert_eq!(first_labels(kept_back.labels(), n as i64), labels[12 - n..]);
    }
    // A limit applies to the images that are trained on; the validation images stay separate.
    let config = DatasetConfig {
        train_limit: Some(11),
        validation_limit: Some(1),
        ..fixture()
    };
    assert_eq!(sizes(&config.load().unwrap()), [10, 1, 4]);
    let error = load(Some(HoldOut::Count(12))).unwrap_err().to_string();
    assert_eq!(
        error,
        "dataset.validation: found 12, expected fewer than the 12 images there are, so that some are left \
         to train on"
    );
}

#[test]
fn labels_are_optional() {
    let folder = small_folder();
    std::fs::remove_file(folder.path().join("train-labels-idx1-ubyte")).unwrap();
    let Splits { train, test, .. } = config(folder.path()).load().unwrap();
    assert!(train.labels().is_none());
    assert_eq!(first_labels(test.labels(), 2), [5, 6]);
}

#[test]
fn a_missing_folder_says_how_to_fetch_it() {
    let folder = TempDir::new().unwrap();
    let error = config(folder.path().join("datasets/kmnist"));
    assert_eq!(
        message(folder.path(), &error),
        "FOLDER/datasets/kmnist: no such folder \
         (run `cargo xtask fetch-data kmnist`, or correct dataset.idx.folder)"
    );
    // `fetch-data` fills only folders in `datasets`.
    let error = config(folder.path().join("mine"));
    assert_eq!(
        message(folder.path(), &error),
        "FOLDER/mine: no such folder (correct dataset.idx.folder)"
    );
}

#[test]
fn a_file_in_place_of_the_folder_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = put(folder.path(), "mnist", b"");
    assert_eq!(
        message(folder.path(), &config(file)),
        "FOLDER/mnist: is not a folder, expected the folder that holds the data files \
         (correct dataset.idx.folder)"
    );
}

#[test]
fn a_missing_image_file_is_named() {
    let folder = TempDir::new().unwrap();
    let mnist = folder.path().join("datasets/mnist");
    std::fs::create_dir_all(&mnist).unwrap();
    assert_eq!(
        message(folder.path(), &config(mnist)),
        "FOLDER/datasets/mnist: holds no train-images-idx3-ubyte or train-images-idx3-ubyte.gz \
         (run `cargo xtask fetch-data mnist`, or correct dataset.idx.folder)"
    );
}

#[test]
fn a_folder_in_place_of_a_file_is_refused() {
    let folder = small_folder();
    let path = folder.path().join("t10k-images-idx3-ubyte");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(
        message(folder.path(), &config(folder.path())),
        "FOLDER/t10k-images-idx3-ubyte: is not a regular file"
    );
}

#[test]
fn images_and_labels_that_differ_in_number_are_refused() {
    let folder = small_folder();
    put(
        folder.path(),
        "train-labels-idx1-ubyte",
        &label_file(&[7, 8]),
    );
    assert_eq!(
        message(folder.path(), &config(folder.path())),
        "FOLDER/train-labels-idx1-ubyte: 2 labels, expected 3 as in \
         FOLDER/train-images-idx3-ubyte (files of two different data sets?)"
    );
    // Even if a limit would hide it.
    let limited = DatasetConfig {
        train_limit: Some(1),
        ..config(folder.path())
    };
    assert!(matches!(limited.load(), Err(DataError::LabelCount { .. })));
}

#[test]
fn splits_of_different_shape_are_refused() {
    let folder = small_folder();
    put(
        folder.path(),
        "t10k-images-idx3-ubyte",
        &image_file(2, 3, 2, &[2; 12]),
    );
    assert_eq!(
        message(folder.path(), &config(folder.path())),
        "FOLDER: test images are 1×3×2, expected 1×2×3 as the training images are \
         (files of two different data sets?)"
    );
}

#[test]
fn a_damaged_label_file_is_an_error_not_a_missing_one() {
    let folder = small_folder();
    put(folder.path(), "t10k-labels-idx1-ubyte", b"");
    assert!(matches!(
        config(folder.path()).load(),
        Err(DataError::ShortHeader { .. })
    ));
}
