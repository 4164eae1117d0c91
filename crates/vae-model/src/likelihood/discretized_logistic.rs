//! `likelihood.discretized_logistic`: probabilities of the 256 values of a byte.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use vae_torch::Generator;

use super::{
    GraphLikelihood, Likelihood, MINUS_ONE_ONE, bytes_to_zero_one, sum_over_values,
    to_minus_one_one, to_zero_one, to_zero_one_graph,
};
use crate::graph::{Graph, Value};
use crate::{Mode, nn};

/// Each byte's probability is the mass of a logistic distribution in its bin (Kingma et al. 2016,
/// <https://arxiv.org/abs/1606.04934>, App. C.2; Salimans et al. 2017, <https://arxiv.org/abs/1701.05517>, §2.1). Bytes
/// are scaled to `[-1, 1]`. Bins are 2/255 wide, and those of 0 and 255 reach to infinity, so that the 256
/// probabilities sum to 1. The elbo is that of the 8-bit images, so that bits/dim are defined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscretizedLogisticConfig {
    /// Whether each channel has a single trained scale, or the decoder gives a scale for each value. Default
    /// `"per_channel"`.
    pub scale: LogisticScale,
}

/// The source of the logistic distribution's scale. Its logarithm is clamped to ±7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogisticScale {
    /// One trained number for each channel of the image.
    #[default]
    PerChannel,
    /// A scale from the decoder for each value of the image. The decoder gives the locations of all channels, then
    /// their log-scales.
    PerValue,
}

/// Half the width of a bin.
const HALF_BIN: f64 = 1.0 / 255.0;

/// Narrower distributions have all mass in one bin, wider ones are uniform; f32 would not suffice for either.
pub(super) const LARGEST_LOG_SCALE: f64 = 7.0;

/// The initial scale s: a standard deviation s·π/√3 of ½, about that of pixels.
const FIRST_LOG_SCALE: f64 = -1.29;

impl DiscretizedLogisticConfig {
    pub(super) fn n_params(&self) -> i64 {
        match self.scale {
            LogisticScale::PerChannel => 1,
            LogisticScale::PerValue => 2,
        }
    }

    pub(super) fn build(&self, path: &nn::Path, channels: i64) -> DiscretizedLogistic {
        let log_scale = match self.scale {
            LogisticScale::PerChannel => {
                let init = nn::Init::Const(FIRST_LOG_SCALE);
                Some(path.var("log_scale", &[channels, 1, 1], init))
            }
            LogisticScale::PerValue => None,
        };
        DiscretizedLogistic {
            channels,
            log_scale,
        }
    }
}

#[derive(Debug)]
pub(super) struct DiscretizedLogistic {
    channels: i64,
    /// `[C, 1, 1]`; `None` if the decoder gives it.
    log_scale: Option<Tensor>,
}

impl DiscretizedLogistic {
    /// The locations `[…, C, H, W]` and the log-scales, which broadcast to them.
    fn split(&self, params: &Tensor) -> (Tensor, Tensor) {
        let location = params.narrow(-3, 0, self.channels);
        let log_scale = match &self.log_scale {
            Some(log_scale) => log_scale.shallow_clone(),
            None => params.narrow(-3, self.channels, self.channels),
        };
        let log_scale = log_scale.clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE);
        (location, log_scale)
    }
}

impl Likelihood for DiscretizedLogistic {
    fn scale(&self, images: &Tensor) -> Tensor {
        to_minus_one_one(images)
    }

    fn value_range(&self) -> [f64; 2] {
        MINUS_ONE_ONE
    }

    fn log_prob(&self, params: &Tensor, targets: &Tensor, _: Mode) -> Tensor {
        let (location, log_scale) = self.split(params);
        sum_over_values(&log_mass(&location, &log_scale, targets))
    }

    fn mean_image(&self, params: &Tensor) -> Tensor {
        let (location, log_scale) = self.split(params);
        to_zero_one(&clipped_mean(&location, &log_scale))
    }

    fn sample(&self, params: &Tensor, generator: &mut Generator) -> Tensor {
        let (location, log_scale) = self.split(params);
        bytes_to_zero_one(&sample_bytes(&location, &log_scale, generator))
    }
}

impl GraphLikelihood for DiscretizedLogistic {
    fn mean_graph(&self, graph: &mut Graph, params: &Value) -> Option<Value> {
        let location = graph.narrow(params, 0, self.channels);
        let log_scale = match &self.log_scale {
            Some(log_scale) => graph.constant(log_scale.detach()),
            None => graph.narrow(params, self.channels, self.channels),
        };
        let log_scale = graph.clamp(&log_scale, -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE);
        // As in `clipped_mean`.
        let scale = graph.elementwise("Exp", &[&log_scale]);
        let mut tail = |end: f64| {
            let distance = graph.with_number(&location, "Sub", end);
            let distance = graph.elementwise("Abs", &[&distance]);
            let distance = graph.elementwise("Div", &[&distance, &scale]);
            let distance = graph.elementwise("Neg", &[&distance]);
            let exp = graph.elementwise("Exp", &[&distance]);
            let above_1 = graph.with_number(&exp, "Add", 1.0);
            graph.elementwise("Log", &[&above_1])
        };
        let tails = [tail(-1.0), tail(1.0)];
        let difference = graph.elementwise("Sub", &[&tails[0], &tails[1]]);
        let difference = graph.elementwise("Mul", &[&difference, &scale]);
        let clipped = graph.clamp(&location, -1.0, 1.0);
        let mean = graph.elementwise("Add", &[&clipped, &difference]);
        Some(to_zero_one_graph(graph, &mean))
    }
}

