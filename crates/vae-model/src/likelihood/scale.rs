//! The scale of the values: fixed, or the one with the maximum likelihood.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::{Mode, ModelError, nn, share};

/// σ of the Gaussian, b of the Laplace or the scale of the t distribution: `"learned"`, or a number in units of pixels
/// in `[-1, 1]`, for arrays in units of their standardized values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "snake_case",
    expecting = "expected a positive number or \"learned\""
)]
pub enum ScaleConfig {
    /// In each training step the value with the maximum likelihood for the batch, which has a closed form: σ² is the
    /// mean squared error, b the mean absolute error (σ-VAE, Rybkin et al. 2021, <https://arxiv.org/abs/2006.13202>,
    /// §3.2). The kl then needs no tuned weight: the better the decoder, the more each further error costs.
    ///
    /// Evaluation uses a running average of σ² or b over the training batches: the plain mean of the first 20 batches,
    /// after which each new batch has the weight 1/20. It is saved with the weights, so that the elbo of a held-out
    /// image uses a density that does not depend on that image.
    #[default]
    Learned,
    /// A learned scale for each channel of an array, or for each value of a vector. The data's noise may differ between
    /// channels; but a channel that the latents can encode exactly then dominates the loss.
    LearnedPerChannel,
    /// A fixed number, in units of pixels in `[-1, 1]` (2/255 is one step of a byte) or of standardized values.
    #[serde(untagged)]
    Fixed(#[schemars(range(min = 1e-6, max = 1e6), example = 0.5)] f64),
}

/// Pixels are in `[-1, 1]`. Squares, and squared errors divided by them, must fit into f32.
const FIXED_SCALES: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

impl ScaleConfig {
    pub(super) fn check(self, key: &str) -> Result<(), ModelError> {
        match self {
            Self::Fixed(scale) if !FIXED_SCALES.contains(&scale) => Err(ModelError::config(
                key,
                format!("found {scale:?}, expected a number from 1e-6 to 1e6"),
            )),
            _ => Ok(()),
        }
    }
}

/// Number of batches in the running average. It is small, to keep up with the steep descent of the first steps. From 20
/// batches of 64 faces, σ² is known to about 1 %, which costs a face of 12,288 values less than a nat.
const N_BATCHES: f64 = 20.0;

/// A mean error (squared or absolute) of all values, with a minimum.
#[derive(Debug)]
pub(super) enum MeanError {
    Fixed(f64),
    Learned {
        running: Tensor,
        n_batches: Tensor,
        floor: f64,
    },
}

impl MeanError {
    /// A running average of this shape under `path`, initially 1, about the range of the values.
    ///
    /// `floor` prevents infinite densities of a decoder that has memorized a few images.
    pub(super) fn learned(path: &nn::Path, name: &str, shape: &[i64], floor: f64) -> Self {
        Self::Learned {
            running: path.ones_no_train(name, shape),
            n_batches: path.zeros_no_train("n_batches", &[]),
            floor,
        }
    }

    /// The mean error for the density, a scalar, given that of a batch.
    ///
    /// It is detached. Its gradient would be 0: at the batch's optimal scale the derivative of the loss, a mean over
    /// images, is 0.
    pub(super) fn of(&self, batch: &Tensor, mode: Mode) -> Tensor {
        let batch = batch.detach();
        match (self, mode) {
            (Self::Fixed(value), _) => batch.full_like(*value),
            (
                Self::Learned {
                    running,
                    n_batches,
                    floor,
                },
                Mode::Train,
            ) => {
                no_grad(|| {
                    let mut n_batches = n_batches.shallow_clone();
                    // Up to this number only: f32 cannot count beyond 2²⁴.
                    let _ = n_batches.g_add_scalar_(1.0).clamp_max_(N_BATCHES);
                    let _ = running
                        .shallow_clone()
                        .lerp_tensor_(&batch, &n_batches.reciprocal());
                });
                batch.clamp_min(*floor)
            }
            (Self::Learned { .. }, Mode::Evaluate) => self.stored(),
        }
    }

    /// [`Self::of`] that computes the batch's error only if needed.
    pub(super) fn of_batch(&self, batch: impl FnOnce() -> Tensor, mode: Mode) -> Tensor {
        match (self, mode) {
            (Self::Learned { .. }, Mode::Train) => self.of(&batch(), mode),
            _ => self.stored(),
        }
    }

    /// The shape of the mean error: empty for a scalar.
    pub(super) fn shape(&self) -> Vec<i64> {
        match self {
            Self::Fixed(_) => vec![],
            Self::Learned { running, .. } => running.size(),
        }
    }

    /// The mean error without a batch, a scalar: for a learned one the running average.
    pub(super) fn stored(&self) -> Tensor {
        match self {
            Self::Fixed(value) => Tensor::from(*value as f32),
            Self::Learned { running, floor, .. } => running.detach().clamp_min(*floor),
        }
    }
}

/// The mean over samples and the items of the batch, a scalar, of values `[K, B]` of this process's items.
pub(super) fn mean_of_batch(values: &Tensor) -> Tensor {
    match share::current() {
        Some(share) => share.mean(&values.mean(Kind::Float)),
        None => values.mean(Kind::Float),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_average_is_a_mean_then_an_exponential_one() {
        let variables = nn::VarStore::new(1);
        let scale = MeanError::learned(&variables.root(), "variance", &[], 1e-3);
        let stored = || {
            scale
                .of(&Tensor::from(7_f32), Mode::Evaluate)
                .double_value(&[])
        };
        assert_eq!(stored(), 1.0);
        for batch in [2_f32, 4.0, 9.0] {
            let used = scale.of(&Tensor::from(batch), Mode::Train);
            assert_eq!(used.double_value(&[]), f64::from(batch));
        }
        assert!((stored() - 5.0).abs() < 1e-6);
        for _ in 3..20 {
            let _ = scale.of(&Tensor::from(5_f32), Mode::Train);
        }
        assert!((stored() - 5.0).abs() < 1e-5);
        // From the twenty-first batch on, each has the weight one twentieth.
        for _ in 0..2 {
            let _ = scale.of(&Tensor::from(105_f32), Mode::Train);
        }
        assert!((stored() - (105.0 - 100.0 * 0.95 * 0.95)).abs() < 1e-4);
        let floor = scale.of(&Tensor::from(0_f32), Mode::Train);
        assert!((floor.double_value(&[]) - 1e-3).abs() < 1e-9);
    }
}
