//! When checkpoints are written (`[checkpoints]`).

use serde::{Deserialize, Serialize};

use crate::{Metric, RunError};

/// When checkpoints are written and which of them stay (`[checkpoints]`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointsConfig {
    /// After every so many epochs, and always after the last and after the best so far. Default 1.
    pub every_epochs: u64,
    /// Also inside an epoch, when so many minutes have passed since the last. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_minutes: Option<f64>,
    /// So many of the newest stay, at least 1. Default 2: one to go on from, and the one before in
    /// case that it is damaged. The best stays as well.
    pub keep: usize,
    /// The number of the validation images that says which is best, by its name in metrics.jsonl.
    /// Default `"loss"`, what the config optimizes.
    pub metric: Metric,
}

impl Default for CheckpointsConfig {
    fn default() -> Self {
        Self {
            every_epochs: 1,
            every_minutes: None,
            keep: 2,
            metric: Metric::default(),
        }
    }
}

impl CheckpointsConfig {
    /// Refuses values that make no sense.
    ///
    /// # Errors
    /// 0 epochs, minutes that are not positive, 0 to keep.
    pub fn check(&self) -> Result<(), RunError> {
        let counts = [
            ("checkpoints.every_epochs", self.every_epochs),
            ("checkpoints.keep", self.keep as u64),
        ];
        if let Some((key, _)) = counts.into_iter().find(|&(_, n)| n == 0) {
            return Err(RunError::config(key, "found 0, at least 1 is needed"));
        }
        match self.every_minutes {
            Some(minutes) if !(minutes > 0.0 && minutes.is_finite()) => Err(RunError::config(
                "checkpoints.every_minutes",
                format!("found {minutes}, a positive number is needed"),
            )),
            _ => Ok(()),
        }
    }
}
