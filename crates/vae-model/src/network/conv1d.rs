//! `network.conv1d`: convolutions along time, for series.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::bridge::{FromLatents, ToPosterior};
use super::layers::{Conv, ConvSizes, Layer, NextActivation, shrunk};
use super::ops::{Activation, Ops};
use super::spectral_norm::NormalizedLayer;
use super::{LARGEST_DEPTH, LARGEST_SIZE, Layered, NetworkShape, check_sizes};
use crate::{ModelError, nn};

/// For arrays `[C, T]`, or `[D]` as one channel.
///
/// Encoder: convolutions along time with ReLU, a fully connected layer with ReLU, the posterior's parameters. Decoder:
/// a fully connected layer with ReLU, then for each of the encoder's convolutions, in reverse, nearest-neighbor
/// upsampling to its input length and a convolution with ReLU; a convolution to the likelihood's parameters. Upsampling
/// before convolving avoids checkerboard artifacts (Odena et al. 2016, <https://distill.pub/2016/deconv-checkerboard>).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Conv1dConfig {
    /// Channels of the encoder's convolutions, one number for each layer, from the series inwards. Default
    /// `[32, 64, 64]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub channels: Vec<i64>,
    /// Strides of the encoder's convolutions, as many as `channels`; a stride of s turns T steps into ⌈T/s⌉.
    /// Default `[2, 2, 2]`.
    #[schemars(length(max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub strides: Vec<i64>,
    /// Time steps under a convolution's kernel, an odd number. Default 5.
    #[schemars(range(min = 1, max = MOST_STEPS), extend("not" = {"multipleOf": 2}))]
    pub kernel: i64,
    /// Width of the fully connected layer between the convolutions and the posterior's parameters.
    /// Default 128.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub hidden: i64,
}

/// The longest kernel; longer ones are surely mistakes.
const MOST_STEPS: i64 = 1023;

impl Default for Conv1dConfig {
    fn default() -> Self {
        Self {
            channels: vec![32, 64, 64],
            strides: vec![2, 2, 2],
            kernel: 5,
            hidden: 128,
        }
    }
}

impl Conv1dConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let refuse = |name: &str, problem: String| {
            let key = format!("model.network.conv1d.{name}");
            Err(ModelError::config(key, problem))
        };
        check_sizes("model.network.conv1d.channels", &self.channels)?;
        check_sizes("model.network.conv1d.strides", &self.strides)?;
        check_sizes("model.network.conv1d.hidden", &[self.hidden])?;
        let (n, n_strides) = (self.channels.len(), self.strides.len());
        if n == 0 {
            return refuse(
                "channels",
                "found none, expected at least one convolution".to_owned(),
            );
        }
        if n != n_strides {
            return refuse(
                "strides",
                format!("found {n_strides} strides for {n} layers, expected one for each"),
            );
        }
        let kernel = self.kernel;
        if !(1..=MOST_STEPS).contains(&kernel) || kernel % 2 == 0 {
            return refuse(
                "kernel",
                format!("found {kernel}, expected an odd number from 1 to {MOST_STEPS}"),
            );
        }
        Ok(())
    }

    /// The size of the encoder's last maps.
    pub(super) fn last_map(&self, size: [i64; 2]) -> [i64; 2] {
        self.strides
            .iter()
            .fold(size, |size, &stride| shrunk(size, stride))
    }

    pub(super) fn build(&self, root: &nn::Path, shape: NetworkShape) -> Conv1dNetwork {
        let init = shape.initialization;
        let path = root / "encoder";
        let mut convolutions = Vec::new();
        let mut widths = vec![shape.encoder_channels()];
        let mut sizes = vec![[shape.image.height, shape.image.width]];
        for (i, (&n_out, &stride)) in self.channels.iter().zip(&self.strides).enumerate() {
            let (n_in, size) = (widths[i], sizes[i]);
            let conv = ConvSizes::row(n_in, n_out, self.kernel, stride);
            convolutions.push(init.conv(&path / "conv" / i, conv, NextActivation::Relu));
            widths.push(n_out);
            sizes.push(shrunk(size, stride));
        }
        let n = self.channels.len();
        let last_map = [widths[n], sizes[n][0], sizes[n][1]];
        let encoder = Encoder {
            convolutions,
            posterior: ToPosterior::build(&path, shape, last_map, Some(self.hidden)),
        };

        let path = root / "decoder";
        let layers = shape.decoder_layers();
        let latents = FromLatents::build(&path, shape, last_map, NextActivation::Relu);
        let mut convolutions = Vec::new();
        for i in (0..n).rev() {
            let n_out = if i == 0 { widths[1] } else { widths[i] };
            let conv = ConvSizes::row(widths[i + 1], n_out, self.kernel, 1);
            let layer = layers.conv(&path / "conv" / (n - 1 - i), conv, NextActivation::Relu);
            convolutions.push((sizes[i], layer));
        }
        let output = ConvSizes::row(widths[1], shape.n_likelihood_maps, self.kernel, 1);
        let likelihood = layers.conv(&path / "likelihood", output, shape.to_likelihood());
        Conv1dNetwork {
            encoder,
            decoder: Decoder {
                latents,
                convolutions,
                likelihood,
            },
        }
    }
}

#[derive(Debug)]
pub(super) struct Conv1dNetwork {
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
    /// Each with the length that the series is upsampled to before it.
    convolutions: Vec<([i64; 2], NormalizedLayer<Conv>)>,
    likelihood: NormalizedLayer<Conv>,
}

impl Layered for Conv1dNetwork {
    fn encoder<O: Ops>(&self, ops: &mut O, series: O::Value) -> O::Value {
        let mut maps = series; // [B, C, 1, T]
        for convolution in &self.encoder.convolutions {
            maps = ops.layer(convolution, maps);
            maps = ops.activation(Activation::Relu, maps); // [B, channels, 1, T/…]
        }
        self.encoder.posterior.apply(ops, maps) // [B, P]
    }

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value {
        let decoder = &self.decoder;
        let mut maps = decoder.latents.apply(ops, latents, Some(Activation::Relu));
        for (size, convolution) in &decoder.convolutions {
            maps = ops.upsample(maps, *size);
            maps = ops.layer(convolution, maps);
            maps = ops.activation(Activation::Relu, maps); // [N, channels, 1, …T]
        }
        ops.layer(&decoder.likelihood, maps) // [N, L, 1, T]
    }

    fn output_weight(&self) -> &Tensor {
        self.decoder.likelihood.weight()
    }
}
