//! Discrete latents: which codes there are, and which latents they stand for.

use std::fmt::Debug;

use tch::Tensor;

use crate::{Direction, Term};

/// What is logged about the codes of many images.
pub(crate) const CODE_TERMS: [Term; 2] = [
    Term::new("codes_in_use", "codes", Direction::Higher),
    Term::new("code_perplexity", "codes", Direction::Higher),
];

/// The codes of a posterior whose latents are discrete.
///
/// An item has `n_slots` codes, each one of `n_codes`. The slots are those of the first book at all places of the latent
/// map, then those of the second book, and so on; books differ in what their codes stand for (the parts of a product
/// quantizer, the steps of a residual one).
pub trait Quantizer: Debug + Send {
    /// Number of different codes of a slot.
    fn n_codes(&self) -> i64;

    /// Number of books.
    fn n_books(&self) -> i64 {
        1
    }

    /// Number of codes of an item with `latent_dims` latents.
    fn n_slots(&self, latent_dims: i64) -> i64;

    /// Number of slots of each book, in their order.
    fn slots_of_books(&self, latent_dims: i64) -> Vec<i64> {
        let n_books = self.n_books();
        let n_slots = self.n_slots(latent_dims) / n_books;
        vec![n_slots; n_books.unsigned_abs() as usize]
    }

    /// The codes nearest to latents `[N, Z]`, i64 `[N, n_slots]` from 0 on.
    fn codes(&self, latents: &Tensor) -> Tensor;

    /// The latents f32 `[N, Z]` that codes i64 `[N, n_slots]` stand for.
    fn latents(&self, codes: &Tensor) -> Tensor;

    /// Latents of codes near to latents `[N, Z]`. Those of a single book are the nearest, and stay as they are.
    fn nearest(&self, latents: &Tensor) -> Tensor {
        self.latents(&self.codes(latents))
    }
}
