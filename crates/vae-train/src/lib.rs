//! Training of variational autoencoders: [`fit`] is the loop, [`Callback`]s are what happens
//! around it, a [`RunDir`] is what it leaves.

mod callback;
mod checkpoint;
mod config;
mod ema;
mod error;
mod evaluate;
mod fit;
mod kernels;
pub mod memory;
mod metric;
mod optimizer;
pub mod picture;
mod precision;
mod range;
mod run_dir;
mod schedule;
mod step;

pub use callback::{Callback, Event, Flow};
pub use callback::{checkpoints::Checkpoints, metrics_log::MetricsLog, pictures::Pictures};
pub use checkpoint::{Checkpoint, CheckpointState};
pub use config::{PicturesConfig, RunConfig, TrainingConfig};
pub use ema::Ema;
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use fit::{Fit, Outcome, Position, Stop, fit};
pub use metric::{Means, Record, Totals};
pub use optimizer::{
    AdamConfig, AdamwConfig, ClipConfig, Optimizer, OptimizerConfig, RmspropConfig, SgdConfig,
    StepReport,
};
pub use precision::Precision;
pub use run_dir::{RunDir, Summary};
pub use schedule::{
    CosineConfig, ExponentialConfig, OneCycleConfig, PlateauConfig, PlateauState, Schedule,
    StepConfig, ThresholdMode, WarmUpConfig,
};
pub use step::train_step;
