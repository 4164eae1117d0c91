//! Arrays in the files that people have in Python: npy, npz, safetensors and Parquet, known by their first bytes.
//!
//! The header is read first, and what it claims is compared with the length of the file; the numbers are read
//! some rows at a time.

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
pub use safetensors::Header as SafetensorsHeader;

use numpy::Numbers;

/// Bytes read at a time, as far as whole rows allow.
const CHUNK_BYTES: usize = 1 << 22;

/// Which numbers of a file are meant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The name of the array in an npz or safetensors file; none where it is the only one.
    pub array: Option<&'a str>,
    /// The columns of a Parquet file, in this order; none for all that are numbers.
    pub columns: Option<&'a [String]>,
    /// The array or column of labels, which is none of the items.
    pub labels: Option<&'a str>,
}

/// An array `[N, …]` of which the header was read.
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

/// The kind of a file of arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Npy,
    Npz,
    Parquet,
    Safetensors,
}

impl Format {
    /// By the first bytes of a file of `n_bytes`; none of another kind.
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

/// Opens a file and tells its kind.
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

/// What a file of arrays has names for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Names {
    /// Of one array without a name.
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

/// The names in a file, where its first bytes are those of a file of arrays, of a zip where its members are;
/// otherwise none.
pub(crate) fn names(path: &Path) -> Result<Option<Names>, DataError> {
    let (file, format) = open(path)?;
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
            let header = safetensors::Header::read(file).map_err(damaged)?;
            Some(Names::Arrays(header.names().collect()))
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
    /// No such file; one of another kind or damaged; no such array or column; an array without numbers.
    pub fn open(path: &Path, wanted: &Wanted) -> Result<ArrayReader, DataError> {
        let (file, format) = open(path)?;
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
                    "is no .npy, .npz, .safetensors or .parquet file by its first bytes (convert it, as with \
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
                        format!("holds one array without a name, but {array} was asked for");
                    return Err(wrong(path, problem));
                }
                Numbers::of_npy(BufReader::new(file), n_bytes).map_err(|error| wrong(path, error))
            }
            Some(Format::Npz) => {
                refuse_columns()?;
                let mut npz = Npz::new(path, file, wrong)?;
                let name = chosen(path, npz.names(), wanted)?;
                let place = npz.place(&name)?;
                // Another handle: the archive keeps its own.
                let file = open_regular(path).map_err(|source| DataError::Io {
                    path: path.to_owned(),
                    source,
                })?;
                Numbers::of_member(file, &place)
                    .map_err(|problem| wrong(path, format!("{name} {problem}")))
            }
            Some(Format::Safetensors) => {
                refuse_columns()?;
                let header = safetensors::Header::read(file).map_err(|error| wrong(path, error))?;
                let name = chosen(path, header.names(), wanted)?;
                header
                    .numbers(&name)
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

    /// The type of its numbers; of a Parquet file always f32.
    #[must_use]
    pub fn number(&self) -> Number {
        self.number
    }

    /// `[N, …]`, each at least 1.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The names of the columns of a Parquet file; one of lists comes once for each of its numbers.
    pub(crate) fn column_names(&self) -> Option<&[String]> {
        self.column_names.as_deref()
    }

    fn n_row_bytes(&self) -> usize {
        self.shape[1..].iter().product::<usize>() * self.number.n_bytes()
    }

    /// How many rows are worth reading at a time.
    pub(crate) fn chunk_rows(&self) -> usize {
        (CHUNK_BYTES / self.n_row_bytes()).max(1)
    }

    /// The numbers of the next `n` rows or of those that are left, little-endian, row after row.
    ///
    /// # Errors
    /// The file ends early, is damaged, or was changed since it was opened.
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

    /// Passes over `n` rows, or those that are left.
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
    /// −1 is unknown.
    Numbers(Vec<i64>),
    /// None is unknown.
    Texts(Vec<Option<String>>),
}

/// The labels of a file with arrays: its array or column of that name, or else a file of that name.
///
/// # Errors
/// Neither is there; it is no list of integers, or not one for each of `n` rows.
pub(crate) fn read_labels(path: &Path, name: &str, n: usize) -> Result<Labels, DataError> {
    let (file, format) = open(path)?;
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
        Some(Format::Safetensors) => safetensors::Header::read(file)
            .map_err(|problem| wrong(path, problem))?
            .names()
            .any(|other| other == name),
        _ => false,
    };
    let (mut reader, shown) = match has_array {
        true => (of_file(path, Some(name))?, format!("{name} ")),
        false if Path::new(name).exists() => (of_file(name.as_ref(), None)?, String::new()),
        false => {
            let problem = format!("no array of it is called {name}, nor is a file");
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

/// The name that was asked for, or that of the only array beside the labels.
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

/// Which columns of a Parquet file are the items.
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
