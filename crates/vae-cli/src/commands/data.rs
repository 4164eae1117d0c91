//! `vae data`: the images or other items of a config, their pack, and how fast they load.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use vae_base::{AttributeValues, counted};
use vae_data::audio_folder::AudioFolder;
use vae_data::image_folder::{ImageFolder, ImageFolderConfig};
use vae_data::loader::Batches;
use vae_data::{BadFiles, DataError, Dataset, ItemKind, Splits, ValueStatistics, array_statistics};
use vae_run::RunConfig;

use crate::output::{self, out, say};
use crate::run_config::ConfigError;
use crate::{Done, run_config};

/// Inspect a config's images: pack, check, count or time them
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Decode every image of a folder or zip into its pack, unless it is up to date
    Pack(ConfigArgs),
    /// Check every byte of the pack against the files; exit 1 if it is not up to date
    ///
    /// Prints the bad files, a line for each: name, tab, reason.
    Check(ConfigArgs),
    /// Print as JSON: items in each split, their shape and mean, attributes, classes, bad files
    Stats(ConfigArgs),
    /// Measure images per second, decoded and from the pack
    Bench(BenchArgs),
}

#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// The config file
    config: PathBuf,

    /// Change a value, as in `--set dataset.image_folder.image_size=96`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// The data set's folder or file, instead of the config's
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct BenchArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Threads that decode [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,

    /// Images in a pass; if there are fewer, they are repeated
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    images: u32,

    /// Repetitions
    #[arg(long, default_value_t = 3)]
    reps: u32,

    /// The shortest duration of a repetition in seconds; passes are repeated until it is reached
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    match args.task {
        Task::Pack(args) => pack(&args),
        Task::Check(args) => check(&args),
        Task::Stats(args) => stats(&args),
        Task::Bench(args) => bench(&args),
    }
}

impl ConfigArgs {
    fn load(&self) -> Result<RunConfig> {
        let mut config = run_config::load(&self.config, &self.settings)?;
        if let Some(path) = &self.data {
            config.dataset = config.dataset.at(path.clone());
        }
        run_config::check(&self.config, &config)?;
        // Its tables are used by themselves.
        config.dataset = config.dataset.located();
        Ok(config)
    }

    fn needs_pack(&self, error: &DataError) -> anyhow::Error {
        let data = self.data.as_ref();
        let data = data.map_or(String::new(), |data| format!(" --data {}", data.display()));
        anyhow!(
            "{error}; `vae data pack {}{data}` makes it",
            self.config.display()
        )
    }

    fn image_folder(&self) -> Result<ImageFolderConfig> {
        self.load()?.dataset.image_folder.ok_or_else(|| {
            let path = self.config.display();
            ConfigError::new(format!("{path}: this command needs [dataset.image_folder]")).into()
        })
    }
}

fn pack(args: &ConfigArgs) -> Result<Done> {
    if let Some(config) = args.load()?.dataset.audio_folder {
        let folder = AudioFolder::open(&config)?;
        if let Err(problem) = folder.check_pack() {
            let (file, n) = (folder.pack_file(), folder.n_files());
            say!("{} {problem}: decoding {n} files", file.display());
            let bad = folder.write_pack()?;
            say!("{} bad files", bad.len());
        }
        output::print_path(&folder.pack_file());
        return Ok(Done::Fully);
    }
    let folder = ImageFolder::open(&args.image_folder()?)?;
    if let Err(problem) = folder.check_pack() {
        let file = folder.pack_file();
        say!(
            "{} {problem}: decoding {}",
            file.display(),
            counted(folder.n_files(), "file")
        );
        let start = Instant::now();
        let bad = folder.write_pack()?;
        say!(
            "{}, {:.1} s",
            counted(bad.len(), "bad file"),
            start.elapsed().as_secs_f64()
        );
    }
    output::print_path(&folder.pack_file());
    Ok(Done::Fully)
}

