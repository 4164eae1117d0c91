//! `[dataset.arrays]`: items that are rows of an array or a table.

mod layout;
mod rows;
mod statistics;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tch::Tensor;
use tracing::{info, warn};
use vae_base::{ItemKind, ItemSpec};

use crate::array_file::{ArrayReader, Labels, Names, Wanted, is_table, read_labels};
use crate::limits::{Sizes, TEST_LIMIT, TRAIN_LIMIT, VALIDATION_LIMIT, n_within};
use crate::{DataError, Dataset, HoldOut, RowSplit, Splits};

pub use layout::ArrayLayout;
pub use statistics::{ValueStatistics, array_statistics};

pub(crate) use statistics::{standardization, statistics};

pub(crate) use rows::{Rows, check_item};

/// The largest number of rows; more would not fit in memory.
const MOST_ROWS: usize = 1 << 28;

/// The largest number of classes. Labels count classes from 0.
const MOST_CLASSES: i64 = 1 << 16;

/// The largest number of columns that a warning names.
const N_NAMED: usize = 10;

/// Items that are rows of an array or table (`[dataset.arrays]`), in a `.npy`, `.npz`, `.safetensors` or `.parquet`
/// file: vectors `[N, D]`, series `[N, C, T]`, images `[N, C, H, W]`.
///
/// Bytes (`uint8`) in a layout of images are images, with 0 for black and 255 for white. Integers, floats and
/// booleans of any size otherwise become f32, in their own unit. Values beyond the range of f32 are an error.
///
/// Without a `test` file the test items are rows of `train`. The validation items (`dataset.validation`, by default a
/// tenth) are always rows of `train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArraysConfig {
    /// The file of training items: a path, or a table with the name of the array in it.
    #[schemars(example = &"train.npy")]
    pub train: ArrayFileConfig,

    /// The file of test items: a path, or a table as for `train`. Its format may differ from that of `train`. By
    /// default some rows of `train` are held out for testing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<ArrayFileConfig>,

    /// Fraction of the rows of `train` that are test items if there is no `test` file. Default 0.1.
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    #[serde(default = "default_test_fraction")]
    pub test_fraction: f64,

    /// Which rows of `train` are held out for validation and testing. Default `"random"`.
    #[serde(default)]
    pub split: RowSplit,

    /// The meaning of the arrays' axes. By default the number of axes decides: `[N, D]`, `[N, C, T]` or `[N, C, H,
    /// W]`. Required for bytes with three axes and for images with the channels last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<ArrayLayout>,

    /// The columns of `.parquet` files that make up the items, in this order: numbers, or lists of numbers of one
    /// length. By default all numeric columns except the labels and an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub columns: Option<Vec<String>>,

    /// Standardize the model's input to (x − mean) / standard deviation, per channel (for vectors per value), with
    /// the statistics of the training items. The statistics are saved with the weights, and the model's output is
    /// converted back to the data's own unit. Images are never standardized. Default true.
    #[serde(default = "yes")]
    pub standardize: bool,

    /// How to treat missing values (NaN; in Parquet files also null). Default `"refuse"`.
    #[serde(default)]
    pub missing: Missing,
}

fn default_test_fraction() -> f64 {
    0.1
}

fn yes() -> bool {
    true
}

/// A file and the part of it to use. In a config a path alone is its `file`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(extend("type" = ["object", "string"]))]
pub struct ArrayFileConfig {
    /// A `.npy`, `.npz`, `.safetensors` or `.parquet` file, relative to the current folder.
    #[schemars(example = &"mnist.npz", extend("x-resume" = true))]
    pub file: PathBuf,

    /// The name of the array in a `.npz` or `.safetensors` file. By default the only array in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,

    /// The class of each row: the name of an array in the same file or of a column of the same table, or the path of
    /// another file. Integers from 0, with −1 for unknown; text in a table is numbered in sorted order. By default
    /// classes are unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
}

