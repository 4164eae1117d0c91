//! Estimators: how K samples of z become a bound of log p(x).

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::checks::n_samples;
use crate::math::log_mean_exp;
use crate::{Draws, ModelError};

/// How a bound of log p(x) is made of K samples for each image (`objective.estimator` in a config).
///
/// All but the first work on importance weights w = p(x|z)·p(z)/q(z|x), which no regularizer may
/// scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Estimator {
    /// The ELBO, the reconstruction as the mean of K samples. The one that regularizers change.
    Elbo(ElboConfig),
    /// ln 1/K Σ w (IWAE, Burda et al. 2016, <https://arxiv.org/abs/1509.00519>, eq. 8).
    Iwae(IwaeConfig),
    /// The mean of M such bounds of K samples each (MIWAE, Rainforth et al. 2018,
    /// <https://arxiv.org/abs/1802.04537>, eq. 12).
    Miwae(NestedConfig),
    /// The encoder is trained by MIWAE's bound, the rest by that of all M·K samples (PIWAE, Rainforth et
    /// al. 2018, §6).
    Piwae(NestedConfig),
    /// β·ELBO + (1 − β)·IWAE (CIWAE, Rainforth et al. 2018, eq. 13).
    Ciwae(CiwaeConfig),
}

impl Default for Estimator {
    fn default() -> Self {
        Self::Elbo(ElboConfig::default())
    }
}

/// The ELBO's samples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ElboConfig {
    /// K for each image. Default 1.
    pub samples: u32,
}

impl Default for ElboConfig {
    fn default() -> Self {
        Self { samples: 1 }
    }
}

/// The importance-weighted bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IwaeConfig {
    /// K for each image. Default 50.
    pub samples: u32,
    /// Whether the encoder's gradient is the doubly reparameterized one (DReG, Tucker et al. 2019,
    /// <https://arxiv.org/abs/1810.04152>, eq. 8): of the same expectation, and better the larger K is.
    /// Default false.
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

/// M bounds of K samples each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NestedConfig {
    /// M. Default 8.
    pub bounds: u32,
    /// K, samples in each bound. Default 8.
    pub samples: u32,
    /// As of IWAE. Default false.
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

/// A combination of ELBO and IWAE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CiwaeConfig {
    /// K for each image. Default 50.
    pub samples: u32,
    /// β, the ELBO's share. Default 0.5.
    pub beta: f64,
    /// As of IWAE. Default false.
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
                        format!("found {}, a number from 0 to 1 is needed", config.beta),
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

    /// Whether encoder and decoder follow different gradients, which needs log q(z|x) as a function of z.
    pub(crate) fn takes_gradients_apart(&self) -> bool {
        matches!(self, Self::Piwae(_)) || self.is_doubly_reparameterized()
    }

    /// The importance-weighted bound of log p(x) for each image, `[B]`, in nats; its gradient is the
    /// one that the config asks for. None of [`Self::Elbo`].
    pub(super) fn bound(&self, draws: &Draws) -> Option<Tensor> {
        let log_weights = match (self, draws.log_weights()) {
            (Self::Elbo(_), _) | (_, None) => return None,
            (_, Some(log_weights)) => log_weights, // [K, B]
        };
        let bound = self.plain_bound(&log_weights);
        if self.takes_gradients_apart() && bound.requires_grad() {
            let surrogate = routed(draws, &self.routes(&log_weights.detach()));
            return Some(bound.detach() + &surrogate - surrogate.detach());
        }
        Some(bound)
    }

    /// The bound as a function of the log-weights `[K, B]`, `[B]`.
    fn plain_bound(&self, log_weights: &Tensor) -> Tensor {
        match self {
            Self::Elbo(_) => log_weights.mean_dim(0, false, Kind::Float),
            // Of PIWAE's two bounds, the tighter one, that the decoder is trained by.
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

    /// With which weights the samples' gradients enter, for constant log-weights `[K, B]`.
    fn routes(&self, log_weights: &Tensor) -> Routes {
        let n = log_weights.size()[0] as f64;
        let normalized = log_weights.softmax(0, Kind::Float); // of all samples
        let nested = |config: &NestedConfig| {
            // [M, K, B]; the mean over the M bounds included.
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

/// Weights `[K, B]`, constants, with which each sample's log w enters the three gradients.
struct Routes {
    /// Of decoder, likelihood and prior.
    decoder: Tensor,
    /// Of the encoder, through z.
    path: Tensor,
    /// Of the encoder, through the parameters of q at a fixed z; none of the doubly reparameterized
    /// gradients, which are made so that this part vanishes.
    score: Option<Tensor>,
}

/// Something for each image, `[B]`, whose value means nothing and whose gradient is that of the
/// [`Routes`].
fn routed(draws: &Draws, routes: &Routes) -> Tensor {
    let constant = draws.posterior.detach();
    let (Some(log_qz_at), Some(log_qz_of)) = (
        constant.log_prob(&draws.latents), // a function of z
        draws.posterior.log_prob(&draws.latents.detach()), // of the encoder's output
    ) else {
        unreachable!("checked: the posterior has a log_prob");
    };
    // All but the score. Its gradient to z is needed by itself, since the encoder's share of it differs
    // from the decoder's.
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
    surrogate.sum_dim_intlist(0, false, Kind::Float)
}
