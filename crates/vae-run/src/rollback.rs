//! Rollbacks to an earlier state: what they leave in a run, and the states needed for the next one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{Position, SavedTotals};

/// Settings that callbacks may change; they apply to the following steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Controls {
    /// Factor on the optimizer's learning rate.
    pub learning_rate_factor: f64,
    /// The step of the objective's schedule.
    pub objective_step: u64,
}

/// The settings of a step, besides its images and noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepControls {
    /// Factor on the optimizer's learning rate.
    pub learning_rate_factor: f64,
    /// The step of the objective's schedule.
    pub objective_step: u64,
    /// Factor on the learning rates of the other players, in addition to their schedules.
    #[serde(default = "one")]
    pub learning_rate_scale: f64,
}

fn one() -> f64 {
    1.0
}

/// The states to roll back to after a NaN, as saved in a checkpoint.
#[derive(Debug)]
pub struct SavedRecovery {
    /// All that is not a tensor.
    pub states: SavedStates,
    /// The name of each begins with the index of its state.
    pub tensors: Vec<(String, Tensor)>,
}

/// The part of [`SavedRecovery`] that is not tensors.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedStates {
    /// The older state first.
    pub good: Vec<SavedGood>,
    /// The settings of every step since the older of them.
    pub history: BTreeMap<u64, StepControls>,
}

/// One of the states to roll back to, without its tensors.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedGood {
    /// Whether a run that rolled back to here failed again before the next finite check.
    pub failed: bool,
    /// The position of the run.
    pub position: Position,
    /// The settings that callbacks had changed.
    pub controls: Controls,
    /// Sums over the epoch in progress.
    pub totals: SavedTotals,
    /// Steps that the model's optimizer had done.
    pub optimizer_steps: u64,
    /// Steps that the optimizers of the players beside the model had done.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub players: BTreeMap<String, u64>,
}

/// A failure and the rollback after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// The problem, as in `train loss became NaN`.
    pub problem: String,
    /// Optimizer steps done when it was detected.
    pub step: u64,
    /// Where it began, if `safety.find_layer` is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Optimizer steps done at the state that the run rolled back to.
    pub returned_to_step: u64,
    /// The factor on the learning rate after that.
    pub learning_rate_scale: f64,
}

impl std::fmt::Display for Incident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} by step {}", self.problem, self.step)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        write!(
            f,
            "; returned to step {}, learning rate × {}",
            self.returned_to_step, self.learning_rate_scale
        )
    }
}
