//! How many images of each split are used.

use std::path::Path;

use tracing::warn;

use crate::HoldOut;

/// The sizes of the splits as given in a config.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) validation: Option<HoldOut>,
    /// The largest number of images of each split.
    pub(crate) limits: Limits,
}

/// The largest number of images of each split; the first ones are used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) train: Option<usize>,
    pub(crate) validation: Option<usize>,
    pub(crate) test: Option<usize>,
}

/// The number of images used out of `n` under a limit that was given under `key`.
pub(crate) fn n_within(limit: Option<usize>, n: usize, key: &str, of: &Path) -> usize {
    match limit {
        Some(limit) if limit > n => {
            warn!(
                "{key} = {limit}, but {} holds {n} such images: all of them are used",
                of.display()
            );
            n
        }
        Some(limit) => limit,
        None => n,
    }
}

pub(crate) const TRAIN_LIMIT: &str = "dataset.train_limit";
pub(crate) const VALIDATION_LIMIT: &str = "dataset.validation_limit";
pub(crate) const TEST_LIMIT: &str = "dataset.test_limit";
