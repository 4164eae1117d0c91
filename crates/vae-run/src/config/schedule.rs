//! Schedules: how the learning rate changes over a run.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Metric, RunError, range};

/// How the learning rate changes (`schedule` in a config file): a factor on the optimizer's
/// `learning_rate`.
///
/// All but `plateau` are functions of the step and the number of steps alone. With a warm-up of w steps
/// the factor first rises linearly, (step + 1)/(w + 1), and the rest of the schedule covers the steps
/// that are left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Schedule {
    /// The learning rate is the optimizer's in every step.
    #[default]
    Constant,
    /// A warm-up, then the learning rate of the optimizer.
    WarmUp(WarmUpConfig),
    /// Half a cosine down to the last step.
    Cosine(CosineConfig),
    /// Lower by a factor every so many steps.
    Step(StepConfig),
    /// Lower by the same factor in every step.
    Exponential(ExponentialConfig),
    /// Up to the optimizer's learning rate, then down far below it.
    OneCycle(OneCycleConfig),
    /// Lower by a factor when a metric of the validation images, such as the loss, no longer gets better.
    Plateau(PlateauConfig),
}

/// The factor rises linearly and then stays 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WarmUpConfig {
    /// Optimizer steps over which the factor rises linearly to 1. Default 500.
    pub warm_up_steps: u64,
    /// Share of the run's steps over which the factor first rises linearly to 1, in place of `warm_up_steps`. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warm_up_share: f64,
}

impl Default for WarmUpConfig {
    fn default() -> Self {
        Self {
            warm_up_steps: 500,
            warm_up_share: 0.0,
        }
    }
}

/// Half a cosine (Loshchilov & Hutter 2017, <https://arxiv.org/abs/1608.03983>, without restarts).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CosineConfig {
    /// Optimizer steps over which the factor first rises linearly to 1. Default 0.
    pub warm_up_steps: u64,
    /// Share of the run's steps over which the factor first rises linearly to 1, in place of `warm_up_steps`. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warm_up_share: f64,
    /// The factor after the last step. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub final_factor: f64,
}

impl Default for CosineConfig {
    fn default() -> Self {
        Self {
            warm_up_steps: 0,
            warm_up_share: 0.0,
            final_factor: 0.0,
        }
    }
}

/// The factor falls in stairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StepConfig {
    /// Optimizer steps over which the factor first rises linearly to 1. Default 0.
    pub warm_up_steps: u64,
    /// Share of the run's steps over which the factor first rises linearly to 1, in place of `warm_up_steps`. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warm_up_share: f64,
    /// Optimizer steps between two drops. Default 10,000.
    #[schemars(range(min = 1, max = 1e12))]
    pub every_steps: u64,
    /// Each drop multiplies the learning rate by this factor. Default 0.1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub factor: f64,
}

impl Default for StepConfig {
    fn default() -> Self {
        Self {
            warm_up_steps: 0,
            warm_up_share: 0.0,
            every_steps: 10_000,
            factor: 0.1,
        }
    }
}

/// The factor is a straight line on a logarithmic scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExponentialConfig {
    /// Optimizer steps over which the factor first rises linearly to 1. Default 0.
    pub warm_up_steps: u64,
    /// Share of the run's steps over which the factor first rises linearly to 1, in place of `warm_up_steps`. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warm_up_share: f64,
    /// The factor after the last step; in step i of n it is `final_factor`^(i/n). Default 0.01.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1.0))]
    pub final_factor: f64,
}

impl Default for ExponentialConfig {
    fn default() -> Self {
        Self {
            warm_up_steps: 0,
            warm_up_share: 0.0,
            final_factor: 0.01,
        }
    }
}

/// One cycle (Smith & Topin 2018, <https://arxiv.org/abs/1708.07120>) in two half cosines, as
/// PyTorch's `OneCycleLR`; the numbers are its defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OneCycleConfig {
    /// The share of the steps in which the factor rises to 1. Default 0.3.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub rise: f64,
    /// The factor at the first step. Default 0.04.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub initial_factor: f64,
    /// The factor at the last step. Default 4e-6.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub final_factor: f64,
}

impl Default for OneCycleConfig {
    fn default() -> Self {
        Self {
            rise: 0.3,
            initial_factor: 0.04,
            final_factor: 4e-6,
        }
    }
}

/// When a metric has stopped improving; the defaults are those of PyTorch's `ReduceLROnPlateau`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlateauConfig {
    /// The metric of the validation images that is watched, by its name in metrics.jsonl. Default `"loss"`.
    pub metric: Metric,
    /// Optimizer steps over which the factor first rises linearly to 1. Default 0.
    pub warm_up_steps: u64,
    /// Share of the run's steps over which the factor first rises linearly to 1, in place of `warm_up_steps`. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warm_up_share: f64,
    /// Each drop multiplies the learning rate by this factor. Default 0.1.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub factor: f64,
    /// Number of evaluations without progress that are tolerated; after one more the learning rate drops.
    /// Default 10.
    pub patience: u64,
    /// A metric that is better by less than this does not count as progress. Default 1e-4.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub threshold: f64,
    /// Unit of `threshold`. Default `"relative"`.
    pub threshold_mode: ThresholdMode,
    /// Number of evaluations after a drop that are not counted. Default 0.
    pub cooldown: u64,
    /// The factor does not fall below this. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_factor: f64,
}

