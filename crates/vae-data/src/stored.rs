//! Images that are not a tensor: in a pack, files to be decoded, or a bit for each pixel.

use std::sync::Arc;

use crate::bits::BitImages;
use crate::image_folder::pack::Pack;
use crate::image_folder::source::{Source, SourceReader};
use crate::{BadFile, DataError, ImageShape};

/// Some of the stored images, in the order of a data set.
#[derive(Clone, Debug)]
pub(crate) struct StoredImages {
    pub(crate) stored: Arc<Stored>,
    /// Which of them, by their position among the stored ones.
    pub(crate) ids: Vec<usize>,
    /// Whether training sees each of them mirrored in half of the epochs.
    pub(crate) random_flips: bool,
}

/// The good images of a folder or zip, sorted by name, or black-and-white ones without names.
#[derive(Debug)]
pub(crate) enum Stored {
    /// Decoded once.
    Packed(Pack),
    /// Decoded whenever one is asked for.
    Files(FileImages),
    /// In memory.
    Bits(BitImages),
}

/// Good files.
#[derive(Debug)]
pub(crate) struct FileImages {
    pub(crate) source: Arc<Source>,
    pub(crate) n_workers: usize,
    pub(crate) names: Vec<String>,
    /// Which of the source's files each image is.
    pub(crate) files: Vec<usize>,
    pub(crate) bad: Vec<BadFile>,
}

impl Stored {
    pub(crate) fn names(&self) -> &[String] {
        match self {
            Stored::Packed(pack) => pack.names(),
            Stored::Files(files) => &files.names,
            Stored::Bits(_) => &[],
        }
    }

    /// The files that could not be decoded.
    pub(crate) fn bad(&self) -> &[BadFile] {
        match self {
            Stored::Packed(pack) => pack.bad(),
            Stored::Files(files) => &files.bad,
            Stored::Bits(_) => &[],
        }
    }

    pub(crate) fn shape(&self) -> ImageShape {
        match self {
            Stored::Packed(pack) => pack.shape(),
            Stored::Files(files) => files.source.transform.shape(),
            Stored::Bits(images) => images.shape(),
        }
    }

    /// How many threads are worth their while.
    pub(crate) fn n_workers(&self) -> usize {
        match self {
            // One copies faster than any model learns.
            Stored::Packed(_) | Stored::Bits(_) => 1,
            Stored::Files(files) => files.n_workers,
        }
    }
}

/// One thread's access to stored images, with buffers that are used again and again.
#[derive(Debug)]
pub(crate) struct StoredReader {
    stored: Arc<Stored>,
    /// Works where the images are files; it has no buffers before its first.
    decoder: Option<SourceReader>,
}

impl StoredReader {
    pub(crate) fn new(stored: Arc<Stored>) -> StoredReader {
        StoredReader {
            stored,
            decoder: None,
        }
    }

    /// Writes an image to `out`, [C, H, W].
    ///
    /// # Errors
    /// A file that was good when the data set was loaded is no longer.
    pub(crate) fn read(&mut self, id: usize, out: &mut [u8]) -> Result<(), DataError> {
        match self.stored.as_ref() {
            Stored::Packed(pack) => {
                pack.read(id, out);
                Ok(())
            }
            Stored::Bits(images) => {
                images.read(id, out);
                Ok(())
            }
            Stored::Files(images) => self
                .decoder
                .get_or_insert_with(|| SourceReader::new(Arc::clone(&images.source)))
                .read(images.files[id], out)
                .map_err(|reason| DataError::Changed {
                    path: images.source.files.path().to_owned(),
                    name: images.names[id].clone(),
                    reason,
                }),
        }
    }
}

/// Mirrors each row of `width` pixels: left becomes right.
pub(crate) fn mirror(image: &mut [u8], width: usize) {
    for row in image.chunks_exact_mut(width) {
        row.reverse();
    }
}