/// ln(F(upper) − F(lower)) elementwise for the bins of `targets` in `[-1, 1]`, where F is the logistic distribution
/// function.
///
/// With a and b the bin's ends in units of the scale, σ(a) − σ(b) = σ(a)·σ(−b)·(1 − exp(b − a)): three factors whose
/// logarithms are exact in f32 for every bin. In an open bin the factor of the open end and the last factor are 1.
pub(super) fn log_mass(location: &Tensor, log_scale: &Tensor, targets: &Tensor) -> Tensor {
    let per_scale = (-log_scale).exp();
    let centered = targets - location;
    let upper = (&centered + HALF_BIN) * &per_scale;
    let lower = (centered - HALF_BIN) * &per_scale;
    let is_first = targets.lt(HALF_BIN - 1.0);
    let is_last = targets.gt(1.0 - HALF_BIN);
    let zero = targets.zeros_like();
    let width = (-(per_scale * (-2.0 * HALF_BIN)).expm1()).log();
    zero.where_self(&is_last, &upper.log_sigmoid())
        + zero.where_self(&is_first, &(-lower).log_sigmoid())
        + zero.where_self(&is_first.logical_or(&is_last), &width)
}

/// The mean of a logistic variable X clipped to `[-1, 1]`, elementwise.
///
/// E\[clip X\] = −1 + ∫P(X > t)dt over `[-1, 1]` = −1 + s·(softplus((μ + 1)/s) − softplus((μ − 1)/s)).
/// With softplus(x) = max(x, 0) + ln(1 + exp(−|x|)) the two maxima add up to clip(μ), which avoids a difference of
/// large numbers. The mean of the 256 values differs from it by rounding: by less than half a step of a byte, and by
/// almost nothing if s is at least a step.
pub(super) fn clipped_mean(location: &Tensor, log_scale: &Tensor) -> Tensor {
    let scale = log_scale.exp();
    let tail = |end: f64| (-(location - end).abs() / &scale).exp().log1p();
    location.clamp(-1.0, 1.0) + (tail(-1.0) - tail(1.0)) * &scale
}

/// Bytes drawn with the probabilities exp [`log_mass`], as f32 of 0…255.
pub(super) fn sample_bytes(
    location: &Tensor,
    log_scale: &Tensor,
    generator: &mut Generator,
) -> Tensor {
    bytes_at(&generator.uniform_like(location), location, log_scale)
}

