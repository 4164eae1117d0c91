//! `network.dcgan`: the convolutional generator of GANs, and its mirror image as an encoder.

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
/// Decoder: a fully connected layer to the first maps, batch norm and ReLU; transposed 4×4 convolutions that double the
/// maps, each followed by batch norm and ReLU but for the last, which leads to the likelihood's parameters (Radford et
/// al. 2016, <https://arxiv.org/abs/1511.06434>, with kernels whose side is a multiple of the stride). Encoder: 4×4
/// convolutions that halve the maps, batch norm in each but the first, leaky ReLU (slope 0.01), the posterior's
/// parameters.
///
/// With few channels where the maps are large it takes a third of the time of `conv_batch_norm` with the same channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DcganConfig {
    /// Channels of the maps between the layers, from the image inwards: one number for each convolution of the encoder,
    /// each of which turns n pixels into ⌈n/2⌉. Default `[64, 128, 256, 512]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub channels: Vec<i64>,
}

impl Default for DcganConfig {
    fn default() -> Self {
        Self {
            channels: vec![64, 128, 256, 512],
        }
    }
}

impl DcganConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let key = "model.network.dcgan.channels";
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

    pub(super) fn build(&self, root: &nn::Path, shape: NetworkShape) -> Dcgan {
        let init = shape.initialization;
        let n_layers = self.channels.len();

        let path = root / "encoder";
        let mut sizes = vec![[shape.image.height, shape.image.width]];
        let mut n_channels = shape.encoder_channels();
        let mut down = Vec::new();
        for (i, &n_out) in self.channels.iter().enumerate() {
            let conv_sizes = ConvSizes::four(n_channels, n_out, sizes[i]);
            let (next, norm) = match i {
                0 => (NextActivation::Relu, None),
                _ => (
                    NextActivation::BatchNorm,
                    Some(BatchNorm::new(&(&path / "norm" / i), n_out)),
                ),
            };
            down.push((init.conv(&path / "conv" / i, conv_sizes, next), norm));
            sizes.push(shrunk(sizes[i], 2));
            n_channels = n_out;
        }
        let [height, width] = sizes[n_layers];
        let last_map = [n_channels, height, width];
        let posterior = ToPosterior::build(&path, shape, last_map, None);

        let path = root / "decoder";
        let layers = shape.decoder_layers();
        let latents = FromLatents::build(&path, shape, last_map, NextActivation::BatchNorm);
        let mut up = Vec::new();
        let first_norm = BatchNorm::new(&(&path / "norm" / 0), n_channels);
        for i in (0..n_layers).rev() {
            let (n_out, next) = match i {
                0 => (shape.n_likelihood_maps, shape.to_likelihood()),
                _ => (self.channels[i - 1], NextActivation::BatchNorm),
            };
            let conv_sizes = ConvSizes::four(n_channels, n_out, sizes[i]);
            let from_to = [sizes[i + 1], sizes[i]];
            let conv = &path / "conv" / (n_layers - 1 - i);
            let norm = &path / "norm" / (n_layers - i);
            up.push((
                layers.conv_transpose(conv, conv_sizes, from_to, next),
                (i > 0).then(|| BatchNorm::new(&norm, n_out)),
            ));
            n_channels = n_out;
        }
        Dcgan {
            down,
            posterior,
            latents,
            first_norm,
            up,
        }
    }
}

#[derive(Debug)]
pub(super) struct Dcgan {
    down: Vec<(Layer<Conv>, Option<BatchNorm>)>,
    posterior: ToPosterior,
    latents: FromLatents,
    /// The norm of the decoder's first map.
    first_norm: BatchNorm,
    /// Transposed convolutions, each of which doubles an activated map, and the norms of what they give, if it is no output.
    up: Vec<(NormalizedLayer<ConvTranspose>, Option<BatchNorm>)>,
}

impl Layered for Dcgan {
    fn encoder<O: Ops>(&self, ops: &mut O, images: O::Value) -> O::Value {
        let mut maps = ops.channels_last(images);
        for (convolution, norm) in &self.down {
            maps = ops.layer(convolution, maps);
            if let Some(norm) = norm {
                maps = ops.layer(norm, maps);
            }
            maps = ops.activation(Activation::LeakyRelu, maps); // [B, channels, H/…, W/…]
        }
        self.posterior.apply(ops, maps) // [B, P]
    }

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value {
        let mut maps = self.latents.apply(ops, latents, None);
        maps = ops.layer(&self.first_norm, maps);
        for (convolution, norm) in &self.up {
            maps = ops.activation(Activation::Relu, maps); // [N, channels, …H, …W]
            maps = match norm {
                Some(norm) => ops.normalized(convolution, norm, maps),
                None => ops.layer(convolution, maps),
            };
        }
        maps // [N, L·C, H, W]
    }

    fn output_weight(&self) -> &Tensor {
        self.up[self.up.len() - 1].0.weight()
    }
}
