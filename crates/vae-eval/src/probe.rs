//! What can be read off latents: classifiers that see nothing else.

use tch::{Device, Kind, Tensor};

use crate::EvalError;

/// Strength λ of the penalty λ/2·|weights|² beside the sum of the losses, as scikit-learn's default has
/// it.
const PENALTY: f64 = 1.0;

/// Steps at most; a few hundred are usual.
const N_STEPS: usize = 3000;

/// Classes of latents by softmax regression: log p(c|z) = z·w_c + b_c − log Σ.
///
/// Each dimension is standardized by the training latents; one in which they do not vary is left out.
#[derive(Debug)]
pub struct LinearProbe {
    mean: Tensor,      // [Z]
    deviation: Tensor, // [Z]
    weights: Tensor,   // [Z + 1, C], the intercepts last
}

impl LinearProbe {
    /// Fits the one minimum of cross-entropy and penalty, on latents `[N, Z]` and classes i64 `[N]` from 0
    /// to `n_classes` − 1.
    ///
    /// By gradient steps that are preconditioned with a bound of the Hessian, which are therefore safe
    /// without a search (Böhning 1992, <https://doi.org/10.1007/BF00048682>), and accelerated.
    ///
    /// # Errors
    /// libtorch refuses, as it does where numbers are none.
    pub fn fit(latents: &Tensor, classes: &Tensor, n_classes: i64) -> Result<Self, EvalError> {
        let latents = latents.to_kind(Kind::Double);
        let mean = latents.f_mean_dim(0, false, Kind::Double)?;
        let deviation = latents.f_std_dim(0, false, false)?;
        // Infinite: the standardized numbers are 0.
        let flat = deviation.le(1e-9);
        let deviation = deviation.f_masked_fill(&flat, f64::INFINITY)?;
        let inputs = inputs(&latents, &mean, &deviation); // [N, Z + 1]
        let wanted = classes.f_one_hot(n_classes)?.to_kind(Kind::Double); // [N, C]
        let n_inputs = inputs.size()[1];
        let penalty = Tensor::full([n_inputs, 1], PENALTY, (Kind::Double, Device::Cpu));
        // The intercepts are free, but for what keeps the matrix invertible.
        let _ = penalty.get(n_inputs - 1).fill_(1e-6);
        let bound = inputs.transpose(0, 1).matmul(&inputs) * 0.5 + penalty.squeeze().diag(0);
        let factor = bound.f_linalg_cholesky(false)?;
        let gradient = |weights: &Tensor| {
            let p = inputs.matmul(weights).softmax(1, Kind::Double);
            inputs.transpose(0, 1).matmul(&(p - &wanted)) + &penalty * weights // [Z + 1, C]
        };
        let mut weights = Tensor::zeros([n_inputs, n_classes], (Kind::Double, Device::Cpu));
        let mut ahead = weights.shallow_clone();
        let mut momentum = 1.0_f64;
        let enough = 1e-6 * inputs.size()[0] as f64;
        for _ in 0..N_STEPS {
            let slope = gradient(&ahead);
            if slope.abs().max().double_value(&[]) < enough {
                break;
            }
            let moved = &ahead - slope.cholesky_solve(&factor, false);
            let step = &moved - &weights;
            // Going uphill: start the acceleration anew (O'Donoghue & Candès 2015).
            let uphill = (&slope * &step).sum(Kind::Double).double_value(&[]) > 0.0;
            let next = match uphill {
                true => 1.0,
                false => (1.0 + (1.0 + 4.0 * momentum * momentum).sqrt()) / 2.0,
            };
            let share = if uphill { 0.0 } else { (momentum - 1.0) / next };
            ahead = &moved + step * share;
            (weights, momentum) = (moved, next);
        }
        Ok(Self {
            mean,
            deviation,
            weights,
        })
    }

    /// The likeliest class of each of latents `[N, Z]`, i64 `[N]`.
    #[must_use]
    pub fn classify(&self, latents: &Tensor) -> Tensor {
        inputs(&latents.to_kind(Kind::Double), &self.mean, &self.deviation)
            .matmul(&self.weights)
            .argmax(1, false)
    }
}

/// Standardized latents and a column of ones.
fn inputs(latents: &Tensor, mean: &Tensor, deviation: &Tensor) -> Tensor {
    let standardized = (latents - mean) / deviation;
    let ones = Tensor::ones([latents.size()[0], 1], (Kind::Double, Device::Cpu));
    Tensor::cat(&[standardized, ones], 1)
}

