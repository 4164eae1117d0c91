//! `likelihood.gaussian`: the squared error, normalized to a density.

use std::f64::consts::PI;

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

/// Independent Gaussian values N(mean, σ²) with one σ for all; bytes are scaled to `[-1, 1]`, arrays are standardized.
///
/// With `sigma = 0.7071067811865476`, that is √½, the reconstruction is the squared error
/// summed over the image's values, plus the constant ½ ln π for each.
///
/// A density: nats per item, for arrays in the data's own unit; no bits/dim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GaussianConfig {
    /// σ, the standard deviation of a pixel in [-1, 1] or of a standardized value: a positive number, or
    /// learned. Default `"learned"`.
    pub sigma: ScaleConfig,
    /// The function that turns the decoder's output into the mean. Default `"linear"`.
    pub mean: MeanActivation,
}

impl GaussianConfig {
    /// The minimum of a learned σ²: the variance of a byte's rounding, uniform in a step of 2/255, which no decoder can
    /// explain.
    pub const LEAST_VARIANCE: f64 = (2.0 / 255.0) * (2.0 / 255.0) / 12.0;

    pub(super) fn build(&self, path: &nn::Path) -> Gaussian {
        Gaussian {
            mean: self.mean,
            variance: match self.sigma {
                ScaleConfig::Fixed(sigma) => MeanError::Fixed(sigma * sigma),
                // A scale for each channel is for arrays, which are built elsewhere.
                ScaleConfig::Learned | ScaleConfig::LearnedPerChannel => {
                    MeanError::learned(path, "variance", &[], Self::LEAST_VARIANCE)
                }
            },
        }
    }
}

#[derive(Debug)]
pub(super) struct Gaussian {
    mean: MeanActivation,
    variance: MeanError,
}

impl Likelihood for Gaussian {
    fn scale(&self, images: &Tensor) -> Tensor {
        to_minus_one_one(images)
    }

    fn value_range(&self) -> [f64; 2] {
        MINUS_ONE_ONE
    }

    fn log_prob(&self, params: &Tensor, targets: &Tensor, mode: Mode) -> Tensor {
        let n_values = targets.size()[1..].iter().product::<i64>() as f64;
        let errors = self.mean.apply(params) - targets;
        let squared_error = sum_over_values(&errors.square()); // [K, B]
        let mean_square = mean_of_batch(&squared_error) / n_values;
        let variance = self.variance.of(&mean_square, mode);
        (squared_error / &variance + (variance * (2.0 * PI)).log() * n_values) * -0.5
    }

    fn mean_image(&self, params: &Tensor) -> Tensor {
        to_zero_one(&self.mean.apply(params))
    }

    fn sample(&self, params: &Tensor, generator: &mut Generator) -> Tensor {
        let mean = self.mean.apply(params);
        let noise = generator.normal_like(&mean) * self.variance.stored().sqrt();
        to_zero_one(&(mean + noise))
    }
}

impl GraphLikelihood for Gaussian {
    fn mean_graph(&self, graph: &mut Graph, params: &Value) -> Option<Value> {
        let mean = self.mean.graph(graph, params);
        Some(to_zero_one_graph(graph, &mean))
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn gaussian(sigma: f64, mean: MeanActivation) -> Gaussian {
        let config = GaussianConfig {
            sigma: ScaleConfig::Fixed(sigma),
            mean,
        };
        config.build(&nn::VarStore::new(1).root())
    }

    #[test]
    fn log_prob_is_the_closed_form() {
        // Errors ½ and −1 with σ = ½: −½(1 + 4) − 2·ln(½√(2π)).
        let params = Tensor::from_slice(&[0.5_f32, -1.0]).view([1, 1, 1, 1, 2]);
        let targets = Tensor::zeros([1, 1, 1, 2], (Kind::Float, Device::Cpu));
        let gaussian = gaussian(0.5, MeanActivation::Linear);
        let log_prob = gaussian.log_prob(&params, &targets, Mode::Train);
        let wanted = -2.5 - 2.0 * (0.5 * (2.0 * PI).sqrt()).ln();
        assert!((log_prob.double_value(&[0, 0]) - wanted).abs() < 1e-6);
    }

    #[test]
    fn bytes_and_mean_images_are_the_two_ends_of_one_scale() {
        let bytes = Tensor::from_slice(&[0_u8, 51, 255]);
        let linear = gaussian(1.0, MeanActivation::Linear);
        let scaled = Vec::<f32>::try_from(linear.scale(&bytes)).expect("numbers");
        for (found, wanted) in scaled.iter().zip([-1.0, -0.6, 1.0]) {
            assert!((found - wanted).abs() < 1e-6, "{found} vs {wanted}");
        }
        // tanh(½ ln 3) = ½ and σ(ln 3) = ¾, as pixels in [0, 1]; values above white are clipped.
        let half_ln_3 = 0.5 * 3_f64.ln();
        for (mean, param, wanted) in [
            (MeanActivation::Linear, -0.5, 0.25),
            (MeanActivation::Linear, 1.5, 1.0),
            (MeanActivation::Tanh, half_ln_3, 0.75),
            (MeanActivation::Sigmoid, 2.0 * half_ln_3, 0.875),
        ] {
            let image = gaussian(1.0, mean).mean_image(&Tensor::from(param as f32));
            assert!((image.double_value(&[]) - wanted).abs() < 1e-6, "{mean:?}");
        }
    }
}
