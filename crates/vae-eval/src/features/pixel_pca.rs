//! Features without a network: principal components of pixels.

use tch::{Device, Kind, Tensor};
use vae_data::Dataset;
use vae_data::loader::Batches;
use vae_view::latent::Pca;

use super::{FeatureExtractor, on_cpu};
use crate::{EvalError, Extractor};

/// The number of principal components.
const N_COMPONENTS: usize = 64;

/// The number of values per image with which fitting takes about a second.
const MAX_NUMBERS: i64 = 1024;

/// The number of images that are fitted.
const MAX_IMAGES: usize = 10_000;

/// The first 64 principal components of the pixels of real images, not whitened. They measure blur and colors, not the
/// content of an image.
#[derive(Debug)]
pub struct PixelPca {
    pca: Pca,
    /// The side in pixels of the squares that are averaged.
    pooled: i64,
    n_images: usize,
    n_components: usize,
}

impl PixelPca {
    /// Fits the components to a data set's first 10,000 images. If an image has more than 1024 values, squares of pixels are
    /// averaged.
    ///
    /// # Errors
    /// Fewer than two images; an image that can no longer be read.
    pub fn fit(images: &Dataset, batch_size: usize) -> Result<Self, EvalError> {
        let shape = images.shape();
        let n_numbers = |pooled: i64| {
            let side = |side: i64| (side + pooled - 1) / pooled;
            shape.channels * side(shape.height) * side(shape.width)
        };
        let longest = shape.height.max(shape.width);
        let pooled = (1..longest)
            .find(|&pooled| n_numbers(pooled) <= MAX_NUMBERS)
            .unwrap_or(longest);
        let n_images = images.len().min(MAX_IMAGES);
        if n_images < 2 {
            return Err(EvalError::Unmeasurable(format!(
                "{n_images} images do not differ, at least 2 are needed"
            )));
        }
        let mut numbers = Vec::new();
        for batch in Batches::sequential(images, batch_size, Device::Cpu) {
            numbers.push(flat(&(batch?.items.to_kind(Kind::Float) / 255.0), pooled)?);
            if numbers.len() * batch_size >= n_images {
                break;
            }
        }
        let numbers = Tensor::f_cat(&numbers, 0)?.narrow(0, 0, n_images as i64);
        let pca = Pca::fit(&numbers, N_COMPONENTS)?;
        Ok(Self {
            n_components: pca.explained.len(),
            pca,
            pooled,
            n_images,
        })
    }
}

impl FeatureExtractor for PixelPca {
    fn name(&self) -> &str {
        "pixel_pca"
    }

    fn about(&self) -> Extractor {
        Extractor::PixelPca {
            n_components: self.n_components,
            pooled: self.pooled,
            n_images: self.n_images,
        }
    }

    fn features(&self, images: &Tensor) -> Result<Tensor, EvalError> {
        Ok(self.pca.project(&flat(images, self.pooled)?))
    }
}

/// Images `[N, C, H, W]` as rows of values, f32 `[N, C·H'·W']`.
fn flat(images: &Tensor, pooled: i64) -> Result<Tensor, EvalError> {
    let sides = [pooled, pooled];
    let images = images.f_avg_pool2d(sides, sides, [0, 0], true, false, None)?;
    Ok(on_cpu(&images).flatten(1, -1).to_kind(Kind::Float))
}
