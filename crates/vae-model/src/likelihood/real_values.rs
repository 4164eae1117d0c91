//! Independent densities of real values: the likelihoods `gaussian`, `laplace` and `student_t` on arrays, and
//! `student_t` on images.

use std::f64::consts::PI;

use tch::{Kind, Tensor};
use vae_base::ItemSpec;
use vae_torch::Generator;

use super::scale::MeanError;
use super::{
    GaussianConfig, GraphLikelihood, Likelihood, MINUS_ONE_ONE, MeanActivation, ScaleConfig,
    ZERO_ONE, sum_over_values, to_minus_one_one, to_zero_one, to_zero_one_graph,
};
use crate::graph::{Graph, Value};
use crate::{Mode, nn, share};

/// The form of the density.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Density {
    Gaussian,
    Laplace,
    StudentT { degrees_of_freedom: f64 },
}

/// The range of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Domain {
    /// Bytes, scaled to `[-1, 1]`.
    Pixels,
    /// Standardized values of an array.
    Reals { has_missing: bool },
}

/// Independent values whose density depends on the difference from the decoder's output.
#[derive(Debug)]
pub(super) struct RealValues {
    density: Density,
    mean: MeanActivation,
    /// The square of σ, of b, or of the t distribution's scale.
    square: MeanError,
    domain: Domain,
}

/// The minimum scale of a standardized value: a thousandth of its standard deviation. It prevents an infinite density
/// for constant values.
const LEAST_SCALE: f64 = 1e-3;

impl RealValues {
    pub(super) fn build(
        path: &nn::Path,
        item: &ItemSpec,
        density: Density,
        scale: ScaleConfig,
        mean: MeanActivation,
    ) -> Self {
        let (domain, floor) = match item.is_image() {
            true => (Domain::Pixels, GaussianConfig::LEAST_VARIANCE),
            false => {
                let has_missing = item.has_missing;
                (Domain::Reals { has_missing }, LEAST_SCALE * LEAST_SCALE)
            }
        };
        let learned = |shape: &[i64]| MeanError::learned(path, "square_scale", shape, floor);
        Self {
            density,
            mean,
            square: match scale {
                ScaleConfig::Fixed(scale) => MeanError::Fixed(scale * scale),
                ScaleConfig::Learned => learned(&[]),
                ScaleConfig::LearnedPerChannel => learned(&item.statistics_shape()),
            },
            domain,
        }
    }

    /// Differences from the mean, 0 for missing values, `[K, B, C, H, W]`. If values may be missing, also a mask that
    /// is 1 for each observed value, `[B, C, H, W]`.
    fn errors(&self, params: &Tensor, targets: &Tensor) -> (Tensor, Option<Tensor>) {
        let mean = self.mean.apply(params);
        match self.domain {
            Domain::Reals { has_missing: true } => {
                let is_missing = targets.isnan();
                let observed = is_missing.logical_not().to_kind(Kind::Float);
                let targets = targets.masked_fill(&is_missing, 0.0);
                ((mean - targets) * &observed, Some(observed))
            }
            _ => (mean - targets, None),
        }
    }

    /// The square of the scale with the maximum likelihood for the errors of a batch.
    fn best_square(&self, errors: &Tensor, observed: Option<&Tensor>) -> Tensor {
        let errors = errors.detach();
        let mean = |values: Tensor| self.mean_over_items(&values, observed);
        match self.density {
            Density::Gaussian => mean(errors.square()),
            Density::Laplace => mean(errors.abs()).square(),
            Density::StudentT {
                degrees_of_freedom: nu,
            } => {
                // The fixed point s² = E[(ν + 1)·e² / (ν + e²/s²)], by expectation maximization (Liu & Rubin 1995).
                // Starting from the variance it decreases to the maximum.
                let square = errors.square();
                let mut scale = mean(square.shallow_clone()).clamp_min(LEAST_SCALE * LEAST_SCALE);
                for _ in 0..N_ITERATIONS {
                    scale = mean(&square * (nu + 1.0) / (&square / &scale + nu))
                        .clamp_min(LEAST_SCALE * LEAST_SCALE);
                }
                scale
            }
        }
    }

    /// The mean over samples, items and all values that share a scale.
    fn mean_over_items(&self, values: &Tensor, observed: Option<&Tensor>) -> Tensor {
        let shape = self.square.shape();
        // The dimensions of size 1 in [C, 1, 1] or [1, 1, D]; all dimensions for a single scale.
        let mut dims = vec![0, 1];
        dims.extend(
            (0..3)
                .filter(|&i| shape.get(i).is_none_or(|&n| n == 1))
                .map(|i| i as i64 + 2),
        );
        let sum = |values: &Tensor| {
            let own = values.sum_dim_intlist(dims.as_slice(), false, Kind::Float);
            share::sum_of_batch(own.view(shape.as_slice()))
        };
        match observed {
            Some(observed) => {
                let n_observed = sum(&observed.expand_as(values)).clamp_min(1.0);
                sum(values) / n_observed
            }
            None => {
                let n = values.numel() as i64 / shape.iter().product::<i64>();
                sum(values) / share::n_of_batch(n) as f64
            }
        }
    }

