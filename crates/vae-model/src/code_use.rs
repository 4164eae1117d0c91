//! Counts which codes a model uses over many images.

use tch::{Device, Kind, Tensor};

use crate::posterior::CODE_TERMS;
use crate::{ModelError, Posterior, Term, Vae};

/// How often each code occurred in the images added so far.
#[derive(Debug)]
pub struct CodeUse {
    /// i64 `[n_codes]`.
    counts: Tensor,
}

impl CodeUse {
    /// The reported numbers: how many different codes occurred, and the perplexity, exp of the entropy of their
    /// frequencies, which is the number of codes in use if all are equally frequent.
    pub const TERMS: [Term; 2] = CODE_TERMS;

    /// An empty count; `None` if the model's latents are not codes.
    #[must_use]
    pub fn of(vae: &Vae) -> Option<Self> {
        let n_codes = vae.n_codes()?;
        Some(Self {
            counts: Tensor::zeros([n_codes], (Kind::Int64, vae.device())),
        })
    }

    /// Adds the codes of a batch's images.
    pub fn add(&mut self, posterior: &dyn Posterior) {
        if let Some(codes) = posterior.codes() {
            let n_codes = self.counts.size()[0];
            self.counts += codes.flatten(0, -1).bincount::<Tensor>(None, n_codes);
        }
    }

    /// The values of [`Self::TERMS`].
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn values(&self) -> Result<[f64; 2], ModelError> {
        let counts = self.counts.to_device(Device::Cpu);
        let in_use = counts.gt(0).sum(Kind::Int64);
        let shares = counts.to_kind(Kind::Double) / counts.sum(Kind::Double);
        let entropy = -shares.xlogy(&shares).sum(Kind::Double);
        Ok([i64::try_from(in_use)? as f64, f64::try_from(entropy.exp())?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_counts_codes_that_come_equally_often() {
        let values = |counts: &[i64]| {
            let counts = Tensor::from_slice(counts);
            CodeUse { counts }.values().expect("numbers")
        };
        assert_eq!(values(&[3, 0, 3, 0]).map(|x| (x * 1e9).round()), [2e9, 2e9]);
        // exp(−¾·ln ¾ − ¼·ln ¼).
        let wanted = (0.75 * (4.0 / 3.0_f64).ln() + 0.25 * 4_f64.ln()).exp();
        let [in_use, perplexity] = values(&[0, 6, 2]);
        assert_eq!(in_use, 2.0);
        assert!((perplexity - wanted).abs() < 1e-12);
    }
}
