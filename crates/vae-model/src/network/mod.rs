//! Networks: the trainable maps from images to posterior parameters and from latents to
//! likelihood parameters. They know nothing of distributions.

mod bridge;
mod conv;
mod conv1d;
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
pub use conv1d::Conv1dConfig;
pub use layers::{Initialization, is_layer_weight};
pub(crate) use layers::{Layer, Then};
pub use mlp::MlpConfig;
pub use residual::ResidualConfig;

use ops::{Eager, Ops};
use spectral_norm::DecoderLayers;

use crate::graph::{Graph, Value};
use crate::{ImageShape, Mode, ModelError, nn};

/// An encoder and a decoder. Under autocast the outputs may be in half precision.
///
/// Of a model with a condition both get its features, `[N, F]` beside N items or latents: numbers, with
/// those that are unknown 0 and marked (`condition.rs`).
pub trait Network: Debug + Send {
    /// Scaled images `[B, C, H, W]` → posterior parameters `[B, P]`.
    fn encode(&self, images: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor;

    /// Latents `[N, Z]` → likelihood parameters, L maps `[N, L, H, W]`.
    fn decode(&self, latents: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor;
}

/// A network written over the operations that it consists of.
trait Layered: Debug + Send {
    fn encoder<O: Ops>(&self, ops: &mut O, images: O::Value) -> O::Value;

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value;
}

/// A network that can say what it computes.
pub(crate) trait GraphNetwork: Network {
    /// What [`Network::encode`] computes in evaluation.
    fn encoder_graph(&self, graph: &mut Graph, images: Value, features: Option<Value>) -> Value;

    /// What [`Network::decode`] computes in evaluation.
    fn decoder_graph(&self, graph: &mut Graph, latents: Value, features: Option<Value>) -> Value;
}

/// A network behind what brings latents and a condition to it: latents of a map as maps, and a condition as
/// one more channel of the images and as more numbers, or channels, beside the latents.
#[derive(Debug)]
struct Conditioned<N> {
    network: N,
    condition: Option<ConditionMap>,
    n_condition_features: i64,
    latent_shape: Option<[i64; 3]>,
}

impl<N: Layered> Conditioned<N> {
    fn encoder<O: Ops>(
        &self,
        ops: &mut O,
        images: O::Value,
        features: Option<O::Value>,
    ) -> O::Value {
        let images = match (&self.condition, features) {
            (Some(condition), Some(features)) => {
                let map = condition.map(ops, features);
                ops.concat(images, map) // [B, C + 1, H, W]
            }
            _ => images,
        };
        self.network.encoder(ops, images)
    }

    fn decoder<O: Ops>(
        &self,
        ops: &mut O,
        latents: O::Value,
        features: Option<O::Value>,
    ) -> O::Value {
        let (mut latents, mut features) = (latents, features);
        if let Some([channels, height, width]) = self.latent_shape {
            latents = ops.maps(latents, [channels, height, width]);
            // The same at every place.
            features = features.map(|features| {
                let dot = ops.maps(features, [self.n_condition_features, 1, 1]);
                ops.upsample(dot, [height, width])
            });
        }
        let latents = match features {
            Some(features) => ops.concat(latents, features), // [N, Z + F], or [N, C + F, h, w]
            None => latents,
        };
        self.network.decoder(ops, latents)
    }
}

impl<N: Layered> Network for Conditioned<N> {
    fn encode(&self, images: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor {
        let features = features.map(Tensor::shallow_clone);
        self.encoder(&mut Eager(mode), images.shallow_clone(), features)
    }

    fn decode(&self, latents: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor {
        let features = features.map(Tensor::shallow_clone);
        self.decoder(&mut Eager(mode), latents.shallow_clone(), features)
    }
}

impl<N: Layered> GraphNetwork for Conditioned<N> {
    fn encoder_graph(&self, graph: &mut Graph, images: Value, features: Option<Value>) -> Value {
        self.encoder(graph, images, features)
    }

    fn decoder_graph(&self, graph: &mut Graph, latents: Value, features: Option<Value>) -> Value {
        self.decoder(graph, latents, features)
    }
}

/// The features of a condition as a map of the size of an image: what an encoder of images can see.
#[derive(Debug)]
struct ConditionMap {
    layer: Layer<nn::Linear>,
    size: [i64; 2],
}

impl ConditionMap {
    fn build(path: &nn::Path, shape: NetworkShape) -> Option<Self> {
        let ImageShape { height, width, .. } = shape.image;
        let n_features = shape.n_condition_features;
        (n_features > 0).then(|| Self {
            layer: shape.initialization.linear(
                path / "map",
                n_features,
                height * width,
                Then::Linear,
            ),
            size: [height, width],
        })
    }

    /// `[B, F]` → `[B, 1, H, W]`.
    fn map<O: Ops>(&self, ops: &mut O, features: O::Value) -> O::Value {
        let values = ops.layer(&self.layer, features);
        let [height, width] = self.size;
        ops.maps(values, [1, height, width])
    }
}

/// What a network has to fit between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetworkShape {
    pub(crate) image: ImageShape,
    pub(crate) latent_dims: i64,
    /// Of latents that are a map.
    pub(crate) latent_shape: Option<[i64; 3]>,
    /// F, the numbers that say what is known of an item; 0 where there is no condition.
    pub(crate) n_condition_features: i64,
    pub(crate) n_posterior_params: i64,
    /// Maps of likelihood parameters, [`LikelihoodConfig::n_maps`](crate::LikelihoodConfig::n_maps).
    pub(crate) n_likelihood_maps: i64,
    pub(crate) initialization: Initialization,
    pub(crate) decoder_spectral_norm: bool,
}

impl NetworkShape {
    /// Channels that the encoder sees: the image's, and one for the condition.
    fn encoder_channels(self) -> i64 {
        self.image.channels + i64::from(self.n_condition_features > 0)
    }

    /// Numbers that the decoder gets for an image, or of a map for each of its places: its latents, and what
    /// is known of it.
    fn decoder_inputs(self) -> i64 {
        let n_latents = self.latent_shape.map_or(self.latent_dims, |[n, ..]| n);
        n_latents + self.n_condition_features
    }

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
    /// Convolutions along time, for arrays `[C, T]`.
    Conv1d(Conv1dConfig),
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
            Self::Conv1d(config) => config.check(),
            Self::Mlp(config) => config.check(),
        }
    }

    /// The size of the encoder's last maps for images of H×W pixels; none of a network without maps.
    pub(crate) fn last_map(&self, size: [i64; 2]) -> Option<[i64; 2]> {
        match self {
            Self::Conv(config) => Some(config.last_map(size)),
            Self::ConvBatchNorm(config) => Some(config.last_map(size)),
            Self::Residual(config) => Some(config.last_map(size)),
            Self::Conv1d(config) => Some(config.last_map(size)),
            Self::Mlp(_) => None,
        }
    }

    /// Builds a checked network with fresh weights under `encoder` and `decoder` of `root`.
    pub(crate) fn build(&self, root: &nn::Path, shape: NetworkShape) -> Box<dyn GraphNetwork> {
        match self {
            Self::Conv(config) => conditioned(root, shape, config.build(root, shape)),
            Self::ConvBatchNorm(config) => conditioned(root, shape, config.build(root, shape)),
            Self::Residual(config) => conditioned(root, shape, config.build(root, shape)),
            Self::Conv1d(config) => conditioned(root, shape, config.build(root, shape)),
            Self::Mlp(config) => conditioned(root, shape, config.build(root, shape)),
        }
    }
}

fn conditioned<N: Layered + 'static>(
    root: &nn::Path,
    shape: NetworkShape,
    network: N,
) -> Box<dyn GraphNetwork> {
    Box::new(Conditioned {
        network,
        condition: ConditionMap::build(&(root / "condition"), shape),
        n_condition_features: shape.n_condition_features,
        latent_shape: shape.latent_shape,
    })
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
        let shape = NetworkShape {
            image: ImageShape {
                channels: 3,
                height: 12,
                width: 10,
            },
            latent_dims: 4,
            latent_shape: None,
            n_condition_features: 6,
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
            let mut variables = nn::VarStore::new(1);
            let network = config.build(&variables.root(), shape);
            let images = Tensor::arange(2 * 360, (Kind::Float, Device::Cpu)).sin();
            let images = images.view([2, 3, 12, 10]);
            let latents = Tensor::arange(8, (Kind::Float, Device::Cpu))
                .cos()
                .view([2, 4]);
            let features = Tensor::ones([2, 6], (Kind::Float, Device::Cpu));
            let half_features = features.to_kind(Kind::BFloat16);
            let encoded = network.encode(&images, Some(&features), Mode::Train);
            let decoded = network.decode(&latents, Some(&features), Mode::Train);
            assert_eq!(decoded.size(), [2, 6, 12, 10]);
            variables.bfloat16();
            let half = network.encode(
                &images.to_kind(Kind::BFloat16),
                Some(&half_features),
                Mode::Train,
            );
            assert_eq!(half.kind(), Kind::BFloat16);
            assert!(cosine(&encoded, &half) > 0.99, "{config:?}");
            let half = network.decode(
                &latents.to_kind(Kind::BFloat16),
                Some(&half_features),
                Mode::Train,
            );
            assert_eq!(half.kind(), Kind::BFloat16);
            assert!(cosine(&decoded, &half) > 0.99, "{config:?}");
        }
    }
}
