//! Similarity of two images: mean squared error, PSNR, SSIM, MS-SSIM.
//!
//! Images are `[N, C, H, W]` in `[0, 1]` and compared in pairs; everything is computed in f64.

use tch::{Kind, Tensor};

use crate::EvalError;

/// Side of the Gaussian window in pixels.
const WINDOW: i64 = 11;

/// Standard deviation of the window, in pixels.
const SIGMA: f64 = 1.5;

/// K₁² and K₂² of the paper, for values from 0 to 1.
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

/// Exponents of the five scales, the finest first, from experiments with people (Wang et al. 2003, §3.2).
const SCALE_WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// Mean squared error over channels and pixels, f64 `[N]`.
///
/// # Errors
/// Images of different shapes.
pub fn mean_squared_error(a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
    let [a, b] = pair(a, b)?;
    Ok((a - b)
        .square()
        .mean_dim([1, 2, 3].as_slice(), false, Kind::Double))
}

/// Peak signal-to-noise ratio in dB, f64 `[N]`: −10·log₁₀ of the mean squared error, infinite for identical images.
///
/// # Errors
/// Images of different shapes.
pub fn peak_signal_to_noise_ratio(a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
    Ok(mean_squared_error(a, b)?.log10() * -10.0)
}

/// Structural similarity (Wang et al. 2004), f64 `[N]`, 1 for identical images: the mean over channels and over all
/// positions of an 11×11 Gaussian window of σ = 1.5 inside the image.
///
/// # Errors
/// Images of different shapes, or smaller than the window.
pub fn structural_similarity(a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
    let [a, b] = pair(a, b)?;
    n_scales_of(&a)?;
    let Comparison { similarity, .. } = compare(&a, &b);
    Ok(similarity.mean_dim(1, false, Kind::Double))
}

/// Multi-scale structural similarity (Wang et al. 2003), f64 `[N]`: for each channel the product of the contrast-structure
/// terms of all scales and the luminance term of the coarsest one, to the powers of [`scale_weights`]; then the mean over
/// channels. Each scale halves the image of the previous one by averaging 2×2 pixels. At odd sides the last average is over
/// the pixels that exist, as in the authors' program. Negative terms count as 0, since their powers are undefined.
///
/// # Errors
/// Images of different shapes, or smaller than the window.
pub fn multiscale_structural_similarity(a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
    let [mut a, mut b] = pair(a, b)?;
    let weights = scale_weights(n_scales_of(&a)?);
    let mut product = Tensor::from(1.0);
    for (scale, &weight) in weights.iter().enumerate() {
        if scale > 0 {
            (a, b) = (halved(&a)?, halved(&b)?);
        }
        let terms = compare(&a, &b);
        let term = match scale + 1 == weights.len() {
            true => terms.similarity,
            false => terms.contrast_and_structure,
        };
        product = term.clamp_min(0.0).pow_tensor_scalar(weight) * product; // [N, C]
    }
    Ok(product.mean_dim(1, false, Kind::Double))
}

/// The number of scales of MS-SSIM for images with these sides: as often as they can be halved with room for the window,
/// at most five (from 161 pixels on), 0 if the window does not fit.
#[must_use]
pub fn n_scales(height: i64, width: i64) -> usize {
    let mut side = height.min(width);
    let mut n_scales = 0;
    while side >= WINDOW && n_scales < SCALE_WEIGHTS.len() {
        n_scales += 1;
        side = (side + 1) / 2;
    }
    n_scales
}

/// The exponents of this many scales (at most five), the finest first: the first of the paper's five, normalized if they are
/// fewer. (In the paper the five have the sum 1.0001, which is kept.)
#[must_use]
pub fn scale_weights(n_scales: usize) -> Vec<f64> {
    let weights = &SCALE_WEIGHTS[..n_scales.min(SCALE_WEIGHTS.len())];
    let total = match weights.len() == SCALE_WEIGHTS.len() {
        true => 1.0,
        false => weights.iter().sum(),
    };
    weights.iter().map(|weight| weight / total).collect()
}

