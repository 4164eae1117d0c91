//! Counts which codes a model uses over many images.

use tch::{Device, Kind, Tensor};

use crate::{Direction, ModelError, Posterior, Term, Vae};

/// How often each code occurred in the images added so far.
#[derive(Debug)]
pub struct CodeUse {
    /// i64 `[n_books, n_codes]`.
    counts: Tensor,
}

/// What is logged about the codes of many images.
pub(crate) const CODE_TERMS: [Term; 2] = [
    Term::new("codes_in_use", "codes", Direction::Higher),
    Term::new("code_perplexity", "codes", Direction::Higher),
];

impl CodeUse {
    /// The reported numbers: how many different codes occurred, and the perplexity, exp of the entropy of their
    /// frequencies, which is the number of codes in use if all are equally frequent. With several codebooks both are
    /// means over them.
    pub const TERMS: [Term; 2] = CODE_TERMS;

    /// An empty count; `None` if the model's latents are not codes.
    #[must_use]
    pub fn of(vae: &Vae) -> Option<Self> {
        let quantizer = vae.quantizer()?;
        let size = [quantizer.n_books(), quantizer.n_codes()];
        Some(Self {
            counts: Tensor::zeros(size, (Kind::Int64, vae.device())),
        })
    }

    /// Adds the codes of a batch's images.
    pub fn add(&mut self, posterior: &dyn Posterior) {
        if let Some(codes) = posterior.codes() {
            let [n_books, n_codes] = [self.counts.size()[0], self.counts.size()[1]];
            let of_books = codes.unflatten(1, [n_books, -1]); // [B, n_books, places]
            for book in 0..n_books {
                let codes = of_books.select(1, book).flatten(0, -1);
                let counts = codes.bincount::<Tensor>(None, n_codes);
                let _ = self.counts.get(book).g_add_(&counts);
            }
        }
    }

    /// How often each code of each codebook occurred, i64 `[n_books, n_codes]`.
    #[must_use]
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

    /// The entropy of a place in bits, the codes of all codebooks together: what a code that knows the frequencies of
    /// each takes.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn entropy_bits(&self) -> Result<f64, ModelError> {
        Ok(f64::try_from(self.entropy().sum(Kind::Double))? / std::f64::consts::LN_2)
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
            let counts = Tensor::from_slice(counts).unsqueeze(0);
            CodeUse { counts }.values().expect("numbers")
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
        let [in_use, perplexity] = CodeUse { counts }.values().expect("numbers");
        assert!((in_use - 3.0).abs() + (perplexity - 3.0).abs() < 1e-12);
    }
}
