//! safetensors: a JSON header followed by tensors.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use safetensors::tensor::Metadata;

use super::number::Number;
use super::numpy::Numbers;

/// About the size of the JSON of 100,000 tensors.
const LARGEST_HEADER: u64 = 1 << 24;

/// The header of a safetensors file, compared with the length of the file.
#[derive(Debug)]
pub struct Header {
    file: File,
    /// Where the tensors begin.
    start: u64,
    tensors: Metadata,
}

impl Header {
    /// Reads the header of a file that is at its start.
    ///
    /// # Errors
    /// The file is not safetensors, or its tensors do not match the header.
    pub fn read(mut file: File) -> Result<Header, String> {
        let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
        let n_bytes = file.metadata().map_err(unreadable)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(unreadable)?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST_HEADER.min(n_bytes.saturating_sub(8)) {
            return Err(format!(
                "is not a complete safetensors file: a header of {length} bytes"
            ));
        }
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json).map_err(unreadable)?;
        let tensors: Metadata = serde_json::from_slice(&json)
            .map_err(|error| format!("is not a complete safetensors file: {error}"))?;
        let (found, wanted) = (n_bytes - 8 - length, tensors.data_len() as u64);
        if found != wanted {
            return Err(format!(
                "has {found} bytes of tensors, expected {wanted} by its header (cut short?)"
            ));
        }
        Ok(Header {
            file,
            start: 8 + length,
            tensors,
        })
    }

    /// Element type, shape and position of each tensor; positions are relative to [`Self::start`].
    #[must_use]
    pub fn tensors(&self) -> &Metadata {
        &self.tensors
    }

    /// The offset in the file at which the tensors begin.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The names of its tensors, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = String> + use<> {
        let mut names: Vec<String> = self.tensors.tensors().into_keys().collect();
        names.sort();
        names.into_iter()
    }

    /// The numbers of a tensor.
    pub(super) fn numbers(mut self, name: &str) -> Result<Numbers, String> {
        let Some(info) = self.tensors.info(name) else {
            return Err("is missing".to_owned());
        };
        let Some(number) = Number::of_safetensors(info.dtype) else {
            return Err(format!(
                "is a tensor of {:?}, expected integers or floats such as F32",
                info.dtype
            ));
        };
        if info.shape.is_empty() {
            return Err("is a single number, expected an array".to_owned());
        }
        let (from, to) = info.data_offsets;
        let shape = info.shape.clone();
        self.file
            .seek(SeekFrom::Start(self.start + from as u64))
            .map_err(|error| format!("cannot be read: {error}"))?;
        let bytes = BufReader::new(self.file).take((to - from) as u64);
        Ok(Numbers::in_rows(number, shape, bytes))
    }
}
