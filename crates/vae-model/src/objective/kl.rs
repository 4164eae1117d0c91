//! `objective.regularizer.kl`: the kl of the ELBO, with a weight that may change.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::checks::{at_least_0, share_or_steps, some_steps, steps_of};
use super::{kl_of, unfit};
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KlConfig {
    /// β, the weight of the kl. Default 1.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub beta: f64,
    /// λ, nats of each latent dimension that cost nothing (Kingma et al. 2016, <https://arxiv.org/abs/1606.04934>,
    /// §C.8). With λ > 0 the kl is replaced by Σ_j max(λ, mean over the batch of kl_j), so that switching a dimension
    /// off gains nothing. Needs the posterior `diagonal_gaussian` and the prior `standard_normal`. Default 0.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub free_bits: f64,
    /// Nats of each group of latents that cost nothing, in a ladder or hierarchy (Kingma et al. 2016, as above, §C.8,
    /// whose groups are the layers' maps). The kl is replaced by Σ_g max(λ, mean over the batch of kl_g). Default 0.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub free_bits_per_group: f64,
    /// How the weight changes over the steps. Default `"constant"`.
    pub beta_schedule: BetaSchedule,
}

impl Default for KlConfig {
    fn default() -> Self {
        Self {
            beta: 1.0,
            free_bits: 0.0,
            free_bits_per_group: 0.0,
            beta_schedule: BetaSchedule::default(),
        }
    }
}

/// How the weight of the kl changes over the steps; a factor on `beta`. A small weight at the start keeps the kl from
/// switching off latents that are not yet useful.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BetaSchedule {
    /// The weight is always `beta`.
    #[default]
    Constant,
    /// The weight rises linearly from 0 once (Bowman et al. 2016, <https://arxiv.org/abs/1511.06349>).
    WarmUp(BetaWarmUpConfig),
    /// The weight rises from 0 again and again (Fu et al. 2019, <https://arxiv.org/abs/1903.10145>).
    Cyclic(BetaCyclicConfig),
    /// The weights of the groups of a ladder or hierarchy rise from 0 one after the other.
    ByGroup(BetaByGroupConfig),
}

/// A group at a time. With N groups each weight takes 1/N of the steps; the next group's begins to rise when it has
/// reached `beta`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BetaByGroupConfig {
    /// Optimizer steps until the kl of all groups has the weight `beta`. Default 5000.
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// The same as a share of the run, which fits a run of any length; 0 for `steps`. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// The group whose kl is paid for first. Default `"lowest"`.
    pub first: FirstGroup,
}

impl Default for BetaByGroupConfig {
    fn default() -> Self {
        Self {
            steps: 5000,
            share: 0.0,
            first: FirstGroup::default(),
        }
    }
}

/// An end of the hierarchy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FirstGroup {
    /// From the bottom up: information is free longest in the upper groups, which otherwise are the first to be switched
    /// off (Sønderby et al. 2016, <https://arxiv.org/abs/1602.02282>, §3.2).
    #[default]
    Lowest,
    /// From the top down: the upper groups settle while the lower ones are still free.
    Top,
}

impl BetaByGroupConfig {
    /// The factors of `n` groups from the top down, at a step.
    fn factors(&self, n: usize, step: u64) -> Vec<f64> {
        let done = step as f64 / self.steps.max(1) as f64 * n as f64;
        let nth = |i: usize| (done - i as f64).clamp(0.0, 1.0);
        match self.first {
            FirstGroup::Top => (0..n).map(nth).collect(),
            FirstGroup::Lowest => (0..n).rev().map(nth).collect(),
        }
    }
}

/// Also called kl annealing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BetaWarmUpConfig {
    /// Optimizer steps from weight 0 to `beta`. Default 1000.
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// The same as a share of the run, which fits a run of any length; 0 for `steps`. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
}

impl Default for BetaWarmUpConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            share: 0.0,
        }
    }
}

/// Each period begins with a linear rise from 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BetaCyclicConfig {
    /// Optimizer steps from one rise to the next. Default 10,000.
    #[schemars(range(min = 1))]
    pub period_steps: u64,
    /// The same as a share of the run, which fits a run of any length: 0.25 rises four times. 0 for `period_steps`.
    /// Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub period_share: f64,
    /// The share of a period in which the weight rises; in the rest it is `beta`. Default 0.5.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1.0))]
    pub ramp: f64,
}

