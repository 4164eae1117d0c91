//! When checkpoints are written.

use std::time::{Duration, Instant};

use crate::{Callback, CheckpointsConfig, Event, Fit, Flow, Position, TrainError};

/// Asks for a checkpoint after every so many epochs, inside an epoch when so many minutes have
/// passed since the last, and at the end, whatever ended the run.
#[derive(Debug)]
pub struct Checkpoints {
    config: CheckpointsConfig,
    last: Option<(Position, Instant)>,
}

impl Checkpoints {
    /// As the config says.
    #[must_use]
    pub fn new(config: &CheckpointsConfig) -> Self {
        Self {
            config: config.clone(),
            last: None,
        }
    }
}

impl Callback for Checkpoints {
    fn name(&self) -> &'static str {
        "checkpoints"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let now = (run.position, Instant::now());
        let last = *self.last.get_or_insert(now);
        let is_due = match event {
            Event::EpochEnd { .. } => run.position.epochs.is_multiple_of(self.config.every_epochs),
            Event::StepEnd { .. } => self
                .config
                .every_minutes
                .is_some_and(|minutes| last.1.elapsed() >= Duration::from_secs_f64(60.0 * minutes)),
            Event::FitEnd { .. } => run.position != last.0,
            _ => false,
        };
        if is_due {
            run.request_checkpoint();
            self.last = Some(now);
        }
        Ok(Flow::Continue)
    }
}
