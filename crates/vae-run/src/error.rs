//! What can go wrong with a run's files.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use thiserror::Error;
use vae_data::DataError;
use vae_model::ModelError;

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// A config value that is invalid for every run.
    #[error("{key}: {problem}")]
    Config {
        /// The key in the config.
        key: Cow<'static, str>,
        /// What was found and what was wanted.
        problem: String,
    },
    /// The data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A config that differs from the one a run was started with.
    #[error(
        "{path}: cannot be resumed exactly, since these differ from the checkpoint's config: \
         {differences}. Change them back, or start a new run"
    )]
    ResumeConfig {
        /// The run.
        path: PathBuf,
        /// Keys with both values.
        differences: String,
    },
    /// The folder for a new run is in use.
    #[error(
        "{path}: already holds files; give another folder with --out, or remove it{}",
        match path.join("checkpoints").is_dir() {
            true => format!(", or go on with it: vae train --resume {}", path.display()),
            false => String::new(),
        }
    )]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that is not a run, or lacks something.
    #[error("{path}: {problem}")]
    Run {
        /// The folder or file.
        path: PathBuf,
        /// What was found and what was wanted.
        problem: String,
    },
    /// Another process trains in the folder.
    #[error(
        "{path}: another process{} trains this run; stop it first, or give another folder",
        pid.map_or(String::new(), |pid| format!(" ({pid})"))
    )]
    Locked {
        /// The folder of the run.
        path: PathBuf,
        /// The number of that process, if it could be read.
        pid: Option<u32>,
    },
    /// The file system refused.
    #[error("{path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason the system gives.
        source: io::Error,
    },
}

impl RunError {
    /// For `map_err` on an operation on `path`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// An error about a config key.
    pub fn config(key: impl Into<Cow<'static, str>>, problem: impl Into<String>) -> Self {
        Self::Config {
            key: key.into(),
            problem: problem.into(),
        }
    }

    /// An error about a run's folder or a file in it.
    pub fn run(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Run {
            path: path.into(),
            problem: problem.into(),
        }
    }
}
