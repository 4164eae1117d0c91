//! Objectives: what training minimizes. All are computed from the same [`Draws`], and the elbo of the draws is logged
//! as well, so that runs with different objectives can be compared.

mod adversarial;
mod adversarial_loss;
mod augmentation;
mod beta_tc;
mod capacity;
mod checks;
mod decoder_penalty;
mod dip;
mod estimator;
mod factor;
mod kl;
mod latent_adversarial;
mod latent_norm;
mod mmd;
mod perceptual;
mod pixel_mean;
mod player;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_torch::Generator;

pub use adversarial::{
    AdversarialConfig, DiscriminatorPenalty, GradientPenaltyConfig, Judged, R1Config,
};
pub use adversarial_loss::AdversarialLoss;
pub use augmentation::Augmentation;
pub use beta_tc::{AggregateSampling, BetaTcConfig};
pub use capacity::CapacityConfig;
pub(crate) use checks::at_least_0;
pub use decoder_penalty::{DecoderPenalty, DecoderWeightConfig};
pub use dip::{DipConfig, DipVariant};
pub use estimator::{CiwaeConfig, ElboConfig, Estimator, IwaeConfig, NestedConfig};
pub use factor::FactorConfig;
pub use kl::{
    BetaByGroupConfig, BetaCyclicConfig, BetaSchedule, BetaWarmUpConfig, FirstGroup, KlConfig,
};
pub use latent_adversarial::LatentAdversarialConfig;
pub use latent_norm::LatentNormConfig;
pub use mmd::{Kernel, MmdConfig};
pub use perceptual::{
    ClassifierFeaturesConfig, DiscriminatorFeaturesConfig, FeaturesConfig, PerceptualConfig,
    TorchScriptFeaturesConfig,
};
pub use pixel_mean::PixelMeanConfig;
pub use player::{Losses, Networks, PlayerNetwork, Seen};

use vae_base::derive_seed;

use crate::{Direction, Draws, ModelError, Term, Terms, Vae};

/// What training minimizes (`[objective]` in a config file). The default is the negative ELBO of one sample.
///
/// ```
/// let config: vae_model::Objective = toml::from_str(r#"
///     [estimator.iwae]
///     samples = 50
///     doubly_reparameterized = true
/// "#).expect("an objective");
/// assert_eq!(config.n_samples(), 50);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Objective {
    /// The weight of the reconstruction −log p(x|z), which a model with an encoder has. With 0 another term has to tie
    /// the model to the data. Default 1.
    #[schemars(range(min = 0.0, max = 1e12), extend("default" = 1.0))]
    #[serde(skip_serializing_if = "is_1")]
    pub reconstruction_weight: f64,
    /// The term that is added to the reconstruction. Default `kl`.
    pub regularizer: Regularizer,
    /// How the samples of an image are combined into a bound. Default `elbo`.
    pub estimator: Estimator,
    /// A penalty that keeps the decoder smooth. Default `"none"`.
    pub decoder_penalty: DecoderPenalty,
    /// A further reconstruction, in the features of a network. Without the table there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<PerceptualConfig>,
    /// A discriminator that the model learns to deceive. Without the table there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adversarial: Option<AdversarialConfig>,
}

