//! The likelihood of images by importance sampling.

use std::sync::Arc;

use tch::{Kind, Tensor, no_grad};
use vae_data::loader::Batches;
use vae_data::{Dataset, derive_seed};
use vae_model::{Conditioned, Generator, Mode, ModelError, Share, Vae};
use vae_torch::Group;

use crate::{EvalError, Progress};

/// Estimates from K posterior samples of each image, f64 `[B]` on the CPU each.
#[derive(Debug)]
pub struct ImageBounds {
    /// The importance-weighted bound ln 1/K Σ w of log p(x) in nats (Burda et al. 2016,
    /// <https://arxiv.org/abs/1509.00519>, eq. 8): a lower bound in expectation, tighter with larger K.
    pub bound: Tensor,
    /// −E_q\[log p(x|z)\] in nats, the mean of the K samples.
    pub reconstruction: Tensor,
    /// KL(q(z|x) ‖ p(z)) in nats, in closed form if there is one.
    pub kl: Tensor,
    /// The effective sample size (Σw)²/Σw²: the number of equally weighted samples with the same accuracy.
    pub effective_sample_size: Tensor,
}

impl ImageBounds {
    /// The standard error in nats of each bound due to sampling, `[B]`: the standard error of the mean weight relative to the
    /// mean, estimated from the K weights. It ignores regions that were never sampled, so that it is too small if the
    /// effective sample size is small.
    pub fn sampling_error(&self, n_samples: u32) -> Tensor {
        sampling_error(&self.effective_sample_size, n_samples)
    }
}

/// [`ImageBounds::sampling_error`] for bounds from any weights.
pub(crate) fn sampling_error(effective_sample_size: &Tensor, n_samples: u32) -> Tensor {
    let lost = effective_sample_size.reciprocal() - 1.0 / f64::from(n_samples);
    lost.clamp_min(0.0).sqrt()
}

/// The number of decoded values that are computed at once.
const N_VALUES_AT_A_TIME: i64 = 4000 * 28 * 28;

/// The number of logits of tokens that are computed at once.
const N_LOGITS_AT_A_TIME: i64 = 1 << 25;

/// The number of images at once if each has many samples.
const N_IMAGES: i64 = 16;

/// [`image_bounds`] of every image of a data set, in bounded memory. The noise depends only on `seed`. The processes of a group
/// share the images, and each of them gets all results.
///
/// # Errors
/// A deterministic posterior, which has no density; images of another shape than the model's; another process is gone.
pub fn dataset_bounds(
    vae: &Vae,
    dataset: &Dataset,
    n_samples: u32,
    seed: u64,
    group: Option<&Arc<Group>>,
    progress: &mut Progress<'_>,
) -> Result<ImageBounds, EvalError> {
    let mut noise = vae.generator(derive_seed(seed, 0, "importance samples"));
    let n_images = (n_at_a_time(vae) / i64::from(n_samples)).clamp(N_IMAGES, 1000);
    let mut of_batches = Vec::new();
    let mut n_done = 0;
    let portion = Share::portion(group);
    let batches = Batches::sequential(dataset, n_images as usize, vae.device());
    for batch in batches.portion(portion, n_images as usize) {
        let batch = batch?;
        let images = Conditioned::from((&batch.items, batch.condition.as_ref()));
        let share = group.map(|group| Share::of(group, batch.n_items as i64));
        let share = share.as_ref();
        of_batches.push(bounds_of_share(vae, images, share, n_samples, &mut noise)?);
        n_done += batch.n_items;
        progress("likelihood", n_done, dataset.len());
    }
    let joined = |part: fn(&ImageBounds) -> &Tensor| {
        Tensor::f_cat(&of_batches.iter().map(part).collect::<Vec<_>>(), 0)
    };
    Ok(ImageBounds {
        bound: joined(|bounds| &bounds.bound)?,
        reconstruction: joined(|bounds| &bounds.reconstruction)?,
        kl: joined(|bounds| &bounds.kl)?,
        effective_sample_size: joined(|bounds| &bounds.effective_sample_size)?,
    })
}

/// The number of latents that are decoded at once.
pub(crate) fn n_at_a_time(vae: &Vae) -> i64 {
    let n_values = vae.image_shape().n_values();
    match vae.n_params_per_value() {
        1 => (N_VALUES_AT_A_TIME / n_values).max(1),
        n_params => (N_LOGITS_AT_A_TIME / (n_values * n_params)).max(1),
    }
}

/// The importance-weighted bounds of images, bytes `[B, C, H, W]` (with their condition, if the model has one), from
/// `n_samples` posterior samples for each image, drawn in chunks.
///
/// # Errors
/// A deterministic posterior, which has no density; images of another shape than the model's.
pub fn image_bounds<'a>(
    vae: &Vae,
    images: impl Into<Conditioned<'a>>,
    n_samples: u32,
    noise: &mut Generator,
) -> Result<ImageBounds, EvalError> {
    bounds_of_share(vae, images.into(), None, n_samples, noise)
}

/// [`image_bounds`] of a batch of which one of several processes has the images of its share.
fn bounds_of_share(
    vae: &Vae,
    images: Conditioned,
    share: Option<&Share>,
    n_samples: u32,
    noise: &mut Generator,
) -> Result<ImageBounds, EvalError> {
    let total = i64::from(n_samples);
    let n_images = share.map_or(images.tensor.size()[0], Share::n_rows);
    no_grad(|| {
        let all = |value: f64| Tensor::full([n_images], value, (Kind::Double, vae.device()));
        // ln Σw and ln Σw² so far, [B].
        let (mut log_sum, mut log_square_sum) = (all(f64::NEG_INFINITY), all(f64::NEG_INFINITY));
        let (mut reconstruction, mut kl) = (all(0.0), all(0.0));
        let mut n_done = 0;
        while n_done < total {
            let n = (n_at_a_time(vae) / n_images.max(1)).clamp(1, total - n_done);
            let draws = vae.draw_share(images, share, n, Mode::Evaluate, noise)?;
            let log_weights = draws.log_weights().ok_or(ModelError::NoElbo)?;
            let log_weights = log_weights.to_kind(Kind::Double); // [n, B]
            log_sum = log_sum.logaddexp(&log_weights.logsumexp(0, false));
            let squares = (&log_weights * 2.0).logsumexp(0, false);
            log_square_sum = log_square_sum.logaddexp(&squares);
            let share = n as f64 / total as f64;
            reconstruction += draws.terms.reconstruction.to_kind(Kind::Double) * share;
            kl += draws
                .terms
                .kl
                .ok_or(ModelError::NoElbo)?
                .to_kind(Kind::Double)
                * share;
            n_done += n;
        }
        let on_cpu = |tensor: Tensor| tensor.to_device(tch::Device::Cpu);
        Ok(ImageBounds {
            bound: on_cpu(&log_sum - (total as f64).ln()),
            reconstruction: on_cpu(reconstruction),
            kl: on_cpu(kl),
            effective_sample_size: on_cpu((log_sum * 2.0 - log_square_sum).exp()),
        })
    })
}
