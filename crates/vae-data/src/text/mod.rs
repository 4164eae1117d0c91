//! `[dataset.text]`: texts as sequences of tokens.

mod lines;
mod tokenizer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use tracing::{info, warn};
use vae_base::{ItemKind, ItemSpec, TextSpec};

use crate::limits::{Sizes, TEST_LIMIT, TRAIN_LIMIT, VALIDATION_LIMIT, n_within};
use crate::{BadFile, BadFiles, DataError, Dataset, LoadReport, RowSplit, Splits};

pub use tokenizer::Tokenizer;

use lines::{Columns, Line, Lines, wrong};

/// The largest number of tokens of an item, and of a vocabulary.
const LARGEST: usize = 1 << 16;

/// Texts (`[dataset.text]`): a sentence a line. The items are sequences of tokens, i64 `[T]`: those of the text, then its
/// end, repeated up to T = `max_length` + 1. Empty lines are skipped.
///
/// The vocabulary is learned from the training texts and saved with the weights. Whatever the tokens are, each text has
/// some and comes back byte for byte: what training texts do not have is written in smaller pieces, down to bytes.
///
/// Without a `test` file the test items are lines of `path`. The validation items (`dataset.validation`, by default a
/// tenth) are always lines of `path`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// A file with a text in each line, a folder whose `.txt` files are such files, or a table (`.csv`, `.tsv`) with a
    /// column of texts. UTF-8, relative to the current folder.
    #[schemars(example = &"datasets/verses/verses.txt", extend("x-resume" = true))]
    pub path: PathBuf,

    /// The same with texts for testing. By default some texts of `path` are held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-resume" = true))]
    pub test: Option<PathBuf>,

    /// Fraction of the texts of `path` that are test items if there is no `test`. Default 0.1.
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    #[serde(default = "default_test_fraction")]
    pub test_fraction: f64,

    /// Which texts of `path` are held out for validation and testing. Default `"random"`.
    #[serde(default)]
    pub split: RowSplit,

    /// The column of a table that has the texts. By default the only column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,

    /// The column of a table that has the class of each text; classes are numbered in sorted order. By default classes are
    /// unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,

    /// What a token is. Default `"character"`.
    #[serde(default)]
    pub tokens: TokensConfig,

    /// The number of tokens of the longest text. Default 64.
    #[schemars(range(min = 1, max = LARGEST))]
    #[serde(default = "default_max_length")]
    pub max_length: usize,

    /// What happens to longer texts. Default `"cut"`.
    #[serde(default)]
    pub longer: Longer,

    /// What happens to lines that are not UTF-8. Default `"refuse"`.
    #[serde(default)]
    pub invalid: InvalidText,
}

fn default_test_fraction() -> f64 {
    0.1
}

fn default_max_length() -> usize {
    64
}

/// What a token of a text is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokensConfig {
    /// A character that training texts have; other characters are their bytes in UTF-8, two tokens each.
    #[default]
    Character,
    /// A frequent word, number or punctuation mark, each with the space before it; rare words are spelled in characters.
    Word(WordConfig),
    /// A part of a word, found by byte-pair encoding (Sennrich et al. 2016, <https://arxiv.org/abs/1508.07909>) of bytes.
    BytePair(BytePairConfig),
}

/// Words as tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WordConfig {
    /// The largest number of words, the most frequent ones; characters come on top. Default 5000.
    #[schemars(range(min = 1, max = LARGEST))]
    pub vocabulary: usize,
    /// How often a word has to occur in the training texts. Default 2.
    #[schemars(range(min = 1))]
    pub min_count: u64,
}

impl Default for WordConfig {
    fn default() -> Self {
        Self {
            vocabulary: 5000,
            min_count: 2,
        }
    }
}

/// Parts of words as tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BytePairConfig {
    /// The number of tokens, the 256 bytes and the end among them. Default 2000.
    #[schemars(range(min = SMALLEST_BYTE_PAIR, max = LARGEST))]
    pub vocabulary: usize,
}

/// The bytes and the end.
const SMALLEST_BYTE_PAIR: usize = 257;

impl Default for BytePairConfig {
    fn default() -> Self {
        Self { vocabulary: 2000 }
    }
}

/// What happens to texts of more than `max_length` tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Longer {
    /// They are cut, with an end after the last token that is kept.
    #[default]
    Cut,
    /// They are left out.
    Skip,
}

/// What happens to lines that are not UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InvalidText {
    /// The first one is an error that names file and line.
    #[default]
    Refuse,
    /// They are left out, and listed with the data set's bad files.
    Skip,
}

/// Texts as tokens, those that are too long cut or left out.
struct Encoded {
    /// Positions of the texts that are left.
    kept: Vec<usize>,
    /// `[N, 1, 1, T]`.
    items: Tensor,
    n_longer: usize,
}

