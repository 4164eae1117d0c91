//! `network.mlp`: fully connected layers with ReLU, like the 784-400-20 of PyTorch's VAE example.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layers::{Layer, NextActivation};
use super::ops::{Activation, GraphLayer, Ops};
use super::spectral_norm::NormalizedLayer;
use super::{LARGEST_DEPTH, LARGEST_SIZE, Layered, NetworkShape, check_sizes};
use crate::{ImageShape, ModelError, nn};

/// ReLUs follow the hidden layers. The decoder mirrors the encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MlpConfig {
    /// Widths of the encoder's hidden layers, one number for each layer, from the image inwards.
    /// Default `[400]`.
    #[schemars(length(max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub hidden: Vec<i64>,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self { hidden: vec![400] }
    }
}

impl MlpConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        check_sizes("model.network.mlp.hidden", &self.hidden)
    }

    pub(super) fn build(&self, root: &nn::Path, shape: NetworkShape) -> Mlp {
        let ImageShape { height, width, .. } = shape.image;
        let mut widths = vec![shape.encoder_channels() * height * width];
        widths.extend(&self.hidden);
        let mut encoder_widths = widths.clone();
        encoder_widths.push(shape.n_posterior_params);
        let mut decoder_widths = widths;
        decoder_widths[0] = shape.n_likelihood_maps * height * width;
        decoder_widths.push(shape.decoder_inputs());
        decoder_widths.reverse();
        let to_posterior = NextActivation::Output {
            n_params: shape.n_posterior_params / shape.latent_dims,
        };
        let to_likelihood = shape.to_likelihood();
        let (init, decoder_layers) = (shape.initialization, shape.decoder_layers());
        let (encoder, decoder) = (root / "encoder", root / "decoder");
        Mlp {
            encoder: layers(&encoder_widths, to_posterior, |i, [n_in, n_out], next| {
                init.linear(&encoder / i, n_in, n_out, next)
            }),
            decoder: layers(&decoder_widths, to_likelihood, |i, [n_in, n_out], next| {
                decoder_layers.linear(&decoder / i, n_in, n_out, next)
            }),
            output: ImageShape {
                channels: shape.n_likelihood_maps,
                ..shape.image
            },
        }
    }
}

#[derive(Debug)]
pub(super) struct Mlp {
    encoder: Vec<Layer<nn::Linear>>,
    decoder: Vec<NormalizedLayer<nn::Linear>>,
    output: ImageShape,
}

impl Layered for Mlp {
    fn encoder<O: Ops>(&self, ops: &mut O, images: O::Value) -> O::Value {
        let pixels = ops.flatten(images);
        apply(&self.encoder, ops, pixels) // [B, P]
    }

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value {
        let ImageShape {
            channels,
            height,
            width,
        } = self.output;
        let values = apply(&self.decoder, ops, latents); // [N, L·H·W]
        ops.maps(values, [channels, height, width])
    }

    fn output_weight(&self) -> &Tensor {
        self.decoder[self.decoder.len() - 1].weight()
    }
}

/// Makes a layer for each pair of neighboring widths: `layer` gets its index, its widths and what follows it.
fn layers<L>(
    widths: &[i64],
    output: NextActivation,
    layer: impl Fn(usize, [i64; 2], NextActivation) -> L,
) -> Vec<L> {
    let n_layers = widths.len() - 1;
    (0..n_layers)
        .map(|i| {
            let next = if i + 1 < n_layers {
                NextActivation::Relu
            } else {
                output
            };
            layer(i, [widths[i], widths[i + 1]], next)
        })
        .collect()
}

/// Applies the layers with ReLU between them and none after the last.
fn apply<O: Ops>(layers: &[impl GraphLayer], ops: &mut O, input: O::Value) -> O::Value {
    let mut hidden = input;
    for (i, layer) in layers.iter().enumerate() {
        if i > 0 {
            hidden = ops.activation(Activation::Relu, hidden);
        }
        hidden = ops.layer(layer, hidden);
    }
    hidden
}