impl Default for PlateauConfig {
    fn default() -> Self {
        Self {
            metric: Metric::default(),
            warm_up_steps: 0,
            warm_up_share: 0.0,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            threshold_mode: ThresholdMode::default(),
            cooldown: 0,
            min_factor: 0.0,
        }
    }
}

/// Unit of the threshold of a plateau.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdMode {
    /// A share of the absolute value of the best metric so far. (PyTorch takes the value itself, so that
    /// with a negative loss getting worse counts as progress.)
    #[default]
    Relative,
    /// The unit of the metric, of the loss nats per image.
    Absolute,
}

impl Schedule {
    /// Refuses numbers outside their range.
    ///
    /// # Errors
    /// A factor outside [0, 1] (for some 0 is outside), a period of 0 steps, a negative threshold.
    pub fn check(&self) -> Result<(), RunError> {
        if let Some((name, steps, share)) = self.warm_up() {
            let key = format!("schedule.{name}.warm_up_share");
            range::from_0_to_1(key.clone(), share)?;
            let default = if name == "warm_up" { 500 } else { 0 };
            if share > 0.0 && steps != default {
                let problem = format!(
                    "found {share} beside warm_up_steps = {steps}; one of the two would fit"
                );
                return Err(RunError::Config {
                    key: key.into(),
                    problem,
                });
            }
        }
        match self {
            Self::Constant | Self::WarmUp(_) => Ok(()),
            Self::Cosine(c) => range::from_0_to_1("schedule.cosine.final_factor", c.final_factor),
            Self::Step(c) => {
                range::positive("schedule.step.every_steps", c.every_steps as f64)?;
                range::from_0_to_1("schedule.step.factor", c.factor)
            }
            Self::Exponential(c) => {
                range::positive("schedule.exponential.final_factor", c.final_factor)?;
                range::from_0_to_1("schedule.exponential.final_factor", c.final_factor)
            }
            Self::OneCycle(c) => {
                range::from_0_to_1("schedule.one_cycle.rise", c.rise)?;
                range::from_0_to_1("schedule.one_cycle.initial_factor", c.initial_factor)?;
                range::from_0_to_1("schedule.one_cycle.final_factor", c.final_factor)
            }
            Self::Plateau(c) => {
                range::below_1("schedule.plateau.factor", c.factor)?;
                range::at_least_0("schedule.plateau.threshold", c.threshold)?;
                range::from_0_to_1("schedule.plateau.min_factor", c.min_factor)
            }
        }
    }

    /// The factor at a step, counted from 0, of a run of `n_steps`. A plateau's factor is multiplied in elsewhere.
    #[must_use]
    pub fn factor(&self, step: u64, n_steps: u64) -> f64 {
        let warm_up_steps = self.warm_up_steps(n_steps);
        if step < warm_up_steps {
            return (step + 1) as f64 / (warm_up_steps + 1) as f64;
        }
        let step = (step - warm_up_steps) as f64;
        let n_steps = n_steps.saturating_sub(warm_up_steps).max(1) as f64;
        match self {
            Self::Constant | Self::WarmUp(_) | Self::Plateau(_) => 1.0,
            Self::Cosine(c) => half_cosine(1.0, c.final_factor, step / n_steps),
            Self::Step(c) => c.factor.powf((step / c.every_steps as f64).floor()),
            Self::Exponential(c) => c.final_factor.powf((step / n_steps).min(1.0)),
            Self::OneCycle(c) => {
                // PyTorch's count: both ends of the fall are steps of their own.
                let (peak, last) = ((c.rise * n_steps - 1.0).max(0.0), n_steps - 1.0);
                if step < peak {
                    half_cosine(c.initial_factor, 1.0, step / peak)
                } else {
                    half_cosine(1.0, c.final_factor, (step - peak) / (last - peak).max(1.0))
                }
            }
        }
    }

    /// Whether the factor at a step depends on how many steps the run has.
    #[must_use]
    pub fn spans_the_run(&self) -> bool {
        if self.warm_up().is_some_and(|(_, _, share)| share > 0.0) {
            return true;
        }
        match self {
            Self::Constant | Self::WarmUp(_) | Self::Step(_) | Self::Plateau(_) => false,
            Self::Cosine(_) | Self::Exponential(_) | Self::OneCycle(_) => true,
        }
    }

    /// The number of steps of a run of `n_steps` over which the factor first rises.
    #[must_use]
    pub fn warm_up_steps(&self, n_steps: u64) -> u64 {
        match self.warm_up() {
            None => 0,
            Some((_, _, share)) if share > 0.0 => (share * n_steps as f64).round() as u64,
            Some((_, steps, _)) => steps,
        }
    }

