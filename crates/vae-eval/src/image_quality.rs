//! How much an image differs from another: mean squared error, PSNR, SSIM, MS-SSIM.
//!
//! Images are `[N, C, H, W]` in `[0, 1]`, compared one by one; everything is computed in f64.

use tch::{Kind, Tensor};

use crate::EvalError;

/// Sides of the Gaussian window, in pixels.
const WINDOW: i64 = 11;

/// Standard deviation of the window, in pixels.
const SIGMA: f64 = 1.5;

/// K₁² and K₂² of the paper, for values from 0 to 1.
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

/// Exponents of the five scales, the finest first, by people who looked at images (Wang et al. 2003, §3.2).
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

/// Peak signal-to-noise ratio in dB, f64 `[N]`: −10·log₁₀ of the mean squared error, infinite where the
/// images are the same.
///
/// # Errors
/// Images of different shapes.
pub fn peak_signal_to_noise_ratio(a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
    Ok(mean_squared_error(a, b)?.log10() * -10.0)
}

/// Structural similarity (Wang et al. 2004), f64 `[N]`, 1 for the same image: means over the channels and
/// over all places of an 11×11 Gaussian window of σ = 1.5 that lies wholly in the image.
///
/// # Errors
/// Images of different shapes, or smaller than the window.
pub fn structural_similarity(a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
    let [a, b] = pair(a, b)?;
    n_scales_of(&a)?;
    let Comparison { similarity, .. } = compare(&a, &b);
    Ok(similarity.mean_dim(1, false, Kind::Double))
}

/// Structural similarity at several scales (Wang et al. 2003), f64 `[N]`: the product of the contrast and
/// structure terms of each scale, and of the coarsest one's luminance term, to the powers of
/// [`scale_weights`], for each channel; then the mean of the channels. Each scale halves the image before
/// by means of 2×2 pixels; at odd sides the last ones are means of what is there, as in the authors'
/// program. A negative term counts as 0, since it has no power.
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

/// At how many scales MS-SSIM looks at images of these sides: as often as they can be halved with room for
/// the window, five times at most (from 161 pixels on), 0 where it has no room at all.
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

/// The exponents of so many scales, five at most, the finest first: the first of the paper's five, divided
/// by their sum where they are fewer. (The five have the sum 1.0001 in the paper, and are left alone.)
#[must_use]
pub fn scale_weights(n_scales: usize) -> Vec<f64> {
    let weights = &SCALE_WEIGHTS[..n_scales.min(SCALE_WEIGHTS.len())];
    let total = match weights.len() == SCALE_WEIGHTS.len() {
        true => 1.0,
        false => weights.iter().sum(),
    };
    weights.iter().map(|weight| weight / total).collect()
}

/// Both in f64, if they can be compared.
fn pair(a: &Tensor, b: &Tensor) -> Result<[Tensor; 2], EvalError> {
    let (found, wanted) = (a.size(), b.size());
    if found != wanted || found.len() != 4 {
        return Err(EvalError::Unmeasurable(format!(
            "images {found:?} and {wanted:?} cannot be compared: both have to be [N, C, H, W]"
        )));
    }
    Ok([a.to_kind(Kind::Double), b.to_kind(Kind::Double)])
}

/// [`n_scales`] of images `[N, C, H, W]`, 1 at least.
fn n_scales_of(images: &Tensor) -> Result<usize, EvalError> {
    let (_, _, height, width) = images.size4()?;
    match n_scales(height, width) {
        0 => Err(EvalError::Unmeasurable(format!(
            "images of {height}×{width} pixels have no room for its window of {WINDOW}×{WINDOW}"
        ))),
        n_scales => Ok(n_scales),
    }
}

/// Terms of the structural similarity, means over the window's places, `[N, C]`.
struct Comparison {
    /// Of luminance, contrast and structure.
    similarity: Tensor,
    contrast_and_structure: Tensor,
}

/// Of images f64 `[N, C, H, W]`, at one scale.
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

/// Means under the window at each of its places. It is a product of two, and a matrix for each side
/// is what libtorch multiplies fastest in f64.
fn windowed(images: &Tensor) -> Tensor {
    let sides = images.size();
    let [rows, columns] = [sides[2], sides[3]].map(|side| window_matrix(side, images));
    rows.matmul(images).matmul(&columns.transpose(0, 1))
}

/// The window at each of its places along a side, `[side − 10, side]`.
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

/// Means of 2×2 pixels, and of what there is of them at odd sides.
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
