//! Crop, resize and channels: from an image of any size to the bytes of the model's input.

use std::borrow::Cow;
use std::fmt;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use super::decode::Rgb;
use crate::{DataError, ImageShape};

/// The largest factor by which an image's sides may be enlarged. Smaller images would become blurred and count as bad
/// files.
pub const MAX_ENLARGEMENT: u32 = 4;

/// The largest accepted side of the resized images, in pixels.
pub const MAX_SIDE: u32 = 4096;

/// A rectangle to cut out of every image, in pixels of the upright image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CropRect {
    /// Rows of pixels above it.
    #[schemars(range(max = u32::MAX), example = 40)]
    pub top: u32,
    /// Columns of pixels to its left.
    #[schemars(range(max = u32::MAX), example = 20)]
    pub left: u32,
    /// Its height in pixels.
    #[schemars(range(min = 1, max = u32::MAX), example = 148)]
    pub height: u32,
    /// Its width in pixels.
    #[schemars(range(min = 1, max = u32::MAX), example = 148)]
    pub width: u32,
}

/// Height and width of the model's images, in pixels.
///
/// Written as one number for a square, or as `[height, width]`.
///
/// ```
/// # use vae_data::image_folder::ImageSize;
/// # #[derive(serde::Deserialize)]
/// # struct Table { image_size: ImageSize }
/// let table: Table = toml::from_str("image_size = [218, 178]")?;
/// assert_eq!(table.image_size, ImageSize { height: 218, width: 178 });
/// let table: Table = toml::from_str("image_size = 64")?;
/// assert_eq!(table.image_size, ImageSize { height: 64, width: 64 });
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSize {
    /// H.
    pub height: u32,
    /// W.
    pub width: u32,
}

impl JsonSchema for ImageSize {
    fn schema_name() -> Cow<'static, str> {
        "ImageSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let side = json!({"type": "integer", "minimum": 1, "maximum": MAX_SIDE});
        let sides = json!({"type": "array", "items": side, "minItems": 2, "maxItems": 2});
        json_schema!({"anyOf": [side, sides]})
    }
}

impl Serialize for ImageSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.height == self.width {
            self.height.serialize(serializer)
        } else {
            [self.height, self.width].serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for ImageSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ImageSize, D::Error> {
        struct SizeVisitor;

        impl<'de> Visitor<'de> for SizeVisitor {
            type Value = ImageSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of pixels, as in 64, or [height, width]")
            }

            fn visit_i64<E: de::Error>(self, side: i64) -> Result<ImageSize, E> {
                let side = u32::try_from(side)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(side), &self))?;
                Ok(ImageSize {
                    height: side,
                    width: side,
                })
            }

            fn visit_u64<E: de::Error>(self, side: u64) -> Result<ImageSize, E> {
                i64::try_from(side)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(side), &self))
                    .and_then(|side| self.visit_i64(side))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sides: A) -> Result<ImageSize, A::Error> {
                let mut side = |n| {
                    sides
                        .next_element::<u32>()?
                        .ok_or_else(|| de::Error::invalid_length(n, &self))
                };
                let size = ImageSize {
                    height: side(0)?,
                    width: side(1)?,
                };
                match sides.next_element::<u32>()? {
                    None => Ok(size),
                    Some(_) => Err(de::Error::invalid_length(3, &self)),
                }
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

/// The transform of every image: crop, then antialiased resize, then optionally gray.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Transform {
    pub(crate) crop: Crop,
    pub(crate) size: ImageSize,
    pub(crate) grayscale: bool,
}

/// The part of an image that is used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Crop {
    /// The largest centered rectangle with the proportions of the resized images, with its sides multiplied by this
    /// number.
    Fraction(f64),
    /// The same rectangle in every image.
    Rect(CropRect),
}

impl Transform {
    pub(crate) fn shape(&self) -> ImageShape {
        ImageShape {
            channels: if self.grayscale { 1 } else { 3 },
            height: self.size.height.into(),
            width: self.size.width.into(),
        }
    }

    pub(crate) fn n_bytes(&self) -> usize {
        let n_pixels = self.size.height as usize * self.size.width as usize;
        if self.grayscale {
            n_pixels
        } else {
            3 * n_pixels
        }
    }

