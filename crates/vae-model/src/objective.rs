//! Objectives: what training minimizes. Every one is computed from the same [`Draws`], whose
//! honest elbo is logged beside it, so that runs of different objectives compare.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{Draws, ImageShape, ModelError};

/// What is minimized (`[objective.…]` in a config file).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Objective {
    /// reconstruction + β·kl, in nats per image.
    Elbo(ElboConfig),
    /// reconstruction + γ·|kl − C|, in nats per image: the kl is led to a capacity C that rises.
    Capacity(CapacityConfig),
    /// The loss of the Keras tutorials: means over pixels and latent dimensions.
    PixelMean(PixelMeanConfig),
}

impl Default for Objective {
    fn default() -> Self {
        Self::Elbo(ElboConfig::default())
    }
}

/// reconstruction + β·kl. β = 1 is the negative ELBO, β > 1 the β-VAE (Higgins et al. 2017,
/// <https://openreview.net/forum?id=Sy2fzU9gl>).
///
/// ```
/// let config: vae_model::ElboConfig = toml::from_str(r#"
///     beta = 4.0
///     free_bits = 0.1
///     [beta_schedule.cyclic]
///     period_steps = 5000
/// "#).expect("an objective");
/// assert_eq!(config.beta, 4.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ElboConfig {
    /// Weight of the kl. Default 1.
    pub beta: f64,
    /// λ, nats of each latent dimension that cost nothing (Kingma et al. 2016,
    /// <https://arxiv.org/abs/1606.04934>, §C.8): with λ > 0, Σ_j max(λ, mean over the batch of kl_j)
    /// takes the kl's place, so that there is nothing to gain by switching a dimension off.
    /// Default 0.
    pub free_bits: f64,
    /// How the weight comes to be `beta`. Default `"constant"`.
    pub beta_schedule: BetaSchedule,
}

impl Default for ElboConfig {
    fn default() -> Self {
        Self {
            beta: 1.0,
            free_bits: 0.0,
            beta_schedule: BetaSchedule::default(),
        }
    }
}

/// How the weight of the kl changes over the steps; a factor on `beta`. A latent that is not yet of
/// use is not switched off by the kl in the first hundred steps when that weighs little then.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BetaSchedule {
    /// It does not.
    #[default]
    Constant,
    /// It rises linearly from 0 (Bowman et al. 2016, <https://arxiv.org/abs/1511.06349>).
    WarmUp(BetaWarmUpConfig),
    /// It does so again and again (Fu et al. 2019, <https://arxiv.org/abs/1903.10145>).
    Cyclic(BetaCyclicConfig),
}

/// One rise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BetaWarmUpConfig {
    /// Steps from weight 0 to `beta`. Default 1000.
    pub steps: u64,
}

impl Default for BetaWarmUpConfig {
    fn default() -> Self {
        Self { steps: 1000 }
    }
}

/// Rises that start again at 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BetaCyclicConfig {
    /// Steps from one start to the next. Default 10,000.
    pub period_steps: u64,
    /// The part of a period in which the weight rises; in the rest it is `beta`. Default 0.5.
    pub ramp: f64,
}

impl Default for BetaCyclicConfig {
    fn default() -> Self {
        Self {
            period_steps: 10_000,
            ramp: 0.5,
        }
    }
}

/// reconstruction + γ·|kl − C| with the kl's mean over the batch and a C that rises linearly from 0
/// (Burgess et al. 2018, <https://arxiv.org/abs/1804.03599>, eq. 8): the latents take on one factor
/// after the other, as there is room for it. The defaults are the paper's for dSprites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapacityConfig {
    /// γ, how strongly the kl is held to the capacity. Default 1000.
    pub gamma: f64,
    /// The last C, nats per image. Default 25.
    pub final_capacity: f64,
    /// Steps over which C rises. Default 100,000.
    pub over_steps: u64,
}

impl Default for CapacityConfig {
    fn default() -> Self {
        Self {
            gamma: 1000.0,
            final_capacity: 25.0,
            over_steps: 100_000,
        }
    }
}

/// reconstruction averaged over the image's values + `kl_weight` · (mean² + exp(s) − s − 1)
/// averaged over the latent dimensions, with s the declared log-variance and no factor ½.
///
/// Dividing by the number of values shows it as a β-VAE in disguise: for D values it is
/// (reconstruction + β·kl)/D with β = 2·D·`kl_weight`/Z, that is 0.39 for 5e-4, 28×28 and Z = 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PixelMeanConfig {
    /// Weight of the averaged second term. Default 5e-4.
    pub kl_weight: f64,
}

