//! When to stop early (`[early_stopping]`).

use serde::{Deserialize, Serialize};

use crate::{Metric, RunError};

/// When to stop early (`[early_stopping]`; without the table a run never does).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStoppingConfig {
    /// The number of the validation images that is watched, by its name in metrics.jsonl. Default
    /// `"loss"`, what the config optimizes.
    pub metric: Metric,
    /// Epochs in a row without an improvement after which the run stops. Default 5.
    pub patience_epochs: u64,
    /// What counts as an improvement, in the metric's unit. Default 0: any.
    pub min_improvement: f64,
}

impl Default for EarlyStoppingConfig {
    fn default() -> Self {
        Self {
            metric: Metric::default(),
            patience_epochs: 5,
            min_improvement: 0.0,
        }
    }
}

impl EarlyStoppingConfig {
    /// Refuses values that make no sense.
    ///
    /// # Errors
    /// A patience of 0, a negative improvement.
    pub fn check(&self) -> Result<(), RunError> {
        if self.patience_epochs == 0 {
            let problem = "found 0, at least 1 is needed (leave [early_stopping] out for none)";
            return Err(RunError::config("early_stopping.patience_epochs", problem));
        }
        if !(self.min_improvement >= 0.0 && self.min_improvement.is_finite()) {
            return Err(RunError::config(
                "early_stopping.min_improvement",
                format!(
                    "found {}, a number of at least 0 is needed",
                    self.min_improvement
                ),
            ));
        }
        Ok(())
    }
}
