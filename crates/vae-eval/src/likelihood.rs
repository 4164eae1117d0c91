//! The likelihood of held-out images.

use std::sync::Arc;

use tch::{Kind, Tensor, no_grad};
use vae_data::Dataset;
use vae_data::loader::Batches;
use vae_model::{MelodySpec, Vae};
use vae_torch::Group;

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

/// Measures the elbo and its terms, of sequences of tokens how many are reconstructed, the importance-weighted bound of log p(x), bits per dimension if the likelihood is of
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
    measure_likelihood_among(vae, dataset, options, seed, None, progress)
}

/// [`measure_likelihood`] by the processes of a group, which share the images of the importance samples; each of them gets the
/// result, which is that of one process up to rounding.
///
/// # Errors
/// As for [`measure_likelihood`]; another process is gone.
pub fn measure_likelihood_among(
    vae: &Vae,
    dataset: &Dataset,
    options: &LikelihoodOptions,
    seed: u64,
    group: Option<&Arc<Group>>,
    progress: &mut Progress<'_>,
) -> Result<Findings, EvalError> {
    vae.with_fixed_weights(|| findings(vae, dataset, options, seed, group, progress))
}

fn findings(
    vae: &Vae,
    dataset: &Dataset,
    options: &LikelihoodOptions,
    seed: u64,
    group: Option<&Arc<Group>>,
    progress: &mut Progress<'_>,
) -> Result<Findings, EvalError> {
    let mut findings = Findings {
        measures: token_accuracy(vae, dataset)?,
        ..Findings::default()
    };
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
    let bounds = dataset_bounds(vae, dataset, k, seed, group, progress)?;
    let elbo = -(&bounds.reconstruction + &bounds.kl);
    let terms = Protocol::PosteriorSamples { n_samples: k };
    let bound = Protocol::ImportanceWeighted {
        n_samples: k,
        n_images: None,
    };
    let accuracy = std::mem::take(&mut findings.measures);
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
    findings.measures.extend(accuracy);
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

/// Of sequences of tokens: the shares of tokens that are reconstructed, teacher-forced and free running, and of whole items; else
/// nothing.
fn token_accuracy(vae: &Vae, dataset: &Dataset) -> Result<Vec<Measure>, EvalError> {
    if !vae.item().is_tokens() || !vae.has_encoder() {
        return Ok(Vec::new());
    }
    let is_melody = vae.item().melody.is_some();
    let (mut n_tokens, mut n_notes, mut n_whole) = (0_i64, 0_i64, 0_i64);
    // Teacher-forced and free running: of all tokens, and of those that begin a note.
    let (mut n_hits, mut n_note_hits) = ([0_i64; 2], [0_i64; 2]);
    for batch in Batches::sequential(dataset, 250, vae.device()) {
        let batch = batch?;
        let condition = batch.condition.as_ref();
        no_grad(|| -> Result<(), EvalError> {
            let (Some(n_of_items), Some(forced)) = (
                vae.n_tokens(&batch.items),
                vae.teacher_forced_tokens((&batch.items, condition))?,
            ) else {
                return Ok(());
            };
            let tokens = batch.items.flatten(1, -1); // [B, T]
            let places = Tensor::arange(tokens.size()[1], (Kind::Int64, vae.device()));
            let is_own = places.unsqueeze(0).lt_tensor(&n_of_items.unsqueeze(1)); // [B, T]
            let centers = vae.encode((&batch.items, condition))?.center();
            let free = vae.decode((&centers, condition))?.flatten(1, -1);
            let is_note = tokens.gt(MelodySpec::REST);
            let count = |mask: &Tensor| mask.sum(Kind::Int64).int64_value(&[]);
            n_tokens += count(&is_own);
            n_notes += count(&is_note);
            for (i, found) in [&forced, &free].into_iter().enumerate() {
                let hits = found.eq_tensor(&tokens).logical_and(&is_own);
                n_hits[i] += count(&hits);
                n_note_hits[i] += count(&hits.logical_and(&is_note));
            }
            let is_right = free.eq_tensor(&tokens).logical_or(&is_own.logical_not());
            n_whole += count(&is_right.all_dim(-1, false));
            Ok(())
        })?;
    }
    let share = |n: i64, of: i64| n as f64 / of.max(1) as f64;
    let measure = |name: &str, label: &str, value, teacher_forced| {
        Measure::new(name, label, value)
            .higher_is_better()
            .protocol(Protocol::TokenAccuracy { teacher_forced })
    };
    let mut measures = vec![
        measure(
            "token_accuracy_teacher_forced",
            "token accuracy, teacher-forced",
            share(n_hits[0], n_tokens),
            true,
        ),
        measure(
            "token_accuracy_free_running",
            "token accuracy, free running",
            share(n_hits[1], n_tokens),
            false,
        ),
        measure(
            "whole_items_free_running",
            "items without a wrong token, free running",
            share(n_whole, dataset.len() as i64),
            false,
        ),
    ];
    if is_melody {
        let per_item = n_notes as f64 / dataset.len().max(1) as f64;
        let notes = [
            (
                "note_accuracy_teacher_forced",
                "notes, teacher-forced",
                true,
            ),
            ("note_accuracy_free_running", "notes, free running", false),
        ];
        let of_notes = notes.into_iter().zip(n_note_hits);
        measures.extend(of_notes.map(|((name, label, teacher_forced), n_hits)| {
            measure(name, label, share(n_hits, n_notes), teacher_forced).note(format!(
                "of the steps at which a note begins, {per_item:.1} per item"
            ))
        }));
    }
    Ok(measures)
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
