//! `metrics.jsonl`: a line for each epoch and split.

use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;

use vae_data::read_small_text;
use vae_model::write_whole;

use crate::run_dir::{LARGEST_LOG, append_whole};
use crate::{Callback, Event, Fit, Flow, Record, RunDir, TrainError};

/// Appends each epoch's records to the run's `metrics.jsonl`.
///
/// Where a run goes on at a checkpoint, the lines of what was done after it are taken away first:
/// those epochs are done once more, and each has to be there once.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
}

impl MetricsLog {
    /// The log of a run.
    #[must_use]
    pub fn new(run_dir: &RunDir) -> Self {
        Self {
            path: run_dir.metrics_file(),
        }
    }

    /// Keeps the whole lines of the epochs done.
    fn cut_after(&self, epochs: u64) -> Result<(), TrainError> {
        let text = match read_small_text(&self.path, LARGEST_LOG) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(TrainError::io(&self.path)(error)),
        };
        let kept: String = text
            .lines()
            .filter(|line| serde_json::from_str(line).is_ok_and(|r: Record| r.epoch <= epochs))
            .map(|line| line.to_owned() + "\n")
            .collect();
        if kept == text {
            return Ok(());
        }
        write_whole(&self.path, kept.as_bytes()).map_err(TrainError::io(&self.path))
    }

    fn append<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Result<(), TrainError> {
        let mut lines = String::new();
        for record in records {
            let line = serde_json::to_string(record)
                .map_err(|error| TrainError::run(&self.path, error.to_string()))?;
            lines += &(line + "\n");
        }
        let append = || {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)?;
            append_whole(&mut file, lines.as_bytes())
        };
        append().map_err(TrainError::io(&self.path))
    }
}

impl Callback for MetricsLog {
    fn name(&self) -> &'static str {
        "metrics_log"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        match event {
            Event::FitStart => self.cut_after(run.position.epochs)?,
            Event::EpochEnd {
                train, validation, ..
            } => self.append(std::iter::once(*train).chain(*validation))?,
            _ => {}
        }
        Ok(Flow::Continue)
    }
}