impl Default for BetaCyclicConfig {
    fn default() -> Self {
        Self {
            period_steps: 10_000,
            period_share: 0.0,
            ramp: 0.5,
        }
    }
}

/// Σ_j max(λ, mean over the batch of kl_j) over latents or groups, which replaces the kl.
pub(super) const FREE_BITS_KL: Term = Term::new("free_bits_kl", Term::NATS, Direction::Lower);

impl KlConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        at_least_0("objective.regularizer.kl.beta", self.beta)?;
        at_least_0("objective.regularizer.kl.free_bits", self.free_bits)?;
        let key = "objective.regularizer.kl.free_bits_per_group";
        at_least_0(key, self.free_bits_per_group)?;
        if self.free_bits > 0.0 && self.is_by_group() {
            return Err(ModelError::config(
                "objective.regularizer.kl.free_bits",
                "it is for single latents, and free_bits_per_group or beta_schedule.by_group for groups; one of the \
                 two would fit",
            ));
        }
        self.beta_schedule.check()
    }

    pub(super) fn penalty(
        &self,
        draws: &Draws,
        step: u64,
        terms: &mut Terms,
    ) -> Result<Tensor, ModelError> {
        if self.is_by_group() {
            let kl = draws.kl_per_dimension.as_ref();
            let kl = kl.ok_or_else(|| unfit("regularizer.kl", "a kl of each latent dimension"))?;
            return Ok(self.by_group(kl, &draws.group_sizes, step, terms));
        }
        let kl = match &draws.kl_per_dimension {
            Some(kl) if self.free_bits > 0.0 => {
                let kl = kl
                    .mean_dim(0, false, Kind::Float) // [Z]
                    .clamp_min(self.free_bits)
                    .sum(Kind::Float);
                terms.push(FREE_BITS_KL, &kl);
                kl
            }
            _ => kl_of(draws, "kl")?.mean(Kind::Float),
        };
        Ok(kl * self.beta_at(step))
    }

    /// Whether groups of latents are counted apart.
    pub(crate) fn is_by_group(&self) -> bool {
        self.free_bits_per_group > 0.0 || matches!(self.beta_schedule, BetaSchedule::ByGroup(_))
    }

    /// Σ_g β_g·max(λ, mean over the batch of kl_g), for the kl of each latent `[B, Z]`.
    fn by_group(&self, kl: &Tensor, sizes: &[i64], step: u64, terms: &mut Terms) -> Tensor {
        let groups = kl
            .mean_dim(0, false, Kind::Float)
            .split_with_sizes(sizes, 0);
        let groups = groups.iter().map(|kl| kl.sum(Kind::Float));
        let groups: Vec<Tensor> = match self.free_bits_per_group > 0.0 {
            true => groups
                .map(|kl| kl.clamp_min(self.free_bits_per_group))
                .collect(),
            false => groups.collect(),
        };
        if self.free_bits_per_group > 0.0 {
            let sum = Tensor::stack(&groups, 0).sum(Kind::Float);
            terms.push(FREE_BITS_KL, &sum);
        }
        let factors = match &self.beta_schedule {
            BetaSchedule::ByGroup(config) => config.factors(groups.len(), step),
            schedule => vec![schedule.factor(step); groups.len()],
        };
        let weighted = groups.iter().zip(factors);
        let weighted: Vec<Tensor> = weighted
            .map(|(kl, factor)| kl * (self.beta * factor))
            .collect();
        Tensor::stack(&weighted, 0).sum(Kind::Float)
    }

    /// The weight of the kl at a step; by group, the mean of the groups' weights.
    pub(super) fn beta_at(&self, step: u64) -> f64 {
        self.beta * self.beta_schedule.factor(step)
    }

    /// A step at which the weight is the largest that training reaches: `beta`, or for a cyclic schedule with a ramp of
    /// 1 the weight at the last step of the rise.
    pub(super) fn settled_step(&self) -> u64 {
        match &self.beta_schedule {
            BetaSchedule::Constant => 0,
            BetaSchedule::WarmUp(config) => config.steps,
            BetaSchedule::Cyclic(config) => config.period_steps.saturating_sub(1),
            BetaSchedule::ByGroup(config) => config.steps,
        }
    }

    /// Whether this is always the unchanged kl.
    pub(crate) fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

