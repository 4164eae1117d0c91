//! Lists and tables as text, in the encodings of common programs.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::archive;
use super::entry::io_error;
use super::names::normalized;
use crate::DataError;

/// The size of the longest list that is read: 20 times that of CelebA's attributes.
const MAX_BYTES: u64 = 1 << 29;

/// The text of a list in UTF-8, or in UTF-16 with a byte-order mark. The mark is removed, and lines end with `\n`.
/// `ZIP/NAME` is a member of a zip.
pub(crate) fn read(path: &Path) -> Result<String, DataError> {
    decode(read_bytes(path)?).map_err(|problem| DataError::List {
        path: path.to_owned(),
        problem,
    })
}

/// Whether the file exists, or a zip that may contain it as a member.
pub(crate) fn may_exist(path: &Path) -> bool {
    path.is_file() || zip_of(path).is_some()
}

fn zip_of(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).find(|zip| zip.is_file())
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, DataError> {
    let bytes = match (fs::metadata(path), zip_of(path)) {
        (Ok(metadata), _) if !metadata.is_file() => {
            return Err(DataError::NotAFile {
                path: path.to_owned(),
            });
        }
        (Err(_), Some(zip)) => {
            let name = path.strip_prefix(zip).unwrap_or(path).to_string_lossy();
            archive::read_member(zip, &normalized(&name), MAX_BYTES)?
        }
        (Ok(_) | Err(_), _) => {
            let mut bytes = Vec::new();
            File::open(path)
                .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
                .map_err(|source| io_error(path, source))?;
            bytes
        }
    };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(DataError::List {
            path: path.to_owned(),
            problem: format!("has more than {MAX_BYTES} bytes: not a list of images?"),
        });
    }
    Ok(bytes)
}

fn decode(bytes: Vec<u8>) -> Result<String, String> {
    let utf16 = |bytes: &[u8], number: fn([u8; 2]) -> u16| {
        let units = bytes.as_chunks().0.iter().map(|&unit| number(unit));
        char::decode_utf16(units)
            .collect::<Result<String, _>>()
            .map_err(|_| "is damaged UTF-16: save it as UTF-8".to_owned())
    };
    let text = match &bytes[..] {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        [0xef, 0xbb, 0xbf, ..] => utf8(bytes[3..].to_vec())?,
        _ => utf8(bytes)?,
    };
    Ok(match text.contains('\r') {
        true => text.replace("\r\n", "\n").replace('\r', "\n"),
        false => text,
    })
}

fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    // UTF-16 of Latin letters is valid UTF-8 with NUL bytes.
    if bytes.contains(&0) {
        return Err(
            "has NUL bytes: not text, or UTF-16 without a byte-order mark (save it as UTF-8)"
                .into(),
        );
    }
    String::from_utf8(bytes).map_err(|error| {
        let start = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + start.iter().filter(|&&byte| byte == b'\n').count();
        format!(
            "is not UTF-8 in line {line}: not a list, or in another encoding (save it as UTF-8)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_of_a_list_gives_the_same_text() {
        let text = "image_id,partition\nä.jpg,0\n𝔵.jpg,2\n";
        let utf16 = |number: fn(u16) -> [u8; 2]| {
            let units = format!("\u{feff}{text}");
            units.encode_utf16().flat_map(number).collect::<Vec<u8>>()
        };
        for bytes in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into_bytes(),
            text.replace('\n', "\r\n").into_bytes(),
            text.replace('\n', "\r").into_bytes(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
        ] {
            assert_eq!(decode(bytes).as_deref(), Ok(text));
        }
    }

    #[test]
    fn undecodable_text_is_refused_with_a_fix() {
        for (bytes, message) in [
            (
                &b"a.jpg 0\n\xe4.jpg 0\n"[..],
                "is not UTF-8 in line 2: not a list, or in another encoding (save it as UTF-8)",
            ),
            (
                b"a\0.\0j\0p\0g\0",
                "has NUL bytes: not text, or UTF-16 without a byte-order mark (save it as UTF-8)",
            ),
            (
                b"\xff\xfe\x00\xd8a\0",
                "is damaged UTF-16: save it as UTF-8",
            ),
        ] {
            assert_eq!(decode(bytes.to_vec()).unwrap_err(), message);
        }
    }
}
