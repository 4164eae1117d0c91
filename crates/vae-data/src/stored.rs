//! Images that are not in a tensor, such as those of a pack or of files decoded in every epoch.

use std::fmt::Debug;
use std::sync::Arc;

use crate::{BadFile, DataError, ImageShape};

/// Images of a store, in the order of a data set.
#[derive(Clone, Debug)]
pub(crate) struct StoredImages {
    pub(crate) store: Arc<dyn ImageStore>,
    /// Their indices in the store.
    pub(crate) ids: Vec<usize>,
    /// Whether training mirrors each of them in half of the epochs.
    pub(crate) random_flips: bool,
}

/// Images of one shape that are read individually.
pub(crate) trait ImageStore: Debug + Send + Sync {
    /// The name of each image; empty if they have no names.
    fn names(&self) -> &[String];

    /// The files that could not be decoded.
    fn bad(&self) -> &[BadFile];

    fn shape(&self) -> ImageShape;

    /// The number of threads that are worth using.
    fn n_workers(&self) -> usize;

    /// A reader for one thread.
    fn reader(self: Arc<Self>) -> Box<dyn StoreReader>;
}

/// One thread's access to a store, with buffers that are reused.
pub(crate) trait StoreReader: Send {
    /// Writes an image to `out`, [C, H, W].
    ///
    /// # Errors
    /// A file that was good when the data set was loaded can no longer be decoded.
    fn read(&mut self, id: usize, out: &mut [u8]) -> Result<(), DataError>;
}

/// Mirrors each row of `width` pixels horizontally.
pub(crate) fn mirror(image: &mut [u8], width: usize) {
    for row in image.chunks_exact_mut(width) {
        row.reverse();
    }
}
