//! `[model.topology]`: how the latents of an item hang together. It is what posterior and prior share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::graph::{Activation, Graph, Op, Value};
use crate::network::layers::{Affine, NextActivation};
use crate::network::{LARGEST_DEPTH, LARGEST_SIZE, check_sizes};
use crate::{Initialization, ModelError, nn};

/// How latents depend on each other in the prior and in the posterior (`topology` or `[model.topology.…]` in a
/// config file).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TopologyConfig {
    /// All latents in one group: p(z) is the prior, q(z|x) the posterior.
    #[default]
    Flat,
    /// Latents in levels, each drawn given the one above it.
    Ladder(LadderConfig),
    /// Two maps of codes (VQ-VAE-2, Razavi et al. 2019, <https://arxiv.org/abs/1906.00446>): one of `latent_shape`, and
    /// above it one of half its rows and columns for what is global. The lower codes are chosen given the upper ones, and
    /// the decoder gets both. Each map has codebooks of its own. A latent vector is the upper map followed by the lower
    /// one. For posteriors whose latents are codes.
    Pyramid,
}

/// A ladder (Sønderby et al. 2016, <https://arxiv.org/abs/1602.02282>). Of the levels z_L … z_1 the top one has the
/// model's `prior`; below it p(z_i|z_{i+1}) = N(μ_p, σ_p²), from a network that is run from the top down. The
/// encoder gives an estimate N(μ̂, σ̂²) of every level, and below the top
/// q(z_i|x, z_{i+1}) = N(μ_q, σ_q²) weighs the two by their precisions:
/// σ_q⁻² = σ̂⁻² + σ_p⁻², μ_q = σ_q²·(μ̂·σ̂⁻² + μ_p·σ_p⁻²).
///
/// A latent vector is the levels one behind the other, the top one first. The decoder gets all of it, not z_1 alone
/// as in the paper, so that moving a latent of any level is seen. The kl of each level is logged as `kl_1`, `kl_2`, …
/// from the lowest up; their sum is the kl. Needs the posterior `diagonal_gaussian` and the prior `standard_normal` or
/// `conditional_gaussian`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LadderConfig {
    /// Latents of each level from the top down, at least two levels. Their sum takes the place of `latent_dims`.
    /// Default `[8, 32]`.
    #[schemars(length(min = 2, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub levels: Vec<i64>,
    /// Width of the hidden layer, with ReLU, of each network from a level to the next lower one. Default 128.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub hidden: i64,
}

impl Default for LadderConfig {
    fn default() -> Self {
        Self {
            levels: vec![8, 32],
            hidden: 128,
        }
    }
}

impl TopologyConfig {
    pub(crate) fn is_flat(&self) -> bool {
        matches!(self, Self::Flat)
    }

    /// The levels' sizes from the top down; none where there is one group.
    pub(crate) fn ladder(&self) -> Option<&LadderConfig> {
        match self {
            Self::Flat | Self::Pyramid => None,
            Self::Ladder(config) => Some(config),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::Flat | Self::Pyramid => Ok(()),
            Self::Ladder(config) => config.check(),
        }
    }
}

impl LadderConfig {
    fn check(&self) -> Result<(), ModelError> {
        let key = "model.topology.ladder.levels";
        check_sizes(key, &self.levels)?;
        check_sizes("model.topology.ladder.hidden", &[self.hidden])?;
        match self.levels.len() {
            n @ (0 | 1) => Err(ModelError::config(
                key,
                format!("found {n} levels, at least 2 are needed; topology = \"flat\" has one"),
            )),
            _ => Ok(()),
        }
    }

    /// Z, the latents of all levels.
    pub(crate) fn n_latents(&self) -> i64 {
        self.levels.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// Of p(z_i|z_{i+1}): a Gaussian that shrinks onto a single latent would have an infinite density.
const LARGEST_LOG_VAR: f64 = 10.0;

/// The part of a ladder that prior and posterior share: the networks from each level to the one below it.
#[derive(Debug)]
pub(crate) struct TopDown {
    /// Latents of each level from the top down.
    pub(crate) levels: Vec<i64>,
    /// One fewer.
    networks: Vec<LevelNetwork>,
}

/// z_{i+1} → mean and log-variance of p(z_i|z_{i+1}).
#[derive(Debug)]
struct LevelNetwork {
    hidden: Affine,
    output: Affine,
}

impl TopDown {
    /// The variables of the network to level i are under `path / "level_i" `, the lowest level being 1. A fresh
    /// ladder has p(z_i|z_{i+1}) = N(0, I).
    pub(crate) fn build(
        path: &nn::Path,
        config: &LadderConfig,
        initialization: Initialization,
    ) -> Self {
        let networks = config.levels.windows(2).enumerate().map(|(i, sizes)| {
            let path = path / format!("level_{}", config.levels.len() - 1 - i);
            let linear = |name: &str, n_in: i64, n_out: i64, next: NextActivation| {
                Affine::new(initialization.linear(&path / name, n_in, n_out, next))
            };
            LevelNetwork {
                hidden: linear("hidden", sizes[0], config.hidden, NextActivation::Relu),
                output: linear("output", config.hidden, 2 * sizes[1], NextActivation::Sum),
            }
        });
        Self {
            levels: config.levels.clone(),
            networks: networks.collect(),
        }
    }

    /// Mean and log-variance of p(z_i|z_{i+1}), `[…, Z_i]` each, for latents `[…, Z_{i+1}]` of the level above:
    /// the `i`-th from the top, 1 being the one below it.
    pub(crate) fn below(&self, i: usize, above: &Tensor) -> [Tensor; 2] {
        let LevelNetwork { hidden, output } = &self.networks[i - 1];
        let hidden = hidden.forward(above).relu();
        // Under autocast the layers compute in half precision; densities need f32.
        let params = output.forward(&hidden).to_kind(Kind::Float);
        let n = self.levels[i];
        [
            params.narrow(-1, 0, n),
            params
                .narrow(-1, n, n)
                .clamp(-LARGEST_LOG_VAR, LARGEST_LOG_VAR),
        ]
    }

    /// [`Self::below`] as operations.
    pub(crate) fn below_graph(&self, graph: &mut Graph, i: usize, above: &Value) -> [Value; 2] {
        let LevelNetwork { hidden, output } = &self.networks[i - 1];
        let hidden = hidden.graph(graph, above);
        let hidden = graph.push("", Op::Activation(Activation::Relu), &[&hidden]);
        let params = output.graph(graph, &hidden);
        let n = self.levels[i];
        let mean = graph.narrow(&params, 0, n);
        let log_var = graph.narrow(&params, n, n);
        let log_var = graph.clamp(&log_var, -LARGEST_LOG_VAR, LARGEST_LOG_VAR);
        [mean, log_var]
    }

    /// Latents `[…, Z]` by level, from the top down.
    pub(crate) fn split(&self, latents: &Tensor) -> Vec<Tensor> {
        latents.split_with_sizes(self.levels.as_slice(), -1)
    }

    /// The same variables.
    pub(crate) fn shallow_clone(&self) -> Self {
        self.with(Affine::shallow_clone)
    }

    /// A constant to gradients.
    pub(crate) fn detach(&self) -> Self {
        self.with(Affine::detach)
    }

    fn with(&self, of: impl Fn(&Affine) -> Affine) -> Self {
        let networks = self.networks.iter().map(|network| LevelNetwork {
            hidden: of(&network.hidden),
            output: of(&network.output),
        });
        Self {
            levels: self.levels.clone(),
            networks: networks.collect(),
        }
    }
}
