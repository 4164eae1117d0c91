//! Discriminators: networks that tell real items from generated ones. An objective trains them beside the model.

mod conv;
mod mlp;
mod residual;

use std::fmt::Debug;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

pub use conv::{ConvDiscriminatorConfig, DiscriminatorNorm};
pub(crate) use mlp::LeakyMlp;
pub use mlp::MlpDiscriminatorConfig;
pub use residual::ResidualDiscriminatorConfig;

use crate::{ImageShape, Mode, ModelError, nn};

/// What a discriminator gives for a batch.
#[derive(Debug)]
pub struct Judgement {
    /// Its outputs: `[B]`, of a patch discriminator `[B, h, w]`. Larger ones mean "real".
    pub outputs: Tensor,
    /// The activations of its hidden layers, from the first to the last.
    pub features: Vec<Tensor>,
}

/// A network that a player trains.
pub(crate) trait Discriminator: Debug + Send {
    /// Judges items `[B, C, H, W]`, or latents `[B, Z]`. `side` `[B, S]` is what is known besides: a condition, latents.
    fn judge(&self, items: &Tensor, side: Option<&Tensor>, mode: Mode) -> Judgement;
}

/// What a discriminator has to fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiscriminatorShape {
    pub(crate) item: ImageShape,
    /// S, the number of values besides the item.
    pub(crate) n_side: i64,
}

/// The layers of a discriminator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DiscriminatorConfig {
    /// Convolutions that halve the image (DCGAN, SNGAN), with one output for an image or one for each patch.
    Conv(ConvDiscriminatorConfig),
    /// Residual blocks that halve the image, without norms that mix images.
    Residual(ResidualDiscriminatorConfig),
    /// Fully connected layers.
    Mlp(MlpDiscriminatorConfig),
}

impl Default for DiscriminatorConfig {
    fn default() -> Self {
        Self::Conv(ConvDiscriminatorConfig::default())
    }
}

impl DiscriminatorConfig {
    pub(crate) fn check(&self, key: &str) -> Result<(), ModelError> {
        match self {
            Self::Conv(config) => config.check(&format!("{key}.conv")),
            Self::Residual(config) => config.check(&format!("{key}.residual")),
            Self::Mlp(config) => config.check(&format!("{key}.mlp")),
        }
    }

    /// Whether an item's output depends on the others of its batch.
    pub(crate) fn mixes_items(&self) -> bool {
        matches!(self, Self::Conv(config) if config.normalization == DiscriminatorNorm::Batch)
    }

    /// The number of hidden layers, whose activations are features.
    pub(crate) fn n_features(&self) -> usize {
        match self {
            Self::Conv(config) => config.channels.len(),
            Self::Residual(config) => config.channels.len(),
            Self::Mlp(config) => config.hidden.len(),
        }
    }

    /// Builds a discriminator from a checked config, with fresh weights under `path`.
    pub(crate) fn build(
        &self,
        path: &nn::Path,
        shape: DiscriminatorShape,
    ) -> Box<dyn Discriminator> {
        match self {
            Self::Conv(config) => Box::new(config.build(path, shape)),
            Self::Residual(config) => Box::new(config.build(path, shape)),
            Self::Mlp(config) => Box::new(config.build(path, shape)),
        }
    }
}

/// Items with what is known besides as further channels, the same at every place: `[B, C + S, H, W]`.
fn with_side(items: &Tensor, side: Option<&Tensor>) -> Tensor {
    let Some(side) = side else {
        return items.shallow_clone();
    };
    let size = items.size();
    let maps = side.unsqueeze(-1).unsqueeze(-1);
    let maps = maps.expand([size[0], -1, size[2], size[3]], false);
    Tensor::cat(&[items, &maps], 1)
}

