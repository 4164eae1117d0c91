//! Sums over the images of an epoch in progress.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};
use vae_model::{ElboTerms, Term, Terms, Vae};
use vae_run::{Means, SavedMark, SavedTerm, SavedTotals};

/// Sums over the images so far. They stay on the device, so that adding a batch does not wait for it; reading the [`Means`]
/// does.
#[derive(Debug)]
pub struct Totals {
    /// reconstruction, kl, loss, gradient norm, then the named terms; f64 `[4 + n_terms]`.
    sums: Tensor,
    n_images: i64,
    /// Whether every batch so far had a kl.
    has_kl: bool,
    /// Whether the model has an encoder, and so a reconstruction.
    has_reconstruction: bool,
    terms: Vec<Counted>,
    /// The sums when [`Self::recent`] was last called.
    mark: SavedMark,
}

/// Means over the images since an earlier step.
pub(crate) struct Recent {
    pub(crate) means: Means,
    pub(crate) gradient_norm: f64,
    pub(crate) named: BTreeMap<String, f64>,
    pub(crate) n_images: i64,
}

/// A named term, and the number of images in the batches that had it.
#[derive(Debug)]
struct Counted {
    term: Term,
    n_images: i64,
}

/// The number of sums before those of the named terms.
const N_FIXED: usize = 4;

impl Totals {
    pub(crate) fn new(device: Device) -> Self {
        Self {
            sums: Tensor::zeros([N_FIXED as i64], (Kind::Double, device)),
            n_images: 0,
            has_kl: true,
            has_reconstruction: true,
            terms: Vec::new(),
            mark: SavedMark::default(),
        }
    }

    /// For batches of a model.
    pub(crate) fn of(vae: &Vae) -> Self {
        Self {
            has_reconstruction: vae.has_encoder(),
            ..Self::new(vae.device())
        }
    }

    /// Adds a batch. Its loss (a mean), the norm of its gradient and the named terms are weighted by its number of images.
    pub(crate) fn add(
        &mut self,
        terms: &ElboTerms,
        loss: &Tensor,
        gradient_norm: Option<&Tensor>,
        named: &Terms,
    ) {
        let n_images = terms.reconstruction.size()[0];
        let zero = || loss.zeros_like().to_kind(Kind::Double);
        let for_each = |value: &Tensor| value.detach().to_kind(Kind::Double) * n_images;
        let mut batch = vec![
            terms.reconstruction.sum(Kind::Double),
            match &terms.kl {
                Some(kl) => kl.sum(Kind::Double),
                None => zero(),
            },
            for_each(loss),
            gradient_norm.map_or_else(zero, for_each),
        ];
        self.make_room(named);
        for counted in &mut self.terms {
            batch.push(match named.get(&counted.term.name) {
                Some(value) => {
                    counted.n_images += n_images;
                    // What the loop counts itself is on the CPU.
                    (value.mean(Kind::Double) * n_images).to_device(loss.device())
                }
                None => zero(),
            });
        }
        self.sums += Tensor::stack(&batch, 0).detach();
        self.n_images += n_images;
        self.has_kl &= terms.kl.is_some();
    }

    /// Adds the value of one term alone for a batch of `n_images`.
    pub(crate) fn add_value(&mut self, term: Term, value: f64, n_images: i64) {
        let name = term.name.clone();
        let mut named = Terms::default();
        named.push(term, &Tensor::from(value));
        self.make_room(&named);
        let counted = self.terms.iter_mut().enumerate();
        for (i, counted) in counted.filter(|(_, counted)| counted.term.name == name) {
            counted.n_images += n_images;
            let mut sum = self.sums.get((N_FIXED + i) as i64);
            sum += value * n_images as f64;
        }
    }

    /// Appends sums for new terms.
    fn make_room(&mut self, named: &Terms) {
        let n_before = self.terms.len();
        for (term, _) in named.iter() {
            if !self.terms.iter().any(|known| known.term.name == term.name) {
                let term = term.clone();
                self.terms.push(Counted { term, n_images: 0 });
            }
        }
        let n_new = self.terms.len() - n_before;
        if n_new > 0 {
            let zeros = self
                .sums
                .new_zeros([n_new as i64], (Kind::Double, self.sums.device()));
            self.sums = Tensor::cat(&[&self.sums, &zeros], 0);
        }
    }

