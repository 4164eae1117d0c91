//! A config file: one experiment.

mod checkpoints;
mod early_stopping;
mod optimizer;
mod players;
mod precision;
mod safety;
mod schedule;

use std::collections::BTreeMap;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vae_data::{DataError, DatasetConfig, HoldOut, Splits};
use vae_model::{Crop, Framing, ModelConfig, Objective, Resize, SamplerKind, Term};

pub use checkpoints::CheckpointsConfig;
pub use early_stopping::EarlyStoppingConfig;
pub use optimizer::{
    AdamConfig, AdamwConfig, ClipConfig, OptimizerConfig, RmspropConfig, SgdConfig,
};
pub use players::PlayerConfig;
pub use precision::Precision;
pub use safety::SafetyConfig;
pub use schedule::{
    CosineConfig, ExponentialConfig, OneCycleConfig, PlateauConfig, Schedule, StepConfig,
    ThresholdMode, WarmUpConfig,
};

use crate::{Metric, Ranking, Record, RunError, range};

/// One experiment, as in `configs/*.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of all random numbers: initial weights, order of the images, noise. Default 0.
    #[serde(default)]
    pub seed: u64,
    /// Which images to train and evaluate on.
    pub dataset: DatasetConfig,
    /// The parts of the model: latents, prior, posterior, likelihood and network.
    #[serde(default)]
    pub model: ModelConfig,
    /// What is minimized: the regularizer, the estimator and a penalty on the decoder.
    #[serde(default)]
    pub objective: Objective,
    /// The optimizer that minimizes it.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// How the learning rate changes over the steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// The players that the objective trains beside the model, such as a discriminator, each by its name. A
    /// player without a table is trained by the defaults.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub players: BTreeMap<String, PlayerConfig>,
    /// Epochs, batches, precision and gradient clipping.
    #[serde(default)]
    pub training: TrainingConfig,
    /// The pictures that are drawn after each epoch.
    #[serde(default)]
    #[schemars(extend("x-resume" = true))]
    pub pictures: PicturesConfig,
    /// Write event files for TensorBoard into `events/` of the run. Default true.
    #[schemars(extend("x-resume" = true))]
    #[serde(default = "yes")]
    pub tensorboard: bool,
    /// Distributions that are fitted to the latents of the training items when training ends, as `vae fit-sampler` does
    /// (docs/samplers.md). `vae sample` then draws from the best of them instead of from the prior. By default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-resume" = true))]
    pub samplers: Vec<SamplerKind>,
    /// When checkpoints are written and which are kept.
    #[serde(default)]
    #[schemars(extend("x-resume" = true))]
    pub checkpoints: CheckpointsConfig,
    /// When to stop before the last epoch. Without the table a run never does.
    #[schemars(extend("x-resume" = true))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStoppingConfig>,
    /// What to do about NaN or infinite values.
    #[serde(default)]
    #[schemars(extend("x-resume" = true))]
    pub safety: SafetyConfig,
}

fn yes() -> bool {
    true
}

impl RunConfig {
    /// The same experiment, with the defaults that depend on other keys written out.
    #[must_use]
    pub fn resolved(self) -> Self {
        let metric = Some(self.checkpoint_metric());
        Self {
            model: self.model.resolved(),
            checkpoints: CheckpointsConfig {
                metric,
                ..self.checkpoints
            },
            ..self
        }
    }

    /// The metric of the validation images that decides which checkpoint is the best.
    #[must_use]
    pub fn checkpoint_metric(&self) -> Metric {
        let has_codes = self.model.posterior.has_codes();
        let default = || match self.objective.has_comparable_loss() {
            // The commitment grows with the distances of codes, also while images get better.
            true if has_codes => Metric::Reconstruction,
            true => Metric::Loss,
            false => Metric::Epoch,
        };
        self.checkpoints.metric.clone().unwrap_or_else(default)
    }

    /// The images of the experiment, each with its condition.
    ///
    /// # Errors
    /// The errors of [`DatasetConfig::load`]; a condition that these images do not have.
    pub fn load(&self) -> Result<Splits, DataError> {
        self.conditioned(self.dataset.load()?)
    }

