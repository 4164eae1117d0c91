//! Some images of a data set.

use tch::Tensor;

/// Some images, and what is known of each.
#[derive(Debug)]
pub struct Batch {
    /// Bytes, u8 `[B, C, H, W]`.
    pub items: Tensor,
    /// What a model is told of each, f32 `[B, D]` on the same device; none where the data set has no
    /// condition ([`with_condition`](crate::Dataset::with_condition)).
    pub condition: Option<Tensor>,
    /// Where in the data set each of them is.
    pub rows: Vec<usize>,
}
