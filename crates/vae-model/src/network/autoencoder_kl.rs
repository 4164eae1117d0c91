//! `network.autoencoder_kl`: the network of latent diffusion's autoencoders.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::bridge::{FromLatents, ToPosterior};
use super::layers::{
    Conv, ConvSizes, Convolution, GroupNorm, Layer, NextActivation, group_norm_of,
};
use super::ops::{Ops, Segment};
use super::spectral_norm::NormalizedLayer;
use super::{LARGEST_DEPTH, LARGEST_SIZE, Layered, NetworkShape, check_depth, check_sizes};
use crate::{ImageShape, ModelError, nn};

/// The autoencoder of latent diffusion (Rombach et al. 2022, <https://arxiv.org/abs/2112.10752>), computed as diffusers'
/// `AutoencoderKL` does. The default sizes are those of Stable Diffusion 1; the latents are a map, `latent_shape`.
///
/// Encoder: a 3×3 convolution; for each stage `blocks` residual blocks, and between stages a 3×3 convolution of stride 2
/// with zeros below and right only; a block, attention and a block in the middle; group norm, SiLU, a 3×3 convolution to
/// the posterior's parameters and one of 1×1. Decoder: the same in reverse, with `blocks` + 1 blocks in each stage, and
/// nearest-neighbor upsampling before a 3×3 convolution between stages.
///
/// A block is x + conv(silu(norm(conv(silu(norm(x)))))), with a 1×1 convolution of x where the channels change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AutoencoderKlConfig {
    /// Channels of the stages, from the image inwards; from one stage to the next n pixels become n/2, so that the sides
    /// of the images have to be multiples of 2 to the power of the number of stages minus one. Default
    /// `[128, 256, 512, 512]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub channels: Vec<i64>,
    /// Residual blocks in each stage of the encoder; each stage of the decoder has one more. Default 2.
    #[schemars(range(min = 1, max = LARGEST_DEPTH))]
    pub blocks: usize,
    /// Groups of the group norms; must divide every one of `channels`. Default 32.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub groups: i64,
    /// Whether every place of the middle maps attends to all others. Default true.
    pub attention: bool,
    /// Whether a 1×1 convolution follows the encoder. Default true.
    pub quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder. Default true.
    pub post_quant_conv: bool,
}

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            channels: vec![128, 256, 512, 512],
            blocks: 2,
            groups: 32,
            attention: true,
            quant_conv: true,
            post_quant_conv: true,
        }
    }
}

/// ε of its group norms.
const EPSILON: f64 = 1e-6;

