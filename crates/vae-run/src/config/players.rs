//! How players other than the model are trained (`[players.NAME]`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use vae_model::{Direction, Term};

use crate::{AdamConfig, ClipConfig, OptimizerConfig, RunError, Schedule, range};

/// How a player beside the model is trained (`[players.NAME]`): a network of the objective's own, such as the
/// `discriminator` of `[objective.adversarial]` or of the regularizer `factor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlayerConfig {
    /// Its optimizer. Without the table, `learning_rate` is 1e-4, `beta1` 0.5 and `beta2` 0.9, with which Kim &
    /// Mnih 2018 train the discriminator of FactorVAE. Default `adam`.
    pub optimizer: OptimizerConfig,
    /// How its learning rate changes, `plateau` excepted. Default `"constant"`.
    pub schedule: Schedule,
    /// Bounds on its gradient.
    pub clip: ClipConfig,
    /// Decay of an exponential moving average of its weights. If it is given, the averaged weights are used in
    /// evaluation. By default no average is kept.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Number of the model's steps from one of its own to the next. Default 1.
    #[schemars(range(min = 1))]
    pub every: u64,
}

impl Default for PlayerConfig {
    fn default() -> Self {
        Self {
            optimizer: OptimizerConfig::Adam(AdamConfig {
                learning_rate: 1e-4,
                beta1: 0.5,
                beta2: 0.9,
                ..Default::default()
            }),
            schedule: Schedule::default(),
            clip: ClipConfig::default(),
            ema_decay: None,
            every: 1,
        }
    }
}

impl PlayerConfig {
    /// The declaration of the mean norm of a player's gradient, before clipping.
    #[must_use]
    pub fn gradient_norm(player: &str) -> Term {
        Term {
            name: format!("{player}_gradient_norm").into(),
            unit: Term::NO_UNIT.into(),
            better: Direction::Neither,
        }
    }

    /// Refuses invalid values, with their keys below `players.NAME`.
    pub(super) fn check(&self, name: &str) -> Result<(), RunError> {
        let refuse = |key: &str, problem: String| {
            Err(RunError::config(format!("players.{name}.{key}"), problem))
        };
        if self.every == 0 {
            return refuse("every", "found 0, at least 1 is needed".to_owned());
        }
        if let Schedule::Plateau(_) = self.schedule {
            let problem =
                "plateau follows a metric of the model; constant, cosine or step would fit";
            return refuse("schedule", problem.to_owned());
        }
        let checks = [
            self.optimizer.check(),
            self.schedule.check(),
            self.clip.check(),
            self.ema_decay
                .map_or(Ok(()), |decay| range::below_1("ema_decay", decay)),
        ];
        for check in checks {
            match check {
                Err(RunError::Config { key, problem }) => {
                    let key = key.strip_prefix("training.").unwrap_or(&key);
                    return refuse(key, problem);
                }
                other => other?,
            }
        }
        Ok(())
    }
}