impl TextConfig {
    /// Checks everything that can be checked without opening a file.
    pub(crate) fn check(&self, is_binarized: bool) -> Result<(), DataError> {
        let refuse = |key, problem: String| Err(DataError::Config { key, problem });
        if is_binarized {
            return refuse(
                "dataset.binarization",
                "makes pixels black or white, and the items of [dataset.text] are texts; remove it"
                    .to_owned(),
            );
        }
        let found = self.test_fraction;
        if !(found > 0.0 && found < 1.0) {
            return refuse(
                "dataset.text.test_fraction",
                format!("found {found}, expected more than 0 and less than 1"),
            );
        }
        let sizes = match &self.tokens {
            TokensConfig::Character => None,
            TokensConfig::Word(config) => {
                Some(("dataset.text.tokens.word.vocabulary", config.vocabulary, 1))
            }
            TokensConfig::BytePair(config) => Some((
                "dataset.text.tokens.byte_pair.vocabulary",
                config.vocabulary,
                SMALLEST_BYTE_PAIR,
            )),
        };
        if let TokensConfig::Word(WordConfig { min_count: 0, .. }) = self.tokens {
            return refuse(
                "dataset.text.tokens.word.min_count",
                "found 0, expected at least 1".to_owned(),
            );
        }
        let lengths = ("dataset.text.max_length", self.max_length, 1);
        for (key, found, least) in sizes.into_iter().chain([lengths]) {
            if !(least..=LARGEST).contains(&found) {
                return refuse(
                    key,
                    format!("found {found}, expected a number from {least} to {LARGEST}"),
                );
            }
        }
        Ok(())
    }

    fn columns(&self) -> Columns<'_> {
        Columns {
            text: self.column.as_deref(),
            label: self.labels.as_deref(),
        }
    }

    /// T, the tokens of an item with at least one end.
    fn length(&self) -> usize {
        self.max_length + 1
    }

    /// Kind and shape of the items. The vocabulary is learned for it.
    pub(crate) fn item_spec(&self, sizes: &Sizes) -> Result<ItemSpec, DataError> {
        Ok(self.load(sizes)?.train.item().clone())
    }

    /// Reads the texts of the splits, and learns the vocabulary of the training texts.
    pub(crate) fn load(&self, sizes: &Sizes) -> Result<Splits, DataError> {
        let all = Lines::read(&self.path, self.columns(), self.invalid)?;
        let test = self.test.as_ref();
        let test = test.map(|path| Ok((path, Lines::read(path, self.columns(), self.invalid)?)));
        let test: Option<(&PathBuf, Lines)> = test.transpose()?;
        let n = all.lines.len();
        let least = if test.is_some() { 1 } else { 2 };
        if n < least {
            let problem = format!("holds {n} texts, expected at least {least}");
            return Err(wrong(&self.path, problem));
        }
        let test_fraction = test.is_none().then_some(self.test_fraction);
        let [train_rows, validation_rows, test_rows] =
            self.split
                .rows(n, test_fraction, sizes.validation, "text split")?;
        let limits = sizes.limits;
        let limited = |rows: Vec<usize>, limit, key, path: &Path| {
            let n = n_within(limit, rows.len(), key, path);
            rows[..n].to_vec()
        };
        let train_rows = limited(train_rows, limits.train, TRAIN_LIMIT, &self.path);
        let validation_rows = limited(
            validation_rows,
            limits.validation,
            VALIDATION_LIMIT,
            &self.path,
        );
        let (test_lines, test_rows) = match &test {
            None => (
                &all,
                limited(test_rows, limits.test, TEST_LIMIT, &self.path),
            ),
            Some((path, lines)) => {
                let rows = (0..lines.lines.len()).collect();
                (lines, limited(rows, limits.test, TEST_LIMIT, path))
            }
        };

        let texts: Vec<&str> = train_rows
            .iter()
            .map(|&row| all.lines[row].text.as_str())
            .collect();
        let tokenizer = Tokenizer::learn(&self.tokens, &texts)?;
        let spec = tokenizer.spec();
        let item = ItemSpec {
            text: Some(spec.clone()),
            ..ItemSpec::new(ItemKind::of_text(spec), vec![self.length() as i64])
        };
        let classes = classes_of(&all.lines);
        if !classes.is_empty() {
            info!("{}: classes: {}", self.path.display(), classes.join(", "));
        }
        let mut n_longer = 0;
        let mut of = |lines: &[Line], rows: &[usize], what: &str| {
            let texts = rows.iter().map(|&row| lines[row].text.as_str());
            let encoded = self.encode(&tokenizer, texts);
            n_longer += encoded.n_longer;
            if encoded.kept.is_empty() && !rows.is_empty() {
                let problem = format!(
                    "every one of the {} {what} texts has more than max_length = {} tokens; a larger one would fit, or \
                     longer = \"cut\"",
                    rows.len(),
                    self.max_length
                );
                return Err(DataError::Config {
                    key: "dataset.text.max_length",
                    problem,
                });
            }
            let rows: Vec<usize> = encoded.kept.iter().map(|&i| rows[i]).collect();
            let labels = self.labels.is_some().then(|| {
                let labels: Vec<i64> = rows
                    .iter()
                    .map(|&row| class_of(&lines[row], &classes))
                    .collect();
                Tensor::from_slice(&labels)
            });
            let dataset = Dataset::of_items(item.clone(), encoded.items, labels)?;
            Ok(dataset.with_rows(&rows))
        };
        let train = of(&all.lines, &train_rows, "training")?;
        let validation = match validation_rows.is_empty() {
            true => None,
            false => Some(of(&all.lines, &validation_rows, "validation")?),
        };
        let test_items = of(&test_lines.lines, &test_rows, "test")?;
        if n_longer > 0 {
            let n = train_rows.len() + validation_rows.len() + test_rows.len();
            warn!(
                "{}: {n_longer} of {n} texts have more than {} tokens and are {}",
                self.path.display(),
                self.max_length,
                match self.longer {
                    Longer::Cut => "cut",
                    Longer::Skip => "left out",
                }
            );
        }
        let mut bad = all.bad;
        if let Some((_, lines)) = test {
            bad.extend(lines.bad);
        }
        if !bad.is_empty() {
            warn!(
                "{}: {} lines are not UTF-8 and are left out",
                self.path.display(),
                bad.len()
            );
        }
        Ok(Splits {
            report: LoadReport {
                bad_files: BadFiles::new(bad),
                ..LoadReport::default()
            },
            ..Splits::new(train, validation, test_items)
        })
    }

    fn encode<'a>(&self, tokenizer: &Tokenizer, texts: impl Iterator<Item = &'a str>) -> Encoded {
        let length = self.length();
        let (mut kept, mut tokens, mut n_longer) = (Vec::new(), Vec::new(), 0);
        for (i, text) in texts.enumerate() {
            let (item, is_longer) = tokenizer.item(text, length);
            n_longer += usize::from(is_longer);
            if is_longer && self.longer == Longer::Skip {
                continue;
            }
            kept.push(i);
            tokens.extend(item);
        }
        Encoded {
            items: Tensor::from_slice(&tokens).view([kept.len() as i64, 1, 1, length as i64]),
            kept,
            n_longer,
        }
    }
}

