//! `objective.decoder_penalty`: penalties for a decoder that changes smoothly with the latent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_torch::Generator;

use super::checks::at_least_0;
use crate::share::Shared;
use crate::{Direction, Draws, ModelError, Term, Terms, Vae};

/// A penalty that keeps the decoder smooth, so that similar latents decode to similar images (RAE, Ghosh et al. 2020,
/// <https://arxiv.org/abs/1903.12436>, §4.1). The paper's third method, spectral norm, is
/// `model.decoder_spectral_norm`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DecoderPenalty {
    /// No penalty.
    #[default]
    None,
    /// λ·‖θ‖², the sum of the squares of the decoder's weights and biases.
    L2(DecoderWeightConfig),
    /// λ·‖∂D(z)/∂z‖², the squared Frobenius norm of the Jacobian of the decoder's output, averaged over images. One
    /// random vector of ±1 for each image gives an unbiased estimate (Hutchinson 1990); programs that differentiate the
    /// sum of the output use one fixed vector instead.
    GradientPenalty(DecoderWeightConfig),
}

/// The penalty is multiplied by its weight λ and added to the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DecoderWeightConfig {
    /// λ, the weight of the penalty. Default 1e-3.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight: f64,
}

impl Default for DecoderWeightConfig {
    fn default() -> Self {
        Self { weight: 1e-3 }
    }
}

/// ‖θ‖² of the decoder.
const SQUARED_WEIGHTS: Term = Term::new("decoder_l2", Term::NO_UNIT, Direction::Lower);
/// ‖∂D(z)/∂z‖².
const SQUARED_JACOBIAN: Term = Term::new("decoder_jacobian", Term::NO_UNIT, Direction::Lower);

impl DecoderPenalty {
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::None => Ok(()),
            Self::L2(config) => at_least_0("objective.decoder_penalty.l2.weight", config.weight),
            Self::GradientPenalty(config) => at_least_0(
                "objective.decoder_penalty.gradient_penalty.weight",
                config.weight,
            ),
        }
    }

    /// The declarations of [`Self::penalty`] without its weight.
    pub(super) fn terms(&self) -> Vec<Term> {
        match self {
            Self::None => vec![],
            Self::L2(_) => vec![SQUARED_WEIGHTS],
            Self::GradientPenalty(_) => vec![SQUARED_JACOBIAN],
        }
    }

    /// The penalty, a scalar; `None` without a penalty.
    pub(super) fn penalty(
        &self,
        vae: &Vae,
        draws: &Draws,
        generator: &mut Generator,
        terms: &mut Terms,
    ) -> Option<Tensor> {
        match self {
            Self::None => None,
            Self::L2(config) => {
                let sum = vae
                    .trainable_variables()
                    .into_iter()
                    .filter(|(name, _)| name.starts_with("decoder."))
                    .map(|(_, variable)| variable.square().sum(Kind::Float))
                    .reduce(|a, b| a + b)?;
                terms.push(SQUARED_WEIGHTS, &sum);
                Some(sum * config.weight)
            }
            Self::GradientPenalty(config) => {
                let own_size = draws.params.size();
                let size = [
                    &own_size[..1],
                    &[draws.share.n_rows_of(own_size[1])],
                    &own_size[2..],
                ];
                let whole = generator.uniform([0.0, 1.0], size.concat(), draws.params.device());
                let probe = draws.share.own(&whole, 1).round() * 2.0 - 1.0;
                let squared = squared_jacobian(draws, &probe);
                terms.push(SQUARED_JACOBIAN, &squared);
                Some(squared * config.weight)
            }
        }
    }
}

/// ‖vᵀ·∂D(z)/∂z‖² for a probe v of the shape of the decoder's output, averaged over samples and images.
fn squared_jacobian(draws: &Draws, probe: &Tensor) -> Tensor {
    let projected = (&draws.params * probe).sum(Kind::Float);
    // The decoder treats images independently, so the gradient of the sum holds each image's own gradient.
    let gradient = Tensor::run_backward(&[projected], &[&draws.own_latents], true, true).remove(0);
    let squares = gradient.square().sum_dim_intlist(-1, false, Kind::Float); // [K, B]
    draws.share.gathered(&squares, 1).mean(Kind::Float)
}