impl Default for Objective {
    fn default() -> Self {
        Self {
            reconstruction_weight: 1.0,
            regularizer: Regularizer::default(),
            estimator: Estimator::default(),
            decoder_penalty: DecoderPenalty::default(),
            perceptual: None,
            adversarial: None,
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_1(weight: &f64) -> bool {
    *weight == 1.0
}

/// The term that is added to the reconstruction in the loss (`objective.regularizer` in a config).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Regularizer {
    /// Nothing is added: an autoencoder.
    None,
    /// β·kl, with a schedule or free bits: the VAE and the β-VAE.
    Kl(KlConfig),
    /// γ·|kl − C| with a capacity C that rises during training.
    Capacity(CapacityConfig),
    /// The three parts of the kl, each with its own weight (β-TC-VAE).
    BetaTc(BetaTcConfig),
    /// kl, and the total correlation as a discriminator estimates it (FactorVAE).
    Factor(FactorConfig),
    /// kl, and a penalty on the distance of the latents' covariance from the identity (DIP-VAE).
    Dip(DipConfig),
    /// The discrepancy between the aggregate posterior and the prior (WAE-MMD, InfoVAE).
    Mmd(MmdConfig),
    /// A discriminator of latents, which the encoder learns to deceive (adversarial autoencoder).
    Adversarial(LatentAdversarialConfig),
    /// The squared norm of the codes (RAE).
    LatentNorm(LatentNormConfig),
    /// The loss of the Keras tutorials, with means over pixels and latent dimensions instead of sums.
    PixelMean(PixelMeanConfig),
}

impl Default for Regularizer {
    fn default() -> Self {
        Self::Kl(KlConfig::default())
    }
}

/// What a loss needs besides the draws.
#[derive(Clone, Copy, Debug)]
pub struct LossContext<'a> {
    /// The model that made the draws.
    pub vae: &'a Vae,
    /// The optimizer step, counted from 0, for the objective's schedule.
    pub step: u64,
    /// N, the number of training images.
    pub n_images: u64,
}

/// −log p(z) of the codes, which trains a learned prior if the posterior is deterministic.
pub(crate) const CODE_NLL: Term = Term::new("code_nll", Term::NATS, Direction::Lower);

/// The total correlation of the latent dimensions, by any estimator.
const TOTAL_CORRELATION: Term = Term::new("total_correlation", Term::NATS, Direction::Lower);

impl Regularizer {
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::None => Ok(()),
            Self::Kl(config) => config.check(),
            Self::Capacity(config) => config.check(),
            Self::BetaTc(config) => config.check(),
            Self::Factor(config) => config.check(),
            Self::Dip(config) => config.check(),
            Self::Mmd(config) => config.check(),
            Self::Adversarial(config) => config.check(),
            Self::LatentNorm(config) => config.check(),
            Self::PixelMean(config) => config.check(),
        }
    }

    /// Its name in a config.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kl(_) => "kl",
            Self::Capacity(_) => "capacity",
            Self::BetaTc(_) => "beta_tc",
            Self::Factor(_) => "factor",
            Self::Dip(_) => "dip",
            Self::Mmd(_) => "mmd",
            Self::Adversarial(_) => "adversarial",
            Self::LatentNorm(_) => "latent_norm",
            Self::PixelMean(_) => "pixel_mean",
        }
    }

    /// The declarations of what its penalty logs.
    fn terms(&self) -> Vec<Term> {
        match self {
            Self::None => vec![],
            Self::Kl(config) if config.free_bits > 0.0 || config.free_bits_per_group > 0.0 => {
                vec![kl::FREE_BITS_KL]
            }
            Self::Kl(_) => vec![],
            Self::Capacity(_) => vec![capacity::CAPACITY_GAP],
            Self::BetaTc(_) => vec![
                beta_tc::MUTUAL_INFORMATION,
                TOTAL_CORRELATION,
                beta_tc::DIMENSION_WISE_KL,
            ],
            Self::Factor(_) => vec![TOTAL_CORRELATION, factor::LOSS, factor::ACCURACY],
            Self::Dip(_) => vec![dip::OFF_DIAGONAL, dip::ON_DIAGONAL],
            Self::Mmd(_) => vec![mmd::DISCREPANCY],
            Self::Adversarial(_) => vec![
                latent_adversarial::TERM,
                latent_adversarial::LOSS,
                latent_adversarial::ACCURACY,
            ],
            Self::LatentNorm(_) => vec![latent_norm::SQUARED_NORM],
            Self::PixelMean(config) if config.probability_clip > 0.0 => {
                vec![pixel_mean::CLIPPED_RECONSTRUCTION]
            }
            Self::PixelMean(_) => vec![],
        }
    }

    /// The penalty in nats, a scalar: the mean over the images, or a value of the whole batch; and the losses of the
    /// players. The parts are added to `terms`.
    ///
    /// # Errors
    /// Draws of a model that the regularizer does not fit.
    fn losses(
        &self,
        draws: &Draws,
        context: LossContext,
        players: &[PlayerNetwork],
        generator: &mut Generator,
        terms: &mut Terms,
    ) -> Result<(Tensor, Vec<Option<Tensor>>), ModelError> {
        match self {
            Self::Factor(config) => {
                let (penalty, loss) = config.losses(draws, players.first(), generator, terms)?;
                Ok((penalty, vec![loss]))
            }
            Self::Adversarial(config) => {
                let (term, loss) = config.losses(draws, context, players.first(), generator, terms);
                Ok((term, vec![loss]))
            }
            _ => Ok((self.penalty(draws, context, generator, terms)?, vec![])),
        }
    }

    /// The penalty of a regularizer without players.
    ///
    /// # Errors
    /// Draws of a model that the regularizer does not fit.
    fn penalty(
        &self,
        draws: &Draws,
        context: LossContext,
        generator: &mut Generator,
        terms: &mut Terms,
    ) -> Result<Tensor, ModelError> {
        match self {
            Self::None => Ok(draws.log_px_z.zeros_like().sum(Kind::Float)),
            Self::Kl(config) => config.penalty(draws, context.step, terms),
            Self::Capacity(config) => config.penalty(draws, context.step, terms),
            Self::BetaTc(config) => config.penalty(draws, context.n_images, terms),
            Self::Factor(config) => Ok(config.losses(draws, None, generator, terms)?.0),
            Self::Adversarial(config) => {
                Ok(config.losses(draws, context, None, generator, terms).0)
            }
            Self::Dip(config) => config.penalty(draws, terms),
            Self::Mmd(config) => {
                let n_images = draws.latents.size()[1];
                let condition = draws.condition.as_ref();
                context.vae.check_condition(condition, n_images)?;
                let latents = context.vae.latents_of(n_images, condition, generator);
                config.penalty(draws, &latents, terms)
            }
            Self::LatentNorm(config) => Ok(config.penalty(draws, terms)),
            Self::PixelMean(config) => config.penalty(draws, context.vae.image_shape()),
        }
    }
}

