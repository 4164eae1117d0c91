//! A learning rate that drops when the validation loss stops improving.

use serde::{Deserialize, Serialize};
use vae_run::{PlateauConfig, ThresholdMode};

/// The history of the validation loss and the resulting factor; saved to resume a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlateauState {
    /// The factor on the learning rate, 1 at the start.
    factor: f64,
    /// The lowest loss so far.
    best: Option<f64>,
    /// Evaluations without progress since the last progress or drop.
    n_without_progress: u64,
    /// Evaluations of the cooldown that remain.
    cooldown: u64,
}

impl Default for PlateauState {
    fn default() -> Self {
        Self {
            factor: 1.0,
            best: None,
            n_without_progress: 0,
            cooldown: 0,
        }
    }
}

impl PlateauState {
    /// The factor for the following steps.
    #[must_use]
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Updates the history with the validation loss of an evaluation (lower is better), and returns the factor for the following
    /// steps.
    pub fn observe(&mut self, config: &PlateauConfig, loss: f64) -> f64 {
        let is_progress = self.best.is_none_or(|best| {
            let unit = match config.threshold_mode {
                ThresholdMode::Relative => best.abs(),
                ThresholdMode::Absolute => 1.0,
            };
            loss < best - config.threshold * unit
        });
        if is_progress {
            self.best = Some(loss);
            self.n_without_progress = 0;
        } else {
            self.n_without_progress += 1;
        }
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.n_without_progress = 0;
        }
        if self.n_without_progress > config.patience {
            self.factor = (self.factor * config.factor).max(config.min_factor);
            self.cooldown = config.cooldown;
            self.n_without_progress = 0;
        }
        self.factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plateau_of_a_negative_loss_is_one_too() {
        let config = PlateauConfig {
            patience: 1,
            threshold: 0.01,
            ..Default::default()
        };
        let mut state = PlateauState::default();
        // −100.5 is less than 1 % better than −100, −99.5 is worse; −102 is progress.
        assert_eq!(state.observe(&config, -100.0), 1.0);
        assert_eq!(state.observe(&config, -100.5), 1.0);
        assert_eq!(state.clone().observe(&config, -102.0), 1.0);
        assert_eq!(state.observe(&config, -99.5), 0.1);
        // A NaN loss is not progress either.
        assert_eq!(state.observe(&config, f64::NAN), 0.1);
        assert!((state.observe(&config, f64::NAN) - 0.01).abs() < 1e-15);
    }
}
