//! The angle between a von Mises–Fisher vector and its mean direction. This is the only dimension in which the
//! distribution is not uniform.

use std::f64::consts::PI;

use tch::{Kind, Tensor, no_grad};

use crate::math::ln_sphere_area;

/// Intervals of the quadrature.
const N_CELLS: i64 = 96;
/// Half-width of the quadrature in standard deviations, estimated by the curvature at the mode. The estimate is too
/// small, because exp(κ·cos θ) falls more slowly than a Gaussian; the density outside is below 10⁻¹⁵.
const WIDTH: f64 = 20.0;
/// Steps of Newton's method after a linear interpolation in a cell. Four would do in the interior. Near 0 and π
/// F ∝ θ^(Z−1), so that a step far from the root changes θ only by the fraction 1/(Z − 1).
const N_NEWTON: usize = 14;
/// Nodes on \[−1, 1\] and weights of Gauss–Legendre quadrature, exact for polynomials of degree 11.
const GAUSS: [(f64, f64); 6] = [
    (-0.932_469_514_203_152, 0.171_324_492_379_170_35),
    (-0.661_209_386_466_264_5, 0.360_761_573_048_138_6),
    (-0.238_619_186_083_196_9, 0.467_913_934_572_691_04),
    (0.238_619_186_083_196_9, 0.467_913_934_572_691_04),
    (0.661_209_386_466_264_5, 0.360_761_573_048_138_6),
    (0.932_469_514_203_152, 0.171_324_492_379_170_35),
];

/// The distribution of θ in \[0, π\] with density ∝ exp(κ·cos θ)·sin^(Z−2) θ, for each image of a batch, in f64.
/// Integrals are quadratures on a grid around the mode. The grid is detached: gradients follow κ in the integrand only.
/// All densities are relative to exp(κ + `peak`).
#[derive(Debug)]
pub(super) struct Colatitude {
    /// Nodes in a cell, from 0 to 1, and weights of the quadrature, `[6]`.
    places: Tensor,
    weights: Tensor,
    /// Z − 2.
    sin_power: f64,
    /// κ > 0, `[B]`.
    kappa: Tensor,
    /// Log of the density at the mode, without its factor exp(κ); detached, `[B]`.
    peak: Tensor,
    /// The start of the grid and the width of its cells; detached, `[B]`.
    start: Tensor,
    cell: Tensor,
    /// The integral up to the start of each cell, and the whole: `[B, N_CELLS + 1]`.
    mass: Tensor,
    /// E\[cos θ − 1\] `[B]`.
    mean_excess: Tensor,
}

impl Colatitude {
    /// κ `[B]` in f64; Z at least 2.
    pub(super) fn new(kappa: &Tensor, latent_dims: i64) -> Self {
        let sin_power = (latent_dims - 2) as f64;
        let constant = kappa.detach();
        // At the mode κ·sin² θ = (Z − 2)·cos θ, and the second derivative of the logarithm is −κ·(cos θ + 1/cos θ),
        // which is twice too large for Z = 2.
        let root = (constant.square() * 4.0 + sin_power * sin_power).sqrt();
        let cos = &constant * 2.0 / (root + sin_power);
        let sin = (&cos / &constant * sin_power).sqrt();
        let mode = sin.atan2(&cos);
        let deviation = (&constant * (&cos + cos.reciprocal())).rsqrt();
        let start = (&mode - &deviation * WIDTH).clamp_min(0.0);
        let end = (&mode + &deviation * WIDTH).clamp_max(PI);
        let cell = (end - &start) / N_CELLS as f64;

        let device = kappa.device();
        let column =
            |part: fn((f64, f64)) -> f64| Tensor::from_slice(&GAUSS.map(part)).to_device(device);
        let mut colatitude = Self {
            places: column(|(node, _)| 0.5 * (node + 1.0)),
            weights: column(|(_, weight)| 0.5 * weight),
            sin_power,
            kappa: kappa.shallow_clone(),
            peak: constant.zeros_like(),
            start,
            cell,
            mass: Tensor::new(),
            mean_excess: Tensor::new(),
        };
        colatitude.peak = no_grad(|| colatitude.log_density(&mode));

        let cells = Tensor::arange(N_CELLS, (Kind::Double, device));
        let places = cells.unsqueeze(1) + &colatitude.places; // [N_CELLS, 6], in cells
        let cell = along(&colatitude.cell, 3);
        let theta = along(&colatitude.start, 3) + &cell * places; // [B, N_CELLS, 6]
        let weights = cell * &colatitude.weights;
        let masses = colatitude.log_density(&theta).exp() * weights;
        let below = masses
            .sum_dim_intlist(-1, false, Kind::Double)
            .cumsum(-1, Kind::Double); // [B, N_CELLS]
        let nothing = below.narrow(1, 0, 1).zeros_like();
        colatitude.mass = Tensor::cat(&[nothing, below], 1);
        let excess =
            (masses * excess(&theta)).sum_dim_intlist([1, 2].as_slice(), false, Kind::Double);
        colatitude.mean_excess = excess / colatitude.total();
        colatitude
    }