impl Objective {
    /// Samples of z for each image that [`Self::loss`] needs.
    #[must_use]
    pub fn n_samples(&self) -> i64 {
        self.estimator.n_samples()
    }

    /// Whether the loss contains a gradient, so that it cannot be computed with gradients disabled.
    #[must_use]
    pub fn needs_gradients(&self) -> bool {
        matches!(self.decoder_penalty, DecoderPenalty::GradientPenalty(_))
    }

    /// The paths of the files that the objective reads.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let features = self.perceptual.as_mut().map(|term| &mut term.features);
        features
            .and_then(|features| match features {
                FeaturesConfig::Discriminator(_) => None,
                FeaturesConfig::TorchScript(config) => Some(&mut config.file),
                FeaturesConfig::Classifier(config) => Some(&mut config.file),
            })
            .into_iter()
    }

    /// The declarations of its named terms, for any model.
    pub(crate) fn own_terms(&self) -> Vec<Term> {
        let mut terms = match self.estimator {
            Estimator::Elbo(_) => self.regularizer.terms(),
            _ => vec![], // A bound of the log-weights has no separate parts.
        };
        terms.extend(self.decoder_penalty.terms());
        terms.extend(self.perceptual.as_ref().map(|_| perceptual::TERM));
        if let Some(adversarial) = &self.adversarial {
            terms.extend(adversarial.terms());
        }
        terms
    }

    /// Whether the loss is of one kind throughout a run, so that epochs compare by it. What a discriminator says of one
    /// epoch says nothing of another.
    #[must_use]
    pub fn has_comparable_loss(&self) -> bool {
        self.adversarial.is_none() && !matches!(self.regularizer, Regularizer::Adversarial(_))
    }

    /// The scalar to minimize, a mean over the images. Some objectives draw from `generator`: latents of the prior
    /// (`mmd`), probes of the decoder (`gradient_penalty`).
    ///
    /// # Errors
    /// Draws that lack what the objective needs, which [`Self::check`] refuses for their model.
    pub fn loss(
        &self,
        draws: &Draws,
        context: LossContext,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        Ok(self.loss_and_terms(draws, context, generator)?.0)
    }

    /// [`Self::loss`], and the parts that the objective logs, without their weights.
    ///
    /// # Errors
    /// As for [`Self::loss`].
    pub fn loss_and_terms(
        &self,
        draws: &Draws,
        context: LossContext,
        generator: &mut Generator,
    ) -> Result<(Tensor, Terms), ModelError> {
        let losses = self.losses(draws, context, &Networks::default(), generator)?;
        Ok((losses.model, losses.terms))
    }

    /// The names, as in a config, of the players that the objective trains besides the model.
    #[must_use]
    pub fn player_names(&self) -> Vec<&'static str> {
        let of_latents = match &self.regularizer {
            Regularizer::Factor(_) => Some(factor::DISCRIMINATOR),
            Regularizer::Adversarial(_) => Some(latent_adversarial::DISCRIMINATOR),
            _ => None,
        };
        let of_items = self.adversarial.as_ref();
        let of_items = of_items.map(|_| adversarial::DISCRIMINATOR);
        of_latents.into_iter().chain(of_items).collect()
    }

    /// The networks that the objective needs besides the model: players in the order of [`Self::player_names`], whose
    /// fresh weights follow from the seed, and a fixed one from a file.
    ///
    /// # Errors
    /// A file that does not exist or does not hold such a network.
    pub fn networks(&self, vae: &Vae, seed: u64) -> Result<Networks, ModelError> {
        let n_latents = vae.config().n_latents();
        let of_latents = match &self.regularizer {
            Regularizer::Factor(config) => {
                Some(config.discriminator(n_latents, seed, vae.device()))
            }
            Regularizer::Adversarial(config) => {
                let seed = derive_seed(seed, 0, "weights of the discriminator of latents");
                Some(config.discriminator(n_latents, seed, vae.device()))
            }
            _ => None,
        };
        let of_items = self.adversarial.as_ref().map(|config| {
            let seed = derive_seed(seed, 0, "weights of the discriminator of items");
            config.discriminator(vae, seed)
        });
        let features = match &self.perceptual {
            Some(perceptual) => perceptual.network(vae)?,
            None => None,
        };
        Ok(Networks {
            players: of_latents.into_iter().chain(of_items).collect(),
            features,
        })
    }

    /// The losses of the model and of the players of the objective's `networks`. Without networks, as in [`Self::loss`],
    /// the model's loss lacks the terms that depend on them.
    ///
    /// # Errors
    /// As for [`Self::loss`].
    pub fn losses(
        &self,
        draws: &Draws,
        context: LossContext,
        networks: &Networks,
        generator: &mut Generator,
    ) -> Result<Losses, ModelError> {
        let players = &networks.players;
        let mut terms = Terms::default();
        let mut player_losses = Vec::new();
        let loss = match self.estimator.bound(draws)? {
            Some(bound) => -bound.mean(Kind::Float),
            None => {
                let regularizer = &self.regularizer;
                let (penalty, losses) =
                    regularizer.losses(draws, context, players, generator, &mut terms)?;
                player_losses = losses;
                let clipped = match &self.regularizer {
                    Regularizer::PixelMean(config) => config.clipped_reconstruction(draws),
                    _ => None,
                };
                if let Some(clipped) = &clipped {
                    terms.push(pixel_mean::CLIPPED_RECONSTRUCTION, clipped);
                }
                let reconstruction = clipped.as_ref().unwrap_or(&draws.terms.reconstruction);
                let reconstruction = reconstruction.mean(Kind::Float);
                let mut reconstruction = match self.reconstruction_weight {
                    // Without an encoder a latent does not belong to an image.
                    _ if !context.vae.has_encoder() => reconstruction.zeros_like(),
                    1.0 => reconstruction,
                    0.0 => reconstruction.zeros_like(),
                    weight => reconstruction * weight,
                };
                let discriminator = self.adversarial.as_ref().and_then(|_| players.last());
                if let Some(perceptual) = &self.perceptual
                    && let Some(term) =
                        perceptual.loss(draws, context.vae, networks, discriminator, &mut terms)?
                {
                    reconstruction += term;
                }
                let mut loss = &reconstruction + penalty;
                if let (Some(adversarial), Some(discriminator)) = (&self.adversarial, discriminator)
                {
                    let losses = adversarial.losses(
                        draws,
                        context,
                        discriminator,
                        &reconstruction,
                        generator,
                        &mut terms,
                    )?;
                    let (term, of_discriminator) = losses.unzip();
                    if let Some(term) = term {
                        loss += term;
                    }
                    player_losses.push(of_discriminator);
                }
                match &self.regularizer {
                    Regularizer::PixelMean(_) => {
                        loss * PixelMeanConfig::factor(context.vae.image_shape())
                    }
                    _ => loss,
                }
            }
        };
        let decoder_penalty = &self.decoder_penalty;
        let penalty = decoder_penalty.penalty(context.vae, draws, generator, &mut terms);
        let loss = match penalty {
            Some(penalty) => loss + penalty,
            None => loss,
        };
        let loss = match context.vae.code_density_loss(draws) {
            Some(prior_loss) => {
                terms.push(CODE_NLL, &prior_loss);
                loss + prior_loss
            }
            None => loss,
        };
        let loss = match &draws.penalty {
            Some(penalty) => loss + penalty.mean(Kind::Float),
            None => loss,
        };
        Ok(Losses {
            model: loss,
            players: player_losses,
            terms,
        })
    }

    /// The objective of a run of `n_steps`, with steps in place of shares of the run.
    #[must_use]
    pub fn in_run_of(&self, n_steps: u64) -> Self {
        let mut objective = self.clone();
        match &mut objective.regularizer {
            Regularizer::Kl(config) => config.beta_schedule.in_run_of(n_steps),
            Regularizer::Capacity(config) => config.in_run_of(n_steps),
            _ => {}
        }
        if let Some(adversarial) = &mut objective.adversarial {
            adversarial.start =
                checks::steps_of(adversarial.start_share, adversarial.start, n_steps);
            adversarial.start_share = 0.0;
        }
        objective
    }

    /// Whether a schedule is a share of the run, so that more epochs change it.
    #[must_use]
    pub fn spans_the_run(&self) -> bool {
        let of_regularizer = match &self.regularizer {
            Regularizer::Kl(config) => config.beta_schedule.spans_the_run(),
            Regularizer::Capacity(config) => config.over_share > 0.0,
            _ => false,
        };
        let adversarial = self.adversarial.as_ref();
        of_regularizer || adversarial.is_some_and(|config| config.start_share > 0.0)
    }

    /// A step at which the objective's schedule has reached its end, or a cyclic one its maximum. Losses at this step
    /// are what a run minimizes, and can be compared between epochs.
    #[must_use]
    pub fn settled_step(&self) -> u64 {
        let of_regularizer = match &self.regularizer {
            Regularizer::Kl(config) => config.settled_step(),
            Regularizer::Capacity(config) => config.settled_step(),
            _ => 0,
        };
        let start = self.adversarial.as_ref().map_or(0, |config| config.start);
        of_regularizer.max(start)
    }

    /// The scheduled values at a step, by name, for logs: `beta` or `capacity`.
    #[must_use]
    pub fn scheduled(&self, step: u64) -> Vec<(&'static str, f64)> {
        match &self.regularizer {
            Regularizer::Kl(config) => vec![("beta", config.beta_at(step))],
            Regularizer::Capacity(config) => vec![("capacity", config.capacity_at(step))],
            _ => vec![],
        }
    }
}

/// The kl of each image, `[B]`, for the regularizer `name`.
///
/// # Errors
/// Draws of a deterministic posterior, which have no kl.
fn kl_of<'d>(draws: &'d Draws, name: &str) -> Result<&'d Tensor, ModelError> {
    let kl = draws.terms.kl.as_ref();
    kl.ok_or_else(|| unfit(&format!("regularizer.{name}"), "a kl"))
}

/// The error if draws lack something that a part of an objective needs. [`Objective::check`] names what would fit.
fn unfit(part: &str, needed: &str) -> ModelError {
    let problem = format!("needs {needed}, which the draws of this model's posterior do not have");
    ModelError::config(format!("objective.{part}"), problem)
}
