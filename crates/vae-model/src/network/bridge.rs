//! The layers between a convolutional network's maps and the latents, which are a vector or a map themselves.

use super::NetworkShape;
use super::layers::{Conv, ConvSizes, Layer, NextActivation};
use super::ops::{Activation, Ops};
use super::spectral_norm::NormalizedLayer;
use crate::nn;

/// From an encoder's last maps to the posterior's parameters `[B, P]`.
#[derive(Debug)]
pub(super) enum ToPosterior {
    /// For a vector of latents: fully connected, with an optional hidden layer in between.
    Flat {
        hidden: Option<Layer<nn::Linear>>,
        posterior: Layer<nn::Linear>,
    },
    /// For a map of latents: a convolution. The channels of one parameter precede those of the next.
    Map(Layer<Conv>),
    /// For two maps: a convolution that halves the size leads to the upper one.
    Pyramid {
        down: Layer<Conv>,
        upper: Layer<Conv>,
        lower: Layer<Conv>,
    },
}

impl ToPosterior {
    /// For maps `[C, H, W]`. `hidden` is the width of the optional layer in between.
    pub(super) fn build(
        path: &nn::Path,
        shape: NetworkShape,
        [channels, height, width]: [i64; 3],
        hidden: Option<i64>,
    ) -> Self {
        let init = shape.initialization;
        let next = shape.to_posterior();
        if let Some([latent_channels, ..]) = shape.latent_shape {
            let n_out = shape.n_posterior_params / shape.latent_dims * latent_channels;
            let sizes = ConvSizes::three(channels, n_out, 1);
            if shape.is_pyramid {
                let halved = ConvSizes::three(channels, channels, 2);
                return Self::Pyramid {
                    down: init.conv(path / "down", halved, NextActivation::Relu),
                    upper: init.conv(path / "upper", sizes, next),
                    lower: init.conv(path / "lower", sizes, next),
                };
            }
            return Self::Map(init.conv(path / "posterior", sizes, next));
        }
        let n_features = channels * height * width;
        let hidden_layer =
            hidden.map(|n| init.linear(path / "hidden", n_features, n, NextActivation::Relu));
        let n_in = hidden.unwrap_or(n_features);
        Self::Flat {
            hidden: hidden_layer,
            posterior: init.linear(path / "posterior", n_in, shape.n_posterior_params, next),
        }
    }

    pub(super) fn apply<O: Ops>(&self, ops: &mut O, maps: O::Value) -> O::Value {
        match self {
            Self::Flat { hidden, posterior } => {
                let mut features = ops.flatten(maps);
                if let Some(hidden) = hidden {
                    features = ops.layer(hidden, features);
                    features = ops.activation(Activation::Relu, features); // [B, hidden]
                }
                ops.layer(posterior, features)
            }
            Self::Map(posterior) => {
                let params = ops.layer(posterior, maps);
                ops.flatten(params)
            }
            Self::Pyramid { down, upper, lower } => {
                let shared = ops.share(&maps);
                let halved = ops.layer(down, shared);
                let halved = ops.activation(Activation::Relu, halved); // [B, C, ⌈h/2⌉, ⌈w/2⌉]
                let upper = ops.layer(upper, halved);
                let upper = ops.flatten(upper);
                let lower = ops.layer(lower, maps);
                let lower = ops.flatten(lower);
                ops.concat(upper, lower) // [B, P]
            }
        }
    }
}

/// From latents to a decoder's first maps.
#[derive(Debug)]
pub(super) enum FromLatents {
    /// For latents `[N, Z]`.
    Flat {
        layer: NormalizedLayer<nn::Linear>,
        maps: [i64; 3],
    },
    /// For latents `[N, C, h, w]`, which have the size of the maps already.
    Map(NormalizedLayer<Conv>),
}

impl FromLatents {
    /// To maps `[C, H, W]`, which `next` follows.
    pub(super) fn build(
        path: &nn::Path,
        shape: NetworkShape,
        maps: [i64; 3],
        next: NextActivation,
    ) -> Self {
        let layers = shape.decoder_layers();
        if shape.latent_shape.is_some() {
            let sizes = ConvSizes::three(shape.decoder_inputs(), maps[0], 1);
            return Self::Map(layers.conv(path / "hidden", sizes, next));
        }
        let n_features = maps.iter().product();
        Self::Flat {
            layer: layers.linear(path / "hidden", shape.decoder_inputs(), n_features, next),
            maps,
        }
    }

    /// Applies the layers and then `activation`, if there is one.
    pub(super) fn apply<O: Ops>(
        &self,
        ops: &mut O,
        latents: O::Value,
        activation: Option<Activation>,
    ) -> O::Value {
        let activated = |ops: &mut O, value| match activation {
            Some(activation) => ops.activation(activation, value),
            None => value,
        };
        match self {
            Self::Flat { layer, maps } => {
                let features = ops.layer(layer, latents);
                let features = activated(ops, features);
                let maps = ops.maps(features, *maps);
                ops.channels_last(maps)
            }
            Self::Map(layer) => {
                let latents = ops.channels_last(latents);
                let maps = ops.layer(layer, latents);
                activated(ops, maps)
            }
        }
    }
}
