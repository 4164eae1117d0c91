//! Posteriors q(z|x): what the encoder says about an image's latents.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Which family q(z|x) is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PosteriorConfig {
    /// N(mean, diag(exp(log-variance))), both from the encoder.
    DiagonalGaussian(DiagonalGaussianConfig),
}

impl Default for PosteriorConfig {
    fn default() -> Self {
        Self::DiagonalGaussian(DiagonalGaussianConfig::default())
    }
}

impl PosteriorConfig {
    /// Numbers that the encoder gives for each image.
    #[must_use]
    pub fn n_params(&self, latent_dims: i64) -> i64 {
        match self {
            Self::DiagonalGaussian(_) => 2 * latent_dims,
        }
    }

    /// The distribution that the encoder's output `[B, P]` parameterizes.
    #[must_use]
    pub fn distribution(&self, params: &Tensor) -> DiagonalGaussian {
        match self {
            Self::DiagonalGaussian(config) => DiagonalGaussian::new(params, config.noise_scale),
        }
    }
}

/// Options of the diagonal Gaussian posterior.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiagonalGaussianConfig {
    /// How the encoder's second output scales the noise.
    pub noise_scale: NoiseScale,
}

/// How the encoder's second output `s` (the declared log-variance) scales the noise of z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseScale {
    /// z = mean + exp(½·s)·ε: the noise has the variance exp(s) that the KL is told about.
    #[default]
    StandardDeviation,
    /// z = mean + exp(s)·ε. A mistake, found in well-known tutorials and kept to reproduce them:
    /// the variance is then exp(2·s) while their loss assumes exp(s), so the loss is no bound.
    /// The terms reported here stay honest: they are those of the distribution really sampled.
    Variance,
}

/// N(mean, diag(exp(log_var))) for each image of a batch.
#[derive(Debug)]
pub struct DiagonalGaussian {
    mean: Tensor,
    declared_log_var: Tensor,
    noise_scale: NoiseScale,
}

impl DiagonalGaussian {
    /// `params` `[B, 2·Z]`: means, then declared log-variances.
    fn new(params: &Tensor, noise_scale: NoiseScale) -> Self {
        let mut halves = params.chunk(2, 1).into_iter();
        let (Some(mean), Some(declared_log_var)) = (halves.next(), halves.next()) else {
            unreachable!("chunk(2) of an even number of columns gives two halves");
        };
        Self {
            mean,
            declared_log_var,
            noise_scale,
        }
    }

    /// Means `[B, Z]`.
    pub fn mean(&self) -> &Tensor {
        &self.mean
    }

    /// Log-variances `[B, Z]` of the distribution that z is drawn from.
    pub fn log_var(&self) -> Tensor {
        match self.noise_scale {
            NoiseScale::StandardDeviation => self.declared_log_var.shallow_clone(),
            NoiseScale::Variance => &self.declared_log_var * 2.0,
        }
    }

    /// Standard normal noise ε `[K, B, Z]` for [`Self::latents`].
    pub fn noise(&self, n_samples: i64) -> Tensor {
        let [batch, latent_dims] = [self.mean.size()[0], self.mean.size()[1]];
        Tensor::randn(
            [n_samples, batch, latent_dims],
            (Kind::Float, self.mean.device()),
        )
    }

    /// z = mean + σ·ε (the reparameterization of Kingma & Welling 2014, §2.4), `[K, B, Z]`.
    pub fn latents(&self, noise: &Tensor) -> Tensor {
        &self.mean + (self.log_var() * 0.5).exp() * noise
    }

    /// KL(q(z|x) ‖ N(0, I)) in nats for each image and latent dimension (Kingma & Welling 2014,
    /// App. B), `[B, Z]`.
    pub fn kl_to_standard_normal(&self) -> Tensor {
        gaussian_kl(&self.mean, &self.log_var())
    }

    /// The same, `[B, Z]`, of the Gaussian with the *declared* log-variance: what the tutorials' loss
    /// penalizes. Equal to [`Self::kl_to_standard_normal`] with the default [`NoiseScale`].
    pub fn declared_kl_to_standard_normal(&self) -> Tensor {
        gaussian_kl(&self.mean, &self.declared_log_var)
    }
}

