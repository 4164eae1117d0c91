//! Sums over images while an epoch runs.

use tch::{Device, Kind, Tensor};
use vae_model::ElboTerms;
use vae_run::{Means, SavedTotals};

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
}