impl<'de> Deserialize<'de> for ArrayFileConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            file: PathBuf,
            array: Option<String>,
            labels: Option<String>,
        }
        struct PathOrTable;
        impl<'de> Visitor<'de> for PathOrTable {
            type Value = ArrayFileConfig;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str(
                    "a path, or a table such as { file = \"mnist.npz\", array = \"x_train\" }",
                )
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<ArrayFileConfig, E> {
                Ok(ArrayFileConfig {
                    file: path.into(),
                    array: None,
                    labels: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ArrayFileConfig, A::Error> {
                let Table {
                    file,
                    array,
                    labels,
                } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ArrayFileConfig {
                    file,
                    array,
                    labels,
                })
            }
        }
        deserializer.deserialize_any(PathOrTable)
    }
}

/// How missing values are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Missing {
    /// Stop with an error that names the position of the first one.
    #[default]
    Refuse,
    /// Leave them out of the likelihood and of the statistics.
    Ignore,
}

/// The contents of the files according to their headers.
struct Opened {
    reader: ArrayReader,
    layout: ArrayLayout,
    /// Without statistics.
    item: ItemSpec,
}

impl ArraysConfig {
    /// Checks everything that can be checked without opening a file.
    pub(crate) fn check(&self, is_binarized: bool) -> Result<(), DataError> {
        let found = self.test_fraction;
        if !(found > 0.0 && found < 1.0) {
            return Err(DataError::Config {
                key: "dataset.arrays.test_fraction",
                problem: format!("found {found}, expected more than 0 and less than 1"),
            });
        }
        if self.columns.as_ref().is_some_and(Vec::is_empty) {
            return Err(DataError::Config {
                key: "dataset.arrays.columns",
                problem:
                    "found none, expected names (leave the key out to use every column of numbers)"
                        .to_owned(),
            });
        }
        match self.layout.is_some_and(|layout| !layout.is_of_images()) {
            true => refuse_binarization(is_binarized),
            false => Ok(()),
        }
    }

    /// The reader of the `test` file if it exists and holds images of one channel, `[N, H, W]` in memory order, and
    /// their height and width.
    pub(crate) fn gray_test_images(&self) -> Result<Option<(ArrayReader, [i64; 2])>, DataError> {
        let Some(source) = &self.test else {
            return Ok(None);
        };
        let opened = match self.open(source, None) {
            Err(DataError::MissingArrays { .. }) => return Ok(None),
            opened => opened?,
        };
        let image = opened.item.map();
        let is_gray = opened.item.is_image() && image.channels == 1;
        Ok(is_gray.then_some((opened.reader, [image.height, image.width])))
    }

    /// Kind and shape of the items, from the header of the training file; without statistics.
    pub(crate) fn item_spec(&self, is_binarized: bool) -> Result<ItemSpec, DataError> {
        let item = self.open(&self.train, self.columns.as_deref())?.item;
        if !item.is_image() {
            refuse_binarization(is_binarized)?;
        }
        Ok(item)
    }

    fn open(
        &self,
        source: &ArrayFileConfig,
        columns: Option<&[String]>,
    ) -> Result<Opened, DataError> {
        let wanted = Wanted {
            array: source.array.as_deref(),
            columns,
            labels: source.labels.as_deref(),
        };
        let reader = ArrayReader::open(&source.file, &wanted)?;
        let layout = self.layout_of(&source.file, &reader)?;
        let shape = layout.item_shape(&reader.shape()[1..]);
        let is_image = layout.is_of_images() && reader.number().is_byte();
        let kind = match is_image {
            true => ItemKind::Image,
            false => ItemKind::Array,
        };
        let item = ItemSpec {
            has_missing: !is_image && self.missing == Missing::Ignore,
            ..ItemSpec::new(kind, shape)
        };
        let n = reader.shape()[0];
        let problem = match item.problem() {
            None if n > MOST_ROWS => Some(format!("{n} rows, expected at most {MOST_ROWS}")),
            problem => problem,
        };
        match problem {
            Some(problem) => Err(wrong(&source.file, problem)),
            None => Ok(Opened {
                reader,
                layout,
                item,
            }),
        }
    }