    pub(crate) fn check(&self) -> Result<(), DataError> {
        let wrong = |key, problem| Err(DataError::Config { key, problem });
        match self.crop {
            Crop::Fraction(fraction) if !(fraction > 0.0 && fraction <= 1.0) => {
                let problem = format!("found {fraction}, expected a number above 0, at most 1");
                return wrong("dataset.image_folder.crop_fraction", problem);
            }
            Crop::Rect(CropRect { height, width, .. }) if height == 0 || width == 0 => {
                let problem = format!("found {height}×{width} pixels, expected at least 1×1");
                return wrong("dataset.image_folder.crop", problem);
            }
            _ => {}
        }
        let ImageSize { height, width } = self.size;
        if [height, width]
            .iter()
            .any(|side| !(1..=MAX_SIDE).contains(side))
        {
            let problem = format!("found {height}×{width}, expected sides from 1 to {MAX_SIDE}");
            return wrong("dataset.image_folder.image_size", problem);
        }
        Ok(())
    }

    /// The part of an image of this size that is used.
    ///
    /// The fraction's rectangle is rounded to whole pixels; of an odd number of pixels around it the extra one is
    /// below and on the right.
    /// one more below and on the right.
    pub(crate) fn cut(&self, height: u32, width: u32) -> Result<CropRect, String> {
        let rect = match self.crop {
            Crop::Rect(rect) => rect,
            Crop::Fraction(fraction) => {
                let (goal_height, goal_width) =
                    (f64::from(self.size.height), f64::from(self.size.width));
                let scale = (f64::from(height) / goal_height).min(f64::from(width) / goal_width);
                // Clamped, because rounding could give no pixels or too many.
                let side =
                    |goal: f64, all: u32| ((fraction * scale * goal).round() as u32).clamp(1, all);
                let (cut_height, cut_width) = (side(goal_height, height), side(goal_width, width));
                CropRect {
                    top: (height - cut_height) / 2,
                    left: (width - cut_width) / 2,
                    height: cut_height,
                    width: cut_width,
                }
            }
        };
        let fits =
            |start: u32, side: u32, all: u32| u64::from(start) + u64::from(side) <= all.into();
        if !(fits(rect.top, rect.height, height) && fits(rect.left, rect.width, width)) {
            return Err(format!(
                "has {width}×{height} pixels, too few for the crop (top {}, left {}, height {}, width {})",
                rect.top, rect.left, rect.height, rect.width
            ));
        }
        if u64::from(rect.height) * u64::from(MAX_ENLARGEMENT) < self.size.height.into()
            || u64::from(rect.width) * u64::from(MAX_ENLARGEMENT) < self.size.width.into()
        {
            return Err(format!(
                "is too small: {}×{} pixels after the crop would be enlarged more than \
                 {MAX_ENLARGEMENT} times to {}×{}",
                rect.width, rect.height, self.size.width, self.size.height
            ));
        }
        Ok(rect)
    }
}

/// Applies a [`Transform`], with reused buffers.
#[derive(Debug)]
pub(crate) struct Transformer {
    transform: Transform,
    resizer: Resizer,
    /// The resized image, RGB pixel after pixel.
    resized: Vec<u8>,
}

impl Transformer {
    pub(crate) fn new(transform: Transform) -> Transformer {
        let n_pixels = transform.size.height as usize * transform.size.width as usize;
        Transformer {
            transform,
            resizer: Resizer::new(),
            resized: vec![0; 3 * n_pixels],
        }
    }

    /// Writes the transformed image to `out`, [C, H, W] bytes.
    pub(crate) fn apply(&mut self, image: Rgb<'_>, out: &mut [u8]) -> Result<(), String> {
        let cut = self.transform.cut(image.height, image.width)?;
        let ImageSize { height, width } = self.transform.size;
        let cannot = |error: &dyn fmt::Display| format!("cannot be resized: {error}");
        // Typed, because supporting the other pixel types would add a minute to each compilation.
        let from = TypedImageRef::<U8x3>::from_buffer(image.width, image.height, image.pixels)
            .map_err(|error| cannot(&error))?;
        // A view instead of `ResizeOptions::crop`, whose filter reads pixels beyond the crop's edges.
        let from = TypedCroppedImage::from_ref(&from, cut.left, cut.top, cut.width, cut.height)
            .map_err(|error| cannot(&error))?;
        let mut to = TypedImage::<U8x3>::from_buffer(width, height, &mut self.resized)
            .map_err(|error| cannot(&error))?;
        // The triangle filter, scaled to the reduction: antialiased, and the same as Pillow's and torchvision's
        // bilinear filter.
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        self.resizer
            .resize_typed(&from, &mut to, &options)
            .map_err(|error| cannot(&error))?;

        let pixels = self.resized.as_chunks::<3>().0;
        if self.transform.grayscale {
            for (to, &rgb) in out.iter_mut().zip(pixels) {
                *to = luma(rgb);
            }
        } else {
            let (red, rest) = out.split_at_mut(pixels.len());
            let (green, blue) = rest.split_at_mut(pixels.len());
            for (i, &[r, g, b]) in pixels.iter().enumerate() {
                (red[i], green[i], blue[i]) = (r, g, b);
            }
        }
        Ok(())
    }
}

