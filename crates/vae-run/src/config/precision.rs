//! In which kind of numbers the networks compute (`training.precision`).

use serde::{Deserialize, Serialize};

/// In which kind of numbers the networks compute. Weights, gradients, losses and optimizer are f32
/// with both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// 32 bits: 24 of them say the number.
    #[default]
    F32,
    /// Convolutions and matrix products in 16 bits with the range of f32, 8 of which say the number
    /// (Kalamkar et al. 2019, <https://arxiv.org/abs/1905.12322>): faster where the processor has
    /// instructions for it, and half the memory for what they leave.
    Bf16,
}
