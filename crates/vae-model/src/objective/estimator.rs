//! Estimators: how K samples of z give a bound of log p(x).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::checks::{MOST_SAMPLES, n_samples};
use super::unfit;
use crate::math::log_mean_exp;
use crate::{Draws, ModelError};

/// How K samples of z for each image are combined into a bound of log p(x) (`objective.estimator` in a
/// config).
///
/// All but `elbo` use importance weights w = p(x|z)·p(z)/q(z|x) and need the regularizer `kl` with
/// β = 1, without schedule and free bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Estimator {
    /// The ELBO, with the reconstruction averaged over K samples. Works with every regularizer.
    Elbo(ElboConfig),
    /// ln 1/K Σ w (IWAE, Burda et al. 2016, <https://arxiv.org/abs/1509.00519>, eq. 8).
    Iwae(IwaeConfig),
    /// The mean of M IWAE bounds of K samples each (MIWAE, Rainforth et al. 2018, <https://arxiv.org/abs/1802.04537>,
    /// eq. 12).
    Miwae(NestedConfig),
    /// MIWAE's bound trains the encoder, the IWAE bound of all M·K samples the rest (PIWAE, Rainforth et al. 2018, §6).
    Piwae(NestedConfig),
    /// β·ELBO + (1 − β)·IWAE (CIWAE, Rainforth et al. 2018, eq. 13).
    Ciwae(CiwaeConfig),
}

impl Default for Estimator {
    fn default() -> Self {
        Self::Elbo(ElboConfig::default())
    }
}

/// More samples make the gradient less noisy. Each image is decoded once per sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ElboConfig {
    /// K, samples of z for each image in a training step. Default 1.
    #[schemars(range(min = 1, max = MOST_SAMPLES))]
    pub samples: u32,
}

impl Default for ElboConfig {
    fn default() -> Self {
        Self { samples: 1 }
    }
}

/// This bound is tighter than the ELBO, and tighter still for larger K. Each image is decoded K times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IwaeConfig {
    /// K, samples of z for each image in a training step. Default 50.
    #[schemars(range(min = 1, max = MOST_SAMPLES))]
    pub samples: u32,
    /// Use the doubly reparameterized gradient for the encoder (DReG, Tucker et al. 2019,
    /// <https://arxiv.org/abs/1810.04152>, eq. 8). It has the same expectation and less noise, especially for large K.
    /// Needs a posterior whose density has a closed form, and no batch norm. Default false.
    pub doubly_reparameterized: bool,
}

impl Default for IwaeConfig {
    fn default() -> Self {
        Self {
            samples: 50,
            doubly_reparameterized: false,
        }
    }
}

/// Each image is decoded M·K times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NestedConfig {
    /// M, the number of bounds. Default 8.
    #[schemars(range(min = 1, max = MOST_SAMPLES))]
    pub bounds: u32,
    /// K, samples of z in each bound. `bounds` · `samples` is at most 100,000. Default 8.
    #[schemars(range(min = 1, max = MOST_SAMPLES))]
    pub samples: u32,
    /// Use the doubly reparameterized gradient for the encoder, as in `iwae`. Default false.
    pub doubly_reparameterized: bool,
}

impl Default for NestedConfig {
    fn default() -> Self {
        Self {
            bounds: 8,
            samples: 8,
            doubly_reparameterized: false,
        }
    }
}

/// Each image is decoded K times. Both bounds use the same samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CiwaeConfig {
    /// K, samples of z for each image in a training step. Default 50.
    #[schemars(range(min = 1, max = MOST_SAMPLES))]
    pub samples: u32,
    /// β, the weight of the ELBO. Default 0.5.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub beta: f64,
    /// Use the doubly reparameterized gradient for the encoder, as in `iwae`. Default false.
    pub doubly_reparameterized: bool,
}

impl Default for CiwaeConfig {
    fn default() -> Self {
        Self {
            samples: 50,
            beta: 0.5,
            doubly_reparameterized: false,
        }
    }
}

