//! The latents that samplers are fitted to.

use tch::{Device, Kind, Tensor, no_grad};
use vae_base::derive_seed;
use vae_data::Dataset;
use vae_data::loader::Batches;
use vae_model::{LatentSet, Vae};

use crate::TrainError;

/// The number of latents that a fit should have at least, and the most draws of an item for that.
const ENOUGH: usize = 20_000;
const MOST_DRAWS: usize = 16;

/// Items at a time.
const N_AT_A_TIME: usize = 250;

/// The number of draws from q(z|x) of each item: several where there are few items, 1 where q has no density and all draws
/// are alike.
#[must_use]
pub fn n_draws(vae: &Vae, n_items: usize) -> usize {
    match vae.has_density() {
        true => (ENOUGH / n_items.max(1)).clamp(1, MOST_DRAWS),
        false => 1,
    }
}

/// `n_draws` latents from q(z|x) of every item of a data set, f32 on the CPU, with the items' conditions. `None` if
/// `progress`, which gets the number of items done, returned false.
///
/// # Errors
/// A model without an encoder; items of another shape than the model's, or that cannot be read.
pub fn encode_items(
    vae: &Vae,
    dataset: &Dataset,
    n_draws: usize,
    seed: u64,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<LatentSet>, TrainError> {
    vae.check_encoder()?;
    let mut generator = vae.generator(derive_seed(seed, 0, "latents of items"));
    let latent_dims = vae.config().n_latents();
    let (mut latents, mut conditions) = (Vec::new(), Vec::new());
    let mut n_done = 0;
    for batch in Batches::sequential(dataset, N_AT_A_TIME, vae.device()) {
        let batch = batch?;
        let n_items = batch.items.size()[0];
        let drawn = no_grad(|| -> Result<Tensor, TrainError> {
            let posterior = vae.encode((&batch.items, batch.condition.as_ref()))?;
            let shape = [n_draws as i64, n_items, latent_dims];
            let noise = generator.normal(shape, vae.device());
            Ok(posterior.draw(&noise).latents.flatten(0, 1))
        })?;
        latents.push(drawn.to_device(Device::Cpu).to_kind(Kind::Float));
        if let Some(condition) = &batch.condition {
            let condition = condition.to_device(Device::Cpu).to_kind(Kind::Float);
            conditions.push(condition.repeat([n_draws as i64, 1]));
        }
        n_done += n_items as usize;
        if !progress(n_done) {
            return Ok(None);
        }
    }
    Ok(Some(LatentSet {
        latents: Tensor::f_cat(&latents, 0)?,
        condition: match conditions.is_empty() {
            true => None,
            false => Some(Tensor::f_cat(&conditions, 0)?),
        },
    }))
}