    /// The layout in the config, or the default for the array's number of axes.
    fn layout_of(&self, path: &Path, reader: &ArrayReader) -> Result<ArrayLayout, DataError> {
        let shape = reader.shape();
        if let Some(layout) = self.layout {
            let (wanted, found) = (layout.n_axes(), shape.len());
            return match wanted == found {
                true => Ok(layout),
                false => Err(wrong(
                    path,
                    format!(
                        "is an array of shape {shape:?}, but dataset.arrays.layout = \"{}\" has {wanted} axes",
                        layout.name()
                    ),
                )),
            };
        }
        let Some(layout) = ArrayLayout::of_axes(shape.len()) else {
            return Err(wrong(
                path,
                format!(
                    "is an array of shape {shape:?}, expected [N, D], [N, C, T] or [N, C, H, W] (in numpy: \
                     array.reshape)"
                ),
            ));
        };
        // A wrong layout would silently treat channels, rows or columns as each other.
        let likely = match *shape {
            [_, _, _] if reader.number().is_byte() => Some(("n_h_w", "n_c_t", "series")),
            [_, first, _, 1 | 3 | 4] if first > 4 => Some(("n_h_w_c", "n_c_h_w", "channels first")),
            _ => None,
        };
        match likely {
            Some((of_images, other, what)) => Err(DataError::Config {
                key: "dataset.arrays.layout",
                problem: format!(
                    "is needed for {} of shape {shape:?}: \"{of_images}\" if these are images, \"{other}\" if they are \
                     {what}",
                    path.display()
                ),
            }),
            None => Ok(layout),
        }
    }

    /// Reads the items of the splits, and computes the statistics of the training items.
    pub(crate) fn load(&self, sizes: &Sizes, is_binarized: bool) -> Result<Splits, DataError> {
        let train = self.open(&self.train, self.columns.as_deref())?;
        if !train.item.is_image() {
            refuse_binarization(is_binarized)?;
        }
        // The columns of a test table must be those of a training table, in its order. Other formats have no names.
        let columns = columns_of(&train.reader);
        let test = self.test.as_ref().map(|source| {
            let columns = match is_table(&source.file)? {
                true => columns.as_deref(),
                false => None,
            };
            let opened = self.open(source, columns)?;
            check_item(
                &source.file,
                &opened.item,
                &train.item,
                "the training items",
            )?;
            Ok((source, opened))
        });
        let test = test.transpose()?;

        let n = train.reader.shape()[0];
        let [train_rows, validation_rows, test_rows] =
            self.positions(n, test.is_some(), sizes.validation)?;
        let path = &self.train.file;
        let limited = |rows: Vec<usize>, limit, key| {
            let n = n_within(limit, rows.len(), key, path);
            rows[..n].to_vec()
        };
        let limits = sizes.limits;
        let train_rows = limited(train_rows, limits.train, TRAIN_LIMIT);
        let validation_rows = limited(validation_rows, limits.validation, VALIDATION_LIMIT);
        let [test_rows, test_file_rows] = match &test {
            None => [limited(test_rows, limits.test, TEST_LIMIT), Vec::new()],
            Some((source, opened)) => {
                let n = opened.reader.shape()[0];
                [
                    Vec::new(),
                    (0..n_within(limits.test, n, TEST_LIMIT, &source.file)).collect(),
                ]
            }
        };

        let [labels, test_labels] = self.labels(n, &test)?;
        let column_names = train.reader.column_names().map(<[String]>::to_vec);
        let mut item = train.item.clone();
        let [train_items, validation_items, test_items] =
            Rows::new(path, train.reader, train.layout, train.item).read_splits([
                &train_rows,
                &validation_rows,
                &test_rows,
            ])?;
        if !item.is_image() {
            let found = statistics(&train_items, &item);
            let is_standardized = self.standardize;
            warn_about_constants(
                path,
                &found,
                &item,
                column_names.as_deref(),
                is_standardized,
            );
            item.standardization = is_standardized.then(|| standardization(&found));
        }
        let of = |items: Tensor, labels: &Option<Vec<i64>>, rows: &[usize]| {
            let labels = labels.as_ref().map(|labels| {
                let labels: Vec<i64> = rows.iter().map(|&row| labels[row]).collect();
                Tensor::from_slice(&labels)
            });
            let dataset = Dataset::of_items(item.clone(), items, labels)?;
            Ok::<_, DataError>(dataset.with_rows(rows))
        };
        let test = match test {
            None => of(test_items, &labels, &test_rows)?,
            Some((source, opened)) => {
                let [items] = Rows::new(&source.file, opened.reader, opened.layout, opened.item)
                    .read_splits([&test_file_rows])?;
                of(items, &test_labels, &test_file_rows)?
            }
        };
        let validation = match validation_rows.is_empty() {
            true => None,
            false => Some(of(validation_items, &labels, &validation_rows)?),
        };
        let train = of(train_items, &labels, &train_rows)?;
        Ok(Splits::new(train, validation, test))
    }