impl AutoencoderKlConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let key = |name: &str| format!("model.network.autoencoder_kl.{name}");
        check_sizes(&key("channels"), &self.channels)?;
        check_depth(&key("blocks"), self.blocks as i64)?;
        check_sizes(&key("groups"), &[self.groups])?;
        if self.channels.is_empty() {
            let problem = "found none, expected at least one stage";
            return Err(ModelError::config(key("channels"), problem));
        }
        match self.channels.iter().find(|&n| n % self.groups != 0) {
            Some(n) => Err(ModelError::config(
                key("groups"),
                format!(
                    "found {}, which does not divide the {n} channels of a stage",
                    self.groups
                ),
            )),
            None => Ok(()),
        }
    }

    /// Pixels of an image's side for each of the latents' map.
    fn factor(&self) -> i64 {
        1 << (self.channels.len() - 1).min(62)
    }

    /// Refuses images that would not come back in their size.
    pub(crate) fn check_image(&self, image: ImageShape) -> Result<(), ModelError> {
        super::check_multiples("autoencoder_kl.channels", image, self.factor())
    }

    /// The size of the encoder's last maps.
    pub(crate) fn last_map(&self, size: [i64; 2]) -> [i64; 2] {
        size.map(|pixels| pixels / self.factor())
    }

    pub(super) fn build(&self, root: &nn::Path, shape: NetworkShape) -> AutoencoderKl {
        let n_stages = self.channels.len();
        let (first, last) = (self.channels[0], self.channels[n_stages - 1]);
        let [height, width] = self.last_map([shape.image.height, shape.image.width]);
        let last_map = [last, height, width];

        let path = root / "encoder";
        let init = shape.initialization;
        let conv = |path: nn::Path, sizes, next| init.conv(path, sizes, next);
        let down = (0..n_stages).map(|i| {
            let path = &path / i;
            let before = self.channels[i.saturating_sub(1)];
            let channels = self.channels[i];
            let halving = (i + 1 < n_stages).then(|| {
                let sizes = ConvSizes::three_unpadded(channels, channels, 2);
                init.conv(&path / "down", sizes, NextActivation::Linear)
            });
            DownStage {
                blocks: self.blocks(&path, [before, channels], self.blocks, &conv),
                halving,
            }
        });
        let down = down.collect();
        let n_moments = shape
            .latent_shape
            .map(|[channels, ..]| channels * (shape.n_posterior_params / shape.latent_dims.max(1)));
        let encoder = Encoder {
            first: init.conv(
                &path / "conv",
                ConvSizes::three(shape.encoder_channels(), first, 1),
                NextActivation::Linear,
            ),
            down,
            middle: self.middle(&path, last, &conv),
            norm: self.norm(&path / "norm", last),
            posterior: ToPosterior::build(&path, shape, last_map, None),
            quant: n_moments.filter(|_| self.quant_conv).map(|n| {
                let next = shape.to_posterior();
                init.conv(&path / "quant", ConvSizes::one(n, n), next)
            }),
            latent_map: [height, width],
        };

        let path = root / "decoder";
        let layers = shape.decoder_layers();
        let conv = |path: nn::Path, sizes, next| layers.conv(path, sizes, next);
        let up = (0..n_stages).map(|i| {
            let stage = n_stages - 1 - i;
            let path = &path / i;
            let before = self.channels[(stage + 1).min(n_stages - 1)];
            let channels = self.channels[stage];
            let doubling = (stage > 0).then(|| {
                let sizes = ConvSizes::three(channels, channels, 1);
                Doubling {
                    size: [height << (i + 1), width << (i + 1)],
                    convolution: layers.conv(&path / "up", sizes, NextActivation::Linear),
                }
            });
            UpStage {
                blocks: self.blocks(&path, [before, channels], self.blocks + 1, &conv),
                doubling,
            }
        });
        let up = up.collect();
        let n_in = shape.decoder_inputs();
        let decoder = Decoder {
            post_quant: (self.post_quant_conv && shape.latent_shape.is_some()).then(|| {
                layers.conv(
                    &path / "quant",
                    ConvSizes::one(n_in, n_in),
                    NextActivation::Linear,
                )
            }),
            latents: FromLatents::build(&path, shape, last_map, NextActivation::Linear),
            middle: self.middle(&path, last, &conv),
            up,
            norm: self.norm(&path / "norm", first),
            likelihood: layers.conv(
                &path / "likelihood",
                ConvSizes::three(first, shape.n_likelihood_maps, 1),
                shape.to_likelihood(),
            ),
        };
        AutoencoderKl { encoder, decoder }
    }

    fn norm(&self, path: nn::Path, channels: i64) -> Layer<GroupNorm> {
        group_norm_of(path, self.groups, channels, EPSILON)
    }

    /// The blocks of a stage, of which the first changes the channels.
    fn blocks<C>(
        &self,
        path: &nn::Path,
        [before, channels]: [i64; 2],
        n: usize,
        conv: &impl Fn(nn::Path, ConvSizes, NextActivation) -> C,
    ) -> Vec<Block<C>> {
        let block = |i: usize| {
            let n_in = if i == 0 { before } else { channels };
            self.block(&(path / "block" / i), n_in, channels, conv)
        };
        (0..n).map(block).collect()
    }

    fn block<C>(
        &self,
        path: &nn::Path,
        n_in: i64,
        n_out: i64,
        conv: &impl Fn(nn::Path, ConvSizes, NextActivation) -> C,
    ) -> Block<C> {
        let layer = |i: usize, n_in: i64, next| {
            let norm = self.norm(path / "norm" / i, n_in);
            let sizes = ConvSizes::three(n_in, n_out, 1);
            (norm, conv(path / "conv" / i, sizes, next))
        };
        Block {
            layers: [
                layer(0, n_in, NextActivation::Relu),
                layer(1, n_out, NextActivation::Sum),
            ],
            shortcut: (n_in != n_out).then(|| {
                let sizes = ConvSizes::one(n_in, n_out);
                conv(path / "shortcut", sizes, NextActivation::Linear)
            }),
        }
    }

    fn middle<C>(
        &self,
        path: &nn::Path,
        channels: i64,
        conv: &impl Fn(nn::Path, ConvSizes, NextActivation) -> C,
    ) -> Middle<C> {
        let path = path / "middle";
        let block = |i: usize| self.block(&(&path / "block" / i), channels, channels, conv);
        let attention = self.attention.then(|| {
            let path = &path / "attention";
            let mix =
                |name: &str, next| conv(&path / name, ConvSizes::one(channels, channels), next);
            Attention {
                norm: self.norm(&path / "norm", channels),
                query: mix("query", NextActivation::Linear),
                key: mix("key", NextActivation::Linear),
                value: mix("value", NextActivation::Linear),
                out: mix("out", NextActivation::Sum),
            }
        });
        Middle {
            blocks: [block(0), block(1)],
            attention,
        }
    }
}

