//! `prior = "standard_normal"`.

use tch::{Device, Tensor};
use vae_torch::Generator;

use super::{Prior, PriorContext};
use crate::math::standard_normal_log_prob;

#[derive(Debug)]
pub(super) struct StandardNormal {
    pub(super) latent_dims: i64,
}

impl Prior for StandardNormal {
    fn log_prob(&self, latents: &Tensor, _: PriorContext) -> Tensor {
        standard_normal_log_prob(latents)
    }

    fn sample(
        &self,
        n: i64,
        device: Device,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Tensor {
        generator.normal([n, self.latent_dims], device) * context.temperature
    }

    fn has_temperature(&self) -> bool {
        true
    }

    fn is_base(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::prior::tests::NO_CONTEXT;

    #[test]
    fn log_prob_and_samples_are_those_of_a_standard_normal() {
        let prior = StandardNormal { latent_dims: 3 };
        // By hand: −½(1 + 4) − 3/2 ln 2π.
        let latents = Tensor::from_slice(&[1_f32, 0.0, -2.0]).view([1, 3]);
        let log_prob = prior.log_prob(&latents, NO_CONTEXT).double_value(&[0]);
        assert!((log_prob + 2.5 + 1.5 * (2.0 * std::f64::consts::PI).ln()).abs() < 1e-6);

        let latents = prior.sample(20_000, Device::Cpu, NO_CONTEXT, &mut Generator::cpu(1));
        assert_eq!(latents.size(), [20_000, 3]);
        // Five standard errors of the mean and of the variance.
        let mean = latents.mean_dim(0, false, Kind::Float).abs().max();
        assert!(mean.double_value(&[]) < 5.0 / 20_000_f64.sqrt());
        let variance = latents.square().mean_dim(0, false, Kind::Float) - 1.0;
        assert!(variance.abs().max().double_value(&[]) < 5.0 * (2.0 / 20_000_f64).sqrt());
    }
}
