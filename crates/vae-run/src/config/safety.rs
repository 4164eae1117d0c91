//! What to do when a loss or a gradient is no longer a number (`[safety]`).

use serde::{Deserialize, Serialize};

use crate::RunError;

/// What to do about a number that is none (`[safety]`).
///
/// The loss and the gradient's norm are looked at every 50 steps and at the end of an epoch. When one
/// of them is not finite, the run returns to the state of the look before, goes on with a lower
/// learning rate, and says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SafetyConfig {
    /// So many returns in a run; the next failure ends it. Default 3. With 0 no copies of earlier states
    /// are kept in memory (unless `find_layer` needs one), and a failure leaves the checkpoints of before.
    pub max_rollbacks: usize,
    /// Each return multiplies the learning rate by this. Default 0.5.
    pub learning_rate_factor: f64,
    /// After a failure, go through its steps once more and name the first layer whose output, or the
    /// first weight whose gradient, is not finite. Costs time only then. Default false.
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
    /// Refuses values that make no sense.
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
