//! Weights, images and noise from formulas, shared with `golden/networks.py`.

use tch::{Tensor, no_grad};
use vae_model::{ImageShape, Vae};

/// amplitude · sin(phase + 0.7·i), the formula of the script.
pub(crate) fn wave(n: usize, phase: f64, amplitude: f64) -> Tensor {
    let values: Vec<f32> = (0..n)
        .map(|i| (amplitude * (phase + 0.7 * i as f64).sin()) as f32)
        .collect();
    Tensor::from_slice(&values)
}

pub(crate) fn images(batch: i64, shape: ImageShape) -> Tensor {
    let bytes: Vec<u8> = (0..batch * shape.n_values())
        .map(|i| ((i * 37 + (i * i) % 101 * 5) % 256) as u8)
        .collect();
    Tensor::from_slice(&bytes).view([batch, shape.channels, shape.height, shape.width])
}

/// Gives every variable of the network its formula: amplitude 1/√fan_in, the phase its place in the
/// sorted names; scales of norms lie around 1.
pub(crate) fn fill(vae: &Vae) {
    let mut variables = vae.named_variables();
    variables.retain(|(name, _)| !name.starts_with("likelihood."));
    for (i, (name, mut variable)) in variables.into_iter().enumerate() {
        let size = variable.size();
        let fan_in: i64 = match size.len() {
            1 => 100,
            _ => size[1..].iter().product(),
        };
        let weights = wave(variable.numel(), i as f64, 1.0 / (fan_in as f64).sqrt());
        let is_scale =
            size.len() == 1 && (name.ends_with("weight") || name.ends_with("running_var"));
        let center = if is_scale { 1.0 } else { 0.0 };
        no_grad(|| variable.copy_(&(weights + center).view_(&size)));
    }
}

/// Checks the gradient of a loss to every trained variable against the slope of the loss along it, which
/// must be its norm. The loss is the same number whenever it is asked for; `what` it is of. Leaves the
/// gradients in the variables.
#[allow(dead_code)]
pub(crate) fn assert_gradients_are_slopes(vae: &Vae, loss: &dyn Fn() -> Tensor, what: &str) {
    let value = loss();
    value.backward();
    let step = 2e-3;
    // f32 rounds the loss to a part in 10⁷, which the small step magnifies.
    let rounding = 2e-7 * value.double_value(&[]).abs() / step;
    let variables = vae.trainable_variables();
    let n_variables = variables.len();
    let mut n_shown = 0;
    for (name, mut variable) in variables {
        let gradient = variable.grad();
        assert!(gradient.defined(), "{name} has no gradient ({what})");
        let norm = gradient.norm().double_value(&[]);
        let direction = gradient.copy() / norm.max(1e-12);
        // The loss itself not without gradients: it may be made of one.
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
    // Norms make the scale of what comes before them vanish from the gradient; golden.rs has those
    // gradients too.
    assert!(
        2 * n_shown > n_variables,
        "{n_shown} of {n_variables} gradients are larger than rounding ({what})"
    );
}
