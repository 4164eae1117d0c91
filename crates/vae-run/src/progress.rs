//! The position of a run and its results so far.

use serde::{Deserialize, Serialize};

use crate::{Incident, LatentUse, Position, Record};

/// The position of a run and its results so far. The trainer, its outcome and its checkpoints all use this struct.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs and steps done. `state.json` holds it one level higher: see [`crate::CheckpointState`].
    #[serde(skip)]
    pub position: Position,
    /// How much each latent dimension was used at the last evaluation; none before the first one. `state.json` holds
    /// it one level higher as well.
    #[serde(skip)]
    pub latent_use: Option<LatentUse>,
    /// Factor on the learning rate, below 1 after a rollback.
    pub learning_rate_scale: f64,
    /// Step size of the last step.
    pub learning_rate: f64,
    /// The failures so far.
    pub incidents: Vec<Incident>,
    /// The validation record of the best epoch by `checkpoints.metric`; none without validation images.
    pub best: Option<Record>,
    /// The last epoch's training record.
    pub last_train: Option<Record>,
    /// The last epoch's validation record.
    pub last_validation: Option<Record>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            position: Position::default(),
            latent_use: None,
            learning_rate_scale: 1.0,
            learning_rate: 0.0,
            incidents: Vec::new(),
            best: None,
            last_train: None,
            last_validation: None,
        }
    }
}
