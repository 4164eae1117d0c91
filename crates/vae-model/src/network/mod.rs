//! Networks: the trainable maps from images to posterior parameters and from latents to likelihood parameters. They do
//! not depend on the distributions.

mod autoencoder_kl;
mod autoencoder_tiny;
mod bridge;
mod conv;
mod conv1d;
mod conv_batch_norm;
mod dcgan;
mod discriminator;
pub(crate) mod layers;
mod mlp;
pub(crate) mod ops;
mod recurrent;
mod residual;
mod sequence;
mod spectral_norm;
mod top_down;
mod transformer;

use std::cell::Cell;
use std::fmt::Debug;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

pub use autoencoder_kl::AutoencoderKlConfig;
pub use autoencoder_tiny::AutoencoderTinyConfig;
pub use conv::ConvConfig;
pub use conv_batch_norm::ConvBatchNormConfig;
pub use conv1d::Conv1dConfig;
pub use dcgan::DcganConfig;
pub use discriminator::{
    ConvDiscriminatorConfig, DiscriminatorConfig, DiscriminatorNorm, Judgement,
    MlpDiscriminatorConfig, ResidualDiscriminatorConfig,
};
pub(crate) use discriminator::{Discriminator, DiscriminatorShape, LeakyMlp};
pub use layers::{Initialization, is_layer_weight};
pub(crate) use layers::{Layer, NextActivation};
pub use mlp::MlpConfig;
pub use recurrent::{ConductorConfig, RecurrentConfig};
pub use residual::ResidualConfig;
pub(crate) use sequence::TokenShape;
pub use sequence::{DecoderSteps, SequentialDecoder};
pub use top_down::TopDownConfig;
pub(crate) use top_down::{Group, Reach, TopDownPath};
pub use transformer::TransformerConfig;

use ops::{Eager, Ops};
use spectral_norm::NormalizedLayers;

use crate::graph::{Graph, Value};
use crate::{ImageShape, Mode, ModelError, nn};

