//! A config file: one experiment.

mod checkpoints;
mod early_stopping;
mod optimizer;
mod precision;
mod safety;
mod schedule;

use serde::{Deserialize, Serialize};
use vae_data::{DataError, DatasetConfig, HoldOut, Splits};
use vae_model::{Crop, Framing, ModelConfig, Objective, Resize, Term};

pub use checkpoints::CheckpointsConfig;
pub use early_stopping::EarlyStoppingConfig;
pub use optimizer::{
    AdamConfig, AdamwConfig, ClipConfig, OptimizerConfig, RmspropConfig, SgdConfig,
};
pub use precision::Precision;
pub use safety::SafetyConfig;
pub use schedule::{
    CosineConfig, ExponentialConfig, OneCycleConfig, PlateauConfig, Schedule, StepConfig,
    ThresholdMode, WarmUpConfig,
};

use crate::{Metric, Ranking, Record, RunError, range};

/// One experiment, as in `configs/*.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Where all randomness comes from: weights, order of the images, noise. Default 0.
    #[serde(default)]
    pub seed: u64,
    /// The images.
    pub dataset: DatasetConfig,
    /// The model's parts.
    #[serde(default)]
    pub model: ModelConfig,
    /// What is minimized.
    #[serde(default)]
    pub objective: Objective,
    /// What minimizes it.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// How its learning rate changes.
    #[serde(default)]
    pub schedule: Schedule,
    /// For how long.
    #[serde(default)]
    pub training: TrainingConfig,
    /// The pictures of each epoch.
    #[serde(default)]
    pub pictures: PicturesConfig,
    /// Whether to write `events/` for TensorBoard. Default true.
    #[serde(default = "yes")]
    pub tensorboard: bool,
    /// What stays on the disk to go on from.
    #[serde(default)]
    pub checkpoints: CheckpointsConfig,
    /// When to stop before the last epoch. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStoppingConfig>,
    /// What to do about numbers that are none.
    #[serde(default)]
    pub safety: SafetyConfig,
}

fn yes() -> bool {
    true
}

impl RunConfig {
    /// The images of the experiment, each with what the model is told of it.
    ///
    /// # Errors
    /// What [`DatasetConfig::load`] refuses; a condition that these images do not come with.
    pub fn load(&self) -> Result<Splits, DataError> {
        self.conditioned(self.dataset.load()?)
    }

    /// Images, each with what the model is told of it (`[model.condition]`); the columns are those of the
    /// training images.
    ///
    /// # Errors
    /// A condition that these images do not come with.
    pub fn conditioned(&self, splits: Splits) -> Result<Splits, DataError> {
        let Some(condition) = &self.model.condition else {
            return Ok(splits);
        };
        let train = &splits.train;
        let spec = train.condition_spec(condition.classes, &condition.attributes)?;
        Ok(splits.with_condition(&spec))
    }

    /// What is done to the images of the data set before the model sees them, for its weights file.
    #[must_use]
    pub fn framing(&self) -> Framing {
        let photos = self.dataset.image_folder.as_ref();
        Framing {
            crop: photos.map(|photos| match photos.crop {
                Some(rect) => Crop::Rectangle {
                    top: rect.top,
                    left: rect.left,
                    height: rect.height,
                    width: rect.width,
                },
                None => Crop::Center {
                    fraction: photos.crop_fraction,
                },
            }),
            resize: photos.map(|_| Resize::BilinearAntialiased),
            binarized: self.dataset.binarization.is_some(),
        }
    }
}

/// The loop's numbers (`[training]`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// Passes over the training images. Default 10.
    pub epochs: u64,
    /// Images in a step; the last step of an epoch takes what is left. Default 128.
    pub batch_size: usize,
    /// Images at a time in evaluation. Default 500.
    pub evaluation_batch_size: usize,
    /// The numbers that the networks compute with in training: `"f32"`, or `"bf16"` with the weights,
    /// the losses and every evaluation still in f32. Default `"f32"`.
    pub precision: Precision,
    /// Images at a time within a step, whose gradients are accumulated: for batches that do not fit
    /// in memory. The plain elbo's step is the same; what is computed of a batch as a whole (batch
    /// norm, a learned scale, free bits, capacity) is then computed of the parts. Default: the whole
    /// batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// Decay of an exponential moving average of the weights, such as 0.999. Where it is given, the
    /// averaged weights are the ones that are evaluated, drawn and used later. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Bounds of the gradient. Default: none.
    pub clip: ClipConfig,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch_size: 128,
            evaluation_batch_size: 500,
            precision: Precision::default(),
            micro_batch_size: None,
            ema_decay: None,
            clip: ClipConfig::default(),
        }
    }
}

