//! One optimizer step.

use tch::Tensor;
use vae_data::derive_seed;
use vae_model::{ElboTerms, Mode, Objective, Vae};

use crate::{Optimizer, TrainError};

/// Draws a latent for each image `[B, C, H, W]` (bytes), and changes the weights to lower the loss.
///
/// The noise depends on (`seed`, `step`) alone. Gives the ELBO's terms and the scalar loss, both
/// from before the change.
///
/// # Errors
/// Images of another shape than the model's; libtorch refuses.
pub fn train_step(
    vae: &Vae,
    objective: &Objective,
    optimizer: &mut Optimizer,
    images: &Tensor,
    seed: u64,
    step: u64,
) -> Result<(ElboTerms, Tensor), TrainError> {
    tch::manual_seed(derive_seed(seed, step, "training noise") as i64);
    let draws = vae.draw(images, 1, Mode::Train)?;
    let loss = objective.loss(&draws, vae.image_shape(), step);
    optimizer.minimize(&loss)?;
    Ok((draws.terms, loss))
}
