//! The state of a run, and its `summary.json`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Incident, Record};

/// Whether a run is running or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// A process trains it.
    Running,
    /// All epochs are done.
    Finished,
    /// It was ended by Ctrl-C or a signal.
    Interrupted,
    /// It was ended by an error.
    Failed,
    /// No process trains it and it has no summary: its process was killed.
    Stopped,
    /// It has no summary, and the file system has no locks: it is unknown whether a process trains it.
    Unknown,
}

impl RunState {
    /// Its name, as in `summary.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

/// `summary.json`: the results of a run that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The folder of the run.
    pub run: PathBuf,
    /// `"finished"`, `"interrupted"` or `"failed"`.
    pub state: String,
    /// The error that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Complete epochs done.
    pub epochs: u64,
    /// Optimizer steps done.
    pub steps: u64,
    /// The best validation record, by `checkpoints.metric` of the config.
    pub best: Option<Record>,
    /// The last training record.
    pub last_train: Option<Record>,
    /// The last validation record.
    pub last_validation: Option<Record>,
    /// The failures and rollbacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<Incident>,
    /// Seconds from the first step to the last picture, without the time between a stop and its resume.
    pub seconds: f64,
    /// Seconds that the last process spent on anything but steps and evaluation.
    pub engine_seconds: f64,
    /// The number of trainable parameters.
    pub n_parameters: usize,
    /// The number of training images.
    pub n_train_images: usize,
    /// The number of validation images, by which checkpoints are chosen.
    pub n_validation_images: usize,
    /// The number of test images.
    pub n_test_images: usize,
    /// `"cpu"` or `"cuda:0"`.
    pub device: String,
    /// CPU threads of libtorch.
    pub threads: i32,
    /// The version of this program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The commit of the git checkout that it ran in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Largest resident size of the process, if the system reports it.
    pub peak_resident_bytes: Option<u64>,
    /// The pictures of the last epoch.
    pub pictures: Vec<PathBuf>,
}
