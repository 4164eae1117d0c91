//! Checkpoints: the last epoch's weights and the best epoch's.

use crate::checkpoint::CheckpointState;
use crate::{Callback, Checkpoint, Event, Fit, Flow, RunDir, Stop, TrainError};

/// Saves `checkpoints/last` after every epoch and when a run is interrupted, `checkpoints/best`
/// after each epoch with a higher held-out elbo than all before.
#[derive(Debug)]
pub struct Checkpoints {
    run_dir: RunDir,
    kl_per_dimension: Option<Vec<f64>>,
}

impl Checkpoints {
    /// Into a run's `checkpoints/`.
    #[must_use]
    pub fn new(run_dir: RunDir) -> Self {
        Self {
            run_dir,
            kl_per_dimension: None,
        }
    }
}

impl Callback for Checkpoints {
    fn on_event(&mut self, run: &Fit, event: &Event) -> Result<Flow, TrainError> {
        let (test, is_best) = match event {
            Event::EpochEnd {
                test,
                is_best,
                kl_per_dimension,
                ..
            } => {
                self.kl_per_dimension = Some(kl_per_dimension.to_vec());
                (Some((*test).clone()), *is_best)
            }
            Event::FitEnd { outcome } if matches!(outcome.ended, Ok(Stop::Interrupted)) => {
                (None, false)
            }
            _ => return Ok(Flow::Continue),
        };
        let state = CheckpointState {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: run.position.epochs,
            step: run.position.steps,
            test,
            kl_per_dimension: self.kl_per_dimension.clone(),
        };
        Checkpoint::Last.save(&self.run_dir, run.vae, &state)?;
        if is_best {
            Checkpoint::Best.save(&self.run_dir, run.vae, &state)?;
        }
        Ok(Flow::Continue)
    }
}
