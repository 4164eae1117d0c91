//! How far a run is.

use serde::{Deserialize, Serialize};

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Whole epochs done.
    pub epochs: u64,
    /// Optimizer steps done.
    pub steps: u64,
}