    /// The mean norm of a step's gradient before clipping; NaN before the first image.
    #[must_use]
    pub fn gradient_norm(&self) -> f64 {
        self.sums.double_value(&[3]) / self.n_images as f64
    }

    /// Means of the named terms over the images of the batches that had them, by name.
    #[must_use]
    pub fn named_means(&self) -> BTreeMap<String, f64> {
        let mean = |(i, counted): (usize, &Counted)| {
            let sum = self.sums.double_value(&[(N_FIXED + i) as i64]);
            (counted.term.name.to_string(), sum / counted.n_images as f64)
        };
        self.terms.iter().enumerate().map(mean).collect()
    }

    /// Means over the images since the last call, or since the start of the epoch; none without an image since.
    pub(crate) fn recent(&mut self) -> Option<Recent> {
        let sums = Vec::<f64>::try_from(self.sums.to_device(Device::Cpu)).ok()?;
        let of_terms = self.terms.iter().map(|term| term.n_images).collect();
        let now = SavedMark {
            sums,
            n_images: self.n_images,
            of_terms,
        };
        let before = std::mem::replace(&mut self.mark, now);
        let n_images = self.mark.n_images - before.n_images;
        if n_images <= 0 {
            return None;
        }
        let sum = |i: usize| self.mark.sums[i] - before.sums.get(i).copied().unwrap_or(0.0);
        let mean = |i: usize| sum(i) / n_images as f64;
        let named = self.terms.iter().enumerate().filter_map(|(i, counted)| {
            let n = counted.n_images - before.of_terms.get(i).copied().unwrap_or(0);
            let name = counted.term.name.to_string();
            (n > 0).then(|| (name, sum(N_FIXED + i) / n as f64))
        });
        Some(Recent {
            means: self.means_of(mean(0), mean(1), mean(2)),
            gradient_norm: mean(3),
            named: named.collect(),
            n_images,
        })
    }

    pub(crate) fn save(&self) -> SavedTotals {
        let sum = |i: usize| self.sums.double_value(&[i as i64]);
        SavedTotals {
            sums: [0, 1, 2, 3].map(sum),
            n_images: self.n_images,
            has_kl: self.has_kl,
            has_reconstruction: self.has_reconstruction,
            terms: (N_FIXED..)
                .zip(&self.terms)
                .map(|(i, counted)| SavedTerm {
                    term: counted.term.clone(),
                    sum: sum(i),
                    n_images: counted.n_images,
                })
                .collect(),
            mark: (self.mark.n_images > 0).then(|| self.mark.clone()),
        }
    }

    pub(crate) fn restore(saved: SavedTotals, device: Device) -> Self {
        let mut sums = saved.sums.to_vec();
        sums.extend(saved.terms.iter().map(|term| term.sum));
        let counted = |SavedTerm { term, n_images, .. }| Counted { term, n_images };
        Self {
            sums: Tensor::from_slice(&sums).to_device(device),
            n_images: saved.n_images,
            has_kl: saved.has_kl,
            has_reconstruction: saved.has_reconstruction,
            terms: saved.terms.into_iter().map(counted).collect(),
            mark: saved.mark.unwrap_or_default(),
        }
    }

    /// Means over images; NaN before the first image.
    #[must_use]
    pub fn means(&self) -> Means {
        let mean = |i| self.sums.double_value(&[i]) / self.n_images as f64;
        self.means_of(mean(0), mean(1), mean(2))
    }

    fn means_of(&self, reconstruction: f64, kl: f64, loss: f64) -> Means {
        let kl = self.has_kl.then_some(kl);
        Means {
            elbo: kl.map(|kl| -(reconstruction + kl)),
            reconstruction: self.has_reconstruction.then_some(reconstruction),
            kl,
            loss,
        }
    }
}

#[cfg(test)]
mod tests {
    use vae_model::Direction;

    use super::*;

    fn elbo_terms(reconstruction: &[f32], kl: &[f32]) -> ElboTerms {
        ElboTerms {
            reconstruction: Tensor::from_slice(reconstruction),
            kl: Some(Tensor::from_slice(kl)),
        }
    }

