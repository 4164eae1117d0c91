//! Metrics: means over images, a line of JSON for each epoch, and by which of them epochs are compared.

use std::cmp::Ordering;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vae_model::ModelConfig;
#[cfg(doc)]
use vae_model::Objective;

use crate::{Position, RunError};

/// Sums over the epoch in progress, to the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedTotals {
    /// reconstruction, kl, loss, gradient norm.
    pub sums: [f64; 4],
    /// Images that they are over.
    pub n_images: i64,
    /// Every batch so far had a kl.
    pub has_kl: bool,
}

/// Means over images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Means {
    /// −(reconstruction + kl), nats per image; none of a deterministic posterior.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elbo: Option<f64>,
    /// −E_q\[log p(x|z)\], nats per image.
    pub reconstruction: f64,
    /// KL(q(z|x) ‖ p(z)), nats per image; none of a deterministic posterior.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// What was minimized, in the objective's own unit.
    pub loss: f64,
}

impl fmt::Display for Means {
    /// `elbo -152.10 (reconstruction 146.00, kl 6.10)`, or the reconstruction where there is no elbo.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reconstruction = self.reconstruction;
        match (self.elbo, self.kl) {
            (Some(elbo), Some(kl)) => write!(
                f,
                "elbo {elbo:.2} (reconstruction {reconstruction:.2}, kl {kl:.2})"
            ),
            _ => write!(f, "reconstruction {reconstruction:.2}"),
        }
    }
}

/// One line of `metrics.jsonl`: one epoch on one split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counted from 1.
    pub epoch: u64,
    /// Optimizer steps since the start.
    pub step: u64,
    /// [`Record::TRAIN`] (means while training, the weights still moving) or [`Record::VALIDATION`].
    pub split: String,
    /// The means over the split's images.
    #[serde(flatten)]
    pub means: Means,
    /// Training only: mean norm of a step's gradient, before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Training only: step size of the epoch's last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Training only: weight of the kl after the epoch's last step, if the objective has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// Training only: capacity after the epoch's last step in nats, if the objective has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
    /// Validation only: latent dimensions whose posterior's center varies from image to image with a
    /// variance above 0.01 (Burda et al. 2016, <https://arxiv.org/abs/1509.00519>, §5.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_units: Option<u64>,
    /// Validation only: mean squared error of the decoded images, pixels from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mse: Option<f64>,
    /// Held-out only, and only where the likelihood is a probability of 8-bit images: −elbo in bits
    /// for each value of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_dim: Option<f64>,
    /// Training only: the share of the time in which it waited for images, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited: Option<f64>,
    /// Images in a second.
    pub images_per_s: f64,
    /// Seconds that the pass took.
    pub seconds: f64,
}

impl Record {
    /// The split of training images.
    pub const TRAIN: &str = "train";
    /// The split that chooses: the best checkpoint, when to stop. Test images are never in a record.
    pub const VALIDATION: &str = "validation";

    /// Means of a split at a position, nothing else known yet.
    #[must_use]
    pub fn new(position: Position, split: &str, means: Means) -> Self {
        Self {
            epoch: position.epochs,
            step: position.steps,
            split: split.to_owned(),
            means,
            gradient_norm: None,
            learning_rate: None,
            beta: None,
            capacity: None,
            active_units: None,
            mse: None,
            bits_per_dim: None,
            waited: None,
            images_per_s: 0.0,
            seconds: 0.0,
        }
    }

    /// The validation record with the highest elbo, or the least reconstruction where there is no elbo.
    #[must_use]
    pub fn best(records: &[Self]) -> Option<&Self> {
        let value = |record: &Self| record.means.elbo.unwrap_or(-record.means.reconstruction);
        records
            .iter()
            .filter(|record| record.split == Self::VALIDATION && value(record).is_finite())
            .reduce(|best, record| {
                if value(record) > value(best) {
                    record
                } else {
                    best
                }
            })
    }
}