    /// Its name in a config.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::WarmUp(_) => "warm_up",
            Self::Cosine(_) => "cosine",
            Self::Step(_) => "step",
            Self::Exponential(_) => "exponential",
            Self::OneCycle(_) => "one_cycle",
            Self::Plateau(_) => "plateau",
        }
    }

    /// The schedule's name, and its warm-up in steps and as a share.
    fn warm_up(&self) -> Option<(&'static str, u64, f64)> {
        match self {
            Self::Constant | Self::OneCycle(_) => None,
            Self::WarmUp(c) => Some(("warm_up", c.warm_up_steps, c.warm_up_share)),
            Self::Cosine(c) => Some(("cosine", c.warm_up_steps, c.warm_up_share)),
            Self::Step(c) => Some(("step", c.warm_up_steps, c.warm_up_share)),
            Self::Exponential(c) => Some(("exponential", c.warm_up_steps, c.warm_up_share)),
            Self::Plateau(c) => Some(("plateau", c.warm_up_steps, c.warm_up_share)),
        }
    }
}

/// From `start` to `end`, flat at both ends. `part` is the progress; past 1 the value stays `end`.
fn half_cosine(start: f64, end: f64, part: f64) -> f64 {
    end + (start - end) * 0.5 * (1.0 + (PI * part.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_warms_up_then_falls_by_half_in_its_middle() {
        let schedule = Schedule::Cosine(CosineConfig {
            warm_up_steps: 3,
            final_factor: 0.2,
            ..Default::default()
        });
        let close = |step, wanted: f64| {
            let found = schedule.factor(step, 13);
            assert!((found - wanted).abs() < 1e-12, "step {step}: {found}");
        };
        close(0, 0.25);
        close(2, 0.75);
        close(3, 1.0);
        close(8, 0.6); // Half way: the mean of 1 and 0.2.
        close(13, 0.2);
        close(99, 0.2);
        assert_eq!(Schedule::Constant.factor(7, 10), 1.0);
    }

    #[test]
    fn a_warm_up_is_a_number_of_steps_or_a_share_of_them() {
        let cosine = |warm_up_steps, warm_up_share| {
            Schedule::Cosine(CosineConfig {
                warm_up_steps,
                warm_up_share,
                ..Default::default()
            })
        };
        let (share, steps) = (cosine(0, 0.1), cosine(12, 0.0));
        assert!((0..120).all(|step| share.factor(step, 120) == steps.factor(step, 120)));
        assert_ne!(share.factor(5, 60), steps.factor(5, 60));
        assert!(share.spans_the_run());
        assert!(share.check().is_ok());
        let said = cosine(12, 0.1).check().expect_err("both").to_string();
        assert!(
            said.starts_with("schedule.cosine.warm_up_share: found 0.1 beside"),
            "{said}"
        );
        assert!(cosine(0, 1.5).check().is_err());
    }

    #[test]
    fn an_exponential_fall_ends_with_the_run() {
        let schedule = Schedule::Exponential(ExponentialConfig {
            final_factor: 0.01,
            ..Default::default()
        });
        for (step, wanted) in [(0, 1.0), (5, 0.1), (10, 0.01), (25, 0.01)] {
            assert!((schedule.factor(step, 10) - wanted).abs() < 1e-12, "{step}");
        }
    }

    #[test]
    fn factors_are_finite_for_any_number_of_steps() {
        let schedules = [
            Schedule::Cosine(CosineConfig::default()),
            Schedule::Step(StepConfig::default()),
            Schedule::Exponential(ExponentialConfig::default()),
            Schedule::OneCycle(OneCycleConfig::default()),
            Schedule::OneCycle(OneCycleConfig {
                rise: 1.0,
                ..Default::default()
            }),
            Schedule::WarmUp(WarmUpConfig::default()),
        ];
        for schedule in schedules {
            for n_steps in 0..6 {
                for step in 0..8 {
                    let factor = schedule.factor(step, n_steps);
                    assert!(
                        (0.0..=1.0).contains(&factor),
                        "{schedule:?}, {step} of {n_steps}: {factor}"
                    );
                }
            }
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused_by_name() {
        let refused = |schedule: Schedule, key: &str| {
            let message = schedule.check().expect_err(key).to_string();
            assert!(message.starts_with(key), "{message}");
        };
        refused(
            Schedule::Step(StepConfig {
                every_steps: 0,
                ..Default::default()
            }),
            "schedule.step.every_steps: found 0",
        );
        refused(
            Schedule::Exponential(ExponentialConfig {
                final_factor: 0.0,
                ..Default::default()
            }),
            "schedule.exponential.final_factor: found 0",
        );
        refused(
            Schedule::Plateau(PlateauConfig {
                factor: 1.0,
                ..Default::default()
            }),
            "schedule.plateau.factor: found 1",
        );
        refused(
            Schedule::Plateau(PlateauConfig {
                threshold: -0.1,
                ..Default::default()
            }),
            "schedule.plateau.threshold: found -0.1",
        );
        refused(
            Schedule::Cosine(CosineConfig {
                final_factor: 1.5,
                ..Default::default()
            }),
            "schedule.cosine.final_factor: found 1.5",
        );
    }
}