impl Estimator {
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let key = |name: &str| format!("objective.estimator.{}.{name}", self.name());
        match self {
            Self::Elbo(config) => n_samples(&key("samples"), config.samples),
            Self::Iwae(config) => n_samples(&key("samples"), config.samples),
            Self::Miwae(config) | Self::Piwae(config) => {
                n_samples(&key("bounds"), config.bounds)?;
                n_samples(&key("samples"), config.samples)?;
                let both = u64::from(config.bounds) * u64::from(config.samples);
                n_samples(&key("bounds × samples"), both)
            }
            Self::Ciwae(config) => {
                n_samples(&key("samples"), config.samples)?;
                if (0.0..=1.0).contains(&config.beta) {
                    Ok(())
                } else {
                    Err(ModelError::config(
                        key("beta"),
                        format!("found {}, expected a number from 0 to 1", config.beta),
                    ))
                }
            }
        }
    }

    /// Its name in a config.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Elbo(_) => "elbo",
            Self::Iwae(_) => "iwae",
            Self::Miwae(_) => "miwae",
            Self::Piwae(_) => "piwae",
            Self::Ciwae(_) => "ciwae",
        }
    }

    /// Samples of z for each image.
    #[must_use]
    pub fn n_samples(&self) -> i64 {
        match self {
            Self::Elbo(config) => config.samples.into(),
            Self::Iwae(config) => config.samples.into(),
            Self::Miwae(config) | Self::Piwae(config) => {
                i64::from(config.bounds) * i64::from(config.samples)
            }
            Self::Ciwae(config) => config.samples.into(),
        }
    }

    pub(crate) fn is_doubly_reparameterized(&self) -> bool {
        match self {
            Self::Elbo(_) => false,
            Self::Iwae(config) => config.doubly_reparameterized,
            Self::Miwae(config) | Self::Piwae(config) => config.doubly_reparameterized,
            Self::Ciwae(config) => config.doubly_reparameterized,
        }
    }

    /// Whether encoder and decoder have different gradients, which needs log q(z|x) as a function of z.
    pub(crate) fn takes_gradients_apart(&self) -> bool {
        matches!(self, Self::Piwae(_)) || self.is_doubly_reparameterized()
    }

    /// The importance-weighted bound of log p(x) for each image, `[B]`, in nats, with the gradient that the config
    /// selects. `None` for [`Self::Elbo`].
    ///
    /// # Errors
    /// Draws of a posterior without the density that is needed; a number of samples other than M·K.
    pub(super) fn bound(&self, draws: &Draws) -> Result<Option<Tensor>, ModelError> {
        if let Self::Elbo(_) = self {
            return Ok(None);
        }
        let part = || format!("estimator.{}", self.name());
        let log_weights = draws.log_weights(); // [K, B]
        let log_weights = log_weights.ok_or_else(|| unfit(&part(), "log q(z|x)"))?;
        let n_drawn = log_weights.size()[0];
        if matches!(self, Self::Miwae(_) | Self::Piwae(_)) && n_drawn != self.n_samples() {
            let n = self.n_samples();
            return Err(unfit(&part(), &format!("{n} samples for each image")));
        }
        let bound = self.plain_bound(&log_weights);
        if self.takes_gradients_apart() && bound.requires_grad() {
            let surrogate = routed(draws, &self.routes(&log_weights.detach()));
            let surrogate =
                surrogate.ok_or_else(|| unfit(&part(), "log q(z|x) at any z in closed form"))?;
            return Ok(Some(bound.detach() + &surrogate - surrogate.detach()));
        }
        Ok(Some(bound))
    }

    /// The bound as a function of the log-weights `[K, B]`, `[B]`.
    fn plain_bound(&self, log_weights: &Tensor) -> Tensor {
        match self {
            Self::Elbo(_) => log_weights.mean_dim(0, false, Kind::Float),
            // The tighter one of PIWAE's two bounds, which trains the decoder.
            Self::Iwae(_) | Self::Piwae(_) => log_mean_exp(log_weights),
            Self::Miwae(config) => {
                let nested = in_bounds(log_weights, config); // [M, K, B]
                log_mean_exp(&nested.transpose(0, 1)).mean_dim(0, false, Kind::Float)
            }
            Self::Ciwae(config) => {
                log_weights.mean_dim(0, false, Kind::Float) * config.beta
                    + log_mean_exp(log_weights) * (1.0 - config.beta)
            }
        }
    }

    /// The weights of the samples' gradients, for detached log-weights `[K, B]`.
    fn routes(&self, log_weights: &Tensor) -> Routes {
        let n = log_weights.size()[0] as f64;
        let normalized = log_weights.softmax(0, Kind::Float); // of all samples
        let nested = |config: &NestedConfig| {
            // [M, K, B], including the mean over the M bounds.
            in_bounds(log_weights, config).softmax(1, Kind::Float) / f64::from(config.bounds)
        };
        match self {
            Self::Elbo(_) | Self::Iwae(_) => Routes {
                path: normalized.square(),
                decoder: normalized,
                score: None,
            },
            Self::Miwae(config) | Self::Piwae(config) => {
                let shares = nested(config);
                let flat = shares.flatten(0, 1);
                let (path, score) = match config.doubly_reparameterized {
                    // 1/M Σ w̃² with w̃ = M·share.
                    true => (flat.square() * f64::from(config.bounds), None),
                    false => (flat.shallow_clone(), Some(flat.shallow_clone())),
                };
                let decoder = match self {
                    Self::Piwae(_) => normalized,
                    _ => flat,
                };
                Routes {
                    decoder,
                    path,
                    score,
                }
            }
            Self::Ciwae(config) => {
                let with = |weights: &Tensor| weights * (1.0 - config.beta) + config.beta / n;
                Routes {
                    decoder: with(&normalized),
                    path: with(&normalized.square()),
                    score: None,
                }
            }
        }
    }
}

