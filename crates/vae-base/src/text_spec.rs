//! What the tokens of a text stand for.

use serde::{Deserialize, Serialize};

/// The vocabulary by which text becomes tokens and tokens text. It is saved with the weights, so that new text gets the
/// tokens that the model was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSpec {
    /// The pieces that text is cut into.
    pub unit: TextUnit,
    /// What each token stands for, from 0 on. Token 0 is the end of a text and stands for nothing.
    pub tokens: Vec<String>,
    /// The pairs that byte-pair encoding joins, in this order; empty for other units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merges: Vec<(String, String)>,
}

/// The pieces that text is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TextUnit {
    /// Characters.
    Character,
    /// Words and punctuation marks, each with the space before it; rare words as characters.
    Word,
    /// Parts of words, of any length down to a byte, that byte-pair encoding found to be frequent.
    BytePair,
}

impl TextSpec {
    /// The token at the end of a text.
    pub const END: i64 = 0;
}
