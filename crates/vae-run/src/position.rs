//! The position of a run: epochs and steps done.

use serde::{Deserialize, Serialize};

/// The position of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Complete epochs done.
    pub epochs: u64,
    /// Optimizer steps done.
    pub steps: u64,
}
