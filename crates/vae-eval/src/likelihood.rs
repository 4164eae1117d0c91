//! The likelihood of held-out images.

use tch::{Kind, Tensor, no_grad};
use vae_data::Dataset;
use vae_data::loader::Batches;
use vae_model::Vae;

use crate::annealed::{AnnealedBounds, AnnealedSampling, annealed_bounds};
use crate::importance::{dataset_bounds, sampling_error};
use crate::probabilistic_pca::exact_log_prob;
use crate::{AnnealedProtocol, EvalError, Findings, Measure, Progress, Protocol};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LikelihoodOptions {
    /// K, the number of importance samples for each image.
    pub n_samples: u32,
    /// Annealed importance sampling of this many images, as a check.
    pub annealed: Option<(usize, AnnealedSampling)>,
}

impl Default for LikelihoodOptions {
    fn default() -> Self {
        Self {
            n_samples: 100,
            annealed: None,
        }
    }
}

/// Measures the elbo and its terms, the importance-weighted bound of log p(x), bits per dimension if the likelihood is of
/// 8-bit pixels, and annealed importance sampling if requested. The model is in [`vae_model::Mode::Evaluate`]. All draws
/// depend only on `seed`.
///
/// # Errors
/// Images of another shape than the model's; the errors of [`annealed_bounds`].
pub fn measure_likelihood(
    vae: &Vae,
    dataset: &Dataset,
    options: &LikelihoodOptions,
    seed: u64,
    progress: &mut Progress<'_>,
) -> Result<Findings, EvalError> {
    vae.with_fixed_weights(|| findings(vae, dataset, options, seed, progress))
}

fn findings(
    vae: &Vae,
    dataset: &Dataset,
    options: &LikelihoodOptions,
    seed: u64,
    progress: &mut Progress<'_>,
) -> Result<Findings, EvalError> {
    let mut findings = Findings::default();
    if !vae.config().likelihood.is_distribution() && vae.own_parts().is_empty() {
        let reason = "likelihood.spectral is a distance and no likelihood, so there is no elbo";
        let nll = "nll".to_owned();
        findings.not_measured.insert(nll, reason.to_owned());
        return Ok(findings);
    }
    if !vae.has_density() {
        let reason = "a deterministic posterior has no density, so there is no elbo";
        findings
            .not_measured
            .insert("nll".to_owned(), reason.to_owned());
        return Ok(findings);
    }
    let k = options.n_samples;
    let bounds = dataset_bounds(vae, dataset, k, seed, progress)?;
    let elbo = -(&bounds.reconstruction + &bounds.kl);
    let terms = Protocol::PosteriorSamples { n_samples: k };
    let bound = Protocol::ImportanceWeighted {
        n_samples: k,
        n_images: None,
    };
    findings.measures = vec![
        nats("elbo", "elbo", &elbo)
            .higher_is_better()
            .protocol(terms.clone()),
        nats("reconstruction", "reconstruction", &bounds.reconstruction)
            .lower_is_better()
            .protocol(terms.clone()),
        nats("kl", "kl", &bounds.kl).protocol(match kl_is_closed(vae, dataset)? {
            true => Protocol::ClosedForm,
            false => terms,
        }),
    ];
    let nll = nats("nll", "negative log-likelihood", &-&bounds.bound)
        .lower_is_better()
        .protocol(bound.clone())
        .note(chance_alone(&bounds.sampling_error(k)));
    let bits = vae.bits_per_dim(-nll.value);
    let perplexity = perplexity(vae, dataset, nll.value)?;
    findings.measures.push(nll);
    findings
        .measures
        .extend(perplexity.map(|measure| measure.protocol(bound.clone())));
    if let Some(bits) = bits {
        let bits = Measure::new("bits_per_dim", "bits per dimension", bits)
            .unit("bits/dim")
            .lower_is_better()
            .protocol(bound);
        findings.measures.push(bits);
    }
    if let Some(exact) = exact_nll(vae, dataset)? {
        findings.measures.push(
            nats("nll_exact", "exact negative log-likelihood", &exact)
                .lower_is_better()
                .protocol(Protocol::ProbabilisticPca),
        );
    }
    let size = mean(&bounds.effective_sample_size);
    findings.measures.push(
        Measure::new("effective_sample_size", "effective sample size", size)
            .unit("samples")
            .higher_is_better()
            .protocol(Protocol::EffectiveSampleSize { n_samples: k }),
    );
    if let Some((n_images, sampling)) = options.annealed {
        let first: Vec<usize> = (0..n_images.min(dataset.len())).collect();
        let batch = dataset.batch(&first)?;
        let images = (&batch.items, batch.condition.as_ref());
        let annealed = annealed_bounds(vae, images, sampling, seed, progress)?;
        let same_images = bounds.bound.narrow(0, 0, first.len() as i64);
        findings
            .measures
            .extend(annealed_measures(&annealed, &same_images, sampling, k));
    }
    Ok(findings)
}

