//! `likelihood.scaled_bernoulli`: the cross-entropy of pixels with a chosen scale.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use vae_torch::Generator;

use super::{GraphLikelihood, Likelihood, bernoulli::Bernoulli, bytes_to_zero_one};
use crate::graph::{Graph, Value};
use crate::{Mode, ModelError};

/// The cross-entropy of `bernoulli` for bytes scaled to `[black, white]`. With the defaults it equals that likelihood.
///
/// Other values reproduce programs that scale twice: with `white = 0.00392156862745098`, 1/255, all targets are nearly
/// 0, and after some training all pixels are too. The mean image is the one that such a program shows, the logistic
/// function without undoing the scaling. Targets outside `[0, 1]` are not probabilities; the value logged as the
/// reconstruction is then only a loss, not a likelihood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScaledBernoulliConfig {
    /// The target for the byte 0. Less than `white`. Default 0.
    #[schemars(range(min = -1.0, max = 1.0))]
    pub black: f64,
    /// The target for the byte 255. More than `black`. Default 1.
    #[schemars(range(min = -1.0, max = 1.0))]
    pub white: f64,
}

impl Default for ScaledBernoulliConfig {
    fn default() -> Self {
        Self {
            black: 0.0,
            white: 1.0,
        }
    }
}

impl ScaledBernoulliConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let Self { black, white } = *self;
        for (name, value) in [("black", black), ("white", white)] {
            if !(-1.0..=1.0).contains(&value) {
                let key = format!("model.likelihood.scaled_bernoulli.{name}");
                let problem = format!("found {value}, expected a number from -1 to 1");
                return Err(ModelError::config(key, problem));
            }
        }
        if black < white {
            return Ok(());
        }
        Err(ModelError::config(
            "model.likelihood.scaled_bernoulli.white",
            format!("found {white}, expected more than black = {black}"),
        ))
    }

    pub(super) fn build(&self) -> ScaledBernoulli {
        ScaledBernoulli {
            black: self.black,
            white: self.white,
        }
    }
}

#[derive(Debug)]
pub(super) struct ScaledBernoulli {
    black: f64,
    white: f64,
}

impl Likelihood for ScaledBernoulli {
    fn scale(&self, images: &Tensor) -> Tensor {
        bytes_to_zero_one(images) * (self.white - self.black) + self.black
    }

    fn value_range(&self) -> [f64; 2] {
        [self.black, self.white]
    }

    fn log_prob(&self, logits: &Tensor, targets: &Tensor, mode: Mode) -> Tensor {
        Bernoulli.log_prob(logits, targets, mode)
    }

    fn mean_image(&self, logits: &Tensor) -> Tensor {
        Bernoulli.mean_image(logits)
    }

    fn sample(&self, logits: &Tensor, generator: &mut Generator) -> Tensor {
        Bernoulli.sample(logits, generator)
    }
}

impl GraphLikelihood for ScaledBernoulli {
    fn mean_graph(&self, graph: &mut Graph, logits: &Value) -> Option<Value> {
        Bernoulli.mean_graph(graph, logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_to_the_ends_of_the_scale_and_the_defaults_are_bernoullis() {
        let bytes = Tensor::from_slice(&[0_u8, 51, 255]);
        let scaled = |black, white| {
            let likelihood = ScaledBernoulliConfig { black, white }.build();
            Vec::<f32>::try_from(likelihood.scale(&bytes)).expect("numbers")
        };
        let close = |found: Vec<f32>, wanted: [f64; 3]| {
            for (found, wanted) in found.iter().zip(wanted) {
                assert!(
                    (f64::from(*found) - wanted).abs() < 1e-7,
                    "{found} {wanted}"
                );
            }
        };
        close(scaled(0.0, 1.0), [0.0, 0.2, 1.0]);
        let step = 1.0 / 255.0;
        close(scaled(-step, step), [-step, -0.6 * step, step]);
        let logits = Tensor::from_slice(&[0.3_f32, -2.0]).view([1, 1, 1, 1, 2]);
        let targets = Tensor::from_slice(&[1_f32, 0.0]).view([1, 1, 1, 2]);
        let default = ScaledBernoulliConfig::default().build();
        assert_eq!(
            default.log_prob(&logits, &targets, Mode::Train),
            Bernoulli.log_prob(&logits, &targets, Mode::Train)
        );
    }

    #[test]
    fn invalid_scales_are_refused() {
        for (black, white) in [(0.0, 0.0), (0.5, 0.1), (f64::NAN, 1.0), (0.0, 255.0)] {
            let config = ScaledBernoulliConfig { black, white };
            assert!(config.check().is_err(), "{black} {white}");
        }
        assert!(ScaledBernoulliConfig::default().check().is_ok());
    }
}