/// The commonest class, i64 `[M]`, among the `k` nearest of latents `[N, Z]`, whose classes i64 `[N]` are
/// known, to each of others `[M, Z]`; of equally common ones that with the nearer neighbors. Distances are
/// Euclidean.
///
/// # Errors
/// libtorch refuses, as it does where there is nothing to be near to.
pub fn nearest_neighbor_classes(
    latents: &Tensor,
    classes: &Tensor,
    others: &Tensor,
    k: i64,
) -> Result<Tensor, EvalError> {
    const N_AT_A_TIME: i64 = 1000;
    let n_classes = classes.f_max()?.int64_value(&[]) + 1;
    let k = k.min(latents.size()[0]);
    // Ranks break ties and nothing else: together they count less than one neighbor.
    let ranks = Tensor::arange(k, (Kind::Double, Device::Cpu));
    let votes: Tensor = (k as f64 - ranks) / (k * (k + 1)) as f64 + 1.0; // [k]
    let mut found = Vec::new();
    for others in others.split(N_AT_A_TIME, 0) {
        let distances = Tensor::f_cdist(&others, latents, 2.0, None::<i64>)?; // [m, N]
        let (_, nearest) = distances.f_topk(k, 1, false, true)?; // [m, k]
        let of_neighbors = classes
            .f_index_select(0, &nearest.flatten(0, 1))?
            .view_as(&nearest)
            .one_hot(n_classes) // [m, k, C]
            .to_kind(Kind::Double);
        let counts = (of_neighbors * votes.view([1, k, 1])).sum_dim_intlist(1, false, Kind::Double);
        found.push(counts.argmax(1, false));
    }
    Ok(Tensor::f_cat(&found, 0)?)
}

/// The share of equal numbers of two lists `[N]`.
pub(crate) fn accuracy(found: &Tensor, wanted: &Tensor) -> f64 {
    let right = found.eq_tensor(wanted).to_kind(Kind::Double);
    right.mean(Kind::Double).double_value(&[])
}

/// The mean over the classes of the share that is found: chance is one divided by their number.
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
        // Without chance: points of a lattice that fills the square evenly.
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
        assert_eq!(accuracy(&probe.classify(&test), &classes), 1.0);
        let found = nearest_neighbor_classes(&train, &train_classes, &test, 5).expect("classes");
        assert_eq!(accuracy(&found, &classes), 1.0);
    }

    #[test]
    fn the_probe_ends_at_the_minimum_of_its_penalized_loss() {
        let latents = Tensor::from_slice2(&[
            [0.5_f64, 1.0, 4.0],
            [2.0, -1.0, 4.0],
            [-1.0, 0.3, 4.0],
            [0.1, 0.2, 4.0],
            [-2.0, -2.0, 4.0],
        ]);
        let classes = Tensor::from_slice(&[0_i64, 1, 2, 0, 1]);
        let probe = LinearProbe::fit(&latents, &classes, 3).expect("a probe");
        let inputs = inputs(&latents, &probe.mean, &probe.deviation);
        let loss = |weights: &Tensor| {
            let log_p = inputs.matmul(weights).log_softmax(1, Kind::Double);
            let losses = -log_p
                .gather(1, &classes.unsqueeze(1), false)
                .sum(Kind::Double);
            let penalized = weights.narrow(0, 0, 3).square().sum(Kind::Double) * (PENALTY / 2.0);
            (losses + penalized).double_value(&[])
        };
        // Finite differences of a loss that the probe's own code has no part in.
        let lowest = loss(&probe.weights);
        for i in 0..4 {
            for j in 0..3 {
                let shifted = |by: f64| {
                    let weights = probe.weights.copy();
                    let _ = weights.get(i).get(j).g_add_scalar_(by);
                    loss(&weights)
                };
                let slope = (shifted(1e-4) - shifted(-1e-4)) / 2e-4;
                assert!(slope.abs() < 1e-4, "{i}, {j}: {slope}");
            }
        }
        assert!(lowest < 5.0 * 3.0_f64.ln());
        // A dimension that does not vary has no weight.
        assert_eq!(probe.weights.get(2).abs().max().double_value(&[]), 0.0);
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
