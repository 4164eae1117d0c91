//! `objective.perceptual`: a reconstruction in the features of a network.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use super::PlayerNetwork;
use super::checks::at_least_0;
use super::player::Seen;
use crate::{Direction, Draws, ModelError, Term, Terms, Vae};

/// A further reconstruction: ½·‖f(x) − f(x̃)‖², summed over the features f of an item, as if they were Gaussian with
/// variance 1 (Larsen et al. 2016, <https://arxiv.org/abs/1512.09300>, eq. 8).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PerceptualConfig {
    /// Its weight beside the reconstruction. Default 1.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight: f64,
    /// Whose features. Default `discriminator`.
    pub features: FeaturesConfig,
}

impl Default for PerceptualConfig {
    fn default() -> Self {
        Self {
            weight: 1.0,
            features: FeaturesConfig::default(),
        }
    }
}

/// The network whose features are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FeaturesConfig {
    /// The discriminator of `[objective.adversarial]`.
    Discriminator(DiscriminatorFeaturesConfig),
}

impl Default for FeaturesConfig {
    fn default() -> Self {
        Self::Discriminator(DiscriminatorFeaturesConfig::default())
    }
}

/// Features of the discriminator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscriminatorFeaturesConfig {
    /// The hidden layer, counted from 1. By default the last.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
}

/// The term without its weight.
pub(super) const TERM: Term =
    Term::new("perceptual_reconstruction", Term::NO_UNIT, Direction::Lower);

impl PerceptualConfig {
    /// Checks the values; `n_layers` are the hidden layers of the discriminator, if there is one.
    pub(crate) fn check(&self, n_layers: Option<usize>) -> Result<(), ModelError> {
        at_least_0("objective.perceptual.weight", self.weight)?;
        let FeaturesConfig::Discriminator(config) = &self.features;
        let key = "objective.perceptual.features.discriminator";
        let Some(n_layers) = n_layers else {
            return Err(ModelError::config(
                key,
                "there is no discriminator; [objective.adversarial] makes one",
            ));
        };
        let layer = config.layer.unwrap_or(n_layers);
        match (1..=n_layers).contains(&layer) {
            true => Ok(()),
            false => Err(ModelError::config(
                format!("{key}.layer"),
                format!("found {layer}, expected a number from 1 to {n_layers}, the hidden layers"),
            )),
        }
    }

    /// The term with its weight, a scalar; `None` without the network.
    ///
    /// # Errors
    /// A layer that the network does not have.
    pub(super) fn loss(
        &self,
        draws: &Draws,
        vae: &Vae,
        discriminator: Option<&PlayerNetwork>,
        terms: &mut Terms,
    ) -> Result<Option<Tensor>, ModelError> {
        let FeaturesConfig::Discriminator(config) = &self.features;
        let Some(discriminator) = discriminator else {
            return Ok(None);
        };
        let features = draws.condition.as_ref().map(|c| vae.features(c));
        let of = |items: Tensor| {
            let side = features.as_ref().map(Tensor::shallow_clone);
            let said = discriminator.judge(&Seen { items, side }, draws.mode);
            let layer = config.layer.unwrap_or(said.features.len());
            let layers = said.features.into_iter();
            let mut from = layers.skip(layer.saturating_sub(1));
            from.next().ok_or_else(|| {
                let problem = format!("the discriminator has no hidden layer {layer}");
                ModelError::config("objective.perceptual.features.discriminator.layer", problem)
            })
        };
        let wanted = no_grad(|| of(vae.judged(&draws.targets)))?;
        let found = of(vae.judged_mean(&draws.params.select(0, 0)))?;
        let squares = (found - wanted).square().flatten(1, -1);
        let term = squares
            .sum_dim_intlist(1, false, Kind::Float)
            .mean(Kind::Float)
            * 0.5;
        terms.push(TERM, &term);
        Ok(Some(term * self.weight))
    }
}
