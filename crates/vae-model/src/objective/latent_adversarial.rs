//! `objective.regularizer.adversarial`: the adversarial autoencoder.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use super::adversarial_loss::AdversarialLoss;
use super::checks::at_least_0;
use super::{LossContext, PlayerNetwork};
use crate::network::{LARGEST_DEPTH, LARGEST_SIZE, LeakyMlp, check_sizes};
use crate::{Direction, Draws, Mode, ModelError, Term, Terms};

/// A discriminator that tells latents of the prior from encoded ones, and a term by which the encoder learns to deceive
/// it, so that the aggregate posterior q(z) becomes the prior (adversarial autoencoder, Makhzani et al. 2015,
/// <https://arxiv.org/abs/1511.05644>). It is a player of its own, `[players.latent_discriminator]`. Any prior that can
/// be drawn from has its shape matched; the posterior needs no density.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LatentAdversarialConfig {
    /// The losses of the two players. Default `"non_saturating"`.
    pub loss: AdversarialLoss,
    /// The weight of the encoder's term. The reconstruction is a sum over the values of an item, so this has to be
    /// large. Default 10.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight: f64,
    /// Widths of the discriminator's hidden layers, which leaky ReLUs of slope 0.2 follow. Default `[512, 512]`.
    #[schemars(length(max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub hidden: Vec<i64>,
}

impl Default for LatentAdversarialConfig {
    fn default() -> Self {
        Self {
            loss: AdversarialLoss::default(),
            weight: 10.0,
            hidden: vec![512, 512],
        }
    }
}

/// The discriminator's name among the players.
pub(super) const DISCRIMINATOR: &str = "latent_discriminator";

/// The encoder's term without its weight.
pub(super) const TERM: Term =
    Term::new("latent_adversarial_loss", Term::NO_UNIT, Direction::Neither);
pub(super) const LOSS: Term = Term::new(
    "latent_discriminator_loss",
    Term::NO_UNIT,
    Direction::Neither,
);
/// ½ if it cannot tell the two kinds.
pub(super) const ACCURACY: Term = Term::new(
    "latent_discriminator_accuracy",
    Term::NO_UNIT,
    Direction::Neither,
);

impl LatentAdversarialConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let key = "objective.regularizer.adversarial";
        at_least_0(&format!("{key}.weight"), self.weight)?;
        check_sizes(&format!("{key}.hidden"), &self.hidden)
    }

    /// A discriminator of latents `[N, Z]` with fresh weights.
    pub(super) fn discriminator(
        &self,
        latent_dims: i64,
        seed: u64,
        device: Device,
    ) -> PlayerNetwork {
        PlayerNetwork::new(DISCRIMINATOR, seed, device, |path| {
            Box::new(LeakyMlp::build(path, latent_dims, &self.hidden, 1))
        })
    }

    /// The encoder's term with its weight, and the discriminator's loss. Without a discriminator the term is 0.
    pub(super) fn losses(
        &self,
        draws: &Draws,
        context: LossContext,
        discriminator: Option<&PlayerNetwork>,
        generator: &mut Generator,
        terms: &mut Terms,
    ) -> (Tensor, Option<Tensor>) {
        let Some(discriminator) = discriminator else {
            return (draws.log_px_z.zeros_like().sum(Kind::Float), None);
        };
        let encoded = draws.latents.select(0, 0); // [B, Z]
        let condition = draws.condition.as_ref();
        let drawn = context
            .vae
            .latents_of(encoded.size()[0], condition, generator);
        let said = discriminator.judge(&(&encoded).into(), Mode::Train);
        let term = self.loss.of_forger(&said.outputs, true);
        let of = |latents: &Tensor| discriminator.learn(&latents.into(), Mode::Train).outputs;
        let (on_prior, on_encoded) = (of(&drawn), of(&encoded));
        let loss = self.loss.of_discriminator(&on_prior, &on_encoded);
        terms.push(TERM, &term);
        terms.push(LOSS, &loss);
        terms.push(ACCURACY, &self.loss.accuracy(&on_prior, &on_encoded));
        (term * self.weight, Some(loss))
    }
}
