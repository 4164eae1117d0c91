//! Evaluation on held-out images.

use tch::{Kind, Tensor, no_grad};
use vae_data::loader::Batches;
use vae_data::{Dataset, derive_seed};
use vae_model::{Mode, Objective, Vae};

use crate::TrainError;
use crate::metric::{Means, Totals};

/// What a pass over held-out images says.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Means over the images.
    pub means: Means,
    /// Mean kl of each latent dimension, nats: the larger, the more the dimension is used.
    pub kl_per_dimension: Vec<f64>,
    /// Latent dimensions in use: the variance of the posterior's mean over the images is above 0.01
    /// (Burda et al. 2016, <https://arxiv.org/abs/1509.00519>, §5.1).
    pub active_units: u64,
    /// Mean squared error of the mean images against the images, pixels from 0 to 1.
    pub mse: f64,
}

/// Variance of the posterior's mean above which a latent dimension counts as in use.
const ACTIVE_VARIANCE: f64 = 0.01;

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
        let zeros = || Tensor::zeros([latent_dims], (Kind::Double, vae.device()));
        let mut squared_errors = Tensor::zeros([], (Kind::Double, vae.device()));
        let (mut kl_sums, mut mean_sums, mut square_sums) = (zeros(), zeros(), zeros());
        for images in Batches::sequential(dataset, batch_size, vae.device()) {
            let images = images?;
            let draws = vae.draw(&images, 1, Mode::Evaluate)?;
            let loss = objective.loss(&draws, vae.image_shape(), step);
            totals.add(&draws.terms, &loss, None);
            let targets = images.to_kind(Kind::Float) / 255.0;
            let errors = vae.mean_images(&draws).squeeze_dim(0) - targets;
            squared_errors += errors.square().sum(Kind::Double);
            kl_sums += draws
                .kl_per_dimension
                .sum_dim_intlist(0, false, Kind::Double);
            let mean = draws.posterior.mean().to_kind(Kind::Double); // [B, Z]
            mean_sums += mean.sum_dim_intlist(0, false, Kind::Double);
            square_sums += mean.square().sum_dim_intlist(0, false, Kind::Double);
        }
        let n_images = dataset.len() as f64;
        let n_values = vae.image_shape().n_values() as f64;
        let kl_per_dimension = Vec::<f64>::try_from(kl_sums / n_images)?;
        let variance = square_sums / n_images - (mean_sums / n_images).square();
        let active_units = variance.gt(ACTIVE_VARIANCE).sum(Kind::Int64);
        Ok(Evaluation {
            means: totals.means(),
            kl_per_dimension,
            active_units: i64::try_from(active_units)? as u64,
            mse: f64::try_from(squared_errors)? / (n_images * n_values),
        })
    })
}
