//! Counts which codes a model uses over many images.

use tch::{Device, Kind, Tensor};

use crate::quantizer::CODE_TERMS;
use crate::{ModelError, Posterior, Term, Vae};

/// How often each code occurred in the images added so far.
#[derive(Debug)]
pub struct CodeUse {
    /// i64 `[n_books, n_codes]`.
    counts: Tensor,
    slots_of_books: Vec<i64>,
}

impl CodeUse {
    /// The reported numbers: how many different codes occurred, and the perplexity, exp of the entropy of their
    /// frequencies, which is the number of codes in use if all are equally frequent. With several codebooks both are
    /// means over them.
    pub const TERMS: [Term; 2] = CODE_TERMS;

    /// An empty count; `None` if the model's latents are not codes.
    #[must_use]
    pub fn of(vae: &Vae) -> Option<Self> {
        let quantizer = vae.quantizer()?;
        let slots_of_books = quantizer.slots_of_books(vae.config().n_latents());
        let size = [quantizer.n_books(), quantizer.n_codes()];
        Some(Self {
            counts: Tensor::zeros(size, (Kind::Int64, vae.device())),
            slots_of_books,
        })
    }

    /// Adds the codes of a batch's images.
    pub fn add(&mut self, posterior: &dyn Posterior) {
        if let Some(codes) = posterior.codes() {
            let n_codes = self.counts.size()[1];
            let of_books = codes.split_with_sizes(self.slots_of_books.as_slice(), 1);
            for (book, codes) in of_books.into_iter().enumerate() {
                let counts = codes.flatten(0, -1).bincount::<Tensor>(None, n_codes);
                let _ = self.counts.get(book as i64).g_add_(&counts);
            }
        }
    }

    /// How often each code of each codebook occurred, i64 `[n_books, n_codes]`.
    pub fn counts(&self) -> &Tensor {
        &self.counts
    }

    /// The values of [`Self::TERMS`].
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn values(&self) -> Result<[f64; 2], ModelError> {
        let n_books = self.counts.size()[0] as f64;
        let in_use = i64::try_from(self.counts.gt(0).sum(Kind::Int64))?;
        let perplexity = self.entropy().exp().mean(Kind::Double);
        Ok([in_use as f64 / n_books, f64::try_from(perplexity)?])
    }

    /// The bits of an item's codes if each takes −log2 of its frequency: less than as they are, if the frequencies of
    /// a codebook differ.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn entropy_bits(&self) -> Result<f64, ModelError> {
        let n_slots = Tensor::from_slice(&self.slots_of_books);
        let nats = (self.entropy() * n_slots).sum(Kind::Double);
        Ok(f64::try_from(nats)? / std::f64::consts::LN_2)
    }

    /// Of the codes' frequencies in nats, `[n_books]`.
    fn entropy(&self) -> Tensor {
        let counts = self.counts.to_device(Device::Cpu);
        let sums = counts.sum_dim_intlist(1, true, Kind::Double);
        let shares = counts.to_kind(Kind::Double) / sums;
        -shares
            .xlogy(&shares)
            .sum_dim_intlist(1, false, Kind::Double)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_counts_codes_that_come_equally_often() {
        let values = |counts: &[i64]| {
            let code_use = CodeUse {
                counts: Tensor::from_slice(counts).unsqueeze(0),
                slots_of_books: vec![3],
            };
            let bits = code_use.entropy_bits().expect("a number");
            let [in_use, perplexity] = code_use.values().expect("numbers");
            assert!((bits - 3.0 * perplexity.log2()).abs() < 1e-12);
            [in_use, perplexity]
        };
        assert_eq!(values(&[3, 0, 3, 0]).map(|x| (x * 1e9).round()), [2e9, 2e9]);
        // exp(−¾·ln ¾ − ¼·ln ¼).
        let wanted = (0.75 * (4.0 / 3.0_f64).ln() + 0.25 * 4_f64.ln()).exp();
        let [in_use, perplexity] = values(&[0, 6, 2]);
        assert_eq!(in_use, 2.0);
        assert!((perplexity - wanted).abs() < 1e-12);
    }

    #[test]
    fn with_several_codebooks_it_is_their_mean() {
        let counts = Tensor::from_slice(&[4_i64, 4, 4, 4, 9, 9, 0, 0]).view([2, 4]);
        let slots_of_books = vec![1, 1];
        let code_use = CodeUse {
            counts,
            slots_of_books,
        };
        let [in_use, perplexity] = code_use.values().expect("numbers");
        assert!((in_use - 3.0).abs() + (perplexity - 3.0).abs() < 1e-12);
    }
}
