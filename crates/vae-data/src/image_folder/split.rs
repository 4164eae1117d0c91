//! Which images are trained on, and which are held out.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::DEFAULT_VALIDATION;
use crate::hold_out::VALIDATION_KEY;
use crate::{DataError, HoldOut};

/// The official name of CelebA's list, found automatically beside the images.
pub const PARTITION_FILE: &str = "list_eval_partition.txt";

/// A split by hash of the file name (`[dataset.image_folder.split]`), for images without an official
/// partition file.
///
/// A file's side does not change when others are added or removed: u is the first eight bytes,
/// big-endian, of SHA-256(seed as eight little-endian bytes, then the name in UTF-8), over 2^64; the
/// file is a test image where u < `test_fraction`, a validation image where u is below `test_fraction` +
/// `dataset.validation` (where that is a number of images: one of the so many lowest u of those that are
/// no test images), and else a training image. The name is the path below the folder or in the zip, with
/// `/` between folders.
///
/// Of so few images that none falls to a split, those of the lowest u are its: one test image, one
/// validation image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitConfig {
    /// Share of the test images. Default 0.1.
    pub test_fraction: f64,
    /// Another seed, another split. Default 0.
    pub seed: u64,
}

impl Default for SplitConfig {
    fn default() -> SplitConfig {
        SplitConfig {
            test_fraction: 0.1,
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
        let found = self.test_fraction;
        if (0.0..1.0).contains(&found) {
            return Ok(());
        }
        Err(DataError::Config {
            key: "dataset.image_folder.split.test_fraction",
            problem: format!("found {found}, expected at least 0 and less than 1"),
        })
    }

    /// What each of the images with these names is for.
    ///
    /// # Errors
    /// As many validation images as there are images, or more.
    pub(crate) fn parts<S: AsRef<str>>(
        &self,
        names: &[S],
        validation: HoldOut,
    ) -> Result<Vec<Part>, DataError> {
        let u: Vec<f64> = names.iter().map(|name| self.u(name.as_ref())).collect();
        let mut by_u: Vec<usize> = (0..u.len()).collect();
        by_u.sort_by(|&a, &b| u[a].total_cmp(&u[b]));
        let n_below = |share: f64| by_u.partition_point(|&i| u[i] < share);
        let n_test = match self.test_fraction {
            0.0 => 0,
            share => n_below(share).max(1).min(u.len()),
        };
        let n_validation = match validation {
            HoldOut::Fraction(share) if share > 0.0 => {
                let n_held_out = n_below(self.test_fraction + share);
                n_held_out.saturating_sub(n_test).max(1)
            }
            count => count.of(u.len() - n_test)?,
        };
        let mut parts = vec![Part::Train; u.len()];
        for (rank, &i) in by_u.iter().enumerate().take(n_test + n_validation) {
            parts[i] = match rank < n_test {
                true => Part::Test,
                false => Part::Validation,
            };
        }
        Ok(parts)
    }

    /// Where a name lies, from 0 to 1.
    fn u(&self, name: &str) -> f64 {
        let hash = Sha256::new()
            .chain_update(self.seed.to_le_bytes())
            .chain_update(name)
            .finalize();
        let [a, b, c, d, e, f, g, h, ..] = hash[..] else {
            unreachable!("SHA-256 has 32 bytes")
        };
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) as f64 / 2.0_f64.powi(64)
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

    /// What each of the images with these names is for; none where the list does not say. Where
    /// `validation` is 0 those for validation are trained on, and where the list has none of them, they are
    /// taken from the training images as `validation` says.
    ///
    /// # Errors
    /// `validation` says how many, and the list does too.
    pub(crate) fn parts<S: AsRef<str>>(
        &self,
        names: &[S],
        validation: Option<HoldOut>,
    ) -> Result<Vec<Option<Part>>, DataError> {
        let mut parts: Vec<Option<Part>> =
            names.iter().map(|name| self.part(name.as_ref())).collect();
        let has_validation = parts.contains(&Some(Part::Validation));
        match validation {
            None if has_validation => {}
            Some(validation) if validation.is_none() => {
                for part in &mut parts {
                    *part = part.map(|part| match part {
                        Part::Validation => Part::Train,
                        other => other,
                    });
                }
            }
            Some(validation) if has_validation => {
                return Err(DataError::Config {
                    key: VALIDATION_KEY,
                    problem: format!(
                        "found {validation}, but {} says which images are for validation: leave the key \
                         out, or say 0 to train on them too (validation_limit takes fewer)",
                        self.path.display()
                    ),
                });
            }
            _ => {
                let of_train: Vec<usize> = (0..parts.len())
                    .filter(|&i| parts[i] == Some(Part::Train))
                    .collect();
                let train_names: Vec<&str> = of_train.iter().map(|&i| names[i].as_ref()).collect();
                let split = SplitConfig {
                    test_fraction: 0.0,
                    seed: 0,
                };
                let validation = validation.unwrap_or(DEFAULT_VALIDATION);
                let chosen = split.parts(&train_names, validation)?;
                for (&i, part) in of_train.iter().zip(chosen) {
                    parts[i] = Some(part);
                }
            }
        }
        Ok(parts)
    }

    /// By the whole path, or by the file's own name, as CelebA's list has it.
    fn part(&self, name: &str) -> Option<Part> {
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
        // u from Python: int.from_bytes(sha256(seed.to_bytes(8, "little") + name).digest()[:8]) / 2**64.
        for (seed, name, u) in [
            (0, "000001.jpg", 0.5802),
            (0, "000002.jpg", 0.3965),
            (0, "img_align_celeba/000001.jpg", 0.8259),
            (1, "000001.jpg", 0.0118),
            (u64::MAX, "Ä/ö.png", 0.0253),
            (0, "000003.jpg", 0.4815),
            (5, "a", 0.9977),
        ] {
            let split = SplitConfig {
                test_fraction: 0.3,
                seed,
            };
            let found = split.u(name);
            assert!((found - u).abs() < 1e-4, "{name} with seed {seed}: {found}");
        }
        let split = SplitConfig {
            test_fraction: 0.4,
            seed: 0,
        };
        let names = [
            "000001.jpg",
            "000002.jpg",
            "img_align_celeba/000001.jpg",
            "000003.jpg",
        ];
        let parts = |validation| split.parts(&names, validation).unwrap();
        use Part::{Test, Train, Validation};
        let by_share = parts(HoldOut::Fraction(0.1)); // Below 0.5.
        assert_eq!(by_share, [Train, Test, Train, Validation]);
        let by_count = parts(HoldOut::Count(2));
        assert_eq!(by_count, [Validation, Test, Train, Validation]);
        assert_eq!(parts(HoldOut::Count(0)), [Train, Test, Train, Train]);
        assert!(split.parts(&names, HoldOut::Count(3)).is_err());
    }

    #[test]
    fn the_shares_are_those_asked_for() {
        let split = SplitConfig {
            test_fraction: 0.2,
            seed: 3,
        };
        let names: Vec<_> = (0..10_000).map(|i| format!("{i}.jpg")).collect();
        let parts = split.parts(&names, HoldOut::Fraction(0.1)).unwrap();
        let count = |part| parts.iter().filter(|&&found| found == part).count() as f64;
        // Binomial: standard deviations of 40 and 30 images.
        assert!((count(Part::Test) - 2000.0).abs() < 200.0);
        assert!((count(Part::Validation) - 1000.0).abs() < 150.0);
    }

    #[test]
    fn three_images_are_enough_for_three_splits() {
        let split = SplitConfig::default();
        for n in 3..12 {
            let names: Vec<_> = (0..n).map(|i| format!("{i}.png")).collect();
            let parts = split.parts(&names, HoldOut::Fraction(0.1)).unwrap();
            for part in [Part::Train, Part::Validation, Part::Test] {
                assert!(parts.contains(&part), "{n} images: {parts:?}");
            }
        }
        // Nothing is taken from the training images where nothing is asked for.
        let names = ["a", "b", "c"];
        let split = SplitConfig {
            test_fraction: 0.0,
            seed: 0,
        };
        assert_eq!(
            split.parts(&names, HoldOut::Count(0)).unwrap(),
            [Part::Train; 3]
        );
        assert!(split.parts(&[] as &[&str], HoldOut::Fraction(0.1)).is_ok());
    }

    #[test]
    fn a_fraction_that_leaves_nothing_is_refused() {
        for (test_fraction, found) in [(1.0, "1"), (-0.1, "-0.1"), (f64::NAN, "NaN")] {
            let split = SplitConfig {
                test_fraction,
                seed: 0,
            };
            assert_eq!(
                split.check().unwrap_err().to_string(),
                format!(
                    "dataset.image_folder.split.test_fraction: found {found}, expected at least 0 and \
                     less than 1"
                )
            );
        }
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
