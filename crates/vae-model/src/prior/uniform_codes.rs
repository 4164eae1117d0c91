//! `prior = "uniform_codes"`: all codes have the same probability.

use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use super::{Prior, PriorContext};
use crate::{Quantizer, Support};

/// p(z) = K⁻ⁿ for n codes with K possible values each.
#[derive(Debug)]
pub(super) struct UniformCodes {
    pub(super) latent_dims: i64,
}

impl UniformCodes {
    /// The posterior's codes. Other posteriors are refused for this prior, in configs and of one's own.
    fn quantizer<'a>(context: &PriorContext<'a>) -> &'a dyn Quantizer {
        context.quantizer.expect("the posterior has codes")
    }
}

impl Prior for UniformCodes {
    fn support(&self) -> Option<Support> {
        Some(Support::Codes)
    }

    fn log_prob(&self, latents: &Tensor, context: PriorContext) -> Tensor {
        let quantizer = Self::quantizer(&context);
        let n_slots = quantizer.n_slots(self.latent_dims) as f64;
        let log_prob = -n_slots * (quantizer.n_codes() as f64).ln();
        Tensor::full(
            [latents.size()[0]],
            log_prob,
            (Kind::Float, latents.device()),
        )
    }

    fn sample(
        &self,
        n: i64,
        device: Device,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Tensor {
        let quantizer = Self::quantizer(&context);
        let size = [n, quantizer.n_slots(self.latent_dims)];
        quantizer.latents(&generator.randint(quantizer.n_codes(), size, (Kind::Int64, device)))
    }

    fn is_base(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FiniteScalarConfig;
    use crate::prior::tests::NO_CONTEXT;

    #[test]
    fn probabilities_of_all_codes_sum_to_1_and_are_equal() {
        let codes = FiniteScalarConfig { levels: vec![4, 3] };
        let prior = UniformCodes { latent_dims: 4 };
        let context = PriorContext {
            quantizer: Some(&codes),
            ..NO_CONTEXT
        };
        // Two codes with twelve possible values each.
        let latents = Tensor::zeros([1, 4], (Kind::Float, Device::Cpu));
        let log_prob = prior.log_prob(&latents, context).double_value(&[0]);
        assert!((log_prob + 144_f64.ln()).abs() < 1e-5);
        let n = 12_000;
        let samples = prior.sample(n, Device::Cpu, context, &mut Generator::cpu(1));
        assert_eq!(codes.nearest(&samples), samples);
        for place in 0..2 {
            let counts = codes
                .codes(&samples)
                .select(1, place)
                .bincount::<Tensor>(None, 12);
            assert_eq!(counts.size(), [12]);
            // Five standard deviations of a count of n/12.
            let excess = (counts - n / 12).abs().max().double_value(&[]);
            let deviation = (n as f64 * 11.0 / 144.0).sqrt();
            assert!(excess < 5.0 * deviation, "{excess}");
        }
    }
}
