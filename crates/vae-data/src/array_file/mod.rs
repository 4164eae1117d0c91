//! Arrays in the file formats of Python: npy, npz, safetensors and Parquet, detected by their first bytes.
//!
//! The header is read first and compared with the length of the file; the numbers are read in chunks of rows.

mod number;
mod numpy;
mod parquet;
mod safetensors;

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use vae_base::open_regular;

use crate::DataError;
use crate::npz::Npz;

pub use number::Number;
pub use parquet::{ParquetColumn, ParquetReader, ParquetRows, is_reading};
pub use safetensors::safetensors_header;

use numpy::Numbers;

/// Bytes per read, rounded to whole rows.
const CHUNK_BYTES: usize = 1 << 22;

/// The requested arrays or columns of a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The name of the array in an npz or safetensors file; `None` for the only one.
    pub array: Option<&'a str>,
    /// The columns of a Parquet file, in this order; `None` for all numeric columns.
    pub columns: Option<&'a [String]>,
    /// The array or column of labels, which is not part of the items.
    pub labels: Option<&'a str>,
}

/// An array `[N, …]` whose header was read.
pub struct ArrayReader {
    path: PathBuf,
    number: Number,
    shape: Vec<usize>,
    n_left: usize,
    column_names: Option<Vec<String>>,
    source: Source,
}

enum Source {
    Numbers(Numbers),
    Parquet(Box<ParquetReader>),
}

/// The format of a file of arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Npy,
    Npz,
    Parquet,
    Safetensors,
}

impl Format {
    /// Detects the format from the first bytes of a file of `n_bytes`; `None` for any other format.
    fn of(beginning: &[u8], n_bytes: u64) -> Option<Format> {
        match beginning {
            [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Some(Self::Npy),
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Self::Npz),
            [b'P', b'A', b'R', b'1', ..] => Some(Self::Parquet),
            [length @ .., b'{'] if length.len() == 8 => {
                let length = length.iter().rev();
                let length = length.fold(0, |sum, &byte| sum << 8 | u64::from(byte));
                (length < n_bytes).then_some(Self::Safetensors)
            }
            _ => None,
        }
    }
}

/// Opens a file and detects its format.
fn open(path: &Path) -> Result<(File, Option<Format>), DataError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => DataError::MissingArrays {
            path: path.to_owned(),
        },
        _ => DataError::Io {
            path: path.to_owned(),
            source,
        },
    };
    let mut file = open_regular(path).map_err(io)?;
    let n_bytes = file.metadata().map_err(io)?.len();
    let mut beginning = Vec::new();
    let n_read = (&mut file).take(9).read_to_end(&mut beginning);
    n_read
        .and_then(|_| file.seek(SeekFrom::Start(0)))
        .map_err(io)?;
    Ok((file, Format::of(&beginning, n_bytes)))
}

/// Whether a file is a table with named columns (Parquet).
pub(crate) fn is_table(path: &Path) -> Result<bool, DataError> {
    let (_, format) = open(path)?;
    Ok(format == Some(Format::Parquet))
}

/// What the names in a file of arrays refer to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Names {
    /// A single array without a name.
    None,
    Arrays(Vec<String>),
    Columns(Vec<String>),
}

impl Names {
    pub(crate) fn all(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::Arrays(names) | Self::Columns(names) => names,
        }
    }
}

/// The names in a file; `None` if its first bytes (for a zip its members) are not those of a file of arrays.
pub(crate) fn names(path: &Path) -> Result<Option<Names>, DataError> {
    let (mut file, format) = open(path)?;
    let damaged = |problem| wrong(path, problem);
    Ok(match format {
        None => None,
        Some(Format::Npy) => Some(Names::None),
        Some(Format::Npz) => {
            let npz = Npz::new(path, file, wrong).ok();
            let names: Vec<String> = npz.iter().flat_map(Npz::names).collect();
            (!names.is_empty()).then_some(Names::Arrays(names))
        }
        Some(Format::Safetensors) => {
            let header = safetensors_header(&mut file).map_err(damaged)?;
            Some(Names::Arrays(safetensors::names(&header).collect()))
        }
        Some(Format::Parquet) => {
            let mut names = Vec::new();
            let all = |columns: &[ParquetColumn]| {
                names = columns.iter().map(|column| column.name.clone()).collect();
                Ok(Vec::new())
            };
            ParquetReader::open(file, None, all).map_err(damaged)?;
            Some(Names::Columns(names))
        }
    })
}

