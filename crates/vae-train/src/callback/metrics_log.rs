//! `metrics.jsonl`: a line for each epoch and split, and within epochs.

use vae_run::{Position, RunDir};

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Appends each epoch's records, and those of the steps within, to the run's `metrics.jsonl`.
///
/// When a run is resumed at a checkpoint, the lines of later epochs and steps are removed: those are repeated, and each must
/// appear once. So are those of steps that are repeated after a rollback.
#[derive(Debug)]
pub struct MetricsLog {
    run_dir: RunDir,
    /// The step of the last line within an epoch.
    last_step: u64,
}

impl MetricsLog {
    /// The log of a run.
    #[must_use]
    pub fn new(run_dir: &RunDir) -> Self {
        Self {
            run_dir: run_dir.clone(),
            last_step: 0,
        }
    }
}

impl Callback for MetricsLog {
    fn name(&self) -> &'static str {
        "metrics_log"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        match event {
            Event::FitStart => self.run_dir.cut_records_after(run.progress.position)?,
            Event::StepsEnd { record } => {
                let Position { epochs, steps } = run.progress.position;
                if steps <= self.last_step {
                    let steps = steps.saturating_sub(1);
                    self.run_dir.cut_records_after(Position { epochs, steps })?;
                }
                self.run_dir.append_records(std::iter::once(*record))?;
                self.last_step = steps;
            }
            Event::EpochEnd {
                train, validation, ..
            } => self
                .run_dir
                .append_records(std::iter::once(*train).chain(*validation))?,
            _ => {}
        }
        Ok(Flow::Continue)
    }
}
