//! The learning-rate schedule.

use serde_json::{Value, json};
use vae_run::Schedule;

use crate::{Callback, Event, Fit, Flow, PlateauState, TrainError};

/// Sets the learning rate according to the config's `schedule`. Every run has this as its first callback.
#[derive(Debug)]
pub struct LearningRate {
    schedule: Schedule,
    n_steps: u64,
    plateau: PlateauState,
}

impl LearningRate {
    /// The schedule of a run of `n_steps`.
    #[must_use]
    pub fn new(schedule: &Schedule, n_steps: u64) -> Self {
        Self {
            schedule: schedule.clone(),
            n_steps,
            plateau: PlateauState::default(),
        }
    }
}

impl Callback for LearningRate {
    fn name(&self) -> &'static str {
        "learning_rate"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if let Schedule::Plateau(config) = &self.schedule
            && let Event::EpochEnd {
                validation: Some(record),
                ..
            } = event
        {
            let ranking = run.config.ranking(&config.metric);
            // A plateau expects a value that should fall.
            let value = ranking.of(record).map(|value| ranking.falling(value));
            self.plateau.observe(config, value.unwrap_or(f64::NAN));
        }
        if !matches!(event, Event::FitEnd { .. }) {
            let factor = self
                .schedule
                .factor(run.progress.position.steps, self.n_steps);
            run.controls.learning_rate_factor = factor * self.plateau.factor();
        }
        Ok(Flow::Continue)
    }

    fn state(&self) -> Value {
        match self.schedule {
            Schedule::Plateau(_) => json!(self.plateau),
            _ => Value::Null,
        }
    }

    fn restore(&mut self, state: &Value) -> Result<(), TrainError> {
        self.plateau = super::parse_state(self.name(), state)?;
        Ok(())
    }
}
