//! The `[optimizer.…]` and `[training.clip]` tables.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vae_model::{Direction, Term};

use crate::{RunError, range};

/// The optimizer that minimizes the objective (`[optimizer.…]` in a config file).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerConfig {
    /// Adam (Kingma & Ba 2015, <https://arxiv.org/abs/1412.6980>).
    Adam(AdamConfig),
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019,
    /// <https://arxiv.org/abs/1711.05101>).
    Adamw(AdamwConfig),
    /// RMSprop (Hinton 2012, Coursera lecture 6e), not centered, no momentum.
    Rmsprop(RmspropConfig),
    /// Stochastic gradient descent, with or without momentum.
    Sgd(SgdConfig),
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::Adam(AdamConfig::default())
    }
}

/// The defaults are PyTorch's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamConfig {
    /// Step size. `schedule` multiplies it by a factor. Default 1e-3.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1e12))]
    pub learning_rate: f64,
    /// β₁, the decay of the running mean of gradients. Default 0.9.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta1: f64,
    /// β₂, the decay of the running mean of squared gradients. Default 0.999.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta2: f64,
    /// ε, added to the root of the mean squared gradient. Default 1e-8.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1e12))]
    pub epsilon: f64,
    /// λ; λ·weight is added to the gradient of each weight. Default 0.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight_decay: f64,
    /// Apply `weight_decay` to every variable, as PyTorch does, instead of only to the weights of layers.
    /// With false, biases, norms, scales, and what a prior or a likelihood learns (means, log-variances,
    /// pseudo-inputs) are not decayed. Default false.
    pub decay_all: bool,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            decay_all: false,
        }
    }
}

/// The defaults are PyTorch's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamwConfig {
    /// Step size. `schedule` multiplies it by a factor. Default 1e-3.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1e12))]
    pub learning_rate: f64,
    /// β₁, the decay of the running mean of gradients. Default 0.9.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta1: f64,
    /// β₂, the decay of the running mean of squared gradients. Default 0.999.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta2: f64,
    /// ε, added to the root of the mean squared gradient. Default 1e-8.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1e12))]
    pub epsilon: f64,
    /// λ; each step reduces the weights by the fraction `learning_rate`·λ. Default 0.01.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight_decay: f64,
    /// Apply `weight_decay` to every variable, as PyTorch does, instead of only to the weights of layers.
    /// Default false.
    pub decay_all: bool,
}

impl Default for AdamwConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            decay_all: false,
        }
    }
}

/// The defaults are PyTorch's; Keras uses α = 0.9 and ε = 1e-7.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RmspropConfig {
    /// Step size. `schedule` multiplies it by a factor. Default 1e-3.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1e12))]
    pub learning_rate: f64,
    /// α, the decay of the running mean of squared gradients. Default 0.99.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub alpha: f64,
    /// ε, added to the root of the mean squared gradient. Default 1e-8.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1e12))]
    pub epsilon: f64,
    /// λ; λ·weight is added to the gradient of each weight. Default 0.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight_decay: f64,
    /// Apply `weight_decay` to every variable, as PyTorch does, instead of only to the weights of layers.
    /// Default false.
    pub decay_all: bool,
}

impl Default for RmspropConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            alpha: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.0,
            decay_all: false,
        }
    }
}

/// In PyTorch's form: v ← momentum·v + gradient, then weight ← weight − `learning_rate`·v.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    /// Step size. `schedule` multiplies it by a factor. Default 1e-3.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1e12))]
    pub learning_rate: f64,
    /// Decay of the sum of gradients; 0 is plain descent. Default 0.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub momentum: f64,
    /// Step along gradient + momentum·v instead of v (Nesterov's momentum, Sutskever et al. 2013). Needs
    /// a positive `momentum`. Default false.
    pub nesterov: bool,
    /// λ; λ·weight is added to the gradient of each weight. Default 0.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight_decay: f64,
    /// Apply `weight_decay` to every variable, as PyTorch does, instead of only to the weights of layers.
    /// Default false.
    pub decay_all: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            decay_all: false,
        }
    }
}