/// `[M·K, B]` → `[M, K, B]`.
fn in_bounds(log_weights: &Tensor, config: &NestedConfig) -> Tensor {
    log_weights.unflatten(0, [i64::from(config.bounds), i64::from(config.samples)])
}

/// Detached weights `[K, B]` of each sample's log w in the three gradients.
struct Routes {
    /// For decoder, likelihood and prior.
    decoder: Tensor,
    /// For the encoder, through z.
    path: Tensor,
    /// For the encoder, through the parameters of q at a fixed z. `None` for the doubly reparameterized gradient, which
    /// has no such part.
    score: Option<Tensor>,
}

/// A surrogate for each image, `[B]`: its value has no meaning, its gradient is that of the [`Routes`]. `None` if log
/// q(z|x) has no closed form.
fn routed(draws: &Draws, routes: &Routes) -> Option<Tensor> {
    let constant = draws.posterior.detach();
    let log_qz_at = constant.log_prob(&draws.latents)?; // a function of z
    let log_qz_of = draws.posterior.log_prob(&draws.latents.detach())?; // of the encoder's output
    // All gradients but the score. The gradient with respect to z is needed separately, because it has a different
    // weight for the encoder than for the decoder.
    let log_w = &draws.log_px_z + &draws.log_pz - log_qz_at; // [K, B]
    let to_latents =
        Tensor::run_backward(&[log_w.sum(Kind::Float)], &[&draws.latents], true, false).remove(0);
    let correction = (&routes.path - &routes.decoder)
        * (to_latents.detach() * &draws.latents).sum_dim_intlist(-1, false, Kind::Float);
    let surrogate = log_w * &routes.decoder + correction;
    let surrogate = match &routes.score {
        Some(score) => surrogate - log_qz_of * score,
        None => surrogate,
    };
    Some(surrogate.sum_dim_intlist(0, false, Kind::Float))
}