impl ArrayReader {
    /// Reads the header.
    ///
    /// # Errors
    /// No such file; a file of another format or a damaged one; no such array or column; an array without numbers.
    pub fn open(path: &Path, wanted: &Wanted) -> Result<ArrayReader, DataError> {
        let (mut file, format) = open(path)?;
        let n_bytes = file.metadata().map_or(0, |metadata| metadata.len());
        let refuse_columns = || match wanted.columns {
            Some(_) => Err(wrong(
                path,
                "has no columns with names, which dataset.arrays.columns takes from a .parquet file",
            )),
            None => Ok(()),
        };
        let numbers = match format {
            None => {
                return Err(wrong(
                    path,
                    "is not a .npy, .npz, .safetensors or .parquet file by its first bytes (convert it, as with \
                     numpy.save)",
                ));
            }
            Some(Format::Parquet) => {
                if let Some(array) = wanted.array {
                    let problem =
                        format!("has no array {array}, but columns (dataset.arrays.columns)");
                    return Err(wrong(path, problem));
                }
                return ArrayReader::of_parquet(path, file, wanted);
            }
            Some(Format::Npy) => {
                refuse_columns()?;
                if let Some(array) = wanted.array {
                    let problem =
                        format!("holds one array without a name, but {array} was requested");
                    return Err(wrong(path, problem));
                }
                Numbers::of_npy(BufReader::new(file), n_bytes).map_err(|error| wrong(path, error))
            }
            Some(Format::Npz) => {
                refuse_columns()?;
                let mut npz = Npz::new(path, file, wrong)?;
                let name = chosen(path, npz.names(), wanted)?;
                let place = npz.place(&name)?;
                // A second handle, because the archive keeps its own.
                let file = open_regular(path).map_err(|source| DataError::Io {
                    path: path.to_owned(),
                    source,
                })?;
                Numbers::of_member(file, &place)
                    .map_err(|problem| wrong(path, format!("{name} {problem}")))
            }
            Some(Format::Safetensors) => {
                refuse_columns()?;
                let header = safetensors_header(&mut file).map_err(|error| wrong(path, error))?;
                let name = chosen(path, safetensors::names(&header), wanted)?;
                safetensors::numbers(file, &header, &name)
                    .map_err(|problem| wrong(path, format!("{name} {problem}")))
            }
        }?;
        ArrayReader::new(
            path,
            numbers.number,
            numbers.shape.clone(),
            None,
            Source::Numbers(numbers),
        )
    }

    fn of_parquet(path: &Path, file: File, wanted: &Wanted) -> Result<ArrayReader, DataError> {
        let reader = ParquetReader::open(file, None, |columns| choose(columns, wanted))
            .map_err(|problem| wrong(path, problem))?;
        let shape = vec![reader.n_rows(), reader.width()];
        let names = reader.column_names();
        let source = Source::Parquet(Box::new(reader));
        ArrayReader::new(path, Number::F32, shape, Some(names), source)
    }

    fn new(
        path: &Path,
        number: Number,
        shape: Vec<usize>,
        column_names: Option<Vec<String>>,
        source: Source,
    ) -> Result<ArrayReader, DataError> {
        let n_numbers = shape
            .iter()
            .try_fold(1_usize, |n, &side| n.checked_mul(side));
        if n_numbers.is_none_or(|n| n == 0) {
            let problem = format!("is an array of shape {shape:?}, expected numbers in it");
            return Err(wrong(path, problem));
        }
        Ok(ArrayReader {
            path: path.to_owned(),
            number,
            n_left: shape[0],
            shape,
            column_names,
            source,
        })
    }

