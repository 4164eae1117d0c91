//! `prior.gaussian_mixture`: a mixture of Gaussians that clusters the images.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use super::{Prior, PriorContext, n_components};
use crate::ModelError;
use crate::math::diagonal_normal_log_prob;
use crate::network::LARGEST_SIZE;
use crate::nn::{self, Init};

/// p(z) = Σ_c π_c·N(z; μ_c, diag(σ²_c)) with all of π, μ, σ learned (VaDE, Jiang et al. 2017,
/// <https://arxiv.org/abs/1611.05148>; Dilokthanakul et al. 2016, <https://arxiv.org/abs/1611.02648>).
/// p(c|z) clusters the images without labels ([`crate::Vae::log_assignment`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GaussianMixtureConfig {
    /// Number of components. Default 10.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub components: i64,
    /// Standard deviation of the normal distribution that the components' initial means are drawn from.
    /// Each component's own standard deviation starts at 1. Default 1.
    #[schemars(range(min = 0.0, max = LARGEST_SPREAD))]
    pub initial_spread: f64,
}

impl Default for GaussianMixtureConfig {
    fn default() -> Self {
        Self {
            components: 10,
            initial_spread: 1.0,
        }
    }
}

/// Latents are about 1, so larger values are surely mistakes.
const LARGEST_SPREAD: f64 = 1e6;

impl GaussianMixtureConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        n_components("model.prior.gaussian_mixture.components", self.components)?;
        let spread = self.initial_spread;
        if (0.0..=LARGEST_SPREAD).contains(&spread) {
            Ok(())
        } else {
            Err(ModelError::config(
                "model.prior.gaussian_mixture.initial_spread",
                format!("found {spread:?}, expected a number from 0 to {LARGEST_SPREAD:e}"),
            ))
        }
    }

    pub(super) fn build(&self, path: &nn::Path, latent_dims: i64) -> GaussianMixture {
        let size = [self.components, latent_dims];
        let spread = Init::Randn {
            mean: 0.0,
            stdev: self.initial_spread,
        };
        GaussianMixture {
            logits: path.zeros("logits", &[self.components]),
            mean: path.var("mean", &size, spread),
            log_var: path.zeros("log_var", &size),
        }
    }
}

#[derive(Debug)]
pub(super) struct GaussianMixture {
    /// Logits of the weights π, `[C]`.
    logits: Tensor,
    /// Means, `[C, Z]`.
    mean: Tensor,
    /// Log-variances, `[C, Z]`, clamped to ±[`LARGEST_LOG_VAR`] on use.
    log_var: Tensor,
}

/// Without a limit a component could shrink onto a single latent, with infinite density.
const LARGEST_LOG_VAR: f64 = 10.0;

impl GaussianMixture {
    fn log_var(&self) -> Tensor {
        self.log_var.clamp(-LARGEST_LOG_VAR, LARGEST_LOG_VAR)
    }

    /// ln π_c·N(z; μ_c, σ²_c), `[N, C]`.
    fn log_joint(&self, latents: &Tensor) -> Tensor {
        let log_weights = self.logits.log_softmax(0, Kind::Float);
        diagonal_normal_log_prob(&latents.unsqueeze(1), &self.mean, &self.log_var()) + log_weights
    }
}

impl Prior for GaussianMixture {
    fn log_prob(&self, latents: &Tensor, _: PriorContext) -> Tensor {
        self.log_joint(latents).logsumexp(1, false)
    }

    fn sample(
        &self,
        n: i64,
        _: Device,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Tensor {
        let component = generator.multinomial(&self.logits.softmax(0, Kind::Float), n); // [n]
        let mean = self.mean.index_select(0, &component);
        let std = (self.log_var() * 0.5).exp().index_select(0, &component);
        let noise = generator.normal_like(&mean) * context.temperature;
        mean + std * noise
    }

    fn has_temperature(&self) -> bool {
        true
    }

    fn log_assignment(&self, latents: &Tensor) -> Option<Tensor> {
        Some(self.log_joint(latents).log_softmax(1, Kind::Float))
    }
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::*;
    use crate::prior::tests::{
        NO_CONTEXT, assert_integrates_to_1, assert_samples_fit_log_prob,
        assert_temperature_scales_noise,
    };

    /// ¾·N((1, 0), diag(1, 4)) + ¼·N((−2, 1), diag(¼, 1)).
    fn mixture() -> GaussianMixture {
        let variables = nn::VarStore::new(1);
        let config = GaussianMixtureConfig {
            components: 2,
            ..Default::default()
        };
        let mixture = config.build(&variables.root(), 2);
        no_grad(|| {
            let set = |variable: &Tensor, values: &[f32]| {
                let values = Tensor::from_slice(values).view_(variable.size());
                variable.shallow_clone().copy_(&values);
            };
            set(&mixture.logits, &[3_f32.ln(), 0.0]);
            set(&mixture.mean, &[1.0, 0.0, -2.0, 1.0]);
            set(&mixture.log_var, &[0.0, 4_f32.ln(), 0.25_f32.ln(), 0.0]);
        });
        mixture
    }

    #[test]
    fn log_prob_and_assignment_are_the_closed_form() {
        let mixture = mixture();
        let normal = |x: f64, mean: f64, std: f64| {
            (-0.5 * ((x - mean) / std).powi(2)).exp() / (std * (2.0 * std::f64::consts::PI).sqrt())
        };
        let (x, y) = (0.3_f64, -0.8_f64);
        let joint = [
            0.75 * normal(x, 1.0, 1.0) * normal(y, 0.0, 2.0),
            0.25 * normal(x, -2.0, 0.5) * normal(y, 1.0, 1.0),
        ];
        let latents = Tensor::from_slice(&[x as f32, y as f32]).view([1, 2]);
        let found = mixture.log_prob(&latents, NO_CONTEXT).double_value(&[0]);
        assert!((found - (joint[0] + joint[1]).ln()).abs() < 1e-6);
        let assignment = mixture.log_assignment(&latents).expect("components").exp();
        for (c, wanted) in joint.iter().enumerate() {
            let found = assignment.double_value(&[0, c as i64]);
            assert!((found - wanted / (joint[0] + joint[1])).abs() < 1e-6);
        }
    }

    #[test]
    fn it_is_a_density_and_draws_from_it() {
        let mixture = mixture();
        assert_integrates_to_1(&mixture);
        assert_samples_fit_log_prob(&mixture, 2);
        assert_temperature_scales_noise(&mixture, 2);
    }

    #[test]
    fn one_component_at_its_start_is_the_standard_normal() {
        let variables = nn::VarStore::new(1);
        let config = GaussianMixtureConfig {
            components: 1,
            initial_spread: 0.0,
        };
        let mixture = config.build(&variables.root(), 3);
        let latents = Generator::cpu(1).normal([5, 3], Device::Cpu);
        let wanted = crate::math::standard_normal_log_prob(&latents);
        let difference = (mixture.log_prob(&latents, NO_CONTEXT) - wanted)
            .abs()
            .max();
        assert!(difference.double_value(&[]) < 1e-5);
    }
}
