//! Training of variational autoencoders: [`Trainer`] is the loop, [`Callback`]s react to its events, and a [`RunDir`] holds
//! the results.
//!
//! The archive of runs (`vae_run`) and the visualization (`vae_view`) are separate crates, which this one builds on. What a
//! training program needs of them is re-exported here.

mod callback;
mod clock;
mod ema;
mod error;
mod evaluate;
mod fit;
mod full_disk;
mod learner;
mod optimizer;
mod plateau;
mod player;
mod precision;
mod recovery;
mod sampler;
mod saving;
mod skipping;
mod steps;
mod totals;
mod trainer;

pub use callback::{Callback, Event, Flow};
pub use callback::{
    adversarial_watch::AdversarialWatch, checkpoints::Checkpoints, collapse_watch::CollapseWatch,
    curves::Curves, early_stopping::EarlyStopping, kl_schedule::KlSchedule,
    learning_rate::LearningRate, metrics_log::MetricsLog, pictures::Pictures, sounds::Sounds,
    tensorboard::TensorBoard, texts::Texts,
};
pub use ema::Ema;
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use fit::{Fit, Outcome, Stop, device_name};
pub use learner::{Learner, StepOutput};
pub use optimizer::{Optimizer, StepReport};
pub use plateau::PlateauState;
pub use precision::{autocast, check_precision};
pub use sampler::{
    FittedSampler, SamplerOptions, SamplerProgress, encode_items, fit_sampler, n_draws,
    prior_log_prob,
};
pub use skipping::{Consequence, Skipped};
pub use totals::Totals;
pub use trainer::Trainer;
pub use vae_base::memory;
pub use vae_run::{
    AdamConfig, AdamwConfig, Checkpoint, CheckpointState, CheckpointsConfig, ClipConfig, Controls,
    CosineConfig, EarlyStoppingConfig, ExponentialConfig, Incident, LatentUse, Means, Metric,
    OneCycleConfig, OpenCheckpoint, OptimizerConfig, Overview, PicturesConfig, PlateauConfig,
    PlayerConfig, Position, Precision, Progress, Record, ResumeState, RmspropConfig, RunConfig,
    RunDir, RunError, RunLock, RunState, SafetyConfig, Schedule, Session, SgdConfig, StepConfig,
    Summary, ThresholdMode, TrainingConfig, WarmUpConfig, check_resume, differences, read_config,
};
pub use vae_torch::{CpuKernels, libtorch_config, own_kernels, use_cpu_kernels};
pub use vae_view::{animation, curves, latent, picture, tensorboard};