#[derive(Debug)]
pub(super) struct AutoencoderKl {
    encoder: Encoder,
    decoder: Decoder,
}

#[derive(Debug)]
struct Encoder {
    first: Layer<Conv>,
    down: Vec<DownStage>,
    middle: Middle<Layer<Conv>>,
    norm: Layer<GroupNorm>,
    posterior: ToPosterior,
    quant: Option<Layer<Conv>>,
    /// The size of the latents' map.
    latent_map: [i64; 2],
}

#[derive(Debug)]
struct DownStage {
    blocks: Vec<Block<Layer<Conv>>>,
    /// `None` in the last stage.
    halving: Option<Layer<Conv>>,
}

#[derive(Debug)]
struct Decoder {
    post_quant: Option<NormalizedLayer<Conv>>,
    latents: FromLatents,
    middle: Middle<NormalizedLayer<Conv>>,
    up: Vec<UpStage>,
    norm: Layer<GroupNorm>,
    likelihood: NormalizedLayer<Conv>,
}

#[derive(Debug)]
struct UpStage {
    blocks: Vec<Block<NormalizedLayer<Conv>>>,
    /// `None` in the last stage.
    doubling: Option<Doubling>,
}

#[derive(Debug)]
struct Doubling {
    size: [i64; 2],
    convolution: NormalizedLayer<Conv>,
}

#[derive(Debug)]
struct Middle<C> {
    blocks: [Block<C>; 2],
    attention: Option<Attention<C>>,
}

#[derive(Debug)]
struct Block<C> {
    layers: [(Layer<GroupNorm>, C); 2],
    /// Where the channels change.
    shortcut: Option<C>,
}

/// Attention of one head between all places of a map. The 1×1 convolutions are fully connected layers of each place.
#[derive(Debug)]
struct Attention<C> {
    norm: Layer<GroupNorm>,
    query: C,
    key: C,
    value: C,
    out: C,
}

impl<C: Convolution> Middle<C> {
    fn apply<O: Ops>(&self, ops: &mut O, maps: O::Value) -> O::Value {
        let [before, after] = &self.blocks;
        let mut maps = ops.segment(before, maps);
        if let Some(attention) = &self.attention {
            maps = ops.segment(attention, maps);
        }
        ops.segment(after, maps)
    }
}