    /// Which of `n` rows are training, validation and test items.
    fn positions(
        &self,
        n: usize,
        has_test_file: bool,
        validation: Option<HoldOut>,
    ) -> Result<[Vec<usize>; 3], DataError> {
        let least = if has_test_file { 1 } else { 2 };
        if n < least {
            let problem = format!("holds {n} rows, expected at least {least}");
            return Err(wrong(&self.train.file, problem));
        }
        let test_fraction = (!has_test_file).then_some(self.test_fraction);
        self.split
            .rows(n, test_fraction, validation, "arrays split")
    }

    /// The labels of every row of the training file and of the test file.
    fn labels(
        &self,
        n: usize,
        test: &Option<(&ArrayFileConfig, Opened)>,
    ) -> Result<[Option<Vec<i64>>; 2], DataError> {
        let read = |source: &ArrayFileConfig, n| match &source.labels {
            Some(name) => read_labels(&source.file, name, n).map(Some),
            None => Ok(None),
        };
        let train = read(&self.train, n)?;
        let test = match test {
            Some((source, opened)) => {
                let labels = read(source, opened.reader.shape()[0])?;
                labels.map(|labels| (&*source.file, labels))
            }
            None => None,
        };
        let classes = train.as_ref().map_or_else(Vec::new, classes_of);
        if !classes.is_empty() {
            let named = classes.iter().take(N_NAMED).enumerate();
            let named: Vec<String> = named.map(|(i, class)| format!("{i} = {class}")).collect();
            info!(
                "{}: {} classes: {}",
                self.train.file.display(),
                classes.len(),
                named.join(", ")
            );
        }
        let numbered = |path: &Path, labels| numbers_of(path, labels, &classes);
        Ok([
            train
                .map(|labels| numbered(&self.train.file, labels))
                .transpose()?,
            test.map(|(path, labels)| numbered(path, labels))
                .transpose()?,
        ])
    }

    /// Converts labels of another file to the numbers of the classes seen in training; −1 for other labels. `None` if
    /// text would have to be numbered and the training file no longer exists.
    pub(crate) fn input_labels(&self, labels: Labels) -> Option<Vec<i64>> {
        let texts = match labels {
            Labels::Numbers(numbers) => return Some(numbers),
            Labels::Texts(texts) => texts,
        };
        let train = self.open(&self.train, None).ok()?;
        let name = self.train.labels.as_ref()?;
        let trained = read_labels(&self.train.file, name, train.reader.shape()[0]).ok()?;
        let classes = classes_of(&trained);
        let number = |text: Option<String>| {
            let place = text.and_then(|text| classes.binary_search(&text).ok());
            place.map_or(-1, |place| place as i64)
        };
        Some(texts.into_iter().map(number).collect())
    }

    /// Opens another file for a trained model, with the columns and arrays of this config. `array` is the requested
    /// array, for files with several.
    pub(crate) fn open_input(
        &self,
        path: &Path,
        array: Option<&str>,
        names: &Names,
    ) -> Result<(ArrayReader, ArrayLayout, ItemSpec, Option<String>), DataError> {
        let sources = [self.test.as_ref(), Some(&self.train)];
        let in_file = |name: &Option<String>| name.clone().filter(|n| names.all().contains(n));
        let labels = sources
            .iter()
            .flatten()
            .find_map(|source| in_file(&source.labels));
        let mut known: Vec<String> = sources
            .iter()
            .flatten()
            .filter_map(|source| in_file(&source.array))
            .collect();
        known.dedup();
        let array = match (array, &known[..]) {
            (Some(array), _) => Some(array.to_owned()),
            // If there are several, the reader's error lists them.
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        };
        let columns = match names {
            Names::Columns(_) => self.columns.clone().or_else(|| self.training_columns()),
            Names::None | Names::Arrays(_) => None,
        };
        let source = ArrayFileConfig {
            file: path.to_owned(),
            array,
            labels: labels.clone(),
        };
        let Opened {
            reader,
            layout,
            item,
        } = self.open(&source, columns.as_deref())?;
        Ok((reader, layout, item, labels))
    }

