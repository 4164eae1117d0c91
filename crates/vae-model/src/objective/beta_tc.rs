//! `objective.regularizer.beta_tc`: the kl decomposed into three parts, each with its own weight.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::checks::at_least_0;
use super::{TOTAL_CORRELATION, unfit};
use crate::math::standard_normal_log_prob;
use crate::{Direction, Draws, ModelError, Term, Terms};

/// α·I(z; x) + β·TC(z) + γ·Σ_j KL(q(z_j) ‖ p(z_j)): the three parts of the kl, namely the mutual information of z and
/// the image, the total correlation of the latent dimensions, and the dimension-wise kl (β-TC-VAE, Chen et al. 2018,
/// <https://arxiv.org/abs/1802.04942>, eq. 2). With all weights 1 it is a one-sample estimate of the kl.
///
/// q(z), the aggregate posterior over the training images, is estimated from the batch, and more accurately from larger
/// batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BetaTcConfig {
    /// α, the weight of the mutual information of z and the image. Default 1.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub alpha: f64,
    /// β, the weight of the total correlation. Default 6.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub beta: f64,
    /// γ, the weight of the dimension-wise kl. Default 1.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub gamma: f64,
    /// How the aggregate posterior q(z) is estimated from a batch. Default `"weighted"`.
    pub sampling: AggregateSampling,
}

impl Default for BetaTcConfig {
    fn default() -> Self {
        Self {
            alpha: 1.0,
            beta: 6.0,
            gamma: 1.0,
            sampling: AggregateSampling::default(),
        }
    }
}

/// The mutual information of z and the image.
pub(super) const MUTUAL_INFORMATION: Term =
    Term::new("mutual_information", Term::NATS, Direction::Neither);
/// Σ_j KL(q(z_j) ‖ p(z_j)).
pub(super) const DIMENSION_WISE_KL: Term =
    Term::new("dimension_wise_kl", Term::NATS, Direction::Lower);

/// Estimators of the aggregate posterior q(z) of N training images from a batch of B.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AggregateSampling {
    /// q(z) ≈ 1/(N·B) Σ_j q(z|x_j) (Chen et al. 2018, App. C.1): biased, but only its gradient matters.
    #[default]
    Weighted,
    /// Unbiased: z's own image has the weight 1/N, the other images share the rest (Chen et al. 2018, App. C.2).
    Stratified,
}

/// The three parts of the kl, means over samples and images, in nats: scalars.
#[derive(Debug)]
pub(super) struct Decomposition {
    pub(super) information: Tensor,
    pub(super) total_correlation: Tensor,
    pub(super) dimension_wise_kl: Tensor,
}

impl BetaTcConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        for (name, weight) in [
            ("alpha", self.alpha),
            ("beta", self.beta),
            ("gamma", self.gamma),
        ] {
            at_least_0(&format!("objective.regularizer.beta_tc.{name}"), weight)?;
        }
        Ok(())
    }

    pub(super) fn penalty(
        &self,
        draws: &Draws,
        n_images: u64,
        terms: &mut Terms,
    ) -> Result<Tensor, ModelError> {
        let parts = decompose(draws, n_images, self.sampling)?;
        terms.push(MUTUAL_INFORMATION, &parts.information);
        terms.push(TOTAL_CORRELATION, &parts.total_correlation);
        terms.push(DIMENSION_WISE_KL, &parts.dimension_wise_kl);
        Ok(parts.information * self.alpha
            + parts.total_correlation * self.beta
            + parts.dimension_wise_kl * self.gamma)
    }
}

/// Decomposes the sampled kl log q(z|x) − log p(z) into three parts, whose sum is exactly the kl.
pub(super) fn decompose(
    draws: &Draws,
    n_images: u64,
    sampling: AggregateSampling,
) -> Result<Decomposition, ModelError> {
    let (Some(gaussian), Some(log_qz_x)) = (
        draws.posterior.as_diagonal_gaussian(),
        &draws.log_qz_x, // [K, B]
    ) else {
        return Err(unfit("regularizer.beta_tc", "a diagonal Gaussian"));
    };
    // log q(z_i|x_j) of each dimension: [K, B, 1, Z] against [B, Z].
    let pairs = gaussian.log_prob_per_dimension(&draws.latents.unsqueeze(2)); // [K, B, B, Z]
    let n_batch = pairs.size()[2];
    let log_weights = match sampling {
        AggregateSampling::Weighted => {
            let log_weight = -((n_images as f64) * (n_batch as f64)).ln();
            Tensor::full([1, 1], log_weight, (Kind::Float, pairs.device()))
        }
        AggregateSampling::Stratified => stratified_weights(n_batch, n_images)
            .log()
            .to_device(pairs.device()),
    }; // [B, B] or [1, 1]
    let log_qz = (pairs.sum_dim_intlist(-1, false, Kind::Float) + &log_weights).logsumexp(2, false); // [K, B]
    let log_qz_factorized = (pairs + log_weights.unsqueeze(-1))
        .logsumexp(2, false) // [K, B, Z]
        .sum_dim_intlist(-1, false, Kind::Float); // [K, B]
    let log_pz = standard_normal_log_prob(&draws.latents); // [K, B]
    Ok(Decomposition {
        information: (log_qz_x - &log_qz).mean(Kind::Float),
        total_correlation: (log_qz - &log_qz_factorized).mean(Kind::Float),
        dimension_wise_kl: (log_qz_factorized - log_pz).mean(Kind::Float),
    })
}

/// Weights `[B, B]` of q(z_i|x_j) in q(z_i) (Chen et al. 2018, App. C.2): 1/N for the image itself;
/// (N − B + 1)/(N·(B − 1)) for one other image, which represents all images outside the batch; 1/(B − 1) for each of
/// the remaining ones. Each row sums to 1.
fn stratified_weights(n_batch: i64, n_images: u64) -> Tensor {
    let b = n_batch as usize;
    let n = (n_images as f64).max(n_batch as f64);
    if b == 1 {
        return Tensor::from_slice(&[1_f32]).view([1, 1]);
    }
    let others = (b - 1) as f64;
    let outside = (n - others) / (n * others);
    let mut weights = vec![(1.0 / others) as f32; b * b];
    for i in 0..b {
        weights[i * b + i] = (1.0 / n) as f32;
        weights[i * b + (i + 1) % b] = outside as f32;
    }
    Tensor::from_slice(&weights).view([n_batch, n_batch])
}