    /// κ `[B]`.
    pub(super) fn kappa(&self) -> &Tensor {
        &self.kappa
    }

    /// E\[cos θ − 1\] `[B]`.
    pub(super) fn mean_excess(&self) -> &Tensor {
        &self.mean_excess
    }

    /// ln of exp(κ·(cos θ − 1)) integrated over the unit sphere in ℝ^Z, `[B]`.
    pub(super) fn log_normalizer(&self) -> Tensor {
        // The vectors with the same θ form a sphere of radius sin θ, in a space with one dimension less.
        let around = ln_sphere_area(self.sin_power as i64 + 1);
        self.total().log() + &self.peak + around
    }

    /// θ `[K, B]` from standard normal noise `[K, B]`; larger noise gives smaller θ: F(θ) = Φ(−ε).
    ///
    /// Its gradient with respect to κ is that of the inverse distribution function, −(∂F/∂κ)/(∂F/∂θ) (implicit
    /// reparameterization, Figurnov et al. 2018, <https://arxiv.org/abs/1805.08498>).
    pub(super) fn draw(&self, noise: &Tensor) -> Tensor {
        let noise = noise.detach().to_kind(Kind::Double).transpose(0, 1);
        let below = (-noise)
            .special_ndtr()
            .clamp(1e-12, 1.0 - 1e-12)
            .contiguous(); // [B, K]
        let mass = self.mass.detach();
        let total = self.total().unsqueeze(1); // [B, 1]
        let target = &below * total.detach();
        let after = target.searchsorted(&mass, false, false, "left", None::<&Tensor>);
        let cell = (after - 1).clamp(0, N_CELLS - 1); // [B, K]
        let left = self.start.unsqueeze(1) + self.cell.unsqueeze(1) * &cell;
        let mass_left = self.mass.gather(1, &cell, false);

        let theta = no_grad(|| {
            let right = &left + self.cell.unsqueeze(1);
            let rest = &target - &mass_left;
            let in_cell = mass.gather(1, &(&cell + 1), false) - &mass_left;
            let mut theta = &left + self.cell.unsqueeze(1) * &rest / in_cell;
            for _ in 0..N_NEWTON {
                let error = &rest - self.mass_between(&left, &theta);
                let step = error / self.density(&theta);
                theta = (theta + step).clamp_tensor(Some(&left), Some(&right));
            }
            theta
        });
        let density = self.density(&theta).detach() / total.detach();
        let error = (mass_left + self.mass_between(&left, &theta)) / total - below;
        (theta - error / density).transpose(0, 1)
    }

    /// The same distribution, detached.
    pub(super) fn detach(&self) -> Self {
        Self {
            places: self.places.shallow_clone(),
            weights: self.weights.shallow_clone(),
            sin_power: self.sin_power,
            kappa: self.kappa.detach(),
            peak: self.peak.shallow_clone(),
            start: self.start.shallow_clone(),
            cell: self.cell.shallow_clone(),
            mass: self.mass.detach(),
            mean_excess: self.mean_excess.detach(),
        }
    }

    fn total(&self) -> Tensor {
        self.mass.select(1, N_CELLS)
    }

