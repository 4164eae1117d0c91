//! Evaluation on held-out images.

use tch::{Kind, Tensor, no_grad};
use vae_data::loader::Batches;
use vae_data::{Dataset, derive_seed};
use vae_model::{Objective, Vae};

use crate::TrainError;
use crate::metric::{Means, Totals};

/// What a pass over held-out images says.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Means over the images.
    pub means: Means,
    /// Mean kl of each latent dimension, nats: the larger, the more the dimension is used.
    pub kl_per_dimension: Vec<f64>,
}

/// One pass over the data set without gradients. The noise is the same every time, so that epochs
/// differ by their weights alone. The loss is the objective's at `step`.
///
/// # Errors
/// Images of another shape than the model's; libtorch refuses.
pub fn evaluate(
    vae: &Vae,
    objective: &Objective,
    dataset: &Dataset,
    batch_size: usize,
    seed: u64,
    step: u64,
) -> Result<Evaluation, TrainError> {
    tch::manual_seed(derive_seed(seed, 0, "evaluation noise") as i64);
    no_grad(|| {
        let mut totals = Totals::new(vae.device());
        let latent_dims = vae.config().latent_dims;
        let mut kl_sums = Tensor::zeros([latent_dims], (Kind::Double, vae.device()));
        for images in Batches::sequential(dataset, batch_size, vae.device()) {
            let images = images?;
            let draws = vae.draw(&images, 1)?;
            let loss = objective.loss(&draws, vae.image_shape(), step);
            totals.add(&draws.terms, &loss);
            kl_sums += draws
                .kl_per_dimension
                .sum_dim_intlist(0, false, Kind::Double);
        }
        let kl_per_dimension = Vec::<f64>::try_from(kl_sums / dataset.len() as f64)?;
        Ok(Evaluation {
            means: totals.means(),
            kl_per_dimension,
        })
    })
}
