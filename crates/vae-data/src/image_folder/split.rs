//! Division of images into training, validation and test images.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::DEFAULT_VALIDATION;
use super::entry::has_image_name;
use super::names::ByName;
use super::table::{Csv, delimiter, file_column};
use super::text;
use crate::hold_out::VALIDATION_KEY;
use crate::limits::{Limits, TEST_LIMIT, TRAIN_LIMIT, VALIDATION_LIMIT, n_within};
use crate::{DataError, HoldOut};

/// The official name of CelebA's list, found automatically next to the images.
pub const PARTITION_FILE: &str = "list_eval_partition.txt";

/// The official name, and the one at Kaggle.
pub(crate) const PARTITION_FILES: [&str; 2] = [PARTITION_FILE, "list_eval_partition.csv"];

/// A split by a hash of the file name (`[dataset.image_folder.split]`), for images without a partition list.
///
/// The assignment of a file does not change when other files are added or removed. u is the first eight bytes,
/// big-endian, of SHA-256(seed as eight little-endian bytes, then the name in UTF-8), divided by 2^64. The file is a
/// test image if u < `test_fraction`, a validation image if u is below `test_fraction` + `dataset.validation` (if
/// that is a number n of images: if it is among the n lowest u of the other images), and otherwise a training image.
/// The name is the path in the folder or zip, with `/` between folders.
///
/// If there are so few images that a split would be empty, it gets the one with the lowest u.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SplitConfig {
    /// Fraction of the images that are test images. Default 0.1.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub test_fraction: f64,
    /// Seed of the random division into training, validation and test images. Default 0.
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

/// The split of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Train,
    Validation,
    Test,
}

impl SplitConfig {
    /// `key` is that of `test_fraction`.
    pub(crate) fn check(&self, key: &'static str) -> Result<(), DataError> {
        let found = self.test_fraction;
        if (0.0..1.0).contains(&found) {
            return Ok(());
        }
        Err(DataError::Config {
            key,
            problem: format!("found {found}, expected at least 0 and less than 1"),
        })
    }

    /// The split of each of the images with these names.
    ///
    /// # Errors
    /// At least as many validation images as there are images.
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

    /// The hash of a name, as a number from 0 to 1.
    pub(crate) fn u(&self, name: &str) -> f64 {
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

/// The items of each split, by their positions.
pub(crate) struct Parts {
    train: Vec<usize>,
    validation: Vec<usize>,
    test: Vec<usize>,
    /// How many are not in the list.
    pub(crate) n_unlisted: usize,
}

impl Parts {
    /// Divides items by a list, or else by the hashes of their names.
    pub(crate) fn of(
        names: &[String],
        partition: Option<&Partition>,
        split: &SplitConfig,
        validation: Option<HoldOut>,
    ) -> Result<Parts, DataError> {
        let parts: Vec<Option<Part>> = match partition {
            Some(partition) => partition.parts(names, validation)?,
            None => {
                let parts = split.parts(names, validation.unwrap_or(DEFAULT_VALIDATION))?;
                parts.into_iter().map(Some).collect()
            }
        };
        let of = |part| {
            let ids = parts.iter().enumerate();
            let ids = ids.filter(|&(_, &found)| found == Some(part));
            ids.map(|(i, _)| i).collect::<Vec<usize>>()
        };
        Ok(Parts {
            train: of(Part::Train),
            validation: of(Part::Validation),
            test: of(Part::Test),
            n_unlisted: parts.iter().filter(|part| part.is_none()).count(),
        })
    }

    /// The parts of items that each have parts of their own, of which these are the positions.
    pub(crate) fn expanded(mut self, of: impl Fn(usize) -> Vec<usize>) -> Parts {
        for part in [&mut self.train, &mut self.validation, &mut self.test] {
            *part = part.iter().flat_map(|&i| of(i)).collect();
        }
        self
    }

    /// The items of each split in the order of a number of each.
    pub(crate) fn ordered(mut self, number: impl Fn(usize) -> f64) -> Parts {
        for part in [&mut self.train, &mut self.validation, &mut self.test] {
            part.sort_by(|&a, &b| number(a).total_cmp(&number(b)).then(a.cmp(&b)));
        }
        self
    }

    /// The first training, validation and test items within these limits.
    ///
    /// # Errors
    /// There are no training items, or no test items. `what` is the table of the config.
    pub(crate) fn limited(
        self,
        limits: Limits,
        path: &Path,
        what: &'static str,
        n_images: usize,
    ) -> Result<[Vec<usize>; 3], DataError> {
        let limited = |mut ids: Vec<usize>, limit, key| {
            ids.truncate(n_within(limit, ids.len(), key, path));
            ids
        };
        let train = limited(self.train, limits.train, TRAIN_LIMIT);
        let validation = limited(self.validation, limits.validation, VALIDATION_LIMIT);
        let test = limited(self.test, limits.test, TEST_LIMIT);
        for (split, ids) in [("training", &train), ("test", &test)] {
            if ids.is_empty() {
                let path = path.to_owned();
                return Err(DataError::EmptySplit {
                    path,
                    what,
                    split,
                    n_images,
                });
            }
        }
        Ok([train, validation, test])
    }
}

/// Names of the partition's column in a list with a header; without one of them it is the last column.
const PART_COLUMNS: [&str; 6] = ["partition", "split", "set", "subset", "part", "fold"];

/// An official partition: each image's name with 0 (train), 1 (validation) or 2 (test).
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) path: PathBuf,
    parts: ByName<Part>,
}

