//! Principal components.

use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use crate::ViewError;

/// Latents of more dimensions are wide: a decomposition of their covariance takes the cube of these, and is done without.
pub const WIDE: i64 = 1024;

/// The most axes that are approximated.
const MOST_APPROXIMATE: i64 = 256;

/// Axes that are sought beside those wanted, for accuracy.
const EXTRA: i64 = 16;

/// Eigenvalues below this share of the largest are rounding.
const NO_VARIANCE: f64 = 1e-12;

/// The orthonormal axes `[Z, k]` along which centered latents f64 `[N, Z]` vary most, and their variances `[k]`, the largest first.
/// k is `most`, or fewer: of maps of latents, with more than [`WIDE`] dimensions, there are only as many as have variance, and
/// with as many latents too at most [`MOST_APPROXIMATE`], which are approximated by subspace iteration from random axes
/// (Halko et al. 2011, <https://arxiv.org/abs/0909.4061>, algorithm 4.4).
pub(super) fn principal_axes(centered: &Tensor, most: i64) -> Result<(Tensor, Tensor), ViewError> {
    let (n, dims) = centered.size2()?;
    if dims <= WIDE {
        let covariance = centered.transpose(0, 1).matmul(centered) / n as f64; // [Z, Z]
        let (vectors, variances, _) = covariance.f_svd(true, true)?;
        let k = most.min(dims);
        return Ok((vectors.narrow(1, 0, k), variances.narrow(0, 0, k)));
    }
    let base = match n <= WIDE {
        true => Tensor::f_linalg_qr(&centered.transpose(0, 1), "reduced")?.0, // [Z, N]
        false => {
            let k = most.min(MOST_APPROXIMATE);
            let start = Generator::cpu(0).normal([dims, k + EXTRA], Device::Cpu);
            let mut base = start.to_kind(Kind::Double);
            // Few axes are looked at one by one, many only together.
            for _ in 0..if k <= 32 { 12 } else { 3 } {
                let stretched = centered.transpose(0, 1).matmul(&centered.matmul(&base));
                base = Tensor::f_linalg_qr(&stretched, "reduced")?.0;
            }
            base
        }
    };
    let inside = centered.matmul(&base); // [N, m]
    let covariance = inside.transpose(0, 1).matmul(&inside) / n as f64;
    let (variances, vectors) = covariance.f_linalg_eigh("L")?; // The smallest first.
    let (variances, vectors) = (variances.flip([0]), vectors.flip([1]));
    let has_some = variances.gt_tensor(&(variances.get(0) * NO_VARIANCE));
    let n_with_some = has_some.sum(Kind::Int64).int64_value(&[]);
    let k = most.min(n_with_some).max(1);
    let most = if n <= WIDE {
        k
    } else {
        k.min(MOST_APPROXIMATE)
    };
    let axes = base.matmul(&vectors.narrow(1, 0, most));
    Ok((axes, variances.narrow(0, 0, most)))
}

/// The directions in which latents vary most.
#[derive(Debug)]
pub struct Pca {
    /// Mean of the latents, `[Z]`.
    mean: Tensor,
    /// The orthonormal components `[k, Z]`, those of largest variance first; the largest entry of each is positive.
    components: Tensor,
    /// The share of the total variance along each component.
    pub explained: Vec<f64>,
    /// The standard deviation along each component.
    pub deviations: Vec<f64>,
}

impl Pca {
    /// The first `k` components (all, if there are fewer) of latents `[N, Z]`: singular vectors of their covariance. Of more than
    /// 1,024 latents of more than 1,024 dimensions they are approximated, and there are at most 256.
    ///
    /// # Errors
    /// No latents; libtorch refuses, as it does for NaN or infinite values.
    pub fn fit(latents: &Tensor, k: usize) -> Result<Self, ViewError> {
        let latents = latents.to_kind(Kind::Double);
        let n = latents.size2()?.0;
        if n == 0 {
            return Err(ViewError::Plot(
                "no latents to compute principal components of".to_owned(),
            ));
        }
        let mean = latents.mean_dim(0, false, Kind::Double);
        let centered = latents - &mean;
        let (vectors, variances) = principal_axes(&centered, k as i64)?;
        let components = vectors.transpose(0, 1); // [k, Z]
        let largest = components.abs().argmax(1, true);
        let components = &components * components.gather(1, &largest, false).sign();
        let deviations = Vec::<f64>::try_from(variances.sqrt())?;
        let total = centered.square().sum(Kind::Double) / n as f64;
        let total = total.clamp_min(f64::MIN_POSITIVE);
        Ok(Self {
            mean,
            components,
            explained: Vec::<f64>::try_from(variances / total)?,
            deviations,
        })
    }

    /// The orthonormal components, f64 `[k, Z]`, those of largest variance first.
    pub fn components(&self) -> &Tensor {
        &self.components
    }

