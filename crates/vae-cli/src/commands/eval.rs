//! `vae eval`: the evaluation of a model, each result with its protocol.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tracing::warn;
use vae_base::files;
use vae_data::{Binarization, Dataset, DatasetConfig};
use vae_eval::{
    AnnealedSampling, Better, DisentanglementOptions, EvalError, Findings, ImagesUsed,
    LatentOptions, LikelihoodOptions, Measure, PAGE_FILE, PictureOptions, Report, Section,
    SoundOptions, SplitUsed, Subject, Topic, TrainedOn, comparisons, figures,
    measure_disentanglement, measure_latents, measure_likelihood_among, measure_pictures,
    measure_sound, render, write_page,
};
use vae_model::Sampler;
use vae_run::Session;
use vae_torch::Group;

use super::sampler::{self, Choice};
use super::{RunArgs, table};
use crate::output::{self, out};
use crate::processes::{self, Placement, Processes, launcher};
use crate::run_config::ConfigError;
use crate::{Done, progress};

/// Evaluate a model on held-out images: prints a table, writes eval.json and report.html to the run
///
/// likelihood: elbo and its terms; the negative log-likelihood as the importance-weighted bound of K samples for each image (Burda
/// et al. 2016). pictures: reconstructions and samples compared with the images. latents: the information in the latent dimensions,
/// the difference between aggregate posterior and prior, how well classes and attributes are predicted from the latents, the clusters
/// of a mixture prior. disentanglement: whether single dimensions correspond to single factors, for a run on sprites.
///
/// Sections that are not requested stay in the report unchanged if they are of the same weights.
///
/// Weights that belong to no run, such as those of `vae import`, are measured on the images of --data, and the report is written beside
/// them: reconstructions and latents, unless --only says otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae eval runs/mnist
  vae eval runs/mnist --only likelihood --samples 5000 --limit 1000 --binarization dynamic
  vae eval runs/mnist --only likelihood --annealed 100      a check that needs no encoder
  vae eval runs/mnist --data datasets/binarized-mnist       Larochelle's test images
  vae eval runs/celeba --features inception.ts              Fréchet distance on features of your own
  vae eval runs/mnist --only pictures --sampler gmm         samples of a fitted sampler
  vae eval tokenizer --data photos/ --features inception.ts   an imported autoencoder on pictures of your own
  vae eval runs/mnist --only likelihood --samples 5000 --processes 4
  vae eval runs/mnist --json")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// Only these sections [default: all that apply to the run's images]
    #[arg(long, value_enum, value_name = "SECTION", value_delimiter = ',')]
    only: Vec<TopicChoice>,

    /// K, the number of importance samples for each image
    #[arg(long, value_name = "K", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: u32,

    /// Also the likelihood of the first N images by annealed importance sampling
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    annealed: Option<u32>,

    /// Its number of chains for each image
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    chains: u32,

    /// Its number of distributions between prior and posterior
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    temperatures: u32,

    /// A TorchScript file that extracts features of images, for Fréchet distance and similar measures (docs/features.md)
    #[arg(long, value_name = "FILE")]
    features: Vec<PathBuf>,

    /// Images to sample from the model for them [default: as many as there are held-out images, at most 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=10_000_000))]
    generated: Option<u32>,

    /// Where the latents of samples come from: prior, or a sampler of `vae fit-sampler`
    #[arg(long, value_name = "SAMPLER", default_value = "prior")]
    sampler: Choice,

    /// The split: test, or validation to choose between recipes without using the test images
    #[arg(long, value_enum, default_value_t = SplitChoice::Test)]
    split: SplitChoice,

    /// Only the first N held-out images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// The pixels of the held-out images [default: as in the run]
    #[arg(long, value_enum)]
    binarization: Option<BinarizationChoice>,

    /// The same seed gives the same results
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Measure the likelihood with N processes of this machine, which share the images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    processes: Option<u32>,

    /// Print the report as JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SplitChoice {
    Test,
    Validation,
}

