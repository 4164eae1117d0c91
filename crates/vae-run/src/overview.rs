//! The state and results of a run, from its small files.

use serde::Serialize;

use crate::{Record, RunDir, RunError, RunState};

/// The state and results of a run so far.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overview {
    /// Whether it is running or how it ended.
    #[serde(serialize_with = "state_name")]
    pub state: RunState,
    /// The error that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Complete epochs done.
    pub epochs: u64,
    /// The number of epochs in its config.
    pub planned_epochs: u64,
    /// The best validation record by `checkpoints.metric` of the config.
    pub best: Option<Record>,
    /// The last validation record.
    pub last_validation: Option<Record>,
    /// Seconds of training and evaluation.
    pub seconds: f64,
    /// The number of trainable parameters; known after the run has ended once.
    pub n_parameters: Option<usize>,
}

fn state_name<S: serde::Serializer>(state: &RunState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

impl Overview {
    /// Reads the config, metrics and summary of a run. A run that is in progress or was killed has no valid summary;
    /// then everything comes from the metrics.
    ///
    /// # Errors
    /// A file of the run that cannot be read.
    pub fn read(run_dir: &RunDir) -> Result<Self, RunError> {
        let config = run_dir.config()?;
        let planned_epochs = config.training.epochs;
        let state = run_dir.state()?;
        let summary = run_dir.summary()?;
        let n_parameters = summary.as_ref().map(|summary| summary.n_parameters);
        let records = run_dir.records()?;
        let ranking = config.checkpoint_metric().ranking(&run_dir.terms()?);
        let best = ranking.best(&records).cloned();
        match summary {
            Some(summary) if state != RunState::Running => Ok(Self {
                state,
                error: summary.error,
                epochs: summary.epochs,
                planned_epochs,
                best,
                last_validation: summary.last_validation,
                seconds: summary.seconds,
                n_parameters,
            }),
            _ => {
                let mut newest_first = records.iter().rev();
                let last_validation =
                    newest_first.find(|record| record.split == Record::VALIDATION);
                Ok(Self {
                    state,
                    error: None,
                    epochs: records.last().map_or(0, |record| record.epoch),
                    planned_epochs,
                    best,
                    last_validation: last_validation.cloned(),
                    seconds: records.iter().map(|record| record.seconds).sum(),
                    n_parameters,
                })
            }
        }
    }
}