    /// The columns of the training file, if it is a table and still exists.
    fn training_columns(&self) -> Option<Vec<String>> {
        let train = self.open(&self.train, None);
        train.ok().and_then(|train| columns_of(&train.reader))
    }
}

fn refuse_binarization(is_binarized: bool) -> Result<(), DataError> {
    match is_binarized {
        false => Ok(()),
        true => Err(DataError::Config {
            key: "dataset.binarization",
            problem: "makes pixels black or white, but the items of [dataset.arrays] are not images (bytes in \
                      a layout of images); remove it"
                .to_owned(),
        }),
    }
}

/// The columns of a table that make up its items; a column of lists has a name for each of its numbers.
fn columns_of(reader: &ArrayReader) -> Option<Vec<String>> {
    let mut columns: Vec<String> = reader
        .column_names()?
        .iter()
        .map(|name| match name.rsplit_once('[') {
            Some((column, place)) if place.ends_with(']') => column.to_owned(),
            _ => name.clone(),
        })
        .collect();
    columns.dedup();
    Some(columns)
}

/// The distinct texts among labels, sorted; empty for numbers.
fn classes_of(labels: &Labels) -> Vec<String> {
    let texts = match labels {
        Labels::Texts(texts) => &texts[..],
        Labels::Numbers(_) => &[],
    };
    let classes: BTreeSet<&String> = texts.iter().flatten().collect();
    classes.into_iter().cloned().collect()
}

/// Converts labels to numbers of classes.
fn numbers_of(path: &Path, labels: Labels, classes: &[String]) -> Result<Vec<i64>, DataError> {
    let numbers: Vec<i64> = match labels {
        Labels::Numbers(numbers) => numbers,
        Labels::Texts(texts) => {
            let number = |text: Option<String>| {
                let Some(text) = text else {
                    return Ok(-1);
                };
                let place = classes.binary_search(&text);
                place.map(|place| place as i64).map_err(|_| {
                    wrong(
                        path,
                        format!(
                            "has the label {text:?}, which does not occur in the training file"
                        ),
                    )
                })
            };
            texts.into_iter().map(number).collect::<Result<_, _>>()?
        }
    };
    match numbers
        .iter()
        .find(|label| !(-1..MOST_CLASSES).contains(*label))
    {
        Some(label) => Err(wrong(
            path,
            format!(
                "has the label {label}, expected 0 to {}, or -1 for unknown",
                MOST_CLASSES - 1
            ),
        )),
        None => Ok(numbers),
    }
}

/// Warns about values that are the same in every training item or always missing.
fn warn_about_constants(
    path: &Path,
    found: &[ValueStatistics],
    item: &ItemSpec,
    column_names: Option<&[String]>,
    is_standardized: bool,
) {
    let constant: Vec<usize> = (0..found.len())
        .filter(|&i| found[i].is_constant())
        .collect();
    if constant.is_empty() {
        return;
    }
    let what = match item.shape.len() {
        1 => "column",
        _ => "channel",
    };
    let name = |&i: &usize| match column_names {
        Some(names) if names.len() == found.len() => names[i].clone(),
        _ => i.to_string(),
    };
    let named: Vec<String> = constant.iter().take(N_NAMED).map(name).collect();
    let more = match constant.len() > N_NAMED {
        true => format!(" and {} more", constant.len() - N_NAMED),
        false => String::new(),
    };
    let divided = match is_standardized {
        true => ": standardized with a standard deviation of 1",
        false => "",
    };
    warn!(
        "{}: {what} {}{more}: the same number in every training item, or always missing{divided}",
        path.display(),
        named.join(", ")
    );
}

fn wrong(path: &Path, problem: String) -> DataError {
    DataError::ArrayFile {
        path: path.to_owned(),
        problem,
    }
}