/// An encoder and a decoder. Under autocast the outputs may be in half precision.
///
/// In a model with a condition both also get its features, `[N, F]` for N items or latents: the values, with 0 for
/// unknown ones, and whether each is unknown (`condition.rs`).
pub trait Network: Debug + Send {
    /// Scaled images `[B, C, H, W]` → posterior parameters `[B, P]`.
    fn encode(&self, images: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor;

    /// Latents `[N, Z]` → likelihood parameters, L maps `[N, L, H, W]`. Of a [`Self::sequential`] decoder they are those of
    /// the item whose every value is the most likely one after those before it.
    fn decode(&self, latents: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor;

    /// The decoder, if its parameters of a value depend on the values before it. Items are then scored given themselves, and
    /// drawn value by value.
    fn sequential(&self) -> Option<&dyn SequentialDecoder> {
        None
    }

    /// The weight of the decoder's last layer, at which the adaptive weight of `objective.adversarial` compares
    /// gradients; without one that weight is 1.
    fn output_weight(&self) -> Option<Tensor> {
        None
    }

    /// Sets whether training computes the network's blocks again in the backward pass, for less memory. Returns whether it
    /// has blocks that can be.
    fn recompute(&self, _recomputes: bool) -> bool {
        false
    }
}

/// A network as a sequence of generic operations ([`Ops`]).
trait Layered: Debug + Send {
    fn encoder<O: Ops>(&self, ops: &mut O, images: O::Value) -> O::Value;

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value;

    /// The weight of the decoder's last layer.
    fn output_weight(&self) -> &Tensor;

    /// Whether it consists of [`ops::Segment`]s.
    fn has_segments(&self) -> bool {
        false
    }
}

/// A network that may also describe its computation as a graph.
pub(crate) trait GraphNetwork: Network {
    /// The operations of [`Network::encode`] in evaluation; `None` without a graph.
    fn encoder_graph(
        &self,
        graph: &mut Graph,
        images: Value,
        features: Option<Value>,
    ) -> Option<Value>;

    /// The operations of [`Network::decode`] in evaluation; `None` without a graph.
    fn decoder_graph(
        &self,
        graph: &mut Graph,
        latents: Value,
        features: Option<Value>,
    ) -> Option<Value>;
}

/// A network together with its inputs for a condition and for latents that are a map. The condition is a further
/// channel of the images, and further values, or channels, of the latents.
#[derive(Debug)]
struct Conditioned<N> {
    network: N,
    condition: Option<ConditionMap>,
    n_condition_features: i64,
    latent_shape: Option<[i64; 3]>,
    is_pyramid: bool,
    recomputes: Cell<bool>,
}

impl<N: Layered> Conditioned<N> {
    fn eager(&self, mode: Mode) -> Eager {
        Eager {
            mode,
            recomputes: self.recomputes.get() && mode == Mode::Train,
        }
    }

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
            latents = match self.is_pyramid {
                true => {
                    let [_, rows, columns] = upper_map([channels, height, width]);
                    let n_upper = channels * rows * columns;
                    let upper = ops.narrow(&latents, 0, n_upper);
                    let lower = ops.narrow(&latents, n_upper, channels * height * width);
                    let upper = ops.maps(upper, [channels, rows, columns]);
                    let upper = ops.upsample(upper, [height, width]);
                    let lower = ops.maps(lower, [channels, height, width]);
                    ops.concat(upper, lower) // [N, 2·C, h, w]
                }
                false => ops.maps(latents, [channels, height, width]),
            };
            // The same values at every place.
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
        self.encoder(&mut self.eager(mode), images.shallow_clone(), features)
    }

    fn decode(&self, latents: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor {
        let features = features.map(Tensor::shallow_clone);
        self.decoder(&mut self.eager(mode), latents.shallow_clone(), features)
    }

    fn output_weight(&self) -> Option<Tensor> {
        Some(self.network.output_weight().shallow_clone())
    }

    fn recompute(&self, recomputes: bool) -> bool {
        self.recomputes.set(recomputes);
        self.network.has_segments()
    }
}

impl<N: Layered> GraphNetwork for Conditioned<N> {
    fn encoder_graph(
        &self,
        graph: &mut Graph,
        images: Value,
        features: Option<Value>,
    ) -> Option<Value> {
        Some(self.encoder(graph, images, features))
    }

    fn decoder_graph(
        &self,
        graph: &mut Graph,
        latents: Value,
        features: Option<Value>,
    ) -> Option<Value> {
        Some(self.decoder(graph, latents, features))
    }
}

/// Turns the features of a condition into a map of the image's size, which an image encoder can take.
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
                NextActivation::Linear,
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

/// The shapes between which a network has to fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetworkShape {
    pub(crate) image: ImageShape,
    /// The vocabulary of items that are tokens.
    pub(crate) tokens: Option<TokenShape>,
    pub(crate) latent_dims: i64,
    /// The shape of latents that are a map.
    pub(crate) latent_shape: Option<[i64; 3]>,
    /// Whether there is a second map above it, of half its size.
    pub(crate) is_pyramid: bool,
    /// F, the number of a condition's features; 0 without a condition.
    pub(crate) n_condition_features: i64,
    pub(crate) n_posterior_params: i64,
    /// Maps of likelihood parameters, [`LikelihoodConfig::n_maps`](crate::LikelihoodConfig::n_maps).
    pub(crate) n_likelihood_maps: i64,
    pub(crate) initialization: Initialization,
    pub(crate) decoder_spectral_norm: bool,
}

impl NetworkShape {
    /// Channels that the encoder gets: the image's, and one for the condition.
    fn encoder_channels(self) -> i64 {
        self.image.channels + i64::from(self.n_condition_features > 0)
    }

    /// Values that the decoder gets for an image, or for each place of a latent map: its latents and the features of
    /// the condition.
    fn decoder_inputs(self) -> i64 {
        let n_latents = match self.latent_shape {
            Some([channels, ..]) if self.is_pyramid => 2 * channels,
            Some([channels, ..]) => channels,
            None => self.latent_dims,
        };
        n_latents + self.n_condition_features
    }

    /// The vocabulary; of items that are no tokens, which the checks refuse, a vocabulary of one.
    fn vocabulary(self) -> TokenShape {
        self.tokens.unwrap_or(TokenShape {
            vocabulary: 1,
            end: None,
        })
    }

    fn decoder_layers(self) -> NormalizedLayers {
        NormalizedLayers {
            initialization: self.initialization,
            spectral_norm: self.decoder_spectral_norm,
        }
    }

    /// What follows the encoder's last layer.
    fn to_posterior(self) -> NextActivation {
        NextActivation::Output {
            n_params: self.n_posterior_params / self.latent_dims,
        }
    }

