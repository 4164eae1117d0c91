//! `objective.regularizer.latent_norm`: keeps codes near the origin.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::checks::at_least_0;
use crate::{Direction, Draws, ModelError, Term, Terms};

/// `weight`·½‖z‖², for codes without a distribution (RAE, Ghosh et al. 2020,
/// <https://arxiv.org/abs/1903.12436>, eq. 11).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LatentNormConfig {
    /// β, the weight of ½‖z‖². With 1 it is the part of the kl that depends on the mean. Default 1.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight: f64,
}

impl Default for LatentNormConfig {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

/// ‖z‖².
pub(super) const SQUARED_NORM: Term =
    Term::new("squared_latent_norm", Term::NO_UNIT, Direction::Neither);

impl LatentNormConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        at_least_0("objective.regularizer.latent_norm.weight", self.weight)
    }

    pub(super) fn penalty(&self, draws: &Draws, terms: &mut Terms) -> Tensor {
        let squared_norm = draws
            .latents
            .square()
            .sum_dim_intlist(-1, false, Kind::Float); // [K, B]
        let squared_norm = squared_norm.mean(Kind::Float);
        terms.push(SQUARED_NORM, &squared_norm);
        squared_norm * (0.5 * self.weight)
    }
}