impl<C: Convolution> Segment for Block<C> {
    fn shallow_clone(&self) -> Self {
        let layers = [0, 1].map(|i| {
            let (norm, convolution) = &self.layers[i];
            (norm.shallow_clone(), convolution.shallow_clone())
        });
        Self {
            layers,
            shortcut: self.shortcut.as_ref().map(C::shallow_clone),
        }
    }

    fn apply<O: Ops>(&self, ops: &mut O, maps: O::Value) -> O::Value {
        let mut around = ops.share(&maps);
        for (norm, convolution) in &self.layers {
            around = ops.norm_silu(norm, around);
            around = ops.layer(convolution, around);
        }
        let maps = match &self.shortcut {
            Some(shortcut) => ops.layer(shortcut, maps),
            None => maps,
        };
        ops.sum(around, maps)
    }
}

impl<C: Convolution> Segment for Attention<C> {
    fn shallow_clone(&self) -> Self {
        Self {
            norm: self.norm.shallow_clone(),
            query: self.query.shallow_clone(),
            key: self.key.shallow_clone(),
            value: self.value.shallow_clone(),
            out: self.out.shallow_clone(),
        }
    }

    fn apply<O: Ops>(&self, ops: &mut O, maps: O::Value) -> O::Value {
        let shared = ops.share(&maps);
        let normed = ops.layer(&self.norm, shared);
        let [query, key, value] = [&self.query, &self.key, &self.value].map(|layer| {
            let normed = ops.share(&normed);
            ops.layer(layer, normed)
        });
        let attended = ops.attention(query, key, value);
        let attended = ops.layer(&self.out, attended);
        ops.sum(attended, maps)
    }
}

impl Layered for AutoencoderKl {
    fn encoder<O: Ops>(&self, ops: &mut O, images: O::Value) -> O::Value {
        let Encoder {
            first,
            down,
            middle,
            norm,
            posterior,
            quant,
            latent_map,
        } = &self.encoder;
        let maps = ops.channels_last(images);
        let mut maps = ops.layer(first, maps);
        for stage in down {
            for block in &stage.blocks {
                maps = ops.segment(block, maps);
            }
            if let Some(halving) = &stage.halving {
                maps = ops.pad_end(maps); // [B, channels, H/… + 1, W/… + 1]
                maps = ops.layer(halving, maps); // [B, channels, H/…, W/…]
            }
        }
        let maps = middle.apply(ops, maps);
        let maps = ops.norm_silu(norm, maps);
        let params = posterior.apply(ops, maps); // [B, P]
        match quant {
            Some(quant) => {
                let [height, width] = *latent_map;
                let params = ops.maps(params, [quant.n_out(), height, width]);
                let params = ops.layer(quant, params);
                ops.flatten(params)
            }
            None => params,
        }
    }

    fn decoder<O: Ops>(&self, ops: &mut O, latents: O::Value) -> O::Value {
        let Decoder {
            post_quant,
            latents: from_latents,
            middle,
            up,
            norm,
            likelihood,
        } = &self.decoder;
        let latents = match post_quant {
            Some(layer) => ops.layer(layer, latents),
            None => latents,
        };
        let maps = from_latents.apply(ops, latents, None);
        let mut maps = middle.apply(ops, maps);
        for stage in up {
            for block in &stage.blocks {
                maps = ops.segment(block, maps);
            }
            if let Some(Doubling { size, convolution }) = &stage.doubling {
                maps = ops.upsample(maps, *size); // [N, channels, …H, …W]
                maps = ops.layer(convolution, maps);
            }
        }
        let maps = ops.norm_silu(norm, maps);
        ops.layer(likelihood, maps) // [N, L·C, H, W]
    }

    fn output_weight(&self) -> &Tensor {
        self.decoder.likelihood.weight()
    }