fn check(args: &ConfigArgs) -> Result<Done> {
    if let Some(config) = args.load()?.dataset.audio_folder {
        let folder = AudioFolder::open(&config)?;
        let path = folder.pack_file();
        if let Err(problem) = folder.check_pack() {
            return Err(args.needs_pack(&DataError::Pack { path, problem }));
        }
        let (clips, bad) = folder.clips()?;
        let (n, n_bad) = (clips.len(), bad.len());
        say!(
            "{} is up to date: {n} clips, {n_bad} bad files",
            path.display()
        );
        output::print(format_args!("{}", bad.to_text()));
        return Ok(Done::Fully);
    }
    let folder = ImageFolder::open(&args.image_folder()?)?;
    if let Err(problem) = folder.check_pack() {
        let path = folder.pack_file();
        return Err(args.needs_pack(&DataError::Pack { path, problem }));
    }
    let (images, bad) = folder.images()?;
    say!(
        "{} is up to date: {} of {}, {}",
        folder.pack_file().display(),
        counted(images.len(), "image"),
        images.shape(),
        counted(bad.len(), "bad file")
    );
    output::print(format_args!("{}", bad.to_text()));
    Ok(Done::Fully)
}

fn stats(args: &ConfigArgs) -> Result<Done> {
    let splits = args.load()?.dataset.load()?;
    let Splits {
        train,
        validation,
        test,
        report,
    } = &splits;
    let attributes = train.attributes().map(|known| {
        let summary = |name: &String| {
            let values: Vec<f32> = known.column(name).into_iter().flatten().flatten().collect();
            let n = values.len() as f64;
            let known = values.iter().copied();
            let summary = match AttributeValues::of(known.clone()) {
                Some(AttributeValues::YesNo) => {
                    json!({ "share_of_yes": known.filter(|value| *value > 0.0).count() as f64 / n })
                }
                _ => json!({ "mean": known.map(f64::from).sum::<f64>() / n }),
            };
            (name.clone(), summary)
        };
        known
            .names()
            .iter()
            .map(summary)
            .collect::<serde_json::Map<_, _>>()
    });
    let stats = json!({
        "shape": train.item().to_string(),
        "element": train.item().kind.element(),
        "train": numbers(train)?,
        "validation": validation.as_ref().map(numbers).transpose()?,
        "test": numbers(test)?,
        "partition_file": report.partition_file,
        "images_in_no_split": report.n_unlisted,
        "tunes_left_out": report.left_out.iter().cloned().collect::<BTreeMap<_, _>>(),
        "attributes_file": report.attributes_file,
        "images_without_attributes": report.n_without_attributes,
        "attributes_of_train": attributes,
        "classes_of_train": classes(train)?,
        "bad_files": bad_files(&report.bad_files),
        "files_not_read": report.unread_files.counts().collect::<BTreeMap<_, _>>(),
    });
    out!("{}", serde_json::to_string_pretty(&stats)?);
    Ok(Done::Fully)
}

/// How many items there are of each class; null where none is known.
fn classes(dataset: &Dataset) -> Result<Option<BTreeMap<String, usize>>> {
    let Some(labels) = dataset.labels() else {
        return Ok(None);
    };
    let mut counts = BTreeMap::new();
    for class in Vec::<i64>::try_from(labels)? {
        if class >= 0 {
            *counts.entry(dataset.class_name(class)).or_insert(0) += 1;
        }
    }
    Ok(Some(counts))
}

fn bad_files(bad: &BadFiles) -> Vec<Value> {
    bad.files()
        .iter()
        .map(|file| json!({ "name": file.name, "reason": file.reason }))
        .collect()
}

/// Statistics of the values of a split.
fn numbers(dataset: &Dataset) -> Result<Value> {
    if let ItemKind::Tokens { vocabulary, end } = dataset.item().kind {
        return tokens(dataset, vocabulary, end);
    }
    match array_statistics(dataset) {
        Some(statistics) => Ok(values(dataset, &statistics)),
        None => pixels(dataset),
    }
}

