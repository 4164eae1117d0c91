//! One image file, and by which name or content it is taken for one.

use std::io;
use std::path::Path;

use super::formats::read_format;
use crate::DataError;

/// Names that end so are meant to be images; other files are images if they begin like one.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib"];

/// Folders that systems and devices keep beside what is the user's: recycle bins, thumbnails, archives'
/// second copies, what a check of the disk found.
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
    /// Path below the folder or in the zip, with `/` between folders.
    pub(crate) name: String,
    /// Size in bytes, in a zip after decompression.
    pub(crate) n_bytes: u64,
    /// Changes with the content: in a zip the CRC-32, else the time of the last change in
    /// nanoseconds since 1970.
    pub(crate) stamp: u64,
    /// Where a zip holds it.
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
    /// A file of its own, for [`super::files::Files::named`].
    pub(crate) fn named(name: String, n_bytes: u64) -> Entry {
        Entry {
            name,
            n_bytes,
            stamp: 0,
            member: None,
        }
    }
}

/// As `.DS_Store`, the `._name` files beside every file of an archive made on a Mac, and
/// [`SYSTEM_FOLDERS`].
pub(super) fn is_hidden(name: &std::ffi::OsStr) -> bool {
    let is_system = SYSTEM_FOLDERS
        .iter()
        .any(|folder| name.eq_ignore_ascii_case(folder));
    is_system || name.as_encoded_bytes().starts_with(b".")
}

pub(super) fn has_image_name(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|end| end.to_str());
    extension.is_some_and(|end| {
        EXTENSIONS
            .iter()
            .any(|known| end.eq_ignore_ascii_case(known))
    })
}

/// Whether content that begins so is JPEG, PNG, WebP or BMP.
pub(crate) fn is_image(beginning: &[u8]) -> bool {
    read_format(beginning).is_some()
}

pub(super) fn io_error(path: &Path, source: io::Error) -> DataError {
    DataError::Io {
        path: path.to_owned(),
        source,
    }
}
