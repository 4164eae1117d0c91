//! `discriminator.residual`: residual blocks that halve the item, for larger and varied images.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Discriminator, DiscriminatorShape, Judgement, leaky, with_side};
use crate::network::layers::{Conv, ConvSizes, NextActivation};
use crate::network::spectral_norm::{NormalizedLayer, NormalizedLayers};
use crate::network::{Initialization, LARGEST_DEPTH, LARGEST_SIZE, check_sizes};
use crate::nn::{self, ModuleT};
use crate::{Mode, ModelError};

/// A 3×3 convolution, then for each of `channels` a residual block of two 3×3 convolutions with leaky ReLUs (slope
/// 0.2), whose result and whose input, mapped by a 1×1 convolution, are averaged over 2×2 pixels and added (Gulrajani
/// et al. 2017, <https://arxiv.org/abs/1704.00028>; Miyato et al. 2018, <https://arxiv.org/abs/1802.05957>). The output
/// is a linear map of the last activations' sums over their places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResidualDiscriminatorConfig {
    /// Channels of the blocks, from the item inwards; each block turns n pixels into ⌈n/2⌉. Default
    /// `[64, 128, 256, 512]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub channels: Vec<i64>,
    /// Divide each weight by its largest singular value, as in SNGAN. With a gradient penalty false would fit. Default
    /// true.
    pub spectral_norm: bool,
}

impl Default for ResidualDiscriminatorConfig {
    fn default() -> Self {
        Self {
            channels: vec![64, 128, 256, 512],
            spectral_norm: true,
        }
    }
}

impl ResidualDiscriminatorConfig {
    pub(super) fn check(&self, key: &str) -> Result<(), ModelError> {
        let key = format!("{key}.channels");
        if self.channels.is_empty() {
            return Err(ModelError::config(
                key,
                "found none, expected at least one block",
            ));
        }
        check_sizes(&key, &self.channels)
    }

    pub(super) fn build(
        &self,
        path: &nn::Path,
        shape: DiscriminatorShape,
    ) -> ResidualDiscriminator {
        let layers = NormalizedLayers {
            initialization: Initialization::Kaiming,
            spectral_norm: self.spectral_norm,
        };
        let is_row = shape.item.height == 1;
        let sizes = |n_in, n_out| match is_row {
            true => ConvSizes::row(n_in, n_out, 3, 1),
            false => ConvSizes::three(n_in, n_out, 1),
        };
        let conv = |path: nn::Path, n_in, n_out, next| layers.conv(path, sizes(n_in, n_out), next);
        let first = self.channels[0];
        let n_in = shape.item.channels + shape.n_side;
        let input = conv(path / "input", n_in, first, NextActivation::Linear);
        let mut n_channels = first;
        let mut blocks = Vec::new();
        for (i, &n_out) in self.channels.iter().enumerate() {
            let path = path / "block" / i;
            blocks.push(Block {
                convolutions: [
                    conv(&path / 0, n_channels, n_out, NextActivation::Relu),
                    conv(&path / 1, n_out, n_out, NextActivation::Linear),
                ],
                around: layers.conv(
                    &path / "around",
                    ConvSizes::one(n_channels, n_out),
                    NextActivation::Linear,
                ),
            });
            n_channels = n_out;
        }
        ResidualDiscriminator {
            input,
            blocks,
            output: layers.linear(path / "output", n_channels, 1, NextActivation::Linear),
        }
    }
}

#[derive(Debug)]
pub(super) struct ResidualDiscriminator {
    input: NormalizedLayer<Conv>,
    blocks: Vec<Block>,
    output: NormalizedLayer<nn::Linear>,
}

#[derive(Debug)]
struct Block {
    convolutions: [NormalizedLayer<Conv>; 2],
    around: NormalizedLayer<Conv>,
}

/// Means of 2×2 pixels; at an odd side's end, of those that there are.
fn halved(maps: &Tensor) -> Tensor {
    let size = maps.size();
    let kernel = [size[2].min(2), size[3].min(2)];
    maps.avg_pool2d(kernel, kernel, [0, 0], true, false, None::<i64>)
}

impl Block {
    fn apply(&self, maps: &Tensor, train: bool) -> Tensor {
        let mut through = maps.shallow_clone();
        for convolution in &self.convolutions {
            through = convolution.forward_t(&leaky(&through), train);
        }
        // Averaged before the 1×1 convolution, which gives the same for a quarter of the work.
        halved(&through) + self.around.forward_t(&halved(maps), train)
    }
}

impl Discriminator for ResidualDiscriminator {
    fn judge(&self, items: &Tensor, side: Option<&Tensor>, mode: Mode) -> Judgement {
        let train = mode == Mode::Train;
        let mut maps = self.input.forward_t(&with_side(items, side), train);
        let mut features = Vec::new();
        for block in &self.blocks {
            maps = block.apply(&maps, train);
            features.push(maps.shallow_clone());
        }
        let sums = leaky(&maps).sum_dim_intlist([2, 3].as_slice(), false, Kind::Float); // [B, channels]
        let outputs = self.output.forward_t(&sums, train).squeeze_dim(1);
        Judgement { outputs, features }
    }
}
