//! `likelihood = "continuous_bernoulli"`: the cross-entropy, normalized to a density.

use tch::Tensor;
use vae_torch::Generator;

use super::{GraphLikelihood, Likelihood, bytes_to_zero_one, sum_over_values};
use crate::Mode;
use crate::graph::{Graph, Value};

/// Independent pixels in `[0, 1]` of density p(x|λ) = C(λ)·λˣ·(1 − λ)¹⁻ˣ (Loaiza-Ganem & Cunningham
/// 2019, <https://arxiv.org/abs/1907.06845>, §4), parameterized by the logit η = ln(λ/(1 − λ)). What the
/// Bernoulli's cross-entropy lacks on gray pixels is the normalizing constant
/// C(λ) = 2·artanh(1 − 2λ)/(1 − 2λ) = η·coth(η/2).
///
/// In η the density is exp(ηx − A(η)) with A(η) = ln ∫exp(ηx)dx = ln((exp η − 1)/η).
///
/// A density of continuous pixels: nats per image, no bits/dim.
#[derive(Debug)]
pub(super) struct ContinuousBernoulli;

/// Up to this |η| Taylor series replace the closed forms, whose gradients are differences of large numbers near η = 0.
/// The first term that the series omit is below 1e-8 there.
const SERIES_UP_TO: f64 = 0.5;

impl Likelihood for ContinuousBernoulli {
    fn scale(&self, images: &Tensor) -> Tensor {
        bytes_to_zero_one(images)
    }

    fn log_prob(&self, logits: &Tensor, targets: &Tensor, _: Mode) -> Tensor {
        sum_over_values(&(logits * targets - log_normalizer(logits)))
    }

    /// The means A′(η). They differ from λ: an almost black pixel has the mean 1/|η|.
    fn mean_image(&self, logits: &Tensor) -> Tensor {
        mean(logits)
    }

    fn sample(&self, logits: &Tensor, generator: &mut Generator) -> Tensor {
        quantile(&generator.uniform_like(logits), logits)
    }
}

impl GraphLikelihood for ContinuousBernoulli {
    fn mean_graph(&self, graph: &mut Graph, logits: &Value) -> Option<Value> {
        let size = graph.elementwise("Abs", &[logits]);
        // As in `mean`.
        let near = graph.clamp(logits, -SERIES_UP_TO, SERIES_UP_TO);
        let square = graph.elementwise("Mul", &[&near, &near]);
        let mut series = graph.with_number(&square, "Mul", 1.0 / 30_240.0);
        series = graph.with_number(&series, "Sub", 1.0 / 720.0);
        series = graph.elementwise("Mul", &[&series, &square]);
        series = graph.with_number(&series, "Add", 1.0 / 12.0);
        series = graph.elementwise("Mul", &[&series, &near]);
        let far = graph.with_number(&size, "Max", SERIES_UP_TO);
        let half = graph.with_number(&far, "Mul", 0.5);
        let half_tanh = graph.elementwise("Tanh", &[&half]);
        let half_coth = graph.elementwise("Reciprocal", &[&half_tanh]);
        let half_coth = graph.with_number(&half_coth, "Mul", 0.5);
        let reciprocal = graph.elementwise("Reciprocal", &[&far]);
        let closed = graph.elementwise("Sub", &[&half_coth, &reciprocal]);
        let sign = graph.elementwise("Sign", &[logits]);
        let closed = graph.elementwise("Mul", &[&closed, &sign]);
        let is_near = graph.with_number(&size, "Less", SERIES_UP_TO);
        let mean = graph.elementwise("Where", &[&is_near, &series, &closed]);
        Some(graph.with_number(&mean, "Add", 0.5))
    }
}

/// |η| for the closed forms, and η for the series. Where a form does not apply, its argument stays at the limit, so
/// that its value and gradient are finite.
fn far_and_near(logits: &Tensor) -> (Tensor, Tensor) {
    let far = logits.abs().clamp_min(SERIES_UP_TO);
    (far, logits.clamp(-SERIES_UP_TO, SERIES_UP_TO))
}

/// A(η) = ln((exp η − 1)/η) elementwise; ln 1 at η = 0.
fn log_normalizer(logits: &Tensor) -> Tensor {
    let (far, near) = far_and_near(logits);
    let square = near.square();
    // η/2 + η²/24 − η⁴/2880 + η⁶/181440.
    let series = near * 0.5
        + &square * (&square * (&square * (1.0 / 181_440.0) - 1.0 / 2880.0) + 1.0 / 24.0);
    // max(η, 0) + ln((1 − exp(−|η|))/|η|).
    let closed = logits.relu() + (-(-&far).expm1() / far).log();
    series.where_self(&logits.abs().lt(SERIES_UP_TO), &closed)
}

/// A′(η) = ½ + ½·coth(η/2) − 1/η elementwise; ½ at η = 0.
fn mean(logits: &Tensor) -> Tensor {
    let (far, near) = far_and_near(logits);
    let square = near.square();
    // η/12 − η³/720 + η⁵/30240.
    let series = near * (&square * (&square * (1.0 / 30_240.0) - 1.0 / 720.0) + 1.0 / 12.0);
    let closed = ((&far * 0.5).tanh().reciprocal() * 0.5 - far.reciprocal()) * logits.sign();
    series.where_self(&logits.abs().lt(SERIES_UP_TO), &closed) + 0.5
}