    /// Images, each with its condition (`[model.condition]`), whose columns are resolved on the training images.
    ///
    /// # Errors
    /// A condition that these images do not have.
    pub fn conditioned(&self, splits: Splits) -> Result<Splits, DataError> {
        let Some(condition) = &self.model.condition else {
            return Ok(splits);
        };
        let train = &splits.train;
        let spec = train.condition_spec(condition.classes, &condition.attributes)?;
        Ok(splits.with_condition(&spec))
    }

    /// The number of passes over so many training items within an epoch: one, or as many as there have to be for
    /// `training.least_steps_per_epoch`.
    #[must_use]
    pub fn passes_per_epoch(&self, n_train: usize) -> u64 {
        let least = self.training.least_steps_per_epoch;
        least.div_ceil(self.steps_per_pass(n_train).max(1)).max(1)
    }

    fn steps_per_pass(&self, n_train: usize) -> u64 {
        n_train.div_ceil(self.training.batch_size.max(1)) as u64
    }

    /// The number of steps of an epoch with so many training items.
    #[must_use]
    pub fn steps_per_epoch(&self, n_train: usize) -> u64 {
        self.steps_per_pass(n_train)
            .saturating_mul(self.passes_per_epoch(n_train))
    }

    /// The number of steps of the run with so many training items.
    #[must_use]
    pub fn n_steps(&self, n_train: usize) -> u64 {
        self.steps_per_epoch(n_train)
            .saturating_mul(self.training.epochs)
    }

    /// The objective, with steps in place of shares of the run with so many training items.
    #[must_use]
    pub fn objective_in_run(&self, n_train: usize) -> Objective {
        self.objective.in_run_of(self.n_steps(n_train))
    }

    /// The paths of files that the run reads besides its data set.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let start_from = self.training.start_from.iter_mut();
        self.objective.files_mut().chain(start_from)
    }

    /// How the images of the data set are cropped and resized for the model, for its weights file.
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

/// How long and in which batches to train (`[training]`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// Number of passes over the training images. Default 10.
    #[schemars(range(min = 1, max = MOST_EPOCHS), extend("x-resume" = true))]
    pub epochs: u64,
    /// Number of images in an optimizer step; the last step of an epoch takes those that are left.
    /// Default 128.
    #[schemars(range(min = 1, max = LARGEST_BATCH))]
    pub batch_size: usize,
    /// Number of steps that an epoch has at least: over few items it takes as many passes as that needs, so that a recipe
    /// works for a hundred photos and for ten thousand. With 0 an epoch is one pass. Default 0.
    #[schemars(range(max = MOST_EPOCHS))]
    pub least_steps_per_epoch: u64,
    /// Number of images at a time in evaluation. Default 500.
    #[schemars(range(min = 1, max = LARGEST_BATCH))]
    pub evaluation_batch_size: usize,
    /// The number format that the networks compute in during training. Evaluations are always in f32.
    /// Default `"f32"`.
    pub precision: Precision,
    /// Number of images at a time within a step, for batches that do not fit in memory; their gradients
    /// are accumulated. The step of the plain elbo is the same. What is computed from a batch as a whole
    /// (batch norm, a learned scale, free bits, capacity) is then computed from the parts. By default the
    /// whole batch.
    #[schemars(range(min = 1, max = LARGEST_BATCH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// Whether the backward pass computes the network's blocks again instead of keeping their maps: the same gradients with
    /// less memory, and about a third more time. For `network.autoencoder_kl`. Default false.
    #[schemars(extend("x-resume" = true))]
    pub recompute: bool,
    /// Number of steps from one update of the model's weights to the next. With more than 1 the players beside it, such
    /// as a critic, learn in the steps between (WGAN-GP takes 5). Default 1.
    #[schemars(range(min = 1, max = MOST_EPOCHS))]
    pub model_every: u64,
    /// Number of steps between two lines of means within an epoch, in `metrics.jsonl`, in TensorBoard and in the curves.
    /// With 0 there are only those of whole epochs. Default 50.
    #[schemars(range(max = MOST_EPOCHS), extend("x-resume" = true))]
    pub log_every: u64,
    /// Decay of an exponential moving average of the weights, such as 0.999. If it is given, the averaged
    /// weights are evaluated, drawn from and used later. By default no average is kept.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Bounds on the gradient.
    pub clip: ClipConfig,
    /// Weights to start from, of a model with the same parts: a run, a checkpoint, a weights file, or an autoencoder of
    /// latent diffusion in diffusers' or the original files; relative to the current folder. By default they are drawn.
    #[schemars(example = &"tokenizer", extend("x-resume" = true))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_from: Option<PathBuf>,
    /// Variables that are not trained, by the beginnings of their names: `["encoder"]` trains the decoder alone. By
    /// default all are trained.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<String>,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch_size: 128,
            least_steps_per_epoch: 0,
            evaluation_batch_size: 500,
            precision: Precision::default(),
            micro_batch_size: None,
            recompute: false,
            model_every: 1,
            log_every: 50,
            ema_decay: None,
            clip: ClipConfig::default(),
            start_from: None,
            frozen: Vec::new(),
        }
    }
}

