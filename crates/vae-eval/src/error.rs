//! The errors of an evaluation.

use std::path::PathBuf;

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
    /// The run, or a file that the file system refuses to read or write.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Its pictures or latents.
    #[error(transparent)]
    View(#[from] ViewError),
    /// libtorch refused, out of memory for example.
    #[error("libtorch refused")]
    Torch(#[from] TchError),
    /// A file with unexpected contents.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was found and what was wanted.
        problem: String,
    },
    /// The requested measure does not exist for this model or data.
    #[error("{0}")]
    Unmeasurable(String),
}