impl Part {
    fn parse(text: &str) -> Option<Part> {
        match text.to_ascii_lowercase().as_str() {
            "0" | "train" | "training" => Some(Part::Train),
            "1" | "val" | "valid" | "validation" => Some(Part::Validation),
            "2" | "test" | "testing" => Some(Part::Test),
            _ => None,
        }
    }
}

impl Partition {
    /// Reads one line per image, with name and split separated by spaces, tabs, a comma or a semicolon, or a table
    /// with a header (separated by commas, semicolons or tabs).
    pub(crate) fn read(path: &Path) -> Result<Partition, DataError> {
        let text = text::read(path)?;
        let mut partition = Partition {
            path: path.to_owned(),
            parts: ByName::default(),
        };
        let first = text.lines().next().unwrap_or_default();
        let (name, part) = name_and_part(first);
        let has_header =
            Part::parse(part).is_none() && part.parse::<f64>().is_err() && !has_image_name(name);
        if has_header && delimiter(first).is_some() {
            partition.read_columns(&text)?;
        } else {
            for (line, i) in text.lines().zip(1..).skip(has_header.into()) {
                if !line.trim().is_empty() {
                    let (name, part) = name_and_part(line);
                    partition.insert(name, part, i, &format!("{line:?}"))?;
                }
            }
        }
        if partition.parts.first().is_empty() {
            return Err(DataError::List {
                path: path.to_owned(),
                problem: "lists no images, expected a file name and 0, 1 or 2 in each line".into(),
            });
        }
        Ok(partition)
    }

    /// The split of each of the images with these names; `None` if the list does not contain it. If `validation` is
    /// 0, the list's validation images are trained on. If the list has no validation images, they are taken from the
    /// training images according to `validation`.
    ///
    /// # Errors
    /// Both `validation` and the list determine the validation images.
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
                        "found {validation}, but {} says which images are for validation: remove the key \
                         or set it to 0 to train on them too (validation_limit uses fewer of them)",
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

    fn read_columns(&mut self, text: &str) -> Result<(), DataError> {
        let path = self.path.clone();
        let mut csv = Csv::new(&path, text)?;
        let header = csv.header.clone();
        let is_part = |name: &str| {
            PART_COLUMNS
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
        };
        let part = header.iter().position(is_part);
        let part = part.unwrap_or(header.len().saturating_sub(1));
        let mut name = None;
        for record in csv.records() {
            let (record, line) = record?;
            let name = *name.get_or_insert_with(|| file_column(&header, &record));
            let (name, part) = (&record[name], &record[part]);
            self.insert(name, part, line, &format!("{name:?} and {part:?}"))?;
        }
        Ok(())
    }

