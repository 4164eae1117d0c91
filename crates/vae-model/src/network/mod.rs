//! Networks: the trainable maps from images to posterior parameters and from latents to
//! likelihood parameters. They know nothing of distributions.

mod conv;
mod layers;
mod mlp;

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

pub use conv::ConvConfig;
pub use layers::Initialization;
pub use mlp::MlpConfig;

use crate::{ImageShape, ModelError};

/// An encoder and a decoder.
pub trait Network: Debug + Send {
    /// Scaled images `[B, C, H, W]` → posterior parameters `[B, P]`.
    fn encode(&self, images: &Tensor) -> Tensor;

    /// Latents `[N, Z]` → likelihood parameters `[N, L·C, H, W]`.
    fn decode(&self, latents: &Tensor) -> Tensor;
}

/// What a network has to fit between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sockets {
    pub(crate) image: ImageShape,
    pub(crate) latent_dims: i64,
    pub(crate) n_posterior_params: i64,
    pub(crate) n_likelihood_params: i64,
    pub(crate) initialization: Initialization,
}

/// Which network, with its sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NetworkConfig {
    /// Convolutions and transposed convolutions.
    Conv(ConvConfig),
    /// Fully connected layers.
    Mlp(MlpConfig),
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self::Conv(ConvConfig::default())
    }
}

impl NetworkConfig {
    /// Builds the network with fresh weights under `encoder` and `decoder` of `root`.
    pub(crate) fn build(
        &self,
        root: &nn::Path,
        sockets: Sockets,
    ) -> Result<Box<dyn Network>, ModelError> {
        match self {
            Self::Conv(config) => config.build(root, sockets),
            Self::Mlp(config) => config.build(root, sockets),
        }
    }
}

/// Refuses a list of layer sizes with a zero or negative number in it.
fn check_positive(key: &str, sizes: &[i64]) -> Result<(), ModelError> {
    match sizes.iter().find(|&&size| size < 1) {
        Some(size) => Err(ModelError::config(
            key,
            format!("found {size}, every number must be at least 1"),
        )),
        None => Ok(()),
    }
}
