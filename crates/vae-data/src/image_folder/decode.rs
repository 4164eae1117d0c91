//! From a file's bytes to upright RGB pixels.

use std::cell::Cell;
use std::io::Cursor;
use std::panic::{self, AssertUnwindSafe};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// More than any format's own largest side: `max_pixels` is the limit.
const LARGEST_SIDE: usize = 1 << 20;

/// The most bytes of a decoded pixel: four channels of 16 bits.
pub(crate) const MAX_BYTES_PER_PIXEL: u64 = 8;

/// Bytes beside the pixels: headers, profiles, thumbnails.
pub(crate) const MAX_BYTES_BESIDE: u64 = 1 << 24;

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in an image decoder, whose panics are caught and make a bad file: a panic
/// hook need not tell the user of them.
#[must_use]
pub fn is_decoding() -> bool {
    DECODING.get()
}

/// Decodes images into a buffer that is used again and again.
#[derive(Debug)]
pub(crate) struct Decoder {
    max_pixels: u64,
    pixels: Vec<u8>,
}

/// An upright image: H·W·3 bytes, red, green and blue of one pixel after the other, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rgb<'a> {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) pixels: &'a [u8],
}

impl Decoder {
    /// Refuses images of more than `max_pixels` before anything is allocated for them.
    pub(crate) fn new(max_pixels: u64) -> Decoder {
        Decoder {
            max_pixels,
            pixels: Vec::new(),
        }
    }

    /// Decodes JPEG, PNG, WebP or BMP: the content decides. Gray becomes three equal channels, 16
    /// bits become 8, transparency shows white behind it, EXIF rotations are applied.
    pub(crate) fn decode(&mut self, file: &[u8]) -> Result<Rgb<'_>, String> {
        // A decoder's own bug must cost a file, not the run.
        DECODING.set(true);
        let decoded = panic::catch_unwind(AssertUnwindSafe(|| match is_jpeg(file) {
            true => self.decode_jpeg(file),
            false => self.decode_other(file),
        }));
        DECODING.set(false);
        let (width, height) = decoded.unwrap_or_else(|_| Err("its decoder panicked".to_owned()))?;
        Ok(Rgb {
            width,
            height,
            pixels: &self.pixels,
        })
    }

    fn check_size(&self, width: u64, height: u64) -> Result<(), String> {
        match width.saturating_mul(height) {
            0 => Err("has no pixels".to_owned()),
            n if n > self.max_pixels => Err(format!(
                "has {width}×{height} pixels, expected at most {} in all (max_pixels)",
                self.max_pixels
            )),
            _ => Ok(()),
        }
    }

    fn decode_jpeg(&mut self, file: &[u8]) -> Result<(u32, u32), String> {
        if !has_end_of_image(file) {
            return Err("is a JPEG cut short: it has no end marker".to_owned());
        }
        let broken = |error: &dyn std::fmt::Display| {
            format!("is a broken JPEG: {}", error.to_string().trim())
        };
        let options = DecoderOptions::new_fast()
            .set_max_width(LARGEST_SIDE)
            .set_max_height(LARGEST_SIDE)
            // Else what is missing becomes gray without a word.
            .set_strict_mode(true)
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
        decoder.decode_headers().map_err(|error| broken(&error))?;
        let (width, height) = decoder.dimensions().ok_or("is a broken JPEG: no size")?;
        self.check_size(width as u64, height as u64)?;
        self.pixels.resize(3 * width * height, 0);
        decoder
            .decode_into(&mut self.pixels)
            .map_err(|error| broken(&error))?;
        let orientation = decoder
            .exif()
            .and_then(|exif| Orientation::from_exif_chunk(exif));
        // Below LARGEST_SIDE.
        let (width, height) = (width as u32, height as u32);
        match orientation {
            None | Some(Orientation::NoTransforms) => Ok((width, height)),
            Some(orientation) => {
                let pixels = std::mem::take(&mut self.pixels);
                let image = RgbImage::from_raw(width, height, pixels)
                    .ok_or("is a broken JPEG: its size is not that of its pixels")?;
                Ok(self.keep_upright(image.into(), orientation))
            }
        }
    }

    fn decode_other(&mut self, file: &[u8]) -> Result<(u32, u32), String> {
        let reason = |error: ImageError| match error {
            ImageError::Unsupported(_) => {
                "is no JPEG, PNG, WebP or BMP that can be read".to_owned()
            }
            error => format!("is broken: {error}"),
        };
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MAX_BYTES_PER_PIXEL * self.max_pixels + MAX_BYTES_BESIDE);
        let mut reader = ImageReader::new(Cursor::new(file))
            .with_guessed_format()
            .map_err(|error| format!("is broken: {error}"))?;
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(reason)?;
        let (width, height) = decoder.dimensions();
        self.check_size(width.into(), height.into())?;
        // An unreadable EXIF chunk is no reason to lose the image.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let image = DynamicImage::from_decoder(decoder).map_err(reason)?;
        Ok(self.keep_upright(image, orientation))
    }

    fn keep_upright(&mut self, mut image: DynamicImage, orientation: Orientation) -> (u32, u32) {
        image.apply_orientation(orientation);
        let image = match image.color().has_alpha() {
            true => over_white(&image),
            false => image.into_rgb8(),
        };
        let size = image.dimensions();
        self.pixels = image.into_raw();
        size
    }
}

