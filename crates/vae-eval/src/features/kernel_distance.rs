//! The kernel distance of two sets of features.

use tch::{Kind, Tensor};
use vae_data::derive_seed;
use vae_data::loader::shuffled_order;

use super::{check_pair, on_cpu};
use crate::EvalError;

/// The kernel distance as it is usually reported: over many subsets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelDistance {
    /// The mean distance over the subsets.
    pub mean: f64,
    /// The standard deviation over the subsets.
    pub deviation: f64,
    /// The number of images of each set in a subset.
    pub subset_size: usize,
    /// The number of subsets.
    pub n_subsets: usize,
}

/// The number of subsets and of images in each, if there are enough, as in the authors' program.
const N_SUBSETS: usize = 100;
const SUBSET_SIZE: usize = 1000;

/// The squared kernel distance of two sets of features (Bińkowski et al. 2018,
/// <https://arxiv.org/abs/1801.01401>, §4), called KID if the features are Inception's: an unbiased estimate of the
/// squared maximum mean discrepancy with the kernel (xᵀy/D + 1)³. It may be negative.
///
/// # Errors
/// Features of different D; a set of fewer than two images.
pub fn kernel_distance(a: &Tensor, b: &Tensor) -> Result<f64, EvalError> {
    check_pair(a, b)?;
    let (a, b) = (on_cpu(a), on_cpu(b));
    let (n_a, n_b) = (a.size()[0], b.size()[0]);
    if n_a.min(n_b) < 2 {
        return Err(EvalError::Unmeasurable(format!(
            "{n_a} and {n_b} images, at least 2 of both are needed"
        )));
    }
    let dims = a.size()[1] as f64;
    let kernel = |x: &Tensor, y: &Tensor| {
        let products = x.matmul(&y.transpose(0, 1));
        (products / dims + 1.0).pow_tensor_scalar(3.0)
    };
    // Without pairs of an image with itself.
    let within = |x: &Tensor, n: i64| {
        let values = kernel(x, x);
        (values.sum(Kind::Double) - values.trace()) / (n * (n - 1)) as f64
    };
    let between = kernel(&a, &b).mean(Kind::Double);
    Ok(f64::try_from(
        within(&a, n_a) + within(&b, n_b) - between * 2.0,
    )?)
}

/// The mean of [`kernel_distance`] over 100 subsets of 1000 images of both sets, or of half the smaller set if that is
/// less, since subsets have to differ. The subsets depend on `seed`.
///
/// # Errors
/// Features of different D; a set of fewer than four images.
pub fn kernel_distance_of_subsets(
    a: &Tensor,
    b: &Tensor,
    seed: u64,
) -> Result<KernelDistance, EvalError> {
    check_pair(a, b)?;
    let sizes = [a, b].map(|set| set.size()[0] as usize);
    let subset_size = SUBSET_SIZE.min(sizes[0].min(sizes[1]) / 2);
    let subset = |set: &Tensor, purpose: &str, number: usize| {
        let seed = derive_seed(seed, 0, purpose);
        let order = shuffled_order(set.size()[0] as usize, seed, number as u64);
        set.index_select(0, &Tensor::from_slice(&order[..subset_size]))
    };
    let mut distances = Vec::with_capacity(N_SUBSETS);
    for number in 0..N_SUBSETS {
        let of_a = subset(a, "kernel distance, first set", number);
        let of_b = subset(b, "kernel distance, second set", number);
        distances.push(kernel_distance(&of_a, &of_b)?);
    }
    let n = distances.len() as f64;
    let mean = distances.iter().sum::<f64>() / n;
    let squares: f64 = distances.iter().map(|d| (d - mean).powi(2)).sum();
    Ok(KernelDistance {
        mean,
        deviation: (squares / n).sqrt(),
        subset_size,
        n_subsets: distances.len(),
    })
}
