//! Likelihoods p(x|z): what the decoder's output says about the pixels, and how bytes are scaled.

use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

/// p(x|z). The decoder's output is the parameters of this distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Likelihood {
    /// Independent Bernoulli pixels, parameterized by logits; bytes are scaled to `[0, 1]`.
    ///
    /// On gray pixels the cross-entropy is the usual convention (Kingma & Welling 2014, App. C),
    /// not a density of the 8-bit image, so bits/dim is not defined for it.
    #[default]
    Bernoulli,
}

impl Likelihood {
    /// Bytes as the numbers that this distribution is about: `[0, 1]` for Bernoulli. f32, same shape.
    pub fn scale(self, images: &Tensor) -> Tensor {
        match self {
            // Cast after the transfer: u8 crosses the bus at a quarter of the size.
            Self::Bernoulli => images.to_kind(Kind::Float) / 255.0,
        }
    }

    /// Numbers that the decoder gives for each value of an image.
    #[must_use]
    pub fn n_params(self) -> i64 {
        match self {
            Self::Bernoulli => 1,
        }
    }

    /// log p(x|z) in nats, summed over the image's values.
    ///
    /// `params` `[K, B, C, H, W]` from the decoder, `targets` `[B, C, H, W]` from [`Self::scale`]
    /// → `[K, B]`.
    pub fn log_prob(self, params: &Tensor, targets: &Tensor) -> Tensor {
        match self {
            Self::Bernoulli => {
                let targets = targets.expand_as(params);
                -params
                    .binary_cross_entropy_with_logits::<Tensor>(
                        &targets,
                        None,
                        None,
                        Reduction::None,
                    )
                    .sum_dim_intlist([2_i64, 3, 4].as_slice(), false, Kind::Float)
            }
        }
    }

    /// The mean image in `[0, 1]`, same shape as `params`.
    pub fn mean_image(self, params: &Tensor) -> Tensor {
        match self {
            Self::Bernoulli => params.sigmoid(),
        }
    }
}
