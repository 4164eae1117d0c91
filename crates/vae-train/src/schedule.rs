//! Schedules: how the learning rate changes over a run.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// How the learning rate changes (`schedule` in a config file); a factor on the optimizer's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Schedule {
    /// It does not.
    #[default]
    Constant,
    /// A linear warm-up, then half a cosine down to the last step.
    Cosine(CosineConfig),
}

/// Half a cosine (Loshchilov & Hutter 2017, <https://arxiv.org/abs/1608.03983>, without restarts).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CosineConfig {
    /// Steps over which the factor rises linearly to 1. Default 0.
    pub warm_up_steps: u64,
    /// The factor after the last step. Default 0.
    pub final_factor: f64,
}

impl Default for CosineConfig {
    fn default() -> Self {
        Self {
            warm_up_steps: 0,
            final_factor: 0.0,
        }
    }
}

impl Schedule {
    /// Refuses numbers outside their range.
    ///
    /// # Errors
    /// A final factor outside [0, 1].
    pub fn check(&self) -> Result<(), TrainError> {
        match self {
            Self::Cosine(config) if !(0.0..=1.0).contains(&config.final_factor) => {
                Err(TrainError::Config {
                    key: "schedule.cosine.final_factor",
                    problem: format!(
                        "found {}, a number from 0 to 1 is needed",
                        config.final_factor
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// The factor at a step, counted from 0, of a run of `n_steps`.
    #[must_use]
    pub fn factor(&self, step: u64, n_steps: u64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine(config) if step < config.warm_up_steps => {
                (step + 1) as f64 / (config.warm_up_steps + 1) as f64
            }
            Self::Cosine(config) => {
                let done = (step - config.warm_up_steps) as f64;
                let all = n_steps.saturating_sub(config.warm_up_steps).max(1) as f64;
                let cosine = 0.5 * (1.0 + (PI * (done / all).min(1.0)).cos());
                config.final_factor + (1.0 - config.final_factor) * cosine
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_warms_up_then_falls_by_half_in_its_middle() {
        let schedule = Schedule::Cosine(CosineConfig {
            warm_up_steps: 3,
            final_factor: 0.2,
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
}
