//! `network.residual`: residual blocks with group norm and SiLU.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::bridge::{FromLatents, ToPosterior};
use super::layers::{Conv, ConvSizes, GroupNorm, Layer, NextActivation, group_norm, shrunk};
use super::ops::{GraphLayer, Ops};
use super::spectral_norm::NormalizedLayer;
use super::{LARGEST_DEPTH, LARGEST_SIZE, Layered, NetworkShape, check_depth, check_sizes};
use crate::{ModelError, nn};

/// The default sizes are for color images of about 64×64 pixels.
///
/// Encoder: a 3×3 convolution to `channels[0]` at the image's size; then for each stage `blocks` residual blocks, and
/// between stages a 3×3 convolution of stride 2; group norm, SiLU, the posterior's parameters. Decoder: a fully
/// connected layer up to the encoder's last map and the stages in reverse, with a 1×1 convolution and nearest-neighbor
/// upsampling between them; group norm, SiLU, a 3×3 convolution to the likelihood's parameters. Upsampling avoids the
/// checkerboard artifacts of transposed convolutions (Odena et al. 2016,
/// <https://distill.pub/2016/deconv-checkerboard/>).
///
/// A block is x + conv(silu(norm(conv(silu(norm(x)))))) (He et al. 2016, <https://arxiv.org/abs/1603.05027>), initially
/// the identity. Group norm normalizes each image separately: training and evaluation are the same, and batches may
/// have any size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResidualConfig {
    /// Channels of the stages, from the image inwards; from one stage to the next n pixels become ⌈n/2⌉.
    /// Default `[16, 32, 64, 128, 256]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub channels: Vec<i64>,
    /// Residual blocks in each stage, of the encoder and of the decoder. Default 1.
    #[schemars(range(min = 1, max = LARGEST_DEPTH))]
    pub blocks: usize,
    /// Channels in a group of the group norms; must divide every one of `channels`. Below 8, libtorch's
    /// CPU kernel for gradients is ten times slower. Default 8.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub group_size: i64,
}

impl Default for ResidualConfig {
    fn default() -> Self {
        Self {
            channels: vec![16, 32, 64, 128, 256],
            blocks: 1,
            group_size: 8,
        }
    }
}

impl ResidualConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let key = |name: &str| format!("model.network.residual.{name}");
        check_sizes(&key("channels"), &self.channels)?;
        check_depth(&key("blocks"), self.blocks as i64)?;
        check_sizes(&key("group_size"), &[self.group_size])?;
        if self.channels.is_empty() {
            return Err(ModelError::config(
                key("channels"),
                "found none, expected at least one stage",
            ));
        }
        match self.channels.iter().find(|&n| n % self.group_size != 0) {
            Some(n) => Err(ModelError::config(
                key("group_size"),
                format!(
                    "found {}, which does not divide the {n} channels of a stage",
                    self.group_size
                ),
            )),
            None => Ok(()),
        }
    }

    /// The size of the encoder's last maps.
    pub(super) fn last_map(&self, size: [i64; 2]) -> [i64; 2] {
        self.channels[1..]
            .iter()
            .fold(size, |size, _| shrunk(size, 2))
    }

    pub(super) fn build(&self, root: &nn::Path, shape: NetworkShape) -> Residual {
        const STRIDE: i64 = 2;
        let init = shape.initialization;
        let n_stages = self.channels.len();
        let (first, last) = (self.channels[0], self.channels[n_stages - 1]);
        let mut sizes = vec![[shape.image.height, shape.image.width]];
        for i in 1..n_stages {
            sizes.push(shrunk(sizes[i - 1], STRIDE));
        }
        let [height, width] = sizes[n_stages - 1];
        let last_map = [last, height, width];

        let path = root / "encoder";
        let blocks = |path: &nn::Path, channels: i64| {
            self.blocks(path, channels, |path, sizes, next| {
                init.conv(path, sizes, next)
            })
        };
        let down = (0..n_stages)
            .map(|i| {
                let path = &path / i;
                let conv_sizes = match i {
                    0 => ConvSizes::three(shape.encoder_channels(), first, 1),
                    _ => ConvSizes::three(self.channels[i - 1], self.channels[i], STRIDE),
                };
                DownStage {
                    convolution: init.conv(&path / "conv", conv_sizes, NextActivation::Linear),
                    blocks: blocks(&path, self.channels[i]),
                }
            })
            .collect();
        let encoder = Encoder {
            down,
            norm: group_norm(&path / "norm", self.group_size, last),
            posterior: ToPosterior::build(&path, shape, last_map, None),
        };

        let path = root / "decoder";
        let init = shape.decoder_layers();
        let blocks = |path: &nn::Path, channels: i64| {
            self.blocks(path, channels, |path, sizes, next| {
                init.conv(path, sizes, next)
            })
        };
        let up = (0..n_stages)
            .map(|i| {
                let stage = n_stages - 1 - i;
                let path = &path / i;
                let rise = (i > 0).then(|| {
                    let conv_sizes = ConvSizes::one(self.channels[stage + 1], self.channels[stage]);
                    Rise {
                        convolution: init.conv(&path / "conv", conv_sizes, NextActivation::Linear),
                        size: sizes[stage],
                    }
                });
                UpStage {
                    rise,
                    blocks: blocks(&path, self.channels[stage]),
                }
            })
            .collect();
        let n_out = shape.n_likelihood_maps;
        let to_likelihood = shape.to_likelihood();
        let decoder = Decoder {
            latents: FromLatents::build(&path, shape, last_map, NextActivation::Linear),
            up,
            norm: group_norm(&path / "norm", self.group_size, first),
            likelihood: init.conv(
                &path / "likelihood",
                ConvSizes::three(first, n_out, 1),
                to_likelihood,
            ),
        };
        Residual { encoder, decoder }
    }

    /// The blocks of a stage; `conv` makes their convolutions.
    fn blocks<C>(
        &self,
        path: &nn::Path,
        channels: i64,
        conv: impl Fn(nn::Path, ConvSizes, NextActivation) -> C,
    ) -> Vec<Block<C>> {
        let block = |i| Block::new(&(path / "block" / i), self.group_size, channels, &conv);
        (0..self.blocks).map(block).collect()
    }
}