impl Default for PixelMeanConfig {
    fn default() -> Self {
        Self { kl_weight: 5e-4 }
    }
}

impl Objective {
    /// Refuses values that make no sense.
    ///
    /// # Errors
    /// A negative or non-finite weight, a schedule without steps.
    pub fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::Elbo(config) => {
                at_least_0("objective.elbo.beta", config.beta)?;
                at_least_0("objective.elbo.free_bits", config.free_bits)?;
                config.beta_schedule.check()
            }
            Self::Capacity(config) => {
                at_least_0("objective.capacity.gamma", config.gamma)?;
                at_least_0("objective.capacity.final_capacity", config.final_capacity)?;
                some_steps("objective.capacity.over_steps", config.over_steps)
            }
            Self::PixelMean(config) => {
                at_least_0("objective.pixel_mean.kl_weight", config.kl_weight)
            }
        }
    }

    /// The scalar to minimize, a mean over the images. `step` counts from 0.
    pub fn loss(&self, draws: &Draws, image: ImageShape, step: u64) -> Tensor {
        let terms = &draws.terms;
        match self {
            Self::Elbo(config) if config.free_bits > 0.0 => {
                let kl = draws
                    .kl_per_dimension
                    .mean_dim(0, false, Kind::Float) // [Z]
                    .clamp_min(config.free_bits)
                    .sum(Kind::Float);
                terms.reconstruction.mean(Kind::Float) + kl * config.beta_at(step)
            }
            Self::Elbo(config) => {
                (&terms.reconstruction + &terms.kl * config.beta_at(step)).mean(Kind::Float)
            }
            Self::Capacity(config) => {
                let distance = (terms.kl.mean(Kind::Float) - config.capacity_at(step)).abs();
                terms.reconstruction.mean(Kind::Float) + distance * config.gamma
            }
            Self::PixelMean(config) => {
                let per_value = &terms.reconstruction / image.n_values() as f64;
                let per_dimension = draws.posterior.declared_kl_to_standard_normal().mean_dim(
                    -1,
                    false,
                    Kind::Float,
                ) * 2.0;
                (per_value + per_dimension * config.kl_weight).mean(Kind::Float)
            }
        }
    }

    /// What the objective's schedule is at in a step, by name, for logs: `beta` or `capacity`.
    #[must_use]
    pub fn scheduled(&self, step: u64) -> Vec<(&'static str, f64)> {
        match self {
            Self::Elbo(config) => vec![("beta", config.beta_at(step))],
            Self::Capacity(config) => vec![("capacity", config.capacity_at(step))],
            Self::PixelMean(_) => vec![],
        }
    }
}

impl BetaSchedule {
    fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::Constant => Ok(()),
            Self::WarmUp(config) => {
                some_steps("objective.elbo.beta_schedule.warm_up.steps", config.steps)
            }
            Self::Cyclic(config) => {
                let key = "objective.elbo.beta_schedule.cyclic";
                some_steps(&format!("{key}.period_steps"), config.period_steps)?;
                if config.ramp > 0.0 && config.ramp <= 1.0 {
                    Ok(())
                } else {
                    Err(ModelError::config(
                        format!("{key}.ramp"),
                        format!("found {}, a number in (0, 1] is needed", config.ramp),
                    ))
                }
            }
        }
    }

    /// The part of `beta` that is in force at a step.
    fn factor(&self, step: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::WarmUp(config) => (step as f64 / config.steps as f64).min(1.0),
            Self::Cyclic(config) => {
                let part = (step % config.period_steps) as f64 / config.period_steps as f64;
                (part / config.ramp).min(1.0)
            }
        }
    }
}

impl ElboConfig {
    /// The weight of the kl at a step.
    fn beta_at(&self, step: u64) -> f64 {
        self.beta * self.beta_schedule.factor(step)
    }
}

impl CapacityConfig {
    /// C at a step, nats per image.
    fn capacity_at(&self, step: u64) -> f64 {
        self.final_capacity * (step as f64 / self.over_steps as f64).min(1.0)
    }
}

fn at_least_0(key: &str, value: f64) -> Result<(), ModelError> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(ModelError::config(
            key,
            format!("found {value}, a number of at least 0 is needed"),
        ))
    }
}

fn some_steps(key: &str, n_steps: u64) -> Result<(), ModelError> {
    if n_steps > 0 {
        Ok(())
    } else {
        Err(ModelError::config(key, "found 0, at least 1 is needed"))
    }
}
