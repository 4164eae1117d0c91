//! `posterior.diagonal_gaussian`: a mean and a variance for each latent dimension.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{ClosedKl, GraphFamily, Latents, Posterior, PosteriorFamily};
use crate::graph::{Graph, Value};
use crate::math::{LN_2PI, diagonal_normal_log_prob, gaussian_kl, normal_log_prob};

/// The usual posterior of a VAE (Kingma & Welling 2014, <https://arxiv.org/abs/1312.6114>).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiagonalGaussianConfig {
    /// How the encoder's second output, the log-variance, scales the noise. Default
    /// `"standard_deviation"`.
    pub noise_scale: NoiseScale,
}

/// How the encoder's second output `s` (the declared log-variance) scales the noise of z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoiseScale {
    /// z = mean + exp(½·s)·ε: the noise has the variance exp(s), as the KL assumes.
    #[default]
    StandardDeviation,
    /// z = mean + exp(s)·ε. A mistake of well-known tutorials, kept to reproduce them: the variance is then exp(2·s)
    /// while their loss assumes exp(s), so that the loss is not a bound. The elbo and kl reported here use the
    /// distribution that is really sampled.
    Variance,
}

/// The family, with the meaning of the encoder's second output.
#[derive(Debug)]
pub(super) struct DiagonalGaussianFamily {
    pub(super) noise_scale: NoiseScale,
}

impl PosteriorFamily for DiagonalGaussianFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(DiagonalGaussian::new(params, self.noise_scale))
    }
}

impl GraphFamily for DiagonalGaussianFamily {
    fn graph(&self, graph: &mut Graph, params: &Value) -> Option<Vec<Value>> {
        let latent_dims = params.shape[0] / 2;
        let mean = graph.narrow(params, 0, latent_dims);
        let declared = graph.narrow(params, latent_dims, latent_dims);
        let log_var = bounded_graph(graph, &declared);
        Some(match self.noise_scale {
            NoiseScale::StandardDeviation => vec![mean, log_var],
            NoiseScale::Variance => vec![mean, graph.with_number(&log_var, "Mul", 2.0)],
        })
    }
}

/// N(mean, diag(exp(log_var))) for each image of a batch. The encoder's log-variances are bounded smoothly to ±20, so
/// that exp cannot overflow; in \[−8, 8\] the bound changes nothing in f32.
#[derive(Debug)]
pub struct DiagonalGaussian {
    mean: Tensor,
    declared_log_var: Tensor,
    noise_scale: NoiseScale,
}

impl DiagonalGaussian {
    /// `params` `[B, 2·Z]`: means, then declared log-variances.
    pub(crate) fn new(params: &Tensor, noise_scale: NoiseScale) -> Self {
        let latent_dims = params.size()[1] / 2;
        Self {
            mean: params.narrow(1, 0, latent_dims),
            declared_log_var: bounded(&params.narrow(1, latent_dims, latent_dims)),
            noise_scale,
        }
    }

