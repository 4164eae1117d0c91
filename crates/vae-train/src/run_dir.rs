//! The folder of a run, and the names in it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vae_model::write_whole;

use crate::{Record, RunConfig, TrainError};

/// The folder of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

/// `summary.json`: what a finished or interrupted run came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The folder of the run.
    pub run: PathBuf,
    /// `"finished"`, `"interrupted"` or `"failed"`.
    pub state: String,
    /// What it failed of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whole epochs done.
    pub epochs: u64,
    /// Optimizer steps done.
    pub steps: u64,
    /// The held-out record with the highest elbo.
    pub best: Option<Record>,
    /// The last epoch on training images.
    pub last_train: Option<Record>,
    /// The last epoch on held-out images.
    pub last_test: Option<Record>,
    /// From the first step to the last picture.
    pub seconds: f64,
    /// Numbers that were trained.
    pub n_parameters: usize,
    /// Training images.
    pub n_train_images: usize,
    /// Held-out images.
    pub n_test_images: usize,
    /// `"cpu"` or `"cuda:0"`.
    pub device: String,
    /// CPU threads of libtorch.
    pub threads: i32,
    /// Largest resident size of the process, where the system tells it.
    pub peak_resident_bytes: Option<u64>,
    /// The pictures of the last epoch.
    pub pictures: Vec<PathBuf>,
}

impl RunDir {
    /// A new run in a folder that does not exist yet, or is empty. Leaves the resolved config there.
    ///
    /// # Errors
    /// The folder holds files, or cannot be written.
    pub fn create(path: &Path, config: &RunConfig) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(TrainError::io(path))?;
        let mut entries = fs::read_dir(path).map_err(TrainError::io(path))?;
        if entries.next().is_some() {
            return Err(TrainError::RunExists {
                path: path.to_owned(),
            });
        }
        let run_dir = Self {
            path: path.to_owned(),
        };
        for folder in [run_dir.pictures(), run_dir.checkpoints()] {
            fs::create_dir(&folder).map_err(TrainError::io(folder))?;
        }
        let file = run_dir.config_file();
        let text = toml::to_string(config)
            .map_err(|error| TrainError::run(&file, format!("config as TOML: {error}")))?;
        write_whole(&file, text.as_bytes()).map_err(TrainError::io(&file))?;
        Ok(run_dir)
    }

    /// An existing run.
    ///
    /// # Errors
    /// The folder does not exist, or holds no run.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let run_dir = Self {
            path: path.to_owned(),
        };
        if !path.is_dir() {
            return Err(TrainError::run(path, "no such folder; a run was wanted"));
        }
        if !run_dir.config_file().is_file() {
            return Err(TrainError::run(
                path,
                "no run: `vae train` leaves a config.toml there",
            ));
        }
        Ok(run_dir)
    }

    /// The resolved config of the run.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn config(&self) -> Result<RunConfig, TrainError> {
        let file = self.config_file();
        let text = fs::read_to_string(&file).map_err(TrainError::io(&file))?;
        toml::from_str(&text).map_err(|error| TrainError::run(&file, error.message()))
    }

    /// The run's metrics so far, in the order of their epochs; none before its first epoch ends.
    ///
    /// # Errors
    /// A line that is no record. The last one may be incomplete: its writer may be at it, or have
    /// been killed.
    pub fn records(&self) -> Result<Vec<Record>, TrainError> {
        let file = self.metrics_file();
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(TrainError::io(&file))?,
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .enumerate()
            .map(|(i, line)| {
                serde_json::from_str(line).map_err(|error| {
                    TrainError::run(&file, format!("line {}: no record: {error}", i + 1))
                })
            })
            .collect()
    }

    /// `summary.json`, which a run has after its first ending, unless it was killed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn summary(&self) -> Result<Option<Summary>, TrainError> {
        let file = self.summary_file();
        let json = match fs::read(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(TrainError::io(&file))?,
        };
        serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| TrainError::run(&file, error.to_string()))
    }

    /// Writes `summary.json`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write_summary(&self, summary: &Summary) -> Result<(), TrainError> {
        let file = self.summary_file();
        let json = serde_json::to_vec_pretty(summary)
            .map_err(|error| TrainError::run(&file, error.to_string()))?;
        write_whole(&file, &json).map_err(TrainError::io(&file))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.toml`.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `metrics.jsonl`.
    #[must_use]
    pub fn metrics_file(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `summary.json`.
    #[must_use]
    pub fn summary_file(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// `run.lock`.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.path.join("run.lock")
    }

    /// `curves.png`.
    #[must_use]
    pub fn curves_file(&self) -> PathBuf {
        self.path.join("curves.png")
    }

    /// `events/`, for TensorBoard.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// `checkpoints/`.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// `pictures/`.
    #[must_use]
    pub fn pictures(&self) -> PathBuf {
        self.path.join("pictures")
    }

    /// A picture of an epoch, `pictures/epoch-0003-manifold.png`.
    #[must_use]
    pub fn picture_file(&self, epoch: u64, name: &str) -> PathBuf {
        self.pictures().join(format!("epoch-{epoch:04}-{name}.png"))
    }
}
