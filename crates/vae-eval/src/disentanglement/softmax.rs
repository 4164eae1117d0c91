//! Multinomial logistic regression.

use std::collections::VecDeque;

/// A linear classifier: log p(class) = x·w + b + constant.
#[derive(Debug)]
pub(super) struct SoftmaxRegression {
    n_classes: usize,
    /// For each class the weights of the inputs and the intercept, `[K·(D + 1)]`.
    weights: Vec<f64>,
}

/// Steps, at most.
const MAX_STEPS: usize = 1000;

/// Steps that the next one's direction is made from.
const MEMORY: usize = 10;

/// The gradient, relative to the number of inputs, at which the minimum is taken to be reached.
const TOLERANCE: f64 = 1e-7;

impl SoftmaxRegression {
    /// Minimizes the sum of cross-entropies and |w|²/2, intercepts free, as scikit-learn's default has it, by
    /// L-BFGS (Liu & Nocedal 1989).
    pub(super) fn fit(inputs: &[Vec<f64>], classes: &[usize], n_classes: usize) -> Self {
        let width = inputs.first().map_or(0, Vec::len) + 1;
        let mut weights = vec![0.0; n_classes * width];
        let (mut loss, mut gradient) = loss_and_gradient(&weights, inputs, classes, n_classes);
        let mut steps: VecDeque<(Vec<f64>, Vec<f64>)> = VecDeque::new();
        for _ in 0..MAX_STEPS {
            let steepest = gradient.iter().fold(0.0, |most: f64, g| most.max(g.abs()));
            if steepest <= TOLERANCE * inputs.len() as f64 {
                break;
            }
            let mut direction = direction(&gradient, &steps);
            let mut slope = dot(&direction, &gradient);
            if slope >= 0.0 {
                steps.clear();
                direction = gradient.iter().map(|g| -g).collect();
                slope = dot(&direction, &gradient);
            }
            // The first step has no curvature to go by.
            let mut length = match steps.is_empty() {
                true => 1.0 / dot(&gradient, &gradient).sqrt(),
                false => 1.0,
            };
            let next = loop {
                let moved: Vec<f64> = weights
                    .iter()
                    .zip(&direction)
                    .map(|(weight, along)| weight + length * along)
                    .collect();
                let found = loss_and_gradient(&moved, inputs, classes, n_classes);
                if found.0 <= loss + 1e-4 * length * slope {
                    break Some((moved, found));
                }
                length /= 2.0;
                if length < 1e-15 {
                    break None;
                }
            };
            let Some((moved, (new_loss, new_gradient))) = next else {
                break; // Rounding is all that is left.
            };
            let difference = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
            let step: Vec<f64> = difference(&moved, &weights);
            let change: Vec<f64> = difference(&new_gradient, &gradient);
            if dot(&step, &change) > 1e-12 * dot(&change, &change) {
                steps.push_back((step, change));
                if steps.len() > MEMORY {
                    steps.pop_front();
                }
            }
            (weights, loss, gradient) = (moved, new_loss, new_gradient);
        }
        Self { n_classes, weights }
    }

    /// The share of the inputs whose most probable class is the right one.
    pub(super) fn accuracy(&self, inputs: &[Vec<f64>], classes: &[usize]) -> f64 {
        let pairs = inputs.iter().zip(classes);
        let n_right = pairs.filter(|(input, class)| {
            let scores = scores(&self.weights, input, self.n_classes);
            let best = scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            best.is_some_and(|(best, _)| best == **class)
        });
        n_right.count() as f64 / inputs.len() as f64
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn scores(weights: &[f64], input: &[f64], n_classes: usize) -> impl Iterator<Item = f64> {
    let rows = weights.chunks_exact(weights.len() / n_classes);
    rows.map(|row| dot(row, input) + row[input.len()])
}

fn loss_and_gradient(
    weights: &[f64],
    inputs: &[Vec<f64>],
    classes: &[usize],
    n_classes: usize,
) -> (f64, Vec<f64>) {
    let width = weights.len() / n_classes;
    let is_intercept = |i: usize| i % width == width - 1;
    let mut gradient: Vec<f64> = (0..weights.len())
        .map(|i| if is_intercept(i) { 0.0 } else { weights[i] })
        .collect();
    let mut loss = dot(&gradient, &gradient) / 2.0;
    for (input, &class) in inputs.iter().zip(classes) {
        let scores: Vec<f64> = scores(weights, input, n_classes).collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
        let normalizer = highest + sum.ln();
        loss += normalizer - scores[class];
        for (other, (score, row)) in scores
            .iter()
            .zip(gradient.chunks_exact_mut(width))
            .enumerate()
        {
            let error = (score - normalizer).exp() - f64::from(u8::from(other == class));
            for (gradient, x) in row.iter_mut().zip(input) {
                *gradient += error * x;
            }
            row[width - 1] += error;
        }
    }
    (loss, gradient)
}

/// −H·gradient, with the inverse curvature H that the last steps and changes of the gradient tell.
fn direction(gradient: &[f64], steps: &VecDeque<(Vec<f64>, Vec<f64>)>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let add = |to: &mut [f64], factor: f64, vector: &[f64]| {
        to.iter_mut()
            .zip(vector)
            .for_each(|(to, v)| *to += factor * v);
    };
    let mut factors = Vec::new();
    for (step, change) in steps.iter().rev() {
        let factor = dot(step, &direction) / dot(step, change);
        add(&mut direction, -factor, change);
        factors.push(factor);
    }
    if let Some((step, change)) = steps.back() {
        let scale = dot(step, change) / dot(change, change);
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for ((step, change), factor) in steps.iter().zip(factors.into_iter().rev()) {
        let back = dot(change, &direction) / dot(step, change);
        add(&mut direction, factor - back, step);
    }
    direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_the_loss() {
        let inputs = vec![vec![0.3, -1.0], vec![2.0, 0.5], vec![-0.7, 0.1]];
        let classes = [2, 0, 1];
        let weights: Vec<f64> = (0..9).map(|i| (f64::from(i) * 1.7).sin()).collect();
        let loss = |weights: &[f64]| loss_and_gradient(weights, &inputs, &classes, 3).0;
        let gradient = loss_and_gradient(&weights, &inputs, &classes, 3).1;
        for i in 0..9 {
            let shifted = |by: f64| {
                let mut weights = weights.clone();
                weights[i] += by;
                loss(&weights)
            };
            let numeric = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
            assert!(
                (numeric - gradient[i]).abs() < 1e-8,
                "{i}: {numeric}, {}",
                gradient[i]
            );
        }
    }

    #[test]
    fn the_minimum_has_no_slope() {
        let inputs: Vec<Vec<f64>> = (0..200)
            .map(|i| vec![f64::from(i % 17) / 17.0, f64::from(i % 13) / 13.0])
            .collect();
        let classes: Vec<usize> = (0..200).map(|i| (i % 17 / 6 + i % 5) % 3).collect();
        let fitted = SoftmaxRegression::fit(&inputs, &classes, 3);
        let gradient = loss_and_gradient(&fitted.weights, &inputs, &classes, 3).1;
        assert!(gradient.iter().all(|g| g.abs() < 1e-4), "{gradient:?}");
    }
}
