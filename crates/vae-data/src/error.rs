//! Everything that can be wrong with a data set. Each error says where, what was found, what was expected and the
//! likely fix.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::{ImageShape, UnreadFiles};

/// Why a pack cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PackProblem {
    /// There is no such file.
    Missing,
    /// It was made from other files, or with another transform.
    Outdated,
    /// It was cut short or altered.
    Damaged(String),
    /// It cannot be read or written.
    Refused(String),
}

impl fmt::Display for PackProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PackProblem::Missing => f.write_str("does not exist"),
            PackProblem::Outdated => {
                f.write_str("was made from other files or with another transform")
            }
            PackProblem::Damaged(what) => write!(f, "is damaged: {what}"),
            PackProblem::Refused(why) => f.write_str(why),
        }
    }
}

/// A data set that cannot be used.
///
/// The cause of [`DataError::Io`] and [`DataError::Gzip`] is their `source`, not part of their own
/// text: print the whole chain (`{:#}` with `anyhow`).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The config names no source of images.
    #[error(
        "dataset: no source of images, expected exactly one table: [dataset.idx], [dataset.image_folder], [dataset.sprites], [dataset.arrays], [dataset.audio_folder], [dataset.text] or [dataset.melodies]"
    )]
    NoSource,

    /// The config names more than one source of images.
    #[error(
        "dataset: two sources of images, expected exactly one table: [dataset.idx], [dataset.image_folder], [dataset.sprites], [dataset.arrays], [dataset.audio_folder], [dataset.text] or [dataset.melodies]"
    )]
    TwoSources,

    /// A value in the config is invalid.
    #[error("{key}: {problem}")]
    Config {
        /// The full key, for example `dataset.image_folder.image_size`.
        key: &'static str,
        /// What was found and what was expected.
        problem: String,
    },

    /// A limit of 0 images leaves nothing to train or evaluate on.
    #[error("{key} = 0, expected at least 1 (leave the key out to use every image)")]
    ZeroLimit {
        /// The full key, for example `dataset.train_limit`.
        key: &'static str,
    },

    /// The configured folder does not exist.
    #[error(
        "{}: no such folder{} ({}correct {key})",
        folder.display(), current_folder_hint(folder), fetch_hint(folder)
    )]
    MissingFolder {
        /// The folder as configured.
        folder: PathBuf,
        /// The key that names it.
        key: &'static str,
    },

    /// The configured folder is a file.
    #[error("{}: is not a folder, expected the folder that holds the data files (correct {key})", folder.display())]
    NotAFolder {
        /// The path as configured.
        folder: PathBuf,
        /// The key that names it.
        key: &'static str,
    },

    /// The data set is neither in the current folder nor in those where it is looked for.
    #[error(
        "{error}; also looked for in {}",
        folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NotFound {
        /// What is missing in the current folder.
        error: Box<DataError>,
        /// The other folders.
        folders: Vec<PathBuf>,
    },

    /// A required file is missing in its folder.
    #[error(
        "{}: holds no {file} or {file}.gz ({}correct {key})",
        folder.display(), fetch_hint(folder)
    )]
    MissingFile {
        /// The folder that was searched.
        folder: PathBuf,
        /// The standard name of the file.
        file: String,
        /// The key that names the folder.
        key: &'static str,
    },

    /// A folder, pipe or device in place of a file.
    #[error("{}: is not a regular file", path.display())]
    NotAFile {
        /// The path that was opened.
        path: PathBuf,
    },

    /// The operating system refused.
    #[error("{}: cannot be read", path.display())]
    Io {
        /// The path that was opened.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// A gzip stream that cannot be decompressed: damaged, cut short, or followed by other bytes.
    #[error("{}: damaged gzip file (interrupted download? fetch it again)", path.display())]
    Gzip {
        /// The compressed file.
        path: PathBuf,
        /// The decoder's reason.
        source: io::Error,
    },

    /// The file is shorter than its header.
    #[error("{}: {found} bytes, expected a header of {wanted} bytes (interrupted download? fetch it again)", path.display())]
    ShortHeader {
        /// The file.
        path: PathBuf,
        /// Its number of bytes, after decompression.
        found: usize,
        /// The header's number of bytes.
        wanted: usize,
    },

    /// The first four bytes are not the magic number of the expected format.
    #[error("{}: magic number {found:#010x}, expected {wanted:#010x} ({hint})", path.display())]
    Magic {
        /// The file.
        path: PathBuf,
        /// Its first four bytes, big-endian.
        found: u32,
        /// The format's magic number.
        wanted: u32,
        /// What the file probably is.
        hint: &'static str,
    },

    /// A count or size in the header is 0 or larger than this crate supports.
    #[error("{}: {name} {found} in the header, expected 1 to {largest} (damaged file?)", path.display())]
    Dimension {
        /// The file.
        path: PathBuf,
        /// What the number counts, for example `height`.
        name: &'static str,
        /// The number in the header.
        found: u32,
        /// The largest accepted number.
        largest: u32,
    },

    /// The header declares more bytes than this crate loads into memory.
    #[error("{}: the header declares {found} bytes, expected at most {largest} (damaged file?)", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The number of bytes that the header declares.
        found: u64,
        /// The largest accepted number of bytes.
        largest: u64,
    },

    /// The file is shorter than its header declares.
    #[error(
        "{}: {found} bytes, expected {wanted} by its header (interrupted download? fetch it again)",
        path.display()
    )]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Its number of bytes, after decompression.
        found: u64,
        /// The number of bytes by its header, header included.
        wanted: u64,
    },

    /// The file is longer than its header declares.
    #[error("{}: more bytes than the {wanted} by its header (damaged file? fetch it again)", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The number of bytes by its header, header included.
        wanted: u64,
    },

    /// The numbers of images and labels differ.
    #[error(
        "{}: {n_labels} labels, expected {n_images} as in {} (files of two different data sets?)",
        labels.display(), images.display()
    )]
    LabelCount {
        /// The image file.
        images: PathBuf,
        /// Its number of images.
        n_images: usize,
        /// The label file.
        labels: PathBuf,
        /// Its number of labels.
        n_labels: usize,
    },

    /// The images of the two splits differ in shape, but one model needs one shape.
    #[error("{}: test images are {test}, expected {train} as the training images are (files of two different data sets?)", folder.display())]
    SplitShape {
        /// The folder of both files.
        folder: PathBuf,
        /// Shape of a training image.
        train: ImageShape,
        /// Shape of a test image.
        test: ImageShape,
    },

    /// The configured folder or zip of images does not exist.
    #[error(
        "{}: no such folder or zip{} ({}correct dataset.image_folder.path)",
        path.display(), current_folder_hint(path), fetch_hint_around(path)
    )]
    MissingImages {
        /// The path as configured.
        path: PathBuf,
    },

    /// A folder or zip without images.
    #[error(
        "{}: holds no JPEG, PNG, WebP or BMP{} (correct dataset.image_folder.path)",
        path.display(), unread_hint(unread)
    )]
    NoImages {
        /// The path as configured.
        path: PathBuf,
        /// The images of unsupported formats that it holds.
        unread: UnreadFiles,
    },

    /// The path is neither a folder nor a readable zip.
    #[error("{}: is neither a folder nor a zip that can be read: {reason}", path.display())]
    Zip {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the likely fix.
        reason: String,
    },

    /// So many files are bad that the path is probably wrong.
    #[error(
        "{}: at least {n_bad} of {n_files} files are not usable, expected at most a share of \
         {max_fraction} (dataset.{what}.max_bad_fraction). The first: {}",
        path.display(), first.join("; ")
    )]
    TooManyBad {
        /// The folder or zip.
        path: PathBuf,
        /// The table of the config: `image_folder`, `audio_folder` or `melodies`.
        what: &'static str,
        /// How many were found before giving up.
        n_bad: usize,
        /// How many files there are.
        n_files: usize,
        /// The config's limit.
        max_fraction: f64,
        /// Name and reason of the first ten.
        first: Vec<String>,
    },

    /// A split without images.
    #[error(
        "{}: none of the {n_images} items is a {split} item (see dataset.validation and \
         dataset.{what}'s split and partition)",
        path.display()
    )]
    EmptySplit {
        /// The folder or zip.
        path: PathBuf,
        /// The table of the config: `image_folder`, `audio_folder` or `melodies`.
        what: &'static str,
        /// `training` or `test`.
        split: &'static str,
        /// How many good images there are.
        n_images: usize,
    },

    /// The configured file of sprites does not exist.
    #[error(
        "{}: no such file{} (run `cargo xtask fetch-data sprites`, which makes \
         datasets/sprites/sprites.npz, or correct dataset.sprites.file)",
        path.display(), current_folder_hint(path)
    )]
    MissingSprites {
        /// The path as configured.
        path: PathBuf,
    },

    /// A file of sprites that is damaged or has another layout.
    #[error("{}: {problem} (interrupted download or another file? `cargo xtask fetch-data sprites` makes a correct one)", path.display())]
    Npz {
        /// The file.
        path: PathBuf,
        /// The array, what was found in it and what was expected.
        problem: String,
    },

    /// A file of arrays does not exist.
    #[error("{}: no such file{} ({}correct the path)", path.display(), current_folder_hint(path), fetch_hint_around(path))]
    MissingArrays {
        /// The path as configured.
        path: PathBuf,
    },

    /// A file of arrays that is damaged or does not hold the requested arrays.
    #[error("{}: {problem}", path.display())]
    ArrayFile {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },

    /// A line of a partition or attribute list that cannot be parsed.
    #[error("{}:{line}: {problem}", path.display())]
    Table {
        /// The list.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What was found and what was expected.
        problem: String,
    },

    /// A partition or attribute list that is not text or too long.
    #[error("{} {problem}", path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },

    /// A partition or attribute list that belongs to other images.
    #[error(
        "{}: has none of the {n_images} images (it has {listed:?}, the first image is {image:?}; a \
         list of other images?)",
        path.display()
    )]
    ListOfOthers {
        /// The list.
        path: PathBuf,
        /// How many images there are.
        n_images: usize,
        /// The first name in the list.
        listed: String,
        /// The name of the first image.
        image: String,
    },

    /// The requested pack cannot be made or used.
    #[error("{} {problem}", path.display())]
    Pack {
        /// The pack's file.
        path: PathBuf,
        /// What is wrong.
        problem: PackProblem,
    },

    /// A file that was a good image when the data set was loaded can no longer be decoded.
    #[error("{}: {name} {reason}; it was a good image before (changed while in use?)", path.display())]
    Changed {
        /// The folder or zip.
        path: PathBuf,
        /// The image's path in it.
        name: String,
        /// What is wrong now.
        reason: String,
    },

    /// Images for a trained model that cannot be used.
    #[error("{}: {problem}", path.display())]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },

    /// Invalid items, passed to [`crate::Dataset::of_items`].
    #[error("items: {problem}")]
    Items {
        /// What was found and what was expected.
        problem: String,
    },

    /// Tensors of a wrong layout, passed to [`crate::Dataset::new`] or [`crate::Dataset::of_items`].
    #[error("{name} are {found}, expected {wanted}")]
    Layout {
        /// Which tensor: `images`, `items` or `labels`.
        name: &'static str,
        /// Its element type, shape and device.
        found: String,
        /// The expected layout.
        wanted: String,
    },
}

/// The command for folders that `cargo xtask fetch-data` fills: those in `datasets/`.
fn fetch_hint(folder: &Path) -> String {
    let parent = folder.parent().and_then(Path::file_name);
    match (parent, folder.file_name()) {
        (Some(parent), Some(name)) if parent == "datasets" => {
            format!(
                "run `cargo xtask fetch-data {}`, or ",
                name.to_string_lossy()
            )
        }
        _ => String::new(),
    }
}

/// As [`fetch_hint`], for a folder or zip inside such a folder.
fn fetch_hint_around(path: &Path) -> String {
    path.parent().map(fetch_hint).unwrap_or_default()
}

/// Names the unsupported formats in a folder without supported images.
fn unread_hint(unread: &UnreadFiles) -> String {
    match unread.is_empty() {
        true => String::new(),
        false => format!("; {unread}"),
    }
}

/// The current folder, in which a relative path was searched.
fn current_folder_hint(folder: &Path) -> String {
    match std::env::current_dir() {
        Ok(current) if folder.is_relative() => format!(" in {}", current.display()),
        _ => String::new(),
    }
}
