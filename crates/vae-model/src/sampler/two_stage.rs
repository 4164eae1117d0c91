//! `two-stage`: a second, small VAE whose items are the latents of the first (Dai & Wipf 2019,
//! <https://arxiv.org/abs/1903.05789>).

use tch::{Device, Kind, Tensor};
use vae_base::{AttributeSpec, DataSpec, ItemKind, ItemSpec};
use vae_torch::Generator;

use super::{Distribution, FitProgress, LatentSet, LatentSpace, Standardized};
use crate::{
    ConditionConfig, Conditioned, GaussianConfig, LikelihoodConfig, MlpConfig, Mode, ModelConfig,
    ModelError, NetworkConfig, Vae, math, nn,
};

/// u ~ N(0, I), z ~ N(g(u), γ²·I): the aggregate posterior of this VAE's own latents u is close to its prior, because u has
/// as many dimensions as the data it models, and γ is learned. The temperature scales u and the noise of z.
#[derive(Debug)]
pub(super) struct TwoStage {
    /// Of standardized latents `[N, 1, 1, Z]`.
    vae: Vae,
    standardized: Standardized,
}

/// K of the importance-weighted bound that sizes are compared by.
const N_SAMPLES: i64 = 10;

/// The prefix of its variables' names.
const PREFIX: &str = "vae.";

impl TwoStage {
    pub(super) fn build(
        path: &nn::Path,
        [latent_dims, hidden]: [i64; 2],
        space: &LatentSpace,
        device: Device,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let spec = &space.condition;
        let name = |attribute: &AttributeSpec| attribute.name.clone();
        let condition = (!spec.is_empty()).then(|| ConditionConfig {
            classes: !spec.classes.is_empty(),
            attributes: spec.attributes.iter().map(name).collect(),
            // Hidden by the sampler already.
            dropout: 0.0,
        });
        let config = ModelConfig {
            latent_dims: Some(latent_dims),
            likelihood: LikelihoodConfig::Gaussian(GaussianConfig::default()),
            network: NetworkConfig::Mlp(MlpConfig {
                hidden: vec![hidden, hidden],
            }),
            condition,
            ..ModelConfig::default()
        };
        let data = DataSpec {
            item: ItemSpec::new(ItemKind::Array, vec![space.latent_dims]),
            condition: spec.clone(),
        };
        Ok(Self {
            vae: Vae::new(&config, data, device, seed)?,
            standardized: Standardized::build(path, space.latent_dims),
        })
    }

    fn items(&self, latents: &Tensor) -> Tensor {
        let scaled = self.standardized.scaled(latents);
        scaled.unsqueeze(1).unsqueeze(1) // [N, 1, 1, Z]
    }
}

impl Distribution for TwoStage {
    fn log_prob(&self, _: &Tensor, _: Option<&Tensor>) -> Result<Option<Tensor>, ModelError> {
        Ok(None)
    }

    fn bound(
        &self,
        latents: &Tensor,
        condition: Option<&Tensor>,
        generator: &mut Generator,
    ) -> Result<Option<Tensor>, ModelError> {
        let items = self.items(latents);
        let items: Conditioned = (&items, condition).into();
        let draws = self.vae.draw(items, N_SAMPLES, Mode::Evaluate, generator)?;
        let bound = draws.log_weights().ok_or(ModelError::NoElbo)?;
        Ok(Some(
            math::log_mean_exp(&bound) + self.standardized.log_det(),
        ))
    }

    fn loss(
        &self,
        latents: &Tensor,
        condition: Option<&Tensor>,
        generator: &mut Generator,
    ) -> Result<Option<Tensor>, ModelError> {
        let items = self.items(latents);
        let items: Conditioned = (&items, condition).into();
        let draws = self.vae.draw(items, 1, Mode::Train, generator)?;
        let elbo = draws.terms.elbo().ok_or(ModelError::NoElbo)?;
        let loss = -(elbo.mean(Kind::Float) + self.standardized.log_det());
        Ok(Some(loss))
    }

    fn sample(
        &self,
        n: i64,
        condition: Option<&Tensor>,
        temperature: f64,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        let u = self.vae.latents_at(n, condition, temperature, generator);
        let latents: Conditioned = (&u, condition).into();
        let mean = self.vae.decode(latents)?;
        let drawn = match temperature == 0.0 {
            true => mean,
            // mean + γ·ε, from which the noise is scaled.
            false => {
                let drawn = self.vae.decode_sampled(latents, generator)?;
                &mean + (drawn - &mean) * temperature
            }
        };
        Ok(self.standardized.restored(&drawn.flatten(1, -1)))
    }

    fn start(&self, train: &LatentSet, _: u64, _: &mut FitProgress) -> Result<bool, ModelError> {
        self.standardized.start(train);
        Ok(true)
    }

    fn further_variables(&self) -> Vec<(String, Tensor)> {
        let named = self.vae.named_variables().into_iter();
        named
            .map(|(name, variable)| (format!("{PREFIX}{name}"), variable))
            .collect()
    }
}
