//! `objective.regularizer.kl`: the ELBO's own, with a weight that may change.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::checks::{at_least_0, some_steps};
use super::kl_of;
use crate::{Direction, Draws, ModelError, Term, Terms};

/// β·kl. β = 1 makes the loss the negative ELBO, β > 1 the β-VAE (Higgins et al. 2017,
/// <https://openreview.net/forum?id=Sy2fzU9gl>).
///
/// ```
/// let config: vae_model::KlConfig = toml::from_str(r#"
///     beta = 4.0
///     free_bits = 0.1
///     [beta_schedule.cyclic]
///     period_steps = 5000
/// "#).expect("a regularizer");
/// assert_eq!(config.beta, 4.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KlConfig {
    /// Weight of the kl. Default 1.
    pub beta: f64,
    /// λ, nats of each latent dimension that cost nothing (Kingma et al. 2016,
    /// <https://arxiv.org/abs/1606.04934>, §C.8): with λ > 0, Σ_j max(λ, mean over the batch of kl_j)
    /// takes the kl's place, so that there is nothing to gain by switching a dimension off.
    /// Only of a kl that is known for each dimension. Default 0.
    pub free_bits: f64,
    /// How the weight comes to be `beta`. Default `"constant"`.
    pub beta_schedule: BetaSchedule,
}

impl Default for KlConfig {
    fn default() -> Self {
        Self {
            beta: 1.0,
            free_bits: 0.0,
            beta_schedule: BetaSchedule::default(),
        }
    }
}

/// How the weight of the kl changes over the steps; a factor on `beta`. A latent that is not yet of
/// use is not switched off by the kl in the first hundred steps when that weighs little then.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BetaSchedule {
    /// It does not.
    #[default]
    Constant,
    /// It rises linearly from 0 (Bowman et al. 2016, <https://arxiv.org/abs/1511.06349>).
    WarmUp(BetaWarmUpConfig),
    /// It does so again and again (Fu et al. 2019, <https://arxiv.org/abs/1903.10145>).
    Cyclic(BetaCyclicConfig),
}

/// One rise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BetaWarmUpConfig {
    /// Steps from weight 0 to `beta`. Default 1000.
    pub steps: u64,
}

impl Default for BetaWarmUpConfig {
    fn default() -> Self {
        Self { steps: 1000 }
    }
}

/// Rises that start again at 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BetaCyclicConfig {
    /// Steps from one start to the next. Default 10,000.
    pub period_steps: u64,
    /// The part of a period in which the weight rises; in the rest it is `beta`. Default 0.5.
    pub ramp: f64,
}

impl Default for BetaCyclicConfig {
    fn default() -> Self {
        Self {
            period_steps: 10_000,
            ramp: 0.5,
        }
    }
}

/// Σ_j max(λ, mean over the batch of kl_j), what takes the kl's place.
pub(super) const FREE_BITS_KL: Term = Term::new("free_bits_kl", Term::NATS, Direction::Lower);

impl KlConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        at_least_0("objective.regularizer.kl.beta", self.beta)?;
        at_least_0("objective.regularizer.kl.free_bits", self.free_bits)?;
        self.beta_schedule.check()
    }

    pub(super) fn penalty(&self, draws: &Draws, step: u64, terms: &mut Terms) -> Tensor {
        let kl = match &draws.kl_per_dimension {
            Some(kl) if self.free_bits > 0.0 => {
                let kl = kl
                    .mean_dim(0, false, Kind::Float) // [Z]
                    .clamp_min(self.free_bits)
                    .sum(Kind::Float);
                terms.push(FREE_BITS_KL, &kl);
                kl
            }
            _ => kl_of(draws).mean(Kind::Float),
        };
        kl * self.beta_at(step)
    }

    /// The weight of the kl at a step.
    pub(super) fn beta_at(&self, step: u64) -> f64 {
        self.beta * self.beta_schedule.factor(step)
    }

    /// A step at which the weight is `beta`.
    pub(super) fn settled_step(&self) -> u64 {
        match &self.beta_schedule {
            BetaSchedule::Constant => 0,
            BetaSchedule::WarmUp(config) => config.steps,
            BetaSchedule::Cyclic(config) => config.period_steps - 1,
        }
    }

    /// Whether it is the kl as it stands, always.
    pub(crate) fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

impl BetaSchedule {
    fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::Constant => Ok(()),
            Self::WarmUp(config) => some_steps(
                "objective.regularizer.kl.beta_schedule.warm_up.steps",
                config.steps,
            ),
            Self::Cyclic(config) => {
                let key = "objective.regularizer.kl.beta_schedule.cyclic";
                some_steps(&format!("{key}.period_steps"), config.period_steps)?;
                if config.ramp > 0.0 && config.ramp <= 1.0 {
                    Ok(())
                } else {
                    Err(ModelError::config(
                        format!("{key}.ramp"),
                        format!("found {}, a number in (0, 1] is needed", config.ramp),
                    ))
                }
            }
        }
    }

    /// The part of `beta` that is in force at a step.
    fn factor(&self, step: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::WarmUp(config) => (step as f64 / config.steps as f64).min(1.0),
            Self::Cyclic(config) => {
                let part = (step % config.period_steps) as f64 / config.period_steps as f64;
                (part / config.ramp).min(1.0)
            }
        }
    }
}
