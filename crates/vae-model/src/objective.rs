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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ElboConfig {
    /// Weight of the kl. Default 1.
    pub beta: f64,
    /// Steps over which the weight rises linearly from 0 to `beta` (Bowman et al. 2016,
    /// <https://arxiv.org/abs/1511.06349>): a latent that is not yet of use is then not switched
    /// off by the kl in the first hundred steps. Default 0, no warm-up.
    pub kl_warm_up_steps: u64,
}

impl Default for ElboConfig {
    fn default() -> Self {
        Self {
            beta: 1.0,
            kl_warm_up_steps: 0,
        }
    }
}

/// cross-entropy averaged over the image's values + `kl_weight` · (mean² + exp(s) − s − 1)
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
    /// A negative or non-finite weight.
    pub fn check(&self) -> Result<(), ModelError> {
        let (key, weight) = match self {
            Self::Elbo(config) => ("objective.elbo.beta", config.beta),
            Self::PixelMean(config) => ("objective.pixel_mean.kl_weight", config.kl_weight),
        };
        if weight.is_finite() && weight >= 0.0 {
            Ok(())
        } else {
            Err(ModelError::config(
                key,
                format!("found {weight}, a number of at least 0 is needed"),
            ))
        }
    }

    /// The scalar to minimize, a mean over the images. `step` counts from 0.
    pub fn loss(&self, draws: &Draws, image: ImageShape, step: u64) -> Tensor {
        match self {
            Self::Elbo(config) => {
                let terms = &draws.terms;
                (&terms.reconstruction + &terms.kl * config.beta_at(step)).mean(Kind::Float)
            }
            Self::PixelMean(config) => {
                let per_value = &draws.terms.reconstruction / image.n_values() as f64;
                let per_dimension = draws.posterior.declared_kl_to_standard_normal().mean_dim(
                    -1,
                    false,
                    Kind::Float,
                ) * 2.0;
                (per_value + per_dimension * config.kl_weight).mean(Kind::Float)
            }
        }
    }
}

impl ElboConfig {
    /// The weight of the kl at a step.
    fn beta_at(&self, step: u64) -> f64 {
        if step < self.kl_warm_up_steps {
            self.beta * step as f64 / self.kl_warm_up_steps as f64
        } else {
            self.beta
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_is_linear_and_ends_at_beta() {
        let config = ElboConfig {
            beta: 2.0,
            kl_warm_up_steps: 4,
        };
        let found: Vec<f64> = (0..6).map(|step| config.beta_at(step)).collect();
        assert_eq!(found, [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]);
    }

    #[test]
    fn a_weight_that_is_no_number_is_refused() {
        let objective = Objective::Elbo(ElboConfig {
            beta: f64::NAN,
            ..Default::default()
        });
        let message = objective.check().expect_err("NaN").to_string();
        assert!(message.contains("objective.elbo.beta"), "{message}");
    }
}