/// The number of items, and for each channel (for vectors each value) the mean, the standard deviation, the range and the
/// share of missing values. Null if every value is missing.
fn values(dataset: &Dataset, statistics: &[ValueStatistics]) -> Value {
    let each = |number: &dyn Fn(&ValueStatistics) -> f64| -> Vec<Option<f64>> {
        let known = |s: &ValueStatistics| (s.n_missing < s.n).then(|| number(s));
        statistics.iter().map(known).collect()
    };
    let missing = |s: &ValueStatistics| s.n_missing as f64 / s.n.max(1) as f64;
    json!({
        "items": dataset.len(),
        "mean": each(&|s| s.mean),
        "standard_deviation": each(&|s| s.std),
        "min": each(&|s| s.min.into()),
        "max": each(&|s| s.max.into()),
        "missing_share": statistics.iter().map(missing).collect::<Vec<_>>(),
    })
}

/// The number of sequences, of different tokens, and of the tokens of a sequence, its end among them.
fn tokens(dataset: &Dataset, vocabulary: i64, end: Option<i64>) -> Result<Value> {
    let (mut sum, mut longest) = (0, 0);
    for batch in Batches::sequential(dataset, 256, Device::Cpu) {
        let items = batch?.items;
        for i in 0..items.size()[0] {
            let tokens = Vec::<i64>::try_from(items.get(i).contiguous().view(-1))?;
            let first_end = tokens.iter().position(|token| Some(*token) == end);
            let n = first_end.map_or(tokens.len(), |place| place + 1);
            (sum, longest) = (sum + n, longest.max(n));
        }
    }
    Ok(json!({
        "items": dataset.len(),
        "vocabulary": vocabulary,
        "mean_tokens": sum as f64 / dataset.len().max(1) as f64,
        "longest": longest,
    }))
}

/// The number of images, and the mean and standard deviation of each channel's bytes.
fn pixels(dataset: &Dataset) -> Result<Value> {
    let double = (Kind::Double, Device::Cpu);
    let channels = dataset.shape().channels;
    let mut sum = Tensor::zeros([channels], double);
    let mut sum_of_squares = Tensor::zeros([channels], double);
    for images in Batches::sequential(dataset, 256, Device::Cpu) {
        let images = images?.items.to_kind(Kind::Double);
        let over_pixels = &[0, 2, 3][..];
        sum += images.sum_dim_intlist(over_pixels, false, Kind::Double);
        sum_of_squares += images
            .square()
            .sum_dim_intlist(over_pixels, false, Kind::Double);
    }
    let shape = dataset.shape();
    let n = (dataset.len() as i64 * shape.height * shape.width) as f64;
    let mean = sum / n;
    let variance = sum_of_squares / n - mean.square();
    Ok(json!({
        "images": dataset.len(),
        "mean": Vec::<f64>::try_from(mean)?,
        "standard_deviation": Vec::<f64>::try_from(variance.clamp_min(0.0).sqrt())?,
    }))
}

/// Batches of the size that the peer in docs/data.md uses.
const BENCH_BATCH: usize = 64;

fn bench(args: &BenchArgs) -> Result<Done> {
    let mut config = args.config.image_folder()?;
    config.workers = args.workers.map(usize::from).or(config.workers);
    let workers = config
        .workers
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    for pack in [false, true] {
        config.pack = pack;
        let folder = ImageFolder::open(&config)?;
        let (images, _) = folder.images()?;
        if pack && folder.check_pack().is_err() {
            anyhow::bail!("{} cannot be used", folder.pack_file().display());
        }
        let positions = (0..images.len()).cycle().take(args.images as usize);
        let positions: Vec<usize> = positions.collect();
        let images = images.subset(&positions);
        for _ in 0..args.reps {
            let start = Instant::now();
            let mut n_passes = 0;
            let seconds = loop {
                for batch in Batches::shuffled(&images, BENCH_BATCH, Device::Cpu, 0, n_passes) {
                    drop(batch?);
                }
                n_passes += 1;
                let seconds = start.elapsed().as_secs_f64();
                if seconds >= args.seconds {
                    break seconds;
                }
            };
            let n_images = n_passes as f64 * images.len() as f64;
            out!(
                "{}",
                json!({
                    "from": if pack { "pack" } else { "files" },
                    "workers": if pack { 1 } else { workers },
                    "images_per_s": (n_images / seconds).round(),
                })
            );
        }
    }
    Ok(Done::Fully)
}
