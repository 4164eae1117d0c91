//! The halves of a model.

use serde::{Deserialize, Serialize};

/// One half of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// From images f32 `[N, C, H, W]` in `[0, 1]` to `mean` `[N, Z]` and, for a posterior with log-variances, `log_var`
    /// `[N, Z]`.
    Encoder,
    /// From latents f32 `[N, Z]` to mean images `[N, C, H, W]` in `[0, 1]`.
    Decoder,
}

impl Part {
    /// Both halves.
    pub const ALL: [Self; 2] = [Self::Encoder, Self::Decoder];

    /// `encoder` or `decoder`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
        }
    }

    /// The names of its inputs; the second one exists for a model with a condition.
    pub(crate) fn inputs(self) -> [&'static str; 2] {
        match self {
            Self::Encoder => ["images", "condition"],
            Self::Decoder => ["latents", "condition"],
        }
    }
}
