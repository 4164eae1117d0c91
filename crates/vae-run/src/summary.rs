//! What a run came to: whether it goes on, and its `summary.json`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Incident, Record};

/// How far a run is from being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// A process trains it.
    Running,
    /// All epochs are done.
    Finished,
    /// Ctrl-C.
    Interrupted,
    /// An error ended it.
    Failed,
    /// No process trains it and it has no summary: its process was killed.
    Stopped,
    /// It has no summary, and on a file system without locks nobody can know whether a process trains it.
    Unknown,
}

impl RunState {
    /// As in `summary.json`.
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

/// `summary.json`: what a finished or interrupted run came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The folder of the run.
    pub run: PathBuf,
    /// `"finished"`, `"interrupted"` or `"failed"`.
    pub state: String,
    /// What it failed of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whole epochs done.
    pub epochs: u64,
    /// Optimizer steps done.
    pub steps: u64,
    /// The best validation record, by `checkpoints.metric` of the config.
    pub best: Option<Record>,
    /// The last epoch on training images.
    pub last_train: Option<Record>,
    /// The last epoch on validation images.
    pub last_validation: Option<Record>,
    /// What went wrong on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<Incident>,
    /// From the first step to the last picture, without the time between a stop and its resume.
    pub seconds: f64,
    /// Of the last process: seconds spent on anything but steps and evaluation.
    pub engine_seconds: f64,
    /// Numbers that were trained.
    pub n_parameters: usize,
    /// Training images.
    pub n_train_images: usize,
    /// Images that checkpoints were chosen by.
    pub n_validation_images: usize,
    /// Images that had no part in the training.
    pub n_test_images: usize,
    /// `"cpu"` or `"cuda:0"`.
    pub device: String,
    /// CPU threads of libtorch.
    pub threads: i32,
    /// Largest resident size of the process, where the system tells it.
    pub peak_resident_bytes: Option<u64>,
    /// The pictures of the last epoch.
    pub pictures: Vec<PathBuf>,
}
