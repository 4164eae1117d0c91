//! What can go wrong in training.

use std::path::PathBuf;

use thiserror::Error;
use vae_data::DataError;
use vae_model::ModelError;

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
    /// A mean over images is no longer a number.
    #[error(
        "the {split} {metric} became {value} by step {step}; a lower learning rate usually helps. \
         The checkpoints are those of before"
    )]
    NonFinite {
        /// `train` or `test`.
        split: &'static str,
        /// `loss` or `elbo`.
        metric: &'static str,
        /// NaN or an infinity.
        value: f64,
        /// Optimizer steps since the start.
        step: u64,
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

    pub(crate) fn run(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Run {
            path: path.into(),
            problem: problem.into(),
        }
    }
}