    /// log p in nats of each error, given the square of the scale.
    fn log_density(&self, errors: &Tensor, square: &Tensor) -> Tensor {
        match self.density {
            Density::Gaussian => (errors.square() / square + (square * (2.0 * PI)).log()) * -0.5,
            Density::Laplace => {
                let scale = square.sqrt();
                -(errors.abs() / &scale + (scale * 2.0).log())
            }
            Density::StudentT {
                degrees_of_freedom: nu,
            } => {
                let constant =
                    ln_gamma(0.5 * (nu + 1.0)) - ln_gamma(0.5 * nu) - 0.5 * (nu * PI).ln();
                let tails = (errors.square() / (square * nu)).log1p() * (-0.5 * (nu + 1.0));
                tails - square.log() * 0.5 + constant
            }
        }
    }

    fn out(&self, values: &Tensor) -> Tensor {
        match self.domain {
            Domain::Pixels => to_zero_one(values),
            Domain::Reals { .. } => values.shallow_clone(),
        }
    }
}

/// Iterations for the scale of a t distribution. Each reduces the distance to the maximum to about the fraction 2/(ν +
/// 3).
const N_ITERATIONS: usize = 12;

/// ln Γ(x) for x > 0.
fn ln_gamma(x: f64) -> f64 {
    Tensor::from(x).lgamma().double_value(&[])
}

impl Likelihood for RealValues {
    fn scale(&self, items: &Tensor) -> Tensor {
        match self.domain {
            Domain::Pixels => to_minus_one_one(items),
            Domain::Reals { .. } => items.to_kind(Kind::Float),
        }
    }

    fn value_range(&self) -> [f64; 2] {
        match self.domain {
            Domain::Pixels => MINUS_ONE_ONE,
            Domain::Reals { .. } => ZERO_ONE,
        }
    }

    fn log_prob(&self, params: &Tensor, targets: &Tensor, mode: Mode) -> Tensor {
        let (errors, observed) = self.errors(params, targets);
        let best = || self.best_square(&errors, observed.as_ref());
        let square = self.square.of_batch(best, mode);
        let log_density = self.log_density(&errors, &square);
        match observed {
            Some(observed) => sum_over_values(&(log_density * observed)),
            None => sum_over_values(&log_density),
        }
    }

    fn value_log_prob(&self, params: &Tensor, targets: &Tensor) -> Option<Tensor> {
        let errors = self.mean.apply(params) - targets; // NaN where a value is missing.
        Some(self.log_density(&errors, &self.square.stored()))
    }

    fn mean_image(&self, params: &Tensor) -> Tensor {
        self.out(&self.mean.apply(params))
    }

    fn sample(&self, params: &Tensor, generator: &mut Generator) -> Tensor {
        let mean = self.mean.apply(params);
        let noise = match self.density {
            Density::Gaussian => generator.normal_like(&mean),
            // The difference of two exponential variables is Laplace distributed.
            Density::Laplace => {
                generator.exponential_like(&mean) - generator.exponential_like(&mean)
            }
            // A normal variable divided by √(χ²/ν); χ² is twice a gamma variable with shape ν/2.
            Density::StudentT {
                degrees_of_freedom: nu,
            } => {
                let gamma = generator.standard_gamma(&mean.full_like(0.5 * nu));
                generator.normal_like(&mean) / (gamma * (2.0 / nu)).sqrt()
            }
        };
        self.out(&(mean + noise * self.square.stored().sqrt()))
    }
}