    /// What follows the decoder's last layer. Parameters of a whole pixel, which some likelihoods have besides those of
    /// each value, are ignored: the number for each value is rounded down.
    fn to_likelihood(self) -> NextActivation {
        NextActivation::Output {
            n_params: self.n_likelihood_maps / self.image.channels,
        }
    }
}

/// The layers of encoder and decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NetworkConfig {
    /// Convolutions and transposed convolutions.
    Conv(ConvConfig),
    /// Convolutions that halve the image, each followed by batch norm.
    ConvBatchNorm(ConvBatchNormConfig),
    /// The generator of a GAN: transposed convolutions with batch norm that end at the image.
    Dcgan(DcganConfig),
    /// Residual blocks with group norm.
    Residual(ResidualConfig),
    /// The network of latent diffusion's autoencoders, `AutoencoderKL`.
    AutoencoderKl(AutoencoderKlConfig),
    /// A small network of one width that stands in for `AutoencoderKL`, `AutoencoderTiny`.
    AutoencoderTiny(AutoencoderTinyConfig),
    /// Convolutions along time, for arrays `[C, T]`.
    Conv1d(Conv1dConfig),
    /// Fully connected layers.
    Mlp(MlpConfig),
    /// A deep hierarchy of latent maps: the network says which latents there are.
    TopDown(TopDownConfig),
    /// LSTMs, for texts and other sequences of tokens.
    Recurrent(RecurrentConfig),
    /// Attention, for texts and other sequences of tokens.
    Transformer(TransformerConfig),
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
            Self::Dcgan(config) => config.check(),
            Self::Residual(config) => config.check(),
            Self::AutoencoderKl(config) => config.check(),
            Self::AutoencoderTiny(config) => config.check(),
            Self::Conv1d(config) => config.check(),
            Self::Mlp(config) => config.check(),
            Self::TopDown(config) => config.check(),
            Self::Recurrent(config) => config.check(),
            Self::Transformer(config) => config.check(),
        }
    }

    /// Whether it is for sequences of tokens, and for nothing else.
    pub(crate) fn is_sequential(&self) -> bool {
        matches!(self, Self::Recurrent(_) | Self::Transformer(_))
    }

    /// Whether its decoder ignores the latents.
    #[must_use]
    pub fn is_without_latents(&self) -> bool {
        match self {
            Self::Recurrent(config) => config.without_latents,
            Self::Transformer(config) => config.without_latents,
            _ => false,
        }
    }

    /// Its name in a config.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Conv(_) => "conv",
            Self::ConvBatchNorm(_) => "conv_batch_norm",
            Self::Dcgan(_) => "dcgan",
            Self::Residual(_) => "residual",
            Self::AutoencoderKl(_) => "autoencoder_kl",
            Self::AutoencoderTiny(_) => "autoencoder_tiny",
            Self::Conv1d(_) => "conv1d",
            Self::Mlp(_) => "mlp",
            Self::TopDown(_) => "top_down",
            Self::Recurrent(_) => "recurrent",
            Self::Transformer(_) => "transformer",
        }
    }

    /// The size of the encoder's last maps for images of H×W pixels; `None` for a network without maps.
    pub(crate) fn last_map(&self, size: [i64; 2]) -> Option<[i64; 2]> {
        match self {
            Self::Conv(config) => Some(config.last_map(size)),
            Self::ConvBatchNorm(config) => Some(config.last_map(size)),
            Self::Dcgan(config) => Some(config.last_map(size)),
            Self::Residual(config) => Some(config.last_map(size)),
            Self::AutoencoderKl(config) => Some(config.last_map(size)),
            Self::AutoencoderTiny(config) => Some(config.last_map(size)),
            Self::Conv1d(config) => Some(config.last_map(size)),
            Self::Mlp(_) | Self::TopDown(_) | Self::Recurrent(_) | Self::Transformer(_) => None,
        }
    }

    /// Its name, if it has batch norm, which makes the images of a batch depend on each other.
    pub(crate) fn batch_norm(&self) -> Option<&'static str> {
        match self {
            Self::ConvBatchNorm(_) => Some("conv_batch_norm"),
            Self::Dcgan(_) => Some("dcgan"),
            Self::Conv(_)
            | Self::Residual(_)
            | Self::AutoencoderKl(_)
            | Self::AutoencoderTiny(_)
            | Self::Conv1d(_)
            | Self::Mlp(_)
            | Self::TopDown(_)
            | Self::Recurrent(_)
            | Self::Transformer(_) => None,
        }
    }

    /// The hierarchy of a network that says which latents there are.
    pub(crate) fn top_down(&self) -> Option<&TopDownConfig> {
        match self {
            Self::TopDown(config) => Some(config),
            _ => None,
        }
    }

    /// Builds a network from a checked config, with fresh weights under `encoder` and `decoder` of `root`.
    pub(crate) fn build(&self, root: &nn::Path, shape: NetworkShape) -> Box<dyn GraphNetwork> {
        match self {
            Self::Conv(config) => conditioned(root, shape, config.build(root, shape)),
            Self::ConvBatchNorm(config) => conditioned(root, shape, config.build(root, shape)),
            Self::Dcgan(config) => conditioned(root, shape, config.build(root, shape)),
            Self::Residual(config) => conditioned(root, shape, config.build(root, shape)),
            Self::AutoencoderKl(config) => conditioned(root, shape, config.build(root, shape)),
            Self::AutoencoderTiny(config) => conditioned(root, shape, config.build(root, shape)),
            Self::Conv1d(config) => conditioned(root, shape, config.build(root, shape)),
            Self::Mlp(config) => conditioned(root, shape, config.build(root, shape)),
            Self::TopDown(config) => Box::new(config.build(root, shape)),
            Self::Recurrent(config) => {
                let network = config.build(root, shape, shape.vocabulary());
                Box::new(WithoutGraph(network))
            }
            Self::Transformer(config) => {
                let network = config.build(root, shape, shape.vocabulary());
                Box::new(WithoutGraph(network))
            }
        }
    }
}

