//! Some items of a data set.

use tch::Tensor;

/// Some items, and what is known of each.
#[derive(Debug)]
pub struct Batch {
    /// Maps `[B, C, H, W]` of the kind's element type ([`ItemKind`](vae_base::ItemKind)): u8 of images.
    pub items: Tensor,
    /// What a model is told of each, f32 `[B, D]` on the same device; none where the data set has no
    /// condition ([`with_condition`](crate::Dataset::with_condition)).
    pub condition: Option<Tensor>,
    /// Where in the data set each of them is.
    pub rows: Vec<usize>,
}
