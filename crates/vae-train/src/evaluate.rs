//! Evaluation on validation images.

use std::collections::BTreeMap;
use std::sync::Arc;

use tch::{Kind, Tensor, no_grad, with_grad};
use vae_base::derive_seed;
use vae_data::Dataset;
use vae_data::loader::Batches;
use vae_model::{CodeUse, Conditioned, LossContext, Mode, Networks, Share, Vae};
use vae_torch::Group;

use vae_run::{LatentUse, Means, RunConfig};

use crate::learner::check;
use crate::{Totals, TrainError};

/// The results of a pass over images without training.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Means over the images.
    pub means: Means,
    /// Further numbers of the objective and the model: means over the images, by name.
    pub named: BTreeMap<String, f64>,
    /// How much each latent dimension is used.
    pub latent_use: LatentUse,
    /// Mean squared error between the mean images and the images, pixels from 0 to 1; `None` for a model without an
    /// encoder, and for tokens.
    pub mse: Option<f64>,
}

/// One pass over the data set without gradients. The noise is the same every time, so that differences between epochs are due
/// to the weights alone. The loss is the objective's at `step`, with as many samples of z as in training; `n_train_images` is
/// the size of the training set.
///
/// # Errors
/// An invalid config, or one whose objective does not fit the model; images of another shape than the model's; libtorch
/// refuses.
pub fn evaluate(
    vae: &Vae,
    config: &RunConfig,
    dataset: &Dataset,
    n_train_images: usize,
    step: u64,
) -> Result<Evaluation, TrainError> {
    check(vae, config)?;
    evaluate_against(
        vae,
        config,
        dataset,
        n_train_images,
        step,
        &Networks::default(),
        None,
    )
}

/// [`evaluate`] with a checked config and the networks of the objective, without which their terms would be missing in the
/// loss; by the processes of a group, each of which gets the result.
pub(crate) fn evaluate_against(
    vae: &Vae,
    config: &RunConfig,
    dataset: &Dataset,
    n_train_images: usize,
    step: u64,
    networks: &Networks,
    group: Option<&Arc<Group>>,
) -> Result<Evaluation, TrainError> {
    vae.with_fixed_weights(|| pass(vae, config, dataset, n_train_images, step, networks, group))
}

fn pass(
    vae: &Vae,
    config: &RunConfig,
    dataset: &Dataset,
    n_train_images: usize,
    step: u64,
    networks: &Networks,
    group: Option<&Arc<Group>>,
) -> Result<Evaluation, TrainError> {
    let mut noise = vae.generator(derive_seed(config.seed, 0, "evaluation noise"));
    let objective = &config.objective_in_run(n_train_images);
    let context = LossContext {
        vae,
        step,
        n_images: n_train_images as u64,
    };
    let n_samples = objective.n_samples();
    // The config's batch size bounds the number of images that are decoded at once.
    let batch_size = (config.training.evaluation_batch_size / n_samples as usize).max(1);
    let mut draw_and_lose = |images: Conditioned, n_items: usize| -> Result<_, TrainError> {
        let share = group.map(|group| Share::of(group, n_items as i64));
        let (share, mode) = (share.as_ref(), Mode::Evaluate);
        let mut draws = vae.draw_share(images, share, n_samples, mode, &mut noise)?;
        let losses = objective.losses(&draws, context, networks, &mut noise)?;
        let mut named = losses.terms;
        named.extend(std::mem::take(&mut draws.named));
        Ok((draws, losses.model.detach(), named))
    };
    no_grad(|| {
        let mut totals = Totals::of(vae);
        let latent_dims = vae.config().n_latents();
        let zeros = || Tensor::zeros([latent_dims], (Kind::Double, vae.device()));
        // Their sum and the number of values.
        let mut squared_errors = Tensor::zeros([2], (Kind::Double, vae.device()));
        let mut kl_sums = Some(zeros());
        let (mut center_sums, mut square_sums) = (zeros(), zeros());
        let mut code_use = CodeUse::of(vae);
        let batches = Batches::sequential(dataset, batch_size, vae.device());
        for batch in batches.portion(Share::portion(group), batch_size) {
            let batch = batch?;
            let images = Conditioned::from((&batch.items, batch.condition.as_ref()));
            let (draws, loss, named) = match objective.needs_gradients() {
                true => with_grad(|| draw_and_lose(images, batch.n_items))?,
                false => draw_and_lose(images, batch.n_items)?,
            };
            totals.add(&draws.terms, &loss, None, &named);
            if let Some(errors) = vae.errors(&draws, &batch.items) {
                let squares = errors.square(); // [K, B, C, H, W], NaN where missing
                let is_missing = vae.item().has_missing.then(|| draws.targets.isnan()); // [B, C, H, W]
                let observed = match &is_missing {
                    Some(is_missing) => squares.masked_fill(is_missing, 0.0),
                    None => squares.shallow_clone(),
                };
                let n = match &is_missing {
                    Some(missing) => missing.logical_not().sum(Kind::Double) * n_samples,
                    None => Tensor::from(squares.numel() as f64),
                };
                let n = n.to_device(vae.device());
                let sums = Tensor::stack(&[observed.sum(Kind::Double), n], 0);
                let sums = draws
                    .share
                    .as_ref()
                    .map_or(sums.shallow_clone(), |share| share.sum(&sums));
                squared_errors += sums / n_samples;
            }
            kl_sums = kl_sums
                .zip(draws.kl_per_dimension)
                .map(|(sums, kl)| sums + kl.sum_dim_intlist(0, false, Kind::Double));
            if let Some(share) = &draws.share {
                share.check()?;
            }
            if let Some(code_use) = &mut code_use {
                code_use.add(&*draws.posterior);
            }
            let center = draws.posterior.center().to_kind(Kind::Double); // [B, Z]
            center_sums += center.sum_dim_intlist(0, false, Kind::Double);
            square_sums += center.square().sum_dim_intlist(0, false, Kind::Double);
        }
        let n_images = dataset.len() as f64;
        let kl = kl_sums
            .map(|sums| Vec::<f64>::try_from(sums / n_images))
            .transpose()?;
        let mut named = totals.named_means();
        if let Some(code_use) = code_use {
            let names = CodeUse::TERMS.map(|term| term.name.to_string());
            named.extend(names.into_iter().zip(code_use.values()?));
        }
        let variance = square_sums / n_images - (center_sums / n_images).square();
        Ok(Evaluation {
            means: totals.means(),
            named,
            latent_use: LatentUse {
                kl,
                center_variance: Vec::<f64>::try_from(variance)?,
                // Without an encoder no latent belongs to an image, and nothing is known.
                n_images: match vae.has_encoder() {
                    true => dataset.len() as u64,
                    false => 0,
                },
            },
            mse: match vae.has_encoder() && !vae.item().is_tokens() {
                true => Some(squared_errors.double_value(&[0]) / squared_errors.double_value(&[1])),
                false => None,
            },
        })
    })
}
