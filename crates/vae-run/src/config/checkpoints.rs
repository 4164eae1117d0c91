//! When checkpoints are written (`[checkpoints]`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Metric, RunError};

/// When checkpoints are written and which of them stay (`[checkpoints]`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointsConfig {
    /// Write a checkpoint after every so many epochs, and always after the last and after the best so far.
    /// Default 1.
    #[schemars(range(min = 1))]
    pub every_epochs: u64,
    /// Also write one within an epoch when this many minutes have passed since the last. By default never.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_minutes: Option<f64>,
    /// How many of the newest checkpoints are kept, besides the best. With 2 there is an older one to go
    /// on from if the newest is damaged. Default 2.
    #[schemars(range(min = 1))]
    pub keep: usize,
    /// The metric of the validation images that decides which checkpoint is the best, by its name in
    /// metrics.jsonl. By default `"loss"`, of models whose latents are codes `"reconstruction"`, for an objective with a
    /// discriminator `"epoch"`: the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
}

impl Default for CheckpointsConfig {
    fn default() -> Self {
        Self {
            every_epochs: 1,
            every_minutes: None,
            keep: 2,
            metric: None,
        }
    }
}

impl CheckpointsConfig {
    /// Refuses invalid values.
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
