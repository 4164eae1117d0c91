//! Decodes a file's bytes to upright RGB pixels.

use std::cell::Cell;
use std::io::Cursor;
use std::panic::{self, AssertUnwindSafe};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use super::exif;
use super::formats::{read_format, unread_format};
use super::jpeg::Jpeg;

/// The largest number of bytes of a decoded pixel: four channels of 16 bits.
pub(crate) const MAX_BYTES_PER_PIXEL: u64 = 8;

/// Allowance for bytes other than pixels: headers, profiles, thumbnails.
pub(crate) const MAX_BYTES_BESIDE: u64 = 1 << 24;

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in an image decoder. Its panics are caught and make the file a bad one, so a panic hook
/// need not report them.
#[must_use]
pub fn is_decoding() -> bool {
    DECODING.get()
}

/// Width and height of the pixels as they are stored, from the header alone; `None` if it cannot be read.
pub(crate) fn stored_size(file: &[u8]) -> Option<(u32, u32)> {
    DECODING.set(true);
    let size = panic::catch_unwind(|| match read_format(file) {
        _ if is_jpeg(file) => Jpeg::open(file).ok().map(|jpeg| jpeg.size()),
        Some(format) => ImageReader::with_format(Cursor::new(file), format)
            .into_dimensions()
            .ok(),
        None => None,
    });
    DECODING.set(false);
    size.ok().flatten()
}

/// Decodes images into a reused buffer.
#[derive(Debug)]
pub(crate) struct Decoder {
    max_pixels: u64,
    pixels: Vec<u8>,
}

/// An upright image: H·W·3 bytes, RGB pixel after pixel, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rgb<'a> {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) pixels: &'a [u8],
}

impl Decoder {
    /// Creates a decoder that refuses images of more than `max_pixels` before it allocates memory for them.
    pub(crate) fn new(max_pixels: u64) -> Decoder {
        Decoder {
            max_pixels,
            pixels: Vec::new(),
        }
    }

    /// Decodes JPEG, PNG, WebP or BMP, detected by content. Gray becomes three equal channels, 16 bits become 8,
    /// transparent pixels are blended with white, EXIF rotations are applied.
    pub(crate) fn decode(&mut self, file: &[u8]) -> Result<Rgb<'_>, String> {
        // A bug in a decoder must cost one file, not the run.
        DECODING.set(true);
        let decoded = panic::catch_unwind(AssertUnwindSafe(|| match read_format(file) {
            _ if is_jpeg(file) => self.decode_jpeg(file),
            Some(format) => self.decode_other(file, format),
            None => Err(decode_problem(file)),
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
        let jpeg = Jpeg::open(file)?;
        let (width, height) = jpeg.size();
        self.check_size(width.into(), height.into())?;
        let orientation = jpeg.orientation();
        jpeg.decode(&mut self.pixels)?;
        match orientation {
            None | Some(Orientation::NoTransforms) => Ok((width, height)),
            Some(orientation) => {
                let pixels = std::mem::take(&mut self.pixels);
                let image = RgbImage::from_raw(width, height, pixels)
                    .ok_or("is a broken JPEG: its size differs from that of its pixels")?;
                Ok(self.keep_upright(image.into(), orientation))
            }
        }
    }

    /// `format` is given explicitly: the formats that the `image` crate detects depend on the features that other
    /// crates of the program enable.
    fn decode_other(&mut self, file: &[u8], format: ImageFormat) -> Result<(u32, u32), String> {
        let broken = |error: ImageError| format!("is broken: {error}");
        let mut reader = ImageReader::with_format(Cursor::new(file), format);
        let mut limits = Limits::no_limits();
        // A decompressed profile counts, too.
        limits.max_alloc = Some(MAX_BYTES_BESIDE);
        reader.limits(limits.clone());
        let mut decoder = reader.into_decoder().map_err(broken)?;
        let (width, height) = decoder.dimensions();
        self.check_size(width.into(), height.into())?;
        let pixels = self.max_pixels.saturating_mul(MAX_BYTES_PER_PIXEL);
        limits.max_alloc = Some(pixels.saturating_add(MAX_BYTES_BESIDE));
        decoder.set_limits(limits).map_err(broken)?;
        // An image with unreadable EXIF data is still used.
        let exif = decoder.exif_metadata().ok().flatten();
        let orientation = exif.and_then(|exif| exif::orientation(&exif));
        let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
        if format == ImageFormat::Bmp && is_invisible(&image) {
            // Some programs leave an unused alpha channel at zero.
            image = image.into_rgb8().into();
        }
        Ok(self.keep_upright(image, orientation.unwrap_or(Orientation::NoTransforms)))
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

/// The reason why content of an unsupported format cannot be decoded.
fn decode_problem(file: &[u8]) -> String {
    match unread_format(file) {
        Some(format) => {
            format!("is in the format {format}, which is not read: convert it to JPEG or PNG")
        }
        None => "is not a readable JPEG, PNG, WebP or BMP".to_owned(),
    }
}

/// Whether there is an alpha channel and all of it is zero.
fn is_invisible(image: &DynamicImage) -> bool {
    match image.as_rgba8() {
        Some(image) => image.pixels().all(|pixel| pixel.0[3] == 0),
        None => false,
    }
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
    use image::{ImageBuffer, LumaA, Rgba};

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
    fn a_format_is_read_or_not_whatever_other_crates_read() {
        let gif =
            b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
        assert_eq!(
            Decoder::new(100).decode(gif).unwrap_err(),
            "is in the format GIF, which is not read: convert it to JPEG or PNG"
        );
        assert_eq!(
            Decoder::new(100).decode(b"P6 1 1 255 abc").unwrap_err(),
            "is not a readable JPEG, PNG, WebP or BMP"
        );
    }

    /// A bitmap of one row with a mask for each of blue, green, red and alpha.
    fn bmp(pixels: &[[u8; 4]]) -> Vec<u8> {
        const HEADERS: u32 = 14 + 108;
        let mut file = b"BM".to_vec();
        let n_bytes = HEADERS + 4 * pixels.len() as u32;
        for number in [n_bytes, 0, HEADERS, 108, pixels.len() as u32, 1] {
            file.extend(number.to_le_bytes());
        }
        // One plane, 32 bits, masks (3).
        file.extend([1, 0, 32, 0, 3, 0, 0, 0]);
        file.extend([0; 20]);
        for mask in [0x00ff_0000u32, 0x0000_ff00, 0x0000_00ff, 0xff00_0000] {
            file.extend(mask.to_le_bytes());
        }
        file.extend(b"BGRs");
        file.extend([0; 48]);
        file.extend(pixels.as_flattened());
        file
    }

    #[test]
    fn alpha_that_is_0_everywhere_is_no_alpha_in_a_bitmap() {
        let colors = [[30, 20, 10, 0], [60, 50, 40, 0]];
        assert_eq!(decoded(&bmp(&colors)), [10, 20, 30, 40, 50, 60]);
        let colors = [[30, 20, 10, 0], [60, 50, 40, 255]];
        assert_eq!(decoded(&bmp(&colors)), [255, 255, 255, 40, 50, 60]);
    }
}
