//! Priors p(z): where latents come from when nothing is known of the image.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::DiagonalGaussian;

/// p(z).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Prior {
    /// N(0, I).
    #[default]
    StandardNormal,
}

impl Prior {
    /// KL(q(z|x) ‖ p(z)) in nats for each image and latent dimension, `[B, Z]`, in closed form.
    pub fn kl_per_dimension(self, posterior: &DiagonalGaussian) -> Tensor {
        match self {
            Self::StandardNormal => posterior.kl_to_standard_normal(),
        }
    }

    /// Latents drawn from the prior, `[n, Z]`.
    pub fn sample(self, n: i64, latent_dims: i64, device: Device) -> Tensor {
        match self {
            Self::StandardNormal => Tensor::randn([n, latent_dims], (Kind::Float, device)),
        }
    }
}