impl BetaSchedule {
    fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::Constant => Ok(()),
            Self::WarmUp(config) => {
                let key = "objective.regularizer.kl.beta_schedule.warm_up";
                some_steps(&format!("{key}.steps"), config.steps)?;
                let steps = [config.steps, BetaWarmUpConfig::default().steps];
                share_or_steps(&format!("{key}.share"), config.share, "steps", steps)
            }
            Self::ByGroup(config) => {
                let key = "objective.regularizer.kl.beta_schedule.by_group";
                some_steps(&format!("{key}.steps"), config.steps)?;
                let steps = [config.steps, BetaByGroupConfig::default().steps];
                share_or_steps(&format!("{key}.share"), config.share, "steps", steps)
            }
            Self::Cyclic(config) => {
                let key = "objective.regularizer.kl.beta_schedule.cyclic";
                some_steps(&format!("{key}.period_steps"), config.period_steps)?;
                let steps = [
                    config.period_steps,
                    BetaCyclicConfig::default().period_steps,
                ];
                let share = format!("{key}.period_share");
                share_or_steps(&share, config.period_share, "period_steps", steps)?;
                if config.ramp > 0.0 && config.ramp <= 1.0 {
                    Ok(())
                } else {
                    Err(ModelError::config(
                        format!("{key}.ramp"),
                        format!("found {}, expected a number in (0, 1]", config.ramp),
                    ))
                }
            }
        }
    }

    /// Whether it has shares of the run.
    pub(super) fn spans_the_run(&self) -> bool {
        match self {
            Self::Constant => false,
            Self::WarmUp(config) => config.share > 0.0,
            Self::ByGroup(config) => config.share > 0.0,
            Self::Cyclic(config) => config.period_share > 0.0,
        }
    }

    /// With steps in place of shares of a run of `n_steps`.
    pub(super) fn in_run_of(&mut self, n_steps: u64) {
        let of = |share: &mut f64, steps: &mut u64| {
            *steps = steps_of(*share, *steps, n_steps);
            *share = 0.0;
        };
        match self {
            Self::Constant => {}
            Self::WarmUp(config) => of(&mut config.share, &mut config.steps),
            Self::ByGroup(config) => of(&mut config.share, &mut config.steps),
            Self::Cyclic(config) => of(&mut config.period_share, &mut config.period_steps),
        }
    }

    /// The factor on `beta` at a step.
    fn factor(&self, step: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::WarmUp(config) => (step as f64 / config.steps as f64).min(1.0),
            // The mean over the groups, however many there are.
            Self::ByGroup(config) => (step as f64 / config.steps as f64).min(1.0),
            Self::Cyclic(config) => {
                let period = config.period_steps.max(1);
                let part = (step % period) as f64 / period as f64;
                (part / config.ramp).min(1.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Objective;

    fn objective(text: &str) -> Objective {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn shares_of_a_run_are_its_steps() {
        let kl = "regularizer.kl.beta_schedule";
        for (share, steps) in [
            (
                format!("{kl}.warm_up.share = 0.25"),
                format!("{kl}.warm_up.steps = 50"),
            ),
            (
                format!("{kl}.by_group.share = 0.5"),
                format!("{kl}.by_group.steps = 100"),
            ),
            (
                format!("{kl}.cyclic.period_share = 0.1"),
                format!("{kl}.cyclic.period_steps = 20"),
            ),
            (
                "regularizer.capacity.over_share = 0.5".to_owned(),
                "regularizer.capacity.over_steps = 100".to_owned(),
            ),
            (
                "adversarial.start_share = 0.05".to_owned(),
                "adversarial.start = 10".to_owned(),
            ),
        ] {
            let (share, steps) = (objective(&share), objective(&steps));
            assert!(share.spans_the_run() && !steps.spans_the_run());
            assert_eq!(share.in_run_of(200), steps);
            assert_eq!(steps.in_run_of(200), steps);
        }
        // However short the run, a warm-up takes a step.
        let short = objective(&format!("{kl}.warm_up.share = 0.001")).in_run_of(3);
        assert_eq!(short.settled_step(), 1);
    }

    #[test]
    fn a_share_beside_steps_is_refused() {
        let text = "regularizer.kl.beta_schedule.warm_up = { steps = 7, share = 0.5 }";
        let said = objective(text)
            .check(&crate::ModelConfig::default())
            .unwrap_err();
        assert!(
            said.to_string().contains("one of the two would fit"),
            "{said}"
        );
        let text = "regularizer.kl.beta_schedule.warm_up.share = 1.5";
        let said = objective(text)
            .check(&crate::ModelConfig::default())
            .unwrap_err();
        assert!(
            said.to_string().contains("expected a number from 0 to 1"),
            "{said}"
        );
    }
}
