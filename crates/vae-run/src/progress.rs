//! How far a run is, and what it came to so far.

use serde::{Deserialize, Serialize};

use crate::{Incident, LatentUse, Position, Record};

/// How far a run is, and what it came to so far: the one place for it in a run, in its outcome and in its
/// checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs and steps done. `state.json` has it one level higher: see [`crate::CheckpointState`].
    #[serde(skip)]
    pub position: Position,
    /// How much each latent dimension was used at the last evaluation; none before the first. One level
    /// higher as well.
    #[serde(skip)]
    pub latent_use: Option<LatentUse>,
    /// Factor on the learning rate, below 1 after a rollback.
    pub learning_rate_scale: f64,
    /// Step size of the last step.
    pub learning_rate: f64,
    /// What went wrong so far.
    pub incidents: Vec<Incident>,
    /// The validation record of the best epoch, by `checkpoints.metric`; none without validation images.
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
