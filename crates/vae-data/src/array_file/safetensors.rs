//! safetensors: a JSON header followed by tensors.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};

use vae_base::SafetensorsHeader;

use super::number::Number;
use super::numpy::Numbers;

/// Reads the header of a safetensors file that is at its start.
///
/// # Errors
/// The file is not safetensors, or its length differs from the header's.
pub fn safetensors_header(file: &mut File) -> Result<SafetensorsHeader, String> {
    let n_bytes = file.metadata().map_err(unreadable)?.len();
    SafetensorsHeader::read(file, n_bytes).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => format!("is {error}"),
        _ => unreadable(error),
    })
}

/// The names of a file's tensors, sorted.
pub(super) fn names(header: &SafetensorsHeader) -> impl Iterator<Item = String> + use<> {
    let names = header.tensors.iter().map(|(name, _)| name.clone());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.into_iter()
}

/// The numbers of a tensor of a file with this header.
pub(super) fn numbers(
    mut file: File,
    header: &SafetensorsHeader,
    name: &str,
) -> Result<Numbers, String> {
    let Some(info) = header.tensor(name) else {
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
    file.seek(SeekFrom::Start(header.start + from as u64))
        .map_err(unreadable)?;
    let bytes = BufReader::new(file).take((to - from) as u64);
    Ok(Numbers::in_rows(number, info.shape.clone(), bytes))
}

fn unreadable(error: io::Error) -> String {
    format!("cannot be read: {error}")
}
