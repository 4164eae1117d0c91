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

/// The largest number of channels, and the longest sides.
const LARGEST_SIDES: [i64; 3] = [1 << 10, 1 << 16, 1 << 16];

/// The largest number of values in an image, 16,384 × 16,384: memory has to hold several copies of it.
const LARGEST_IMAGE: i64 = 1 << 28;

impl ImageShape {
    /// Why this is not the shape of an image that fits into memory; none if it is.
    #[must_use]
    pub fn problem(self) -> Option<String> {
        let sides = self.sides().into_iter().zip(LARGEST_SIDES);
        let is_sane = sides.into_iter().all(|(n, most)| (1..=most).contains(&n));
        // The product cannot overflow an i64 only if each side is bounded.
        if is_sane && self.n_values() <= LARGEST_IMAGE {
            return None;
        }
        let [channels, height, width] = LARGEST_SIDES;
        Some(format!(
            "found {self}, every side must be at least 1 and at most {channels}×{height}×{width}, \
             {LARGEST_IMAGE} values in all"
        ))
    }

    /// `[C, H, W]`.
    #[must_use]
    pub fn sides(self) -> [i64; 3] {
        [self.channels, self.height, self.width]
    }

    /// Values in one image, channels × height × width: the `dim` of bits/dim.
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