impl From<SplitChoice> for SplitUsed {
    fn from(choice: SplitChoice) -> Self {
        match choice {
            SplitChoice::Test => Self::Test,
            SplitChoice::Validation => Self::Validation,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TopicChoice {
    Likelihood,
    Pictures,
    Sound,
    Latents,
    Disentanglement,
}

impl From<TopicChoice> for Topic {
    fn from(choice: TopicChoice) -> Self {
        match choice {
            TopicChoice::Likelihood => Self::Likelihood,
            TopicChoice::Pictures => Self::Pictures,
            TopicChoice::Sound => Self::Sound,
            TopicChoice::Latents => Self::Latents,
            TopicChoice::Disentanglement => Self::Disentanglement,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BinarizationChoice {
    /// Unchanged bytes
    Gray,
    /// One draw, as for a run that draws anew in every epoch
    Dynamic,
    /// Drawn once, by a fixed seed
    Static,
}

impl BinarizationChoice {
    fn binarization(self) -> Option<Binarization> {
        match self {
            Self::Gray => None,
            Self::Dynamic => Some(Binarization::Dynamic),
            Self::Static => Some(Binarization::Static),
        }
    }
}

/// The model and the images of an evaluation.
struct Material {
    run: Session,
    /// Training images, with the same kind of pixels as the held-out images.
    train: Dataset,
    /// The sampler of samples; none for the prior.
    sampler: Option<Sampler>,
    /// The held-out images that are measured.
    test: Dataset,
    images: ImagesUsed,
}

impl Material {
    fn open(args: &Args) -> Result<Self> {
        let run = args.run.open()?;
        let sampler = sampler::open(&run, args.sampler).context("--sampler")?;
        let (source, train, test) = held_out(&run, args)?;
        let trained_on = match run.is_of_run() {
            true => Some(TrainedOn::new(&run.run_dir()?.config()?, &train)?),
            false => None,
        };
        let (train, test) = (run.conditioned(train), run.conditioned(test));
        let n_images = args
            .limit
            .map_or(test.len(), |n| test.len().min(n as usize));
        let images = ImagesUsed {
            split: args.split.into(),
            ..ImagesUsed::new(run.vae(), &source, &test, n_images, trained_on)?
        };
        let test = test.truncated(n_images);
        // Probes and distances compare the two, so that their pixels must be of the same kind.
        let train = train.with_binarization(source.binarization);
        Ok(Self {
            run,
            train,
            sampler,
            test,
            images,
        })
    }
}

/// The data set table, the training images, and the held-out images.
fn held_out(run: &Session, args: &Args) -> Result<(DatasetConfig, Dataset, Dataset)> {
    if !run.is_of_run() && !args.run.data.is_other() {
        let path = run.folder();
        let problem = format!(
            "{}: weights that belong to no run, so --data has to name the images to measure on",
            path.display()
        );
        return Err(ConfigError::new(problem).into());
    }
    let mut source = run.dataset()?;
    if args.run.data.is_other() {
        source.test_limit = None;
    }
    let own = source.load()?;
    let (found, wanted) = (own.train.shape(), run.vae().item().map());
    if found != wanted {
        bail!("the data set has items of {found}, the model's are {wanted}");
    }
    if let Some(choice) = args.binarization {
        source.binarization = choice.binarization();
    }
    let test = match args.split {
        SplitChoice::Test => own.test,
        SplitChoice::Validation => own.validation.context(
            "--split validation: this run has no validation images (dataset.validation)",
        )?,
    };
    let test = test.with_binarization(source.binarization);
    Ok((source, own.train, test))
}

/// The version of libtorch that computes.
fn libtorch_version() -> Option<String> {
    let config = vae_train::libtorch_config();
    let (_, rest) = config.split_once("TORCH_VERSION=")?;
    Some(rest.split([',', '\n']).next()?.trim().to_owned())
}

pub(crate) fn run(args: &Args, threads: Option<i32>) -> Result<Done> {
    let together = processes::Args::local(args.processes);
    let Some(placement) = Placement::of_environment()? else {
        return match args.processes {
            Some(n) if n > 1 => launcher::run(&together),
            _ => evaluate(args, None),
        };
    };
    launcher::end_with_launcher();
    if threads.is_none() {
        processes::choose_threads(&placement);
    }
    let processes = Processes::connect(placement, &together)?;
    evaluate(args, Some(&processes)).map_err(processes::explained)
}

/// Of several processes those after the first take part in the likelihood alone, and say and write nothing.
fn evaluate(args: &Args, processes: Option<&Processes>) -> Result<Done> {
    let material = Material::open(args)?;
    let device = material.run.vae().device();
    let join = |processes: &Processes| processes.join(device);
    let group = processes.map(join).transpose()?;
    let group = group.as_ref();
    let run = &material.run;
    let mut topics: Vec<Topic> = match (args.only.is_empty(), run.is_of_run()) {
        (true, true) => Topic::ALL.to_vec(),
        // Elsewhere the likelihood may have been none, as of latent diffusion's autoencoders.
        (true, false) => vec![Topic::Pictures, Topic::Sound, Topic::Latents],
        (false, _) => args.only.iter().map(|&choice| choice.into()).collect(),
    };
    if !run.vae().has_encoder() {
        topics.retain(|&topic| [Topic::Pictures, Topic::Sound].contains(&topic));
        if topics.is_empty() {
            bail!(
                "--only: this model is a generator without an encoder, of which only pictures can be measured"
            );
        }
    }
    if processes.is_some_and(|processes| !processes.is_first()) {
        if topics.contains(&Topic::Likelihood) {
            measure(Topic::Likelihood, &material, args, group)?;
        }
        return Ok(Done::Fully);
    }
    let subject = match run.is_of_run() {
        true => {
            let config = run.run_dir()?.config()?;
            Subject::new(run.run_dir()?, run.checkpoint()?, run.vae(), &config)?
        }
        false => Subject::of_weights(&run.weights_file(), run.vae())?,
    };
    let folder = &run.folder();
    let mut report = Report {
        subject,
        sections: BTreeMap::new(),
    };
    match Report::read(folder) {
        Ok(Some(earlier)) => report = report.with_sections_of(earlier),
        Ok(None) => {}
        Err(error @ EvalError::File { .. }) => warn!("{error}; it is replaced"),
        Err(error) => return Err(error.into()),
    }
    if let Err(error) = files::check_writable(folder) {
        let error = anyhow::Error::from(error).context(folder.display().to_string());
        let error = output::whole(&error);
        warn!("{error}: the results will only be printed");
    }
    let (mut measured, mut kept) = (Vec::new(), Ok(()));
    let outcome = topics.into_iter().try_for_each(|topic| -> Result<()> {
        let begun = Instant::now();
        let Some((findings, images)) = measure(topic, &material, args, group)? else {
            if args.only.is_empty() {
                return Ok(());
            }
            match topic {
                Topic::Sound => bail!("sound: needs a model of sound, of [dataset.audio_folder]"),
                Topic::Pictures if run.vae().item().is_tokens() => {
                    bail!("pictures: these items are tokens, which have none")
                }
                Topic::Pictures => {
                    bail!("pictures: these items are sound; --only sound measures them")
                }
                _ => {}
            }
            bail!(
                "disentanglement: needs images whose factors are known, those of [dataset.sprites]"
            );
        };
        let seconds = begun.elapsed().as_secs_f64();
        let section = Section::new(images, findings, args.seed, seconds);
        report.sections.insert(topic, section);
        measured.push(topic);
        // Each section is written at once: the next may take an hour, and be interrupted.
        kept = report.write(folder);
        Ok(())
    });
    // Printed in any case: an error must not cost hours of work.
    if !measured.is_empty() {
        match args.json {
            true => out!("{}", serde_json::to_string_pretty(&report)?),
            false => print(&report, &measured),
        }
    }
    outcome?;
    kept?;
    let source = sampler::source(material.sampler.as_ref(), 1.0);
    let run_dir = run.run_dir().ok();
    let mut figures = figures(run.vae(), source, run_dir, &material.test, args.seed)?;
    let versions = format!(
        "vae {}, libtorch {}",
        env!("CARGO_PKG_VERSION"),
        libtorch_version().unwrap_or_default()
    );
    figures.pictures_of = material.images.to_string();
    figures.origin.push(("evaluated by".to_owned(), versions));
    write_page(folder, &render(&report, &figures, &comparisons(&report)))?;
    if !args.json {
        output::print_path(&folder.join(PAGE_FILE));
    }
    Ok(Done::Fully)
}

/// The results of a topic and the images used; none if it does not apply to the run's images.
fn measure(
    topic: Topic,
    material: &Material,
    args: &Args,
    group: Option<&Arc<Group>>,
) -> Result<Option<(Findings, ImagesUsed)>> {
    let vae = material.run.vae();
    let (test, train) = (&material.test, &material.train);
    let source = sampler::source(material.sampler.as_ref(), 1.0);
    let bar = progress::bar(0, "{bar:24} {pos}/{len} {msg}, {eta} left")?;
    let mut progress = |what: &str, n_done: usize, n: usize| {
        if bar.message() != what {
            bar.set_message(what.to_owned());
            bar.reset();
        }
        bar.set_length(n as u64);
        bar.set_position(n_done as u64);
    };
    let mut images = material.images.clone();
    let findings = match topic {
        Topic::Likelihood => {
            let sampling = AnnealedSampling {
                n_chains: args.chains,
                n_temperatures: args.temperatures,
                ..AnnealedSampling::default()
            };
            let options = LikelihoodOptions {
                n_samples: args.samples,
                annealed: args.annealed.map(|n| (n as usize, sampling)),
            };
            measure_likelihood_among(vae, test, &options, args.seed, group, &mut progress)?
        }
        Topic::Pictures if vae.item().has_sound() => return Ok(None),
        Topic::Sound if vae.item().rate().is_none() => return Ok(None),
        Topic::Sound => {
            let options = SoundOptions {
                n_samples: args.generated.map(|n| n as usize),
                ..SoundOptions::default()
            };
            measure_sound(vae, test, train, source, &options, args.seed, &mut progress)?
        }
        Topic::Pictures if vae.item().is_tokens() => return Ok(None),
        Topic::Pictures => {
            let options = PictureOptions {
                n_samples: args.generated.map(|n| n as usize),
                feature_files: args.features.clone(),
                dataset: images.dataset.name,
                ..PictureOptions::default()
            };
            let train = Some(train);
            measure_pictures(vae, test, train, source, &options, args.seed, &mut progress)?
        }
        Topic::Latents => {
            let options = LatentOptions::default();
            measure_latents(vae, test, train, &options, args.seed, &mut progress)?
        }
        Topic::Disentanglement => {
            let Some(grid) = material.run.dataset()?.factor_grid()? else {
                return Ok(None);
            };
            // Factors are drawn from the whole grid, regardless of the split of an image.
            images.split = SplitUsed::All;
            images.n_available = grid.space().n_positions();
            images.n_images = images.n_available;
            let options = DisentanglementOptions::default();
            measure_disentanglement(vae, &grid, &options, args.seed, &mut progress)?
        }
    };
    bar.finish_and_clear();
    Ok(Some((findings, images)))
}

/// Prints the sections that were just measured.
fn print(report: &Report, topics: &[Topic]) {
    for topic in topics {
        let Some(section) = report.sections.get(topic) else {
            continue;
        };
        out!("{}: {}", topic.title(), section.images);
        let mut rows: Vec<Vec<String>> = section.findings.measures.iter().map(row).collect();
        for (name, why) in &section.findings.not_measured {
            let name = format!("  {}", name.replace('_', " "));
            rows.push(vec![name, table::UNKNOWN.to_owned(), why.clone()]);
        }
        table::print(3, &["", "", ""], rows);
        out!();
    }
}

fn row(measure: &Measure) -> Vec<String> {
    let better = match measure.better {
        Some(Better::Lower) => " ↓",
        Some(Better::Higher) => " ↑",
        None => "",
    };
    let how = match measure.note.is_empty() {
        true => measure.how(),
        false => format!("{} ({})", measure.how(), measure.note),
    };
    vec![
        format!("  {}{better}", measure.label),
        measure.to_string(),
        how,
    ]
}