/// Texts for a trained model.
#[derive(Debug)]
pub(crate) struct InputTexts {
    pub(crate) texts: Vec<String>,
    /// The class of each, as the training file numbers them.
    pub(crate) labels: Vec<Option<i64>>,
    pub(crate) bad: Vec<BadFile>,
}

impl TextConfig {
    /// The texts of an argument: the lines of a file or folder of that name, else the argument itself.
    pub(crate) fn input(&self, argument: &Path) -> Result<InputTexts, DataError> {
        let text = argument.to_str();
        let typed = text.and_then(|text| text.strip_prefix("text:"));
        if typed.is_some() || !argument.exists() {
            let Some(text) = typed.or(text) else {
                return Err(wrong(argument, "is not UTF-8".to_owned()));
            };
            return Ok(InputTexts {
                texts: vec![text.to_owned()],
                labels: vec![None],
                bad: Vec::new(),
            });
        }
        let is_table = argument
            .extension()
            .is_some_and(|ending| ending == "csv" || ending == "tsv");
        let columns = match is_table {
            true => self.columns(),
            false => Columns::default(),
        };
        // A table without the run's column of classes has none.
        let lines = match Lines::read(argument, columns, InvalidText::Skip) {
            Err(DataError::Config {
                key: "dataset.text.labels",
                ..
            }) => {
                let columns = Columns {
                    label: None,
                    ..columns
                };
                Lines::read(argument, columns, InvalidText::Skip)?
            }
            lines => lines?,
        };
        let has_labels = lines.lines.iter().any(|line| line.label.is_some());
        let classes = match has_labels {
            true => Lines::read(&self.path, self.columns(), InvalidText::Skip)
                .map_or_else(|_| Vec::new(), |trained| classes_of(&trained.lines)),
            false => Vec::new(),
        };
        Ok(InputTexts {
            labels: lines
                .lines
                .iter()
                .map(|line| Some(class_of(line, &classes)).filter(|&class| class >= 0))
                .collect(),
            texts: lines.lines.into_iter().map(|line| line.text).collect(),
            bad: lines.bad,
        })
    }
}

/// Refuses a vocabulary other than the model's: the training file was replaced.
pub(crate) fn check_vocabulary(
    path: &Path,
    found: Option<&TextSpec>,
    wanted: Option<&TextSpec>,
) -> Result<(), DataError> {
    match found == wanted {
        true => Ok(()),
        false => Err(wrong(
            path,
            "its vocabulary is not that of the model: it is not the file that the model was trained on".to_owned(),
        )),
    }
}

/// The different labels, sorted.
fn classes_of(lines: &[Line]) -> Vec<String> {
    let labels = lines.iter().filter_map(|line| line.label.as_ref());
    let known: BTreeSet<&String> = labels.filter(|label| !label.is_empty()).collect();
    known.into_iter().cloned().collect()
}

/// The number of a text's class; −1 if it is unknown.
fn class_of(line: &Line, classes: &[String]) -> i64 {
    let place = line
        .label
        .as_ref()
        .and_then(|label| classes.binary_search(label).ok());
    place.map_or(-1, |place| place as i64)
}
