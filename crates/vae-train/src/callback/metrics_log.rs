//! `metrics.jsonl`: a line for each epoch and split.

use vae_run::RunDir;

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Appends each epoch's records to the run's `metrics.jsonl`.
///
/// When a run is resumed at a checkpoint, the lines of later epochs are removed: those epochs are repeated, and each must appear
/// once.
#[derive(Debug)]
pub struct MetricsLog {
    run_dir: RunDir,
}

impl MetricsLog {
    /// The log of a run.
    #[must_use]
    pub fn new(run_dir: &RunDir) -> Self {
        Self {
            run_dir: run_dir.clone(),
        }
    }
}

impl Callback for MetricsLog {
    fn name(&self) -> &'static str {
        "metrics_log"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        match event {
            Event::FitStart => self
                .run_dir
                .cut_records_after(run.progress.position.epochs)?,
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
