//! Priors p(z): where latents come from when nothing is known of the image.

mod standard_normal;

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor, nn};

use crate::{ImageShape, Initialization, ModelError, Posterior};

/// p(z). What it learns are variables of the model, trained with the rest.
pub trait Prior: Debug + Send {
    /// log p(z) in nats, `[N]`, for latents `[N, Z]`.
    fn log_prob(&self, latents: &Tensor, encoder: Encoder) -> Tensor;

    /// `n` latents from the prior, `[n, Z]`, drawn by libtorch's global generator.
    fn sample(&self, n: i64, device: Device, encoder: Encoder) -> Tensor;

    /// Whether it is the base distribution of its space, to which posteriors know their kl in closed
    /// form.
    fn is_base(&self) -> bool {
        false
    }

    /// log p(c|z) of each component c, `[N, n_components]`, for latents `[N, Z]`; none where the prior
    /// has no components.
    fn log_assignment(&self, latents: &Tensor) -> Option<Tensor> {
        let _ = latents;
        None
    }

    /// Takes what it can use of training images, bytes `[B, C, H, W]`, before the first step.
    fn start_from(&self, images: &Tensor) {
        let _ = images;
    }
}

/// The model's encoder, for priors that are made of posteriors: images as numbers from 0 to 255
/// `[B, C, H, W]` → q(z|x).
pub type Encoder<'a> = &'a dyn Fn(&Tensor) -> Box<dyn Posterior>;

/// The space that latents lie in; posterior and prior must agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// All of ℝ^Z. Its base distribution is the standard normal.
    Euclidean,
    /// The unit sphere in ℝ^Z. Its base distribution is the uniform one.
    Sphere,
}

/// Which p(z) (`prior` or `[model.prior.…]` in a config file).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PriorConfig {
    /// N(0, I).
    #[default]
    StandardNormal,
}

impl PriorConfig {
    pub(crate) fn check(&self, latent_dims: i64) -> Result<(), ModelError> {
        let _ = latent_dims;
        Ok(())
    }

    /// Its name in a config.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::StandardNormal => "standard_normal",
        }
    }

    /// The space that its latents lie in; none where that is the posterior's, whichever it is.
    pub(crate) fn support(&self) -> Option<Support> {
        match self {
            Self::StandardNormal => Some(Support::Euclidean),
        }
    }

    /// Builds a checked prior; what it learns are variables under `path`.
    pub(crate) fn build(
        &self,
        _path: &nn::Path,
        latent_dims: i64,
        _image: ImageShape,
        _initialization: Initialization,
    ) -> Box<dyn Prior> {
        match self {
            Self::StandardNormal => {
                Box::new(standard_normal::StandardNormal { latent_dims })
            }
        }
    }
}
