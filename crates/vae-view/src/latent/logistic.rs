//! Logistic regression.

use tch::{Kind, Tensor};

use crate::ViewError;

/// A linear classifier: log p(yes)/p(no) = x·normal + intercept.
#[derive(Debug)]
pub(super) struct Logistic {
    /// `[D]`.
    pub(super) normal: Tensor,
    pub(super) intercept: f64,
}

/// Strength of the L2 penalty λ/2·|normal|² beside the sum of losses, as scikit-learn's default has it.
const PENALTY: f64 = 1.0;

impl Logistic {
    /// By Newton's method, on inputs f64 `[N, D]`, answers f64 `[N]` (1 is yes, 0 no) and what each
    /// counts `[N]`. The penalty makes the minimum unique also where a plane separates the classes.
    ///
    /// # Errors
    /// libtorch refuses, as it does where numbers are none.
    pub(super) fn fit(inputs: &Tensor, yes: &Tensor, counts: &Tensor) -> Result<Self, ViewError> {
        let dims = inputs.size2()?.1;
        let inputs = Tensor::f_cat(&[inputs, &yes.ones_like().unsqueeze(1)], 1)?; // [N, D + 1]
        let penalty = Tensor::full([dims + 1], PENALTY, (Kind::Double, inputs.device()));
        // The intercept is free, but for what keeps the matrix invertible.
        let _ = penalty.get(dims).fill_(1e-9);
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

    /// Whether it says yes, `[N]`, to inputs `[N, D]`.
    pub(super) fn says_yes(&self, inputs: &Tensor) -> Tensor {
        (inputs.mv(&self.normal) + self.intercept).gt(0.0)
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
        let fitted = Logistic::fit(&inputs, &yes, &counts).expect("a classifier");
        let p = (inputs.mv(&fitted.normal) + fitted.intercept).sigmoid();
        let residual = (p - &yes) * &counts;
        let gradient = inputs.transpose(0, 1).mv(&residual) + &fitted.normal * PENALTY;
        assert!(gradient.abs().max().double_value(&[]) < 1e-5, "{gradient}");
        assert!(residual.sum(Kind::Double).double_value(&[]).abs() < 1e-5);
        assert_eq!(fitted.says_yes(&inputs), yes.gt(0.5));
    }
}
