//! Optimizers of our own: tch's cannot give their moments out, which exact resume will need.

use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use crate::TrainError;

/// Which optimizer (`[optimizer.…]` in a config file).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OptimizerConfig {
    /// Adam (Kingma & Ba 2015, <https://arxiv.org/abs/1412.6980>).
    Adam(AdamConfig),
    /// RMSprop (Hinton 2012, Coursera lecture 6e), not centered, no momentum.
    Rmsprop(RmspropConfig),
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::Adam(AdamConfig::default())
    }
}

/// Adam's numbers; the defaults are PyTorch's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamConfig {
    /// Step size. Default 1e-3.
    pub learning_rate: f64,
    /// Decay of the mean of gradients. Default 0.9.
    pub beta1: f64,
    /// Decay of the mean of squared gradients. Default 0.999.
    pub beta2: f64,
    /// Added to the root. Default 1e-8.
    pub epsilon: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }
}

/// RMSprop's numbers. The defaults are PyTorch's; Keras uses α = 0.9 and ε = 1e-7.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RmspropConfig {
    /// Step size. Default 1e-3.
    pub learning_rate: f64,
    /// Decay of the mean of squared gradients. Default 0.99.
    pub alpha: f64,
    /// Added to the root. Default 1e-8.
    pub epsilon: f64,
}

impl Default for RmspropConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            alpha: 0.99,
            epsilon: 1e-8,
        }
    }
}

impl OptimizerConfig {
    /// Refuses numbers outside their range.
    ///
    /// # Errors
    /// A learning rate or ε that is not positive, a decay outside [0, 1).
    pub fn check(&self) -> Result<(), TrainError> {
        let (positive, decays) = match self {
            Self::Adam(c) => (
                [
                    ("optimizer.adam.learning_rate", c.learning_rate),
                    ("optimizer.adam.epsilon", c.epsilon),
                ],
                vec![
                    ("optimizer.adam.beta1", c.beta1),
                    ("optimizer.adam.beta2", c.beta2),
                ],
            ),
            Self::Rmsprop(c) => (
                [
                    ("optimizer.rmsprop.learning_rate", c.learning_rate),
                    ("optimizer.rmsprop.epsilon", c.epsilon),
                ],
                vec![("optimizer.rmsprop.alpha", c.alpha)],
            ),
        };
        let refused = |key, value, wanted| {
            Err(TrainError::Config {
                key,
                problem: format!("found {value}, {wanted} is needed"),
            })
        };
        for (key, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return refused(key, value, "a positive number");
            }
        }
        for (key, value) in decays {
            if !(0.0..1.0).contains(&value) {
                return refused(key, value, "a number in [0, 1)");
            }
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        match self {
            Self::Adam(config) => config.learning_rate,
            Self::Rmsprop(config) => config.learning_rate,
        }
    }
}

/// An optimizer at work on a model's variables.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    variables: Vec<Variable>,
    n_steps: i32,
    learning_rate: f64,
}

#[derive(Debug)]
struct Variable {
    value: Tensor,
    /// Mean of gradients (Adam only).
    mean: Option<Tensor>,
    /// Mean of squared gradients.
    mean_square: Tensor,
}

impl Optimizer {
    /// For these named variables, which share memory with the model's.
    #[must_use]
    pub fn new(config: &OptimizerConfig, variables: Vec<(String, Tensor)>) -> Self {
        let variables = variables
            .into_iter()
            .map(|(_, value)| Variable {
                mean: match config {
                    OptimizerConfig::Adam(_) => Some(value.zeros_like()),
                    OptimizerConfig::Rmsprop(_) => None,
                },
                mean_square: value.zeros_like(),
                value,
            })
            .collect();
        Self {
            config: config.clone(),
            variables,
            n_steps: 0,
            learning_rate: config.learning_rate(),
        }
    }

    /// The step size of the next step.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// Multiplies the config's learning rate for the steps to come.
    pub fn scale_learning_rate(&mut self, factor: f64) {
        self.learning_rate = self.config.learning_rate() * factor;
    }

    /// One step downhill: the gradients of `loss`, then the update.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn minimize(&mut self, loss: &Tensor) -> Result<(), TrainError> {
        for variable in &mut self.variables {
            variable.value.zero_grad();
        }
        loss.f_backward()?;
        self.n_steps += 1;
        no_grad(|| match &self.config {
            OptimizerConfig::Adam(config) => adam(
                config,
                self.learning_rate,
                self.n_steps,
                &mut self.variables,
            ),
            OptimizerConfig::Rmsprop(config) => {
                rmsprop(config, self.learning_rate, &mut self.variables)
            }
        });
        Ok(())
    }
}

/// Algorithm 1 of Kingma & Ba, in PyTorch's order of operations.
fn adam(config: &AdamConfig, learning_rate: f64, n_steps: i32, variables: &mut [Variable]) {
    let step_size = learning_rate / (1.0 - config.beta1.powi(n_steps));
    let root_correction = (1.0 - config.beta2.powi(n_steps)).sqrt();
    for Variable {
        value,
        mean,
        mean_square,
    } in variables
    {
        let gradient = value.grad();
        let Some(mean) = mean else {
            unreachable!("Adam keeps a mean for each variable");
        };
        let _ = mean.lerp_(&gradient, 1.0 - config.beta1);
        let _ = mean_square.lerp_(&gradient.square(), 1.0 - config.beta2);
        let mut root = mean_square.sqrt();
        root /= root_correction;
        root += config.epsilon;
        let mut update = &*mean / root;
        update *= step_size;
        *value -= update;
    }
}

fn rmsprop(config: &RmspropConfig, learning_rate: f64, variables: &mut [Variable]) {
    for Variable {
        value, mean_square, ..
    } in variables
    {
        let gradient = value.grad();
        let _ = mean_square.lerp_(&gradient.square(), 1.0 - config.alpha);
        let mut root = mean_square.sqrt();
        root += config.epsilon;
        let mut update = gradient / root;
        update *= learning_rate;
        *value -= update;
    }
}
