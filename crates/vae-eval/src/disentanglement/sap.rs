//! Separated attribute predictability.

use super::LabeledLatents;

/// C, the weight of the losses relative to the penalty, as in disentanglement_lib.
pub(super) const C: f64 = 0.01;

/// The accuracy with which a factor is classified from the best single latent dimension minus that from the second best one,
/// the mean over factors (Kumar et al. 2018, <https://arxiv.org/abs/1711.00848>, §3), and the accuracies, `[Z][F]`. From 0 to
/// 1. With a single latent dimension, the second one counts as 0. NaN without factors.
///
/// The classifiers are those of disentanglement_lib: linear support vector machines, one value against the others, with a
/// squared hinge loss, C = 0.01, and losses weighted by inverse frequency; here solved to convergence by Newton's method. They
/// are fitted on `train`; the accuracy is measured on `test`.
#[must_use]
pub fn separated_attribute_predictability(
    train: &LabeledLatents,
    test: &LabeledLatents,
) -> (f64, Vec<Vec<f64>>) {
    let accuracies: Vec<Vec<f64>> = (0..train.latents().len())
        .map(|latent| {
            let accuracy = |factor: usize| {
                let values = Classifier::fit(&train.latents()[latent], &train.factors()[factor]);
                values.accuracy(&test.latents()[latent], &test.factors()[factor])
            };
            (0..train.factors().len()).map(accuracy).collect()
        })
        .collect();
    let n_factors = train.factors().len();
    let gaps = (0..n_factors).map(|factor| {
        let mut column: Vec<f64> = accuracies.iter().map(|row| row[factor]).collect();
        column.sort_by(|a, b| b.total_cmp(a));
        column.first().unwrap_or(&0.0) - column.get(1).unwrap_or(&0.0)
    });
    (gaps.sum::<f64>() / n_factors as f64, accuracies)
}

/// A line for each value of a factor; the prediction at a latent is the value with the highest line.
struct Classifier {
    /// Class, slope, intercept.
    lines: Vec<(usize, f64, f64)>,
}

impl Classifier {
    fn fit(latents: &[f64], classes: &[usize]) -> Self {
        let mut counts = vec![0_usize; classes.iter().max().map_or(0, |&largest| largest + 1)];
        for &class in classes {
            counts[class] += 1;
        }
        let n_classes = counts.iter().filter(|&&count| count > 0).count();
        let weight = |count: usize| classes.len() as f64 / (n_classes * count) as f64;
        let present = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let lines = present.map(|(class, &count)| {
            let is_yes: Vec<bool> = classes.iter().map(|&other| other == class).collect();
            // Two values need a single classifier, with weights for both sides.
            let weight_of_no = match n_classes {
                2 => weight(classes.len() - count),
                _ => 1.0,
            };
            let (slope, intercept) =
                fit_line(latents, &is_yes, C * weight(count), C * weight_of_no);
            (class, slope, intercept)
        });
        Self {
            lines: lines.collect(),
        }
    }

    fn guess(&self, latent: f64) -> Option<usize> {
        let height = |line: &(usize, f64, f64)| line.1 * latent + line.2;
        let first = self.lines.first()?;
        // The first of equal ones, as in argmax.
        let best = self.lines.iter().fold(first, |best, line| {
            if height(line) > height(best) {
                line
            } else {
                best
            }
        });
        Some(best.0)
    }

    fn accuracy(&self, latents: &[f64], classes: &[usize]) -> f64 {
        let pairs = latents.iter().zip(classes);
        let n_right = pairs
            .filter(|(latent, class)| self.guess(**latent) == Some(**class))
            .count();
        n_right as f64 / latents.len() as f64
    }
}

/// Minimizes (w² + b²)/2 + Σ C_i max(0, 1 − y_i (w x_i + b))², y_i = ±1, by Newton's method. With two unknowns and strict
/// convexity it converges after a few steps.
fn fit_line(latents: &[f64], is_yes: &[bool], c_yes: f64, c_no: f64) -> (f64, f64) {
    let samples = || {
        let samples = latents.iter().zip(is_yes);
        samples.map(|(&x, &is_yes)| {
            if is_yes {
                (x, 1.0, c_yes)
            } else {
                (x, -1.0, c_no)
            }
        })
    };
    let loss = |w: f64, b: f64| {
        let losses = samples().map(|(x, y, c)| c * (1.0 - y * (w * x + b)).max(0.0).powi(2));
        0.5 * (w * w + b * b) + losses.sum::<f64>()
    };
    let (mut w, mut b) = (0.0, 0.0);
    let mut lowest = loss(w, b);
    for _ in 0..100 {
        let (mut of_w, mut of_b) = (w, b);
        let (mut ww, mut wb, mut bb) = (1.0, 0.0, 1.0);
        for (x, y, c) in samples() {
            let missing = 1.0 - y * (w * x + b);
            if missing > 0.0 {
                of_w -= 2.0 * c * missing * y * x;
                of_b -= 2.0 * c * missing * y;
                ww += 2.0 * c * x * x;
                wb += 2.0 * c * x;
                bb += 2.0 * c;
            }
        }
        if of_w.hypot(of_b) < 1e-10 {
            break;
        }
        let determinant = ww * bb - wb * wb;
        let step_w = (bb * of_w - wb * of_b) / determinant;
        let step_b = (ww * of_b - wb * of_w) / determinant;
        // Far from the minimum a full step may overshoot.
        let mut share = 1.0;
        let better = loop {
            let next = (w - share * step_w, b - share * step_b);
            let found = loss(next.0, next.1);
            if found < lowest {
                break Some((next, found));
            }
            share /= 2.0;
            if share < 1e-9 {
                break None;
            }
        };
        let Some((next, found)) = better else { break };
        ((w, b), lowest) = (next, found);
    }
    (w, b)
}
