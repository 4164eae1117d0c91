//! What to do when a loss or a gradient becomes NaN or infinite (`[safety]`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RunError;

/// What to do about NaN or infinite values (`[safety]`).
///
/// The loss and the gradient's norm are checked every 50 steps and at the end of an epoch. When one of
/// them is not finite, the run returns to the state of the last good check, goes on with a lower learning
/// rate, and reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SafetyConfig {
    /// How often a run may return to an earlier state; the next failure ends it. With 0 the first failure
    /// ends it, and no earlier state is kept in memory (unless `find_layer` needs one). Default 3.
    pub max_rollbacks: usize,
    /// Each return multiplies the learning rate by this factor. Default 0.5.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1.0))]
    pub learning_rate_factor: f64,
    /// After a failure, repeat its steps and name the first layer whose output, or the first weight whose
    /// gradient, is not finite. Takes time only after a failure. Default false.
    pub find_layer: bool,
}

impl Default for SafetyConfig {
    fn default() -> Self {
        Self {
            max_rollbacks: 3,
            learning_rate_factor: 0.5,
            find_layer: false,
        }
    }
}

impl SafetyConfig {
    /// Refuses invalid values.
    ///
    /// # Errors
    /// A factor outside (0, 1].
    pub fn check(&self) -> Result<(), RunError> {
        if self.learning_rate_factor > 0.0 && self.learning_rate_factor <= 1.0 {
            return Ok(());
        }
        Err(RunError::config(
            "safety.learning_rate_factor",
            format!(
                "found {}, a number above 0 and up to 1 is needed",
                self.learning_rate_factor
            ),
        ))
    }
}