/// Both in f64, if they are comparable.
fn pair(a: &Tensor, b: &Tensor) -> Result<[Tensor; 2], EvalError> {
    let (found, wanted) = (a.size(), b.size());
    if found != wanted || found.len() != 4 {
        return Err(EvalError::Unmeasurable(format!(
            "images {found:?} and {wanted:?} cannot be compared: both have to be [N, C, H, W]"
        )));
    }
    Ok([a.to_kind(Kind::Double), b.to_kind(Kind::Double)])
}

/// [`n_scales`] of images `[N, C, H, W]`, at least 1.
fn n_scales_of(images: &Tensor) -> Result<usize, EvalError> {
    let (_, _, height, width) = images.size4()?;
    match n_scales(height, width) {
        0 => Err(EvalError::Unmeasurable(format!(
            "images of {height}×{width} pixels are smaller than the window of {WINDOW}×{WINDOW}"
        ))),
        n_scales => Ok(n_scales),
    }
}

/// Terms of the structural similarity, averaged over the positions of the window, `[N, C]`.
struct Comparison {
    /// Luminance, contrast and structure.
    similarity: Tensor,
    contrast_and_structure: Tensor,
}

/// The terms of images f64 `[N, C, H, W]` at one scale.
fn compare(a: &Tensor, b: &Tensor) -> Comparison {
    let (mean_a, mean_b) = (windowed(a), windowed(b)); // [N, C, H − 10, W − 10]
    let (square_a, square_b, product) = (mean_a.square(), mean_b.square(), mean_a * mean_b);
    let variances = windowed(&a.square()) - &square_a + windowed(&b.square()) - &square_b;
    let covariance = windowed(&(a * b)) - &product;
    let contrast_and_structure = (covariance * 2.0 + C2) / (variances + C2);
    let luminance = (product * 2.0 + C1) / (square_a + square_b + C1);
    let mean = |map: Tensor| map.mean_dim([2, 3].as_slice(), false, Kind::Double);
    Comparison {
        similarity: mean(luminance * &contrast_and_structure),
        contrast_and_structure: mean(contrast_and_structure),
    }
}

/// Weighted means under the window at each position. The window is separable, and a matrix product per side is the fastest
/// way in f64.
fn windowed(images: &Tensor) -> Tensor {
    let sides = images.size();
    let [rows, columns] = [sides[2], sides[3]].map(|side| window_matrix(side, images));
    rows.matmul(images).matmul(&columns.transpose(0, 1))
}

/// The window at each position along a side, `[side − 10, side]`.
fn window_matrix(side: i64, like: &Tensor) -> Tensor {
    let centered = |i: i64| (i - WINDOW / 2) as f64 / SIGMA;
    let weights: Vec<f64> = (0..WINDOW)
        .map(|i| (-0.5 * centered(i).powi(2)).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let n_places = side - WINDOW + 1;
    let mut matrix = vec![0.0; (n_places * side) as usize];
    for (place, row) in matrix.chunks_exact_mut(side as usize).enumerate() {
        for (entry, weight) in row[place..].iter_mut().zip(&weights) {
            *entry = weight / total;
        }
    }
    Tensor::from_slice(&matrix)
        .view([n_places, side])
        .to_device(like.device())
}

/// Averages of 2×2 pixels, at odd sides of those that exist.
fn halved(images: &Tensor) -> Result<Tensor, EvalError> {
    Ok(images.f_avg_pool2d([2, 2], [2, 2], [0, 0], true, false, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_of_an_odd_side_is_its_own_mean() {
        let rows = [[1.0, 3.0, 10.0], [5.0, 7.0, 20.0], [2.0, 4.0, 30.0]];
        let images = Tensor::from_slice2(&rows).view([1, 1, 3, 3]);
        let found = Vec::<f64>::try_from(halved(&images).unwrap().view(-1)).unwrap();
        assert_eq!(found, [4.0, 15.0, 3.0, 30.0]);
    }
}
