//! Likelihoods p(x|z): what the decoder's output says about the pixels, and how bytes are scaled.

mod bernoulli;
mod discretized_logistic;
mod gaussian;
mod laplace;
mod scale;

use std::f64::consts::LN_2;
use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

pub use discretized_logistic::{DiscretizedLogisticConfig, LogisticScale};
pub use gaussian::GaussianConfig;
pub use laplace::LaplaceConfig;
pub use scale::ScaleConfig;

use crate::{ImageShape, Mode, ModelError};

/// p(x|z). The decoder's output is the parameters of this distribution.
pub trait Likelihood: Debug + Send {
    /// Bytes as the numbers that this distribution is about. f32, same shape.
    fn scale(&self, images: &Tensor) -> Tensor;

    /// log p(x|z) in nats, summed over the image's values.
    ///
    /// `params` f32 `[K, B, L·C, H, W]` from the decoder, `targets` `[B, C, H, W]` from
    /// [`Self::scale`] → `[K, B]`.
    fn log_prob(&self, params: &Tensor, targets: &Tensor, mode: Mode) -> Tensor;

    /// The mean image in `[0, 1]`, `[N, C, H, W]`, for `params` f32 `[N, L·C, H, W]`.
    fn mean_image(&self, params: &Tensor) -> Tensor;
}

/// Which p(x|z) (`likelihood` or `[model.likelihood.…]` in a config file).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LikelihoodConfig {
    /// Independent Bernoulli pixels, parameterized by logits; bytes are scaled to `[0, 1]`.
    ///
    /// On gray pixels the cross-entropy is the usual convention (Kingma & Welling 2014, App. C),
    /// not a density of the 8-bit image, so bits/dim is not defined for it.
    #[default]
    Bernoulli,
    /// Gaussian pixels, with one σ for all: the squared error.
    Gaussian(GaussianConfig),
    /// Laplace pixels, with one scale for all: the absolute error.
    Laplace(LaplaceConfig),
    /// Probabilities of the 256 values of a byte.
    DiscretizedLogistic(DiscretizedLogisticConfig),
}

impl LikelihoodConfig {
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::Bernoulli | Self::DiscretizedLogistic(_) => Ok(()),
            Self::Gaussian(config) => config.sigma.check("model.likelihood.gaussian.sigma"),
            Self::Laplace(config) => config.scale.check("model.likelihood.laplace.scale"),
        }
    }

    /// Numbers that the decoder gives for each value of an image.
    #[must_use]
    pub fn n_params(&self) -> i64 {
        match self {
            Self::Bernoulli | Self::Gaussian(_) | Self::Laplace(_) => 1,
            Self::DiscretizedLogistic(config) => config.n_params(),
        }
    }

    /// Builds a checked likelihood; what it learns are variables under `path`.
    pub(crate) fn build(&self, path: &nn::Path, image: ImageShape) -> Box<dyn Likelihood> {
        match self {
            Self::Bernoulli => Box::new(bernoulli::Bernoulli),
            Self::Gaussian(config) => Box::new(config.build(path)),
            Self::Laplace(config) => Box::new(config.build(path)),
            Self::DiscretizedLogistic(config) => Box::new(config.build(path, image.channels)),
        }
    }

    /// Whether p(x|z) is a probability of 8-bit values, so that there are bits/dim.
    #[must_use]
    pub fn has_bits_per_dim(&self) -> bool {
        matches!(self, Self::DiscretizedLogistic(_))
    }

    /// −elbo / (ln 2 · C·H·W), an upper bound of the bits that a value of the 8-bit image takes, for
    /// an `elbo` in nats per image.
    ///
    /// None where p(x|z) is no probability of bytes: a Bernoulli's cross-entropy on gray pixels is no
    /// density of them at all, and the densities of continuous pixels (Gaussian, Laplace) change
    /// with the unit in which a pixel is measured and have no upper limit on pixels that are in
    /// truth discrete.
    #[must_use]
    pub fn bits_per_dim(&self, elbo: f64, image: ImageShape) -> Option<f64> {
        self.has_bits_per_dim()
            .then(|| -elbo / (LN_2 * image.n_values() as f64))
    }
}

/// What makes the mean of a pixel in `[-1, 1]` out of the decoder's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeanActivation {
    /// Nothing: black and white are within reach, and the gradient of the squared error stays whole.
    #[default]
    Linear,
    /// tanh, into `(-1, 1)`.
    Tanh,
    /// The logistic function, into `(0, 1)`. A mistake of a well-known tutorial, kept to reproduce
    /// it: pixels darker than the middle gray are out of its reach.
    Sigmoid,
}

impl MeanActivation {
    fn apply(self, params: &Tensor) -> Tensor {
        match self {
            Self::Linear => params.shallow_clone(),
            Self::Tanh => params.tanh(),
            Self::Sigmoid => params.sigmoid(),
        }
    }
}

/// Bytes to `[-1, 1]`, in f32: 2/255 for each step of a byte.
fn to_minus_one_one(images: &Tensor) -> Tensor {
    // Cast after the transfer: u8 crosses the bus at a quarter of the size.
    images.to_kind(Kind::Float) / 127.5 - 1.0
}

/// Numbers of `[-1, 1]` to `[0, 1]`; what lies outside goes to the nearest end.
fn to_zero_one(values: &Tensor) -> Tensor {
    ((values + 1.0) * 0.5).clamp(0.0, 1.0)
}

/// Sums over the values of each image: `[K, B, C, H, W]` → `[K, B]`.
fn sum_over_values(values: &Tensor) -> Tensor {
    values.sum_dim_intlist([2_i64, 3, 4].as_slice(), false, Kind::Float)
}