    /// The type of the numbers; always f32 for a Parquet file.
    #[must_use]
    pub fn number(&self) -> Number {
        self.number
    }

    /// `[N, …]`, each dimension at least 1.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The names of the columns of a Parquet file; a column of lists appears once for each of its numbers.
    pub(crate) fn column_names(&self) -> Option<&[String]> {
        self.column_names.as_deref()
    }

    fn n_row_bytes(&self) -> usize {
        self.shape[1..].iter().product::<usize>() * self.number.n_bytes()
    }

    /// The number of rows to read at a time.
    pub(crate) fn chunk_rows(&self) -> usize {
        (CHUNK_BYTES / self.n_row_bytes()).max(1)
    }

    /// The numbers of the next `n` rows (fewer at the end), little-endian, row after row.
    ///
    /// # Errors
    /// The file ends early, is damaged, or was changed after it was opened.
    pub fn read(&mut self, n: usize) -> Result<Vec<u8>, DataError> {
        let n = n.min(self.n_left);
        let read = match &mut self.source {
            Source::Numbers(numbers) => numbers.read(n),
            Source::Parquet(reader) => reader.read(n).and_then(|rows| match rows.n_rows == n {
                true => Ok(rows.numbers.iter().flat_map(|x| x.to_le_bytes()).collect()),
                false => Err("ends early (a damaged file?)".to_owned()),
            }),
        };
        self.n_left -= n;
        read.map_err(|problem| wrong(&self.path, problem))
    }

    /// Skips `n` rows, or all that are left.
    pub(crate) fn skip(&mut self, n: usize) -> Result<(), DataError> {
        let mut n_left = n.min(self.n_left);
        while n_left > 0 {
            let n = n_left.min(self.chunk_rows());
            self.read(n)?;
            n_left -= n;
        }
        Ok(())
    }
}

impl fmt::Debug for ArrayReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrayReader")
            .field("path", &self.path)
            .field("number", &self.number)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// The class of every row: integers, or text, whose classes are numbered later.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Labels {
    /// −1 means unknown.
    Numbers(Vec<i64>),
    /// `None` means unknown.
    Texts(Vec<Option<String>>),
}

/// The labels for a file of arrays: its array or column of that name, or else the file of that name.
///
/// # Errors
/// Neither exists; it is not a list of integers, or its length is not `n`.
pub(crate) fn read_labels(path: &Path, name: &str, n: usize) -> Result<Labels, DataError> {
    let (mut file, format) = open(path)?;
    let of_file = |path: &Path, array| {
        let wanted = Wanted {
            array,
            ..Wanted::default()
        };
        ArrayReader::open(path, &wanted)
    };
    let has_array = match format {
        Some(Format::Parquet) => return parquet_labels(path, file, name, n),
        Some(Format::Npz) => Npz::new(path, file, wrong)?
            .names()
            .any(|other| other == name),
        Some(Format::Safetensors) => safetensors_header(&mut file)
            .map_err(|problem| wrong(path, problem))?
            .tensor(name)
            .is_some(),
        _ => false,
    };
    let (mut reader, shown) = match has_array {
        true => (of_file(path, Some(name))?, format!("{name} ")),
        false if Path::new(name).exists() => (of_file(name.as_ref(), None)?, String::new()),
        false => {
            let problem = format!("has no array {name}, and there is no file of that name");
            return Err(wrong(path, problem));
        }
    };
    let refuse = |reader: &ArrayReader, problem: String| {
        Err(wrong(&reader.path, format!("{shown}{problem}")))
    };
    let is_list = matches!(reader.shape[..], [_] | [_, 1]);
    if !is_list || reader.shape[0] != n {
        let found = reader.shape.clone();
        return refuse(
            &reader,
            format!("is an array of shape {found:?}, expected a label for each of {n} rows, [{n}]"),
        );
    }
    let bytes = reader.read(n)?;
    match reader.number.to_i64(&bytes) {
        Ok(labels) => Ok(Labels::Numbers(labels)),
        Err(found) => {
            let number = reader.number.name();
            refuse(
                &reader,
                format!("has the label {found} ({number}), expected integers"),
            )
        }
    }
}

