//! Metrics: sums over images while an epoch runs, means when it is read, a line of JSON at its end.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use vae_model::ElboTerms;

/// Sums over the images seen so far. They stay on the device, so that adding a batch does not wait
/// for it; reading the [`Means`] does.
#[derive(Debug)]
pub struct Totals {
    /// reconstruction, kl, loss; f64 `[3]`.
    sums: Tensor,
    n_images: i64,
}

impl Totals {
    pub(crate) fn new(device: Device) -> Self {
        Self {
            sums: Tensor::zeros([3], (Kind::Double, device)),
            n_images: 0,
        }
    }

    /// Adds a batch; its loss, a mean, counts once for each image.
    pub(crate) fn add(&mut self, terms: &ElboTerms, loss: &Tensor) {
        let n_images = terms.kl.size()[0];
        let batch = Tensor::stack(
            &[
                terms.reconstruction.sum(Kind::Double),
                terms.kl.sum(Kind::Double),
                loss.detach().to_kind(Kind::Double) * n_images,
            ],
            0,
        );
        self.sums += batch.detach();
        self.n_images += n_images;
    }

    /// Image-weighted means; NaN before the first image.
    #[must_use]
    pub fn means(&self) -> Means {
        let mean = |i| self.sums.double_value(&[i]) / self.n_images as f64;
        let [reconstruction, kl, loss] = [mean(0), mean(1), mean(2)];
        Means {
            elbo: -(reconstruction + kl),
            reconstruction,
            kl,
            loss,
        }
    }
}

/// Means over images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Means {
    /// −(reconstruction + kl), nats per image.
    pub elbo: f64,
    /// −E_q\[log p(x|z)\], nats per image.
    pub reconstruction: f64,
    /// KL(q(z|x) ‖ p(z)), nats per image.
    pub kl: f64,
    /// What was minimized, in the objective's own unit.
    pub loss: f64,
}

/// One line of `metrics.jsonl`: one epoch on one split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counted from 1.
    pub epoch: u64,
    /// Optimizer steps since the start.
    pub step: u64,
    /// `"train"` (means while training, the weights still moving) or `"test"`.
    pub split: String,
    /// The means over the split's images.
    #[serde(flatten)]
    pub means: Means,
    /// Images in a second.
    pub images_per_s: f64,
    /// Seconds that the pass took.
    pub seconds: f64,
    /// Step size of the epoch's last step.
    pub learning_rate: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_last_batch_weighs_as_many_images_as_it_has() {
        let batch = |reconstruction: &[f32], kl: &[f32], loss: f32, totals: &mut Totals| {
            let terms = ElboTerms {
                reconstruction: Tensor::from_slice(reconstruction),
                kl: Tensor::from_slice(kl),
            };
            totals.add(&terms, &Tensor::from(loss));
        };
        let mut totals = Totals::new(Device::Cpu);
        batch(&[1.0, 2.0, 3.0], &[1.0, 1.0, 1.0], 3.0, &mut totals);
        batch(&[10.0], &[5.0], 15.0, &mut totals);
        let means = totals.means();
        assert_eq!(means.reconstruction, 4.0);
        assert_eq!(means.kl, 2.0);
        assert_eq!(means.elbo, -6.0);
        assert_eq!(means.loss, 6.0);
    }
}
