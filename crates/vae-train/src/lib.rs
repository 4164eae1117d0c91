//! Training of variational autoencoders: [`fit`] is the loop, [`Callback`]s are what happens
//! around it, a [`RunDir`] is what it leaves.

mod callback;
mod checkpoint;
mod config;
pub mod curves;
mod error;
mod evaluate;
mod fit;
pub mod memory;
mod metric;
mod optimizer;
mod overview;
pub mod picture;
mod run_dir;
mod run_lock;
mod schedule;
mod step;
pub mod tensorboard;

pub use callback::{Callback, Event, Flow};
pub use callback::{
    checkpoints::Checkpoints, curves::Curves, metrics_log::MetricsLog, pictures::Pictures,
    tensorboard::TensorBoard,
};
pub use checkpoint::{Checkpoint, CheckpointState};
pub use config::{PicturesConfig, RunConfig, TrainingConfig};
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use fit::{Fit, Outcome, Position, Stop, fit};
pub use metric::{Means, Record, Totals};
pub use optimizer::{AdamConfig, Optimizer, OptimizerConfig, RmspropConfig};
pub use overview::Overview;
pub use run_dir::{RunDir, Summary};
pub use run_lock::{RunLock, RunState};
pub use schedule::{CosineConfig, Schedule};
pub use step::train_step;
