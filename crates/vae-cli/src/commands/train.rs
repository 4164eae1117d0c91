//! `vae train`: from a config to a run directory.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use vae_data::derive_seed;
use vae_model::{ImageShape, Vae};
use vae_train::{
    Callback, Checkpoints, MetricsLog, Pictures, RunConfig, RunDir, Stop, Summary, fit, memory,
};

use crate::device::{self, DeviceChoice};
use crate::progress::Progress;
use crate::{Done, run_config};

/// Train a model as a config file says
///
/// Leaves a run directory: the resolved config, metrics.jsonl, pictures of every epoch, the best
/// and the last weights, summary.json. Ctrl-C stops after the step in progress and saves.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae train configs/mnist.toml
  vae train configs/mnist.toml --limit 2000 --epochs 2      a quick look
  vae train configs/mnist.toml --set model.latent_dims=10 --out runs/ten")]
pub(crate) struct Args {
    /// The config file
    config: PathBuf,

    /// Change a value, as in `--set model.latent_dims=10` (any number of times)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// Passes over the training images, instead of the config's
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,

    /// Only the first N training images and N/5 held-out ones, for a quick look
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// The seed, instead of the config's
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// The run directory [default: runs/ and the name of the config, numbered where that is taken]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,

    /// Print summary.json at the end instead of the names of the pictures
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let config = resolve(&args)?;
    let device = args.device.select()?;
    let splits = config.dataset.load()?;
    let shape = splits.train.shape();
    let image = ImageShape {
        channels: shape.channels,
        height: shape.height,
        width: shape.width,
    };
    tch::manual_seed(derive_seed(config.seed, 0, "initial weights") as i64);
    let vae = Vae::new(&config.model, image, device)?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| free_folder(&args.config));
    let run_dir = RunDir::create(&out, &config)?;
    eprintln!(
        "{}: {} training and {} held-out images of {image}, {} parameters, {} ({} threads)",
        out.display(),
        splits.train.len(),
        splits.test.len(),
        vae.n_parameters(),
        device::name(device),
        tch::get_num_threads(),
    );

    let stop = stop_on_ctrl_c()?;
    let mut callbacks: Vec<Box<dyn Callback>> = vec![
        Box::new(MetricsLog::open(&run_dir)?),
        Box::new(Checkpoints::new(run_dir.clone())),
        Box::new(Pictures::new(run_dir.clone())),
        Box::new(Progress::new()),
    ];
    let start = Instant::now();
    let outcome = fit(&vae, &splits, &config, &stop, &mut callbacks);
    let pictures = match outcome.position.epochs {
        0 => Vec::new(),
        epoch => ["manifold", "samples", "reconstructions"]
            .map(|name| run_dir.picture_file(epoch, name))
            .into(),
    };
    let summary = Summary {
        run: out,
        state: match outcome.ended {
            Ok(Stop::Interrupted) => "interrupted",
            Ok(Stop::Finished | Stop::Callback) => "finished",
            Err(_) => "failed",
        }
        .to_owned(),
        error: outcome.ended.as_ref().err().map(ToString::to_string),
        epochs: outcome.position.epochs,
        steps: outcome.position.steps,
        best: outcome.best,
        last_train: outcome.last_train,
        last_test: outcome.last_test,
        seconds: start.elapsed().as_secs_f64(),
        n_parameters: vae.n_parameters(),
        n_train_images: splits.train.len(),
        n_test_images: splits.test.len(),
        device: device::name(device),
        threads: tch::get_num_threads(),
        peak_resident_bytes: memory::peak_resident_bytes(),
        pictures,
    };
    let written = run_dir.write_summary(&summary);
    let ended = outcome.ended?; // The cause comes before what may follow from it.
    written?;
    report(&summary, ended, args.json)
}

/// The config of the command: the file, `--set`, then the other options.
fn resolve(args: &Args) -> Result<RunConfig> {
    let mut config = run_config::load(&args.config, &args.settings)?;
    if let Some(epochs) = args.epochs {
        config.training.epochs = epochs;
    }
    if let Some(seed) = args.seed {
        config.seed = seed;
    }
    if let Some(limit) = args.limit {
        let limit = limit as usize;
        config.dataset.train_limit = Some(limit);
        config.dataset.test_limit = Some((limit / 5).max(1));
    }
    run_config::check(&args.config, &config)?;
    Ok(config)
}

/// `runs/mnist` for `configs/mnist.toml`, or the first of `runs/mnist-2`, `-3`, … that is free.
fn free_folder(config: &Path) -> PathBuf {
    let name = config.file_stem().map_or_else(
        || "run".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    );
    let runs = Path::new("runs");
    let first = runs.join(&name);
    let numbered = (2..).map(|i| runs.join(format!("{name}-{i}")));
    std::iter::once(first.clone())
        .chain(numbered)
        .find(|folder| !folder.exists())
        .unwrap_or(first)
}

/// A flag that Ctrl-C raises; the second Ctrl-C exits at once.
fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::Relaxed) {
            process::exit(130);
        }
        eprintln!("stopping after this step; once more to exit at once");
    })
    .context("Ctrl-C handler")?;
    Ok(stop)
}

fn report(summary: &Summary, ended: Stop, as_json: bool) -> Result<Done> {
    if let Some(best) = &summary.best {
        eprintln!(
            "{} after {} epochs in {:.0} s. Best: epoch {}, test elbo {:.2} nats per image \
             (reconstruction {:.2}, kl {:.2})",
            summary.state,
            summary.epochs,
            summary.seconds,
            best.epoch,
            best.means.elbo,
            best.means.reconstruction,
            best.means.kl,
        );
    }
    eprintln!("weights: {}", summary.run.join("checkpoints").display());
    if as_json {
        println!("{}", serde_json::to_string_pretty(summary)?);
    } else {
        for picture in &summary.pictures {
            println!("{}", picture.display());
        }
    }
    Ok(match ended {
        Stop::Interrupted => Done::Interrupted,
        Stop::Finished | Stop::Callback => Done::Fully,
    })
}