/// Brightness by ITU-R BT.601, as in JPEG and Pillow: 0.299 red + 0.587 green + 0.114 blue, rounded.
fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue);
    ((sum + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transform(crop: Crop, height: u32, width: u32) -> Transform {
        Transform {
            crop,
            size: ImageSize { height, width },
            grayscale: false,
        }
    }

    fn cut(transform: &Transform, height: u32, width: u32) -> [u32; 4] {
        let rect = transform.cut(height, width).unwrap();
        [rect.top, rect.left, rect.height, rect.width]
    }

    #[test]
    fn the_cut_is_the_largest_centered_one_times_the_fraction() {
        let whole = transform(Crop::Fraction(1.0), 64, 64);
        assert_eq!(cut(&whole, 218, 178), [20, 0, 178, 178]);
        assert_eq!(cut(&whole, 30, 31), [0, 0, 30, 30]);
        // CelebA's usual crop, 148 of 178 pixels.
        let faces = transform(Crop::Fraction(148.0 / 178.0), 64, 64);
        assert_eq!(cut(&faces, 218, 178), [35, 15, 148, 148]);
        assert_eq!(cut(&faces, 109, 89), [17, 7, 74, 74]);
        // In the target's proportions: 3 : 2 in 100×100 is 100×67.
        let tall = transform(Crop::Fraction(1.0), 90, 60);
        assert_eq!(cut(&tall, 100, 100), [0, 16, 100, 67]);
        assert_eq!(cut(&tall, 90, 60), [0, 0, 90, 60]);
    }

    #[test]
    fn what_is_too_small_is_refused() {
        let whole = transform(Crop::Fraction(1.0), 64, 64);
        assert_eq!(
            whole.cut(1, 1).unwrap_err(),
            "is too small: 1×1 pixels after the crop would be enlarged more than 4 times to 64×64"
        );
        assert!(whole.cut(16, 16).is_ok());
        assert!(whole.cut(16, 15).is_err());
        let rect = CropRect {
            top: 20,
            left: 15,
            height: 60,
            width: 60,
        };
        let fixed = transform(Crop::Rect(rect), 64, 64);
        assert_eq!(cut(&fixed, 80, 75), [20, 15, 60, 60]);
        assert_eq!(
            fixed.cut(79, 75).unwrap_err(),
            "has 75×79 pixels, too few for the crop (top 20, left 15, height 60, width 60)"
        );
    }

    #[test]
    fn channels_come_one_after_the_other_and_gray_is_their_luma() {
        let pixels = [10, 20, 30, 255, 0, 0, 0, 255, 0, 0, 0, 255];
        let image = Rgb {
            width: 2,
            height: 2,
            pixels: &pixels,
        };
        let mut color = transform(Crop::Fraction(1.0), 2, 2);
        let mut out = [0; 12];
        Transformer::new(color.clone())
            .apply(image, &mut out)
            .unwrap();
        assert_eq!(out, [10, 255, 0, 0, 20, 0, 255, 0, 30, 0, 0, 255]);
        color.grayscale = true;
        let mut out = [0; 4];
        Transformer::new(color).apply(image, &mut out).unwrap();
        // 2.99 + 11.74 + 3.42 = 18.15; 76.2; 149.7; 29.07.
        assert_eq!(out, [18, 76, 150, 29]);
    }

    #[test]
    fn halving_averages() {
        // The triangle of support 2 around the middle of 4 equal columns: any weights sum to 1.
        let pixels: Vec<u8> = (0..16)
            .flat_map(|i| [if i < 8 { 40 } else { 200 }; 3])
            .collect();
        let image = Rgb {
            width: 4,
            height: 4,
            pixels: &pixels,
        };
        let mut out = [0; 12];
        Transformer::new(transform(Crop::Fraction(1.0), 2, 2))
            .apply(image, &mut out)
            .unwrap();
        // Weights of rows 0 to 3 in the first output row: 3/4, 3/4, 1/4, 0, over their sum 7/4 — and
        // (6 · 40 + 200) / 7 = 62.9, mirrored (6 · 200 + 40) / 7 = 177.1.
        assert_eq!(out[..4], [63, 63, 177, 177]);
    }
}