/// The quantile function: x with P(X ≤ x) = `probabilities`, elementwise.
fn quantile(probabilities: &Tensor, logits: &Tensor) -> Tensor {
    // For η = −a the quantile is ln(1 + u·(exp(−a) − 1))/(−a); for η = a it is 1 minus that of 1 − u, by symmetry.
    // Below the smallest rate the density is uniform in f32.
    let rate = logits.abs().clamp_min(1e-6);
    let rises = logits.gt(0.0);
    let below: Tensor = 1.0 - probabilities;
    let probabilities = below.where_self(&rises, probabilities);
    let falling = (probabilities * (-&rate).expm1()).log1p() / -rate;
    // At u = 1 the quantile of a steeply falling density is ∞.
    let falling = falling.clamp(0.0, 1.0);
    let rising: Tensor = 1.0 - &falling;
    rising.where_self(&rises, &falling)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    const LOGITS: [f64; 15] = [
        -300.0, -40.0, -6.0, -1.0, -0.501, -0.499, -1e-3, 0.0, 1e-7, 0.1, 0.499, 0.501, 2.0, 17.0,
        500.0,
    ];

    /// ∫f over `[0, 1]` by Simpson's rule: nodes and weights, f64 `[n]`.
    fn simpson() -> (Tensor, Tensor) {
        const N: i64 = 40_000;
        let index = Tensor::arange(N + 1, (Kind::Double, Device::Cpu));
        let mut weights = index.remainder(2.0) * 2.0 + 2.0; // 2, 4, 2, 4, …
        let _ = weights.narrow(0, 0, 1).fill_(1.0);
        let _ = weights.narrow(0, N, 1).fill_(1.0);
        weights /= 3.0 * N as f64;
        (index / N as f64, weights)
    }

    #[test]
    fn the_density_integrates_to_1_and_has_its_mean() {
        let (x, weights) = simpson();
        for logit in LOGITS {
            let in_f64 = Tensor::from(logit);
            let density = (&x * logit - log_normalizer(&in_f64)).exp() * &weights;
            let total = density.sum(Kind::Double).double_value(&[]);
            assert!((total - 1.0).abs() < 1e-8, "{logit}: {total}");
            let wanted = (density * &x).sum(Kind::Double).double_value(&[]);
            let found = mean(&in_f64).double_value(&[]);
            assert!(
                (found - wanted).abs() < 1e-8,
                "{logit}: {found} vs {wanted}"
            );
            // The f32 function that training uses.
            let in_f32 = Tensor::from(logit as f32);
            let error = log_normalizer(&in_f32) - log_normalizer(&in_f64);
            assert!(error.double_value(&[]).abs() < 1e-6 * (1.0 + logit.abs()));
            let error = mean(&in_f32) - mean(&in_f64);
            assert!(error.double_value(&[]).abs() < 1e-6, "{logit}");
        }
    }

    #[test]
    fn the_constant_is_the_papers() {
        for probability in [0.01_f64, 0.3, 0.49, 0.7] {
            let logit = (probability / (1.0 - probability)).ln();
            let x = 0.25;
            let bernoulli = x * probability.ln() + (1.0 - x) * (1.0 - probability).ln();
            let tilt = 1.0 - 2.0 * probability;
            let wanted = bernoulli + (2.0 * tilt.atanh() / tilt).ln();
            let logits = Tensor::from(logit as f32).view([1, 1, 1, 1, 1]);
            let targets = Tensor::from(x as f32).view([1, 1, 1, 1]);
            let found = ContinuousBernoulli.log_prob(&logits, &targets, Mode::Train);
            assert!((found.double_value(&[0, 0]) - wanted).abs() < 1e-6);
        }
    }

    #[test]
    fn the_gradient_of_log_prob_is_x_minus_the_mean() {
        for x in [0.0, 0.3, 1.0] {
            let logits: Vec<f32> = LOGITS.into_iter().map(|logit| logit as f32).collect();
            let logits = Tensor::from_slice(&logits).view([1, 1, 1, 1, -1]);
            let logits = logits.set_requires_grad(true);
            let targets = logits.full_like(x).squeeze_dim(0);
            let log_prob = ContinuousBernoulli.log_prob(&logits, &targets, Mode::Train);
            log_prob.sum(Kind::Float).backward();
            let error = logits.grad() - (-mean(&logits.detach()) + x);
            let worst = error.abs().max().double_value(&[]);
            assert!(worst < 2e-6, "{x}: {worst}");
        }
    }

    #[test]
    fn far_out_everything_is_finite() {
        for logit in [-3e38_f32, -1e10, 1e10, 3e38] {
            let logits = Tensor::from(logit).set_requires_grad(true);
            let log_normalizer = log_normalizer(&logits);
            log_normalizer.backward();
            let end = if logit > 0.0 { 1.0 } else { 0.0 };
            assert!((logits.grad().double_value(&[]) - end).abs() < 1e-9);
            assert!((mean(&logits).double_value(&[]) - end).abs() < 1e-9);
            let drawn = quantile(&Tensor::from(0.3_f32), &logits);
            assert!((drawn.double_value(&[]) - end).abs() < 1e-6);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_density() {
        // P(X ≤ x) = (exp(ηx) − 1)/(exp η − 1), at the quantile of u, is u.
        let probabilities = Tensor::from_slice(&[0.0_f32, 1e-3, 0.2, 0.5, 0.77, 0.999]);
        for logit in LOGITS {
            let x = quantile(&probabilities, &Tensor::from(logit as f32));
            let x = x.to_kind(Kind::Double);
            // Where exp η overflows f64, use symmetry: 1 − P is P for 1 − x and −η.
            let found: Tensor = match logit {
                0.0 => x,
                _ if logit < 0.0 => (x * logit).expm1() / logit.exp_m1(),
                _ => 1.0 - ((x - 1.0) * logit).expm1() / (-logit).exp_m1(),
            };
            let worst = (found - &probabilities).abs().max().double_value(&[]);
            assert!(
                worst < 2e-5 * (1.0 + logit.abs() / 100.0),
                "{logit}: {worst}"
            );
        }
    }
}
