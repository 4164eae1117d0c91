//! `network.conv_batch_norm`: strided convolutions with batch norm, the usual small network for
//! faces.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::bridge::{FromLatents, ToPosterior};
use super::layers::{BatchNorm, Conv, ConvSizes, ConvTranspose, Layer, NextActivation, shrunk};
use super::ops::{Activation, Ops};
use super::spectral_norm::NormalizedLayer;
use super::{LARGEST_DEPTH, LARGEST_SIZE, Layered, NetworkShape, check_sizes};
use crate::{ModelError, nn};

/// The default sizes are for faces of 64×64 pixels.
///
/// Encoder: for each of `channels` a 3×3 convolution of stride 2, batch norm and leaky ReLU (slope 0.01), then the
/// posterior's parameters. Decoder: a fully connected layer up to the encoder's last map, the encoder's layers mirrored
/// as transposed convolutions, a 3×3 convolution to the likelihood's parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConvBatchNormConfig {
    /// Channels of the encoder's convolutions, one number for each layer, from the image inwards; each
    /// turns n pixels into ⌈n/2⌉. Default `[32, 64, 128, 256, 512]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub channels: Vec<i64>,
}

impl Default for ConvBatchNormConfig {
    fn default() -> Self {
        Self {
            channels: vec![32, 64, 128, 256, 512],
        }
    }
}

impl ConvBatchNormConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let key = "model.network.conv_batch_norm.channels";
        check_sizes(key, &self.channels)?;
        if self.channels.is_empty() {
            return Err(ModelError::config(
                key,
                "found none, expected at least one convolution",
            ));
        }
        Ok(())
    }

    /// The size of the encoder's last maps.
    pub(super) fn last_map(&self, size: [i64; 2]) -> [i64; 2] {
        self.channels.iter().fold(size, |size, _| shrunk(size, 2))
    }

    pub(super) fn build(&self, root: &nn::Path, shape: NetworkShape) -> ConvBatchNorm {
        const STRIDE: i64 = 2;
        let init = shape.initialization;

        let path = root / "encoder";
        let mut sizes = vec![[shape.image.height, shape.image.width]];
        let mut n_channels = shape.encoder_channels();
        let mut down = Vec::new();
        for (i, &n_out) in self.channels.iter().enumerate() {
            let conv_sizes = ConvSizes::three(n_channels, n_out, STRIDE);
            down.push(Stage {
                convolution: init.conv(&path / "conv" / i, conv_sizes, NextActivation::BatchNorm),
                norm: BatchNorm::new(&(&path / "norm" / i), n_out),
            });
            sizes.push(shrunk(sizes[i], STRIDE));
            n_channels = n_out;
        }
        let [height, width] = sizes[self.channels.len()];
        let last_map = [n_channels, height, width];
        let posterior = ToPosterior::build(&path, shape, last_map, None);

        let path = root / "decoder";
        let init = shape.decoder_layers();
        let latents = FromLatents::build(&path, shape, last_map, NextActivation::Linear);
        let mut up = Vec::new();
        // The encoder's channels in reverse; the last map, at the image's size, has as many channels as the one before
        // it.
        let (first, rest) = (self.channels[0], &self.channels[..self.channels.len() - 1]);
        for (i, &n_out) in rest.iter().rev().chain([&first]).enumerate() {
            let from = self.channels.len() - i;
            let conv_sizes = ConvSizes::three(n_channels, n_out, STRIDE);
            up.push(Stage {
                convolution: init.conv_transpose(
                    &path / "conv" / i,
                    conv_sizes,
                    [sizes[from], sizes[from - 1]],
                    NextActivation::BatchNorm,
                ),
                norm: BatchNorm::new(&(&path / "norm" / i), n_out),
            });
            n_channels = n_out;
        }
        let n_out = shape.n_likelihood_maps;
        let to_likelihood = shape.to_likelihood();
        ConvBatchNorm {
            down,
            posterior,
            latents,
            up,
            likelihood: init.conv(
                &path / "likelihood",
                ConvSizes::three(n_channels, n_out, 1),
                to_likelihood,
            ),
        }
    }
}

#[derive(Debug)]
pub(super) struct ConvBatchNorm {
    down: Vec<Stage<Layer<Conv>>>,
    posterior: ToPosterior,
    latents: FromLatents,
    up: Vec<Stage<NormalizedLayer<ConvTranspose>>>,
    likelihood: NormalizedLayer<Conv>,
}

/// A convolution, batch norm and leaky ReLU.
#[derive(Debug)]
struct Stage<C> {
    convolution: C,
    norm: BatchNorm,
}

impl Stage<Layer<Conv>> {
    fn down<O: Ops>(&self, ops: &mut O, maps: O::Value) -> O::Value {
        let maps = ops.layer(&self.convolution, maps);
        let maps = ops.layer(&self.norm, maps);
        ops.activation(Activation::LeakyRelu, maps)
    }
}

impl Stage<NormalizedLayer<ConvTranspose>> {
    fn up<O: Ops>(&self, ops: &mut O, maps: O::Value) -> O::Value {
        let maps = ops.normalized(&self.convolution, &self.norm, maps);
        ops.activation(Activation::LeakyRelu, maps)
    }
}

impl Layered for ConvBatchNorm {
    fn encoder<O: Ops>(&self, ops: &mut O, images: O::Value) -> O::Value {
        let mut maps = ops.channels_last(images);
        for stage in &self.down {
            maps = stage.down(ops, maps); // [B, channels, H/…, W/…]
        }
        self.posterior.apply(ops, maps) // [B, P]
    }

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value {
        let mut maps = self.latents.apply(ops, latents, None);
        for stage in &self.up {
            maps = stage.up(ops, maps); // [N, channels, …H, …W]
        }
        ops.layer(&self.likelihood, maps) // [N, L·C, H, W]
    }

    fn output_weight(&self) -> &Tensor {
        self.likelihood.weight()
    }
}
