//! Compares gradients with finite differences.

use tch::{Tensor, no_grad};
use vae_model::Vae;

/// Compares the gradient of a loss with respect to every trained variable with the slope of the loss along it, which
/// must be its norm. The loss must be deterministic; `what` describes it. The gradients stay in the variables.
pub(crate) fn assert_gradients_are_slopes(vae: &Vae, loss: &dyn Fn() -> Tensor, what: &str) {
    let value = loss();
    value.backward();
    let step = 2e-3;
    // f32 rounds the loss to one part in 10⁷, which the small step magnifies.
    let rounding = 2e-7 * value.double_value(&[]).abs() / step;
    let variables = vae.trainable_variables();
    let n_variables = variables.len();
    let mut n_shown = 0;
    for (name, mut variable) in variables {
        let gradient = variable.grad();
        assert!(gradient.defined(), "{name} has no gradient ({what})");
        let norm = gradient.norm().double_value(&[]);
        let direction = gradient.copy() / norm.max(1e-12);
        // Gradients stay enabled for the loss, which may contain one itself.
        let mut at = |t: f64| {
            no_grad(|| variable += &direction * t);
            let value = loss().double_value(&[]);
            no_grad(|| variable -= &direction * t);
            value
        };
        let slope = (at(step) - at(-step)) / (2.0 * step);
        n_shown += usize::from(norm > 5.0 * rounding);
        assert!(
            (slope - norm).abs() <= 0.02 * norm + rounding,
            "{name}: slope {slope}, gradient {norm} ({what})"
        );
    }
    // Norms cancel the scale of what precedes them, so that those gradients are small; golden.rs covers them.
    assert!(
        2 * n_shown > n_variables,
        "{n_shown} of {n_variables} gradients are larger than rounding ({what})"
    );
}
