//! Priors p(z): the distribution of latents before an image is seen.

mod conditional_gaussian;
mod gaussian_mixture;
mod hyperspherical_uniform;
mod ladder;
mod real_nvp;
mod standard_normal;
mod top_down;
mod uniform_codes;
mod vamp;

use std::cell::RefCell;
use std::fmt::Debug;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor, no_grad};
use vae_torch::Generator;

pub use gaussian_mixture::GaussianMixtureConfig;
pub(crate) use ladder::LadderPrior;
pub(crate) use real_nvp::RealNvp;
pub use real_nvp::RealNvpConfig;
pub(crate) use top_down::TopDownPrior;
pub use vamp::VampConfig;

use crate::network::check_sizes;
use crate::posterior::check_sphere;
use crate::{ClosedKl, ImageShape, Initialization, ModelError, Posterior, Quantizer, Support, nn};

/// p(z). Its parameters are variables of the model and trained with it.
pub trait Prior: Debug + Send {
    /// The space that its latents lie in; `None` if it takes the posterior's space, whatever that is.
    fn support(&self) -> Option<Support> {
        Some(Support::Euclidean)
    }

    /// log p(z) in nats, `[N]`, for latents `[N, Z]`.
    fn log_prob(&self, latents: &Tensor, context: PriorContext) -> Tensor;

    /// `n` latents from the prior, `[n, Z]`, on `device`, which the model is on.
    fn sample(
        &self,
        n: i64,
        device: Device,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Tensor;

    /// Whether its draws are made of Gaussian noise, which [`PriorContext::temperature`] scales.
    fn has_temperature(&self) -> bool {
        false
    }

    /// Whether it is the base distribution of its space, for which posteriors know the kl in closed form.
    fn is_base(&self) -> bool {
        false
    }

    /// KL(q(z|x) ‖ p(z)) if it has a closed form.
    fn kl(&self, posterior: &dyn Posterior, context: PriorContext) -> Option<ClosedKl> {
        let _ = context;
        posterior.kl().filter(|_| self.is_base())
    }

    /// The kl of each level of latents, from the top one down, in nats, `[B, Z_i]` for each of its latents. It has a
    /// closed form given the level above, and is averaged over the drawn latents `[K, B, Z]` of that. `None` without
    /// levels.
    fn kl_by_level(
        &self,
        posterior: &dyn Posterior,
        latents: &Tensor,
        context: PriorContext,
    ) -> Option<Vec<Tensor>> {
        let _ = (posterior, latents, context);
        None
    }

    /// Latents `[N, Z]` with the same first `n_kept` groups, counted from the top, and the groups below drawn anew given
    /// those. `None` without groups.
    fn redraw_below(
        &self,
        latents: &Tensor,
        n_kept: usize,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Option<Tensor> {
        let _ = (latents, n_kept, context, generator);
        None
    }

    /// log p(c|z) of each component c, `[N, n_components]`, for latents `[N, Z]`; `None` without components.
    fn log_assignment(&self, latents: &Tensor) -> Option<Tensor> {
        let _ = latents;
        None
    }

    /// Number of training images that [`Self::start_from`] uses.
    fn n_start_images(&self) -> usize {
        0
    }

    /// Initializes the prior from training images, bytes `[B, C, H, W]`, before the first step.
    fn start_from(&self, images: &Tensor) {
        let _ = images;
    }
}

/// What a prior gets besides the latents.
#[derive(Clone, Copy)]
pub struct PriorContext<'a> {
    /// The features of each latent's condition, `[N, F]`; `None` for a model without a condition.
    pub(crate) features: Option<&'a Tensor>,
    /// Images with values from 0 to 255 `[B, C, H, W]` → the parameters of q(z|x), `[B, P]`.
    pub(crate) params: &'a dyn Fn(&Tensor) -> Tensor,
    /// `[B, P]` → q(z|x).
    pub(crate) distribution: &'a dyn Fn(&Tensor) -> Box<dyn Posterior>,
    /// The posterior's codes; `None` if latents are not codes.
    pub(crate) quantizer: Option<&'a dyn Quantizer>,
    /// What the noise of new latents is scaled by.
    pub(crate) temperature: f64,
    /// Cache of the encoded pseudo-inputs, while the weights are fixed.
    pub(crate) kept: Option<&'a RefCell<Option<Tensor>>>,
}

impl<'a> PriorContext<'a> {
    /// The features of each latent's condition, as the networks get them, f32 `[N, F]`; `None` for a model without a
    /// condition.
    #[must_use]
    pub fn features(&self) -> Option<&'a Tensor> {
        self.features
    }

