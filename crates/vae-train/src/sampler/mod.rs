//! Fits samplers to the latents of a trained model ([`vae_model::Sampler`]), and chooses their sizes on validation items.

mod gradient;
mod items;

use tch::{Kind, no_grad};
use vae_base::derive_seed;
use vae_model::{
    AutoregressiveConfig, Covariance, Generator, LatentSet, LatentSpace, Sampler, SamplerConfig,
    SamplerKind, Vae,
};

use crate::TrainError;
pub use items::{encode_items, n_draws};

/// How samplers are fitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamplerOptions {
    /// The most epochs of a size that a gradient trains; it ends earlier if the validation items do not gain.
    pub epochs: u64,
    /// The number of sizes of a kind that are tried, from the smallest one on; of covariances each shape has its own.
    pub sizes: usize,
    /// Everything random follows from it.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            epochs: 50,
            sizes: usize::MAX,
            seed: 0,
        }
    }
}

/// The progress of a fit.
#[derive(Clone, Copy, Debug)]
pub struct SamplerProgress<'a> {
    /// The size that is being fitted.
    pub config: &'a SamplerConfig,
    /// The share of the work that is done, if every size were tried to its end.
    pub share: f64,
}

/// A fitted sampler.
#[derive(Debug)]
pub struct FittedSampler {
    /// Of the chosen size.
    pub sampler: Sampler,
    /// The mean of ln p over the validation items' latents in nats; of [`SamplerKind::TwoStage`] a lower bound, of
    /// [`SamplerKind::Knn`] none.
    pub log_prob: Option<f64>,
    /// Every size that was tried, with that number.
    pub tried: Vec<(SamplerConfig, Option<f64>)>,
}

/// k of [`SamplerKind::Knn`].
const NEIGHBORS: i64 = 5;

/// The most latents that it holds.
const MOST_NEIGHBORS: i64 = 20_000;

/// The most values of all full covariances.
const MOST_COVARIANCES: i64 = 1 << 24;

/// The most products of an iteration of EM with full covariances, some ten seconds on a core.
const MOST_WORK: i64 = 50_000_000_000;

/// A component gets at least this many latents on average.
const LEAST_OF_COMPONENT: i64 = 10;

/// Latents of the validation items at a time.
const N_AT_A_TIME: i64 = 500;

/// The sizes of a kind, in chains that grow: a chain ends where the larger one is not better.
fn sizes(kind: SamplerKind, space: &LatentSpace, n_train: i64) -> Vec<Vec<SamplerConfig>> {
    let dims = space.latent_dims + space.condition.attributes.len() as i64;
    let n_classes = (space.condition.classes.len() as i64).max(1);
    match kind {
        SamplerKind::Gaussian => {
            let fits = dims.saturating_mul(dims).saturating_mul(n_classes) <= MOST_COVARIANCES;
            let full = fits.then_some(Covariance::Full);
            let of = |covariance| vec![SamplerConfig::Gaussian { covariance }];
            let shapes = full.into_iter().chain([Covariance::Diagonal]);
            shapes.map(of).collect()
        }
        SamplerKind::Gmm => {
            let chain = |covariance| {
                let components = [2, 5, 10, 20, 50, 100, 200].into_iter();
                let fits = |&components: &i64| {
                    let values = match covariance {
                        Covariance::Full => dims.saturating_mul(dims).saturating_mul(components),
                        Covariance::Diagonal => 0,
                    };
                    values <= MOST_COVARIANCES
                        && values.saturating_mul(n_train) <= MOST_WORK
                        && (components == 2 || components * LEAST_OF_COMPONENT <= n_train)
                };
                let of = |components| SamplerConfig::Gmm {
                    components,
                    covariance,
                };
                components.filter(fits).map(of).collect()
            };
            vec![chain(Covariance::Full), chain(Covariance::Diagonal)]
        }
        SamplerKind::Flow => {
            let of = |(layers, hidden)| SamplerConfig::Flow { layers, hidden };
            vec![[(4, 64), (8, 128), (12, 256)].map(of).to_vec()]
        }
        SamplerKind::TwoStage => {
            // As many latents as the data has dimensions, as in the paper.
            let of = |hidden| SamplerConfig::TwoStage {
                latent_dims: space.latent_dims,
                hidden,
            };
            vec![[128, 512].map(of).to_vec()]
        }
        SamplerKind::Knn => vec![vec![SamplerConfig::Knn {
            neighbors: NEIGHBORS,
            points: n_train.min(MOST_NEIGHBORS),
        }]],
        SamplerKind::Autoregressive => {
            let of = |(layers, width)| {
                SamplerConfig::Autoregressive(AutoregressiveConfig { layers, width })
            };
            vec![[(2, 64), (4, 128)].map(of).to_vec()]
        }
    }
}