#[derive(Debug)]
pub(super) struct Residual {
    encoder: Encoder,
    decoder: Decoder,
}

#[derive(Debug)]
struct Encoder {
    down: Vec<DownStage>,
    norm: Layer<GroupNorm>,
    posterior: ToPosterior,
}

#[derive(Debug)]
struct DownStage {
    convolution: Layer<Conv>,
    blocks: Vec<Block<Layer<Conv>>>,
}

#[derive(Debug)]
struct Decoder {
    latents: FromLatents,
    up: Vec<UpStage>,
    norm: Layer<GroupNorm>,
    likelihood: NormalizedLayer<Conv>,
}

#[derive(Debug)]
struct UpStage {
    /// `None` in the first stage, which has its channels and size already.
    rise: Option<Rise>,
    blocks: Vec<Block<NormalizedLayer<Conv>>>,
}

/// A change of channels, then of size (H, W). This order costs a quarter of the other one.
#[derive(Debug)]
struct Rise {
    convolution: NormalizedLayer<Conv>,
    size: [i64; 2],
}

#[derive(Debug)]
struct Block<C> {
    layers: [(Layer<GroupNorm>, C); 2],
}

impl<C> Block<C> {
    fn new(
        path: &nn::Path,
        group_size: i64,
        channels: i64,
        conv: impl Fn(nn::Path, ConvSizes, NextActivation) -> C,
    ) -> Self {
        let layer = |i: usize, next| {
            let norm = group_norm(path / "norm" / i, group_size, channels);
            let conv_sizes = ConvSizes::three(channels, channels, 1);
            (norm, conv(path / "conv" / i, conv_sizes, next))
        };
        Self {
            layers: [
                layer(0, NextActivation::Relu),
                layer(1, NextActivation::Sum),
            ],
        }
    }
}

impl<C: GraphLayer> Block<C> {
    fn apply<O: Ops>(&self, ops: &mut O, maps: O::Value) -> O::Value {
        let mut around = ops.share(&maps);
        for (norm, convolution) in &self.layers {
            around = ops.norm_silu(norm, around);
            around = ops.layer(convolution, around);
        }
        ops.sum(around, maps)
    }
}

impl Layered for Residual {
    fn encoder<O: Ops>(&self, ops: &mut O, images: O::Value) -> O::Value {
        let Encoder {
            down,
            norm,
            posterior,
        } = &self.encoder;
        let mut maps = ops.channels_last(images);
        for stage in down {
            maps = ops.layer(&stage.convolution, maps); // [B, channels, H/…, W/…]
            for block in &stage.blocks {
                maps = block.apply(ops, maps);
            }
        }
        let maps = ops.norm_silu(norm, maps);
        posterior.apply(ops, maps) // [B, P]
    }

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value {
        let Decoder {
            latents: from_latents,
            up,
            norm,
            likelihood,
        } = &self.decoder;
        let mut maps = from_latents.apply(ops, latents, None);
        for stage in up {
            if let Some(Rise { convolution, size }) = &stage.rise {
                maps = ops.layer(convolution, maps);
                maps = ops.upsample(maps, *size); // [N, channels, …H, …W]
            }
            for block in &stage.blocks {
                maps = block.apply(ops, maps);
            }
        }
        let maps = ops.norm_silu(norm, maps);
        ops.layer(likelihood, maps) // [N, L·C, H, W]
    }

    fn output_weight(&self) -> &Tensor {
        self.decoder.likelihood.weight()
    }
}
