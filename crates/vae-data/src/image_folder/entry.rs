//! An image file, and its detection by name or content.

use std::io;
use std::path::Path;

use super::formats::{read_format, unread_file};
use crate::DataError;
use crate::unread_files::SOUNDS;

/// Files with these extensions are expected to be images; other files are images if their first bytes are those of
/// one.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib"];

/// The extensions of sound that is read.
const SOUND_EXTENSIONS: [&str; 6] = ["wav", "wave", "flac", "ogg", "oga", "mp3"];

/// The extensions of melodies that are read.
const MELODY_EXTENSIONS: [&str; 5] = ["mid", "midi", "rmi", "kar", "abc"];

/// What is looked for in a folder or zip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Images,
    Sounds,
    Melodies,
}

impl Media {
    pub(super) fn has_name(self, name: &str) -> bool {
        match self {
            Media::Images => has_image_name(name),
            Media::Sounds => has_ending(name, &SOUND_EXTENSIONS),
            Media::Melodies => has_ending(name, &MELODY_EXTENSIONS),
        }
    }

    /// Whether content with these first bytes is read.
    pub(super) fn is_content(self, beginning: &[u8]) -> bool {
        match self {
            Media::Images => is_image(beginning),
            Media::Sounds => vae_sound::is_sound(beginning),
            Media::Melodies => beginning.starts_with(b"MThd"),
        }
    }

    /// The format of a file of this kind that is not read.
    pub(super) fn unread(self, name: &str, beginning: &[u8]) -> Option<&'static str> {
        match self {
            Media::Images => unread_file(name, beginning),
            Media::Sounds => SOUNDS
                .iter()
                .find(|format| has_ending(name, &[format]))
                .copied(),
            Media::Melodies => None,
        }
    }
}

/// Folders created by systems and devices: recycle bins, thumbnails, metadata in archives, files recovered by disk
/// checks.
const SYSTEM_FOLDERS: [&str; 7] = [
    "$RECYCLE.BIN",
    "@eaDir",
    "#recycle",
    "@Recycle",
    "__MACOSX",
    "lost+found",
    "System Volume Information",
];

/// One image file.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Path in the folder or zip, with `/` between folders.
    pub(crate) name: String,
    /// Size in bytes, for a zip member after decompression.
    pub(crate) n_bytes: u64,
    /// Changes with the content: for a zip member the CRC-32, otherwise the modification time in nanoseconds since
    /// 1970.
    pub(crate) stamp: u64,
    /// Its location in a zip.
    pub(super) member: Option<Member>,
}

/// A zip member's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) start: u64,
    pub(super) n_compressed: u64,
    pub(super) deflated: bool,
}

impl Entry {
    /// A single file, for [`super::files::Files::named`].
    pub(crate) fn named(name: String, n_bytes: u64) -> Entry {
        Entry {
            name,
            n_bytes,
            stamp: 0,
            member: None,
        }
    }
}

/// For example `.DS_Store`, the `._name` files that macOS adds to archives, and [`SYSTEM_FOLDERS`].
pub(super) fn is_hidden(name: &std::ffi::OsStr) -> bool {
    let is_system = SYSTEM_FOLDERS
        .iter()
        .any(|folder| name.eq_ignore_ascii_case(folder));
    is_system || name.as_encoded_bytes().starts_with(b".")
}

pub(super) fn has_image_name(name: &str) -> bool {
    has_ending(name, &EXTENSIONS)
}

fn has_ending(name: &str, extensions: &[&str]) -> bool {
    let extension = Path::new(name).extension().and_then(|end| end.to_str());
    extension.is_some_and(|end| {
        extensions
            .iter()
            .any(|known| end.eq_ignore_ascii_case(known))
    })
}

/// Whether content with these first bytes is JPEG, PNG, WebP or BMP.
pub(crate) fn is_image(beginning: &[u8]) -> bool {
    read_format(beginning).is_some()
}

pub(super) fn io_error(path: &Path, source: io::Error) -> DataError {
    DataError::Io {
        path: path.to_owned(),
        source,
    }
}
