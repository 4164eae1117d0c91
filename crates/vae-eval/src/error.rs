//! What can go wrong in an evaluation.

use std::io;
use std::path::{Path, PathBuf};

use tch::TchError;
use thiserror::Error;
use vae_data::DataError;
use vae_model::ModelError;
use vae_run::RunError;
use vae_view::ViewError;

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The images.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Its pictures and latents.
    #[error(transparent)]
    View(#[from] ViewError),
    /// libtorch refuses.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that holds something else than it should.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was found and what was wanted.
        problem: String,
    },
    /// What was asked for cannot be measured.
    #[error("{0}")]
    Unmeasurable(String),
}

impl EvalError {
    /// For `map_err`.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }
}