    /// Latents `[n, Z]` on the line through `origin` `[Z]` along a component, at these numbers of standard deviations from the
    /// mean of the latents. In all other directions they are the origin.
    ///
    /// # Panics
    /// If there is no such component.
    pub fn line(&self, origin: &Tensor, component: usize, deviations: &[f64]) -> Tensor {
        let direction = self.components.get(component as i64); // [Z]
        let origin = origin.to_kind(Kind::Double);
        let along = (&origin - &self.mean).dot(&direction);
        let at_mean = origin - along * &direction;
        let steps = Tensor::from_slice(deviations) * self.deviations[component];
        at_mean.unsqueeze(0) + steps.unsqueeze(1) * direction.unsqueeze(0)
    }

    /// Coordinates along the components, `[N, k]`.
    pub fn project(&self, latents: &Tensor) -> Tensor {
        (latents.to_kind(Kind::Double) - &self.mean).matmul(&self.components.transpose(0, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_and_shares_of_a_known_covariance_are_found() {
        // The points ±3·(0.6, 0.8, 0) and ±1·(0, 0, 1): variances 4.5 and 0.5 of 5.
        let points = [
            [1.8, 2.4, 0.0],
            [-1.8, -2.4, 0.0],
            [0.0, 0.0, 1.0],
            [0.0, 0.0, -1.0],
        ];
        let shift = Tensor::from_slice(&[5.0, -2.0, 1.0]);
        let latents = Tensor::from_slice2(&points) + shift;
        let pca = Pca::fit(&latents, 2).expect("axes");
        let wanted = Tensor::from_slice2(&[[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]);
        assert!((&pca.components - wanted).abs().max().double_value(&[]) < 1e-9);
        assert!((pca.explained[0] - 0.9).abs() < 1e-9 && (pca.explained[1] - 0.1).abs() < 1e-9);
        let wanted = Tensor::from_slice2(&[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]);
        let error = (pca.project(&latents) - wanted).abs().max();
        assert!(error.double_value(&[]) < 1e-9);
        // Of variance 4.5, from the mean (5, −2, 1); the third coordinate stays that of the origin.
        let origin = Tensor::from_slice(&[5.0 + 1.2, -2.0 + 1.6, 3.0]);
        let line = pca.line(&origin, 0, &[-2.0, 0.0]);
        let step = -2.0 * 4.5_f64.sqrt();
        let wanted = [[5.0 + 0.6 * step, -2.0 + 0.8 * step, 3.0], [5.0, -2.0, 3.0]];
        let error = (line - Tensor::from_slice2(&wanted)).abs().max();
        assert!(error.double_value(&[]) < 1e-9);
        assert_eq!(
            Pca::fit(&latents.narrow(1, 0, 1), 2)
                .unwrap()
                .components
                .size(),
            [1, 1]
        );
    }

    #[test]
    fn axes_of_wide_latents_are_those_of_the_whole_decomposition() {
        // Variances 9, 4, 1, … along known axes of 1,200 dimensions, and a little noise.
        let mut noise = Generator::cpu(3);
        let dims = 1200;
        let axes = noise.normal([dims, 4], Device::Cpu).to_kind(Kind::Double);
        let axes = Tensor::linalg_qr(&axes, "reduced").0;
        let deviations = Tensor::from_slice(&[9.0, 6.0, 3.0, 1.0]);
        for n in [100, 1500] {
            let along = noise.normal([n, 4], Device::Cpu).to_kind(Kind::Double) * &deviations;
            let rest = noise.normal([n, dims], Device::Cpu).to_kind(Kind::Double) * 0.01;
            let latents = along.matmul(&axes.transpose(0, 1)) + rest + 2.0;
            let centered = &latents - latents.mean_dim(0, false, Kind::Double);
            let (_, singular, wanted) = centered.svd(true, true);
            let pca = Pca::fit(&latents, 3).expect("axes");
            let cosines = pca.components.matmul(&wanted.narrow(1, 0, 3)).abs();
            let off = (cosines - Tensor::eye(3, (Kind::Double, Device::Cpu)))
                .abs()
                .max();
            assert!(off.double_value(&[]) < 1e-6, "{n}: {off:?}");
            let total = singular.square().sum(Kind::Double).double_value(&[]);
            for (i, &deviation) in pca.deviations.iter().enumerate() {
                let wanted = singular.double_value(&[i as i64]) / (n as f64).sqrt();
                assert!((deviation / wanted - 1.0).abs() < 1e-9, "{n}: {deviation}");
                let share = wanted * wanted * n as f64 / total;
                assert!((pca.explained[i] / share - 1.0).abs() < 1e-9, "{n}");
            }
        }
    }

    #[test]
    fn wide_latents_have_no_more_axes_than_vary() {
        let latents = Generator::cpu(4).normal([3, 2000], Device::Cpu);
        let pca = Pca::fit(&latents, 8).expect("axes");
        assert_eq!(pca.components.size(), [2, 2000]);
        let pca = Pca::fit(&latents.zeros_like(), 2).expect("axes");
        assert_eq!(pca.deviations, [0.0]);
    }
}
