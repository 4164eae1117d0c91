//! The latents of the images of a data set.

use tch::{Device, Kind, Tensor, no_grad};
use vae_data::loader::Batches;
use vae_data::{Dataset, derive_seed};
use vae_model::{Support, Vae};

use crate::ViewError;

/// The latents of N images, in their order.
#[derive(Debug)]
pub struct Codes {
    /// The center of each image's posterior, f64 `[N, Z]` on the CPU.
    pub centers: Tensor,
    /// One latent drawn from q(z|x) of each image, f64 `[N, Z]` on the CPU: a sample of the aggregate posterior.
    pub drawn: Tensor,
}

/// Encodes every image of a data set. The draws depend on `seed`, the centers do not. `progress` is called with the
/// number of images done.
///
/// # Errors
/// Images of another shape than the model's.
pub fn encode(
    vae: &Vae,
    dataset: &Dataset,
    seed: u64,
    mut progress: impl FnMut(usize),
) -> Result<Codes, ViewError> {
    const N_AT_A_TIME: usize = 250;
    let mut generator = vae.generator(derive_seed(seed, 0, "aggregate posterior"));
    let on_cpu = |latents: Tensor| latents.to_device(Device::Cpu).to_kind(Kind::Double);
    let latent_dims = vae.config().n_latents();
    let (mut centers, mut drawn) = (Vec::new(), Vec::new());
    no_grad(|| -> Result<(), ViewError> {
        let mut n_done = 0;
        for batch in Batches::sequential(dataset, N_AT_A_TIME, vae.device()) {
            let batch = batch?;
            let n_images = batch.items.size()[0];
            let posterior = vae.encode((&batch.items, batch.condition.as_ref()))?;
            let noise = generator.normal([1, n_images, latent_dims], vae.device());
            centers.push(on_cpu(posterior.center()));
            drawn.push(on_cpu(posterior.draw(&noise).latents.squeeze_dim(0)));
            n_done += n_images as usize;
            progress(n_done);
        }
        Ok(())
    })?;
    Ok(Codes {
        centers: Tensor::f_cat(&centers, 0)?,
        drawn: Tensor::f_cat(&drawn, 0)?,
    })
}

/// Projects latents `[N, Z]` onto the support of the model's posterior: to length 1 on a sphere, to the nearest codes.
/// Elsewhere they are unchanged.
///
/// # Errors
/// A latent of length 0 cannot be projected onto a sphere.
pub fn onto_support(vae: &Vae, latents: &Tensor) -> Result<Tensor, ViewError> {
    match vae.support() {
        Support::Euclidean => return Ok(latents.shallow_clone()),
        Support::Codes => return Ok(vae.nearest_codes(latents)?),
        Support::Sphere => {}
    }
    let lengths = latents.norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true);
    if lengths.min().double_value(&[]) < 1e-6 {
        return Err(ViewError::NoDirection);
    }
    Ok(latents / lengths)
}
