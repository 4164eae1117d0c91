//! When to stop early (`[early_stopping]`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Metric, RunError};

/// When to stop before the last epoch (`[early_stopping]`). Without the table a run never does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStoppingConfig {
    /// The metric of the validation images that is watched, by its name in metrics.jsonl. Default `"loss"`.
    pub metric: Metric,
    /// Number of epochs in a row without an improvement after which the run stops. Default 5.
    #[schemars(range(min = 1))]
    pub patience_epochs: u64,
    /// Smallest change that counts as an improvement, in the metric's unit; with 0 any does. Default 0.
    #[schemars(range(min = 0.0))]
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
    /// Refuses invalid values.
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
