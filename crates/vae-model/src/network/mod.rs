//! Networks: the trainable maps from images to posterior parameters and from latents to
//! likelihood parameters. They know nothing of distributions.

mod conv;
mod conv_batch_norm;
pub(crate) mod layers;
mod mlp;
mod ops;
mod residual;
mod spectral_norm;

use std::fmt::Debug;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

pub use conv::ConvConfig;
pub use conv_batch_norm::ConvBatchNormConfig;
pub use layers::{Initialization, is_layer_weight};
pub(crate) use layers::{Layer, Then};
pub use mlp::MlpConfig;
pub use residual::ResidualConfig;

pub(crate) use ops::Activation;
use ops::{Eager, Ops};
use spectral_norm::DecoderLayers;

use crate::graph::{Graph, Value};
use crate::{ImageShape, Mode, ModelError, nn};

/// An encoder and a decoder. Under autocast the outputs may be in half precision.
pub trait Network: Debug + Send {
    /// Scaled images `[B, C, H, W]` → posterior parameters `[B, P]`.
    fn encode(&self, images: &Tensor, mode: Mode) -> Tensor;

    /// Latents `[N, Z]` → likelihood parameters, L maps `[N, L, H, W]`.
    fn decode(&self, latents: &Tensor, mode: Mode) -> Tensor;
}

/// A network written over the operations that it consists of.
trait Layered: Debug + Send {
    fn encoder<O: Ops>(&self, ops: &mut O, images: O::Value) -> O::Value;

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value;
}

/// A network that can say what it computes.
pub(crate) trait GraphNetwork: Network {
    /// What [`Network::encode`] computes in evaluation.
    fn encoder_graph(&self, graph: &mut Graph, images: Value) -> Value;

    /// What [`Network::decode`] computes in evaluation.
    fn decoder_graph(&self, graph: &mut Graph, latents: Value) -> Value;
}

impl<N: Layered> Network for N {
    fn encode(&self, images: &Tensor, mode: Mode) -> Tensor {
        self.encoder(&mut Eager(mode), images.shallow_clone())
    }

    fn decode(&self, latents: &Tensor, mode: Mode) -> Tensor {
        self.decoder(&mut Eager(mode), latents.shallow_clone())
    }
}

impl<N: Layered> GraphNetwork for N {
    fn encoder_graph(&self, graph: &mut Graph, images: Value) -> Value {
        self.encoder(graph, images)
    }

    fn decoder_graph(&self, graph: &mut Graph, latents: Value) -> Value {
        self.decoder(graph, latents)
    }
}

/// What a network has to fit between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sockets {
    pub(crate) image: ImageShape,
    pub(crate) latent_dims: i64,
    pub(crate) n_posterior_params: i64,
    /// Maps of likelihood parameters, [`LikelihoodConfig::n_maps`](crate::LikelihoodConfig::n_maps).
    pub(crate) n_likelihood_maps: i64,
    pub(crate) initialization: Initialization,
    pub(crate) decoder_spectral_norm: bool,
}

impl Sockets {
    fn decoder_layers(self) -> DecoderLayers {
        DecoderLayers {
            initialization: self.initialization,
            spectral_norm: self.decoder_spectral_norm,
        }
    }

    /// What follows the decoder's last layer. A likelihood with parameters of a whole pixel besides
    /// those of each value counts as the next lower number for each value.
    fn to_likelihood(self) -> Then {
        Then::Output {
            n_params: self.n_likelihood_maps / self.image.channels,
        }
    }
}

/// Which layers encoder and decoder consist of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NetworkConfig {
    /// Convolutions and transposed convolutions.
    Conv(ConvConfig),
    /// Convolutions that halve the image, each followed by batch norm.
    ConvBatchNorm(ConvBatchNormConfig),
    /// Residual blocks with group norm.
    Residual(ResidualConfig),
    /// Fully connected layers.
    Mlp(MlpConfig),
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self::Conv(ConvConfig::default())
    }
}

