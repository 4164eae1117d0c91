//! The aggregate posterior: the distribution of the latents of all images.

use tch::{Device, Kind, Tensor, no_grad};
use vae_data::Dataset;
use vae_data::loader::Batches;
use vae_model::Vae;

use crate::{EvalError, Progress};

/// Log densities, in nats, of one latent z for each image, drawn from its q(z|x); f64 `[N]` on the CPU each.
///
/// q(z) is the aggregate posterior of these images, 1/N Σ_j q(z|x_j). The sum over all N is exact, and only z is random.
/// As an estimate of the aggregate posterior of the whole population, log q(z) is too high in expectation, since z was
/// drawn from one of the N, and without that image it is too low. The two are far apart if images carry more
/// information about z than N images can show, ln N.
#[derive(Debug)]
pub struct AggregateDensities {
    /// log q(z|x) of the image itself.
    pub log_qz_x: Tensor,
    /// log q(z).
    pub log_qz: Tensor,
    /// The log of the mean of the other images' q(z|x_j), 1/(N − 1) Σ_{j ≠ i} q(z|x_j).
    pub log_qz_of_others: Tensor,
    /// log p(z).
    pub log_pz: Tensor,
    /// Σ_j log q(z_j) of the marginals of each dimension; only for a diagonal Gaussian posterior.
    pub log_qz_factorized: Option<Tensor>,
    /// The same without the image that z was drawn for.
    pub log_qz_factorized_of_others: Option<Tensor>,
}

/// log Σ exp over images, with and without each latent's own image: f64 `[N]` or `[N, Z]`.
struct LogSums {
    all: Tensor,
    others: Tensor,
}

impl LogSums {
    fn new(shape: &[i64], device: Device) -> Self {
        let low = || Tensor::full(shape, f64::NEG_INFINITY, (Kind::Double, device));
        Self {
            all: low(),
            others: low(),
        }
    }

    /// Adds a batch of images, `[m, B]` or `[m, B, Z]`, for the m latents from `begin` on. `own` marks where a latent meets
    /// its own image; its shape is the same or broadcasts.
    fn add(&mut self, begin: i64, log_prob: &Tensor, own: Option<&Tensor>) {
        let n = log_prob.size()[0];
        let sum = |log_prob: &Tensor| log_prob.to_kind(Kind::Double).logsumexp(1, false);
        let all = sum(log_prob);
        let others = match own {
            Some(own) => sum(&log_prob.masked_fill(own, f64::NEG_INFINITY)),
            None => all.shallow_clone(),
        };
        for (sums, added) in [(&self.all, all), (&self.others, others)] {
            let mut sums = sums.narrow(0, begin, n);
            let added = sums.logaddexp(&added);
            sums.copy_(&added);
        }
    }

    /// The logs of the means, summed over dimensions.
    fn means(self, n: i64) -> (Tensor, Tensor) {
        let log_mean = |sums: Tensor, n: i64| {
            let means = sums - (n as f64).ln();
            match means.dim() {
                1 => means,
                _ => means.sum_dim_intlist(1, false, Kind::Double),
            }
        };
        (log_mean(self.all, n), log_mean(self.others, n - 1))
    }
}

/// The number of density values that are computed at once.
const N_VALUES: i64 = 20_000_000;

/// The log densities of latents f64 `[N, Z]`, one drawn for each image of a data set. None if log q(z|x) at any z has no
/// closed form (flows, deterministic posteriors).
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
    let device = vae.device();
    no_grad(|| {
        let mut sums = LogSums::new(&[n], device);
        let mut sums_of_each = LogSums::new(&[n, latent_dims], device);
        let mut factorizes = true;
        let mut own = Vec::new();
        let mut n_done = 0;
        for batch in Batches::sequential(dataset, N_IMAGES, device) {
            let batch = batch?;
            let posterior = vae.encode((&batch.items, batch.condition.as_ref()))?;
            let n_images = posterior.center().size()[0];
            let of_images = latents.narrow(0, n_done, n_images).unsqueeze(0);
            let Some(log_prob) = posterior.log_prob(&of_images) else {
                return Ok(None);
            };
            own.push(log_prob.squeeze_dim(0).to_kind(Kind::Double));
            let n_at_a_time = (N_VALUES / (n_images * latent_dims)).max(1);
            let end = n_done + n_images;
            // The latents of the images before this batch, those of the batch, and those of the images after it.
            let chunks = [(0, n_done), (n_done, end), (end, n)];
            let chunks = chunks.into_iter().flat_map(|(begin, end)| {
                let begins = (begin..end).step_by(n_at_a_time as usize);
                begins.map(move |begin| (begin, n_at_a_time.min(end - begin)))
            });
            for (begin, n_some) in chunks {
                let some = latents.narrow(0, begin, n_some).unsqueeze(1); // [m, 1, Z]
                let is_own = (n_done..end).contains(&begin).then(|| {
                    let index = |from: i64, n: i64| Tensor::arange(n, (Kind::Int64, device)) + from;
                    let images = index(n_done, n_images).unsqueeze(0);
                    index(begin, n_some).unsqueeze(1).eq_tensor(&images) // [m, B]
                });
                if let Some(gaussian) = posterior.as_diagonal_gaussian() {
                    let pairs = gaussian.log_prob_per_dimension(&some); // [m, B, Z]
                    let of_all = pairs.sum_dim_intlist(-1, false, Kind::Double);
                    sums.add(begin, &of_all, is_own.as_ref());
                    let is_own = is_own.map(|own| own.unsqueeze(-1));
                    sums_of_each.add(begin, &pairs, is_own.as_ref());
                } else if let Some(log_prob) = posterior.log_prob(&some) {
                    sums.add(begin, &log_prob, is_own.as_ref()); // [m, B]
                    factorizes = false;
                }
            }
            n_done = end;
            progress("aggregate posterior", n_done as usize, n as usize);
        }
        let on_cpu = |tensor: Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Double);
        let (log_qz, log_qz_of_others) = sums.means(n);
        let factorized = factorizes.then(|| sums_of_each.means(n));
        let (log_qz_factorized, log_qz_factorized_of_others) = factorized.unzip();
        Ok(Some(AggregateDensities {
            log_qz_x: on_cpu(Tensor::f_cat(&own, 0)?),
            log_qz: on_cpu(log_qz),
            log_qz_of_others: on_cpu(log_qz_of_others),
            log_pz: on_cpu(vae.prior_log_prob((&latents, dataset.condition()))?),
            log_qz_factorized: log_qz_factorized.map(on_cpu),
            log_qz_factorized_of_others: log_qz_factorized_of_others.map(on_cpu),
        }))
    })
}
