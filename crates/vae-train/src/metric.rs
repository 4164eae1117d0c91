//! Metrics: sums over images while an epoch runs, means when it is read, a line of JSON at its end.

use std::cmp::Ordering;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
#[cfg(doc)]
use vae_model::Objective;
use vae_model::{ElboTerms, ModelConfig};

use crate::{Position, TrainError};

/// Sums over the images seen so far. They stay on the device, so that adding a batch does not wait
/// for it; reading the [`Means`] does.
#[derive(Debug)]
pub struct Totals {
    /// reconstruction, kl, loss, gradient norm; f64 `[4]`.
    sums: Tensor,
    n_images: i64,
    /// Every batch so far had a kl.
    has_kl: bool,
}

/// [`Totals`] in a checkpoint, to the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedTotals {
    sums: [f64; 4],
    n_images: i64,
    has_kl: bool,
}

impl Totals {
    pub(crate) fn new(device: Device) -> Self {
        Self {
            sums: Tensor::zeros([4], (Kind::Double, device)),
            n_images: 0,
            has_kl: true,
        }
    }

    /// Adds a batch; its loss, a mean, and its gradient's norm count once for each image.
    pub(crate) fn add(&mut self, terms: &ElboTerms, loss: &Tensor, gradient_norm: Option<&Tensor>) {
        let n_images = terms.reconstruction.size()[0];
        let for_each = |value: &Tensor| value.detach().to_kind(Kind::Double) * n_images;
        let batch = Tensor::stack(
            &[
                terms.reconstruction.sum(Kind::Double),
                match &terms.kl {
                    Some(kl) => kl.sum(Kind::Double),
                    None => loss.zeros_like().to_kind(Kind::Double),
                },
                for_each(loss),
                gradient_norm.map_or_else(|| loss.zeros_like().to_kind(Kind::Double), for_each),
            ],
            0,
        );
        self.sums += batch.detach();
        self.n_images += n_images;
        self.has_kl &= terms.kl.is_some();
    }

    /// Mean norm of the gradient of a step, before clipping; NaN before the first image.
    #[must_use]
    pub fn gradient_norm(&self) -> f64 {
        self.sums.double_value(&[3]) / self.n_images as f64
    }

    pub(crate) fn save(&self) -> SavedTotals {
        SavedTotals {
            sums: [0, 1, 2, 3].map(|i| self.sums.double_value(&[i])),
            n_images: self.n_images,
            has_kl: self.has_kl,
        }
    }

    pub(crate) fn restore(saved: SavedTotals, device: Device) -> Self {
        Self {
            sums: Tensor::from_slice(&saved.sums).to_device(device),
            n_images: saved.n_images,
            has_kl: saved.has_kl,
        }
    }

    /// Image-weighted means; NaN before the first image.
    #[must_use]
    pub fn means(&self) -> Means {
        let mean = |i| self.sums.double_value(&[i]) / self.n_images as f64;
        let [reconstruction, loss] = [mean(0), mean(2)];
        let kl = self.has_kl.then(|| mean(1));
        Means {
            elbo: kl.map(|kl| -(reconstruction + kl)),
            reconstruction,
            kl,
            loss,
        }
    }
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
    pub(crate) fn check(self, key: &'static str, model: &ModelConfig) -> Result<(), TrainError> {
        match self {
            Self::Elbo | Self::Kl | Self::BitsPerDim if !model.posterior.has_density() => {
                Err(TrainError::config(
                    key,
                    "a deterministic posterior has no kl and so no elbo; mse, reconstruction or loss \
                     would fit",
                ))
            }
            Self::BitsPerDim if !model.likelihood.has_bits_per_dim() => Err(TrainError::config(
                key,
                "found bits_per_dim, which only likelihoods of 8-bit values have, such as \
                 discretized_logistic",
            )),
            _ => Ok(()),
        }
    }

    /// The better one is greater; nothing, or what is no number, is worse than any number.
    pub(crate) fn order(self, a: Option<f64>, b: Option<f64>) -> Ordering {
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
    fn a_small_last_batch_weighs_as_many_images_as_it_has() {
        let batch = |reconstruction: &[f32], kl: &[f32], loss: f32, totals: &mut Totals| {
            let terms = ElboTerms {
                reconstruction: Tensor::from_slice(reconstruction),
                kl: Some(Tensor::from_slice(kl)),
            };
            totals.add(&terms, &Tensor::from(loss), Some(&Tensor::from(2.0 * loss)));
        };
        let mut totals = Totals::new(Device::Cpu);
        batch(&[1.0, 2.0, 3.0], &[1.0, 1.0, 1.0], 3.0, &mut totals);
        batch(&[10.0], &[5.0], 15.0, &mut totals);
        let means = totals.means();
        assert_eq!(means.reconstruction, 4.0);
        assert_eq!((means.kl, means.elbo), (Some(2.0), Some(-6.0)));
        assert_eq!(means.loss, 6.0);
        assert_eq!(totals.gradient_norm(), 12.0);
        let restored = Totals::restore(totals.save(), Device::Cpu);
        assert_eq!((restored.means(), restored.save()), (means, totals.save()));
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