impl GraphLikelihood for RealValues {
    fn mean_graph(&self, graph: &mut Graph, params: &Value) -> Option<Value> {
        let mean = self.mean.graph(graph, params);
        Some(match self.domain {
            Domain::Pixels => to_zero_one_graph(graph, &mean),
            Domain::Reals { .. } => mean,
        })
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use vae_base::ItemKind;

    use super::*;

    const STUDENT_T: Density = Density::StudentT {
        degrees_of_freedom: 3.0,
    };

    /// On items `[2, 1, 3]`.
    fn likelihood(density: Density, scale: ScaleConfig, has_missing: bool) -> RealValues {
        let item = ItemSpec {
            has_missing,
            ..ItemSpec::new(ItemKind::Array, vec![2, 3])
        };
        let variables = nn::VarStore::new(1);
        RealValues::build(
            &variables.root(),
            &item,
            density,
            scale,
            MeanActivation::Linear,
        )
    }

    fn errors() -> (Tensor, Tensor) {
        let params =
            Tensor::from_slice(&[0.5_f32, -1.0, 0.0, 2.0, 0.0, -0.3]).view([1, 1, 2, 1, 3]);
        (
            params,
            Tensor::zeros([1, 2, 1, 3], (Kind::Float, Device::Cpu)),
        )
    }

    #[test]
    fn log_prob_is_the_closed_form() {
        let (params, targets) = errors();
        // From the sum of |e| = 3.8 and of e² = 5.34, for six values with scale ½.
        let gaussian = -0.5 * 5.34 / 0.25 - 6.0 * (0.5 * (2.0 * PI).sqrt()).ln();
        let laplace = -3.8 / 0.5 - 6.0 * 1_f64.ln();
        // t with three degrees of freedom: 2 / (π·√3·s·(1 + e²/3s²)²).
        let t = |e: f64| (2.0 / (PI * 3_f64.sqrt() * 0.5 * (1.0 + e * e / 0.75).powi(2))).ln();
        let student_t: f64 = [0.5, 1.0, 0.0, 2.0, 0.0, 0.3].map(t).iter().sum();
        for (density, wanted) in [
            (Density::Gaussian, gaussian),
            (Density::Laplace, laplace),
            (STUDENT_T, student_t),
        ] {
            let likelihood = likelihood(density, ScaleConfig::Fixed(0.5), false);
            let found = likelihood.log_prob(&params, &targets, Mode::Train);
            let found = found.double_value(&[0, 0]);
            assert!(
                (found - wanted).abs() < 1e-5,
                "{density:?}: {found} {wanted}"
            );
            let by_value = likelihood.value_log_prob(&params, &targets).expect("known");
            let sum = by_value.sum(Kind::Double).double_value(&[]);
            assert!((sum - wanted).abs() < 1e-5, "{density:?}: {sum} {wanted}");
        }
    }

    #[test]
    fn the_learned_scale_is_the_best_of_the_batch() {
        let (params, targets) = errors();
        for density in [Density::Gaussian, Density::Laplace, STUDENT_T] {
            let of_fixed = |scale: f64| {
                let likelihood = likelihood(density, ScaleConfig::Fixed(scale), false);
                let log_prob = likelihood.log_prob(&params, &targets, Mode::Train);
                log_prob.double_value(&[0, 0])
            };
            let learned = likelihood(density, ScaleConfig::Learned, false);
            let found = learned.log_prob(&params, &targets, Mode::Train);
            let found = found.double_value(&[0, 0]);
            let scale = learned.square.stored().double_value(&[]).sqrt();
            assert!((found - of_fixed(scale)).abs() < 1e-4, "{density:?}");
            for other in [0.95, 1.05] {
                assert!(found > of_fixed(scale * other), "{density:?} {other}");
            }
            // A scale for each channel is better than one for both.
            let per_channel = likelihood(density, ScaleConfig::LearnedPerChannel, false);
            let better = per_channel.log_prob(&params, &targets, Mode::Train);
            assert!(better.double_value(&[0, 0]) > found, "{density:?}");
            assert_eq!(per_channel.square.shape(), [2, 1, 1]);
        }
    }

    #[test]
    fn a_missing_value_says_nothing_and_takes_no_gradient() {
        let (params, targets) = errors();
        let nan = Tensor::from_slice(&[0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0]).view([1, 2, 1, 3]);
        for density in [Density::Gaussian, Density::Laplace, STUDENT_T] {
            let masked = likelihood(density, ScaleConfig::Fixed(0.5), true);
            let params = params.copy().set_requires_grad(true);
            let found = masked.log_prob(&params, &nan, Mode::Train);
            let by_value = masked.value_log_prob(&params, &targets).expect("known");
            let wanted = by_value.sum(Kind::Float) - by_value.double_value(&[0, 0, 0, 0, 1]);
            let difference = (&found - wanted).abs().double_value(&[0, 0]);
            assert!(difference < 1e-5, "{density:?}");
            found.sum(Kind::Float).backward();
            assert_eq!(params.grad().double_value(&[0, 0, 0, 0, 1]), 0.0);
            assert!(params.grad().double_value(&[0, 0, 0, 0, 0]).abs() > 0.1);
            // The learned scale uses the observed values only.
            let square = likelihood(density, ScaleConfig::Learned, true);
            let _ = square.log_prob(&params, &nan, Mode::Train);
            if density == Density::Gaussian {
                let found = square.square.stored().double_value(&[]);
                assert!((found - 4.34 / 5.0).abs() < 1e-5, "{found}");
            }
        }
    }

    #[test]
    fn noise_has_the_scale_of_the_density() {
        const N: i64 = 100_000;
        let params = Tensor::zeros([N, 1, 1, 3], (Kind::Float, Device::Cpu));
        // E|x| for scale ½: σ·√(2/π), b, and 2√3/π·s for t with three degrees of freedom.
        for (density, wanted) in [
            (Density::Gaussian, 0.5 * (2.0 / PI).sqrt()),
            (Density::Laplace, 0.5),
            (STUDENT_T, 0.5 * 2.0 * 3_f64.sqrt() / PI),
        ] {
            let likelihood = likelihood(density, ScaleConfig::Fixed(0.5), false);
            let sample = likelihood.sample(&params, &mut Generator::cpu(1));
            let found = sample.abs().mean(Kind::Double).double_value(&[]);
            assert!(
                (found - wanted).abs() < 0.01,
                "{density:?}: {found} {wanted}"
            );
        }
    }
}
