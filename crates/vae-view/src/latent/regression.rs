//! Linear classifiers: logistic regression of two classes, and softmax regression of any number.
//!
//! Both minimize the sum of cross-entropies and a penalty λ/2·|w|² of all weights but the intercepts. Two classes
//! are fitted by Newton's method, in a few steps. The Hessian of C classes has (C·(D + 1))² entries, so softmax
//! regression takes more and cheaper steps instead.

use tch::{Device, Kind, Tensor};

use crate::ViewError;

/// λ of the penalty, scikit-learn's default.
const PENALTY: f64 = 1.0;

/// λ of an intercept: only what keeps the Hessian invertible.
const INTERCEPT_PENALTY: f64 = 1e-6;

/// λ of each of D weights and an intercept, `[D + 1]`.
fn penalties(n_weights: i64) -> Tensor {
    let penalties = Tensor::full([n_weights + 1], PENALTY, (Kind::Double, Device::Cpu));
    let _ = penalties.get(n_weights).fill_(INTERCEPT_PENALTY);
    penalties
}

/// Inputs `[N, D]` and a column of ones for the intercept, `[N, D + 1]`.
fn with_ones(inputs: &Tensor) -> Result<Tensor, ViewError> {
    let ones = Tensor::ones([inputs.size2()?.0, 1], (Kind::Double, inputs.device()));
    Ok(Tensor::f_cat(&[inputs, &ones], 1)?)
}

/// A linear classifier: log p(yes)/p(no) = x·normal + intercept.
#[derive(Debug)]
pub(super) struct LogisticRegression {
    /// `[D]`.
    pub(super) normal: Tensor,
    pub(super) intercept: f64,
}

impl LogisticRegression {
    /// Fits it to inputs f64 `[N, D]`, answers f64 `[N]` (1 is yes, 0 is no) and the weight of each in the
    /// loss `[N]`, by Newton's method. The penalty makes the minimum unique even if a plane separates the
    /// classes.
    ///
    /// # Errors
    /// libtorch refuses, as it does for NaN or infinite values.
    pub(super) fn fit(inputs: &Tensor, yes: &Tensor, counts: &Tensor) -> Result<Self, ViewError> {
        let dims = inputs.size2()?.1;
        let inputs = with_ones(inputs)?; // [N, D + 1]
        let penalty = penalties(dims);
        let signs = 1.0 - yes * 2.0;
        let loss = |weights: &Tensor| {
            let wrong = inputs.mv(weights) * &signs; // Above 0 where it is wrong.
            let losses = (wrong.softplus() * counts).sum(Kind::Double);
            (losses + (&penalty * weights.square()).sum(Kind::Double) * 0.5).double_value(&[])
        };
        let mut weights = Tensor::zeros([dims + 1], (Kind::Double, inputs.device()));
        let mut lowest = loss(&weights);
        for _ in 0..50 {
            let p = inputs.mv(&weights).sigmoid(); // [N]
            let gradient = inputs.transpose(0, 1).mv(&((&p - yes) * counts)) + &penalty * &weights;
            let opposite: Tensor = 1.0 - &p;
            let curvature = (&p * opposite * counts).unsqueeze(1); // [N, 1]
            let hessian =
                inputs.transpose(0, 1).matmul(&(&inputs * curvature)) + Tensor::diag(&penalty, 0);
            let step = Tensor::f_linalg_solve(&hessian, &gradient, true)?;
            // Far from the minimum a whole step may overshoot.
            let shares = (0..30).map(|halvings| 0.5_f64.powi(halvings));
            let better = shares
                .map(|share| &weights - &step * share)
                .map(|weights| (loss(&weights), weights))
                .find(|(loss, _)| *loss < lowest);
            let Some((loss, moved)) = better else { break };
            let gain = lowest - loss;
            (weights, lowest) = (moved, loss);
            if gain < 1e-10 * lowest.abs() {
                break;
            }
        }
        Ok(Self {
            normal: weights.narrow(0, 0, dims),
            intercept: weights.double_value(&[dims]),
        })
    }

    /// The predictions, `[N]`, for inputs `[N, D]`: true is yes.
    pub(super) fn predicts_yes(&self, inputs: &Tensor) -> Tensor {
        (inputs.mv(&self.normal) + self.intercept).gt(0.0)
    }
}

/// A linear classifier: log p(c|x) = x·w_c + b_c − ln Σ.
#[derive(Debug)]
pub struct SoftmaxRegression {
    weights: Tensor, // [D + 1, C], the intercepts last
}

/// The largest number of steps; a few hundred are typical.
const MAX_STEPS: usize = 3000;

/// The gradient, relative to the number of inputs, at which the fit has converged.
const TOLERANCE: f64 = 1e-7;

impl SoftmaxRegression {
    /// Fits it to inputs f64 `[N, D]` and classes i64 `[N]` from 0 to `n_classes` − 1.
    ///
    /// The accelerated gradient steps are preconditioned with an upper bound of the Hessian, which makes a line
    /// search unnecessary (Böhning 1992, <https://doi.org/10.1007/BF00048682>).
    ///
    /// # Errors
    /// libtorch refuses, as it does for NaN or infinite values.
    pub fn fit(inputs: &Tensor, classes: &Tensor, n_classes: i64) -> Result<Self, ViewError> {
        let penalty = penalties(inputs.size2()?.1); // [D + 1]
        let inputs = with_ones(inputs)?; // [N, D + 1]
        let wanted = classes.f_one_hot(n_classes)?.to_kind(Kind::Double); // [N, C]
        let (n, n_inputs) = inputs.size2()?;
        let bound = inputs.transpose(0, 1).matmul(&inputs) * 0.5 + penalty.diag(0);
        let factor = bound.f_linalg_cholesky(false)?;
        let penalty = penalty.unsqueeze(1);
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
            // If the step goes uphill, the acceleration is restarted (O'Donoghue & Candès 2015).
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

    /// The most probable class of each of inputs `[N, D]`, i64 `[N]`.
    ///
    /// # Errors
    /// Inputs of another shape.
    pub fn classify(&self, inputs: &Tensor) -> Result<Tensor, ViewError> {
        let scores = with_ones(inputs)?.f_matmul(&self.weights)?; // [N, C]
        Ok(scores.argmax(1, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_of_the_penalized_loss_is_0_where_it_ends() {
        let inputs = Tensor::from_slice2(&[
            [0.5_f64, 1.0],
            [2.0, -1.0],
            [-1.0, 0.3],
            [0.1, 0.2],
            [-2.0, -2.0],
        ]);
        let yes = Tensor::from_slice(&[1.0_f64, 1.0, 0.0, 1.0, 0.0]);
        let counts = Tensor::from_slice(&[1.0_f64, 2.0, 0.5, 1.0, 3.0]);
        let fitted = LogisticRegression::fit(&inputs, &yes, &counts).expect("a classifier");
        let p = (inputs.mv(&fitted.normal) + fitted.intercept).sigmoid();
        let residual = (p - &yes) * &counts;
        let gradient = inputs.transpose(0, 1).mv(&residual) + &fitted.normal * PENALTY;
        assert!(gradient.abs().max().double_value(&[]) < 1e-5, "{gradient}");
        assert!(residual.sum(Kind::Double).double_value(&[]).abs() < 1e-5);
        assert_eq!(fitted.predicts_yes(&inputs), yes.gt(0.5));
    }

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
        // Finite differences of a loss that is computed independently of the fit.
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
