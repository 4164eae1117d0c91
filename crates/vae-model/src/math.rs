//! Densities and sums that several modules use.

use std::f64::consts::{LN_2, TAU};

use tch::{Kind, Tensor};

/// ln 2π.
pub(crate) const LN_2PI: f64 = 1.837_877_066_409_345_5;

/// ln N(x; mean, e^log_var) elementwise, in nats; the three broadcast.
pub(crate) fn normal_log_prob(x: &Tensor, mean: &Tensor, log_var: &Tensor) -> Tensor {
    ((x - mean).square() * (-log_var).exp() + log_var + LN_2PI) * -0.5
}

/// ln N(z; mean, diag(e^log_var)) in nats, summed over the last dimension; the three broadcast. Latents `[N, 1, Z]` with
/// Gaussians `[C, Z]`, each with each, have a kernel of their own ([`vae_torch::normal_log_prob`]).
pub(crate) fn diagonal_normal_log_prob(z: &Tensor, mean: &Tensor, log_var: &Tensor) -> Tensor {
    // Fails where libtorch's operations would panic.
    vae_torch::normal_log_prob(z, mean, log_var).unwrap_or_else(|error| panic!("{error}"))
}

/// ln N(z; 0, I) in nats: `[…, Z]` → `[…]`.
pub(crate) fn standard_normal_log_prob(latents: &Tensor) -> Tensor {
    (latents.square() + LN_2PI).sum_dim_intlist(-1, false, Kind::Float) * -0.5
}

/// KL(N(mean, e^log_var) ‖ N(0, 1)) elementwise, in nats.
pub(crate) fn gaussian_kl(mean: &Tensor, log_var: &Tensor) -> Tensor {
    (mean.square() + log_var.exp() - log_var - 1.0) * 0.5
}

/// ln mean exp over the first dimension: `[K, …]` → `[…]`.
pub(crate) fn log_mean_exp(values: &Tensor) -> Tensor {
    values.logsumexp(0, false) - (values.size()[0] as f64).ln()
}

/// ln of the area of the unit sphere in ℝ^n, 2·π^(n/2) / Γ(n/2): two points for n = 1, the circumference of the circle
/// for n = 2. By the recurrence area(n) = area(n − 2)·2π/(n − 2).
pub(crate) fn ln_sphere_area(n: i64) -> f64 {
    let (smallest, ln_area) = match n % 2 {
        1 => (1, LN_2),
        _ => (2, TAU.ln()),
    };
    let steps = (smallest..n).step_by(2);
    steps.fold(ln_area, |ln_area, n| ln_area + (TAU / n as f64).ln())
}

/// Vectors `[…, Z]` normalized to length 1. If no coordinate exceeds `least`, the direction is bent to the first axis,
/// so that the zero vector has a direction, too, and gradients stay below 2/`least`.
pub(crate) fn unit(vectors: &Tensor, least: f64) -> Tensor {
    // Divides by the largest coordinate first, so that no square overflows or underflows. It is detached, because the
    // result does not depend on it.
    let size = vectors.detach().abs().amax(-1, true);
    let scaled = vectors / size.clamp_min(least);
    let first_axis = Tensor::eye_m(
        1,
        vectors.size()[vectors.dim() - 1],
        (Kind::Float, vectors.device()),
    );
    let scaled = scaled + size.lt(0.5 * least).to_kind(Kind::Float) * first_axis.squeeze_dim(0);
    let length = scaled.square().sum_dim_intlist(-1, true, Kind::Float);
    scaled / length.sqrt()
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;

    #[test]
    fn areas_of_spheres_are_those_of_geometry() {
        // Two points, 2π, 4π, 2π², and 8π²/3 for the sphere in ℝ⁵.
        let areas = [2.0, 2.0 * PI, 4.0 * PI, 2.0 * PI * PI, 8.0 * PI * PI / 3.0];
        for (n, area) in (1..).zip(areas) {
            assert!((ln_sphere_area(n) - area.ln()).abs() < 1e-14, "n = {n}");
        }
    }

    #[test]
    fn unit_vectors_have_length_1_and_the_direction_of_what_they_came_from() {
        let vectors = [[3_f32, -4.0], [3e30, -4e30], [3e-3, -4e-3], [0.0, 0.0]];
        let vectors = Tensor::from_slice2(&vectors).set_requires_grad(true);
        let units = unit(&vectors, 1e-3);
        let wanted = Tensor::from_slice2(&[[0.6_f32, -0.8], [0.6, -0.8], [0.6, -0.8], [1.0, 0.0]]);
        assert!((&units - wanted).abs().max().double_value(&[]) < 1e-6);
        // d(unit)/dv = (I − u·uᵀ)/‖v‖; for the first vector's first unit coordinate (0.64, 0.48)/5.
        units.select(1, 0).sum(Kind::Float).backward();
        let gradient = vectors.grad();
        assert!((gradient.double_value(&[0, 0]) - 0.128).abs() < 1e-6);
        assert!((gradient.double_value(&[0, 1]) - 0.096).abs() < 1e-6);
        assert_eq!(gradient.isfinite().all().int64_value(&[]), 1);
    }
}
