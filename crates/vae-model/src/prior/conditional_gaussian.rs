//! `prior = "conditional_gaussian"`: a Gaussian that depends on the condition.

use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use super::{Prior, PriorContext};
use crate::math::{diagonal_normal_log_prob, gaussian_kl};
use crate::network::{Layer, NextActivation};
use crate::{ClosedKl, Initialization, Posterior, nn};

/// p(z|c) = N(μ(c), diag σ²(c)): a Gaussian for each class, or more generally a mean and log-variance that are affine
/// in the condition's features (the prior network of Sohn et al. 2015, without hidden layers). Initially it is the
/// standard normal.
#[derive(Debug)]
pub(super) struct ConditionalGaussian {
    layer: Layer<nn::Linear>,
    latent_dims: i64,
}

/// Without a limit the Gaussian could shrink onto a single latent, with infinite density.
const LARGEST_LOG_VAR: f64 = 10.0;

impl ConditionalGaussian {
    pub(super) fn build(
        path: &nn::Path,
        latent_dims: i64,
        n_features: i64,
        initialization: Initialization,
    ) -> Self {
        Self {
            layer: initialization.linear(
                path / "layer",
                n_features,
                2 * latent_dims,
                NextActivation::Sum,
            ),
            latent_dims,
        }
    }

    /// Mean and log-variance, `[N, Z]` each. Without a condition the initial ones, `[1, Z]`.
    fn params(&self, context: PriorContext, device: Device) -> (Tensor, Tensor) {
        let params = match context.features {
            // Under autocast the layer computes in half precision; densities need f32.
            Some(features) => features.apply(&self.layer).to_kind(Kind::Float),
            None => Tensor::zeros([1, 2 * self.latent_dims], (Kind::Float, device)),
        };
        let part = |i: i64| params.narrow(1, i * self.latent_dims, self.latent_dims);
        (part(0), part(1).clamp(-LARGEST_LOG_VAR, LARGEST_LOG_VAR))
    }
}

impl Prior for ConditionalGaussian {
    fn log_prob(&self, latents: &Tensor, context: PriorContext) -> Tensor {
        let (mean, log_var) = self.params(context, latents.device());
        diagonal_normal_log_prob(latents, &mean, &log_var)
    }

    fn sample(
        &self,
        n: i64,
        device: Device,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Tensor {
        let (mean, log_var) = self.params(context, device);
        let noise = generator.normal([n, self.latent_dims], device) * context.temperature;
        mean + (log_var * 0.5).exp() * noise
    }

    fn has_temperature(&self) -> bool {
        true
    }

    /// KL(N(m, s²) ‖ N(μ, σ²)) = KL(N((m − μ)/σ, s²/σ²) ‖ N(0, 1)).
    fn kl(&self, posterior: &dyn Posterior, context: PriorContext) -> Option<ClosedKl> {
        let posterior = posterior.as_diagonal_gaussian()?;
        let (mean, log_var) = self.params(context, posterior.mean().device());
        let standardized = (posterior.mean() - mean) * (&log_var * -0.5).exp();
        let kl = gaussian_kl(&standardized, &(posterior.log_var() - log_var));
        Some(ClosedKl::PerDimension(kl))
    }
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::*;
    use crate::prior::tests::NO_CONTEXT;
    use crate::{DiagonalGaussian, NoiseScale};

    /// For one condition c: N(3·c, e^(ln 4·c)) in each of two dimensions.
    fn prior() -> ConditionalGaussian {
        let variables = nn::VarStore::new(1);
        let prior = ConditionalGaussian::build(&variables.root(), 2, 1, Initialization::default());
        let ln_4 = 4_f32.ln();
        let weights = Tensor::from_slice(&[3.0, 3.0, ln_4, ln_4]).view([4, 1]);
        let mut layer = variables.variables().remove("layer.weight").expect("it");
        no_grad(|| layer.copy_(&weights));
        prior
    }

    fn context(features: &Tensor) -> PriorContext<'_> {
        PriorContext {
            features: Some(features),
            ..NO_CONTEXT
        }
    }

    #[test]
    fn density_samples_and_kl_are_those_of_the_gaussian_of_the_condition() {
        let prior = prior();
        let features = Tensor::from_slice(&[0_f32, 1.0]).view([2, 1]);
        // By hand: −½·((z − 3c)²/4^c + c·ln 4 + ln 2π) in each dimension.
        let latents = Tensor::from_slice(&[1_f32, 0.0, 5.0, 3.0]).view([2, 2]);
        let found = prior.log_prob(&latents, context(&features));
        let ln_2pi = std::f64::consts::TAU.ln();
        for (i, squares, log_vars) in [(0, 1.0, 0.0), (1, 4.0 / 4.0, 2.0 * 4_f64.ln())] {
            let wanted = -0.5 * (squares + log_vars + 2.0 * ln_2pi);
            assert!((found.double_value(&[i]) - wanted).abs() < 1e-5);
        }
        let n = 40_000;
        let ones = Tensor::ones([n, 1], (Kind::Float, Device::Cpu));
        let samples = prior.sample(n, Device::Cpu, context(&ones), &mut Generator::cpu(3));
        let mean = samples.mean_dim(0, false, Kind::Double) - 3.0;
        let std = samples.std_dim([0_i64].as_slice(), true, false) - 2.0;
        assert!(mean.abs().max().double_value(&[]) < 5.0 * 2.0 / (n as f64).sqrt());
        assert!(std.abs().max().double_value(&[]) < 5.0 * 2.0 / (2.0 * n as f64).sqrt());

        // ½·((m − μ)²/σ² + s²/σ² − ln(s²/σ²) − 1) with m = 1, s² = e.
        let params = Tensor::from_slice(&[1_f32, 1.0, 1.0, 1.0]).view([1, 4]);
        let posterior = DiagonalGaussian::new(&params.repeat([2, 1]), NoiseScale::default());
        let Some(ClosedKl::PerDimension(kl)) = prior.kl(&posterior, context(&features)) else {
            panic!("it is known in closed form");
        };
        let e = std::f64::consts::E;
        let wanted = [
            0.5 * (1.0 + e - 1.0 - 1.0),
            0.5 * (4.0 / 4.0 + e / 4.0 - (1.0 - 4_f64.ln()) - 1.0),
        ];
        for (row, wanted) in wanted.into_iter().enumerate() {
            for dim in 0..2 {
                let found = kl.double_value(&[row as i64, dim]);
                assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
            }
        }
    }

    #[test]
    fn it_starts_as_the_standard_normal() {
        let variables = nn::VarStore::new(1);
        let prior = ConditionalGaussian::build(&variables.root(), 3, 4, Initialization::Kaiming);
        let features = Tensor::ones([2, 4], (Kind::Float, Device::Cpu));
        let latents = Tensor::from_slice(&[0.5_f32, -1.0, 2.0]).repeat([2, 1]);
        let found = prior.log_prob(&latents, context(&features));
        let wanted = crate::math::standard_normal_log_prob(&latents);
        assert!((found - wanted).abs().max().double_value(&[]) < 1e-6);
    }
}
