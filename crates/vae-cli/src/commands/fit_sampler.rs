//! `vae fit-sampler`: distributions of the latents of a trained model's training items.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tch::{Device, Kind};
use vae_data::Dataset;
use vae_model::{LatentSet, SamplerConfig, SamplerKind, SamplerRecord, Support};
use vae_run::{RunDir, Session};
use vae_train::{
    FittedSampler, SamplerOptions, encode_items, fit_sampler, n_draws, prior_log_prob,
};

use super::{RunArgs, table};
use crate::Done;
use crate::output::{out, say};
use crate::progress::{self, share_bar};
use crate::signals;

/// Fit a distribution to the latents of the training images, from which `vae sample` then draws
///
/// The latents of images differ from the prior's, so that images of the prior's latents may be patchy. gaussian, gmm (a mixture of
/// Gaussians), flow (RealNVP), two-stage (a second VAE), knn (between neighbors) and autoregressive (a transformer over codes or the
/// places of a latent map) are fitted to latents of training images, in a size chosen on validation images, and stored in the run's
/// folder samplers, with the checksum of the weights that they belong to. docs/samplers.md.
///
/// The table shows the mean log-likelihood of the validation images' latents in nats, and that of the model's prior: higher is better.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae fit-sampler runs/mnist                            gaussian, gmm and flow; of codes autoregressive
  vae fit-sampler runs/celeba --kind gmm,two-stage
  vae sample runs/mnist --out new.png                   takes the best one
  vae sample runs/mnist --sampler knn --out knn.png
  vae eval runs/mnist --only pictures --sampler gmm")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// gaussian, gmm, flow, two-stage, knn or autoregressive, several with commas [default: gaussian,gmm,flow; of codes autoregressive;
    /// on a sphere knn]
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    kind: Vec<SamplerKind>,

    #[command(flatten)]
    effort: Effort,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// How much is fitted to.
#[derive(Debug, clap::Args)]
struct Effort {
    /// Only the first N training images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    limit: Option<u32>,

    /// The most epochs of each size of flow, two-stage and autoregressive, which end earlier where validation images do not gain
    #[arg(long, value_name = "N", default_value_t = EPOCHS, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    epochs: u32,

    /// Only the N smallest sizes of each kind, which is quicker
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sizes: Option<u32>,

