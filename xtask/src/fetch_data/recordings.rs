//! What data sets of recordings share: a folder that is whole or not there, its table, and a manifest of its origin.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// The file that says where the recordings of a folder come from. It is written last: without it the folder is not
/// whole.
const MANIFEST: &str = "origin.toml";

/// Where recordings come from.
#[derive(Debug, Serialize)]
pub(super) struct Origin {
    /// A one-sentence description.
    pub(super) description: String,
    /// Under which terms they may be used.
    pub(super) license: String,
    /// The archive, package or program.
    pub(super) source: String,
    /// How many there are.
    pub(super) n_recordings: usize,
}

/// Whether the folder holds all of its recordings.
pub(super) fn is_whole(folder: &Path) -> bool {
    folder.join(MANIFEST).is_file()
}

/// Removes a folder's recordings, and makes it again.
pub(super) fn begin(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
        }
        _ => {}
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Writes the manifest, by which the folder is whole.
pub(super) fn finish(folder: &Path, origin: &Origin) -> Result<()> {
    let path = folder.join(MANIFEST);
    fs::write(&path, toml::to_string(origin)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A WAV file of mono samples in `[-1, 1]`.
pub(super) fn wav(samples: &[f32], rate: u32) -> Vec<u8> {
    let n_bytes = 2 * samples.len() as u32;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + n_bytes).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(rate.to_le_bytes());
    file.extend((2 * rate).to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(n_bytes.to_le_bytes());
    let sample = |value: &f32| ((value.clamp(-1.0, 1.0) * 32_767.0).round() as i16).to_le_bytes();
    file.extend(samples.iter().flat_map(sample));
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wav_file_has_44_bytes_before_its_samples() {
        let file = wav(&[0.0, 1.0, -1.0], 8000);
        assert_eq!(
            (file.len(), &file[8..16], &file[36..40]),
            (50, &b"WAVEfmt "[..], &b"data"[..])
        );
        assert_eq!(file[24..28], 8000_u32.to_le_bytes());
        assert_eq!(file[46..48], 32_767_i16.to_le_bytes());
    }
}