fn is_jpeg(file: &[u8]) -> bool {
    file.starts_with(&[0xff, 0xd8])
}

/// Whether the image data that follows the headers has an end marker. A thumbnail in the headers has
/// its own, which does not count.
fn has_end_of_image(file: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let mut rest = &file[2.min(file.len())..];
    // Each segment: 0xff (any number of times), its marker, its length in two bytes.
    while let [0xff, marker, tail @ ..] = rest {
        match (*marker, tail) {
            (0xff, _) => rest = &rest[1..],
            (START_OF_SCAN, data) => return data.windows(2).rev().any(|pair| pair == END_OF_IMAGE),
            (_, [high, low, ..]) => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = tail.get(length..).unwrap_or_default();
            }
            _ => return false,
        }
    }
    // Bytes between the segments: the decoder has its own opinion of those.
    !rest.is_empty()
}

fn over_white(image: &DynamicImage) -> RgbImage {
    let image = image.to_rgba8();
    let mut opaque = RgbImage::new(image.width(), image.height());
    for (to, from) in opaque.pixels_mut().zip(image.pixels()) {
        let [red, green, blue, alpha] = from.0.map(u32::from);
        let blend = |value: u32| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        to.0 = [blend(red), blend(green), blend(blue)];
    }
    opaque
}

#[cfg(test)]
mod tests {
    use image::{ImageBuffer, ImageFormat, LumaA, Rgba};

    use super::*;

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn decoded(file: &[u8]) -> Vec<u8> {
        Decoder::new(100).decode(file).unwrap().pixels.to_vec()
    }

    #[test]
    fn every_pixel_format_becomes_8_bit_rgb() {
        let gray = image::GrayImage::from_raw(2, 1, vec![0, 77]).unwrap();
        assert_eq!(decoded(&png(gray)), [0, 0, 0, 77, 77, 77]);
        // 16 bits: v · 255 / 65535, rounded.
        let deep: ImageBuffer<image::Luma<u16>, Vec<u16>> =
            ImageBuffer::from_raw(3, 1, vec![0, 0x8080, u16::MAX]).unwrap();
        assert_eq!(decoded(&png(deep)), [0, 0, 0, 128, 128, 128, 255, 255, 255]);
        let transparent = ImageBuffer::from_raw(2, 1, vec![9, 8, 7, 0, 10, 20, 30, 255]);
        let transparent: ImageBuffer<Rgba<u8>, Vec<u8>> = transparent.unwrap();
        assert_eq!(decoded(&png(transparent)), [255, 255, 255, 10, 20, 30]);
        // Half of 51 over white: (51 · 128 + 255 · 127) / 255 = 152.6.
        let half: ImageBuffer<LumaA<u8>, Vec<u8>> =
            ImageBuffer::from_raw(1, 1, vec![51, 128]).unwrap();
        assert_eq!(decoded(&png(half)), [153, 153, 153]);
    }

    #[test]
    fn too_many_pixels_are_refused_before_they_are_decoded() {
        let file = png(RgbImage::new(11, 10));
        let mut decoder = Decoder::new(109);
        assert_eq!(
            decoder.decode(&file).unwrap_err(),
            "has 11×10 pixels, expected at most 109 in all (max_pixels)"
        );
        assert!(Decoder::new(110).decode(&file).is_ok());
    }

    #[test]
    fn the_end_marker_of_a_thumbnail_does_not_count() {
        let segment = |marker: u8, content: &[u8]| {
            let length = (content.len() as u16 + 2).to_be_bytes();
            [&[0xff, marker][..], &length, content].concat()
        };
        let thumbnail = segment(0xe1, b"Exif\0\0 \xff\xd8 \xff\xd9");
        let scan = segment(0xda, b"how");
        let whole = [&[0xff, 0xd8][..], &thumbnail, &scan, b"data \xff\xd9"].concat();
        assert!(has_end_of_image(&whole));
        assert!(has_end_of_image(&[&whole[..], b"\0\0padding"].concat()));
        for n_left in [
            whole.len() - 1,
            2 + thumbnail.len(),
            2 + thumbnail.len() / 2,
            2,
        ] {
            assert!(!has_end_of_image(&whole[..n_left]), "{n_left} bytes");
        }
    }
}
