//! Which images are trained on, and which are held out.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::DataError;

/// The official name of CelebA's list, found automatically beside the images.
pub const PARTITION_FILE: &str = "list_eval_partition.txt";

/// A split by hash of the file name (`[dataset.image_folder.split]`), for images without an official
/// partition file.
///
/// A file's side does not change when others are added or removed: u is the first eight bytes,
/// big-endian, of SHA-256(seed as eight little-endian bytes, then the name in UTF-8), over 2^64; the
/// file is a test image where u < `test_fraction`, a validation image where u is below
/// `test_fraction + validation_fraction`, and else a training image. The name is the path below the
/// folder or in the zip, with `/` between folders.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitConfig {
    /// Share of the test images. Default 0.1.
    pub test_fraction: f64,
    /// Share of the validation images, which are kept apart from both. Default 0.
    pub validation_fraction: f64,
    /// Another seed, another split. Default 0.
    pub seed: u64,
}

impl Default for SplitConfig {
    fn default() -> SplitConfig {
        SplitConfig {
            test_fraction: 0.1,
            validation_fraction: 0.0,
            seed: 0,
        }
    }
}

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Train,
    Validation,
    Test,
}

impl SplitConfig {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let (test, validation) = (self.test_fraction, self.validation_fraction);
        let keys = [
            ("dataset.image_folder.split.test_fraction", test),
            ("dataset.image_folder.split.validation_fraction", validation),
        ];
        for (key, fraction) in keys {
            if !(0.0..1.0).contains(&fraction) {
                let problem = format!("found {fraction}, expected at least 0 and less than 1");
                return Err(DataError::Config { key, problem });
            }
        }
        if test + validation >= 1.0 {
            return Err(DataError::Config {
                key: "dataset.image_folder.split",
                problem: format!(
                    "test_fraction {test} and validation_fraction {validation} leave nothing to train on"
                ),
            });
        }
        Ok(())
    }

    pub(crate) fn part(&self, name: &str) -> Part {
        let hash = Sha256::new()
            .chain_update(self.seed.to_le_bytes())
            .chain_update(name)
            .finalize();
        let [a, b, c, d, e, f, g, h, ..] = hash[..] else {
            unreachable!("SHA-256 has 32 bytes")
        };
        let u = u64::from_be_bytes([a, b, c, d, e, f, g, h]) as f64 / 2.0_f64.powi(64);
        match u {
            u if u < self.test_fraction => Part::Test,
            u if u < self.test_fraction + self.validation_fraction => Part::Validation,
            _ => Part::Train,
        }
    }
}

/// An official partition: a line for each image, its name and 0 (train), 1 (validation) or 2 (test).
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) path: PathBuf,
    parts: HashMap<String, Part>,
}

impl Partition {
    pub(crate) fn read(path: &Path) -> Result<Partition, DataError> {
        let text = fs::read_to_string(path).map_err(|source| DataError::Io {
            path: path.to_owned(),
            source,
        })?;
        let mut parts = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
            let part = match (words.next(), words.next(), words.next()) {
                (None, _, _) => continue,
                (Some(name), Some("0"), None) => (name, Part::Train),
                (Some(name), Some("1"), None) => (name, Part::Validation),
                (Some(name), Some("2"), None) => (name, Part::Test),
                // The header of the same list as a CSV.
                (Some(_), Some("partition"), None) if i == 0 => continue,
                _ => {
                    return Err(DataError::Table {
                        path: path.to_owned(),
                        line: i as u64 + 1,
                        problem: format!(
                            "found {line:?}, expected a file name and 0 (train), 1 (validation) or 2 (test)"
                        ),
                    });
                }
            };
            parts.insert(part.0.to_owned(), part.1);
        }
        let path = path.to_owned();
        Ok(Partition { path, parts })
    }

    /// By the whole path, or by the file's own name, as CelebA's list has it.
    pub(crate) fn part(&self, name: &str) -> Option<Part> {
        self.parts
            .get(name)
            .or_else(|| self.parts.get(file_name(name)))
            .copied()
    }
}

/// The last part of a path with `/` between folders.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_on_the_same_side_for_all_time() {
        let split = |seed| SplitConfig {
            test_fraction: 0.3,
            validation_fraction: 0.3,
            seed,
        };
        // u from Python: int.from_bytes(sha256(seed.to_bytes(8, "little") + name).digest()[:8]) / 2**64.
        for (seed, name, part) in [
            (0, "000001.jpg", Part::Validation),             // u = 0.5802
            (0, "000002.jpg", Part::Validation),             // u = 0.3965
            (0, "img_align_celeba/000001.jpg", Part::Train), // u = 0.8259
            (1, "000001.jpg", Part::Test),                   // u = 0.0118
            (u64::MAX, "Ä/ö.png", Part::Test),               // u = 0.0253
            (0, "000003.jpg", Part::Validation),             // u = 0.4815
            (5, "a", Part::Train),                           // u = 0.9977
        ] {
            assert_eq!(split(seed).part(name), part, "{name} with seed {seed}");
        }
    }

    #[test]
    fn the_shares_are_those_asked_for() {
        let split = SplitConfig {
            test_fraction: 0.2,
            validation_fraction: 0.1,
            seed: 3,
        };
        let parts: Vec<_> = (0..10_000)
            .map(|i| split.part(&format!("{i}.jpg")))
            .collect();
        let count = |part| parts.iter().filter(|&&found| found == part).count() as f64;
        // Binomial: standard deviations of 40 and 30 images.
        assert!((count(Part::Test) - 2000.0).abs() < 200.0);
        assert!((count(Part::Validation) - 1000.0).abs() < 150.0);
    }

    #[test]
    fn fractions_that_leave_nothing_are_refused() {
        let message = |test_fraction, validation_fraction| {
            let split = SplitConfig {
                test_fraction,
                validation_fraction,
                seed: 0,
            };
            split.check().unwrap_err().to_string()
        };
        assert_eq!(
            message(1.0, 0.0),
            "dataset.image_folder.split.test_fraction: found 1, expected at least 0 and less than 1"
        );
        assert!(message(f64::NAN, 0.0).contains("found NaN"));
        assert!(message(0.1, -0.5).contains("validation_fraction: found -0.5"));
        assert!(message(0.5, 0.5).contains("leave nothing to train on"));
    }

    #[test]
    fn a_partition_file_is_read_and_its_mistakes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PARTITION_FILE);
        fs::write(&path, "a.jpg 0\nb.jpg 1\r\n\nc.jpg  2\n").unwrap();
        let partition = Partition::read(&path).unwrap();
        assert_eq!(partition.part("a.jpg"), Some(Part::Train));
        assert_eq!(
            partition.part("img_align_celeba/b.jpg"),
            Some(Part::Validation)
        );
        assert_eq!(partition.part("c.jpg"), Some(Part::Test));
        assert_eq!(partition.part("d.jpg"), None);

        fs::write(&path, "image_id,partition\na.jpg,2\n").unwrap();
        assert_eq!(
            Partition::read(&path).unwrap().part("a.jpg"),
            Some(Part::Test)
        );

        fs::write(&path, "a.jpg 0\nb.jpg 3\n").unwrap();
        let error = Partition::read(&path).unwrap_err().to_string();
        assert!(error.ends_with(
            "list_eval_partition.txt:2: found \"b.jpg 3\", expected a file name and 0 (train), 1 \
             (validation) or 2 (test)"
        ));
    }
}
