//! `network.autoencoder_tiny`: the small network that stands in for latent diffusion's autoencoders (TAESD).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::bridge::{FromLatents, ToPosterior};
use super::layers::{Conv, ConvSizes, Layer, NextActivation, shrunk};
use super::ops::{Activation, GraphLayer, Ops};
use super::spectral_norm::NormalizedLayer;
use super::{LARGEST_DEPTH, LARGEST_SIZE, Layered, NetworkShape, check_depth, check_sizes};
use crate::{ImageShape, ModelError, nn};

/// The tiny autoencoder for latent diffusion (O. B. Bohan, <https://github.com/madebyollin/taesd>), computed as diffusers'
/// `AutoencoderTiny` does: convolutions of one width with ReLU and no norm. The latents are a map, `latent_shape`; with
/// the posterior `deterministic` the model is TAESD's.
///
/// Encoder: for each stage a 3×3 convolution, of stride 2 in all but the first, and `encoder_blocks` blocks; a 3×3
/// convolution to the posterior's parameters. Decoder: the latents bounded smoothly to ±3; a 3×3 convolution and ReLU;
/// for each stage `decoder_blocks` blocks, nearest-neighbor upsampling in all but the last, and a 3×3 convolution. A block
/// is relu(x + conv(relu(conv(relu(conv(x)))))). Pixels are in `[0, 1]` within the network, so that its images are right
/// with a likelihood of pixels in `[-1, 1]`, such as `gaussian`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AutoencoderTinyConfig {
    /// Channels of all maps. Default 64.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub channels: i64,
    /// Blocks of the encoder's stages, from the image inwards; from one stage to the next n pixels become n/2, so that the
    /// sides of the images have to be multiples of 2 to the power of the number of stages minus one. Default `[1, 3, 3, 3]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_DEPTH)))]
    pub encoder_blocks: Vec<usize>,
    /// Blocks of the decoder's stages, as many as the encoder has, towards the image. Default `[3, 3, 3, 1]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_DEPTH)))]
    pub decoder_blocks: Vec<usize>,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        Self {
            channels: 64,
            encoder_blocks: vec![1, 3, 3, 3],
            decoder_blocks: vec![3, 3, 3, 1],
        }
    }
}

/// The bound of the latents that the decoder sees.
const LATENT_BOUND: f64 = 3.0;

impl AutoencoderTinyConfig {
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let key = |name: &str| format!("model.network.autoencoder_tiny.{name}");
        check_sizes(&key("channels"), &[self.channels])?;
        let (n_down, n_up) = (self.encoder_blocks.len(), self.decoder_blocks.len());
        check_depth(&key("encoder_blocks"), n_down as i64)?;
        for (name, blocks) in [
            ("encoder_blocks", &self.encoder_blocks),
            ("decoder_blocks", &self.decoder_blocks),
        ] {
            for &n in blocks {
                check_depth(&key(name), n as i64)?;
            }
        }
        match n_down == n_up {
            true => Ok(()),
            false => Err(ModelError::config(
                key("decoder_blocks"),
                format!("found {n_up} stages, and the encoder has {n_down}: as many would fit"),
            )),
        }
    }

    /// Refuses images that would not come back in their size.
    pub(crate) fn check_image(&self, image: ImageShape) -> Result<(), ModelError> {
        let factor = 1 << (self.encoder_blocks.len() - 1).min(62);
        super::check_multiples("autoencoder_tiny.encoder_blocks", image, factor)
    }

    /// The size of the encoder's last maps.
    pub(super) fn last_map(&self, size: [i64; 2]) -> [i64; 2] {
        let halvings = self.encoder_blocks.iter().skip(1);
        halvings.fold(size, |size, _| shrunk(size, 2))
    }

    pub(super) fn build(&self, root: &nn::Path, shape: NetworkShape) -> AutoencoderTiny {
        let channels = self.channels;
        let [height, width] = self.last_map([shape.image.height, shape.image.width]);
        let last_map = [channels, height, width];

        let path = root / "encoder";
        let init = shape.initialization;
        let conv = |path: nn::Path, sizes, next| init.conv(path, sizes, next);
        let down = self.encoder_blocks.iter().enumerate().map(|(i, &n)| {
            let path = &path / i;
            let sizes = match i {
                0 => ConvSizes::three(shape.encoder_channels(), channels, 1),
                _ => ConvSizes::three(channels, channels, 2).unbiased(),
            };
            DownStage {
                convolution: init.conv(&path / "conv", sizes, NextActivation::Linear),
                blocks: blocks(&path, channels, n, &conv),
            }
        });
        let down = down.collect();
        let posterior = ToPosterior::build(&path, shape, last_map, None);

        let path = root / "decoder";
        let layers = shape.decoder_layers();
        let conv = |path: nn::Path, sizes, next| layers.conv(path, sizes, next);
        let latents = FromLatents::build(&path, shape, last_map, NextActivation::Relu);
        let n_stages = self.decoder_blocks.len();
        let up = self.decoder_blocks.iter().enumerate().map(|(i, &n)| {
            let stage = &path / i;
            let is_last = i + 1 == n_stages;
            let convolution = match is_last {
                true => layers.conv(
                    &path / "likelihood",
                    ConvSizes::three(channels, shape.n_likelihood_maps, 1),
                    shape.to_likelihood(),
                ),
                false => layers.conv(
                    &stage / "conv",
                    ConvSizes::three(channels, channels, 1).unbiased(),
                    NextActivation::Linear,
                ),
            };
            UpStage {
                blocks: blocks(&stage, channels, n, &conv),
                size: (!is_last).then(|| [height << (i + 1), width << (i + 1)]),
                convolution,
            }
        });
        let up = up.collect();
        AutoencoderTiny {
            down,
            posterior,
            latents,
            up,
        }
    }
}

