//! `likelihood.laplace`: the absolute error, normalized to a density.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use vae_torch::Generator;

use super::scale::{MeanError, mean_of_batch};
use super::{
    GraphLikelihood, Likelihood, MINUS_ONE_ONE, MeanActivation, ScaleConfig, sum_over_values,
    to_minus_one_one, to_zero_one, to_zero_one_graph,
};
use crate::graph::{Graph, Value};
use crate::{Mode, nn};

/// Independent Laplace values of density exp(−|x − m|/b) / 2b, with one b for all; bytes are scaled to `[-1, 1]`,
/// arrays are standardized. A few large errors cost less than with the Gaussian.
///
/// A density: nats per item, for arrays in the data's own unit; no bits/dim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LaplaceConfig {
    /// b, the mean absolute deviation of a pixel in [-1, 1] or of a standardized value: a positive number, or
    /// learned. Default `"learned"`.
    pub scale: ScaleConfig,
    /// The function that turns the decoder's output into the mean. Default `"linear"`.
    pub mean: MeanActivation,
}

/// Mean absolute value of a byte's rounding, uniform in a step of 2/255, which no decoder can explain.
const LEAST_SCALE: f64 = (2.0 / 255.0) / 4.0;

impl LaplaceConfig {
    pub(super) fn build(&self, path: &nn::Path) -> Laplace {
        Laplace {
            mean: self.mean,
            scale: match self.scale {
                ScaleConfig::Fixed(scale) => MeanError::Fixed(scale),
                // A scale for each channel is for arrays, which are built elsewhere.
                ScaleConfig::Learned | ScaleConfig::LearnedPerChannel => {
                    MeanError::learned(path, "scale", &[], LEAST_SCALE)
                }
            },
        }
    }
}

#[derive(Debug)]
pub(super) struct Laplace {
    mean: MeanActivation,
    scale: MeanError,
}

impl Likelihood for Laplace {
    fn scale(&self, images: &Tensor) -> Tensor {
        to_minus_one_one(images)
    }

    fn value_range(&self) -> [f64; 2] {
        MINUS_ONE_ONE
    }

    fn log_prob(&self, params: &Tensor, targets: &Tensor, mode: Mode) -> Tensor {
        let n_values = targets.size()[1..].iter().product::<i64>() as f64;
        let errors = self.mean.apply(params) - targets;
        let absolute_error = sum_over_values(&errors.abs()); // [K, B]
        let mean_absolute = mean_of_batch(&absolute_error) / n_values;
        let scale = self.scale.of(&mean_absolute, mode);
        -(absolute_error / &scale + (scale * 2.0).log() * n_values)
    }

    fn mean_image(&self, params: &Tensor) -> Tensor {
        to_zero_one(&self.mean.apply(params))
    }

    fn sample(&self, params: &Tensor, generator: &mut Generator) -> Tensor {
        let mean = self.mean.apply(params);
        // The difference of two exponential variables is Laplace distributed.
        let mut exponential = || generator.exponential_like(&mean);
        let noise = (exponential() - exponential()) * self.scale.stored();
        to_zero_one(&(mean + noise))
    }
}

impl GraphLikelihood for Laplace {
    fn mean_graph(&self, graph: &mut Graph, params: &Value) -> Option<Value> {
        let mean = self.mean.graph(graph, params);
        Some(to_zero_one_graph(graph, &mean))
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn log_prob_is_the_closed_form() {
        // Errors ½ and −1 with b = ¼: −(2 + 4) − 2·ln ½.
        let config = LaplaceConfig {
            scale: ScaleConfig::Fixed(0.25),
            mean: MeanActivation::Linear,
        };
        let laplace = config.build(&nn::VarStore::new(1).root());
        let params = Tensor::from_slice(&[0.5_f32, -1.0]).view([1, 1, 1, 1, 2]);
        let targets = Tensor::zeros([1, 1, 1, 2], (Kind::Float, Device::Cpu));
        let log_prob = laplace.log_prob(&params, &targets, Mode::Train);
        let wanted = -6.0 - 2.0 * 0.5_f64.ln();
        assert!((log_prob.double_value(&[0, 0]) - wanted).abs() < 1e-6);
    }
}