    /// For angles `[B, …]`.
    fn log_density(&self, theta: &Tensor) -> Tensor {
        let n_dims = theta.dim();
        let exponential = along(&self.kappa, n_dims) * excess(theta) - along(&self.peak, n_dims);
        if self.sin_power == 0.0 {
            return exponential;
        }
        // Keeps the logarithm finite at 0 and π.
        exponential + theta.sin().clamp_min(f64::MIN_POSITIVE).log() * self.sin_power
    }

    /// For angles `[B, K]`; above 0, as it is a divisor.
    fn density(&self, theta: &Tensor) -> Tensor {
        self.log_density(theta).exp().clamp_min(f64::MIN_POSITIVE)
    }

    /// The integral of the density from `left` to `right`, `[B, K]`, which are at most a cell apart.
    fn mass_between(&self, left: &Tensor, right: &Tensor) -> Tensor {
        let width = (right - left).unsqueeze(-1); // [B, K, 1]
        let theta = left.unsqueeze(-1) + &width * &self.places; // [B, K, 6]
        let masses = self.log_density(&theta).exp() * width * &self.weights;
        masses.sum_dim_intlist(-1, false, Kind::Double)
    }
}

/// cos θ − 1 without cancellation at small angles.
pub(super) fn excess(theta: &Tensor) -> Tensor {
    (theta * 0.5).sin().square() * -2.0
}

