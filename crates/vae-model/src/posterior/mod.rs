//! Posteriors q(z|x): distributions of an image's latents from the encoder's output.

mod codebook;
mod colatitude;
mod deterministic;
mod diagonal_gaussian;
mod finite_scalar;
mod full_covariance;
mod iaf;
mod ladder;
#[cfg(test)]
mod laws;
mod lookup_free;
mod none;
mod planar;
mod pyramid;
mod quantized;
mod top_down;
mod vector_quantized;
mod von_mises_fisher;

use std::fmt::Debug;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

pub use diagonal_gaussian::{DiagonalGaussian, DiagonalGaussianConfig, NoiseScale};
pub use finite_scalar::FiniteScalarConfig;
pub use iaf::IafConfig;
pub use ladder::Ladder;
pub(crate) use ladder::LadderFamily;
pub(crate) use lookup_free::ENTROPY_PENALTY;
pub use lookup_free::LookupFreeConfig;
pub use planar::PlanarConfig;
pub(crate) use pyramid::PyramidFamily;
pub(crate) use quantized::COMMITMENT;
pub use top_down::TopDownDraws;
pub(crate) use top_down::{PriorMaps, TopDownFamily};
pub use vector_quantized::{
    CodeDistance, CodeGradient, CodebookConfig, CodebookEmaConfig, VectorQuantizedConfig,
};

use crate::graph::{Graph, Value};
use crate::network::{LARGEST_SIZE, check_depth};
use crate::{Initialization, ModelError, Quantizer, Support, Terms, nn};

/// q(z|x) for each image of a batch.
pub trait Posterior: Debug {
    /// The latent that represents an image, `[B, Z]`: the mean of q(z|x), or if that has no closed form a similar point
    /// (a flow's image of the base mean, or the mean direction).
    fn center(&self) -> Tensor;

    /// z `[K, B, Z]` and log q(z|x), from standard normal noise ε `[K, B, Z]`: differentiable in the
    /// encoder's output.
    fn draw(&self, noise: &Tensor) -> Latents;

    /// [`Self::draw`], and in the same pass everything that depends on the latents, if they are drawn on the decoder's
    /// way down ([`TopDownConfig`](crate::TopDownConfig)). The gradients reach all networks, but there is none with
    /// respect to the latents.
    fn draw_down(&self, noise: &Tensor) -> Option<TopDownDraws> {
        let _ = noise;
        None
    }

    /// log q(z|x) in nats at latents `[K, B, Z]`, or any that broadcast with `[B, Z]`, summed over the dimensions.
    /// `None` if it has no closed form (flows) or does not exist (deterministic).
    fn log_prob(&self, latents: &Tensor) -> Option<Tensor>;

    /// KL from q(z|x) to the base distribution of its space (standard normal, or uniform on the sphere), if it has a
    /// closed form.
    fn kl(&self) -> Option<ClosedKl> {
        None
    }

    /// Log-variances of the latent dimensions `[B, Z]`, if they have a closed form.
    fn log_var(&self) -> Option<Tensor> {
        None
    }

    /// Covariance of q(z|x) `[B, Z, Z]`, if it has a closed form.
    fn covariance(&self) -> Option<Tensor> {
        None
    }

    /// The codes of its latents, i64 `[B, n]` from 0 on, if the latents are codes.
    fn codes(&self) -> Option<Tensor> {
        None
    }

    /// What it adds to the loss of each item, `[B]` in nats, and the parts of that for logs: the commitment of
    /// codes.
    fn penalty(&self) -> Option<(Tensor, Terms)> {
        None
    }

    /// The same distribution, detached: only the gradient through z remains.
    fn detach(&self) -> Box<dyn Posterior>;

    /// Itself, if it is a diagonal Gaussian.
    fn as_diagonal_gaussian(&self) -> Option<&DiagonalGaussian> {
        None
    }

    /// Itself, if its latents are in the levels of a ladder.
    fn as_ladder(&self) -> Option<&Ladder> {
        None
    }
}

/// Drawn latents and their log-densities.
#[derive(Debug)]
pub struct Latents {
    /// z `[K, B, Z]`.
    pub latents: Tensor,
    /// log q(z|x) in nats, `[K, B]`; `None` if q(z|x) has no density.
    pub log_prob: Option<Tensor>,
}

/// A kl in closed form, in nats.
#[derive(Debug)]
pub enum ClosedKl {
    /// For each latent dimension, `[B, Z]`; their sum is the kl.
    PerDimension(Tensor),
    /// For each image, `[B]`.
    Total(Tensor),
}

/// A family of posteriors: turns the encoder's output into a distribution. Its own parameters (the networks of a flow)
/// are variables of the model.
pub trait PosteriorFamily: Debug + Send {
    /// The distribution that the encoder's output f32 `[B, P]` parameterizes.
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior>;

