//! Files of text as lines.

use std::fs;
use std::path::{Path, PathBuf};

use vae_base::{one_line, read_small};
use walkdir::WalkDir;

use super::InvalidText;
use crate::{BadFile, DataError};

/// Bytes of the largest file of text.
const LARGEST_FILE: u64 = 1 << 31;

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// Its class as the file has it.
    pub(crate) label: Option<String>,
}

/// The texts of a file or folder.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<Line>,
    pub(crate) n_empty: usize,
    /// Lines that are not text, by `FILE:LINE`.
    pub(crate) bad: Vec<BadFile>,
}

/// Which columns of a table are the text and its class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Columns<'a> {
    pub(crate) text: Option<&'a str>,
    pub(crate) label: Option<&'a str>,
}

impl Lines {
    /// The lines of a file, of the `.txt` files of a folder, or of a column of a `.csv` or `.tsv` file.
    pub(crate) fn read(
        path: &Path,
        columns: Columns,
        invalid: InvalidText,
    ) -> Result<Lines, DataError> {
        let mut lines = Lines::default();
        let is_folder = fs::metadata(path)
            .map_err(|source| io(path, source))?
            .is_dir();
        let files = match is_folder {
            true => text_files(path)?,
            false => vec![path.to_owned()],
        };
        for file in &files {
            match delimiter(file) {
                Some(delimiter) => lines.add_table(file, delimiter, columns)?,
                None if columns.text.is_some() || columns.label.is_some() => {
                    return Err(DataError::Config {
                        key: "dataset.text.column",
                        problem: format!(
                            "column and labels name columns of a .csv or .tsv file, and {} is a file of lines",
                            file.display()
                        ),
                    });
                }
                None => lines.add_file(file)?,
            }
        }
        if let (InvalidText::Refuse, Some(BadFile { name, reason })) = (invalid, lines.bad.first())
        {
            return Err(wrong(
                Path::new(name),
                format!(
                    "{reason}: in another encoding? Save it as UTF-8, or skip such lines (invalid = \"skip\")"
                ),
            ));
        }
        if lines.lines.is_empty() {
            let what = match is_folder {
                true => "holds no .txt file with a line of text",
                false => "holds no line of text",
            };
            return Err(wrong(path, what.to_owned()));
        }
        Ok(lines)
    }

    fn add(&mut self, text: &str, label: Option<&str>) {
        if text.trim().is_empty() {
            self.n_empty += 1;
            return;
        }
        self.lines.push(Line {
            text: text.to_owned(),
            label: label.map(str::to_owned),
        });
    }

    fn add_bad(&mut self, path: &Path, line: u64, reason: &str) {
        self.bad.push(BadFile {
            name: format!("{}:{line}", path.display()),
            reason: reason.to_owned(),
        });
    }

    fn add_file(&mut self, path: &Path) -> Result<(), DataError> {
        let bytes = bytes(path)?;
        for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match str::from_utf8(line) {
                Ok(text) => self.add(text, None),
                Err(_) => self.add_bad(path, i as u64 + 1, "is not UTF-8"),
            }
        }
        Ok(())
    }

    fn add_table(&mut self, path: &Path, delimiter: u8, columns: Columns) -> Result<(), DataError> {
        let bytes = bytes(path)?;
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .from_reader(&bytes[..]);
        let damaged = |error: csv::Error| wrong(path, format!("is not a table: {error}"));
        let header = reader.byte_headers().map_err(damaged)?.clone();
        let names: Vec<String> = header
            .iter()
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        let place = |key: &'static str, name: &str| {
            names
                .iter()
                .position(|known| known == name)
                .ok_or_else(|| DataError::Config {
                    key,
                    problem: format!(
                        "{} has no column {name:?}; there are {}",
                        path.display(),
                        one_line(&names.join(", "))
                    ),
                })
        };
        let text = match columns.text {
            Some(name) => place("dataset.text.column", name)?,
            None if names.len() == 1 => 0,
            None => {
                return Err(DataError::Config {
                    key: "dataset.text.column",
                    problem: format!(
                        "is needed for {}, which has the columns {}",
                        path.display(),
                        one_line(&names.join(", "))
                    ),
                });
            }
        };
        let label = columns
            .label
            .map(|name| place("dataset.text.labels", name))
            .transpose()?;
        let mut record = csv::ByteRecord::new();
        while reader.read_byte_record(&mut record).map_err(damaged)? {
            let line = record.position().map_or(0, csv::Position::line);
            let field = |i: usize| str::from_utf8(record.get(i).unwrap_or_default());
            match (field(text), label.map(field).transpose()) {
                (Ok(text), Ok(label)) => self.add(text, label),
                _ => self.add_bad(path, line, "is not UTF-8"),
            }
        }
        Ok(())
    }
}

/// The `.txt` files in a folder and the folders in it, in the order of their names.
fn text_files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.map_err(|error| io(folder, error.into()))?;
        let path = entry.path();
        let is_text = path
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("txt"));
        if entry.file_type().is_file() && is_text {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

/// The delimiter of a table; `None` for a file of lines.
fn delimiter(path: &Path) -> Option<u8> {
    let ending = path.extension()?.to_ascii_lowercase();
    match ending.to_str()? {
        "csv" => Some(b','),
        "tsv" => Some(b'\t'),
        _ => None,
    }
}

/// The bytes of a file without a byte-order mark.
fn bytes(path: &Path) -> Result<Vec<u8>, DataError> {
    let bytes = read_small(path, LARGEST_FILE).map_err(|source| io(path, source))?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(wrong(path, "is UTF-16: save it as UTF-8".to_owned()));
    }
    Ok(match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => rest.to_vec(),
        None => bytes,
    })
}

fn io(path: &Path, source: std::io::Error) -> DataError {
    DataError::Io {
        path: path.to_owned(),
        source,
    }
}

pub(super) fn wrong(path: &Path, problem: String) -> DataError {
    DataError::Input {
        path: path.to_owned(),
        problem,
    }
}
