//! Stopping when a validation metric no longer improves.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use vae_run::{EarlyStoppingConfig, Metric, Ranking};

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Asks to stop when a validation metric has not improved for a given number of epochs.
#[derive(Debug)]
pub struct EarlyStopping {
    config: EarlyStoppingConfig,
    progress: Progress,
}

#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    metric: Metric,
    best: Option<f64>,
    epochs_without: u64,
}

impl EarlyStopping {
    /// Follows the config.
    #[must_use]
    pub fn new(config: &EarlyStoppingConfig) -> Self {
        Self {
            config: config.clone(),
            progress: Progress {
                metric: config.metric.clone(),
                best: None,
                epochs_without: 0,
            },
        }
    }

    /// Updates with an epoch's value. Returns whether the patience is exhausted.
    fn observe(&mut self, ranking: &Ranking, value: f64) -> bool {
        let Self { config, progress } = self;
        let improved = progress
            .best
            .is_none_or(|best| ranking.gain(value, best) > config.min_improvement);
        if improved {
            progress.best = Some(value);
            progress.epochs_without = 0;
        } else {
            progress.epochs_without += 1;
        }
        progress.epochs_without >= config.patience_epochs
    }
}

impl Callback for EarlyStopping {
    fn name(&self) -> &'static str {
        "early_stopping"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let stops = match event {
            // The run may have stopped here before, and was resumed with the same patience.
            Event::FitStart => self.progress.epochs_without >= self.config.patience_epochs,
            Event::EpochEnd {
                validation: Some(record),
                ..
            } => {
                let ranking = run.config.ranking(&self.config.metric);
                let value = ranking.of(record);
                value.is_some_and(|value| self.observe(&ranking, value))
            }
            _ => false,
        };
        if !stops {
            return Ok(Flow::Continue);
        }
        tracing::warn!(
            "stopping early: the validation {} has not improved for {} epochs",
            self.config.metric.name(),
            self.progress.epochs_without,
        );
        Ok(Flow::Stop)
    }

    fn state(&self) -> Value {
        json!(self.progress)
    }

    fn restore(&mut self, state: &Value) -> Result<(), TrainError> {
        let progress: Progress = super::parse_state(self.name(), state)?;
        // The best value of another metric is not comparable.
        if progress.metric == self.config.metric {
            self.progress = progress;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_after_so_many_epochs_without_enough_gain_also_across_a_restore() {
        let config = EarlyStoppingConfig {
            patience_epochs: 2,
            min_improvement: 1.0,
            metric: Metric::Elbo,
        };
        let ranking = Metric::Elbo.ranking(&[]);
        let mut early = EarlyStopping::new(&config);
        assert!(!early.observe(&ranking, -100.0));
        assert!(!early.observe(&ranking, -99.5)); // Better, not by more than 1.
        let mut resumed = EarlyStopping::new(&config);
        resumed.restore(&early.state()).expect("its own state");
        for early in [&mut early, &mut resumed] {
            assert!(early.observe(&ranking, -99.0)); // Still no more than 1 better than −100.
            assert!(!early.observe(&ranking, -98.0)); // Against the best, not against the last.
        }
    }
}
