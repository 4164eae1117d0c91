//! `flow`: a normalizing flow, RealNVP as in the prior of that name.

use tch::{Kind, Tensor};
use vae_torch::Generator;

use super::{Distribution, FitProgress, LatentSet, LatentSpace, Standardized, features};
use crate::prior::RealNvp;
use crate::{Initialization, ModelError, RealNvpConfig, condition, nn};

/// p(z|c) = N(f(z; c); 0, I)·|det ∂f/∂z| with f a chain of affine couplings, after the latents were standardized. The
/// couplings' networks get the condition's features. The temperature scales the noise that f⁻¹ maps to latents.
#[derive(Debug)]
pub(super) struct Flow {
    latent_dims: i64,
    standardized: Standardized,
    flow: RealNvp,
    scales: Tensor,
}

impl Flow {
    pub(super) fn build(path: &nn::Path, [layers, hidden]: [i64; 2], space: &LatentSpace) -> Self {
        let n_features = condition::n_features(&space.condition);
        let config = RealNvpConfig { layers, hidden };
        let flow = config.build(
            &(path / "flow"),
            space.latent_dims,
            n_features,
            Initialization::Kaiming,
        );
        Self {
            latent_dims: space.latent_dims,
            standardized: Standardized::build(path, space.latent_dims),
            flow,
            scales: condition::scales(&space.condition),
        }
    }
}

impl Distribution for Flow {
    fn log_prob(
        &self,
        latents: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Tensor>, ModelError> {
        let scaled = self.standardized.scaled(latents);
        let features = features(condition, &self.scales, scaled.device());
        let log_prob = self.flow.log_density(&scaled, features.as_ref());
        Ok(Some(log_prob + self.standardized.log_det()))
    }

    fn loss(
        &self,
        latents: &Tensor,
        condition: Option<&Tensor>,
        _: &mut Generator,
    ) -> Result<Option<Tensor>, ModelError> {
        let log_prob = self.log_prob(latents, condition)?;
        Ok(log_prob.map(|log_prob| -log_prob.mean(Kind::Float)))
    }

    fn sample(
        &self,
        n: i64,
        condition: Option<&Tensor>,
        temperature: f64,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        let device = self.standardized.mean.device();
        let noise = generator.normal([n, self.latent_dims], device) * temperature;
        let features = features(condition, &self.scales, device);
        let scaled = self.flow.inverse(&noise, features.as_ref());
        Ok(self.standardized.restored(&scaled))
    }

    fn start(&self, train: &LatentSet, _: u64, _: &mut FitProgress) -> Result<bool, ModelError> {
        self.standardized.start(train);
        Ok(true)
    }
}
