//! `prior = "uniform_codes"`: all codes have the same probability.

use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use super::{Prior, PriorContext};
use crate::{FiniteScalarConfig, Support};

/// p(z) = K⁻ⁿ for n codes with K possible values each.
#[derive(Debug)]
pub(super) struct UniformCodes {
    pub(super) codes: FiniteScalarConfig,
    pub(super) latent_dims: i64,
}

impl Prior for UniformCodes {
    fn support(&self) -> Option<Support> {
        Some(Support::Codes)
    }

    fn log_prob(&self, latents: &Tensor, _: PriorContext) -> Tensor {
        let n_codes = self.latent_dims / self.codes.levels.len() as i64;
        let log_prob = -(n_codes as f64) * (self.codes.n_codes() as f64).ln();
        Tensor::full(
            [latents.size()[0]],
            log_prob,
            (Kind::Float, latents.device()),
        )
    }

    fn sample(&self, n: i64, device: Device, _: PriorContext, generator: &mut Generator) -> Tensor {
        self.codes.uniform(n, self.latent_dims, device, generator)
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
    fn probabilities_of_all_codes_sum_to_1() {
        let prior = UniformCodes {
            codes: FiniteScalarConfig { levels: vec![4, 3] },
            latent_dims: 4,
        };
        // Two codes with twelve possible values each.
        let latents = Tensor::zeros([1, 4], (Kind::Float, Device::Cpu));
        let log_prob = prior.log_prob(&latents, NO_CONTEXT).double_value(&[0]);
        assert!((log_prob + 144_f64.ln()).abs() < 1e-5);
        let samples = prior.sample(7, Device::Cpu, NO_CONTEXT, &mut Generator::cpu(1));
        assert_eq!(samples.size(), [7, 4]);
    }
}