    /// [`Self::distribution`] in a training step: what a family learns by averages instead of gradients is updated here.
    fn distribution_in_training(&self, params: &Tensor) -> Box<dyn Posterior> {
        self.distribution(params)
    }

    /// Called after the last step of an epoch.
    fn end_epoch(&self) {}

    /// Number of training items that [`Self::start_from`] uses.
    fn n_start_items(&self, latent_dims: i64) -> usize {
        let _ = latent_dims;
        0
    }

    /// Initializes the family from the fresh encoder's output for training items, `[B, P]`, before the first step.
    fn start_from(&self, params: &Tensor) {
        let _ = params;
    }

    /// The space that its latents lie in.
    fn support(&self) -> Support {
        Support::Euclidean
    }

    /// Its codes, if its latents are codes ([`Support::Codes`]).
    fn quantizer(&self) -> Option<&dyn Quantizer> {
        None
    }
}

/// A family that may describe its computation as a graph.
pub(crate) trait GraphFamily: PosteriorFamily {
    /// Its center and, if it has any, its log-variances as operations; `None` if it has no graph.
    fn graph(&self, _: &mut Graph, _: &Value) -> Option<Vec<Value>> {
        None
    }
}

/// The properties of a posterior that the checks use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PosteriorTraits {
    /// The space that its latents lie in.
    pub(crate) support: Support,
    /// Whether q(z|x) has a density: without a density there is neither kl nor elbo.
    pub(crate) has_density: bool,
    /// Whether log q(z|x) has a closed form at any z, not only at drawn ones.
    pub(crate) has_log_prob: bool,
    /// Whether its mean and covariance have a closed form.
    pub(crate) has_covariance: bool,
    /// Whether the encoder gives the same number of parameters for each latent, so that latents may be a map.
    pub(crate) is_per_latent: bool,
    /// Whether it is a diagonal Gaussian.
    pub(crate) is_diagonal_gaussian: bool,
}

/// q(z|x), the distribution of latents given an image, whose parameters come from the encoder (`posterior`
/// or `[model.posterior.…]` in a config file).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PosteriorConfig {
    /// N(mean, diag(exp(log-variance))), both from the encoder.
    DiagonalGaussian(DiagonalGaussianConfig),
    /// N(mean, L·Lᵀ), L a triangular matrix from the encoder.
    FullCovariance,
    /// A diagonal Gaussian followed by planar flows, whose parameters come from the encoder.
    Planar(PlanarConfig),
    /// A diagonal Gaussian followed by inverse autoregressive flows: networks with a context vector from the encoder as
    /// a further input.
    Iaf(IafConfig),
    /// Von Mises–Fisher, on the unit sphere: a mean direction and a concentration from the encoder.
    VonMisesFisher,
    /// A single point without a density: an autoencoder, without kl and elbo.
    Deterministic,
    /// Codes: each latent is one of a few levels. There is no kl and no elbo.
    FiniteScalar(FiniteScalarConfig),
    /// Codes: several latents together are one of a learned list of vectors. There is no kl and no elbo.
    VectorQuantized(VectorQuantizedConfig),
    /// Codes: each latent is −1 or 1. There is no kl and no elbo.
    LookupFree(LookupFreeConfig),
    /// No encoder: a generator that decodes latents of the prior, trained by `objective.adversarial` (GAN, Goodfellow
    /// et al. 2014, <https://arxiv.org/abs/1406.2661>).
    None,
}

impl Default for PosteriorConfig {
    fn default() -> Self {
        Self::DiagonalGaussian(DiagonalGaussianConfig::default())
    }
}

impl PosteriorConfig {
    pub(crate) fn check(&self, latent_dims: i64) -> Result<(), ModelError> {
        match self {
            Self::DiagonalGaussian(_) | Self::FullCovariance | Self::Deterministic | Self::None => {
            }
            Self::FiniteScalar(config) => config.check(latent_dims)?,
            Self::VectorQuantized(config) => config.check(latent_dims)?,
            Self::LookupFree(config) => config.check(latent_dims)?,
            Self::Planar(config) => check_depth("model.posterior.planar.flows", config.flows)?,
            Self::Iaf(config) => config.check()?,
            Self::VonMisesFisher => check_sphere("model.posterior", self.name(), latent_dims)?,
        }
        let n_params = self.n_params(latent_dims);
        if n_params > 2 * LARGEST_SIZE {
            return Err(ModelError::config(
                "model.posterior",
                format!(
                    "{} takes {n_params} numbers for each image when latent_dims = {latent_dims}, expected at \
                     most {}; diagonal_gaussian takes fewest",
                    self.name(),
                    2 * LARGEST_SIZE
                ),
            ));
        }
        Ok(())
    }

    /// Its properties for the checks.
    pub(crate) fn traits(&self) -> PosteriorTraits {
        PosteriorTraits {
            support: self.support(),
            has_density: self.has_density(),
            has_log_prob: self.has_log_prob(),
            has_covariance: self.has_covariance(),
            is_per_latent: self.is_per_latent(),
            is_diagonal_gaussian: matches!(self, Self::DiagonalGaussian(_)),
        }
    }

