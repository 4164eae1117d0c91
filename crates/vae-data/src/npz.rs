//! numpy's archives: a zip of arrays, each with a header that says its kind and shape.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use vae_base::NpyHeader;
use zip::ZipArchive;
use zip::read::ZipFile;

use crate::DataError;

/// An `.npz` file.
#[derive(Debug)]
pub(crate) struct Npz<'a> {
    path: &'a Path,
    archive: ZipArchive<BufReader<File>>,
}

/// An array whose numbers are still to be read.
pub(crate) struct Array<'a> {
    path: &'a Path,
    name: &'static str,
    /// As numpy writes it: `|u1` bytes, `<i8` 64-bit integers.
    kind: String,
    shape: Vec<usize>,
    numbers: ZipFile<'a, BufReader<File>>,
}

fn wrong(path: &Path, problem: impl Into<String>) -> DataError {
    DataError::Npz {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

impl<'a> Npz<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Npz<'a>, DataError> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DataError::MissingSprites {
                path: path.to_owned(),
            },
            _ => DataError::Io {
                path: path.to_owned(),
                source,
            },
        })?;
        if file.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(DataError::NotAFile {
                path: path.to_owned(),
            });
        }
        let archive = ZipArchive::new(BufReader::new(file))
            .map_err(|error| wrong(path, format!("is no .npz that can be read: {error}")))?;
        Ok(Npz { path, archive })
    }

    /// The array of that name, its header read.
    pub(crate) fn array(&mut self, name: &'static str) -> Result<Array<'_>, DataError> {
        let path = self.path;
        let damaged = |error: &dyn std::fmt::Display| {
            wrong(path, format!("{name} is damaged or cut short: {error}"))
        };
        let member = format!("{name}.npy");
        if self.archive.index_for_name(&member).is_none() {
            let names: Vec<_> = self.archive.file_names().flatten().collect();
            let found = match names.is_empty() {
                true => "nothing".to_owned(),
                false => names.join(", "),
            };
            return Err(wrong(
                path,
                format!("holds no array {name}, only {found}; expected a file as dSprites'"),
            ));
        }
        let mut numbers = self
            .archive
            .by_name(&member)
            .map_err(|error| damaged(&error))?;
        let header = NpyHeader::read(&mut numbers).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => wrong(path, format!("{name} {error}")),
            _ => damaged(&error),
        })?;
        if header.fortran_order {
            let problem =
                "lies column after column, expected row after row (numpy.ascontiguousarray)";
            return Err(wrong(path, format!("{name} {problem}")));
        }
        Ok(Array {
            path,
            name,
            kind: header.descr,
            shape: header.shape,
            numbers,
        })
    }
}

impl Array<'_> {
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Refuses another kind, number of dimensions, or length along one that is given.
    pub(crate) fn expect(&self, kind: &str, shape: &[Option<usize>]) -> Result<(), DataError> {
        let mut lengths = self.shape.iter().zip(shape);
        let is_right = self.kind == kind
            && self.shape.len() == shape.len()
            && lengths.all(|(found, wanted)| wanted.is_none_or(|wanted| wanted == *found));
        if is_right {
            return Ok(());
        }
        let wanted: Vec<String> = shape
            .iter()
            .map(|length| length.map_or("any".to_owned(), |length| length.to_string()))
            .collect();
        Err(self.wrong(format!(
            "is {} {:?}, expected {kind} [{}]",
            self.kind,
            self.shape,
            wanted.join(", ")
        )))
    }

    /// Fills `bytes` with the next numbers.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> Result<(), DataError> {
        self.numbers
            .read_exact(bytes)
            .map_err(|error| self.wrong(format!("is damaged or cut short: {error}")))
    }

    /// Reads to the end, where the zip's checksum is compared, and refuses more numbers.
    pub(crate) fn finish(mut self) -> Result<(), DataError> {
        match self.numbers.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.wrong("goes on after what its header promises".to_owned())),
            Err(error) => Err(self.wrong(format!("is damaged: {error}"))),
        }
    }

    pub(crate) fn wrong(&self, problem: String) -> DataError {
        wrong(self.path, format!("{} {problem}", self.name))
    }
}