    /// What [`Prior::sample`] scales Gaussian noise by: with 1 it draws from p(z), below 1 latents are more typical and less
    /// diverse.
    #[must_use]
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// The posterior's codes, if latents are codes.
    #[must_use]
    pub fn quantizer(&self) -> Option<&'a dyn Quantizer> {
        self.quantizer
    }

    /// The parameters of q(z|u) of the pseudo-inputs u, `[n, P]`. They are encoded only once while the weights are
    /// fixed.
    fn own_params(&self, images: impl FnOnce() -> Tensor) -> Tensor {
        let Some(kept) = self.kept else {
            return (self.params)(&images());
        };
        kept.borrow_mut()
            .get_or_insert_with(|| no_grad(|| (self.params)(&images())))
            .shallow_clone()
    }
}

/// The properties of a prior that the checks use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PriorTraits {
    /// The space that its latents lie in; `None` if it takes the posterior's space, whatever that is.
    pub(crate) support: Option<Support>,
    /// Whether it is N(0, I).
    pub(crate) is_standard_normal: bool,
    /// Whether it has variables that are trained.
    pub(crate) is_learned: bool,
}

/// p(z), the distribution of latents before an image is seen (`prior` or `[model.prior.…]` in a config
/// file).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PriorConfig {
    /// N(0, I).
    #[default]
    StandardNormal,
    /// Uniform on the unit sphere in ℝ^Z, for the posterior `von_mises_fisher`.
    HypersphericalUniform,
    /// A learned mixture of Gaussians, whose components cluster the images.
    GaussianMixture(GaussianMixtureConfig),
    /// A mixture of the posteriors of learned images (VampPrior).
    Vamp(VampConfig),
    /// A standard normal transformed by a learned flow.
    RealNvp(RealNvpConfig),
    /// A learned Gaussian for each condition, for models with `[model.condition]`.
    ConditionalGaussian,
    /// All codes with equal probability, for posteriors whose latents are codes.
    UniformCodes,
}

impl PriorConfig {
    pub(crate) fn check(&self, latent_dims: i64) -> Result<(), ModelError> {
        match self {
            Self::StandardNormal | Self::ConditionalGaussian | Self::UniformCodes => Ok(()),
            Self::HypersphericalUniform => {
                check_sphere("model.prior", "hyperspherical_uniform", latent_dims)
            }
            Self::GaussianMixture(config) => config.check(),
            Self::Vamp(config) => config.check(),
            Self::RealNvp(config) => config.check(latent_dims),
        }
    }

    /// Its name in a config.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::StandardNormal => "standard_normal",
            Self::HypersphericalUniform => "hyperspherical_uniform",
            Self::GaussianMixture(_) => "gaussian_mixture",
            Self::Vamp(_) => "vamp",
            Self::RealNvp(_) => "real_nvp",
            Self::ConditionalGaussian => "conditional_gaussian",
            Self::UniformCodes => "uniform_codes",
        }
    }

    /// Its properties for the checks.
    pub(crate) fn traits(&self) -> PriorTraits {
        PriorTraits {
            support: self.support(),
            is_standard_normal: matches!(self, Self::StandardNormal),
            is_learned: !matches!(
                self,
                Self::StandardNormal | Self::HypersphericalUniform | Self::UniformCodes
            ),
        }
    }

    /// The space that its latents lie in; `None` if it takes the posterior's space, whatever that is.
    fn support(&self) -> Option<Support> {
        match self {
            Self::StandardNormal
            | Self::GaussianMixture(_)
            | Self::RealNvp(_)
            | Self::ConditionalGaussian => Some(Support::Euclidean),
            Self::HypersphericalUniform => Some(Support::Sphere),
            Self::UniformCodes => Some(Support::Codes),
            Self::Vamp(_) => None,
        }
    }

    /// Builds a prior from a checked config, with its variables under `path`.
    pub(crate) fn build(
        &self,
        path: &nn::Path,
        latent_dims: i64,
        image: ImageShape,
        n_features: i64,
        initialization: Initialization,
    ) -> Box<dyn Prior> {
        match self {
            Self::StandardNormal => Box::new(standard_normal::StandardNormal { latent_dims }),
            Self::HypersphericalUniform => {
                Box::new(hyperspherical_uniform::HypersphericalUniform { latent_dims })
            }
            Self::GaussianMixture(config) => Box::new(config.build(path, latent_dims)),
            Self::Vamp(config) => Box::new(config.build(path, image)),
            Self::RealNvp(config) => Box::new(config.build(path, latent_dims, 0, initialization)),
            Self::UniformCodes => Box::new(uniform_codes::UniformCodes { latent_dims }),
            Self::ConditionalGaussian => {
                Box::new(conditional_gaussian::ConditionalGaussian::build(
                    path,
                    latent_dims,
                    n_features,
                    initialization,
                ))
            }
        }
    }
}

