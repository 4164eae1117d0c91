//! Latents that are codes of a quantizer.

use tch::Tensor;

use super::{Latents, Posterior};
use crate::{Direction, Term, Terms};

/// |z − e|², summed over all codes of an item.
pub(crate) const COMMITMENT: Term = Term::new("commitment_loss", "", Direction::Lower);

/// The codes of each item.
#[derive(Debug)]
pub(super) struct Quantized {
    /// `[B, Z]`, with the gradient of the rounding.
    pub(super) latents: Tensor,
    /// i64 `[B, n_slots]`.
    pub(super) codes: Tensor,
    /// What the loss gets, `[B]`, if it gets anything.
    pub(super) penalty: Option<Tensor>,
    /// Its parts, without their weights, `[B]` each.
    pub(super) named: Vec<(Term, Tensor)>,
}

impl Posterior for Quantized {
    fn center(&self) -> Tensor {
        self.latents.shallow_clone()
    }

    fn draw(&self, noise: &Tensor) -> Latents {
        Latents {
            latents: self.latents.unsqueeze(0).expand(noise.size(), false),
            log_prob: None,
        }
    }

    fn log_prob(&self, _: &Tensor) -> Option<Tensor> {
        None
    }

    fn codes(&self) -> Option<Tensor> {
        Some(self.codes.shallow_clone())
    }

    fn penalty(&self) -> Option<(Tensor, Terms)> {
        let penalty = self.penalty.as_ref()?;
        let mut terms = Terms::default();
        for (term, value) in &self.named {
            terms.push(term.clone(), value);
        }
        Some((penalty.shallow_clone(), terms))
    }

    fn detach(&self) -> Box<dyn Posterior> {
        Box::new(Self {
            latents: self.latents.detach(),
            codes: self.codes.shallow_clone(),
            penalty: self.penalty.as_ref().map(Tensor::detach),
            named: vec![],
        })
    }
}
