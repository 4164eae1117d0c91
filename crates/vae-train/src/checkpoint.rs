//! Checkpoints: a folder with the weights and what is known of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vae_model::{Vae, WEIGHTS_FILE, write_whole};

use crate::{Record, RunDir, TrainError};

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// The newest.
    Last,
    /// That of the highest held-out elbo.
    Best,
}

/// What a checkpoint says of itself (`state.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// The version of this crate that wrote it.
    pub version: String,
    /// Whole epochs done.
    pub epoch: u64,
    /// Optimizer steps done.
    pub step: u64,
    /// The held-out record of these weights; none where training was interrupted.
    pub test: Option<Record>,
    /// Mean kl of each latent dimension at the last evaluation, nats.
    pub kl_per_dimension: Option<Vec<f64>>,
}

const STATE_FILE: &str = "state.json";

impl Checkpoint {
    /// The name of its folder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Best => "best",
        }
    }

    /// Writes it whole beside the one before, then takes that one's place.
    ///
    /// # Errors
    /// The file system refuses; the one before is then still there.
    pub fn save(
        self,
        run_dir: &RunDir,
        vae: &Vae,
        state: &CheckpointState,
    ) -> Result<(), TrainError> {
        let folder = run_dir.checkpoints().join(self.name());
        let partial = with_suffix(&folder, "partial");
        let previous = with_suffix(&folder, "previous");
        remove_folder(&partial)?;
        fs::create_dir_all(&partial).map_err(TrainError::io(&partial))?;
        vae.save(partial.join(WEIGHTS_FILE))?;
        let state_file = partial.join(STATE_FILE);
        let json = serde_json::to_vec_pretty(state)
            .map_err(|error| TrainError::run(&state_file, error.to_string()))?;
        write_whole(&state_file, &json).map_err(TrainError::io(&state_file))?;
        sync(&partial)?;

        // A folder cannot take the place of another in one step. Between the two renames the one
        // before is whole under `previous`, where `open` finds it.
        if folder.exists() {
            remove_folder(&previous)?;
            fs::rename(&folder, &previous).map_err(TrainError::io(&folder))?;
        }
        fs::rename(&partial, &folder).map_err(TrainError::io(&partial))?;
        sync(&run_dir.checkpoints())?;
        remove_folder(&previous)
    }

    /// The folder of this checkpoint and what it says of itself.
    ///
    /// # Errors
    /// The run has no such checkpoint, or its state cannot be read.
    pub fn open(self, run_dir: &RunDir) -> Result<(PathBuf, CheckpointState), TrainError> {
        let folder = run_dir.checkpoints().join(self.name());
        let previous = with_suffix(&folder, "previous");
        let folder = [folder.clone(), previous]
            .into_iter()
            .find(|folder| folder.is_dir())
            .ok_or_else(|| {
                let problem = match self {
                    Self::Last => "no checkpoint; a run has one after its first epoch",
                    Self::Best => {
                        "no checkpoint; a run has one after its first epoch (`last` also after an \
                         interruption)"
                    }
                };
                TrainError::run(&folder, problem)
            })?;
        let state_file = folder.join(STATE_FILE);
        let json = fs::read(&state_file).map_err(TrainError::io(&state_file))?;
        let state = serde_json::from_slice(&json)
            .map_err(|error| TrainError::run(&state_file, error.to_string()))?;
        Ok((folder, state))
    }
}

fn with_suffix(folder: &Path, suffix: &str) -> PathBuf {
    folder.with_extension(suffix)
}

fn remove_folder(folder: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainError::io(folder)(error))
        }
        _ => Ok(()),
    }
}

fn sync(path: &Path) -> Result<(), TrainError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(TrainError::io(path))
}