    /// Number of values that the encoder gives for each image; without an encoder, that it would give if there was one.
    #[must_use]
    pub fn n_params(&self, latent_dims: i64) -> i64 {
        match self {
            Self::DiagonalGaussian(_) => 2 * latent_dims,
            Self::FullCovariance => full_covariance::n_params(latent_dims),
            Self::Planar(config) => config.n_params(latent_dims),
            Self::Iaf(config) => config.n_params(latent_dims),
            Self::VonMisesFisher => von_mises_fisher::n_params(latent_dims),
            Self::Deterministic
            | Self::FiniteScalar(_)
            | Self::VectorQuantized(_)
            | Self::LookupFree(_)
            | Self::None => latent_dims,
        }
    }

    /// Its name in a config.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::DiagonalGaussian(_) => "diagonal_gaussian",
            Self::FullCovariance => "full_covariance",
            Self::Planar(_) => "planar",
            Self::Iaf(_) => "iaf",
            Self::VonMisesFisher => "von_mises_fisher",
            Self::Deterministic => "deterministic",
            Self::FiniteScalar(_) => "finite_scalar",
            Self::VectorQuantized(_) => "vector_quantized",
            Self::LookupFree(_) => "lookup_free",
            Self::None => "none",
        }
    }

    /// The space that its latents lie in.
    #[must_use]
    pub fn support(&self) -> Support {
        match self {
            Self::VonMisesFisher => Support::Sphere,
            _ if self.has_codes() => Support::Codes,
            _ => Support::Euclidean,
        }
    }

    /// Whether q(z|x) has a density: without a density there is neither kl nor elbo.
    #[must_use]
    pub fn has_density(&self) -> bool {
        !self.has_codes() && !matches!(self, Self::Deterministic | Self::None)
    }

    /// Whether latents are codes.
    #[must_use]
    pub fn has_codes(&self) -> bool {
        matches!(
            self,
            Self::FiniteScalar(_) | Self::VectorQuantized(_) | Self::LookupFree(_)
        )
    }

    /// Whether there is an encoder.
    #[must_use]
    pub fn has_encoder(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether the encoder gives the same number of parameters for each latent, so that latents may be a map.
    fn is_per_latent(&self) -> bool {
        self.has_codes()
            || matches!(
                self,
                Self::DiagonalGaussian(_) | Self::Deterministic | Self::None
            )
    }

    /// Whether log q(z|x) has a closed form at any z, not only at drawn ones.
    fn has_log_prob(&self) -> bool {
        matches!(
            self,
            Self::DiagonalGaussian(_) | Self::FullCovariance | Self::VonMisesFisher
        )
    }

    /// Whether its mean and covariance have a closed form.
    fn has_covariance(&self) -> bool {
        matches!(self, Self::DiagonalGaussian(_) | Self::FullCovariance)
    }

    /// Builds a family from a checked config, with its variables under `path`. `channels` are those of a latent map.
    pub(crate) fn build(
        &self,
        path: &nn::Path,
        latent_dims: i64,
        channels: Option<i64>,
        initialization: Initialization,
    ) -> Box<dyn GraphFamily> {
        match self {
            Self::DiagonalGaussian(config) => Box::new(diagonal_gaussian::DiagonalGaussianFamily {
                noise_scale: config.noise_scale,
            }),
            Self::FullCovariance => Box::new(full_covariance::FullCovarianceFamily { latent_dims }),
            Self::Planar(_) => Box::new(planar::PlanarFamily { latent_dims }),
            Self::Iaf(config) => Box::new(config.build(path, latent_dims, initialization)),
            Self::VonMisesFisher => Box::new(von_mises_fisher::VonMisesFisherFamily),
            Self::Deterministic => Box::new(deterministic::DeterministicFamily),
            Self::FiniteScalar(config) => {
                Box::new(finite_scalar::FiniteScalarFamily::new(config.clone()))
            }
            Self::VectorQuantized(config) => {
                let code_dims = config.dims_of_code(latent_dims, channels);
                Box::new(codebook::Codebooks::build(path, config, code_dims))
            }
            Self::LookupFree(config) => Box::new(config.build(latent_dims, channels)),
            Self::None => Box::new(none::NoneFamily),
        }
    }
}

/// Refuses a single latent dimension, whose sphere is two points.
pub(crate) fn check_sphere(key: &str, name: &str, latent_dims: i64) -> Result<(), ModelError> {
    if latent_dims < 2 {
        return Err(ModelError::config(
            key,
            format!(
                "{name} is a distribution on the unit sphere in latent_dims dimensions, and it \
                 needs at least 2, a circle; found latent_dims = {latent_dims}"
            ),
        ));
    }
    Ok(())
}
