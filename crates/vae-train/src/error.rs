//! The errors of training.

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
    /// Its pictures and curves.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A loss, gradient or weight is NaN or infinite. [`crate::Trainer::fit`] handles it according to `[safety]`.
    #[error("{problem} by step {step}")]
    NonFinite {
        /// The problem, as in `the training loss became NaN`.
        problem: String,
        /// Optimizer steps since the start.
        step: u64,
    },
    /// Rolling back to the last good state did not help.
    #[error(
        "{problem} by step {step}{origin}, after {n_rollbacks} rollbacks to an earlier state, the \
         learning rate now {learning_rate:e}. Try a lower learning_rate of the optimizer, a longer \
         warm-up of the schedule or training.clip.norm. No checkpoint holds such numbers"
    )]
    GaveUp {
        /// The problem, as in `the training loss became NaN`.
        problem: String,
        /// Optimizer steps since the start.
        step: u64,
        /// Where it began, in parentheses; empty unless the config asks for it.
        origin: String,
        /// The number of rollbacks.
        n_rollbacks: usize,
        /// The learning rate, which was still too large.
        learning_rate: f64,
    },
    /// A callback's state in a checkpoint is invalid.
    #[error("the checkpoint's state of the callback {name}: {problem}")]
    CallbackState {
        /// The callback.
        name: String,
        /// What was found.
        problem: String,
    },
    /// A saved state does not fit this run.
    #[error("state of the {owner}: {problem}")]
    State {
        /// What the state belongs to, such as `optimizer`.
        owner: &'static str,
        /// What was found and what was wanted.
        problem: String,
    },
    /// libtorch refused, out of memory for example.
    #[error("libtorch refused")]
    Torch(#[from] tch::TchError),
}

impl TrainError {
    /// Whether a file could not be written because the disk is full or a quota is exhausted.
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