/// The uncertainty of the mean of bounds for these images, from the error of each one `[N]`.
fn chance_alone(sampling_error: &Tensor) -> String {
    let sum = sampling_error.square().sum(Kind::Double).sqrt();
    let error = sum.double_value(&[]) / sampling_error.numel() as f64;
    format!("by the chance of the samples alone ± {error:.3}")
}

/// e to the nats per token, for nats per item, of sequences of tokens.
fn perplexity(vae: &Vae, dataset: &Dataset, nll: f64) -> Result<Option<Measure>, EvalError> {
    let mut n_tokens = 0;
    for batch in Batches::sequential(dataset, 1000, vae.device()) {
        let Some(of_items) = vae.n_tokens(&batch?.items) else {
            return Ok(None);
        };
        n_tokens += of_items.sum(Kind::Int64).int64_value(&[]);
    }
    let per_item = n_tokens as f64 / dataset.len() as f64;
    let measure = Measure::new("perplexity", "perplexity", (nll / per_item).exp())
        .unit("per token")
        .lower_is_better()
        .note(format!("{per_item:.1} tokens per item"));
    Ok(Some(measure))
}

fn annealed_measures(
    bounds: &AnnealedBounds,
    importance: &Tensor,
    sampling: AnnealedSampling,
    n_samples: u32,
) -> [Measure; 3] {
    let annealed = &bounds.bound;
    let n_images = annealed.size()[0] as usize;
    let AnnealedSampling {
        n_chains,
        n_temperatures,
        n_leapfrog,
    } = sampling;
    let how = AnnealedProtocol {
        n_images,
        n_chains,
        n_temperatures,
        n_leapfrog,
    };
    let found = format!(
        "{:.0} % accepted; {}",
        mean(&bounds.acceptance) * 100.0,
        chance_alone(&sampling_error(&bounds.effective_sample_size, n_chains))
    );
    [
        nats(
            "nll_annealed",
            "the same by annealed importance sampling",
            &-annealed,
        )
        .lower_is_better()
        .protocol(Protocol::Annealed(how.clone()))
        .note(found),
        nats(
            "nll_of_annealed_images",
            "the importance-weighted bound on those images",
            &-importance,
        )
        .lower_is_better()
        .protocol(Protocol::ImportanceWeighted {
            n_samples,
            n_images: Some(n_images),
        }),
        nats(
            "annealed_gain",
            "log p(x), annealed − importance-weighted",
            &(annealed - importance),
        )
        .protocol(Protocol::AnnealedGain {
            annealed: how,
            n_samples,
        }),
    ]
}

/// −log p(x) of every image, `[N]`, if the model has a closed form of it.
fn exact_nll(vae: &Vae, dataset: &Dataset) -> Result<Option<Tensor>, EvalError> {
    let mut of_batches = Vec::new();
    for images in Batches::sequential(dataset, 1000, vae.device()) {
        match exact_log_prob(vae, &images?.items)? {
            Some(log_prob) => of_batches.push(-log_prob),
            None => return Ok(None),
        }
    }
    Ok(Some(Tensor::f_cat(&of_batches, 0)?))
}

/// Whether this model's kl has a closed form.
fn kl_is_closed(vae: &Vae, dataset: &Dataset) -> Result<bool, EvalError> {
    let batch = dataset.batch(&[0])?;
    let condition = batch.condition.as_ref();
    let closed = no_grad(|| {
        let posterior = vae.encode((&batch.items, condition))?;
        vae.closed_kl(&*posterior, condition)
    })?;
    Ok(closed.is_some())
}

fn mean(values: &Tensor) -> f64 {
    values.mean(Kind::Double).double_value(&[])
}

/// The mean over images of values `[N]` in nats, with its standard error, which a single image does not have.
pub(crate) fn nats(name: &str, label: &str, values: &Tensor) -> Measure {
    let measure = Measure::new(name, label, mean(values)).unit("nats per image");
    match values.numel() {
        0 | 1 => measure,
        n => {
            let deviation = values.to_kind(Kind::Double).std(true).double_value(&[]);
            measure.error(deviation / (n as f64).sqrt())
        }
    }
}
