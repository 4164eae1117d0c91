//! `discriminator.conv`: strided convolutions, with one output for an item or one for each patch.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Discriminator, DiscriminatorShape, Judgement, leaky, with_side};
use crate::network::layers::{BatchNorm, Conv, ConvSizes, NextActivation, shrunk};
use crate::network::spectral_norm::{NormalizedLayer, NormalizedLayers};
use crate::network::{Initialization, LARGEST_DEPTH, LARGEST_SIZE, check_sizes};
use crate::nn::{self, ModuleT};
use crate::{Mode, ModelError};

/// For each of `channels` a convolution of stride 2 and leaky ReLU (slope 0.2), then one output for the item, or one
/// for each place of the last map. An array `[C, T]` gets convolutions along time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConvDiscriminatorConfig {
    /// Channels of the convolutions, one number for each layer, from the item inwards; each turns n pixels into
    /// ⌈n/2⌉. Default `[64, 128, 256]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub channels: Vec<i64>,
    /// Sides of the kernels of images, 3 or 4. The gradient that the generator gets through kernels whose side is not a
    /// multiple of the stride has the pattern of a checkerboard (Odena et al. 2016,
    /// <https://distill.pub/2016/deconv-checkerboard>): 4 prevents that. Default 3.
    #[schemars(range(min = 3, max = 4))]
    pub kernel: i64,
    /// What keeps its layers in bounds. Default `"spectral"`.
    pub normalization: DiscriminatorNorm,
    /// One output for each place of the last map, which judges the patch of the item that it sees, instead of one for
    /// the whole item (PatchGAN, Isola et al. 2017, <https://arxiv.org/abs/1611.07004>). Default false.
    pub patch: bool,
}

/// The normalization of a discriminator's layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiscriminatorNorm {
    /// None, for losses with a gradient penalty.
    None,
    /// Batch norm in every layer but the first, as in DCGAN (Radford et al. 2016, <https://arxiv.org/abs/1511.06434>).
    /// Real and generated items are normalized in batches of their own.
    Batch,
    /// Each weight is divided by its largest singular value (SNGAN, Miyato et al. 2018,
    /// <https://arxiv.org/abs/1802.05957>).
    #[default]
    Spectral,
}

impl Default for ConvDiscriminatorConfig {
    fn default() -> Self {
        Self {
            channels: vec![64, 128, 256],
            kernel: 3,
            normalization: DiscriminatorNorm::default(),
            patch: false,
        }
    }
}

impl ConvDiscriminatorConfig {
    pub(super) fn check(&self, key: &str) -> Result<(), ModelError> {
        if !(3..=4).contains(&self.kernel) {
            let found = format!("found {}, expected 3 or 4", self.kernel);
            return Err(ModelError::config(format!("{key}.kernel"), found));
        }
        let key = format!("{key}.channels");
        if self.channels.is_empty() {
            return Err(ModelError::config(
                key,
                "found none, expected at least one convolution",
            ));
        }
        check_sizes(&key, &self.channels)
    }

    pub(super) fn build(&self, path: &nn::Path, shape: DiscriminatorShape) -> ConvDiscriminator {
        const STRIDE: i64 = 2;
        let layers = NormalizedLayers {
            initialization: Initialization::Kaiming,
            spectral_norm: self.normalization == DiscriminatorNorm::Spectral,
        };
        let is_row = shape.item.height == 1;
        let halved = |n_in, n_out, size| match (is_row, self.kernel) {
            (true, _) => ConvSizes::row(n_in, n_out, 3, STRIDE),
            (false, 4) => ConvSizes::four(n_in, n_out, size),
            (false, _) => ConvSizes::three(n_in, n_out, STRIDE),
        };
        let mut n_channels = shape.item.channels + shape.n_side;
        let mut size = [shape.item.height, shape.item.width];
        let mut stages = Vec::new();
        for (i, &n_out) in self.channels.iter().enumerate() {
            let has_norm = self.normalization == DiscriminatorNorm::Batch && i > 0;
            let next = match has_norm {
                true => NextActivation::BatchNorm,
                false => NextActivation::Relu,
            };
            stages.push((
                layers.conv(path / "conv" / i, halved(n_channels, n_out, size), next),
                has_norm.then(|| BatchNorm::new(&(path / "norm" / i), n_out)),
            ));
            size = shrunk(size, STRIDE);
            n_channels = n_out;
        }
        let output = path / "output";
        ConvDiscriminator {
            stages,
            output: match self.patch {
                true => Output::Patches(layers.conv(
                    output,
                    match is_row {
                        true => ConvSizes::row(n_channels, 1, 3, 1),
                        false => ConvSizes::three(n_channels, 1, 1),
                    },
                    NextActivation::Linear,
                )),
                false => Output::Whole(layers.linear(
                    output,
                    n_channels * size[0] * size[1],
                    1,
                    NextActivation::Linear,
                )),
            },
        }
    }
}

#[derive(Debug)]
pub(super) struct ConvDiscriminator {
    stages: Vec<(NormalizedLayer<Conv>, Option<BatchNorm>)>,
    output: Output,
}

#[derive(Debug)]
enum Output {
    Whole(NormalizedLayer<nn::Linear>),
    Patches(NormalizedLayer<Conv>),
}

impl Discriminator for ConvDiscriminator {
    fn judge(&self, items: &Tensor, side: Option<&Tensor>, mode: Mode) -> Judgement {
        let train = mode == Mode::Train;
        let mut maps = with_side(items, side);
        let mut features = Vec::new();
        for (convolution, norm) in &self.stages {
            maps = convolution.forward_t(&maps, train);
            if let Some(norm) = norm {
                maps = norm.forward_t(&maps, train);
            }
            maps = leaky(&maps); // [B, channels, H/…, W/…]
            features.push(maps.shallow_clone());
        }
        let outputs = match &self.output {
            Output::Whole(output) => output.forward_t(&maps.flatten(1, -1), train).squeeze_dim(1),
            Output::Patches(output) => output.forward_t(&maps, train).squeeze_dim(1), // [B, h, w]
        };
        Judgement { outputs, features }
    }
}
