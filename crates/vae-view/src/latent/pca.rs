//! Principal components.

use tch::{Kind, Tensor};

use crate::ViewError;

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
    /// The first `k` components (all, if there are fewer dimensions) of latents `[N, Z]`: singular vectors of their
    /// covariance.
    ///
    /// # Errors
    /// No latents; libtorch refuses, as it does for NaN or infinite values.
    pub fn fit(latents: &Tensor, k: usize) -> Result<Self, ViewError> {
        let latents = latents.to_kind(Kind::Double);
        let (n, dims) = latents.size2()?;
        if n == 0 {
            return Err(ViewError::Plot(
                "no latents to compute principal components of".to_owned(),
            ));
        }
        let mean = latents.mean_dim(0, false, Kind::Double);
        let centered = latents - &mean;
        let covariance = centered.transpose(0, 1).matmul(&centered) / n as f64; // [Z, Z]
        let (vectors, variances, _) = covariance.f_svd(true, true)?;
        let k = (k as i64).min(dims);
        let components = vectors.transpose(0, 1).narrow(0, 0, k); // [k, Z]
        let largest = components.abs().argmax(1, true);
        let components = &components * components.gather(1, &largest, false).sign();
        let deviations = Vec::<f64>::try_from(variances.narrow(0, 0, k).sqrt())?;
        let total = variances.sum(Kind::Double).clamp_min(f64::MIN_POSITIVE);
        Ok(Self {
            mean,
            components,
            explained: Vec::<f64>::try_from(variances.narrow(0, 0, k) / total)?,
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
}