/// A network that does not describe its computation as a graph.
#[derive(Debug)]
struct WithoutGraph<N>(N);

impl<N: Network> Network for WithoutGraph<N> {
    fn encode(&self, images: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor {
        self.0.encode(images, features, mode)
    }

    fn decode(&self, latents: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor {
        self.0.decode(latents, features, mode)
    }

    fn sequential(&self) -> Option<&dyn SequentialDecoder> {
        self.0.sequential()
    }

    fn output_weight(&self) -> Option<Tensor> {
        self.0.output_weight()
    }
}

impl<N: Network> GraphNetwork for WithoutGraph<N> {
    fn encoder_graph(&self, _: &mut Graph, _: Value, _: Option<Value>) -> Option<Value> {
        None
    }

    fn decoder_graph(&self, _: &mut Graph, _: Value, _: Option<Value>) -> Option<Value> {
        None
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
        is_pyramid: shape.is_pyramid,
        recomputes: Cell::new(false),
    })
}

/// The upper map of a pyramid, for the shape `[C, h, w]` of the lower one.
pub(crate) fn upper_map([channels, height, width]: [i64; 3]) -> [i64; 3] {
    [channels, (height + 1) / 2, (width + 1) / 2]
}

/// The largest size of a layer. Larger ones are surely mistakes, and no memory would suffice.
pub(crate) const LARGEST_SIZE: i64 = 1 << 20;

/// The largest number of layers, flows or blocks in sequence.
pub(crate) const LARGEST_DEPTH: usize = 256;

/// Refuses a list of layer sizes if one of them is below 1 or above [`LARGEST_SIZE`].
pub(crate) fn check_sizes(key: &str, sizes: &[i64]) -> Result<(), ModelError> {
    if sizes.len() > LARGEST_DEPTH {
        let n = sizes.len();
        let problem = format!("found {n} numbers, expected at most {LARGEST_DEPTH}");
        return Err(ModelError::config(key, problem));
    }
    match sizes
        .iter()
        .find(|&size| !(1..=LARGEST_SIZE).contains(size))
    {
        Some(size) => Err(ModelError::config(
            key,
            format!("found {size}, expected a number from 1 to {LARGEST_SIZE}"),
        )),
        None => Ok(()),
    }
}

/// Refuses images whose sides are no multiples of `factor`, that the network of `key` halves and doubles.
fn check_multiples(key: &str, image: ImageShape, factor: i64) -> Result<(), ModelError> {
    match [image.height, image.width]
        .iter()
        .all(|side| side % factor == 0)
    {
        true => Ok(()),
        false => Err(ModelError::config(
            format!("model.network.{key}"),
            format!(
                "its stages need sides that are multiples of {factor}, found images of {image}: another image_size \
                 or fewer stages would fit"
            ),
        )),
    }
}

/// Refuses a number of layers below 1 or above [`LARGEST_DEPTH`].
pub(crate) fn check_depth(key: &str, n: i64) -> Result<(), ModelError> {
    if (1..=LARGEST_DEPTH as i64).contains(&n) {
        return Ok(());
    }
    Err(ModelError::config(
        key,
        format!("found {n}, expected a number from 1 to {LARGEST_DEPTH}"),
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
            NetworkConfig::Dcgan(DcganConfig {
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
            tokens: None,
            latent_dims: 4,
            latent_shape: None,
            is_pyramid: false,
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
