//! Multinomial logistic regression.

use tch::{Device, Kind, Tensor};

use crate::EvalError;

/// A linear classifier: log p(c|x) = x·w_c + b_c − ln Σ.
#[derive(Debug)]
pub(crate) struct SoftmaxRegression {
    weights: Tensor, // [D + 1, C], the intercepts last
}

/// Strength λ of the penalty λ/2·|w|² beside the sum of the losses, as scikit-learn's default has it.
const PENALTY: f64 = 1.0;

/// Steps at most; a few hundred are usual.
const MAX_STEPS: usize = 3000;

/// The gradient, relative to the number of inputs, at which the minimum is taken to be reached.
const TOLERANCE: f64 = 1e-7;

impl SoftmaxRegression {
    /// Fits the one minimum of cross-entropy and penalty, intercepts free, on inputs f64 `[N, D]` and
    /// classes i64 `[N]` from 0 to `n_classes` − 1.
    ///
    /// By gradient steps that are preconditioned with a bound of the Hessian, which are therefore safe
    /// without a search (Böhning 1992, <https://doi.org/10.1007/BF00048682>), and accelerated.
    ///
    /// # Errors
    /// libtorch refuses, as it does where numbers are none.
    pub(crate) fn fit(
        inputs: &Tensor,
        classes: &Tensor,
        n_classes: i64,
    ) -> Result<Self, EvalError> {
        let inputs = with_ones(inputs); // [N, D + 1]
        let wanted = classes.f_one_hot(n_classes)?.to_kind(Kind::Double); // [N, C]
        let (n, n_inputs) = inputs.size2()?;
        let penalty = penalty(n_inputs);
        let bound = inputs.transpose(0, 1).matmul(&inputs) * 0.5 + penalty.squeeze().diag(0);
        let factor = bound.f_linalg_cholesky(false)?;
        let gradient = |weights: &Tensor| {
            let p = inputs.matmul(weights).softmax(1, Kind::Double);
            inputs.transpose(0, 1).matmul(&(p - &wanted)) + &penalty * weights // [D + 1, C]
        };
        let mut weights = Tensor::zeros([n_inputs, n_classes], (Kind::Double, Device::Cpu));
        let mut ahead = weights.shallow_clone();
        let mut momentum = 1.0_f64;
        for _ in 0..MAX_STEPS {
            let slope = gradient(&ahead);
            if slope.abs().max().double_value(&[]) < TOLERANCE * n as f64 {
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
        Ok(Self { weights })
    }

    /// The likeliest class of each of inputs `[N, D]`, i64 `[N]`.
    pub(crate) fn classify(&self, inputs: &Tensor) -> Tensor {
        with_ones(inputs).matmul(&self.weights).argmax(1, false)
    }
}

/// λ of each row of the weights, `[D + 1, 1]`. Intercepts are free, but for what keeps the matrix
/// invertible.
fn penalty(n_inputs: i64) -> Tensor {
    let penalty = Tensor::full([n_inputs, 1], PENALTY, (Kind::Double, Device::Cpu));
    let _ = penalty.get(n_inputs - 1).fill_(1e-6);
    penalty
}

/// Inputs and a column of ones.
fn with_ones(inputs: &Tensor) -> Tensor {
    let ones = Tensor::ones([inputs.size()[0], 1], (Kind::Double, Device::Cpu));
    Tensor::cat(&[inputs, &ones], 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_at_the_minimum_of_the_penalized_loss() {
        // The columns' scales differ, and the third does not vary.
        let inputs = Tensor::from_slice2(&[
            [0.5_f64, 100.0, 0.0],
            [2.0, -100.0, 0.0],
            [-1.0, 30.0, 0.0],
            [0.1, 20.0, 0.0],
            [-2.0, -200.0, 0.0],
        ]);
        let classes = Tensor::from_slice(&[0_i64, 1, 2, 0, 1]);
        let fitted = SoftmaxRegression::fit(&inputs, &classes, 3).expect("a regression");
        let ones = Tensor::cat(
            &[&inputs, &Tensor::ones([5, 1], (Kind::Double, Device::Cpu))],
            1,
        );
        let loss = |weights: &Tensor| {
            let log_p = ones.matmul(weights).log_softmax(1, Kind::Double);
            let losses = -log_p
                .gather(1, &classes.unsqueeze(1), false)
                .sum(Kind::Double);
            let penalized = weights.narrow(0, 0, 3).square().sum(Kind::Double) * (PENALTY / 2.0);
            (losses + penalized).double_value(&[])
        };
        // Finite differences of a loss that the fit's own code has no part in.
        for i in 0..4 {
            for j in 0..3 {
                let shifted = |by: f64| {
                    let weights = fitted.weights.copy();
                    let _ = weights.get(i).get(j).g_add_scalar_(by);
                    loss(&weights)
                };
                let slope = (shifted(1e-4) - shifted(-1e-4)) / 2e-4;
                assert!(slope.abs() < 1e-3, "{i}, {j}: {slope}");
            }
        }
        assert!(loss(&fitted.weights) < 5.0 * 3.0_f64.ln());
        assert_eq!(fitted.weights.get(2).abs().max().double_value(&[]), 0.0);
    }
}
