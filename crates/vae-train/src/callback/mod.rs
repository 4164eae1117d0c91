//! Callbacks: what happens around training.

pub(crate) mod checkpoints;
pub(crate) mod curves;
pub(crate) mod metrics_log;
pub(crate) mod pictures;
pub(crate) mod tensorboard;

use crate::{Fit, Outcome, Record, Totals, TrainError};

/// Something that happens around training. Callbacks are called in the order of their list.
pub trait Callback {
    /// Reacts to an event, and says whether training goes on.
    ///
    /// # Errors
    /// Whatever should end the run, a full disk for example.
    fn on_event(&mut self, run: &Fit, event: &Event) -> Result<Flow, TrainError>;
}

/// Whether training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It ends after this event.
    Stop,
}

/// What a callback is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Before the first step.
    FitStart,
    /// After an optimizer step.
    StepEnd {
        /// Sums over the epoch so far.
        totals: &'a Totals,
    },
    /// After an epoch's evaluation.
    EpochEnd {
        /// Means while training.
        train: &'a Record,
        /// Means on held-out images.
        test: &'a Record,
        /// Mean kl of each latent dimension on held-out images, nats.
        kl_per_dimension: &'a [f64],
        /// No earlier epoch has a higher held-out elbo.
        is_best: bool,
    },
    /// After the last step, whatever ended the run.
    FitEnd {
        /// How it ended.
        outcome: &'a Outcome,
    },
}
