//! The number format that the networks compute in (`training.precision`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The number format that the networks compute in. Weights, gradients, losses and optimizer are f32 with
/// both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// Convolutions and matrix products in bfloat16, 16 bits with the range of f32 and 8 bits of precision
    /// (Kalamkar et al. 2019, <https://arxiv.org/abs/1905.12322>). Faster where the processor has
    /// instructions for it, and half the memory for the networks' outputs.
    Bf16,
}
