//! A run as its callbacks see it.

use tch::Device;
use vae_data::Splits;
use vae_data::loader::n_batches;
use vae_model::Vae;
use vae_run::{Controls, Position, Progress, RunConfig};

use crate::TrainError;

/// What a run works with, and how far it is; callbacks get it with every event.
#[derive(Debug)]
pub struct Fit<'a> {
    /// The model in training. After an epoch and at the end it holds the weights to use (the averaged
    /// ones, if there are any), after a step those that the optimizer changes.
    pub vae: &'a Vae,
    /// Its images.
    pub splits: &'a Splits,
    /// The whole experiment.
    pub config: &'a RunConfig,
    /// How far it is, and what it came to so far.
    pub progress: Progress,
    /// What callbacks may turn.
    pub controls: Controls,
    pub(crate) save_requested: bool,
    pub(crate) last_checkpoint: Option<Position>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All epochs are done.
    Finished,
    /// The stop flag was raised (Ctrl-C).
    Interrupted,
    /// A callback asked for it.
    Callback,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Why it stopped, or what it failed of.
    pub ended: Result<Stop, TrainError>,
    /// How far it came, and to what.
    pub progress: Progress,
    /// Seconds of the whole run, those before it was resumed included.
    pub seconds: f64,
    /// Seconds of this process spent on anything but steps and evaluation: in callbacks, in writing
    /// checkpoints, in looks at whether the numbers are numbers.
    pub engine_seconds: f64,
}

impl Fit<'_> {
    /// Has a checkpoint written after this event, when every callback has seen it: the states in it
    /// are those of one moment. Does nothing where the run has no folder ([`crate::Trainer::save_to`]).
    pub fn request_checkpoint(&mut self) {
        self.save_requested = true;
    }

    /// Optimizer steps that were done when the epoch in progress began.
    #[must_use]
    pub fn steps_before_epoch(&self) -> u64 {
        let batch_size = self.config.training.batch_size;
        self.progress.position.epochs * n_batches(self.splits.train.len(), batch_size) as u64
    }

    /// Optimizer steps done of the epoch in progress.
    pub(crate) fn steps_of_epoch(&self) -> u64 {
        self.progress.position.steps - self.steps_before_epoch()
    }

    /// Where the run was when its newest checkpoint was written.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<Position> {
        self.last_checkpoint
    }
}

/// `cpu` or `cuda:0`.
#[must_use]
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}
