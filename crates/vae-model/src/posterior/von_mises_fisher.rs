//! `posterior = "von_mises_fisher"`: latents on the unit sphere, as in the hyperspherical VAE (Davidson et al. 2018,
//! <https://arxiv.org/abs/1804.00891>).

use tch::{Kind, Tensor};

use super::colatitude::{Colatitude, excess};
use super::diagonal_gaussian::bounded_to;
use super::{ClosedKl, GraphFamily, Latents, Posterior, PosteriorFamily};
use crate::Support;
use crate::math::{ln_sphere_area, unit};

/// The bound of κ, which limits the standard deviation in each direction to at least 0.01.
const LARGEST_KAPPA: f64 = 1e4;

/// Shorter direction vectors of the encoder are bent to the first axis.
const SHORTEST_DIRECTION: f64 = 1e-3;

/// Number of values that the encoder gives for each image: a direction and a concentration.
pub(super) fn n_params(latent_dims: i64) -> i64 {
    latent_dims + 1
}

#[derive(Debug)]
pub(super) struct VonMisesFisherFamily;

impl PosteriorFamily for VonMisesFisherFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(VonMisesFisher::new(params))
    }

    fn support(&self) -> Support {
        Support::Sphere
    }
}

impl GraphFamily for VonMisesFisherFamily {}

/// The density C(κ)·exp(κ·μᵀz) on the unit sphere in ℝ^Z, with respect to its area, for each image of a
/// batch.
#[derive(Debug)]
struct VonMisesFisher {
    /// μ `[B, Z]`, of length 1.
    mean_direction: Tensor,
    /// κ, and the distribution of the angle between z and μ.
    colatitude: Colatitude,
}

impl VonMisesFisher {
    /// `params` `[B, Z + 1]`: μ with any length, and r with κ = 1 + softplus(r), which is bounded smoothly to 10⁴ in
    /// the same way as log-variances.
    fn new(params: &Tensor) -> Self {
        let latent_dims = params.size()[1] - 1;
        let raw = params.select(1, latent_dims).to_kind(Kind::Double);
        let kappa = bounded_to(LARGEST_KAPPA, &(raw.softplus() + 1.0));
        Self {
            mean_direction: unit(&params.narrow(1, 0, latent_dims), SHORTEST_DIRECTION),
            colatitude: Colatitude::new(&kappa, latent_dims),
        }
    }

    fn latent_dims(&self) -> i64 {
        self.mean_direction.size()[1]
    }

    /// Rotates vectors `[K, B, Z]` so that the first axis e₁ is mapped to μ.
    ///
    /// The reflection I − 2hhᵀ/hᵀh with h = e₁ + s·μ maps e₁ to −s·μ; its negative maps it to s·μ. s is the sign of μ₁.
    /// The paper's reflection has h = e₁ − μ, which may be close to 0, with a gradient close to infinity.
    fn turned(&self, vectors: &Tensor) -> Tensor {
        let first = self.mean_direction.narrow(1, 0, 1); // [B, 1]
        let sign = first.detach().ge(0.0).to_kind(Kind::Float) * 2.0 - 1.0;
        let rest = self.mean_direction.narrow(1, 1, self.latent_dims() - 1) * &sign;
        let first = first * &sign; // |μ₁|
        let normal = Tensor::cat(&[&first + 1.0, rest], 1); // h [B, Z], hᵀh = 2 + 2·|μ₁|
        let along = (vectors * &normal).sum_dim_intlist(-1, true, Kind::Float); // [K, B, 1]
        (along / (first + 1.0) * normal - vectors) * sign
    }

    /// ln C(κ) + κ `[B]`, the log-density at μ, in f64.
    fn log_peak(&self) -> Tensor {
        -self.colatitude.log_normalizer()
    }
}

impl Posterior for VonMisesFisher {
    fn center(&self) -> Tensor {
        self.mean_direction.shallow_clone()
    }

    /// The first value of the noise determines the angle to μ, the direction of the others that of the deviation.
    fn draw(&self, noise: &Tensor) -> Latents {
        let theta = self.colatitude.draw(&noise.select(-1, 0)); // [K, B]
        let log_prob = self.colatitude.kappa() * excess(&theta) + self.log_peak();
        let tangent = noise.narrow(-1, 1, self.latent_dims() - 1);
        let tangent = unit(&tangent, f64::from(f32::MIN_POSITIVE)); // [K, B, Z − 1]
        let theta = theta.unsqueeze(-1);
        let along = theta.cos().to_kind(Kind::Float);
        let across = tangent * theta.sin().to_kind(Kind::Float);
        Latents {
            latents: self.turned(&Tensor::cat(&[along, across], -1)),
            log_prob: Some(log_prob.to_kind(Kind::Float)),
        }
    }

    fn log_prob(&self, latents: &Tensor) -> Option<Tensor> {
        // κ·(μᵀz − 1) = −½κ·‖z − μ‖². In f32 the left side would lose 10⁻³ nats at κ = 10⁴.
        let distance =
            (latents - &self.mean_direction)
                .square()
                .sum_dim_intlist(-1, false, Kind::Float);
        let kappa = self.colatitude.kappa().to_kind(Kind::Float);
        Some(distance * kappa * -0.5 + self.log_peak().to_kind(Kind::Float))
    }

