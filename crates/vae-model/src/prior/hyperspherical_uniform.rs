//! `prior = "hyperspherical_uniform"`: the prior of the hyperspherical VAE (Davidson et al. 2018,
//! <https://arxiv.org/abs/1804.00891>, §3).

use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use super::{Prior, PriorContext};
use crate::Support;
use crate::math::{ln_sphere_area, unit};

/// Uniform on the unit sphere in ℝ^Z.
#[derive(Debug)]
pub(super) struct HypersphericalUniform {
    pub(super) latent_dims: i64,
}

impl Prior for HypersphericalUniform {
    fn support(&self) -> Option<Support> {
        Some(Support::Sphere)
    }

    /// The density with respect to the sphere's area, like those of the posteriors on the sphere.
    fn log_prob(&self, latents: &Tensor, _: PriorContext) -> Tensor {
        let log_density = -ln_sphere_area(self.latent_dims);
        Tensor::full(
            &latents.size()[..1],
            log_density,
            (Kind::Float, latents.device()),
        )
    }

    fn sample(&self, n: i64, device: Device, _: PriorContext, generator: &mut Generator) -> Tensor {
        let normal = generator.normal([n, self.latent_dims], device);
        unit(&normal, f64::from(f32::MIN_POSITIVE))
    }

    fn is_base(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::tests::NO_CONTEXT;

    #[test]
    fn samples_are_uniform_on_the_sphere_and_their_density_is_1_over_its_area() {
        let prior = HypersphericalUniform { latent_dims: 3 };
        let n = 20_000;
        let latents = prior.sample(n, Device::Cpu, NO_CONTEXT, &mut Generator::cpu(1));
        assert_eq!(latents.size(), [n, 3]);
        let length = latents.square().sum_dim_intlist(1, false, Kind::Float);
        assert!((length - 1.0).abs().max().double_value(&[]) < 1e-6);
        // By hand: each coordinate is uniform on [−1, 1] (Archimedes), so its mean is 0 with variance ⅓,
        // and its square's mean ⅓ with variance 1/5 − 1/9. Five standard errors.
        let mean = latents.mean_dim(0, false, Kind::Float).abs().max();
        assert!(mean.double_value(&[]) < 5.0 * (1.0 / 3.0 / n as f64).sqrt());
        let square = latents.square().mean_dim(0, false, Kind::Float) - 1.0 / 3.0;
        let error = (4.0 / 45.0 / n as f64).sqrt();
        assert!(square.abs().max().double_value(&[]) < 5.0 * error);

        let log_prob = prior.log_prob(&latents, NO_CONTEXT);
        assert_eq!(log_prob.size(), [n]);
        let wanted = -(4.0 * std::f64::consts::PI).ln();
        assert!((log_prob - wanted).abs().max().double_value(&[]) < 1e-6);
    }
}
