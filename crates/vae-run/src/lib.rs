//! The archive of training runs: what a [`RunDir`] holds, and how it is read. This crate neither trains nor draws.
//!
//! - [`RunConfig`]: a whole experiment, and the types of all its tables;
//! - [`RunDir`], [`RunLock`]: the folder of a run, and which process trains it;
//! - [`checkpoint`]: folders with everything that is needed to resume a run or to use its model;
//! - [`Record`], [`Metric`]: the lines of `metrics.jsonl`, and the metric by which epochs are compared;
//! - [`Session`]: a trained model opened for use, possibly one of several on different threads;
//! - [`Overview`]: the state and results of a run so far;
//! - [`check_resume`]: whether a run can be resumed with another config.

pub mod checkpoint;
mod checkpoint_folder;
mod config;
mod error;
mod latent_use;
pub mod options;
mod overview;
mod position;
mod preflight;
mod progress;
mod range;
mod record;
mod resume;
mod rollback;
mod run_dir;
mod run_lock;
mod samplers;
mod session;
mod summary;

pub use checkpoint::{Checkpoint, CheckpointState, CheckpointTensors, OpenCheckpoint, ResumeState};
pub use config::{
    AdamConfig, AdamwConfig, CheckpointsConfig, ClipConfig, CosineConfig, EarlyStoppingConfig,
    ExponentialConfig, OneCycleConfig, OptimizerConfig, PicturesConfig, PlateauConfig,
    PlayerConfig, Precision, RmspropConfig, RunConfig, SafetyConfig, Schedule, SgdConfig,
    StepConfig, ThresholdMode, TrainingConfig, WarmUpConfig,
};
pub use error::RunError;
pub use latent_use::LatentUse;
pub use overview::Overview;
pub use position::Position;
pub use preflight::preflight;
pub use progress::Progress;
pub use record::{Means, Metric, Ranking, Record, SavedMark, SavedTerm, SavedTotals};
pub use resume::{check_resume, differences};
pub use rollback::{Controls, Incident, SavedGood, SavedRecovery, SavedStates, StepControls};
pub use run_dir::{RunDir, read_config};
pub use run_lock::RunLock;
pub use samplers::{FoundSampler, FoundSamplers};
pub use session::Session;
pub use summary::{RunState, Summary};