    /// κ·E\[μᵀz\] + ln C(κ) + ln of the sphere's area (Davidson et al. 2018, App. B).
    fn kl(&self) -> Option<ClosedKl> {
        let mean_log = self.colatitude.kappa() * self.colatitude.mean_excess() + self.log_peak();
        let kl = mean_log + ln_sphere_area(self.latent_dims());
        Some(ClosedKl::Total(kl.to_kind(Kind::Float)))
    }

    fn detach(&self) -> Box<dyn Posterior> {
        Box::new(Self {
            mean_direction: self.mean_direction.detach(),
            colatitude: self.colatitude.detach(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::{PI, TAU};

    use tch::{Device, no_grad};

    use super::*;
    use crate::posterior::laws::normals;

    fn posterior(direction: &[f32], raw_kappa: f32) -> VonMisesFisher {
        let params = [direction, &[raw_kappa]].concat();
        VonMisesFisher::new(&Tensor::from_slice(&params).unsqueeze(0))
    }

    fn largest(difference: Tensor) -> f64 {
        difference.abs().max().double_value(&[])
    }

    #[test]
    fn the_density_integrates_to_1_on_the_circle() {
        for raw_kappa in [-30.0, 0.0, 20.0, 900.0] {
            let n = 20_000;
            let step = TAU / n as f64;
            let angle = Tensor::arange(n, (Kind::Double, Device::Cpu)) * step;
            let z = Tensor::stack(&[angle.cos(), angle.sin()], 1).to_kind(Kind::Float);
            let q = posterior(&[-0.4, 0.3], raw_kappa);
            let log_prob = q.log_prob(&z.unsqueeze(1)).expect("a density");
            let mass = (log_prob.exp() * step).sum(Kind::Double).double_value(&[]);
            assert!((mass - 1.0).abs() < 1e-4, "{raw_kappa}: {mass}");
        }
    }

    #[test]
    fn the_density_integrates_to_1_on_the_sphere() {
        // Around the third axis, which is not the mean direction, by the trapezoidal rule in the height (the area is
        // uniform in it) and in the longitude.
        for raw_kappa in [-30.0, 0.0, 20.0, 90.0] {
            let n = 1500;
            let options = (Kind::Double, Device::Cpu);
            let height = ((Tensor::arange(n, options) + 0.5) / (n as f64 / 2.0) - 1.0).unsqueeze(1);
            let longitude = (Tensor::arange(n, options) * (TAU / n as f64)).unsqueeze(0);
            let radius: Tensor = 1.0 - height.square();
            let radius = radius.sqrt();
            let axes = [
                &radius * longitude.cos(),
                &radius * longitude.sin(),
                height.expand([n, n], false),
            ];
            let z = Tensor::stack(&axes, -1)
                .to_kind(Kind::Float)
                .view([-1, 1, 3]);
            let q = posterior(&[2.0, -1.0, 1.0], raw_kappa);
            let log_prob = q.log_prob(&z).expect("a density");
            let mass = log_prob.exp().mean(Kind::Double).double_value(&[]) * 4.0 * PI;
            assert!((mass - 1.0).abs() < 1e-4, "{raw_kappa}: {mass}");
        }
    }

    #[test]
    fn on_the_sphere_in_three_dimensions_all_is_elementary() {
        // C = κ/(4π·sinh κ), E[w] = coth κ − 1/κ, at κ = 1 + ln(1 + e²).
        let kappa = 1.0 + 2_f64.exp().ln_1p();
        let q = posterior(&[0.0, 0.0, 3.0], 2.0);
        let log_c = (kappa / (4.0 * PI * kappa.sinh())).ln();
        let at_mean = q
            .log_prob(&q.center())
            .expect("a density")
            .double_value(&[0]);
        assert!((at_mean - (log_c + kappa)).abs() < 1e-6);
        let mean = 1.0 / kappa.tanh() - 1.0 / kappa;
        let Some(ClosedKl::Total(kl)) = q.kl() else {
            panic!("a kl of the whole");
        };
        let wanted = kappa * mean + log_c + (4.0 * PI).ln();
        assert!((kl.double_value(&[0]) - wanted).abs() < 1e-6);
        // Its distribution function is elementary too: w = 1 + ln(u + (1 − u)·e^(−2κ))/κ.
        let noise = normals(&[50, 1, 3], 1);
        let u = noise.select(-1, 0).to_kind(Kind::Double).special_ndtr();
        let tail: Tensor = (1.0 - &u) * (-2.0 * kappa).exp();
        let w: Tensor = (u + tail).log() / kappa + 1.0;
        let found = q.draw(&noise).latents.select(-1, 2);
        assert!(largest(found - w) < 1e-6);
    }

    #[test]
    fn draws_are_around_the_mean_direction_and_go_all_ways_alike() {
        let n = 40_000;
        for (latent_dims, raw_kappa) in [(2, 1.0), (3, 5.0), (8, -20.0), (8, 30.0)] {
            let direction = normals(&[latent_dims], 5);
            let direction = Vec::<f32>::try_from(direction).expect("numbers");
            let q = posterior(&direction, raw_kappa);
            let z = q
                .draw(&normals(&[n, 1, latent_dims], 6))
                .latents
                .squeeze_dim(1);
            assert!(largest(z.square().sum_dim_intlist(1, false, Kind::Float) - 1.0) < 1e-6);
            let error = |t: &Tensor| t.std_dim(0, true, false) / (n as f64).sqrt();

            let along = (&z * &q.mean_direction).sum_dim_intlist(1, true, Kind::Float); // [n, 1]
            let mean = q.colatitude.mean_excess() + 1.0;
            let excess = (along.mean_dim(0, false, Kind::Double) - &mean) / error(&along);
            assert!(largest(excess) < 5.0, "Z = {latent_dims}, {raw_kappa}");

            // The part orthogonal to μ has mean 0 and the covariance E[sin² θ]/(Z − 1)·(I − μμᵀ), where E[sin² θ] = (Z
            // − 1)·E[w]/κ by integration by parts.
            let across = &z - &along * &q.mean_direction; // [n, Z]
            let excess = across.mean_dim(0, false, Kind::Float) / error(&across);
            assert!(largest(excess) < 5.0, "Z = {latent_dims}, {raw_kappa}");
            let products = across.unsqueeze(-1) * across.unsqueeze(-2); // [n, Z, Z]
            let eye = Tensor::eye(latent_dims, (Kind::Float, Device::Cpu));
            let projection = eye - q.mean_direction.transpose(0, 1) * &q.mean_direction;
            let wanted = projection * (mean / q.colatitude.kappa()).to_kind(Kind::Float);
            let excess = (products.mean_dim(0, false, Kind::Float) - wanted).abs()
                / (error(&products) + 1e-7);
            assert!(largest(excess) < 5.0, "Z = {latent_dims}, {raw_kappa}");
        }
    }

    #[test]
    fn the_first_axis_is_turned_to_the_mean_direction_wherever_that_is() {
        let directions: [&[f32]; 6] = [
            &[1.0, 0.0, 0.0],
            &[-1.0, 0.0, 0.0],
            &[0.0, 1.0, 0.0],
            &[-1.0, 1e-6, 0.0],
            &[1.0, 0.0, -1e-6],
            &[-0.2, 5.0, 2.0],
        ];
        for direction in directions {
            let q = posterior(direction, 0.0);
            let axes = Tensor::eye(3, (Kind::Float, Device::Cpu)).unsqueeze(1); // [3, 1, Z]
            let turned = q.turned(&axes).squeeze_dim(1);
            assert!(largest(turned.get(0) - q.center()) < 1e-6, "{direction:?}");
            let products = turned.matmul(&turned.transpose(0, 1));
            assert!(
                largest(products - axes.squeeze_dim(1)) < 1e-6,
                "{direction:?}"
            );

            // Even close to an axis, the draws turn only by as much as the direction does.
            let params = [direction, &[0.0]].concat();
            let params = Tensor::from_slice(&params)
                .unsqueeze(0)
                .set_requires_grad(true);
            let draws = VonMisesFisher::new(&params).draw(&normals(&[4, 1, 3], 9));
            draws.latents.sum(Kind::Float).backward();
            assert!(largest(params.grad()) < 20.0, "{direction:?}");
        }
    }

    #[test]
    fn concentrations_go_from_1_to_their_bound_with_finite_gradients() {
        for latent_dims in [2, 3, 40] {
            let raw = Tensor::from_slice(&[-1e5_f32, -100.0, 0.0, 1e3, 9e3, 1e5, 1e30]);
            let raw = raw.unsqueeze(1).set_requires_grad(true);
            let params = Tensor::cat(&[normals(&[7, latent_dims], 1), raw.shallow_clone()], 1);
            let q = VonMisesFisher::new(&params);
            let kappa = q.colatitude.kappa();
            assert_eq!(kappa.double_value(&[0]), 1.0);
            assert!((kappa.double_value(&[2]) - 1.0 - 2_f64.ln()).abs() < 1e-6);
            assert!((kappa.double_value(&[3]) - 1001.0).abs() < 1e-6);
            assert!((kappa.double_value(&[6]) - LARGEST_KAPPA).abs() < 1e-6);
            let draws = q.draw(&(normals(&[9, 7, latent_dims], 2) * 2.0));
            let Some(ClosedKl::Total(kl)) = q.kl() else {
                panic!("a kl of the whole");
            };
            assert!(no_grad(|| kl.min()).double_value(&[]) > 0.0);
            let log_prob = draws.log_prob.expect("a density").sum(Kind::Float);
            (draws.latents.sum(Kind::Float) + kl.sum(Kind::Float) + log_prob).backward();
            assert_eq!(raw.grad().isfinite().all().int64_value(&[]), 1);
        }
    }
}