/// The metric of the validation images by which epochs are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The evidence lower bound in nats per image, the higher the better.
    Elbo,
    /// −E\[log p(x|z)\] in nats per image, the lower the better.
    Reconstruction,
    /// The kl in nats per image, the lower the better.
    Kl,
    /// What the config's objective minimizes, with its schedule at the end
    /// ([`Objective::settled_step`]), in the objective's own unit, the lower the better.
    #[default]
    Loss,
    /// Mean squared error of the decoded images, pixels from 0 to 1, the lower the better.
    Mse,
    /// −elbo in bits for each value of an image, the lower the better. Only with a likelihood that is a
    /// probability of 8-bit images, `discretized_logistic` or `logistic_mixture`.
    BitsPerDim,
    /// The number of latent dimensions in use, the higher the better.
    ActiveUnits,
}

impl Metric {
    /// Its value in a validation record, if it is known there.
    #[must_use]
    pub fn of(self, record: &Record) -> Option<f64> {
        let means = &record.means;
        match self {
            Self::Elbo => means.elbo,
            Self::Reconstruction => Some(means.reconstruction),
            Self::Kl => means.kl,
            Self::Loss => Some(means.loss),
            Self::Mse => record.mse,
            Self::BitsPerDim => record.bits_per_dim,
            Self::ActiveUnits => record.active_units.map(|n| n as f64),
        }
    }

    /// By how much `new` is better than `old`; negative where it is worse.
    #[must_use]
    pub fn gain(self, new: f64, old: f64) -> f64 {
        match self {
            Self::Elbo | Self::ActiveUnits => new - old,
            Self::Reconstruction | Self::Kl | Self::Loss | Self::Mse | Self::BitsPerDim => {
                old - new
            }
        }
    }

    /// Refuses a metric that a model does not have.
    pub(crate) fn check(self, key: &'static str, model: &ModelConfig) -> Result<(), RunError> {
        match self {
            Self::Elbo | Self::Kl | Self::BitsPerDim if !model.posterior.has_density() => {
                Err(RunError::config(
                    key,
                    "a deterministic posterior has no kl and so no elbo; mse, reconstruction or loss \
                     would fit",
                ))
            }
            Self::BitsPerDim if !model.likelihood.has_bits_per_dim() => Err(RunError::config(
                key,
                "found bits_per_dim, which only likelihoods of 8-bit values have, such as \
                 discretized_logistic",
            )),
            _ => Ok(()),
        }
    }

    /// The better one is greater; nothing, or what is no number, is worse than any number.
    #[must_use]
    pub fn order(self, a: Option<f64>, b: Option<f64>) -> Ordering {
        let number = |value: Option<f64>| value.filter(|value| !value.is_nan());
        match (number(a), number(b)) {
            (Some(a), Some(b)) => self.gain(a, b).total_cmp(&0.0),
            (a, b) => a.is_some().cmp(&b.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_the_highest_number_on_held_out_images() {
        let record = |epoch, split, elbo: f64| {
            let means = Means {
                elbo: Some(elbo),
                reconstruction: -elbo,
                kl: Some(0.0),
                loss: -elbo,
            };
            let position = Position {
                epochs: epoch,
                steps: epoch,
            };
            Record::new(position, split, means)
        };
        let records = [
            record(1, "validation", -3.0),
            record(2, "train", -1.0),
            record(2, "validation", f64::NAN),
            record(3, "validation", -2.0),
            record(4, "validation", -2.0),
        ];
        assert_eq!(Record::best(&records).unwrap().epoch, 3);
        assert!(Record::best(&records[1..3]).is_none());
    }

    #[test]
    fn better_is_up_for_the_elbo_and_down_for_the_loss() {
        assert_eq!(Metric::Elbo.gain(-100.0, -110.0), 10.0);
        assert_eq!(Metric::Loss.gain(100.0, 110.0), 10.0);
        assert_eq!(
            Metric::Elbo.order(Some(-1.0), Some(-2.0)),
            Ordering::Greater
        );
        assert_eq!(Metric::Kl.order(Some(1.0), Some(2.0)), Ordering::Greater);
        assert_eq!(Metric::Kl.order(Some(f64::NAN), Some(2.0)), Ordering::Less);
        assert_eq!(Metric::Elbo.order(None, Some(-1e9)), Ordering::Less);
    }
}
