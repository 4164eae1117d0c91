//! `posterior = "von_mises_fisher"`: latents on the unit sphere, the hyperspherical VAE (Davidson et al.
//! 2018, <https://arxiv.org/abs/1804.00891>).

use tch::{Kind, Tensor};

use super::colatitude::{Colatitude, excess};
use super::diagonal_gaussian::bounded_to;
use super::{ClosedKl, Latents, Posterior, PosteriorFamily};
use crate::math::{ln_sphere_area, unit};

/// The bound of κ: a standard deviation of 0.01 in each direction.
const LARGEST_KAPPA: f64 = 1e4;

/// A mean direction of the encoder that is shorter is drawn to the first axis.
const SHORTEST_DIRECTION: f64 = 1e-3;

/// Numbers that the encoder gives for each image: a direction, and how concentrated.
pub(super) fn n_params(latent_dims: i64) -> i64 {
    latent_dims + 1
}

#[derive(Debug)]
pub(super) struct VonMisesFisherFamily;

impl PosteriorFamily for VonMisesFisherFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(VonMisesFisher::new(params))
    }
}

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
    /// `params` `[B, Z + 1]`: μ at any length, and r with κ = 1 + softplus(r), which is bounded smoothly
    /// to 10⁴ as log-variances are.
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

    /// Turns vectors `[K, B, Z]` so that the first axis e₁ comes to μ.
    ///
    /// The reflection I − 2hhᵀ/hᵀh by h = e₁ + s·μ takes e₁ to −s·μ, and its negative does so with the
    /// other sign. s is the sign of μ₁: the h of the paper's reflection, e₁ − μ, may be almost nothing,
    /// and its gradient then almost infinite.
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

    /// The first number of the noise makes the angle to μ, the direction of the others the way to go.
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
        // κ·(μᵀz − 1) = −½κ·‖z − μ‖²: in f32 the former would lose 10⁻³ of a nat at κ = 10⁴.
        let distance =
            (latents - &self.mean_direction)
                .square()
                .sum_dim_intlist(-1, false, Kind::Float);
        let kappa = self.colatitude.kappa().to_kind(Kind::Float);
        Some(distance * kappa * -0.5 + self.log_peak().to_kind(Kind::Float))
    }

    /// κ·E\[μᵀz\] + ln C(κ) + ln of the sphere's area (Davidson et al. 2018, eq. 5).
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
