//! `network.conv`: the small convolutional network of the Keras tutorials, for any image size.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::bridge::{FromLatents, ToPosterior};
use super::layers::{Conv, ConvSizes, ConvTranspose, Layer, NextActivation, shrunk};
use super::ops::{Activation, Ops};
use super::spectral_norm::NormalizedLayer;
use super::{LARGEST_DEPTH, LARGEST_SIZE, Layered, NetworkShape, check_sizes};
use crate::{ModelError, nn};

/// The default sizes are those of the small MNIST network.
///
/// Encoder: 3×3 convolutions with ReLU, a fully connected layer with ReLU, the posterior's
/// parameters. Decoder: a fully connected layer with ReLU up to the encoder's last feature map,
/// 3×3 transposed convolutions with ReLU, a 3×3 convolution to the likelihood's parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConvConfig {
    /// Channels of the encoder's convolutions, one number for each layer, from the image inwards.
    /// Default `[32, 64, 64, 64]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub channels: Vec<i64>,
    /// Strides of the encoder's convolutions, as many as `channels`; a stride of s turns n pixels into
    /// ⌈n/s⌉. Default `[1, 2, 1, 1]`.
    #[schemars(length(max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub strides: Vec<i64>,
    /// Width of the fully connected layer between the convolutions and the posterior's parameters.
    /// Default 32.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub hidden: i64,
    /// Channels of the decoder's transposed convolutions, one number for each layer, from the latents
    /// outwards. Default `[32]`.
    #[schemars(length(max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub decoder_channels: Vec<i64>,
    /// Strides of the decoder's transposed convolutions, as many as `decoder_channels`. Those above 1
    /// must be the encoder's in reverse. Default `[2]`.
    #[schemars(length(max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub decoder_strides: Vec<i64>,
}

impl Default for ConvConfig {
    fn default() -> Self {
        Self {
            channels: vec![32, 64, 64, 64],
            strides: vec![1, 2, 1, 1],
            hidden: 32,
            decoder_channels: vec![32],
            decoder_strides: vec![2],
        }
    }
}

impl ConvConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let key = |name: &str| format!("model.network.conv.{name}");
        for (name, sizes) in [
            ("channels", &self.channels),
            ("strides", &self.strides),
            ("decoder_channels", &self.decoder_channels),
            ("decoder_strides", &self.decoder_strides),
        ] {
            check_sizes(&key(name), sizes)?;
        }
        check_sizes(&key("hidden"), &[self.hidden])?;
        if self.channels.is_empty() {
            return Err(ModelError::config(
                key("channels"),
                "found none, expected at least one convolution",
            ));
        }
        for (name, strides, channels) in [
            ("strides", &self.strides, &self.channels),
            (
                "decoder_strides",
                &self.decoder_strides,
                &self.decoder_channels,
            ),
        ] {
            if strides.len() != channels.len() {
                return Err(ModelError::config(
                    key(name),
                    format!(
                        "found {} strides for {} layers, expected one for each",
                        strides.len(),
                        channels.len()
                    ),
                ));
            }
        }
        let down: Vec<i64> = self
            .strides
            .iter()
            .rev()
            .copied()
            .filter(|&s| s > 1)
            .collect();
        let up: Vec<i64> = self
            .decoder_strides
            .iter()
            .copied()
            .filter(|&s| s > 1)
            .collect();
        if down != up {
            return Err(ModelError::config(
                key("decoder_strides"),
                format!(
                    "strides above 1 are {up:?}, the encoder's in reverse are {down:?}; \
                     they must agree for the decoder to reach the image's size"
                ),
            ));
        }
        Ok(())
    }

    /// The size of the encoder's last maps.
    pub(super) fn last_map(&self, size: [i64; 2]) -> [i64; 2] {
        self.strides
            .iter()
            .fold(size, |size, &stride| shrunk(size, stride))
    }

    pub(super) fn build(&self, root: &nn::Path, shape: NetworkShape) -> ConvNetwork {
        let init = shape.initialization;

        let path = root / "encoder";
        let mut convolutions = Vec::new();
        let mut n_channels = shape.encoder_channels();
        let mut size = [shape.image.height, shape.image.width];
        // Sizes before each strided convolution: the decoder has to return to them.
        let mut sizes_before_shrinking = Vec::new();
        for (i, (&n_out, &stride)) in self.channels.iter().zip(&self.strides).enumerate() {
            convolutions.push(init.conv(
                &path / "conv" / i,
                ConvSizes::three(n_channels, n_out, stride),
                NextActivation::Relu,
            ));
            if stride > 1 {
                sizes_before_shrinking.push(size);
            }
            size = shrunk(size, stride);
            n_channels = n_out;
        }
        let last_map = [n_channels, size[0], size[1]];
        let encoder = Encoder {
            convolutions,
            posterior: ToPosterior::build(&path, shape, last_map, Some(self.hidden)),
        };

        let path = root / "decoder";
        let init = shape.decoder_layers();
        let latents = FromLatents::build(&path, shape, last_map, NextActivation::Relu);
        let mut convolutions = Vec::new();
        for (i, (&n_out, &stride)) in self
            .decoder_channels
            .iter()
            .zip(&self.decoder_strides)
            .enumerate()
        {
            let target = match stride {
                1 => size,
                _ => sizes_before_shrinking.pop().unwrap_or(size),
            };
            let path = &path / "conv" / i;
            convolutions.push(init.conv_transpose(
                path,
                ConvSizes::three(n_channels, n_out, stride),
                [size, target],
                NextActivation::Relu,
            ));
            size = target;
            n_channels = n_out;
        }
        let n_out = shape.n_likelihood_maps;
        let output = shape.to_likelihood();
        let decoder = Decoder {
            latents,
            convolutions,
            likelihood: init.conv(
                &path / "likelihood",
                ConvSizes::three(n_channels, n_out, 1),
                output,
            ),
        };
        ConvNetwork { encoder, decoder }
    }
}

#[derive(Debug)]
pub(super) struct ConvNetwork {
    encoder: Encoder,
    decoder: Decoder,
}

#[derive(Debug)]
struct Encoder {
    convolutions: Vec<Layer<Conv>>,
    posterior: ToPosterior,
}

#[derive(Debug)]
struct Decoder {
    latents: FromLatents,
    convolutions: Vec<NormalizedLayer<ConvTranspose>>,
    likelihood: NormalizedLayer<Conv>,
}

impl Layered for ConvNetwork {
    fn encoder<O: Ops>(&self, ops: &mut O, images: O::Value) -> O::Value {
        let Encoder {
            convolutions,
            posterior,
        } = &self.encoder;
        let mut maps = ops.channels_last(images);
        for convolution in convolutions {
            maps = ops.layer(convolution, maps);
            maps = ops.activation(Activation::Relu, maps); // [B, channels, H/…, W/…]
        }
        posterior.apply(ops, maps) // [B, P]
    }

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value {
        let mut maps = self
            .decoder
            .latents
            .apply(ops, latents, Some(Activation::Relu));
        for convolution in &self.decoder.convolutions {
            maps = ops.layer(convolution, maps);
            maps = ops.activation(Activation::Relu, maps); // [N, channels, …H, …W]
        }
        ops.layer(&self.decoder.likelihood, maps) // [N, L, H, W]
    }

    fn output_weight(&self) -> &Tensor {
        self.decoder.likelihood.weight()
    }
}
