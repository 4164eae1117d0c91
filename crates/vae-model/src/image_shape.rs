//! The shape of one image.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Channels, height and width of one image; tensors of images are `[B, C, H, W]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageShape {
    /// 1 for gray, 3 for RGB.
    pub channels: i64,
    /// Rows of pixels.
    pub height: i64,
    /// Columns of pixels.
    pub width: i64,
}

impl ImageShape {
    /// `[C, H, W]`.
    pub(crate) fn sides(self) -> [i64; 3] {
        [self.channels, self.height, self.width]
    }

    /// Numbers in one image: channels × height × width, the `dim` of bits/dim.
    #[must_use]
    pub fn n_values(&self) -> i64 {
        self.channels * self.height * self.width
    }
}

impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}×{}", self.channels, self.height, self.width)
    }
}