/// KL(N(mean, e^log_var) ‖ N(0, 1)) elementwise, in nats.
fn gaussian_kl(mean: &Tensor, log_var: &Tensor) -> Tensor {
    (mean.square() + log_var.exp() - log_var - 1.0) * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posterior(mean: &[f32], log_var: &[f32], noise_scale: NoiseScale) -> DiagonalGaussian {
        let params = Tensor::cat(
            &[
                Tensor::from_slice(mean).unsqueeze(0),
                Tensor::from_slice(log_var).unsqueeze(0),
            ],
            1,
        );
        DiagonalGaussian::new(&params, noise_scale)
    }

    #[test]
    fn kl_is_the_closed_form() {
        // By hand: ½(m² + σ² − ln σ² − 1). m=1, σ²=1 → ½; m=0, σ²=4 → ½(3 − ln 4); m=0, σ²=1 → 0.
        let q = posterior(
            &[1.0, 0.0, 0.0],
            &[0.0, 4_f32.ln(), 0.0],
            NoiseScale::default(),
        );
        let kl = Vec::<f32>::try_from(q.kl_to_standard_normal().squeeze()).expect("three numbers");
        let wanted = [0.5, 0.5 * (3.0 - 4_f32.ln()), 0.0];
        for (found, wanted) in kl.iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-6, "{found} vs {wanted}");
        }
    }

    #[test]
    fn kl_agrees_with_the_integral_of_q_log_q_over_p() {
        // Trapezoid rule of ∫ q(z) (log q(z) − log p(z)) dz for q = N(0.7, 0.3²).
        let (mean, std) = (0.7_f64, 0.3_f64);
        let density = |z: f64, m: f64, s: f64| {
            (-0.5 * ((z - m) / s).powi(2)).exp() / (s * (2.0 * std::f64::consts::PI).sqrt())
        };
        let n = 40_000;
        let step = 12.0 / f64::from(n);
        let integral: f64 = (0..n)
            .map(|i| {
                let z = -6.0 + step * f64::from(i);
                let q = density(z, mean, std);
                if q > 0.0 {
                    q * (q / density(z, 0.0, 1.0)).ln() * step
                } else {
                    0.0
                }
            })
            .sum();
        let q = posterior(
            &[mean as f32],
            &[(2.0 * std.ln()) as f32],
            NoiseScale::default(),
        );
        let kl = q.kl_to_standard_normal().double_value(&[0, 0]);
        assert!((kl - integral).abs() < 1e-5, "{kl} vs {integral}");
    }

    #[test]
    fn noise_is_scaled_by_the_standard_deviation() {
        let noise = Tensor::from_slice(&[1_f32, -2.0]).view([2, 1, 1]);
        let q = posterior(&[0.5], &[4_f32.ln()], NoiseScale::StandardDeviation);
        let z = Vec::<f32>::try_from(q.latents(&noise).flatten(0, -1)).expect("two numbers");
        assert!(
            (z[0] - 2.5).abs() < 1e-6 && (z[1] + 3.5).abs() < 1e-6,
            "{z:?}"
        );
    }

    #[test]
    fn the_tutorials_noise_is_scaled_by_the_variance_and_its_kl_is_that_of_what_is_sampled() {
        let noise = Tensor::ones([1, 1, 1], (Kind::Float, tch::Device::Cpu));
        let q = posterior(&[0.0], &[2_f32.ln()], NoiseScale::Variance);
        assert!((q.latents(&noise).double_value(&[0, 0, 0]) - 2.0).abs() < 1e-6);
        // The sampled Gaussian has variance 4, the declared one 2.
        let kl = q.kl_to_standard_normal().double_value(&[0, 0]);
        assert!((kl - 0.5 * (3.0 - 4_f64.ln())).abs() < 1e-6);
        let declared = q.declared_kl_to_standard_normal().double_value(&[0, 0]);
        assert!((declared - 0.5 * (1.0 - 2_f64.ln())).abs() < 1e-6);
    }
}
