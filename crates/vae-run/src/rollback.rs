//! What a run that returned to an earlier step leaves behind, and what it needs to return once more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{Position, SavedTotals};

/// What callbacks may turn; it holds for the steps to come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Controls {
    /// Factor on the optimizer's learning rate.
    pub learning_rate_factor: f64,
    /// The step at which the objective's schedule stands.
    pub objective_step: u64,
}

/// What a step was done with, beside its images and its noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepControls {
    /// Factor on the optimizer's learning rate.
    pub learning_rate_factor: f64,
    /// The step at which the objective's schedule stood.
    pub objective_step: u64,
    /// Factor on the learning rates of the players beside the model, on top of their schedules.
    #[serde(default = "one")]
    pub learning_rate_scale: f64,
}

fn one() -> f64 {
    1.0
}

/// The states to return to after a NaN, as a checkpoint keeps them.
#[derive(Debug)]
pub struct SavedRecovery {
    /// What is not a tensor.
    pub states: SavedStates,
    /// The name of each begins with the index of its state.
    pub tensors: Vec<(String, Tensor)>,
}

/// What is not a tensor of [`SavedRecovery`].
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedStates {
    /// The older one first.
    pub good: Vec<SavedGood>,
    /// What every step since the older of them was done with.
    pub history: BTreeMap<u64, StepControls>,
}

/// One of the states to return to, without its tensors.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedGood {
    /// A run that returned here failed again before the next finite check.
    pub failed: bool,
    /// How far the run was.
    pub position: Position,
    /// What callbacks had turned.
    pub controls: Controls,
    /// Sums over the epoch in progress.
    pub totals: SavedTotals,
    /// Steps that the model's optimizer had done.
    pub optimizer_steps: u64,
    /// Steps that the optimizers of the players beside the model had done.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub players: BTreeMap<String, u64>,
}

/// One failure and what was done about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// What was found, as in `train loss became NaN`.
    pub problem: String,
    /// Optimizer steps done when it was noticed.
    pub step: u64,
    /// Where it began, if `safety.find_layer` asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Optimizer steps done at the state that the run returned to.
    pub returned_to_step: u64,
    /// Factor on the learning rate from then on.
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