fn blocks<C>(
    path: &nn::Path,
    channels: i64,
    n: usize,
    conv: &impl Fn(nn::Path, ConvSizes, NextActivation) -> C,
) -> Vec<Block<C>> {
    let block = |i: usize| {
        let path = path / "block" / i;
        let layer = |i: usize| {
            let next = match i {
                2 => NextActivation::Sum,
                _ => NextActivation::Relu,
            };
            conv(
                &path / "conv" / i,
                ConvSizes::three(channels, channels, 1),
                next,
            )
        };
        Block([layer(0), layer(1), layer(2)])
    };
    (0..n).map(block).collect()
}

#[derive(Debug)]
pub(super) struct AutoencoderTiny {
    down: Vec<DownStage>,
    posterior: ToPosterior,
    latents: FromLatents,
    up: Vec<UpStage>,
}

#[derive(Debug)]
struct DownStage {
    convolution: Layer<Conv>,
    blocks: Vec<Block<Layer<Conv>>>,
}

#[derive(Debug)]
struct UpStage {
    blocks: Vec<Block<NormalizedLayer<Conv>>>,
    /// What the maps are enlarged to; `None` in the last stage.
    size: Option<[i64; 2]>,
    convolution: NormalizedLayer<Conv>,
}

#[derive(Debug)]
struct Block<C>([C; 3]);

impl<C: GraphLayer> Block<C> {
    fn apply<O: Ops>(&self, ops: &mut O, maps: O::Value) -> O::Value {
        let [first, second, third] = &self.0;
        let shared = ops.share(&maps);
        let around = ops.layer(first, shared);
        let around = ops.activation(Activation::Relu, around);
        let around = ops.layer(second, around);
        let around = ops.activation(Activation::Relu, around);
        let around = ops.layer(third, around);
        let sum = ops.sum(around, maps);
        ops.activation(Activation::Relu, sum)
    }
}

impl Layered for AutoencoderTiny {
    fn encoder<O: Ops>(&self, ops: &mut O, images: O::Value) -> O::Value {
        let maps = ops.channels_last(images);
        let mut maps = ops.affine(maps, 0.5, 0.5);
        for stage in &self.down {
            maps = ops.layer(&stage.convolution, maps); // [B, C, H/…, W/…]
            for block in &stage.blocks {
                maps = block.apply(ops, maps);
            }
        }
        self.posterior.apply(ops, maps) // [B, P]
    }

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value {
        let latents = ops.affine(latents, 1.0 / LATENT_BOUND, 0.0);
        let latents = ops.activation(Activation::Tanh, latents);
        let latents = ops.affine(latents, LATENT_BOUND, 0.0);
        let mut maps = self.latents.apply(ops, latents, Some(Activation::Relu));
        for stage in &self.up {
            for block in &stage.blocks {
                maps = block.apply(ops, maps);
            }
            if let Some(size) = stage.size {
                maps = ops.upsample(maps, size); // [N, C, …H, …W]
            }
            maps = ops.layer(&stage.convolution, maps);
        }
        ops.affine(maps, 2.0, -1.0) // [N, L·C, H, W]
    }

    fn output_weight(&self) -> &Tensor {
        self.up[self.up.len() - 1].convolution.weight()
    }
}
