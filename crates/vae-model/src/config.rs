//! The model's part of a config file: which parts it is composed of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compatibility;
use crate::{
    ConditionConfig, Initialization, LikelihoodConfig, ModelError, NetworkConfig, PosteriorConfig,
    PriorConfig, Term,
};

/// The parts of a model (`[model]` in a config file).
///
/// ```
/// let config: vae_model::ModelConfig = toml::from_str(r#"
///     latent_dims = 20
///     likelihood = "bernoulli"
///     [network.mlp]
///     hidden = [400]
/// "#).expect("a valid model");
/// assert_eq!(config.latent_dims, 20);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Z, the number of latent dimensions. With 2, `vae manifold` can draw the whole latent space.
    /// Default 2.
    #[schemars(range(min = 1, max = MOST_LATENTS))]
    pub latent_dims: i64,
    /// p(z), the distribution of latents before an image is seen. Default `"standard_normal"`.
    pub prior: PriorConfig,
    /// p(x|z), the distribution of an image's pixels given its latents: what the decoder's output means
    /// and how the reconstruction is measured. Default `"bernoulli"`.
    pub likelihood: LikelihoodConfig,
    /// How the initial weights are drawn. Default `"pytorch"`.
    pub initialization: Initialization,
    /// Divide every weight of the decoder's linear maps and convolutions by its largest singular value as
    /// a matrix (spectral norm, Miyato et al. 2018, <https://arxiv.org/abs/1802.05957>, eq. 8), as the
    /// regularized autoencoder RAE-SN does (Ghosh et al. 2020, <https://arxiv.org/abs/1903.12436>). No
    /// linear map then increases a distance, and no k×k convolution more than k-fold. Default false.
    pub decoder_spectral_norm: bool,
    /// q(z|x), the distribution of latents given an image, from the encoder. Default `diagonal_gaussian`.
    pub posterior: PosteriorConfig,
    /// The layers of encoder and decoder. The default sizes of `conv` make the small MNIST network.
    /// Default `conv`.
    pub network: NetworkConfig,
    /// What the model gets of each item besides the item itself. Without the table nothing: an
    /// unconditional model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<ConditionConfig>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            latent_dims: 2,
            prior: PriorConfig::default(),
            likelihood: LikelihoodConfig::default(),
            initialization: Initialization::default(),
            decoder_spectral_norm: false,
            posterior: PosteriorConfig::default(),
            network: NetworkConfig::default(),
            condition: None,
        }
    }
}

const MOST_LATENTS: i64 = 1 << 16;

impl ModelConfig {
    /// The named terms that draws of such a model carry ([`Draws::named`](crate::Draws::named)).
    #[must_use]
    pub fn terms(&self) -> Vec<Term> {
        vec![] // Every posterior so far says no more than the ELBO's terms.
    }

    /// Whether a learned prior is trained on codes that have no kl to train it by.
    pub(crate) fn fits_prior_to_codes(&self) -> bool {
        let is_learned = !matches!(
            self.prior,
            PriorConfig::StandardNormal | PriorConfig::HypersphericalUniform
        );
        is_learned && !self.posterior.has_density()
    }

    /// Checks what can be checked before the images are known.
    ///
    /// # Errors
    /// The first key whose value no model can be built from; parts that do not fit each other.
    pub fn check(&self) -> Result<(), ModelError> {
        if !(1..=MOST_LATENTS).contains(&self.latent_dims) {
            let found = self.latent_dims;
            let problem = format!("found {found}, a number from 1 to {MOST_LATENTS} is needed");
            return Err(ModelError::config("model.latent_dims", problem));
        }
        self.posterior.check(self.latent_dims)?;
        self.prior.check(self.latent_dims)?;
        self.likelihood.check()?;
        self.network.check()?;
        if let Some(condition) = &self.condition {
            condition.check()?;
        }
        compatibility::check_model(self)
    }
}
