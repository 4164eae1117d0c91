//! `discriminator.mlp`, and the fully connected layers of every discriminator of latents.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Discriminator, DiscriminatorShape, Judgement, leaky};
use crate::network::{LARGEST_DEPTH, LARGEST_SIZE, check_sizes};
use crate::nn::{self, Init, Linear, Module};
use crate::{Mode, ModelError};

/// Fully connected layers with leaky ReLUs of slope 0.2 between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MlpDiscriminatorConfig {
    /// Widths of the hidden layers. Default `[512, 256]`.
    #[schemars(length(max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub hidden: Vec<i64>,
}

impl Default for MlpDiscriminatorConfig {
    fn default() -> Self {
        Self {
            hidden: vec![512, 256],
        }
    }
}

impl MlpDiscriminatorConfig {
    pub(super) fn check(&self, key: &str) -> Result<(), ModelError> {
        check_sizes(&format!("{key}.hidden"), &self.hidden)
    }

    pub(super) fn build(&self, path: &nn::Path, shape: DiscriminatorShape) -> LeakyMlp {
        let n_in = shape.item.n_values() + shape.n_side;
        LeakyMlp::build(path, n_in, &self.hidden, 1)
    }
}

/// Linear layers with leaky ReLUs of slope 0.2 between them, initialized as in PyTorch.
#[derive(Debug)]
pub(crate) struct LeakyMlp(Vec<Linear>);

impl LeakyMlp {
    pub(crate) fn build(path: &nn::Path, n_in: i64, hidden: &[i64], n_out: i64) -> Self {
        let mut widths = vec![n_in];
        widths.extend(hidden);
        widths.push(n_out);
        let layer = |(i, pair): (usize, &[i64])| {
            let bound = 1.0 / (pair[0] as f64).sqrt();
            let init = Init::Uniform {
                lo: -bound,
                up: bound,
            };
            nn::linear(&(path / i), pair[0], pair[1], init, init)
        };
        Self(widths.windows(2).enumerate().map(layer).collect())
    }
}

impl Discriminator for LeakyMlp {
    fn judge(&self, items: &Tensor, side: Option<&Tensor>, _: Mode) -> Judgement {
        let mut values = items.flatten(1, -1);
        if let Some(side) = side {
            values = Tensor::cat(&[&values, side], 1);
        }
        let mut features = Vec::new();
        for (i, layer) in self.0.iter().enumerate() {
            values = layer.forward(&values);
            if i + 1 < self.0.len() {
                values = leaky(&values);
                features.push(values.shallow_clone());
            }
        }
        // [B, n_out]; a single output without its dimension.
        let outputs = match values.size()[1] {
            1 => values.squeeze_dim(1),
            _ => values,
        };
        Judgement { outputs, features }
    }
}
