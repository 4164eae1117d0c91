//! The schedule of the kl's weight.

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Advances the objective's schedule (β or the capacity) with the optimizer's steps. Every run has this as its second callback; a
/// later callback may override it.
#[derive(Debug)]
pub struct KlSchedule;

impl Callback for KlSchedule {
    fn name(&self) -> &'static str {
        "kl_schedule"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if matches!(event, Event::FitStart | Event::StepEnd { .. }) {
            run.controls.objective_step = run.progress.position.steps;
        }
        Ok(Flow::Continue)
    }
}
