//! The aggregate posterior: what the latents of all images are like together.

use tch::{Device, Kind, Tensor, no_grad};
use vae_data::Dataset;
use vae_data::loader::Batches;
use vae_model::Vae;

use crate::{EvalError, Progress};

/// Densities of one latent z for each image, drawn from its q(z|x), in nats, f64 `[N]` on the CPU each.
///
/// q(z) is the aggregate posterior of these images, 1/N Σ_j q(z|x_j), exactly: all N are summed, only z
/// is by chance.
#[derive(Debug)]
pub struct AggregateDensities {
    /// log q(z|x) of its own image.
    pub log_qz_x: Tensor,
    /// log q(z).
    pub log_qz: Tensor,
    /// log p(z).
    pub log_pz: Tensor,
    /// Σ_j log q(z_j), each dimension's own marginal; only of a diagonal Gaussian posterior.
    pub log_qz_factorized: Option<Tensor>,
}

/// Values of densities that are computed at a time.
const N_VALUES: i64 = 20_000_000;

/// The densities of latents f64 `[N, Z]`, one drawn for each image of a data set. None where log q(z|x) has
/// no closed form at any z (flows, deterministic posteriors).
///
/// # Errors
/// Images of another shape than the model's.
pub fn aggregate_densities(
    vae: &Vae,
    dataset: &Dataset,
    latents: &Tensor,
    progress: &mut Progress<'_>,
) -> Result<Option<AggregateDensities>, EvalError> {
    const N_IMAGES: usize = 200;
    let latents = latents.to_device(vae.device()).to_kind(Kind::Float); // [N, Z]
    let (n, latent_dims) = latents.size2()?;
    no_grad(|| {
        let low =
            |shape: &[i64]| Tensor::full(shape, f64::NEG_INFINITY, (Kind::Double, vae.device()));
        let log_sum = low(&[n]);
        let log_sum_of_each = low(&[n, latent_dims]);
        let mut factorizes = true;
        let mut own = Vec::new();
        let mut n_done = 0;
        for images in Batches::sequential(dataset, N_IMAGES, vae.device()) {
            let posterior = vae.encode(&images?)?;
            let n_images = posterior.center().size()[0];
            let of_images = latents.narrow(0, n_done, n_images).unsqueeze(0);
            let Some(log_prob) = posterior.log_prob(&of_images) else {
                return Ok(None);
            };
            own.push(log_prob.squeeze_dim(0).to_kind(Kind::Double));
            let n_at_a_time = (N_VALUES / (n_images * latent_dims)).max(1);
            for begin in (0..n).step_by(n_at_a_time as usize) {
                let n_some = n_at_a_time.min(n - begin);
                let some = latents.narrow(0, begin, n_some).unsqueeze(1); // [m, 1, Z]
                let add = |sum: &Tensor, log_prob: Tensor| {
                    let mut sum = sum.narrow(0, begin, n_some);
                    let added = sum.logaddexp(&log_prob.to_kind(Kind::Double).logsumexp(1, false));
                    sum.copy_(&added);
                };
                if let Some(gaussian) = posterior.as_diagonal_gaussian() {
                    let pairs = gaussian.log_prob_per_dimension(&some); // [m, B, Z]
                    add(&log_sum, pairs.sum_dim_intlist(-1, false, Kind::Double));
                    add(&log_sum_of_each, pairs);
                } else if let Some(log_prob) = posterior.log_prob(&some) {
                    add(&log_sum, log_prob); // [m, B]
                    factorizes = false;
                }
            }
            n_done += n_images;
            progress("aggregate posterior", n_done as usize, n as usize);
        }
        let log_n = (n as f64).ln();
        let on_cpu = |tensor: Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Double);
        Ok(Some(AggregateDensities {
            log_qz_x: on_cpu(Tensor::f_cat(&own, 0)?),
            log_qz: on_cpu(log_sum - log_n),
            log_pz: on_cpu(vae.prior_log_prob(&latents)?),
            log_qz_factorized: factorizes
                .then(|| on_cpu((log_sum_of_each - log_n).sum_dim_intlist(1, false, Kind::Double))),
        }))
    })
}
