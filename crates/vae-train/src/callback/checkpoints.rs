//! When checkpoints are written.

use std::time::Instant;

use vae_run::{CheckpointsConfig, Position};

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Requests a checkpoint after every given number of epochs and after the best one so far, within an epoch when a given number
/// of minutes has passed since the last, and at the end of the run in any case.
#[derive(Debug)]
pub struct Checkpoints {
    config: CheckpointsConfig,
    /// The time of the last request, or of the start.
    since: Option<Instant>,
}

impl Checkpoints {
    /// Follows the config.
    #[must_use]
    pub fn new(config: &CheckpointsConfig) -> Self {
        Self {
            config: config.clone(),
            since: None,
        }
    }
}

impl Callback for Checkpoints {
    fn name(&self) -> &'static str {
        "checkpoints"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let Position { epochs, steps } = run.progress.position;
        let is_due = match event {
            Event::EpochEnd { is_best, .. } => {
                *is_best || epochs.is_multiple_of(self.config.every_epochs)
            }
            Event::StepEnd { .. } => self
                .config
                .every_minutes
                .is_some_and(|minutes| since.elapsed().as_secs_f64() >= 60.0 * minutes),
            Event::FitEnd { .. } => {
                steps > 0 && run.last_checkpoint() != Some(run.progress.position)
            }
            _ => false,
        };
        if is_due {
            run.request_checkpoint();
            self.since = Some(Instant::now());
        }
        Ok(Flow::Continue)
    }
}