/// The pictures that are drawn after each epoch (`[pictures]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PicturesConfig {
    /// Number of images on each side of the latent plane, of a model with two latent dimensions.
    /// Default 15.
    #[schemars(range(min = 1, max = LARGEST_MANIFOLD))]
    pub manifold_size: usize,
    /// Number of rows of the traversals, one for each of the most used latent dimensions. Default 10.
    #[schemars(range(min = 1, max = MOST_TRAVERSALS))]
    pub n_traversals: usize,
    /// Number of new images, from the prior. Default 64.
    #[schemars(range(min = 1, max = MOST_PICTURES))]
    pub n_samples: usize,
    /// Number of validation images to reconstruct. Default 32.
    #[schemars(range(min = 1, max = MOST_PICTURES))]
    pub n_reconstructions: usize,
    /// Number of steps after which the first pictures are drawn, if the first epoch is longer; those of the epochs follow.
    /// With 0 there are only those of the epochs. Default 200.
    #[schemars(range(max = MOST_EPOCHS))]
    pub first_step: u64,
}

impl Default for PicturesConfig {
    fn default() -> Self {
        Self {
            manifold_size: 15,
            n_traversals: 10,
            n_samples: 64,
            n_reconstructions: 32,
            first_step: 200,
        }
    }
}

/// The most images on each side of the latent plane.
const LARGEST_MANIFOLD: usize = 100;

/// The most rows of traversals.
const MOST_TRAVERSALS: usize = 1000;

/// The most passes over the images.
const MOST_EPOCHS: usize = 1_000_000_000;

/// The most images of a batch, more than any data set has.
const LARGEST_BATCH: usize = 1 << 24;

/// The most images of a picture.
const MOST_PICTURES: usize = 10_000;

impl RunConfig {
    /// The declarations of all numbers in the run's records: those of every run, then those of the model, of the
    /// objective and of its players.
    #[must_use]
    pub fn terms(&self) -> Vec<Term> {
        let mut terms = Record::terms();
        terms.extend(self.model.terms());
        terms.extend(self.objective.terms(&self.model));
        let players = self.objective.player_names().into_iter();
        terms.extend(players.map(PlayerConfig::gradient_norm));
        let clips = self.objective.player_names().into_iter();
        let clips = clips.map(|name| (name, self.player(name).clip));
        let clips = std::iter::once(("model", self.training.clip.clone())).chain(clips);
        let skipping = clips.filter(|(_, clip)| clip.skip_above.is_some());
        terms.extend(skipping.map(|(name, _)| ClipConfig::skipped_steps(name)));
        terms
    }

    /// How a player other than the model is trained.
    #[must_use]
    pub fn player(&self, name: &str) -> PlayerConfig {
        self.players.get(name).cloned().unwrap_or_default()
    }

    /// Refuses players that the objective does not use.
    fn check_players(&self) -> Result<(), RunError> {
        let known = self.objective.player_names();
        for (name, player) in &self.players {
            if !known.contains(&name.as_str()) {
                let has = match &known[..] {
                    [] => "has no players beside the model".to_owned(),
                    known => format!("has {}", known.join(", ")),
                };
                let problem = format!("the objective {has}");
                return Err(RunError::config(format!("players.{name}"), problem));
            }
            player.check(name)?;
        }
        Ok(())
    }

    /// How epochs are compared by a metric.
    #[must_use]
    pub fn ranking(&self, metric: &Metric) -> Ranking {
        metric.ranking(&self.terms())
    }

