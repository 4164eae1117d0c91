//! A batch of items of a data set.

use tch::Tensor;

/// A batch of items with their conditions.
#[derive(Debug)]
pub struct Batch {
    /// Maps `[B, C, H, W]` of the element type of their kind ([`ItemKind`](vae_base::ItemKind)): u8 for images.
    pub items: Tensor,
    /// The condition of each item, f32 `[B, D]` on the same device; `None` if the data set has no condition
    /// ([`with_condition`](crate::Dataset::with_condition)).
    pub condition: Option<Tensor>,
    /// The position of each item in the data set.
    pub rows: Vec<usize>,
    /// The number of items of the whole batch, of which one of several processes has its portion.
    pub n_items: usize,
}
