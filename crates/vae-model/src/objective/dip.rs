//! `objective.regularizer.dip`: a penalty on the aggregate posterior's covariance.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::checks::at_least_0;
use super::{kl_of, unfit};
use crate::{Direction, Draws, ModelError, Term, Terms};

/// kl + λ_od·Σ_{i≠j} C_ij² + λ_d·Σ_i (C_ii − 1)² with a covariance C of the latents over the batch (DIP-VAE, Kumar et
/// al. 2018, <https://arxiv.org/abs/1711.00848>, eq. 6 and 7). Larger batches estimate C more accurately.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DipConfig {
    /// Which covariance is penalized, DIP-VAE-I or DIP-VAE-II. Default `"one"`.
    pub variant: DipVariant,
    /// λ_od, the weight of the entries off the diagonal. Default 10.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub off_diagonal: f64,
    /// λ_d, the weight of the diagonal's difference from 1. The paper uses 10·λ_od for DIP-I and λ_od for DIP-II.
    /// Default 100.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub diagonal: f64,
}

impl Default for DipConfig {
    fn default() -> Self {
        Self {
            variant: DipVariant::default(),
            off_diagonal: 10.0,
            diagonal: 100.0,
        }
    }
}

/// Σ_{i≠j} C_ij².
pub(super) const OFF_DIAGONAL: Term =
    Term::new("dip_off_diagonal", Term::NO_UNIT, Direction::Lower);
/// Σ_i (C_ii − 1)².
pub(super) const ON_DIAGONAL: Term = Term::new("dip_diagonal", Term::NO_UNIT, Direction::Lower);

/// Which covariance of the latents is compared with the identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DipVariant {
    /// DIP-VAE-I: the covariance of the posterior means, Cov_x\[μ(x)\].
    #[default]
    One,
    /// DIP-VAE-II: the covariance of the aggregate posterior, Cov_x\[μ(x)\] + E_x\[Σ(x)\].
    Two,
}

impl DipConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        at_least_0("objective.regularizer.dip.off_diagonal", self.off_diagonal)?;
        at_least_0("objective.regularizer.dip.diagonal", self.diagonal)
    }

    pub(super) fn penalty(&self, draws: &Draws, terms: &mut Terms) -> Result<Tensor, ModelError> {
        let mean = draws.posterior.center(); // [B, Z]
        let centered = &mean - mean.mean_dim(0, true, Kind::Float);
        // Divided by B, as in the paper's program, without Bessel's correction.
        let of_means = centered.tr().matmul(&centered) / mean.size()[0] as f64; // [Z, Z]
        let covariance = match self.variant {
            DipVariant::One => of_means,
            DipVariant::Two => match draws.posterior.covariance() {
                Some(within) => of_means + within.mean_dim(0, false, Kind::Float),
                None => return Err(unfit("regularizer.dip", "a covariance")),
            },
        };
        let diagonal = covariance.diagonal(0, 0, 1);
        let on = (&diagonal - 1.0).square().sum(Kind::Float);
        let off = covariance.square().sum(Kind::Float) - diagonal.square().sum(Kind::Float);
        terms.push(OFF_DIAGONAL, &off);
        terms.push(ON_DIAGONAL, &on);
        let kl = kl_of(draws, "dip")?.mean(Kind::Float);
        Ok(kl + off * self.off_diagonal + on * self.diagonal)
    }
}
