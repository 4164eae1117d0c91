//! `objective.regularizer.pixel_mean`: the loss of the Keras tutorials.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::checks::at_least_0;
use crate::{Draws, ImageShape, ModelError};

/// The loss becomes reconstruction averaged over the image's values + `kl_weight` · (mean² + exp(s) − s − 1)
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

impl PixelMeanConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        at_least_0("objective.regularizer.pixel_mean.kl_weight", self.kl_weight)
    }

    /// The second term in nats per image: [`Self::factor`] makes the average over values of it.
    pub(super) fn penalty(&self, draws: &Draws, image: ImageShape) -> Tensor {
        let declared_kl = match draws.posterior.as_diagonal_gaussian() {
            Some(gaussian) => gaussian.declared_kl_to_standard_normal(), // [B, Z]
            None => unreachable!("checked: pixel_mean has a diagonal Gaussian posterior"),
        };
        let weight = 2.0 * self.kl_weight / Self::factor(image);
        declared_kl
            .mean_dim(-1, false, Kind::Float)
            .mean(Kind::Float)
            * weight
    }

    /// What the loss in nats per image is multiplied by.
    pub(super) fn factor(image: ImageShape) -> f64 {
        1.0 / image.n_values() as f64
    }
}