/// `[B]` → `[B, 1, …]`, with `n_dims` dimensions.
fn along(of_images: &Tensor, n_dims: usize) -> Tensor {
    let mut shape = vec![1; n_dims];
    shape[0] = of_images.size()[0];
    of_images.view(shape.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kappas(kappas: &[f64]) -> Tensor {
        Tensor::from_slice(kappas)
    }

    /// Values of exp(κ·(cos θ − 1))·sin^(Z−2) θ on a fine grid from 0 to π, and the grid's step.
    fn integrand(kappa: f64, latent_dims: i32) -> (Vec<f64>, f64) {
        let n = 400_000;
        let step = PI / f64::from(n);
        let at = |i: i32| {
            let theta = step * f64::from(i);
            (kappa * (theta.cos() - 1.0)).exp() * theta.sin().powi(latent_dims - 2)
        };
        ((0..=n).map(at).collect(), step)
    }

    /// Simpson's rule, for an odd number of values.
    fn integral(values: &[f64], step: f64) -> f64 {
        let triple = |i| values[i] + 4.0 * values[i + 1] + values[i + 2];
        let triples = (0..values.len() - 1).step_by(2).map(triple);
        triples.sum::<f64>() * step / 3.0
    }

    #[test]
    fn the_quadrature_is_exact_for_polynomials_of_degree_11() {
        for degree in 0..12 {
            let found: f64 = GAUSS
                .iter()
                .map(|(x, weight)| weight * x.powi(degree))
                .sum();
            let wanted = f64::from((degree + 1) % 2 * 2) / f64::from(degree + 1);
            assert!((found - wanted).abs() < 1e-14, "degree {degree}");
        }
    }

    #[test]
    fn normalizer_and_mean_are_those_of_numerical_integration() {
        for latent_dims in [2, 3, 4, 11] {
            for kappa in [1.0, 7.0, 300.0, 1e4] {
                let (values, step) = integrand(kappa, latent_dims);
                let total = integral(&values, step);
                let excess: Vec<f64> = (0..values.len())
                    .map(|i| values[i] * ((step * i as f64).cos() - 1.0))
                    .collect();
                let mean_excess = integral(&excess, step) / total;

                let colatitude = Colatitude::new(&kappas(&[kappa]), latent_dims.into());
                let log_normalizer = colatitude.log_normalizer().double_value(&[0]);
                let wanted = total.ln() + ln_sphere_area(i64::from(latent_dims) - 1);
                let says = format!("Z = {latent_dims}, kappa = {kappa}");
                assert!((log_normalizer - wanted).abs() < 1e-9, "{says}");
                let found = colatitude.mean_excess.double_value(&[0]);
                assert!((found / mean_excess - 1.0).abs() < 1e-7, "{says}");
            }
        }
    }

    #[test]
    fn normalizer_mean_and_kl_are_scipys() {
        let golden = include_str!("../../tests/golden/von_mises_fisher.json");
        let cases: Vec<(i64, f64, f64, f64, f64)> = serde_json::from_str(golden).expect("golden");
        assert_eq!(cases.len(), 48);
        for (latent_dims, kappa, log_normalizer, shortfall, kl) in cases {
            let colatitude = Colatitude::new(&kappas(&[kappa]), latent_dims);
            let says = format!("Z = {latent_dims}, kappa = {kappa}");
            let found = colatitude.log_normalizer().double_value(&[0]);
            let error = (found - log_normalizer).abs();
            assert!(
                error < 1e-11 * (1.0 + log_normalizer.abs()),
                "{says}: {error}"
            );
            let mean_excess = colatitude.mean_excess.double_value(&[0]);
            assert!(
                (mean_excess + shortfall).abs() < 1e-13,
                "{says}: {mean_excess}"
            );
            let found = kappa * mean_excess - found + ln_sphere_area(latent_dims);
            assert!((found - kl).abs() < 1e-9, "{says}: {found} vs {kl}");
        }
    }

    #[test]
    fn angles_have_the_distribution_function_of_their_noise() {
        let noise = [-5.5_f64, -3.0, -1.0, -0.01, 0.0, 0.7, 2.0, 4.0, 5.5];
        for latent_dims in [2, 3, 4, 11] {
            for kappa in [1.0, 7.0, 300.0, 1e4] {
                let (values, step) = integrand(kappa, latent_dims);
                let total = integral(&values, step);
                let colatitude = Colatitude::new(&kappas(&[kappa]), latent_dims.into());
                let column = Tensor::from_slice(&noise).to_kind(Kind::Float).unsqueeze(1);
                let wanted = (-column.to_kind(Kind::Double)).special_ndtr();
                let theta = colatitude.draw(&column);
                for i in 0..noise.len() as i64 {
                    let theta = theta.double_value(&[i, 0]);
                    // Up to the grid point before θ by the sum, and from there with the density at the middle.
                    let n = (theta / step) as usize / 2 * 2;
                    let rest = theta - step * n as f64;
                    let slope = (values[n + 2] - values[n]) / (2.0 * step);
                    let below =
                        integral(&values[..=n], step) + rest * (values[n] + 0.5 * slope * rest);
                    let wanted = wanted.double_value(&[i, 0]);
                    let error = (below / total - wanted).abs();
                    assert!(
                        error < 1e-9 + 1e-5 * wanted.min(1.0 - wanted),
                        "Z = {latent_dims}, kappa = {kappa}, noise {}: {error}",
                        noise[i as usize]
                    );
                }
            }
        }
    }

    #[test]
    fn gradients_to_kappa_are_those_of_finite_differences() {
        let noise = Tensor::from_slice(&[-4_f32, -1.0, 0.0, 0.5, 2.0, 4.0]);
        for latent_dims in [2, 3, 10, 50] {
            for kappa in [1.0, 3.0, 40.0, 2000.0] {
                let h = kappa * 1e-4;
                let at = |kappa: f64| {
                    let colatitude = Colatitude::new(&kappas(&[kappa]), latent_dims);
                    let theta = colatitude.draw(&noise.unsqueeze(1)).flatten(0, -1);
                    let (log_normalizer, mean) =
                        (colatitude.log_normalizer(), colatitude.mean_excess() * 1.0);
                    Tensor::cat(&[theta, log_normalizer, mean], 0)
                };
                let difference = (at(kappa + h) - at(kappa - h)) / (2.0 * h);
                let input = kappas(&[kappa]).set_requires_grad(true);
                let colatitude = Colatitude::new(&input, latent_dims);
                let theta = colatitude.draw(&noise.unsqueeze(1)).flatten(0, -1);
                let outputs = Tensor::cat(
                    &[
                        theta,
                        colatitude.log_normalizer(),
                        colatitude.mean_excess() * 1.0,
                    ],
                    0,
                );
                let slopes = crate::posterior::laws::jacobian(&outputs, &input).flatten(0, -1);
                let error = ((difference - &slopes) / slopes).abs().max();
                let says = format!("Z = {latent_dims}, kappa = {kappa}: {error}");
                assert!(error.double_value(&[]) < 1e-6, "{says}");
            }
        }
    }
}
