//! The likelihood of held-out images by importance sampling.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};
use vae_data::loader::Batches;
use vae_data::{Dataset, derive_seed};
use vae_model::{Mode, ModelError, Vae};

use crate::EvalError;

/// What K latents for each image say of log p(x) (Burda et al. 2016,
/// <https://arxiv.org/abs/1509.00519>, eq. 8). Means over images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImportanceEstimate {
    /// Images.
    pub n_images: usize,
    /// K, importance samples for each image.
    pub n_samples: u32,
    /// The importance-weighted bound of −log p(x), nats per image: above the truth in expectation, and
    /// the nearer the larger K is.
    pub negative_log_likelihood: f64,
    /// Standard error of that mean, from the spread over the images.
    pub standard_error: f64,
    /// The elbo of the same samples, nats per image: the mean of their log-weights.
    pub elbo: f64,
    /// (Σw)²/Σw² of an image's K weights: as many samples are worth as much as equal weights.
    pub effective_sample_size: f64,
}

/// Latents that are decoded at a time.
const N_AT_A_TIME: i64 = 4000;

/// Images at a time.
const N_IMAGES: usize = 80;

/// Estimates log p(x) of every image of a data set with `n_samples` latents from the posterior for each,
/// in bounded memory. The noise depends on `seed` alone. `progress` is told the number of images done.
///
/// # Errors
/// A deterministic posterior, which has no density; images of another shape than the model's.
pub fn importance_estimate(
    vae: &Vae,
    dataset: &Dataset,
    n_samples: u32,
    seed: u64,
    mut progress: impl FnMut(usize),
) -> Result<ImportanceEstimate, EvalError> {
    tch::manual_seed(derive_seed(seed, 0, "importance samples") as i64);
    let (mut bounds, mut elbo, mut sizes) = (Vec::new(), 0.0, 0.0);
    for images in Batches::sequential(dataset, N_IMAGES, vae.device()) {
        let estimates = image_bounds(vae, &images?, n_samples)?;
        bounds.extend(Vec::<f64>::try_from(&estimates.bound)?);
        elbo += f64::try_from(estimates.elbo.sum(Kind::Double))?;
        let size = estimates.effective_sample_size;
        sizes += f64::try_from(size.sum(Kind::Double))?;
        progress(bounds.len());
    }
    let n = bounds.len() as f64;
    let mean = bounds.iter().sum::<f64>() / n;
    let squares: f64 = bounds.iter().map(|bound| (bound - mean).powi(2)).sum();
    Ok(ImportanceEstimate {
        n_images: bounds.len(),
        n_samples,
        negative_log_likelihood: -mean,
        standard_error: (squares / (n - 1.0).max(1.0) / n).sqrt(),
        elbo: elbo / n,
        effective_sample_size: sizes / n,
    })
}

/// What K latents say of log p(x) of each image, f64 `[B]` each.
#[derive(Debug)]
pub struct ImageBounds {
    /// The importance-weighted bound of log p(x), nats.
    pub bound: Tensor,
    /// The mean of the log-weights, nats.
    pub elbo: Tensor,
    /// (Σw)²/Σw².
    pub effective_sample_size: Tensor,
}

/// The importance-weighted bound of each of the images, bytes `[B, C, H, W]`, with `n_samples` latents
/// from the posterior for each, some at a time. The noise is libtorch's generator's.
///
/// # Errors
/// A deterministic posterior, which has no density; images of another shape than the model's.
pub fn image_bounds(vae: &Vae, images: &Tensor, n_samples: u32) -> Result<ImageBounds, EvalError> {
    let total = i64::from(n_samples);
    let n_images = images.size()[0];
    no_grad(|| {
        let minus_infinity = || {
            let options = (Kind::Double, vae.device());
            Tensor::full([n_images], f64::NEG_INFINITY, options)
        };
        // ln Σw, ln Σw², Σ ln w so far, [B].
        let (mut log_sum, mut log_square_sum) = (minus_infinity(), minus_infinity());
        let mut sum_of_logs = log_sum.zeros_like();
        let mut n_done = 0;
        while n_done < total {
            let n = (N_AT_A_TIME / n_images.max(1)).clamp(1, total - n_done);
            let draws = vae.draw(images, n, Mode::Evaluate)?;
            let log_weights = draws.log_weights().ok_or(ModelError::NoElbo)?;
            let log_weights = log_weights.to_kind(Kind::Double); // [n, B]
            log_sum = log_sum.logaddexp(&log_weights.logsumexp(0, false));
            let squares = (&log_weights * 2.0).logsumexp(0, false);
            log_square_sum = log_square_sum.logaddexp(&squares);
            sum_of_logs += log_weights.sum_dim_intlist(0, false, Kind::Double);
            n_done += n;
        }
        Ok(ImageBounds {
            bound: &log_sum - (total as f64).ln(),
            elbo: sum_of_logs / total as f64,
            effective_sample_size: (log_sum * 2.0 - log_square_sum).exp(),
        })
    })
}
