//! What can go wrong in training.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use thiserror::Error;
use vae_data::DataError;
use vae_model::{ImageShape, ModelError};

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A config value that no run can be made from.
    #[error("{key}: {problem}")]
    Config {
        /// The key in the config.
        key: &'static str,
        /// What was found and what was wanted.
        problem: String,
    },
    /// The data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
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
    /// A config that is not the one a run was started with.
    #[error(
        "{path}: cannot go on exactly, since these differ from what the checkpoint was trained with: \
         {differences}. Change them back, or start a new run"
    )]
    ResumeConfig {
        /// The run.
        path: PathBuf,
        /// Keys with both values.
        differences: String,
    },
    /// The folder for a new run is in use.
    #[error("{path}: already holds files; give another folder with --out, or remove it")]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that is no run, or lacks what is asked of it.
    #[error("{path}: {problem}")]
    Run {
        /// The folder or file.
        path: PathBuf,
        /// What was found and what was wanted.
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
    /// An attribute that no direction can be learned of, or of which none is known.
    #[error("attribute {name}: {problem}")]
    Attribute {
        /// The attribute.
        name: String,
        /// What was found and what was wanted.
        problem: String,
    },
    /// A latent for a sphere that points nowhere, or latents that are all the same.
    #[error(
        "latents of length 0 have no direction: on a sphere they have no place, and where all images have \
         the same latent (nothing is encoded), nothing can be learned of them"
    )]
    NoDirection,
    /// The file system refused.
    #[error("{path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason the system gives.
        source: std::io::Error,
    },
    /// A picture could not be written.
    #[error("{path}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: image::ImageError,
    },
    /// A picture that would be larger than memory or its format allow.
    #[error("a picture of {width} × {height} pixels is too large; ask for fewer images")]
    PictureSize {
        /// Pixels from left to right.
        width: u64,
        /// Pixels from top to bottom.
        height: u64,
    },
    /// More images than are made at once.
    #[error("{n_images} images of {shape} need more than 4 GiB of memory; ask for fewer")]
    TooManyImages {
        /// Images.
        n_images: i64,
        /// The shape of each.
        shape: ImageShape,
    },
    /// A plot could not be drawn.
    #[error("drawing a plot: {0}")]
    Plot(String),
    /// Another process trains in the folder.
    #[error(
        "{path}: another process{} trains this run; stop it first, or give another folder",
        pid.map_or(String::new(), |pid| format!(" ({pid})"))
    )]
    Locked {
        /// The folder of the run.
        path: PathBuf,
        /// The number of that process, where it could be read.
        pid: Option<u32>,
    },
    /// libtorch refused, out of memory for example.
    #[error("libtorch refused")]
    Torch(#[from] tch::TchError),
}

impl TrainError {
    /// For `map_err` on an operation on `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn config(key: &'static str, problem: impl Into<String>) -> Self {
        Self::Config {
            key,
            problem: problem.into(),
        }
    }

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

    pub(crate) fn attribute(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Attribute {
            name: name.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn run(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Run {
            path: path.into(),
            problem: problem.into(),
        }
    }
}
