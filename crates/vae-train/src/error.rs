//! What can go wrong in training.

use std::error::Error;
use std::io;

use thiserror::Error;
use vae_data::DataError;
use vae_model::ModelError;
use vae_run::RunError;
use vae_view::ViewError;

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The run's files, or its config.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Its pictures.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A number of training is none. [`crate::Trainer::fit`] deals with it as `[safety]` says.
    #[error("{problem} by step {step}")]
    NonFinite {
        /// As in `the training loss became NaN`.
        problem: String,
        /// Optimizer steps since the start.
        step: u64,
    },
    /// Returning to the last good state did not help.
    #[error(
        "{problem} by step {step}{origin}, after {n_rollbacks} returns to an earlier state, the \
         learning rate now {learning_rate:e}. Try a lower learning_rate of the optimizer, a longer \
         warm-up of the schedule or training.clip.norm. No checkpoint holds such numbers"
    )]
    GaveUp {
        /// As in `the training loss became NaN`.
        problem: String,
        /// Optimizer steps since the start.
        step: u64,
        /// Where it began, in parentheses, if the config asked for it; or empty.
        origin: String,
        /// How often the run had returned to an earlier state.
        n_rollbacks: usize,
        /// The step size that was too large still.
        learning_rate: f64,
    },
    /// A callback's state in a checkpoint is not one that it knows.
    #[error("the checkpoint's state of the callback {name}: {problem}")]
    CallbackState {
        /// The callback.
        name: String,
        /// What was found.
        problem: String,
    },
    /// A saved state that belongs to another run.
    #[error("state of the {owner}: {problem}")]
    State {
        /// Whose state it is, `optimizer` for example.
        owner: &'static str,
        /// What was found and what was wanted.
        problem: String,
    },
    /// libtorch refused, out of memory for example.
    #[error("libtorch refused")]
    Torch(#[from] tch::TchError),
}

impl TrainError {
    /// Whether a file could not be written because the disk is full, or a quota used up.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                );
            }
            cause = error.source();
        }
        false
    }
}
