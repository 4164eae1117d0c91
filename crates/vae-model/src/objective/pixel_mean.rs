//! `objective.regularizer.pixel_mean`: the loss of the Keras tutorials.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

use super::checks::at_least_0;
use super::unfit;
use crate::share::Shared;
use crate::{Direction, Draws, ImageShape, ModelError, Term};

/// The loss becomes the reconstruction averaged over the image's values + `kl_weight` · (mean² + exp(s) − s − 1)
/// averaged over the latent dimensions, with s the declared log-variance and no factor ½.
///
/// With `probability_clip` the reconstruction is Keras' cross-entropy, which clips probabilities to [ε, 1 − ε]: a
/// saturated pixel costs at most ln(1/ε) and has no gradient. Here the clip is exact. In f32 Keras rounds 1 − 1e-7 to 1
/// − 1.2e-7, so that its upper limit is 15.9 nats instead of 16.1, and some versions add ε once more inside the
/// logarithm. The logged elbo and reconstruction are without the clip.
///
/// Dividing by the number of values shows that it is a β-VAE: for D values it is (reconstruction + β·kl)/D with β =
/// 2·D·`kl_weight`/Z, that is 0.39 for 5e-4, 28×28 and Z = 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PixelMeanConfig {
    /// Weight of the second term, the kl averaged over latent dimensions. Default 5e-4.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub kl_weight: f64,
    /// ε; the cross-entropy's probabilities are clipped to [ε, 1 − ε]. Keras uses 1e-7; 0 disables the clip. Needs a
    /// likelihood with logits, `bernoulli` or `scaled_bernoulli`. Default 0.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 0.5))]
    pub probability_clip: f64,
}

impl Default for PixelMeanConfig {
    fn default() -> Self {
        Self {
            kl_weight: 5e-4,
            probability_clip: 0.0,
        }
    }
}

/// The reconstruction from clipped probabilities, which replaces the reconstruction.
pub(super) const CLIPPED_RECONSTRUCTION: Term =
    Term::new("clipped_reconstruction", Term::NATS, Direction::Lower);

impl PixelMeanConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        at_least_0("objective.regularizer.pixel_mean.kl_weight", self.kl_weight)?;
        let clip = self.probability_clip;
        if (0.0..0.5).contains(&clip) {
            return Ok(());
        }
        Err(ModelError::config(
            "objective.regularizer.pixel_mean.probability_clip",
            format!("found {clip}, expected a number from 0 to less than 0.5"),
        ))
    }

    /// The reconstruction of each image in nats from clipped probabilities, `[B]`; `None` without a clip.
    pub(super) fn clipped_reconstruction(&self, draws: &Draws) -> Option<Tensor> {
        if self.probability_clip == 0.0 {
            return None;
        }
        // p is in [ε, 1 − ε] if the logit is in ±ln((1 − ε)/ε).
        let limit = ((1.0 - self.probability_clip) / self.probability_clip).ln();
        let logits = draws.params.clamp(-limit, limit); // [K, B, C, H, W]
        let targets = draws.targets.expand_as(&logits);
        let cross_entropy = logits.binary_cross_entropy_with_logits::<Tensor>(
            &targets,
            None,
            None,
            Reduction::None,
        );
        let sums = cross_entropy.sum_dim_intlist([2_i64, 3, 4].as_slice(), false, Kind::Float);
        let sums = draws.share.gathered(&sums, 1); // [K, B]
        Some(sums.mean_dim(0, false, Kind::Float))
    }

    /// The second term in nats per image; [`Self::factor`] turns it into the average over values.
    pub(super) fn penalty(&self, draws: &Draws, image: ImageShape) -> Result<Tensor, ModelError> {
        let gaussian = draws.posterior.as_diagonal_gaussian();
        let gaussian =
            gaussian.ok_or_else(|| unfit("regularizer.pixel_mean", "a diagonal Gaussian"))?;
        let declared_kl = gaussian.declared_kl_to_standard_normal(); // [B, Z]
        let weight = 2.0 * self.kl_weight / Self::factor(image);
        let kl = declared_kl
            .mean_dim(-1, false, Kind::Float)
            .mean(Kind::Float);
        Ok(kl * weight)
    }

    /// The factor on the loss in nats per image.
    pub(super) fn factor(image: ImageShape) -> f64 {
        1.0 / image.n_values() as f64
    }
}
