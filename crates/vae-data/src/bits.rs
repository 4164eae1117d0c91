//! Black-and-white images stored as one bit per pixel.

use std::sync::Arc;

use crate::stored::{ImageStore, StoreReader};
use crate::{BadFile, DataError, ImageShape};

/// N images `[C, H, W]` of the pixel values 0 and 255.
#[derive(Debug)]
pub(crate) struct BitImages {
    shape: ImageShape,
    /// Bytes of one image.
    n_bytes: usize,
    /// Image after image; the lowest bit of each byte is the first pixel.
    bits: Vec<u8>,
}

impl BitImages {
    pub(crate) fn black(shape: ImageShape, n_images: usize) -> BitImages {
        let n_pixels = (shape.channels * shape.height * shape.width) as usize;
        let n_bytes = n_pixels.div_ceil(8);
        BitImages {
            shape,
            n_bytes,
            bits: vec![0; n_images * n_bytes],
        }
    }

    /// Stores the pixels of image `i`, which must be black before: pixels other than 0 become white.
    pub(crate) fn set(&mut self, i: usize, pixels: &[u8]) {
        let bytes = self.bits[i * self.n_bytes..].iter_mut();
        for (byte, pixels) in bytes.zip(pixels.chunks(8)) {
            for (bit, &pixel) in pixels.iter().enumerate() {
                *byte |= u8::from(pixel != 0) << bit;
            }
        }
    }

    /// Writes image `i` [C, H, W] to `out`.
    pub(crate) fn read(&self, i: usize, out: &mut [u8]) {
        let bytes = &self.bits[i * self.n_bytes..];
        for (pixels, byte) in out.chunks_mut(8).zip(bytes) {
            for (bit, pixel) in pixels.iter_mut().enumerate() {
                *pixel = (byte >> bit & 1) * 255;
            }
        }
    }
}

impl ImageStore for BitImages {
    fn names(&self) -> &[String] {
        &[]
    }

    fn bad(&self) -> &[BadFile] {
        &[]
    }

    fn shape(&self) -> ImageShape {
        self.shape
    }

    fn n_workers(&self) -> usize {
        1 // One thread already reads faster than any model trains.
    }

    fn reader(self: Arc<Self>) -> Box<dyn StoreReader> {
        Box::new(self)
    }
}

impl StoreReader for Arc<BitImages> {
    fn read(&mut self, id: usize, out: &mut [u8]) -> Result<(), DataError> {
        BitImages::read(self, id, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_come_back() {
        let shape = ImageShape {
            channels: 1,
            height: 3,
            width: 7,
        };
        // 21 pixels do not fill whole bytes.
        let pixels =
            |i: usize| -> Vec<u8> { (0..21).map(|p| u8::from((p * p + i) % 5 < 2)).collect() };
        let mut images = BitImages::black(shape, 4);
        for i in [2, 0, 3] {
            images.set(i, &pixels(i));
        }
        let read = |i| {
            let mut out = vec![7; 21];
            images.read(i, &mut out);
            out
        };
        for i in [0, 2, 3] {
            let wanted: Vec<u8> = pixels(i).iter().map(|pixel| pixel * 255).collect();
            assert_eq!(read(i), wanted, "{i}");
        }
        assert_eq!(read(1), [0; 21]);
    }
}
