//! The space that latents lie in.

use serde::{Deserialize, Serialize};

/// The space that latents lie in; posterior and prior must agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Support {
    /// All of ℝ^Z. Its base distribution is the standard normal.
    Euclidean,
    /// The unit sphere in ℝ^Z. Its base distribution is the uniform one.
    Sphere,
    /// A finite number of points, the levels of codes. Its base distribution is the uniform one.
    Codes,
}
