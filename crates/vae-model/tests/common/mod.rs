//! Weights, images and noise from formulas, shared with `golden/networks.py`.

use tch::{Tensor, no_grad};
use vae_model::{ImageShape, Vae};

/// amplitude · sin(phase + 0.7·i), the script's formula.
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

/// Sets every variable of the network by the formula: the amplitude is 1/√fan_in, the phase the index in the sorted
/// names; scales of norms are around 1.
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