/// Refuses a number of components that is too small or too large.
fn n_components(key: &str, n: i64) -> Result<(), ModelError> {
    check_sizes(key, &[n])
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    /// For priors that need no context.
    pub(super) const NO_CONTEXT: PriorContext = PriorContext {
        features: None,
        params: &|_| unreachable!("this prior uses no encoder"),
        distribution: &|_| unreachable!("this prior uses no encoder"),
        quantizer: None,
        temperature: 1.0,
        kept: None,
    };

    /// Checks that the temperature scales the noise around the centers: of the first `n_dims` latents, which depend on no others.
    pub(super) fn assert_temperature_scales_noise(prior: &dyn Prior, n_dims: i64) {
        assert!(prior.has_temperature());
        let [center, cold, plain] = [0.0, 0.5, 1.0].map(|temperature| {
            let context = PriorContext {
                temperature,
                ..NO_CONTEXT
            };
            let latents = prior.sample(200, Device::Cpu, context, &mut Generator::cpu(5));
            latents.narrow(1, 0, n_dims)
        });
        let noise = plain - &center;
        assert!(noise.std(true).double_value(&[]) > 0.1);
        let difference = (cold - center - noise * 0.5).abs().max();
        assert!(difference.double_value(&[]) < 1e-5);
    }

    /// Checks that the density of a prior on the plane integrates to 1, by the midpoint rule.
    pub(super) fn assert_integrates_to_1(prior: &dyn Prior) {
        let (n, reach) = (400, 12.0);
        let step = 2.0 * reach / n as f64;
        let line = (Tensor::arange(n, (Kind::Float, Device::Cpu)) + 0.5) * step - reach;
        let plane = Tensor::cartesian_prod(&[&line, &line]); // [n², 2]
        let density = prior.log_prob(&plane, NO_CONTEXT).exp();
        let integral = density.sum(Kind::Double).double_value(&[]) * step * step;
        assert!((integral - 1.0).abs() < 2e-3, "{integral}");
    }

    /// E_p[g] by samples of the prior, and by samples of a wide Gaussian with importance weights from `log_prob`.
    pub(super) fn assert_samples_fit_log_prob(prior: &dyn Prior, latent_dims: i64) {
        let n = 100_000;
        let mut generator = Generator::cpu(1);
        let samples = prior.sample(n, Device::Cpu, NO_CONTEXT, &mut generator);
        let std = 4.0;
        let wide = generator.normal([n, latent_dims], Device::Cpu) * std;
        let log_wide = crate::math::standard_normal_log_prob(&(&wide / std))
            - latent_dims as f64 * f64::ln(std);
        let weights = (prior.log_prob(&wide, NO_CONTEXT) - log_wide).exp();
        // Bounded, and sensitive to every part of the plane.
        let statistics = |latents: &Tensor| {
            let first = latents.select(1, 0);
            let last = latents.select(1, latent_dims - 1);
            Tensor::stack(&[first.tanh(), last.tanh(), (first * 0.7 + last).sin()], 0)
        };
        let estimate = |values: &Tensor| {
            let values = values.to_kind(Kind::Double);
            let error = values.std_dim([1_i64].as_slice(), true, false) / (n as f64).sqrt();
            (values.mean_dim(1, false, Kind::Double), error)
        };
        let (direct, error) = estimate(&statistics(&samples));
        let (weighted, other_error) = estimate(&(statistics(&wide) * weights));
        let bound = (error.square() + other_error.square()).sqrt() * 5.0;
        let excess = (direct - weighted).abs() - bound;
        assert!(excess.max().double_value(&[]) < 0.0, "{excess:?}");
    }
}
