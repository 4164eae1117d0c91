//! The Fréchet distance of two sets of features.

use tch::{Kind, Tensor};

use super::on_cpu;
use crate::EvalError;

/// Mean and covariance of a set of features.
#[derive(Debug)]
pub struct Moments {
    /// f64 `[D]`.
    mean: Tensor,
    /// f64 `[D, D]`, divided by n − 1.
    covariance: Tensor,
}

impl Moments {
    /// The moments of features `[N, D]`.
    ///
    /// # Errors
    /// Fewer than two images, which have no covariance.
    pub fn of(features: &Tensor) -> Result<Self, EvalError> {
        let (n, _) = features.size2()?;
        if n < 2 {
            return Err(EvalError::Unmeasurable(format!(
                "{n} images have no covariance, at least 2 are needed"
            )));
        }
        let features = on_cpu(features);
        let mean = features.mean_dim(0, false, Kind::Double);
        let centered = features - &mean;
        let covariance = centered.transpose(0, 1).matmul(&centered) / (n - 1) as f64;
        Ok(Self { mean, covariance })
    }

    /// The moments of a Gaussian: mean `[D]`, covariance `[D, D]`.
    ///
    /// # Errors
    /// Other shapes.
    pub fn new(mean: &Tensor, covariance: &Tensor) -> Result<Self, EvalError> {
        let (dims, sides) = (mean.size(), covariance.size());
        if dims.len() != 1 || sides != [dims[0], dims[0]] {
            return Err(EvalError::Unmeasurable(format!(
                "a mean {dims:?} with a covariance {sides:?}: [D] and [D, D] are needed"
            )));
        }
        Ok(Self {
            mean: on_cpu(mean),
            covariance: on_cpu(covariance),
        })
    }
}

/// The squared Fréchet distance of the Gaussians with these moments (Heusel et al. 2017,
/// <https://arxiv.org/abs/1706.08500>, eq. 6), |μ₁ − μ₂|² + Tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), called FID if the features are
/// Inception's. Covariances may be singular.
///
/// # Errors
/// Moments of different D; libtorch refuses, as it does for NaN or infinite values.
pub fn frechet_distance(a: &Moments, b: &Moments) -> Result<f64, EvalError> {
    let (found, wanted) = (a.mean.size(), b.mean.size());
    if found != wanted {
        return Err(EvalError::Unmeasurable(format!(
            "features {found:?} and {wanted:?} are of different extractors"
        )));
    }
    // The trace of (Σ₁Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½. Roots of the eigenvalues of a product would have half
    // of the digits.
    let product = root(&a.covariance)?.matmul(&root(&b.covariance)?.transpose(0, 1));
    let (_, singular_values, _) = product.f_svd(true, false)?;
    let trace_of_root = singular_values.sum(Kind::Double);
    let traces = a.covariance.trace() + b.covariance.trace();
    let means = (&a.mean - &b.mean).square().sum(Kind::Double);
    let distance = f64::try_from(means + traces - trace_of_root * 2.0)?;
    Ok(distance.max(0.0))
}

/// R with RᵀR the covariance.
fn root(covariance: &Tensor) -> Result<Tensor, EvalError> {
    let (variances, axes) = covariance.f_linalg_eigh("L")?;
    Ok((axes * non_negative(&variances).sqrt()).transpose(0, 1))
}

/// Eigenvalues, with those set to 0 that are 0 up to rounding, whose roots would not be small.
fn non_negative(eigenvalues: &Tensor) -> Tensor {
    let n = eigenvalues.numel() as f64;
    let tolerance = eigenvalues.abs().max() * (n * f64::EPSILON);
    eigenvalues.where_self(
        &eigenvalues.gt_tensor(&tolerance),
        &eigenvalues.zeros_like(),
    )
}