/// Leaky ReLU with a slope of 0.2 (Radford et al. 2016, <https://arxiv.org/abs/1511.06434>).
fn leaky(values: &Tensor) -> Tensor {
    values.maximum(&(values * 0.2))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn configs() -> Vec<DiscriminatorConfig> {
        let texts = [
            "conv = { channels = [4, 8] }",
            "conv = { channels = [4, 8], normalization = 'spectral', patch = true }",
            "conv = { channels = [4, 8], normalization = 'batch' }",
            "residual = { channels = [4, 8], spectral_norm = true }",
            "mlp = { hidden = [8, 8] }",
        ];
        texts
            .map(|text| {
                let config = serde_json::to_value(toml::from_str::<toml::Table>(text).expect(text));
                serde_json::from_value(config.expect(text)).expect(text)
            })
            .into()
    }

    #[test]
    fn every_discriminator_judges_items_of_any_size_with_and_without_a_side() {
        let sizes = [[1, 28, 28], [3, 7, 5], [2, 1, 17], [1, 1, 1]];
        for config in configs() {
            config.check("d").expect("a good config");
            for ([channels, height, width], n_side) in sizes.into_iter().zip([0, 3, 0, 2]) {
                let item = ImageShape {
                    channels,
                    height,
                    width,
                };
                let variables = nn::VarStore::new(1);
                let shape = DiscriminatorShape { item, n_side };
                let network = config.build(&variables.root(), shape);
                let items = Tensor::ones([3, channels, height, width], (Kind::Float, Device::Cpu));
                let side = Tensor::ones([3, n_side], (Kind::Float, Device::Cpu));
                let side = (n_side > 0).then_some(&side);
                for mode in [Mode::Train, Mode::Evaluate] {
                    let Judgement { outputs, features } = network.judge(&items, side, mode);
                    assert_eq!(outputs.size()[0], 3, "{config:?}");
                    assert_eq!(features.len(), config.n_features());
                    let is_patch = matches!(&config, DiscriminatorConfig::Conv(c) if c.patch);
                    assert_eq!(outputs.dim(), if is_patch { 3 } else { 1 });
                    assert!(bool::try_from(outputs.isfinite().all()).expect("a bool"));
                }
            }
        }
    }

    #[test]
    fn an_item_is_judged_alone_unless_there_is_batch_norm() {
        for config in configs() {
            let item = ImageShape {
                channels: 1,
                height: 8,
                width: 8,
            };
            let variables = nn::VarStore::new(1);
            let shape = DiscriminatorShape { item, n_side: 0 };
            let network = config.build(&variables.root(), shape);
            let items = Tensor::arange(3 * 64, (Kind::Float, Device::Cpu)).sin();
            let items = items.view([3, 1, 8, 8]);
            let judge = |items: &Tensor| network.judge(items, None, Mode::Train).outputs.get(0);
            // Power iterations have converged by then.
            for _ in 0..200 {
                let _ = judge(&items);
            }
            let difference = judge(&items) - judge(&items.narrow(0, 0, 2));
            let difference = difference.abs().max().double_value(&[]);
            assert_eq!(difference > 1e-4, config.mixes_items(), "{config:?}");
        }
    }

    #[test]
    fn the_side_matters() {
        for config in configs() {
            let item = ImageShape {
                channels: 1,
                height: 4,
                width: 4,
            };
            let variables = nn::VarStore::new(1);
            let shape = DiscriminatorShape { item, n_side: 2 };
            let network = config.build(&variables.root(), shape);
            let items = Tensor::ones([2, 1, 4, 4], (Kind::Float, Device::Cpu));
            let of = |side: &[f32]| {
                let side = Tensor::from_slice(side).view([2, 2]);
                network.judge(&items, Some(&side), Mode::Evaluate).outputs
            };
            let (a, b) = (of(&[1.0, 0.0, 1.0, 0.0]), of(&[0.0, 1.0, 1.0, 0.0]));
            let difference = (a - b)
                .view([2, -1])
                .abs()
                .sum_dim_intlist(1, false, Kind::Float);
            assert!(difference.double_value(&[0]) > 1e-6, "{config:?}");
        }
    }
}