    /// N(mean, diag(exp(log_var))), both `[B, Z]`.
    pub(super) fn of(mean: &Tensor, log_var: &Tensor) -> Self {
        Self {
            mean: mean.shallow_clone(),
            declared_log_var: log_var.shallow_clone(),
            noise_scale: NoiseScale::StandardDeviation,
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

    /// z = mean + σ·ε (the reparameterization of Kingma & Welling 2014, §2.4), `[K, B, Z]`.
    pub(super) fn latents(&self, noise: &Tensor) -> Tensor {
        &self.mean + (self.log_var() * 0.5).exp() * noise
    }

    /// log q(z|x) of each dimension in nats, for latents that broadcast with `[B, Z]`.
    pub fn log_prob_per_dimension(&self, latents: &Tensor) -> Tensor {
        normal_log_prob(latents, &self.mean, &self.log_var())
    }

    /// KL(q(z|x) ‖ N(0, I)) in nats for each image and latent dimension (Kingma & Welling 2014,
    /// App. B), `[B, Z]`.
    pub fn kl_to_standard_normal(&self) -> Tensor {
        gaussian_kl(&self.mean, &self.log_var())
    }

    /// [`Self::kl_to_standard_normal`] of the Gaussian with the *declared* log-variance, `[B, Z]`: the penalty in the
    /// tutorials' loss. The two are equal for the default [`NoiseScale`].
    pub fn declared_kl_to_standard_normal(&self) -> Tensor {
        gaussian_kl(&self.mean, &self.declared_log_var)
    }
}

impl Posterior for DiagonalGaussian {
    fn center(&self) -> Tensor {
        self.mean.shallow_clone()
    }

    fn log_var(&self) -> Option<Tensor> {
        Some(self.log_var())
    }

    fn covariance(&self) -> Option<Tensor> {
        Some(self.log_var().exp().diag_embed(0, -2, -1))
    }

    fn draw(&self, noise: &Tensor) -> Latents {
        let latents = self.latents(noise);
        // From the noise, which is exact and cheaper than from the latents.
        let log_prob = (noise.square() + self.log_var() + LN_2PI) * -0.5;
        Latents {
            latents,
            log_prob: Some(log_prob.sum_dim_intlist(-1, false, Kind::Float)),
        }
    }

    fn log_prob(&self, latents: &Tensor) -> Option<Tensor> {
        Some(diagonal_normal_log_prob(
            latents,
            &self.mean,
            &self.log_var(),
        ))
    }

    fn kl(&self) -> Option<ClosedKl> {
        Some(ClosedKl::PerDimension(self.kl_to_standard_normal()))
    }

    fn detach(&self) -> Box<dyn Posterior> {
        Box::new(Self {
            mean: self.mean.detach(),
            declared_log_var: self.declared_log_var.detach(),
            noise_scale: self.noise_scale,
        })
    }

    fn as_diagonal_gaussian(&self) -> Option<&DiagonalGaussian> {
        Some(self)
    }
}

/// The bound of log-variances: standard deviations are between e⁻¹⁰ and e¹⁰.
const LOG_VAR_BOUND: f64 = 20.0;

/// The log-variances for an encoder's output: [`bounded_to`] ±20, which is x itself in f32 for |x| < 8.
pub(super) fn bounded(x: &Tensor) -> Tensor {
    bounded_to(LOG_VAR_BOUND, x)
}

/// x / (1 + (x/b)¹⁶)^(1/16), elementwise: monotone, within (−b, b), and x itself in f32 for |x| < 0.4·b, where it
/// differs by less than x·3·10⁻⁸. Its slope is 0.999 at 0.65·b and 0.48 at b, and then falls to 0.
pub(super) fn bounded_to(bound: f64, x: &Tensor) -> Tensor {
    // The 16th power of distant values would overflow; the function is flat there.
    let x = x.clamp(-100.0 * bound, 100.0 * bound);
    let power: Tensor = (&x / bound).pow_tensor_scalar(16) + 1.0;
    x * power.pow_tensor_scalar(-1.0 / 16.0)
}

/// [`bounded`] as operations. The 16th power is four squares, because the power operation need not be exact.
pub(super) fn bounded_graph(graph: &mut Graph, x: &Value) -> Value {
    let x = graph.clamp(x, -100.0 * LOG_VAR_BOUND, 100.0 * LOG_VAR_BOUND);
    let mut power = graph.with_number(&x, "Div", LOG_VAR_BOUND);
    for _ in 0..4 {
        power = graph.elementwise("Mul", &[&power, &power]);
    }
    let power = graph.with_number(&power, "Add", 1.0);
    let divisor = graph.with_number(&power, "Pow", -1.0 / 16.0);
    graph.elementwise("Mul", &[&x, &divisor])
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
        // Trapezoidal rule for ∫ q(z) (log q(z) − log p(z)) dz with q = N(0.7, 0.3²).
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

    #[test]
    fn log_variances_are_themselves_where_they_usually_are() {
        let x = Tensor::linspace(-8.0, 8.0, 2001, (Kind::Float, tch::Device::Cpu));
        let error = (bounded(&x) - &x).abs();
        // Half a unit in the last place, relative to the number.
        let excess = error - x.abs() * 6e-8;
        assert!(excess.max().double_value(&[]) <= 0.0);
    }

    #[test]
    fn log_variances_rise_to_a_bound_and_their_slope_is_always_a_number() {
        // By hand: 20/2^(1/16) at 20, and close to the bound at 30.
        let f = |x: f64| bounded(&Tensor::from(x as f32)).double_value(&[]);
        assert!((f(20.0) - 20.0 / 2_f64.powf(0.0625)).abs() < 1e-5);
        assert!((f(30.0) - 20.0).abs() < 0.003);
        assert_eq!(f(f64::INFINITY), 20.0);
        assert_eq!(f(-1e30), -20.0);

        let near = Tensor::linspace(-60.0, 60.0, 4001, (Kind::Float, tch::Device::Cpu));
        let far = Tensor::from_slice(&[100_f32, 1e3, 2e3, 1e4, 1e30, f32::INFINITY]);
        let x = Tensor::cat(&[&far.neg().flip([0]), &near, &far], 0).set_requires_grad(true);
        let y = bounded(&x);
        let rises = y.detach().diff(1, -1, None::<&Tensor>, None::<&Tensor>);
        // Up to the rounding of three f32 operations near 20.
        let rounding = 3.0 * 20.0 * f64::from(f32::EPSILON);
        assert!(rises.min().double_value(&[]) > -rounding);
        assert!(y.abs().max().double_value(&[]) < LOG_VAR_BOUND + rounding);
        y.sum(Kind::Float).backward();
        let slope = x.grad();
        assert!(slope.isfinite().all().int64_value(&[]) == 1);
        assert!(slope.min().double_value(&[]) > -1e-6 && slope.max().double_value(&[]) < 1.000_001);
        // The closed form of the slope, (1 + (x/b)¹⁶)^(−17/16).
        let closed = ((x.detach() / LOG_VAR_BOUND).pow_tensor_scalar(16) + 1.0)
            .pow_tensor_scalar(-17.0 / 16.0);
        assert!((slope - closed).abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn an_encoder_that_says_nonsense_still_has_finite_terms() {
        let params = Tensor::from_slice(&[0_f32, 0.0, 1e4, -1e4]).view([1, 4]);
        for noise_scale in [NoiseScale::StandardDeviation, NoiseScale::Variance] {
            let params = params.detach().copy().set_requires_grad(true);
            let q = DiagonalGaussian::new(&params, noise_scale);
            let noise = Tensor::ones([1, 1, 2], (Kind::Float, tch::Device::Cpu));
            let sum =
                q.latents(&noise).sum(Kind::Float) + q.kl_to_standard_normal().sum(Kind::Float);
            assert!(sum.double_value(&[]).is_finite());
            sum.backward();
            assert!(params.grad().isfinite().all().int64_value(&[]) == 1);
        }
    }
}