/// The quantiles of `probabilities`: the byte whose bin contains the logistic variable's quantile.
fn bytes_at(probabilities: &Tensor, location: &Tensor, log_scale: &Tensor) -> Tensor {
    // −∞, that is black, for the probability 0, which uniform noise may have.
    let noise = probabilities.log() - (-probabilities).log1p();
    let value = location + noise * log_scale.exp();
    ((value + 1.0) * 127.5).round().clamp(0.0, 255.0)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn the_256_probabilities_sum_to_1() {
        let bytes = Tensor::arange(256, (Kind::Uint8, Device::Cpu));
        let targets = to_minus_one_one(&bytes);
        for location in [-30.0, -1.1, -0.3, 0.0, 0.77, 1.0, 4.0] {
            for log_scale in [-7.0, -3.0, -1.0, 1.0, 7.0] {
                let params = [location, log_scale].map(|value| Tensor::from(value as f32));
                let log_mass = log_mass(&params[0], &params[1], &targets);
                let total = log_mass.exp().sum(Kind::Double).double_value(&[]);
                assert!(
                    (total - 1.0).abs() < 5e-5,
                    "location {location}, log-scale {log_scale}: {total}"
                );
                assert!(
                    log_mass.isfinite().all().int64_value(&[]) == 1,
                    "location {location}, log-scale {log_scale}: {log_mass:?}"
                );
            }
        }
    }

    #[test]
    fn log_mass_is_the_logarithm_of_the_difference_in_f64() {
        // In the tails f64 loses the difference of two numbers near 1, too; by symmetry it can be computed in the other
        // tail.
        let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (location, log_scale) = (0.3_f64, -2.5_f64);
        let bytes = Tensor::arange(256, (Kind::Uint8, Device::Cpu));
        let params = [location, log_scale].map(|value| Tensor::from(value as f32));
        let found = log_mass(&params[0], &params[1], &to_minus_one_one(&bytes));
        let found = Vec::<f32>::try_from(found).expect("256 numbers");
        for (byte, found) in found.into_iter().enumerate() {
            let x = byte as f64 / 127.5 - 1.0 - location;
            let end = |offset: f64| (x + offset) / log_scale.exp();
            let (low, high) = match byte {
                0 => (f64::NEG_INFINITY, end(HALF_BIN)),
                255 => (end(-HALF_BIN), f64::INFINITY),
                _ => (end(-HALF_BIN), end(HALF_BIN)),
            };
            let mass = if x > 0.0 {
                sigma(-low) - sigma(-high)
            } else {
                sigma(high) - sigma(low)
            };
            assert!(
                (f64::from(found) - mass.ln()).abs() < 2e-5,
                "{byte}: {found} vs {}",
                mass.ln()
            );
        }
    }

    #[test]
    fn locations_come_before_log_scales_channel_by_channel() {
        let targets = to_minus_one_one(&Tensor::from_slice(&[0_u8, 255])).view([1, 2, 1, 1]);
        // Two channels, each located at its target with scale 1: ln σ(1/255) for the open bins.
        let params = Tensor::from_slice(&[-1_f32, 1.0, 0.0, 0.0]).view([1, 1, 4, 1, 1]);
        let config = DiscretizedLogisticConfig {
            scale: LogisticScale::PerValue,
        };
        let logistic = config.build(&nn::VarStore::new(1).root(), 2);
        let log_prob = logistic.log_prob(&params, &targets, Mode::Train);
        let wanted = -2.0 * (1.0 + (-HALF_BIN).exp()).ln();
        assert!((log_prob.double_value(&[0, 0]) - wanted).abs() < 1e-6);
        let image = logistic.mean_image(&params.squeeze_dim(0));
        assert_eq!(image.size(), [1, 2, 1, 1]);
        // At location 1, half of the mass is clipped: 1 + ln(1 + e⁻²) − ln 2, and the mirror image.
        let wanted = 1.0 + (0.5 + 0.5 * (-2_f64).exp()).ln();
        for (channel, wanted) in [(0, 0.5 - 0.5 * wanted), (1, 0.5 + 0.5 * wanted)] {
            let found = image.double_value(&[0, channel, 0, 0]);
            assert!((found - wanted).abs() < 1e-6, "{found} vs {wanted}");
        }
    }

    #[test]
    fn the_clipped_mean_is_that_of_the_256_values() {
        let targets = to_minus_one_one(&Tensor::arange(256, (Kind::Uint8, Device::Cpu)));
        for location in [-1e6, -30.0, -1.1, -1.0, -0.3, 0.0, 0.77, 0.9987, 4.0, 1e6] {
            // For scales from a step of a byte on (ln 2/255 = −4.85) rounding averages out.
            for (log_scale, tolerance) in [
                (-7.0, HALF_BIN + 1e-5),
                (-4.8, 1e-4),
                (-3.0, 1e-4),
                (-1.0, 1e-4),
                (1.0, 1e-4),
                (7.0, 2e-4),
            ] {
                let params = [location, log_scale].map(|value| Tensor::from(value as f32));
                let probabilities = log_mass(&params[0], &params[1], &targets).exp();
                let sum = (probabilities * &targets)
                    .sum(Kind::Double)
                    .double_value(&[]);
                let mean = clipped_mean(&params[0], &params[1]).double_value(&[]);
                assert!(
                    (mean - sum).abs() < tolerance,
                    "location {location}, log-scale {log_scale}: {mean} vs {sum}"
                );
            }
        }
    }

    #[test]
    fn quantiles_are_bytes_with_their_probabilities() {
        // Among n evenly spaced quantiles a byte of probability p occurs n·p times, ±1 for each end of its bin.
        const N: i64 = 100_000;
        let options = (Kind::Float, Device::Cpu);
        let quantiles = (Tensor::arange(N, options) + 0.5) / N as f64;
        let targets = to_minus_one_one(&Tensor::arange(256, (Kind::Uint8, Device::Cpu)));
        for location in [-1.3, 0.3, 0.9] {
            for log_scale in [-7.0, -4.0, -2.0, 1.0] {
                let params = [location, log_scale].map(|value| Tensor::from(value as f32));
                let bytes = bytes_at(&quantiles, &params[0], &params[1]).to_kind(Kind::Int64);
                let counts = bytes.bincount::<Tensor>(None, 256);
                let wanted = log_mass(&params[0], &params[1], &targets).exp() * N as f64;
                let worst = (counts - wanted).abs().max().double_value(&[]);
                assert!(
                    worst < 3.0,
                    "location {location}, log-scale {log_scale}: {worst}"
                );
            }
        }
        // The ends of uniform noise.
        let ends = Tensor::from_slice(&[0.0, 1.0 - f32::EPSILON / 2.0]);
        let bytes = bytes_at(&ends, &Tensor::from(0_f32), &Tensor::from(0_f32));
        assert_eq!(Vec::<f32>::try_from(bytes).expect("bytes"), [0.0, 255.0]);
    }
}
