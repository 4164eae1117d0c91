//! Priors p(z): where latents come from when nothing is known of the image.

mod hyperspherical_uniform;
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
    /// Uniform on the unit sphere in ℝ^Z, for posteriors that live there.
    HypersphericalUniform,
}

impl PriorConfig {
    pub(crate) fn check(&self, latent_dims: i64) -> Result<(), ModelError> {
        match self {
            Self::StandardNormal => Ok(()),
            Self::HypersphericalUniform => {
                check_sphere("model.prior", "hyperspherical_uniform", latent_dims)
            }
        }
    }

    /// Its name in a config.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::StandardNormal => "standard_normal",
            Self::HypersphericalUniform => "hyperspherical_uniform",
        }
    }

    /// The space that its latents lie in; none where that is the posterior's, whichever it is.
    pub(crate) fn support(&self) -> Option<Support> {
        match self {
            Self::StandardNormal => Some(Support::Euclidean),
            Self::HypersphericalUniform => Some(Support::Sphere),
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
            Self::HypersphericalUniform => {
                Box::new(hyperspherical_uniform::HypersphericalUniform { latent_dims })
            }
        }
    }
}

/// Refuses a sphere that is two points.
pub(crate) fn check_sphere(key: &str, name: &str, latent_dims: i64) -> Result<(), ModelError> {
    if latent_dims < 2 {
        return Err(ModelError::config(
            key,
            format!(
                "{name} is a distribution on the unit sphere in latent_dims dimensions, of which it \
                 needs at least 2, a circle; found latent_dims = {latent_dims}"
            ),
        ));
    }
    Ok(())
}