fn parquet_labels(path: &Path, file: File, name: &str, n: usize) -> Result<Labels, DataError> {
    let refuse = |problem: String| Err(wrong(path, problem));
    let wanted = [name.to_owned()];
    let mut is_text = false;
    let reader = ParquetReader::open(file, Some(name), |columns| {
        is_text = columns.iter().any(|c| c.name == name && c.is_text);
        match is_text {
            true => Ok(Vec::new()),
            false => choose(
                columns,
                &Wanted {
                    columns: Some(&wanted),
                    ..Wanted::default()
                },
            ),
        }
    });
    let mut reader = reader.map_err(|problem| wrong(path, problem))?;
    if !is_text && reader.width() != 1 {
        return refuse(format!("column {name} has lists, expected labels"));
    }
    let rows = reader.read(n).map_err(|problem| wrong(path, problem))?;
    if rows.n_rows != n {
        return refuse("ends early (a damaged file?)".to_owned());
    }
    if let Some(texts) = rows.texts {
        return Ok(Labels::Texts(texts));
    }
    let labels = rows.numbers.into_iter().map(|label| match label {
        _ if label.is_nan() => Ok(-1),
        _ if label.fract() == 0.0 && label.abs() < 2_f32.powi(24) => Ok(label as i64),
        _ => Err(wrong(
            path,
            format!("column {name} has the label {label}, expected integers"),
        )),
    });
    Ok(Labels::Numbers(labels.collect::<Result<_, _>>()?))
}

/// The requested name, or that of the only array other than the labels.
fn chosen(
    path: &Path,
    names: impl Iterator<Item = String>,
    wanted: &Wanted,
) -> Result<String, DataError> {
    let names: Vec<String> = names.collect();
    let others = || {
        let names = names
            .iter()
            .filter(|name| Some(name.as_str()) != wanted.labels);
        names.cloned().collect::<Vec<_>>()
    };
    let found = match names.is_empty() {
        true => "no array".to_owned(),
        false => names.join(", "),
    };
    match (wanted.array, &others()[..]) {
        (Some(array), _) if names.iter().any(|name| name == array) => Ok(array.to_owned()),
        (Some(array), _) => Err(wrong(path, format!("holds no array {array}, only {found}"))),
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(wrong(
            path,
            format!(
                "holds {found}: name the one with the items, as in {{ file = \"…\", array = \"x_train\" }}"
            ),
        )),
    }
}

/// Chooses the columns of a Parquet file that make the items.
fn choose(columns: &[ParquetColumn], wanted: &Wanted) -> Result<Vec<usize>, String> {
    let Some(names) = wanted.columns else {
        let is_index = |name: &str| {
            name.is_empty() || name == "Unnamed: 0" || name.starts_with("__index_level_")
        };
        let numbers: Vec<usize> = (0..columns.len())
            .filter(|&i| columns[i].problem.is_none() && !is_index(&columns[i].name))
            .filter(|&i| Some(columns[i].name.as_str()) != wanted.labels)
            .collect();
        return match numbers.is_empty() {
            true => Err("has no column of numbers".to_owned()),
            false => Ok(numbers),
        };
    };
    let find = |name: &String| {
        let Some(i) = columns.iter().position(|column| column.name == *name) else {
            let there: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
            return Err(format!("has no column {name}, only {}", there.join(", ")));
        };
        match &columns[i].problem {
            Some(problem) => Err(format!("column {name}: {problem}")),
            None => Ok(i),
        }
    };
    names.iter().map(find).collect()
}

fn wrong(path: &Path, problem: impl Into<String>) -> DataError {
    DataError::ArrayFile {
        path: path.to_owned(),
        problem: problem.into(),
    }
}
