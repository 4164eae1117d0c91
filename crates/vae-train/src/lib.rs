//! Training of variational autoencoders: [`Trainer`] is the loop, [`Callback`]s are what happens
//! around it, a [`RunDir`] is what it leaves.

#[cfg(test)]
#[path = "../../vae-model/tests/common/alone.rs"]
mod alone;
pub mod animation;
mod callback;
mod checkpoint;
mod config;
pub mod curves;
mod ema;
mod error;
mod evaluate;
mod fit;
mod kernels;
pub mod latent;
mod learner;
pub mod memory;
mod metric;
mod optimizer;
pub mod options;
mod overview;
pub mod picture;
mod precision;
mod range;
mod recovery;
mod resume;
mod run_dir;
mod run_lock;
mod safety;
mod schedule;
pub mod tensorboard;

pub use callback::{Callback, Event, Flow};
pub use callback::{
    checkpoints::Checkpoints,
    collapse_watch::CollapseWatch,
    curves::Curves,
    early_stopping::{EarlyStopping, EarlyStoppingConfig},
    kl_schedule::KlSchedule,
    learning_rate::LearningRate,
    metrics_log::MetricsLog,
    pictures::Pictures,
    tensorboard::TensorBoard,
};
pub use checkpoint::{Checkpoint, CheckpointState, CheckpointsConfig, OpenCheckpoint, ResumeState};
pub use config::{PicturesConfig, RunConfig, TrainingConfig};
pub use ema::Ema;
pub use error::TrainError;
pub use evaluate::{Evaluation, LatentUse, evaluate};
pub use fit::{Controls, Fit, Outcome, Position, Stop, Trainer, device_name};
pub use kernels::libtorch_config;
pub use learner::{Learner, StepOutput};
pub use metric::{Means, Metric, Record, Totals};
pub use optimizer::{
    AdamConfig, AdamwConfig, ClipConfig, Optimizer, OptimizerConfig, RmspropConfig, SgdConfig,
    StepReport,
};
pub use overview::Overview;
pub use precision::Precision;
pub use resume::{check_resume, differences};
pub use run_dir::{RunDir, Summary, read_config};
pub use run_lock::{RunLock, RunState};
pub use safety::{Incident, SafetyConfig};
pub use schedule::{
    CosineConfig, ExponentialConfig, OneCycleConfig, PlateauConfig, PlateauState, Schedule,
    StepConfig, ThresholdMode, WarmUpConfig,
};
