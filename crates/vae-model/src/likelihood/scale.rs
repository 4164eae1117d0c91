//! The scale of the values: fixed, or the best for what the decoder leaves unexplained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use crate::{Mode, ModelError, nn};

/// σ of the Gaussian, b of the Laplace or the scale of the t distribution: `"learned"`, or a number in units of
/// pixels in `[-1, 1]`, of an array in units of its standardized values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "snake_case",
    expecting = "a positive number or \"learned\" is needed"
)]
pub enum ScaleConfig {
    /// In each training step the value of highest likelihood for the batch, which has a closed form:
    /// σ² is the mean squared error, b the mean absolute error (σ-VAE, Rybkin et al. 2021,
    /// <https://arxiv.org/abs/2006.13202>, §3.2). No weight of the kl has to be searched for: the better
    /// the decoder, the more each further error costs.
    ///
    /// Evaluation uses a running average of the training batches' σ² or b: the plain mean of the first 20
    /// batches; then each new batch counts 1/20. It is saved with the weights, so that the elbo of a
    /// held-out image uses a density that was fixed before the image was seen.
    #[default]
    Learned,
    /// The same for each channel of an array by itself, of vectors for each value. The data's noise may differ
    /// between them; but a channel that the latents can carry whole then draws all their attention.
    LearnedPerChannel,
    /// A fixed number, in units of pixels in `[-1, 1]` (2/255 is one step of a byte) or of standardized values.
    #[serde(untagged)]
    Fixed(#[schemars(range(min = 1e-6, max = 1e6), example = 0.5)] f64),
}

/// Pixels are in `[-1, 1]`. The squares, and squared errors over them, are f32.
const FIXED_SCALES: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

impl ScaleConfig {
    pub(super) fn check(self, key: &str) -> Result<(), ModelError> {
        match self {
            Self::Fixed(scale) if !FIXED_SCALES.contains(&scale) => Err(ModelError::config(
                key,
                format!("found {scale:?}, a number from 1e-6 to 1e6 is needed"),
            )),
            _ => Ok(()),
        }
    }
}

/// How many batches the running average reaches back. A few, to keep up with the first steps' steep
/// descent; of 20 batches with 64 faces each, σ² is known to about 1 %, which costs a face of
/// 12,288 values less than a nat.
const N_BATCHES: f64 = 20.0;

/// A mean error (squared or absolute) of all pixels, and the least it is taken for.
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
    /// A running average of this shape under `path`. It starts at 1, about the range of the values.
    ///
    /// `floor` keeps a decoder that has learned its few images by heart from infinite densities.
    pub(super) fn learned(path: &nn::Path, name: &str, shape: &[i64], floor: f64) -> Self {
        Self::Learned {
            running: path.ones_no_train(name, shape),
            n_batches: path.zeros_no_train("n_batches", &[]),
            floor,
        }
    }

    /// The mean error to build the density with, a scalar, given that of a batch.
    ///
    /// It carries no gradient. It needs none: at the batch's best scale the loss, a mean over images,
    /// is flat in it.
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
                    // No further than the reach: f32 stops counting at 2²⁴.
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

    /// [`Self::of`] where the batch's is worth computing only if it is needed.
    pub(super) fn of_batch(&self, batch: impl FnOnce() -> Tensor, mode: Mode) -> Tensor {
        match (self, mode) {
            (Self::Learned { .. }, Mode::Train) => self.of(&batch(), mode),
            _ => self.stored(),
        }
    }

    /// The shape of the mean error: none of a single one.
    pub(super) fn shape(&self) -> Vec<i64> {
        match self {
            Self::Fixed(_) => vec![],
            Self::Learned { running, .. } => running.size(),
        }
    }

    /// The mean error that is known without a batch, a scalar: of a learned one the running average.
    pub(super) fn stored(&self) -> Tensor {
        match self {
            Self::Fixed(value) => Tensor::from(*value as f32),
            Self::Learned { running, floor, .. } => running.detach().clamp_min(*floor),
        }
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
        // The twenty-first and the next count one in twenty each.
        for _ in 0..2 {
            let _ = scale.of(&Tensor::from(105_f32), Mode::Train);
        }
        assert!((stored() - (105.0 - 100.0 * 0.95 * 0.95)).abs() < 1e-4);
        let floor = scale.of(&Tensor::from(0_f32), Mode::Train);
        assert!((floor.double_value(&[]) - 1e-3).abs() < 1e-9);
    }
}