    /// `found` is the text of `name` and `part` in the list.
    fn insert(&mut self, name: &str, part: &str, line: u64, found: &str) -> Result<(), DataError> {
        let wrong = |problem| {
            Err(DataError::Table {
                path: self.path.clone(),
                line,
                problem,
            })
        };
        match Part::parse(part) {
            Some(part) if !name.is_empty() => match self.parts.insert(name, part) {
                Some(other) if other != part => wrong(format!(
                    "{name:?} is in the list twice, as {other:?} and as {part:?}"
                )),
                _ => Ok(()),
            },
            _ => wrong(format!(
                "found {found}, expected a file name and 0 (train), 1 (validation) or 2 (test)"
            )),
        }
    }

    /// Looked up by the whole path or by its end, because CelebA's list contains file names without folders.
    fn part(&self, name: &str) -> Option<Part> {
        self.parts.get(name).copied()
    }

    /// Warns if the list contains fewer than half of the images.
    ///
    /// # Errors
    /// It contains none of them.
    pub(crate) fn check(&self, images: &[String]) -> Result<(), DataError> {
        self.parts.check(&self.path, images)
    }
}

/// The parts of a line before and after its last separator.
fn name_and_part(line: &str) -> (&str, &str) {
    const SEPARATORS: [char; 4] = [' ', '\t', ',', ';'];
    let line = line.trim_matches(SEPARATORS);
    let (name, part) = line.rsplit_once(SEPARATORS).unwrap_or((line, ""));
    let name = name.trim_end_matches(SEPARATORS);
    (name.trim_matches('"'), part.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        let by_share = parts(HoldOut::Fraction(0.1)); // u below 0.5.
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
        // No images are taken from the training images if none are requested.
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
                split
                    .check("dataset.image_folder.split.test_fraction")
                    .unwrap_err()
                    .to_string(),
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

        // The same list as written by Kaggle, Excel, PowerShell, pandas and by hand.
        let utf16: Vec<u8> = "\u{feff}image_id,partition\r\nx/a.jpg,2\r\nb c.jpg,0\r\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        for list in [
            &b"image_id,partition\nx/a.jpg,2\nb c.jpg,0\n"[..],
            b"\xef\xbb\xbfimage_id;partition\r\n\"x/a.jpg\";2\r\n\"b c.jpg\";0\r\n",
            b"\xef\xbb\xbfx/a.jpg 2\nb c.jpg 0\n",
            &utf16,
            b",image_id,partition\n0,x/a.jpg,2\n1,b c.jpg,0\n",
            b"split,age,image\ntest,7,x/a.jpg\ntrain,8,b c.jpg\n",
            b"./x\\a.jpg\t2\rb c.jpg\t0\r",
            b"image partition\nx/a.jpg  test\nb c.jpg  Train\n",
            b"\"x/a.jpg\",2\n\"b c.jpg\",0",
        ] {
            fs::write(&path, list).unwrap();
            let partition = Partition::read(&path).unwrap();
            let parts = ["x/a.jpg", "b c.jpg", "c.jpg"].map(|name| partition.part(name));
            let list = String::from_utf8_lossy(list);
            assert_eq!(parts, [Some(Part::Test), Some(Part::Train), None], "{list}");
        }

        fs::write(&path, "a.jpg 0\nb.jpg 3\n").unwrap();
        let error = Partition::read(&path).unwrap_err().to_string();
        assert!(error.ends_with(
            "list_eval_partition.txt:2: found \"b.jpg 3\", expected a file name and 0 (train), 1 \
             (validation) or 2 (test)"
        ));
        for (list, message) in [
            (
                "a.jpg 0\nb.jpg 1\n./a.jpg 2\n",
                ":3: \"./a.jpg\" is in the list twice, as Train and as Test",
            ),
            (
                "image,partition\na.jpg,x\n",
                ":2: found \"a.jpg\" and \"x\", expected a file name and 0 (train), 1 (validation) or \
                 2 (test)",
            ),
            (
                "\n\n",
                " lists no images, expected a file name and 0, 1 or 2 in each line",
            ),
        ] {
            fs::write(&path, list).unwrap();
            let error = Partition::read(&path).unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
        }
    }
}