/// The fields that all optimizers' tables have. They are repeated in the config types, because serde cannot flatten
/// a table in which unknown keys are errors.
struct Shared {
    name: &'static str,
    learning_rate: f64,
    /// Decays of running means, each with its key.
    decays: Vec<(&'static str, f64)>,
    epsilon: Option<f64>,
    weight_decay: f64,
    decay_all: bool,
}

impl OptimizerConfig {
    fn shared(&self) -> Shared {
        match self {
            Self::Adam(c) => Shared {
                name: "adam",
                learning_rate: c.learning_rate,
                decays: vec![("beta1", c.beta1), ("beta2", c.beta2)],
                epsilon: Some(c.epsilon),
                weight_decay: c.weight_decay,
                decay_all: c.decay_all,
            },
            Self::Adamw(c) => Shared {
                name: "adamw",
                learning_rate: c.learning_rate,
                decays: vec![("beta1", c.beta1), ("beta2", c.beta2)],
                epsilon: Some(c.epsilon),
                weight_decay: c.weight_decay,
                decay_all: c.decay_all,
            },
            Self::Rmsprop(c) => Shared {
                name: "rmsprop",
                learning_rate: c.learning_rate,
                decays: vec![("alpha", c.alpha)],
                epsilon: Some(c.epsilon),
                weight_decay: c.weight_decay,
                decay_all: c.decay_all,
            },
            Self::Sgd(c) => Shared {
                name: "sgd",
                learning_rate: c.learning_rate,
                decays: vec![("momentum", c.momentum)],
                epsilon: None,
                weight_decay: c.weight_decay,
                decay_all: c.decay_all,
            },
        }
    }

    /// Refuses numbers outside their range.
    ///
    /// # Errors
    /// A learning rate or ε that is not positive, a decay outside [0, 1), a negative weight decay, Nesterov's
    /// momentum with momentum 0.
    pub fn check(&self) -> Result<(), RunError> {
        let shared = self.shared();
        let key = |name: &str| format!("optimizer.{}.{name}", shared.name);
        range::positive(key("learning_rate"), shared.learning_rate)?;
        if let Some(epsilon) = shared.epsilon {
            range::positive(key("epsilon"), epsilon)?;
        }
        for (name, decay) in &shared.decays {
            range::below_1(key(name), *decay)?;
        }
        range::at_least_0(key("weight_decay"), shared.weight_decay)?;
        match self {
            Self::Sgd(c) if c.nesterov && c.momentum == 0.0 => Err(RunError::config(
                key("nesterov"),
                "found true with optimizer.sgd.momentum 0, a positive momentum is needed",
            )),
            _ => Ok(()),
        }
    }

    /// Step size.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        self.shared().learning_rate
    }

    /// λ.
    #[must_use]
    pub fn weight_decay(&self) -> f64 {
        self.shared().weight_decay
    }

    /// As [`AdamConfig::decay_all`].
    #[must_use]
    pub fn decay_all(&self) -> bool {
        self.shared().decay_all
    }

    /// Whether it corrects its moments for the number of steps.
    #[must_use]
    pub fn counts_steps(&self) -> bool {
        matches!(self, Self::Adam(_) | Self::Adamw(_))
    }

    /// The names of the moments that it keeps of each variable.
    #[must_use]
    pub fn moments(&self) -> &'static [&'static str] {
        match self {
            Self::Adam(_) | Self::Adamw(_) => &["mean", "mean_square"],
            Self::Rmsprop(_) => &["mean_square"],
            Self::Sgd(c) if c.momentum > 0.0 => &["momentum"],
            Self::Sgd(_) => &[],
        }
    }
}

/// Bounds on the gradient (`[training.clip]` in a config file), so that a rare bad batch does not move the
/// weights far away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClipConfig {
    /// Scale the whole gradient down to this Euclidean norm if its norm is larger (Pascanu et al. 2013,
    /// <https://arxiv.org/abs/1211.5063>). By default no limit.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1e12))]
    pub norm: Option<f64>,
    /// Then clip every number of the gradient to ± this value. By default no limit.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1e12))]
    pub value: Option<f64>,
    /// Skip a step whose gradient has a larger norm than this, or is NaN or infinite: the weights, the optimizer's
    /// moments and the averages stay as they are (Child 2021, <https://arxiv.org/abs/2011.10650>, §4.1). To be set far
    /// above the usual norm, which is in the logs. The share of skipped steps is logged as `skipped_steps`, and a warning
    /// says when it happens. If more than half of 100 steps are skipped, the bound is doubled, or, if their gradients are
    /// NaN or infinite, the run returns to an earlier state as `[safety]` says. By default no step is skipped.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1e12))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_above: Option<f64>,
}

impl ClipConfig {
    /// The declaration of the share of a player's steps that were skipped.
    #[must_use]
    pub fn skipped_steps(player: &str) -> Term {
        let name = match player {
            "model" => "skipped_steps".to_owned(),
            player => format!("{player}_skipped_steps"),
        };
        Term {
            name: name.into(),
            unit: "share of steps".into(),
            better: Direction::Lower,
        }
    }

    /// Refuses numbers outside their range.
    ///
    /// # Errors
    /// A bound that is not positive.
    pub fn check(&self) -> Result<(), RunError> {
        self.norm
            .map_or(Ok(()), |norm| range::positive("training.clip.norm", norm))?;
        self.value.map_or(Ok(()), |value| {
            range::positive("training.clip.value", value)
        })?;
        self.skip_above.map_or(Ok(()), |bound| {
            range::positive("training.clip.skip_above", bound)
        })
    }
}