    #[test]
    fn a_small_last_batch_weighs_as_many_images_as_it_has() {
        let batch = |reconstruction: &[f32], kl: &[f32], loss: f32, totals: &mut Totals| {
            let terms = elbo_terms(reconstruction, kl);
            let (loss, norm) = (Tensor::from(loss), Tensor::from(2.0 * loss));
            totals.add(&terms, &loss, Some(&norm), &Terms::default());
        };
        let mut totals = Totals::new(Device::Cpu);
        batch(&[1.0, 2.0, 3.0], &[1.0, 1.0, 1.0], 3.0, &mut totals);
        batch(&[10.0], &[5.0], 15.0, &mut totals);
        let means = totals.means();
        assert_eq!(means.reconstruction, Some(4.0));
        assert_eq!((means.kl, means.elbo), (Some(2.0), Some(-6.0)));
        assert_eq!(means.loss, 6.0);
        assert_eq!(totals.gradient_norm(), 12.0);
        let restored = Totals::restore(totals.save(), Device::Cpu);
        assert_eq!((restored.means(), restored.save()), (means, totals.save()));
    }

    #[test]
    fn recent_means_are_of_the_batches_since_the_last_reading_also_across_a_restore() {
        let term = Term::new("term", Term::NATS, Direction::Lower);
        let batch = |totals: &mut Totals, value: f32, has_term: bool| {
            let mut named = Terms::default();
            if has_term {
                named.push(term.clone(), &Tensor::from(value));
            }
            let terms = elbo_terms(&[value; 2], &[1.0; 2]);
            let loss = Tensor::from(value + 1.0);
            totals.add(&terms, &loss, Some(&Tensor::from(3_f32)), &named);
        };
        let mut totals = Totals::new(Device::Cpu);
        batch(&mut totals, 1.0, false);
        batch(&mut totals, 3.0, true);
        let recent = totals.recent().expect("means");
        assert_eq!(
            (recent.means.reconstruction, recent.means.loss),
            (Some(2.0), 3.0)
        );
        assert_eq!((recent.gradient_norm, recent.named["term"]), (3.0, 3.0));
        assert!(totals.recent().is_none(), "nothing since");
        batch(&mut totals, 5.0, true);
        let text = serde_json::to_string(&totals.save()).expect("JSON");
        let saved = serde_json::from_str(&text).expect("sums");
        let mut restored = Totals::restore(saved, Device::Cpu);
        for totals in [&mut totals, &mut restored] {
            batch(totals, 7.0, false);
            let recent = totals.recent().expect("means");
            assert_eq!((recent.means.elbo, recent.n_images), (Some(-7.0), 4));
            // The last batch had no such term.
            assert_eq!(recent.named["term"], 5.0);
            assert_eq!(totals.means().reconstruction, Some(4.0));
        }
    }

    #[test]
    fn a_named_term_is_averaged_over_the_batches_that_have_it_also_across_a_restore() {
        let scalar = Term::new("scalar", Term::NATS, Direction::Lower);
        let of_images = Term::new("of_images", Term::NO_UNIT, Direction::Neither);
        let batch = |totals: &mut Totals, n: usize, values: &[(&Term, &[f32])]| {
            let mut named = Terms::default();
            for &(term, value) in values {
                let value = match value {
                    [scalar] => Tensor::from(*scalar),
                    values => Tensor::from_slice(values),
                };
                named.push(term.clone(), &value);
            }
            let ones = vec![1.0; n];
            let terms = elbo_terms(&ones, &ones);
            totals.add(&terms, &Tensor::from(2_f32), None, &named);
        };
        let mut totals = Totals::new(Device::Cpu);
        batch(&mut totals, 1, &[]);
        batch(
            &mut totals,
            3,
            &[(&scalar, &[4.0]), (&of_images, &[1.0, 2.0, 6.0])],
        );
        let mut restored = Totals::restore(totals.save(), Device::Cpu);
        for totals in [&mut totals, &mut restored] {
            batch(totals, 1, &[(&scalar, &[8.0])]);
            batch(totals, 2, &[]);
            // (3·4 + 1·8)/4 and 9/3: batches without the term do not count.
            let wanted = [("of_images".to_owned(), 3.0), ("scalar".to_owned(), 5.0)];
            assert_eq!(totals.named_means(), BTreeMap::from(wanted));
            assert_eq!(totals.means().loss, 2.0);
        }
    }
}