    fn has_segments(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tch::{Device, Kind, no_grad};

    use super::super::{NetworkConfig, layers::Initialization};
    use super::*;
    use crate::{Generator, Mode, nn};

    const SIZE: [i64; 2] = [24, 16];

    fn shape() -> NetworkShape {
        NetworkShape {
            image: ImageShape {
                channels: 3,
                height: SIZE[0],
                width: SIZE[1],
            },
            tokens: None,
            latent_dims: 4 * 6 * 4,
            latent_shape: Some([4, 6, 4]),
            is_pyramid: false,
            n_condition_features: 0,
            n_posterior_params: 2 * 4 * 6 * 4,
            n_likelihood_maps: 3,
            initialization: Initialization::default(),
            decoder_spectral_norm: false,
        }
    }

    fn config() -> AutoencoderKlConfig {
        AutoencoderKlConfig {
            channels: vec![8, 8, 16],
            groups: 4,
            ..Default::default()
        }
    }

    /// The computation written down once more, from the names of diffusers.
    struct Written(HashMap<String, Tensor>);

    impl Written {
        fn conv(&self, name: &str, maps: &Tensor, padding: i64, stride: i64) -> Tensor {
            let bias = self.0.get(&format!("{name}.bias"));
            let weight = &self.0[&format!("{name}.weight")];
            maps.conv2d(weight, bias, [stride; 2], [padding; 2], [1; 2], 1)
        }

        fn norm(&self, name: &str, maps: &Tensor) -> Tensor {
            let [weight, bias] = ["weight", "bias"].map(|part| &self.0[&format!("{name}.{part}")]);
            let [batch, channels, height, width] = <[i64; 4]>::try_from(maps.size()).expect("maps");
            let groups = maps.view([batch, 4, -1]);
            let mean = groups.mean_dim(2, true, Kind::Float);
            let variance = (&groups - &mean).square().mean_dim(2, true, Kind::Float);
            let normed = (groups - mean) / (variance + 1e-6).sqrt();
            normed.view([batch, channels, height, width]) * weight.view([1, -1, 1, 1])
                + bias.view([1, -1, 1, 1])
        }

        fn block(&self, name: &str, maps: &Tensor) -> Tensor {
            let mut around = maps.shallow_clone();
            for i in 0..2 {
                around = self.norm(&format!("{name}.norm.{i}"), &around).silu();
                around = self.conv(&format!("{name}.conv.{i}"), &around, 1, 1);
            }
            let shortcut = format!("{name}.shortcut");
            match self.0.contains_key(&format!("{shortcut}.weight")) {
                true => around + self.conv(&shortcut, maps, 0, 1),
                false => around + maps,
            }
        }

        fn middle(&self, name: &str, maps: &Tensor) -> Tensor {
            let mut maps = self.block(&format!("{name}.block.0"), maps);
            let attention = format!("{name}.attention");
            if self.0.contains_key(&format!("{attention}.norm.weight")) {
                let normed = self.norm(&format!("{attention}.norm"), &maps);
                let [query, key, value] = ["query", "key", "value"].map(|part| {
                    let part = self.conv(&format!("{attention}.{part}"), &normed, 0, 1);
                    part.flatten(2, 3)
                });
                let n_channels = query.size()[1] as f64;
                let scores = query.transpose(1, 2).bmm(&key) / n_channels.sqrt();
                let attended = value.bmm(&scores.softmax(2, Kind::Float).transpose(1, 2));
                let attended = attended.view_as(&maps);
                maps += self.conv(&format!("{attention}.out"), &attended, 0, 1);
            }
            self.block(&format!("{name}.block.1"), &maps)
        }

        fn encoded(&self, config: &AutoencoderKlConfig, images: &Tensor) -> Tensor {
            let mut maps = self.conv("encoder.conv", images, 1, 1);
            for i in 0..config.channels.len() {
                for j in 0..config.blocks {
                    maps = self.block(&format!("encoder.{i}.block.{j}"), &maps);
                }
                if i + 1 < config.channels.len() {
                    let padded = maps.constant_pad_nd([0, 1, 0, 1]);
                    maps = self.conv(&format!("encoder.{i}.down"), &padded, 0, 2);
                }
            }
            maps = self.middle("encoder.middle", &maps);
            maps = self.norm("encoder.norm", &maps).silu();
            maps = self.conv("encoder.posterior", &maps, 1, 1);
            if config.quant_conv {
                maps = self.conv("encoder.quant", &maps, 0, 1);
            }
            maps.flatten(1, 3)
        }

        fn decoded(&self, config: &AutoencoderKlConfig, latents: &Tensor) -> Tensor {
            let mut maps = latents.view([-1, 4, 6, 4]);
            if config.post_quant_conv {
                maps = self.conv("decoder.quant", &maps, 0, 1);
            }
            maps = self.conv("decoder.hidden", &maps, 1, 1);
            maps = self.middle("decoder.middle", &maps);
            for i in 0..config.channels.len() {
                for j in 0..=config.blocks {
                    maps = self.block(&format!("decoder.{i}.block.{j}"), &maps);
                }
                if i + 1 < config.channels.len() {
                    let [height, width] = [maps.size()[2], maps.size()[3]];
                    let doubled = maps.upsample_nearest2d([2 * height, 2 * width], None, None);
                    maps = self.conv(&format!("decoder.{i}.up"), &doubled, 1, 1);
                }
            }
            let maps = self.norm("decoder.norm", &maps).silu();
            self.conv("decoder.likelihood", &maps, 1, 1)
        }
    }

    #[test]
    fn it_computes_what_the_reference_computes() {
        let configs = [
            config(),
            AutoencoderKlConfig {
                attention: false,
                ..config()
            },
            AutoencoderKlConfig {
                quant_conv: false,
                post_quant_conv: false,
                blocks: 1,
                ..config()
            },
        ];
        for config in configs {
            let variables = nn::VarStore::new(3);
            let network =
                NetworkConfig::AutoencoderKl(config.clone()).build(&variables.root(), shape());
            let mut noise = Generator::cpu(4);
            // Zeros at the end of blocks would hide mistakes within them.
            no_grad(|| {
                for (_, mut variable) in variables.variables() {
                    let size = variable.size();
                    variable += noise.normal(&size[..], Device::Cpu) * 0.1;
                }
            });
            let written = Written(variables.variables().into_iter().collect());
            let images = noise.normal([2, 3, SIZE[0], SIZE[1]], Device::Cpu);
            let latents = noise.normal([2, 96], Device::Cpu);
            let close = |a: &Tensor, b: &Tensor| {
                let difference = (a - b).abs().max().double_value(&[]);
                assert!(
                    difference < 2e-5 * b.abs().max().double_value(&[]).max(1.0),
                    "{difference}"
                );
            };
            no_grad(|| {
                close(
                    &network.encode(&images, None, Mode::Evaluate),
                    &written.encoded(&config, &images),
                );
                close(
                    &network.decode(&latents, None, Mode::Evaluate),
                    &written.decoded(&config, &latents),
                );
            });
        }
    }

    #[test]
    fn sides_that_do_not_come_back_are_refused() {
        let config = config();
        let image = |height, width| ImageShape {
            channels: 3,
            height,
            width,
        };
        assert!(config.check_image(image(8, 12)).is_ok());
        let said = config.check_image(image(8, 10)).unwrap_err().to_string();
        assert!(said.contains("multiples of 4"), "{said}");
        let uneven = AutoencoderKlConfig {
            groups: 3,
            ..config
        };
        let said = uneven.check().unwrap_err().to_string();
        assert!(said.contains("does not divide the 8 channels"), "{said}");
    }
}
