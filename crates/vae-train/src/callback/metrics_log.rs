//! `metrics.jsonl`: a line for each epoch and split.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use crate::{Callback, Event, Fit, Flow, Record, RunDir, TrainError};

/// Appends each epoch's records to the run's `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log of a run.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(run_dir: &RunDir) -> Result<Self, TrainError> {
        let path = run_dir.metrics_file();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(TrainError::io(&path))?;
        Ok(Self { path, file })
    }

    fn append(&mut self, record: &Record) -> Result<(), TrainError> {
        // One write for the whole line, so that a reader never meets half of it.
        let line = serde_json::to_string(record)
            .map_err(|error| TrainError::run(&self.path, error.to_string()))?
            + "\n";
        self.file
            .write_all(line.as_bytes())
            .map_err(TrainError::io(&self.path))
    }
}

impl Callback for MetricsLog {
    fn on_event(&mut self, _: &Fit, event: &Event) -> Result<Flow, TrainError> {
        if let Event::EpochEnd { train, test, .. } = event {
            self.append(train)?;
            self.append(test)?;
        }
        Ok(Flow::Continue)
    }
}
