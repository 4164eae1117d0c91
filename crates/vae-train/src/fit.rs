//! The state of a run that callbacks see.

use tch::Device;
use vae_data::Splits;
use vae_model::Vae;
use vae_run::{Controls, Position, Progress, RunConfig};

use crate::TrainError;

/// The model, data and position of a run; callbacks get it with every event.
#[derive(Debug)]
pub struct Fit<'a> {
    /// The model in training. After an epoch and at the end it has the weights to be used (the averaged ones, if there are any),
    /// after a step those that the optimizer updates.
    pub vae: &'a Vae,
    /// Its images.
    pub splits: &'a Splits,
    /// The whole experiment.
    pub config: &'a RunConfig,
    /// The position and the results so far.
    pub progress: Progress,
    /// Settings that callbacks may change.
    pub controls: Controls,
    pub(crate) save_requested: bool,
    pub(crate) last_checkpoint: Option<Position>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All epochs are done.
    Finished,
    /// The stop flag was raised (by Ctrl-C).
    Interrupted,
    /// A callback asked to stop.
    Callback,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Why it stopped, or the error that ended it.
    pub ended: Result<Stop, TrainError>,
    /// The position and the results.
    pub progress: Progress,
    /// Seconds of the whole run, including those before a resume.
    pub seconds: f64,
    /// Seconds of this process spent on anything but steps and evaluation: in callbacks, writing checkpoints, and finite
    /// checks.
    pub engine_seconds: f64,
}

impl Fit<'_> {
    /// Requests a checkpoint after this event, once every callback has seen it, so that the states in it are of one moment. Does
    /// nothing if the run has no folder ([`crate::Trainer::save_to`]).
    pub fn request_checkpoint(&mut self) {
        self.save_requested = true;
    }

    /// Optimizer steps done when the epoch in progress began.
    #[must_use]
    pub fn steps_before_epoch(&self) -> u64 {
        self.progress.position.epochs * self.config.steps_per_epoch(self.splits.train.len())
    }

    /// Optimizer steps done in the epoch in progress.
    pub(crate) fn steps_of_epoch(&self) -> u64 {
        self.progress.position.steps - self.steps_before_epoch()
    }

    /// Whether this is the step after which the first pictures are drawn, because the first epoch is long
    /// (`pictures.first_step`).
    #[must_use]
    pub fn is_first_look(&self) -> bool {
        let Position { epochs, steps } = self.progress.position;
        epochs == 0 && steps > 0 && steps == self.config.pictures.first_step
    }

    /// The position of the newest checkpoint.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<Position> {
        self.last_checkpoint
    }
}

/// The name of a device: `cpu` or `cuda:0`.
#[must_use]
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}
