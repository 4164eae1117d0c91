//! numpy's archives: a zip of arrays, each with a header that holds its element type and shape.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use vae_base::NpyHeader;
use zip::read::ZipFile;
use zip::{CompressionMethod, ZipArchive};

use crate::DataError;

/// An `.npz` file.
#[derive(Debug)]
pub(crate) struct Npz<'a> {
    path: &'a Path,
    archive: ZipArchive<BufReader<File>>,
    wrong: Wrong,
}

/// Makes an error from the file's path and the problem.
type Wrong = fn(&Path, String) -> DataError;

/// An array whose header has been read, but not its numbers.
pub(crate) struct Array<'a> {
    path: &'a Path,
    name: &'static str,
    /// numpy's name of the element type: `|u1` for bytes, `<i8` for 64-bit integers.
    kind: String,
    shape: Vec<usize>,
    numbers: ZipFile<'a, BufReader<File>>,
    wrong: Wrong,
}

/// The location of an array in the file, header and numbers, with its entry in the zip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) start: u64,
    pub(crate) n_compressed: u64,
    pub(crate) n_bytes: u64,
    pub(crate) is_deflated: bool,
    pub(crate) crc32: u32,
}

/// The ending that numpy adds to the name of an array.
const ENDING: &str = ".npy";

impl<'a> Npz<'a> {
    /// Opens an archive; `wrong` makes its errors.
    pub(crate) fn new(path: &'a Path, file: File, wrong: Wrong) -> Result<Npz<'a>, DataError> {
        let archive = ZipArchive::new(BufReader::new(file))
            .map_err(|error| wrong(path, format!("is not a readable .npz: {error}")))?;
        Ok(Npz {
            path,
            archive,
            wrong,
        })
    }

    /// The names of the arrays.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + use<> {
        let names = self.archive.file_names().flatten();
        let names = names.filter_map(|name| Some(name.strip_suffix(ENDING)?.to_owned()));
        names.collect::<Vec<_>>().into_iter()
    }

    /// The location of the array with this name.
    pub(crate) fn place(&mut self, name: &str) -> Result<Place, DataError> {
        let (path, wrong) = (self.path, self.wrong);
        let index = self.archive.index_for_name(&format!("{name}{ENDING}"));
        let damaged = |problem: &str| wrong(path, format!("{name} {problem}"));
        let index = index.ok_or_else(|| damaged("is missing"))?;
        let member = self
            .archive
            .by_index_raw(index)
            .map_err(|error| damaged(&format!("is damaged: {error}")))?;
        let method = member.compression();
        let is_readable =
            [CompressionMethod::Stored, CompressionMethod::Deflated].contains(&method);
        if member.encrypted() || !is_readable {
            return Err(damaged(
                "is encrypted or compressed in another way than numpy does",
            ));
        }
        Ok(Place {
            start: member
                .data_start()
                .ok_or_else(|| damaged("is damaged: it has no place"))?,
            n_compressed: member.compressed_size(),
            n_bytes: member.size(),
            is_deflated: method == CompressionMethod::Deflated,
            crc32: member.crc32(),
        })
    }

    /// The array with this name, after reading its header.
    pub(crate) fn array(&mut self, name: &'static str) -> Result<Array<'_>, DataError> {
        let (path, wrong) = (self.path, self.wrong);
        let damaged = |error: &dyn std::fmt::Display| {
            wrong(path, format!("{name} is damaged or cut short: {error}"))
        };
        let member = format!("{name}{ENDING}");
        if self.archive.index_for_name(&member).is_none() {
            let names: Vec<_> = self.archive.file_names().flatten().collect();
            let found = match names.is_empty() {
                true => "nothing".to_owned(),
                false => names.join(", "),
            };
            return Err(wrong(
                path,
                format!("holds no array {name}, only {found}; expected the layout of dSprites"),
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
            let problem = "is stored in Fortran order, expected C order (numpy.ascontiguousarray)";
            return Err(wrong(path, format!("{name} {problem}")));
        }
        Ok(Array {
            path,
            name,
            kind: header.descr,
            shape: header.shape,
            numbers,
            wrong,
        })
    }
}

impl Array<'_> {
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Fails on another element type, number of dimensions, or (where given) length of a dimension.
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

    /// Reads to the end, where the zip's checksum is compared. Fails if numbers are left.
    pub(crate) fn finish(mut self) -> Result<(), DataError> {
        match self.numbers.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.wrong("is longer than its header declares".to_owned())),
            Err(error) => Err(self.wrong(format!("is damaged: {error}"))),
        }
    }

    pub(crate) fn wrong(&self, problem: String) -> DataError {
        (self.wrong)(self.path, format!("{} {problem}", self.name))
    }
}