/// The pictures of each epoch (`[pictures]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PicturesConfig {
    /// Images on each side of the latent plane. Default 15.
    pub manifold_size: usize,
    /// Rows of the traversals, one for each of the most used latent dimensions. Default 10.
    pub n_traversals: usize,
    /// New images from the prior. Default 64.
    pub n_samples: usize,
    /// Validation images to reconstruct. Default 32.
    pub n_reconstructions: usize,
}

impl Default for PicturesConfig {
    fn default() -> Self {
        Self {
            manifold_size: 15,
            n_traversals: 10,
            n_samples: 64,
            n_reconstructions: 32,
        }
    }
}

/// Passes over the images.
const MOST_EPOCHS: usize = 1_000_000_000;

/// Images of a batch: more are in no data set.
const LARGEST_BATCH: usize = 1 << 24;

/// Images of a picture.
const MOST_PICTURES: usize = 10_000;

impl RunConfig {
    /// Every number that the run's records hold, with what it is: those of every run, then those that the
    /// model and the objective have of their own.
    #[must_use]
    pub fn terms(&self) -> Vec<Term> {
        let mut terms = Record::terms();
        terms.extend(self.model.terms());
        terms.extend(self.objective.terms(&self.model));
        terms
    }

    /// How epochs are compared by a metric.
    #[must_use]
    pub fn ranking(&self, metric: &Metric) -> Ranking {
        metric.ranking(&self.terms())
    }

    /// The metrics that choose something, each with its key.
    #[must_use]
    pub fn chosen_metrics(&self) -> Vec<(&'static str, &Metric)> {
        let mut chosen = vec![("checkpoints.metric", &self.checkpoints.metric)];
        if let Some(early_stopping) = &self.early_stopping {
            chosen.push(("early_stopping.metric", &early_stopping.metric));
        }
        if let Schedule::Plateau(plateau) = &self.schedule {
            chosen.push(("schedule.plateau.metric", &plateau.metric));
        }
        chosen
    }

    /// Refuses what chooses by validation images where there are none.
    fn check_validation(&self) -> Result<(), RunError> {
        if !self.dataset.validation.is_some_and(HoldOut::is_none) {
            return Ok(());
        }
        let wants = |key: &'static str| {
            let problem = "looks at validation images, and dataset.validation = 0 keeps none back";
            Err(RunError::config(key, problem))
        };
        if self.early_stopping.is_some() {
            return wants("early_stopping");
        }
        match self.schedule {
            Schedule::Plateau(_) => wants("schedule.plateau"),
            _ => Ok(()),
        }
    }

    /// Checks what can be checked without data or a model.
    ///
    /// # Errors
    /// The first key whose value makes no sense.
    pub fn check(&self) -> Result<(), RunError> {
        self.dataset.validate()?;
        self.model.check()?;
        self.objective.check(&self.model)?;
        self.optimizer.check()?;
        self.schedule.check()?;
        self.training.clip.check()?;
        if let Some(decay) = self.training.ema_decay {
            range::below_1("training.ema_decay", decay)?;
        }
        self.checkpoints.check()?;
        if let Some(early_stopping) = &self.early_stopping {
            early_stopping.check()?;
        }
        for (key, metric) in self.chosen_metrics() {
            metric.check(key, self)?;
        }
        self.check_validation()?;
        self.safety.check()?;
        let (training, pictures) = (&self.training, &self.pictures);
        let micro_batch_size = training.micro_batch_size.unwrap_or(1);
        for (key, value, largest) in [
            ("training.epochs", training.epochs as usize, MOST_EPOCHS),
            ("training.batch_size", training.batch_size, LARGEST_BATCH),
            (
                "training.evaluation_batch_size",
                training.evaluation_batch_size,
                LARGEST_BATCH,
            ),
            ("training.micro_batch_size", micro_batch_size, LARGEST_BATCH),
            ("pictures.manifold_size", pictures.manifold_size, 100),
            ("pictures.n_traversals", pictures.n_traversals, 1000),
            ("pictures.n_samples", pictures.n_samples, MOST_PICTURES),
            (
                "pictures.n_reconstructions",
                pictures.n_reconstructions,
                MOST_PICTURES,
            ),
        ] {
            range::count(key, value, largest)?;
        }
        Ok(())
    }
}
