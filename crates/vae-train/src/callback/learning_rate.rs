//! The learning-rate schedule.

use crate::{Callback, Event, Fit, Flow, Schedule, TrainError};

/// Turns the learning rate as the config's `schedule` says. Every run has one, as its first callback.
#[derive(Debug)]
pub struct LearningRate {
    schedule: Schedule,
    n_steps: u64,
}

impl LearningRate {
    /// For a run of `n_steps`.
    #[must_use]
    pub fn new(schedule: &Schedule, n_steps: u64) -> Self {
        Self {
            schedule: schedule.clone(),
            n_steps,
        }
    }
}

impl Callback for LearningRate {
    fn name(&self) -> &'static str {
        "learning_rate"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if matches!(event, Event::FitStart | Event::StepEnd { .. }) {
            let factor = self.schedule.factor(run.position.steps, self.n_steps);
            run.controls.learning_rate_factor = factor;
        }
        Ok(Flow::Continue)
    }
}