    /// The same seed gives the same sampler
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

const EPOCHS: u32 = 50;

/// Without validation images, the share of the training images whose latents sizes are chosen by.
const HELD_OUT: f64 = 0.1;

/// Steps of the bar of one kind.
const BAR_STEPS: f64 = 1000.0;

pub(crate) fn run(args: Args) -> Result<Done> {
    ensure!(
        args.run.condition.is_none(),
        "--condition: a sampler is fitted for every condition; `vae sample --condition` draws of one"
    );
    let run = args.run.open()?;
    let space = run.vae().latent_space()?;
    let kinds = match args.kind.is_empty() {
        true => default_kinds(space.support, space.latent_dims),
        false => {
            let mut kinds = args.kind.clone();
            kinds.sort();
            kinds.dedup();
            kinds
        }
    };
    for kind in &kinds {
        kind.check(&space)?;
    }
    run.run_dir()?.check_writable()?;
    let stop = signals::stop_when_asked(" after this step")?;
    let (rows, done) = fit_all(&run, kinds, &args.effort, &stop)?;
    report(&run, &rows, args.json)?;
    Ok(done)
}

/// Fits the samplers that a config asks for to the best checkpoint of its run, which has just been trained.
pub(super) fn after_training(
    run_dir: &RunDir,
    device: Device,
    kinds: &[SamplerKind],
    stop: &Arc<AtomicBool>,
) -> Result<Done> {
    let run = Session::open(run_dir.path(), device)?;
    let effort = Effort {
        limit: None,
        epochs: EPOCHS,
        sizes: None,
        seed: 0,
    };
    let (rows, done) = fit_all(&run, kinds.to_vec(), &effort, stop)?;
    for row in rows {
        let nats = match (row.record.log_prob, row.record.prior_log_prob) {
            (Some(log_prob), Some(prior)) => {
                format!(", {log_prob:.1} nats of validation latents (the prior: {prior:.1})")
            }
            _ => String::new(),
        };
        say!("{}: {}{nats}", row.file.display(), row.config);
    }
    if let Some(best) = run.find_samplers()?.best() {
        let (path, kind) = (run_dir.path().display(), best.config.kind());
        say!("`vae sample {path}` draws from {kind}");
    }
    Ok(done)
}

/// The samplers that were fitted, in order, and whether all were.
fn fit_all(
    run: &Session,
    kinds: Vec<SamplerKind>,
    effort: &Effort,
    stop: &Arc<AtomicBool>,
) -> Result<(Vec<Row>, Done)> {
    let Some(material) = Material::encode(run, effort, stop)? else {
        return Ok((Vec::new(), Done::Interrupted));
    };
    let base = SamplerRecord {
        weights: run.checkpoint()?.weights_digest()?,
        checkpoint: run.checkpoint()?.name(),
        log_prob: None,
        is_bound: false,
        prior_log_prob: None,
        n_train: material.n_train,
        n_validation: material.n_validation,
        seed: effort.seed,
    };
    let prior = prior_log_prob(run.vae(), &material.validation)?;
    let options = SamplerOptions {
        epochs: effort.epochs.into(),
        sizes: effort.sizes.map_or(usize::MAX, |sizes| sizes as usize),
        seed: effort.seed,
    };
    let (mut rows, mut done) = (Vec::new(), Done::Fully);
    for kind in kinds {
        let Some(fitted) = fit(run, kind, &material, &options, stop)? else {
            done = Done::Interrupted;
            break;
        };
        let record = SamplerRecord {
            log_prob: fitted.log_prob,
            is_bound: fitted.log_prob.is_some() && !kind.has_likelihood(),
            prior_log_prob: prior.is_finite().then_some(prior),
            ..base.clone()
        };
        let file = run.run_dir()?.save_sampler(&fitted.sampler, &record)?;
        rows.push(Row {
            config: fitted.sampler.config().clone(),
            record,
            file,
            tried: fitted.tried,
        });
    }
    Ok((rows, done))
}

fn default_kinds(support: Support, latent_dims: i64) -> Vec<SamplerKind> {
    match support {
        Support::Codes => vec![SamplerKind::Autoregressive],
        Support::Sphere => vec![SamplerKind::Knn],
        Support::Euclidean if latent_dims < 2 => vec![SamplerKind::Gaussian, SamplerKind::Gmm],
        Support::Euclidean => vec![SamplerKind::Gaussian, SamplerKind::Gmm, SamplerKind::Flow],
    }
}

/// The latents of a fit.
struct Material {
    train: LatentSet,
    validation: LatentSet,
    n_train: i64,
    n_validation: i64,
}

impl Material {
    fn encode(run: &Session, effort: &Effort, stop: &AtomicBool) -> Result<Option<Self>> {
        let splits = run.splits()?;
        let train = match effort.limit {
            Some(limit) => splits.train.truncated(limit as usize),
            None => splits.train,
        };
        let (train, validation) = match splits.validation {
            Some(validation) => (train, validation),
            None => {
                let n = train.len();
                let n_held_out = ((n as f64 * HELD_OUT).round() as usize).max(1);
                ensure!(
                    n > n_held_out,
                    "this run has {n} training images and no validation images to choose a size on"
                );
                say!(
                    "this run has no validation images: sizes are chosen on the last {n_held_out} training images"
                );
                let rest: Vec<usize> = (n - n_held_out..n).collect();
                (train.truncated(n - n_held_out), train.subset(&rest))
            }
        };
        let n_draws = n_draws(run.vae(), train.len());
        let seed = effort.seed;
        let Some(of_train) = encode(run, &train, n_draws, seed, "training images", stop)? else {
            return Ok(None);
        };
        let Some(of_validation) = encode(run, &validation, 1, seed, "validation images", stop)?
        else {
            return Ok(None);
        };
        for set in [&of_train, &of_validation] {
            ensure!(
                i64::try_from(set.latents.isfinite().all().to_kind(Kind::Int64))? == 1,
                "the model's latents have NaN or infinite values; did its training diverge?"
            );
        }
        Ok(Some(Self {
            train: of_train,
            validation: of_validation,
            n_train: train.len() as i64,
            n_validation: validation.len() as i64,
        }))
    }
}

fn encode(
    run: &Session,
    dataset: &Dataset,
    n_draws: usize,
    seed: u64,
    what: &str,
    stop: &AtomicBool,
) -> Result<Option<LatentSet>> {
    let n = dataset.len() as u64;
    let bar = progress::bar(n, "{msg} {bar:24} {pos}/{len}, {eta} left")?;
    bar.set_message(what.to_owned());
    let latents = encode_items(run.vae(), dataset, n_draws, seed, &mut |n_done| {
        bar.set_position(n_done as u64);
        !stop.load(Ordering::Relaxed)
    })
    .with_context(|| format!("encoding the {what}"))?;
    bar.finish_and_clear();
    Ok(latents)
}

fn fit(
    run: &Session,
    kind: SamplerKind,
    material: &Material,
    options: &SamplerOptions,
    stop: &Arc<AtomicBool>,
) -> Result<Option<FittedSampler>> {
    let bar = share_bar(BAR_STEPS as u64, kind.to_string());
    if bar.is_hidden() {
        say!("fitting {kind}");
    }
    let mut shown = None;
    let fitted = fit_sampler(
        run.vae(),
        kind,
        &material.train,
        &material.validation,
        options,
        &mut |progress| {
            if shown.as_ref() != Some(progress.config) {
                bar.set_message(format!("{kind}: {}", progress.config));
                shown = Some(progress.config.clone());
            }
            bar.set_position((progress.share * BAR_STEPS) as u64);
            !stop.load(Ordering::Relaxed)
        },
    )
    .with_context(|| format!("fitting {kind}"))?;
    bar.finish_and_clear();
    Ok(fitted)
}

/// A fitted sampler and its file.
struct Row {
    config: SamplerConfig,
    record: SamplerRecord,
    file: PathBuf,
    tried: Vec<(SamplerConfig, Option<f64>)>,
}

fn report(run: &Session, rows: &[Row], as_json: bool) -> Result<()> {
    let found = run.find_samplers()?;
    let best = found.best().map(|found| found.config.kind());
    if as_json {
        let samplers: Vec<Value> = rows.iter().map(Row::json).collect();
        let report = json!({ "best": best, "samplers": samplers });
        out!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    if rows.is_empty() {
        return Ok(());
    }
    let nats = |value: Option<f64>, is_bound: bool| {
        let bound = if is_bound { "≥ " } else { "" };
        value.map_or(table::UNKNOWN.to_owned(), |value| {
            format!("{bound}{value:.2}")
        })
    };
    let of = |row: &Row| {
        vec![
            row.config.kind().to_string(),
            row.config.to_string(),
            nats(row.record.log_prob, row.record.is_bound),
            nats(row.record.prior_log_prob, false),
        ]
    };
    let header = ["sampler", "size", "nats", "prior"];
    table::print(2, &header, rows.iter().map(of).collect());
    match best {
        Some(best) => say!("`vae sample` takes {best}, the best one on validation images"),
        None => say!(
            "`vae sample` takes the prior: no sampler whose likelihood is known is better; --sampler names one"
        ),
    }
    Ok(())
}

impl Row {
    fn json(&self) -> Value {
        let tried: Vec<Value> = self
            .tried
            .iter()
            .map(|(config, log_prob)| json!({ "size": config.to_string(), "log_prob": log_prob }))
            .collect();
        json!({
            "kind": self.config.kind(),
            "size": self.config.to_string(),
            "log_prob": self.record.log_prob,
            "is_bound": self.record.is_bound,
            "prior_log_prob": self.record.prior_log_prob,
            "n_train": self.record.n_train,
            "n_validation": self.record.n_validation,
            "file": self.file,
            "tried": tried,
        })
    }
}