    /// The metrics by which something is chosen, each with its key.
    #[must_use]
    pub fn chosen_metrics(&self) -> Vec<(&'static str, Metric)> {
        let mut chosen = vec![("checkpoints.metric", self.checkpoint_metric())];
        if let Some(early_stopping) = &self.early_stopping {
            chosen.push(("early_stopping.metric", early_stopping.metric.clone()));
        }
        if let Schedule::Plateau(plateau) = &self.schedule {
            chosen.push(("schedule.plateau.metric", plateau.metric.clone()));
        }
        chosen
    }

    /// Without validation images, refuses tables that need them.
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
    /// The first key with an invalid value.
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
        self.check_players()?;
        for (key, metric) in self.chosen_metrics() {
            metric.check(key, &self.model, &self.objective, &self.terms())?;
        }
        self.check_validation()?;
        self.safety.check()?;
        let (training, pictures) = (&self.training, &self.pictures);
        let micro_batch_size = training.micro_batch_size.unwrap_or(1);
        for (key, value, largest) in [
            ("training.epochs", training.epochs as usize, MOST_EPOCHS),
            (
                "training.model_every",
                training.model_every as usize,
                MOST_EPOCHS,
            ),
            ("training.batch_size", training.batch_size, LARGEST_BATCH),
            (
                "training.evaluation_batch_size",
                training.evaluation_batch_size,
                LARGEST_BATCH,
            ),
            ("training.micro_batch_size", micro_batch_size, LARGEST_BATCH),
            (
                "pictures.manifold_size",
                pictures.manifold_size,
                LARGEST_MANIFOLD,
            ),
            (
                "pictures.n_traversals",
                pictures.n_traversals,
                MOST_TRAVERSALS,
            ),
            ("pictures.n_samples", pictures.n_samples, MOST_PICTURES),
            (
                "pictures.n_reconstructions",
                pictures.n_reconstructions,
                MOST_PICTURES,
            ),
        ] {
            range::count(key, value, largest)?;
        }
        for (key, value) in [
            (
                "training.least_steps_per_epoch",
                training.least_steps_per_epoch,
            ),
            ("training.log_every", training.log_every),
            ("pictures.first_step", pictures.first_step),
        ] {
            if value > MOST_EPOCHS as u64 {
                let problem = format!("found {value}, at most {MOST_EPOCHS} are possible");
                return Err(RunError::config(key, problem));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_a_name_and_only_one_that_is_logged_and_has_a_direction_is_taken() {
        let config = |text: &str| -> RunConfig {
            let text = format!("dataset.idx.folder = 'unused'\n{text}");
            toml::from_str(&text).expect("a config")
        };
        let check = |text: &str| config(text).check().map_err(|error| error.to_string());
        let beta_tc = "objective.regularizer.beta_tc = {}\n";
        let chosen = format!("{beta_tc}checkpoints.metric = 'total_correlation'");
        assert_eq!(check(&chosen), Ok(()));
        let metric = config(&chosen).checkpoint_metric();
        assert_eq!(metric, Metric::Term("total_correlation".to_owned()));
        assert_eq!(
            config("checkpoints.metric = 'bits_per_dim'").checkpoint_metric(),
            Metric::BitsPerDim
        );
        for (text, metric) in [
            ("seed = 1", Metric::Loss),
            (
                "model = { latent_dims = 4, posterior.lookup_free = {} }\nobjective.regularizer = 'none'",
                Metric::Reconstruction,
            ),
            (
                "model.posterior = 'none'\nobjective.adversarial = {}",
                Metric::Epoch,
            ),
        ] {
            assert_eq!(config(text).checkpoint_metric(), metric, "{text}");
        }
        for (text, wanted) in [
            (
                "checkpoints.metric = 'elbow'",
                "found \"elbow\", which this config does not log",
            ),
            (
                "early_stopping.metric = 'total_correlation'",
                "early_stopping.metric",
            ),
            (
                "schedule.plateau.metric = 'seconds'",
                "found \"seconds\", which has no better direction",
            ),
            (
                "checkpoints.metric = 'elbow'",
                "elbo, reconstruction, kl, loss, active_units, mse would fit",
            ),
        ] {
            let problem = check(text).expect_err("refused");
            assert!(problem.contains(wanted), "{problem}");
        }
        let beta_tc = format!("{beta_tc}checkpoints.metric = 'mutual_information'");
        let problem = check(&beta_tc).expect_err("refused");
        assert!(
            problem.contains("mse, total_correlation, dimension_wise_kl"),
            "{problem}"
        );
    }
}
