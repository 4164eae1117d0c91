//! Probes: classifiers whose only inputs are latents.

use tch::{Device, Kind, Tensor};
use vae_view::latent::{Pca, SoftmaxRegression, WIDE};

use crate::EvalError;

/// Classification of latents by softmax regression with the penalty |weights|²/2.
///
/// Each dimension is standardized by the training latents. Dimensions in which they do not vary are left out.
#[derive(Debug)]
pub struct LinearProbe {
    mean: Tensor,      // [Z]
    deviation: Tensor, // [Z]
    /// Of wide latents, on whose principal components it is fitted.
    components: Option<Pca>,
    regression: SoftmaxRegression,
}

impl LinearProbe {
    /// Fits it to latents `[N, Z]` and classes i64 `[N]` from 0 to `n_classes` − 1. Of latents of more than 1,024 dimensions it sees
    /// the principal components: all that N ≤ 1,024 latents have, which changes nothing, and of more latents the first 256.
    ///
    /// # Errors
    /// libtorch refuses, as it does for NaN or infinite values.
    pub fn fit(latents: &Tensor, classes: &Tensor, n_classes: i64) -> Result<Self, EvalError> {
        let latents = latents.to_kind(Kind::Double);
        let mean = latents.f_mean_dim(0, false, Kind::Double)?;
        let deviation = latents.f_std_dim(0, false, false)?;
        // Division by infinity makes the standardized values 0.
        let flat = deviation.le(1e-9);
        let deviation = deviation.f_masked_fill(&flat, f64::INFINITY)?;
        let standardized = (latents - &mean) / &deviation;
        let components = match standardized.size2()?.1 > WIDE {
            true => Some(Pca::fit(&standardized, usize::MAX)?),
            false => None,
        };
        let inputs = match &components {
            Some(components) => components.project(&standardized),
            None => standardized,
        };
        Ok(Self {
            mean,
            deviation,
            components,
            regression: SoftmaxRegression::fit(&inputs, classes, n_classes)?,
        })
    }

    /// The number of principal components that it sees, if not the latents as they are.
    #[must_use]
    pub fn n_components(&self) -> Option<usize> {
        let components = self.components.as_ref()?.components();
        Some(components.size()[0] as usize)
    }

    /// The most probable class of each of latents `[N, Z]`, i64 `[N]`.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn classify(&self, latents: &Tensor) -> Result<Tensor, EvalError> {
        let centered = latents.to_kind(Kind::Double).f_sub(&self.mean)?;
        let standardized = centered / &self.deviation;
        let inputs = match &self.components {
            Some(components) => components.project(&standardized),
            None => standardized,
        };
        Ok(self.regression.classify(&inputs)?)
    }
}

/// The most frequent class, i64 `[M]`, among the `k` latents `[N, Z]`, with known classes i64 `[N]`, that are nearest to
/// each of others `[M, Z]`. Among equally frequent classes the one with nearer neighbors wins. Distances are Euclidean.
///
/// # Errors
/// libtorch refuses, as it does if there are no latents.
pub fn nearest_neighbor_classes(
    latents: &Tensor,
    classes: &Tensor,
    others: &Tensor,
    k: i64,
) -> Result<Tensor, EvalError> {
    const N_AT_A_TIME: i64 = 1000;
    let n_classes = classes.f_max()?.int64_value(&[]) + 1;
    let k = k.min(latents.size()[0]);
    // Ranks only break ties: together they weigh less than one neighbor.
    let ranks = Tensor::arange(k, (Kind::Double, Device::Cpu));
    let votes: Tensor = (k as f64 - ranks) / (k * (k + 1)) as f64 + 1.0; // [k]
    let mut found = Vec::new();
    for others in others.split(N_AT_A_TIME, 0) {
        let distances = Tensor::f_cdist(&others, latents, 2.0, None::<i64>)?; // [m, N]
        let (_, nearest) = distances.f_topk(k, 1, false, true)?; // [m, k]
        let of_neighbors = classes
            .f_index_select(0, &nearest.flatten(0, 1))?
            .view_as(&nearest)
            .f_one_hot(n_classes)? // [m, k, C]
            .to_kind(Kind::Double);
        let counts = (of_neighbors * votes.view([1, k, 1])).sum_dim_intlist(1, false, Kind::Double);
        found.push(counts.argmax(1, false));
    }
    Ok(Tensor::f_cat(&found, 0)?)
}

/// The share of equal entries of two lists `[N]`.
pub(crate) fn accuracy(found: &Tensor, wanted: &Tensor) -> f64 {
    let right = found.eq_tensor(wanted).to_kind(Kind::Double);
    right.mean(Kind::Double).double_value(&[])
}

/// The mean over classes of their accuracies; chance is one divided by the number of classes.
pub(crate) fn balanced_accuracy(found: &Tensor, wanted: &Tensor, n_classes: i64) -> f64 {
    let right = found.eq_tensor(wanted).to_kind(Kind::Double);
    let shares: Vec<f64> = (0..n_classes)
        .filter_map(|class| {
            let of_class = wanted.eq(class).to_kind(Kind::Double);
            let n = of_class.sum(Kind::Double).double_value(&[]);
            let n_right = (&right * of_class).sum(Kind::Double).double_value(&[]);
            (n > 0.0).then(|| n_right / n)
        })
        .collect();
    shares.iter().sum::<f64>() / shares.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clouds around three corners, the third of which lies between the others in both dimensions.
    fn clouds(n: i64) -> (Tensor, Tensor) {
        let classes = Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(3);
        let corners = Tensor::from_slice2(&[[0.0, 0.0], [6.0, 6.0], [0.0, 6.0]]);
        // Deterministic: points of a lattice that fills the square evenly.
        let i = Tensor::arange(n, (Kind::Double, Device::Cpu));
        let x = (&i * 0.754_877_666_246_692_7).frac() - 0.5;
        let y = (&i * 0.569_840_290_998_053_2).frac() - 0.5;
        let latents = corners.index_select(0, &classes) + Tensor::stack(&[x, y], 1) * 4.0;
        (latents, classes)
    }

    #[test]
    fn separated_clouds_are_told_apart() {
        let (train, train_classes) = clouds(300);
        let (test, classes) = clouds(99);
        let test = test * 0.9;
        let probe = LinearProbe::fit(&train, &train_classes, 3).expect("a probe");
        assert_eq!(
            accuracy(&probe.classify(&test).expect("classes"), &classes),
            1.0
        );
        let found = nearest_neighbor_classes(&train, &train_classes, &test, 5).expect("classes");
        assert_eq!(accuracy(&found, &classes), 1.0);
    }

    #[test]
    fn ties_go_to_the_nearer_and_classes_count_alike() {
        let latents = Tensor::from_slice(&[0.0_f64, 1.0, 3.0, 4.0]).view([4, 1]);
        let classes = Tensor::from_slice(&[0_i64, 0, 1, 1]);
        let others = Tensor::from_slice(&[1.9_f64, 2.1]).view([2, 1]);
        let found = nearest_neighbor_classes(&latents, &classes, &others, 4).expect("classes");
        assert_eq!(found, Tensor::from_slice(&[0_i64, 1]));
        let wanted = Tensor::from_slice(&[0_i64, 0, 0, 1]);
        let all_0 = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
        assert_eq!(accuracy(&all_0, &wanted), 0.75);
        assert_eq!(balanced_accuracy(&all_0, &wanted, 2), 0.5);
    }
}
