//! `vae eval`: the likelihood of held-out images, and what a mixture prior clusters.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tch::{Kind, no_grad};
use vae_data::Dataset;
use vae_data::loader::Batches;
use vae_eval::{
    ImportanceEstimate, clustering_accuracy, importance_estimate, normalized_mutual_information,
};
use vae_model::Vae;

use super::{RunArgs, table};
use crate::Done;

/// Measure a model on held-out images: the likelihood by importance sampling, the clusters of a mixture
///
/// The negative log-likelihood is the importance-weighted bound of K samples for each image (Burda et
/// al. 2016), in nats per image; where the config binarizes its images, on one fixed binarization of
/// each. A model whose prior is a mixture also says into how good clusters it sorts the images: the
/// share of images in the right one, by the best matching of clusters to labels, and the normalized
/// mutual information.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae eval runs/vae
  vae eval runs/vae --samples 5000 --limit 1000
  vae eval runs/mixture-prior --json")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// K, importance samples for each image
    #[arg(long, value_name = "K", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,

    /// Only the first N held-out images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// The same seed gives the same numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    /// What the images are: bytes as they are, or binarized.
    binarization: Option<vae_data::Binarization>,
    n_images: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    likelihood: Option<ImportanceEstimate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bits_per_dim: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clusters: Option<Clusters>,
}

#[derive(Serialize)]
struct Clusters {
    accuracy: f64,
    normalized_mutual_information: f64,
    /// Clusters that at least one image is in.
    n_used: usize,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    let vae = &run.vae;
    let splits = run.run_dir.config()?.dataset.load()?;
    let dataset = match args.limit {
        Some(limit) => {
            let n = splits.test.len().min(limit as usize);
            splits.test.subset(&(0..n).collect::<Vec<_>>())
        }
        None => splits.test,
    };
    let likelihood = match vae.config().posterior.has_density() {
        true => {
            let bar = ProgressBar::new(dataset.len() as u64).with_style(
                ProgressStyle::with_template("{bar:24} {pos}/{len} images, {eta} left")?,
            );
            let estimate = importance_estimate(vae, &dataset, args.samples, args.seed, |n_done| {
                bar.set_position(n_done as u64);
            })?;
            bar.finish_and_clear();
            Some(estimate)
        }
        false => None,
    };
    let report = Report {
        binarization: dataset.binarization(),
        n_images: dataset.len(),
        bits_per_dim: likelihood.and_then(|likelihood| {
            let config = &vae.config().likelihood;
            config.bits_per_dim(-likelihood.negative_log_likelihood, vae.image_shape())
        }),
        likelihood,
        clusters: no_grad(|| clusters(vae, &dataset))?,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(Done::Fully)
}

/// How well p(c|z) at each posterior's center sorts the images; none without components or labels.
fn clusters(vae: &Vae, dataset: &Dataset) -> Result<Option<Clusters>> {
    let Some(labels) = dataset.labels() else {
        return Ok(None);
    };
    let mut found: Vec<i64> = Vec::new();
    for images in Batches::sequential(dataset, 500, vae.device()) {
        let center = vae.encode(&images?)?.center();
        let Some(log_assignment) = vae.log_assignment(&center)? else {
            return Ok(None);
        };
        found.extend(Vec::<i64>::try_from(log_assignment.argmax(1, false))?);
    }
    let labels = Vec::<i64>::try_from(labels.to_kind(Kind::Int64))?;
    let mut used = found.clone();
    used.sort_unstable();
    used.dedup();
    Ok(Some(Clusters {
        accuracy: clustering_accuracy(&found, &labels),
        normalized_mutual_information: normalized_mutual_information(&found, &labels),
        n_used: used.len(),
    }))
}

fn print(report: &Report) {
    let binarization = match report.binarization {
        Some(binarization) => format!("binarized, {binarization:?}").to_lowercase(),
        None => "as they are".to_owned(),
    };
    let mut rows = vec![vec![
        "held-out images".to_owned(),
        report.n_images.to_string(),
        binarization,
    ]];
    let mut row = |name: &str, value: String, unit: &str| {
        rows.push(vec![name.to_owned(), value, unit.to_owned()]);
    };
    match &report.likelihood {
        Some(likelihood) => {
            let ImportanceEstimate {
                n_samples,
                negative_log_likelihood,
                standard_error,
                elbo,
                effective_sample_size,
                ..
            } = likelihood;
            row("elbo", table::nats(Some(*elbo)), "nats per image");
            row(
                "negative log-likelihood",
                table::nats(Some(*negative_log_likelihood)),
                &format!("± {standard_error:.2} nats per image, bound of K = {n_samples} samples"),
            );
            row(
                "effective sample size",
                format!("{effective_sample_size:.1}"),
                &format!("of {n_samples}"),
            );
        }
        None => row(
            "negative log-likelihood",
            table::UNKNOWN.to_owned(),
            "a deterministic posterior has no density",
        ),
    }
    if let Some(bits) = report.bits_per_dim {
        row("bits/dim", format!("{bits:.3}"), "");
    }
    if let Some(clusters) = &report.clusters {
        let used = format!("{} clusters in use", clusters.n_used);
        row(
            "cluster accuracy",
            format!("{:.4}", clusters.accuracy),
            &used,
        );
        let information = clusters.normalized_mutual_information;
        row("cluster NMI", format!("{information:.4}"), "");
    }
    table::print(1, &["", "", ""], rows);
}
