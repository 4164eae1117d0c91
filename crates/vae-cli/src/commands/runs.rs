//! `vae runs`: the runs in a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::ValueEnum;
use indicatif::BinaryBytes;
use serde::Serialize;
use vae_data::one_line;
use vae_run::{Metric, Overview, RunDir, RunError};

use super::table;
use crate::Done;
use crate::output::{out, say};

/// Where `train` puts runs.
const DEFAULT_FOLDER: &str = "runs";

/// List the runs in a folder
///
/// The state of a run is running, finished, interrupted (Ctrl-C), failed, stopped (killed: no process trains it
/// and it left no summary), or unknown (running or killed, on a file system without locks). A folder that is no
/// run is listed with the reason. The best elbo, in nats per image, or another metric chosen with `--metric`, is
/// measured on validation images.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder that holds them, or one run
    #[arg(value_name = "DIR", default_value = DEFAULT_FOLDER)]
    folder: PathBuf,

    /// What comes first
    #[arg(long, value_enum, default_value_t = Order::Start)]
    sort: Order,

    /// The validation metric whose best epoch is shown, by its name in metrics.jsonl
    #[arg(long, value_name = "NAME", default_value = "elbo")]
    metric: String,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// The oldest
    Start,
    /// The first in the alphabet
    Name,
}

/// A folder among the runs.
#[derive(Debug, Serialize)]
struct Listed {
    run: PathBuf,
    /// Seconds since 1970.
    started: Option<u64>,
    size_bytes: u64,
    #[serde(flatten)]
    overview: Option<Overview>,
    /// The epoch and value of the requested metric at its best.
    #[serde(skip)]
    best: Option<(u64, f64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let is_default = args.folder == Path::new(DEFAULT_FOLDER);
    if is_default && !args.folder.exists() {
        match args.json {
            true => out!("[]"),
            false => say!("no runs yet: vae train CONFIG makes {DEFAULT_FOLDER}/NAME"),
        }
        return Ok(Done::Fully);
    }
    let mut listed: Vec<Listed> = folders(&args.folder)
        .with_context(|| format!("{}", args.folder.display()))?
        .into_iter()
        .map(|path| look_at(path, &args.metric))
        .collect();
    listed.sort_by(|a, b| a.run.cmp(&b.run));
    if let Order::Start = args.sort {
        listed.sort_by_key(|listed| listed.started);
    }
    if args.json {
        out!("{}", serde_json::to_string_pretty(&listed)?);
    } else if listed.is_empty() {
        say!("{}: no runs", args.folder.display());
    } else {
        print_table(&listed, &args.metric);
    }
    Ok(Done::Fully)
}

/// The folders that are or may be runs.
fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    if RunDir::open(folder).is_ok() {
        return Ok(vec![folder.to_owned()]);
    }
    let visible = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        path.is_dir() && !name.to_string_lossy().starts_with('.')
    };
    let paths = entries.into_iter().map(|entry| entry.path());
    Ok(paths.filter(visible).collect())
}

/// The epoch in which a validation metric was best, and its value.
fn best(run_dir: &RunDir, metric: &str) -> Result<Option<(u64, f64)>, RunError> {
    let ranking = Metric::from(metric).ranking(&run_dir.terms()?);
    let records = run_dir.records()?;
    let best = ranking.best(&records);
    Ok(best.and_then(|record| Some((record.epoch, ranking.of(record)?))))
}

fn look_at(path: PathBuf, metric: &str) -> Listed {
    let read = RunDir::open(&path)
        .and_then(|run_dir| Ok((Overview::read(&run_dir)?, best(&run_dir, metric)?)));
    // `train` writes the config first, and never again.
    let started = fs::metadata(&path)
        .and_then(|metadata| metadata.created().or_else(|_| metadata.modified()))
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .as_ref()
        .map(Duration::as_secs);
    let size_bytes = size(&path);
    let (overview, best, problem) = match read {
        Ok((overview, best)) => (Some(overview), best, None),
        Err(error) => (
            None,
            None,
            Some(format!("{:#}", anyhow::Error::from(error))),
        ),
    };
    Listed {
        run: path,
        started,
        size_bytes,
        overview,
        best,
        problem,
    }
}

/// The size in bytes of the files below a folder. Files that cannot be read or vanish meanwhile count as 0; links are not followed.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    };
    entries.map(size).sum()
}

fn print_table(listed: &[Listed], metric: &str) {
    let title = format!("best {metric}");
    let value_of = |value: f64| match Metric::from(metric) {
        Metric::Elbo | Metric::Reconstruction | Metric::Kl => table::nats(Some(value)),
        _ => format!("{value:.4}"),
    };
    let header = ["run", "state", "epochs", &title, "at epoch", "time", "size"];
    let unknown = || table::UNKNOWN.to_owned();
    let row = |listed: &Listed| {
        let name = listed.run.file_name().unwrap_or(listed.run.as_os_str());
        let overview = listed.overview.as_ref();
        vec![
            name.to_string_lossy().into_owned(),
            overview.map_or("broken", |o| o.state.name()).to_owned(),
            overview.map_or_else(unknown, |o| format!("{}/{}", o.epochs, o.planned_epochs)),
            listed
                .best
                .map_or_else(unknown, |(_, value)| value_of(value)),
            listed
                .best
                .map_or_else(unknown, |(epoch, _)| epoch.to_string()),
            overview.map_or_else(unknown, |o| table::duration(o.seconds)),
            BinaryBytes(listed.size_bytes).to_string(),
        ]
    };
    table::print(2, &header, listed.iter().map(row).collect());

    for listed in listed {
        if let Some(problem) = &listed.problem {
            out!("broken: {}", one_line(problem)); // Names the folder or its file.
        } else if let Some(error) = listed.overview.as_ref().and_then(|o| o.error.as_ref()) {
            let run = listed.run.display();
            out!("{}", one_line(&format!("{run}: {error}")));
        }
    }
}