impl NetworkConfig {
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::Conv(config) => config.check(),
            Self::ConvBatchNorm(config) => config.check(),
            Self::Residual(config) => config.check(),
            Self::Mlp(config) => config.check(),
        }
    }

    /// Builds a checked network with fresh weights under `encoder` and `decoder` of `root`.
    pub(crate) fn build(&self, root: &nn::Path, sockets: Sockets) -> Box<dyn GraphNetwork> {
        match self {
            Self::Conv(config) => Box::new(config.build(root, sockets)),
            Self::ConvBatchNorm(config) => Box::new(config.build(root, sockets)),
            Self::Residual(config) => Box::new(config.build(root, sockets)),
            Self::Mlp(config) => Box::new(config.build(root, sockets)),
        }
    }
}

/// The largest size of a layer: more is a slip of the hand, and would end in no memory.
pub(crate) const LARGEST_SIZE: i64 = 1 << 20;

/// The most layers, flows or blocks one after the other.
pub(crate) const LARGEST_DEPTH: usize = 256;

/// Refuses a list of layer sizes with a number below 1, or absurdly large, in it.
pub(crate) fn check_sizes(key: &str, sizes: &[i64]) -> Result<(), ModelError> {
    if sizes.len() > LARGEST_DEPTH {
        let n = sizes.len();
        let problem = format!("found {n} numbers, at most {LARGEST_DEPTH} are possible");
        return Err(ModelError::config(key, problem));
    }
    match sizes
        .iter()
        .find(|&size| !(1..=LARGEST_SIZE).contains(size))
    {
        Some(size) => Err(ModelError::config(
            key,
            format!("found {size}, a number from 1 to {LARGEST_SIZE} is needed"),
        )),
        None => Ok(()),
    }
}

/// Refuses a number of layers below 1, or absurdly large.
pub(crate) fn check_depth(key: &str, n: i64) -> Result<(), ModelError> {
    if (1..=LARGEST_DEPTH as i64).contains(&n) {
        return Ok(());
    }
    Err(ModelError::config(
        key,
        format!("found {n}, a number from 1 to {LARGEST_DEPTH} is needed"),
    ))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn networks_compute_in_half_precision_too() {
        let _alone = crate::alone::alone();
        let networks = [
            NetworkConfig::default(),
            NetworkConfig::ConvBatchNorm(ConvBatchNormConfig {
                channels: vec![4, 8],
            }),
            NetworkConfig::Residual(ResidualConfig {
                channels: vec![8, 16],
                ..Default::default()
            }),
            NetworkConfig::Mlp(MlpConfig::default()),
        ];
        let sockets = Sockets {
            image: ImageShape {
                channels: 3,
                height: 12,
                width: 10,
            },
            latent_dims: 4,
            n_posterior_params: 8,
            n_likelihood_maps: 6,
            initialization: Initialization::default(),
            decoder_spectral_norm: true,
        };
        let cosine = |a: &Tensor, b: &Tensor| {
            let (a, b) = (a.flatten(0, -1).to_kind(Kind::Double), b.flatten(0, -1));
            let b = b.to_kind(Kind::Double);
            (a.dot(&b) / (a.norm() * b.norm())).double_value(&[])
        };
        for config in networks {
            let mut variables = nn::VarStore::new(Device::Cpu);
            let network = config.build(&variables.root(), sockets);
            let images = Tensor::arange(2 * 360, (Kind::Float, Device::Cpu)).sin();
            let images = images.view([2, 3, 12, 10]);
            let latents = Tensor::arange(8, (Kind::Float, Device::Cpu))
                .cos()
                .view([2, 4]);
            let encoded = network.encode(&images, Mode::Train);
            let decoded = network.decode(&latents, Mode::Train);
            assert_eq!(decoded.size(), [2, 6, 12, 10]);
            variables.bfloat16();
            let half = network.encode(&images.to_kind(Kind::BFloat16), Mode::Train);
            assert_eq!(half.kind(), Kind::BFloat16);
            assert!(cosine(&encoded, &half) > 0.99, "{config:?}");
            let half = network.decode(&latents.to_kind(Kind::BFloat16), Mode::Train);
            assert_eq!(half.kind(), Kind::BFloat16);
            assert!(cosine(&decoded, &half) > 0.99, "{config:?}");
        }
    }
}