/// Fits every size of a kind to the latents of training items, and returns the one under which the latents of
/// validation items are most probable. `None` if `progress` returned false.
///
/// # Errors
/// Latents that this kind has no distribution for; no size with a finite likelihood; libtorch refuses.
pub fn fit_sampler(
    vae: &Vae,
    kind: SamplerKind,
    train: &LatentSet,
    validation: &LatentSet,
    options: &SamplerOptions,
    progress: &mut dyn FnMut(&SamplerProgress) -> bool,
) -> Result<Option<FittedSampler>, TrainError> {
    let space = vae.latent_space()?;
    kind.check(&space)?;
    let (train, validation) = (points(vae, kind, train)?, points(vae, kind, validation)?);
    let mut chains = sizes(kind, &space, train.len());
    for chain in &mut chains {
        chain.truncate(options.sizes);
    }
    let n_sizes = chains.iter().map(Vec::len).sum::<usize>() as f64;
    let mut tried: Vec<(SamplerConfig, Option<f64>)> = Vec::new();
    let mut best: Option<(Sampler, Option<f64>)> = None;
    let mut n_before = 0;
    for chain in &chains {
        let mut best_of_chain = f64::NEG_INFINITY;
        for (i, config) in chain.iter().enumerate() {
            let mut report = |share: f64| {
                let share = ((n_before + i) as f64 + share) / n_sizes;
                progress(&SamplerProgress { config, share })
            };
            let sampler = Sampler::new(config, &space, vae.device(), options.seed)?;
            if !sampler.start(&train, options.seed, &mut report)? {
                return Ok(None);
            }
            let log_prob = match config.needs_gradient() {
                true => {
                    let sets = [&train, &validation];
                    match gradient::train(&sampler, sets, options, &mut report)? {
                        Some(log_prob) => Some(log_prob),
                        None => return Ok(None),
                    }
                }
                false => mean_log_prob(&sampler, &validation, options.seed)?,
            };
            tried.push((config.clone(), log_prob));
            let Some(found) = log_prob else {
                return Ok(Some(FittedSampler {
                    sampler,
                    log_prob,
                    tried,
                }));
            };
            let is_best = best.as_ref().and_then(|(_, best)| *best);
            if found.is_finite() && is_best.is_none_or(|best| found > best) {
                best = Some((sampler, log_prob));
            }
            let is_better = found > best_of_chain;
            if !is_better {
                break;
            }
            best_of_chain = found;
        }
        n_before += chain.len();
    }
    let Some((sampler, log_prob)) = best else {
        return Err(TrainError::State {
            owner: "sampler",
            problem: format!(
                "the validation items' latents have no finite likelihood under any {kind}: {tried:?}"
            ),
        });
    };
    Ok(Some(FittedSampler {
        sampler,
        log_prob,
        tried,
    }))
}

/// What a kind is fitted to: latents, or of codes these.
fn points(vae: &Vae, kind: SamplerKind, set: &LatentSet) -> Result<LatentSet, TrainError> {
    let latents = match kind {
        SamplerKind::Autoregressive => vae.codes(&set.latents)?,
        _ => None,
    };
    Ok(LatentSet {
        latents: latents.unwrap_or_else(|| set.latents.shallow_clone()),
        condition: set.condition.as_ref().map(tch::Tensor::shallow_clone),
    })
}

/// The mean of ln p over latents in nats, or of its bound; the same noise for every size.
fn mean_log_prob(sampler: &Sampler, set: &LatentSet, seed: u64) -> Result<Option<f64>, TrainError> {
    let mut generator = Generator::cpu(derive_seed(seed, 0, "sampler validation"));
    mean_of(set, |batch| Ok(sampler.log_prob(batch, &mut generator)?))
}

/// The mean of ln p(z|c) over latents under the model's own prior, in nats.
///
/// # Errors
/// Latents of another shape; libtorch refuses.
pub fn prior_log_prob(vae: &Vae, set: &LatentSet) -> Result<f64, TrainError> {
    let mean = vae.with_fixed_weights(|| {
        mean_of(set, |batch| {
            let latents = (&batch.latents, batch.condition.as_ref());
            Ok(Some(vae.prior_log_prob(latents)?))
        })
    })?;
    Ok(mean.unwrap_or(f64::NAN))
}

fn mean_of(
    set: &LatentSet,
    mut log_prob: impl FnMut(&LatentSet) -> Result<Option<tch::Tensor>, TrainError>,
) -> Result<Option<f64>, TrainError> {
    let (n, mut start, mut sum) = (set.len(), 0, 0.0);
    while start < n {
        let size = N_AT_A_TIME.min(n - start);
        let Some(found) = no_grad(|| log_prob(&set.range(start, size)))? else {
            return Ok(None);
        };
        sum += f64::try_from(found.sum(Kind::Double))?;
        start += size;
    }
    Ok(Some(sum / n as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_within_what_memory_and_latents_allow() {
        let space = |latent_dims| LatentSpace {
            latent_dims,
            shape: None,
            support: vae_model::Support::Euclidean,
            codes: None,
            condition: vae_model::ConditionSpec::default(),
        };
        let components = |latent_dims, n_train| -> Vec<Vec<i64>> {
            let of = |config: &SamplerConfig| match config {
                SamplerConfig::Gmm { components, .. } => *components,
                _ => 0,
            };
            let chains = sizes(SamplerKind::Gmm, &space(latent_dims), n_train);
            chains
                .iter()
                .map(|chain| chain.iter().map(of).collect())
                .collect()
        };
        let all = vec![2, 5, 10, 20, 50, 100, 200];
        assert_eq!(components(2, 50_000), [all.clone(), all.clone()]);
        assert_eq!(components(256, 50_000), [vec![2, 5, 10], all]);
        assert_eq!(components(2, 100), [[2, 5, 10], [2, 5, 10]]);
        assert_eq!(components(2, 1), [[2], [2]]);
    }
}
