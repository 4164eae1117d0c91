//! `vae attribute`: attribute directions in latent space.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use serde_json::json;
use tch::{Kind, Tensor, no_grad};
use tracing::warn;
use vae_data::Splits;
use vae_run::Session;
use vae_view::format::Content;
use vae_view::labeled::Labeled;
use vae_view::latent::plot::percent;
use vae_view::latent::{self, Direction, DirectionStore, Labels, Learner, Method};
use vae_view::picture::{self, Pixels};
use vae_view::ticks::decimal;

use vae_view::tiles;

use super::place::{Place, Places};
use super::sample::save_each;
use super::sounds::{self, Out};
use super::{
    LookArgs, RunArgs, judge, labels, name_of, picture_name, place, print_file, subject, table,
};
use crate::Done;
use crate::output::{self, out, say};

/// Find attribute directions in latent space, and move images along them
///
/// A direction is learned from the latents of the training images and stored in the run; a step of 1 along it is one standard
/// deviation of those latents. Attributes are the columns of the data set's table (CelebA's list, or a CSV with file names and 0/1
/// or -1/1), and the classes of a data set: class=3, digit=3, or class=smiling of a folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae attribute runs/celeba learn Smiling Male Eyeglasses
  vae attribute runs/celeba learn Eyeglasses --orthogonal-to Male,Young
  vae attribute runs/celeba learn --all --json
  vae attribute runs/celeba strip Smiling,Male face.jpg --out strip.png
  vae attribute runs/celeba apply Smiling=+2,Eyeglasses=-1 face.jpg --out changed.png
  vae attribute runs/mnist learn digit=3
  vae attribute runs/gan-celeba learn Smiling --judge runs/celeba")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Learn(LearnArgs),
    Apply(ApplyArgs),
    Strip(StripArgs),
}

/// Learn directions on the training images, and measure them on held-out images
///
/// Prints for each attribute how well the position along its direction predicts it on held-out images: the accuracy, the accuracy
/// of always predicting the more frequent class (baseline), and the balanced accuracy (chance 50 %).
#[derive(Debug, clap::Args)]
struct LearnArgs {
    /// Which attributes
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,

    /// All attributes of the table, or all classes
    #[arg(long, conflicts_with = "names")]
    all: bool,

    /// The table: CelebA's list, a CSV or a TSV file [default: that of the run's config, or the one found beside its images]
    #[arg(long, value_name = "FILE")]
    attributes: Option<PathBuf>,

    /// Keep the scores of these attributes unchanged (Gram–Schmidt)
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    orthogonal_to: Vec<String>,

    /// The method: the difference of the classes' means, or the normal of a logistic regression with balanced classes
    #[arg(long, value_enum, default_value_t = MethodArg::Linear)]
    method: MethodArg,

    /// Learn from samples of the model, labeled by a probe on the latents of this run, a VAE of images of the same kind whose
    /// attributes are known. For a GAN, which has no latents of images
    #[arg(long, value_name = "RUN", conflicts_with = "attributes")]
    judge: Option<PathBuf>,

    /// Only the first N training images; with --judge the number of samples [default there: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MethodArg {
    Mean,
    Linear,
}

/// Change images by steps along directions
///
/// The picture shows the reconstruction of each image, and below it the changed one.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("output").required(true).multiple(true).args(["out", "each"])))]
struct ApplyArgs {
    /// For example Smiling=+2,Eyeglasses=-1
    #[arg(value_name = "CHANGES")]
    changes: Changes,

    /// Image files; also test:N, z:0.1,-2,… and prior:SEED [default: the first held-out images]
    #[arg(value_name = "IMAGE")]
    places: Vec<Place>,

    /// How many held-out images
    #[arg(long, default_value_t = 8, conflicts_with = "places", value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,

    /// The picture to write: .png, .jpg, .webp, .gif or .apng
    #[arg(long, short, value_name = "FILE.png", value_parser = picture_name())]
    out: Option<PathBuf>,

    /// A folder for a PNG file of each changed image
    #[arg(long, value_name = "DIR")]
    each: Option<PathBuf>,

    #[command(flatten)]
    look: LookArgs,

    /// Print JSON instead of the files' names
    #[arg(long)]
    json: bool,
}

/// Draw images along directions, from less to more of the attribute
///
/// A row for each attribute and image: from −3 to 3 steps, with the reconstruction in the middle.
#[derive(Debug, clap::Args)]
struct StripArgs {
    /// Which attributes
    #[arg(value_name = "NAME,…")]
    names: Names,

    /// Image files; also test:N, z:0.1,-2,… and prior:SEED [default: the first held-out images]
    #[arg(value_name = "IMAGE")]
    places: Vec<Place>,

    /// How many held-out images
    #[arg(long, default_value_t = 4, conflicts_with = "places", value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,

    /// Images in a row
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(2..=101))]
    steps: u32,

    /// The largest number of steps in both directions
    #[arg(
        long,
        value_name = "STEPS",
        default_value_t = 3.0,
        allow_negative_numbers = true
    )]
    reach: f64,

    /// The picture to write: .png, .jpg or .webp of all steps, .gif, .apng or .mp4 of one step after another
    #[arg(long, short, value_name = "FILE.png", value_parser = name_of(Content::Steps))]
    out: PathBuf,

    #[command(flatten)]
    look: LookArgs,

    /// Print JSON instead of the file's name
    #[arg(long)]
    json: bool,
}

/// Attributes, separated by commas.
#[derive(Clone, Debug, PartialEq)]
struct Names(Vec<String>);

impl FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(|name| labels::canonical(name.trim()));
        let names: Vec<String> = names.collect();
        match names.iter().any(String::is_empty) {
            true => Err(format!("found `{text}`, expected names as in Smiling,Male")),
            false => Ok(Self(names)),
        }
    }
}

/// Numbers of steps along directions.
#[derive(Clone, Debug, PartialEq)]
struct Changes(Vec<(String, f64)>);

impl FromStr for Changes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let change = |part: &str| {
            // The last equals sign: `class=3=+2`.
            let (name, steps) = part.trim().rsplit_once('=')?;
            let steps = steps
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|steps| steps.is_finite())?;
            Some((labels::canonical(name.trim()), steps)).filter(|(name, _)| !name.is_empty())
        };
        let expected = |part| {
            format!("found `{part}`, expected a name and a number of steps, as in Smiling=+2")
        };
        let changes = text
            .split(',')
            .map(|part| change(part).ok_or_else(|| expected(part)));
        Ok(Self(changes.collect::<Result<_, _>>()?))
    }
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    match args.action {
        Action::Learn(args) => learn(&run, &args)?,
        Action::Apply(args) => apply(&run, args)?,
        Action::Strip(args) => strip(&run, &args)?,
    }
    Ok(Done::Fully)
}

/// The data set of a run, with another table if given, and a limited number of training images.
fn load(run: &Session, table: Option<&PathBuf>, limit: Option<u32>) -> Result<Splits> {
    let mut config = run.dataset()?;
    if let Some(table) = table {
        let Some(folder) = &mut config.image_folder else {
            bail!(
                "--attributes: a table is joined by file name, and this run's images are in idx files; \
                 their classes are attributes: class=0, …"
            );
        };
        folder.attributes = Some(table.clone());
    }
    let splits = run.splits_of(&config)?;
    Ok(match limit {
        None => splits,
        Some(limit) => Splits {
            train: splits.train.truncated(limit as usize),
            ..splits
        },
    })
}

/// Latents, and which of them have which attributes.
struct Material {
    train: Tensor,
    held_out: Tensor,
    wanted: Vec<Labels>,
    others: Vec<Labels>,
}

impl Material {
    fn of_images(
        run: &Session,
        splits: &Splits,
        names: &[String],
        args: &LearnArgs,
    ) -> Result<Self> {
        let all_labels = |names: &[String]| -> Result<Vec<Labels>> {
            let labels = names.iter().map(|name| labels::labels(splits, name));
            labels.collect()
        };
        let (wanted, others) = (all_labels(names)?, all_labels(&args.orthogonal_to)?);
        check_store(run)?;
        Ok(Self {
            train: place::encode(run, &splits.train, "training images", 0)?.centers,
            held_out: place::encode(run, &splits.test, "held-out images", 0)?.centers,
            wanted,
            others,
        })
    }

    fn judged(run: &Session, judge: &Session, names: &[String], args: &LearnArgs) -> Result<Self> {
        check_store(run)?;
        let all = [names, &args.orthogonal_to].concat();
        let mut judged = judge::judged(run, judge, &all, args.limit)?;
        let others = judged.labels.split_off(names.len());
        Ok(Self {
            train: judged.train,
            held_out: judged.held_out,
            wanted: judged.labels,
            others,
        })
    }
}

/// Refuses a damaged file of directions before the work, and says where none can be written.
fn check_store(run: &Session) -> Result<()> {
    DirectionStore::open(run.run_dir()?)?;
    if let Err(error) = run.run_dir()?.check_writable() {
        let error = anyhow::Error::from(error);
        let error = output::whole(&error);
        warn!("{error}: the directions will only be printed");
    }
    Ok(())
}

fn learn(run: &Session, args: &LearnArgs) -> Result<()> {
    let judge = match &args.judge {
        Some(path) => Some(judge::open(path, run)?),
        None if run.vae().has_encoder() => None,
        None => bail!(
            "this model is a generator without an encoder, so that training images have no latents; --judge RUN labels \
             its samples by what a VAE of the same images sees in them"
        ),
    };
    let splits = match &judge {
        Some(_) => None,
        None => Some(load(run, args.attributes.as_ref(), args.limit)?),
    };
    let names = match (args.all, &judge, &splits) {
        (false, ..) => args.names.clone(),
        (true, Some(judge), _) => judge::names(judge)?,
        (true, None, Some(splits)) => labels::names(&splits.train)?,
        (true, None, None) => Vec::new(),
    };
    ensure!(
        !names.is_empty(),
        "--all: these images have no attributes; give a table with --attributes FILE"
    );
    // All mistakes in names are reported before the work.
    let Material {
        train,
        held_out,
        wanted,
        others,
    } = match (&judge, &splits) {
        (Some(judge), _) => Material::judged(run, judge, &names, args)?,
        (None, Some(splits)) => Material::of_images(run, splits, &names, args)?,
        (None, None) => bail!("there are no images to learn from"),
    };
    let learner = Learner::new(&train, &held_out)?;
    let method = match args.method {
        MethodArg::Mean => Method::Mean,
        MethodArg::Linear => Method::Linear,
    };
    let mut directions = Vec::new();
    for labels in &wanted {
        // With --all, attributes in --orthogonal-to are skipped.
        let others = others.iter().filter(|o| !args.all || o.name != labels.name);
        let others: Vec<&Labels> = others.collect();
        match learner.learn(labels, method, &others) {
            Ok(direction) => {
                warn_of_chance(&direction);
                directions.push(direction);
            }
            Err(error) if args.all => say!("left out: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    let kept = DirectionStore::add(run.run_dir()?, &directions, run.checkpoint()?);
    // Printed even if they cannot be stored.
    if args.json {
        let file = kept.as_ref().ok().map(DirectionStore::path);
        let report = json!({ "file": file, "attributes": directions });
        out!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_accuracy(&directions);
    }
    let store = kept?;
    if !args.json {
        out!();
        output::print_path(store.path());
    }
    Ok(())
}

/// Warns if a direction does not tell the attribute of held-out images.
pub(super) fn warn_of_chance(direction: &Direction) {
    if let Some(accuracy) = direction
        .accuracy
        .as_ref()
        .filter(|found| found.is_chance())
    {
        warn!(
            "{}: the direction predicts it on held-out images no better than chance (balanced accuracy {:.1} % of {}), so \
             that what changes along it need not be {}",
            direction.name,
            100.0 * accuracy.balanced,
            accuracy.n_images,
            direction.name
        );
    }
}

/// The name of a direction for pictures, and how well it predicts the attribute.
pub(super) fn label(direction: &Direction) -> String {
    match &direction.accuracy {
        None => direction.name.clone(),
        Some(found) if found.is_chance() => format!("{}\nno better than chance", direction.name),
        Some(found) => format!(
            "{}\nbalanced accuracy {}",
            direction.name,
            percent(found.balanced)
        ),
    }
}

fn print_accuracy(directions: &[Direction]) {
    let percent = |share: Option<f64>| {
        share.map_or(table::UNKNOWN.to_owned(), |share| {
            format!("{:.1} %", 100.0 * share)
        })
    };
    let rows = directions.iter().map(|direction| {
        let of =
            |value: fn(&latent::Accuracy) -> f64| percent(direction.accuracy.as_ref().map(value));
        vec![
            direction.name.clone(),
            of(|accuracy| accuracy.accuracy),
            of(|accuracy| accuracy.baseline),
            of(|accuracy| accuracy.balanced),
        ]
    });
    let header = ["attribute", "accuracy", "baseline", "balanced"];
    table::print(1, &header, rows.collect());
}

/// The sum of `steps` along each direction, f32 `[Z]`.
fn offset(run: &Session, store: &DirectionStore, changes: &[(String, f64)]) -> Result<Tensor> {
    let latent_dims = run.vae().config().n_latents();
    let zeros = Tensor::zeros([latent_dims], (Kind::Double, tch::Device::Cpu));
    let sum = changes
        .iter()
        .try_fold(zeros, |sum, (name, steps)| -> Result<Tensor> {
            let direction = store.get(name, run.checkpoint()?)?;
            warn_of_chance(direction);
            Ok(sum + Tensor::from_slice(&direction.step) * *steps)
        });
    Ok(sum?.to_kind(Kind::Float))
}

fn apply(run: &Session, args: ApplyArgs) -> Result<()> {
    let store = DirectionStore::open(run.run_dir()?)?;
    let offset = offset(run, &store, &args.changes.0)?;
    let Places { latents, condition } =
        place::latents_or_held_out(run, &args.places, args.count as usize)?;
    let changed = latent::onto_support(run.vae(), &(&latents + offset))?;
    let decoded = |latents: &Tensor| {
        let latents = (latents, condition.as_ref());
        no_grad(|| picture::decoded(run.vae(), latents, Pixels::Mean))
    };
    let item = run.vae().item();
    let (items, changed) = (decoded(&latents)?, decoded(&changed)?);
    let mut files = Vec::new();
    if let Some(out) = &args.out {
        let (grid, columns) =
            picture::stacked_tiles(&tiles(item, &items)?, &[&tiles(item, &changed)?])?;
        let names = place::names(run, &args.places, latents.size()[0] as usize);
        let changes: Vec<String> = args
            .changes
            .0
            .iter()
            .map(|(name, steps)| {
                format!(
                    "{name} {}{}",
                    if *steps > 0.0 { "+" } else { "" },
                    decimal(*steps, 1)
                )
            })
            .collect();
        let n_pairs = names.len().div_ceil(columns.max(1));
        let labeled = Labeled {
            title: format!("Changed images of {}", subject(run)),
            subtitle: "above the reconstruction, below it changed by steps along attribute directions; a step is one \
                       standard deviation of the latents"
                .to_owned(),
            rows: (0..n_pairs)
                .flat_map(|_| ["reconstruction".to_owned(), changes.join("\n")])
                .collect(),
            columns: if n_pairs == 1 { names } else { Vec::new() },
            ..Labeled::default()
        };
        let picture = args.look.draw(&labeled, &grid, columns)?;
        match Out::of(item, out)? {
            Out::Folder => {
                let n = items.size()[0];
                let both = Tensor::cat(&[&items, &changed], 0);
                let named: Vec<sounds::Named> = (0..n)
                    .flat_map(|i| {
                        [
                            (format!("{:04}-before", i + 1), vec![i]),
                            (format!("{:04}-after", i + 1), vec![n + i]),
                        ]
                    })
                    .collect();
                files.extend(sounds::save_folder(item, &both, &named, &picture, out)?);
            }
            _ => {
                picture::save(&picture, out)?;
                files.push(out.clone());
            }
        }
    }
    if let Some(folder) = &args.each {
        files.extend(save_each(item, &changed, folder, "changed")?);
    }
    if args.json {
        out!("{}", json!({ "pictures": files }));
    } else {
        for file in files {
            output::print_path(&file);
        }
    }
    Ok(())
}

fn strip(run: &Session, args: &StripArgs) -> Result<()> {
    ensure!(
        args.reach.is_finite() && args.reach > 0.0,
        "--reach {}: expected a number above 0",
        args.reach
    );
    let store = DirectionStore::open(run.run_dir()?)?;
    let offsets = args
        .names
        .0
        .iter()
        .map(|name| offset(run, &store, &[(name.clone(), 1.0)]))
        .collect::<Result<Vec<_>>>()?;
    let Places { latents, condition } =
        place::latents_or_held_out(run, &args.places, args.count as usize)?; // [N, Z]
    let places = place::names(run, &args.places, latents.size()[0] as usize);
    let steps = i64::from(args.steps);
    let line = Tensor::linspace(
        -args.reach,
        args.reach,
        steps,
        (Kind::Float, tch::Device::Cpu),
    );
    let line = line.view([1, steps, 1]);
    let rows: Vec<Tensor> = offsets
        .iter()
        .map(|offset| (latents.unsqueeze(1) + offset * &line).flatten(0, 1)) // [N · steps, Z]
        .collect();
    let latents = latent::onto_support(run.vae(), &Tensor::cat(&rows, 0))?;
    let condition = condition.map(|known| {
        let of_strip = known.repeat_interleave_self_int(steps, 0, None); // [N · steps, D]
        of_strip.repeat([offsets.len() as i64, 1])
    });
    let latents = (&latents, condition.as_ref());
    let images = no_grad(|| picture::decoded_tiles(run.vae(), latents, Pixels::Mean))?;
    let directions = args
        .names
        .0
        .iter()
        .map(|name| Ok(label(store.get(name, run.checkpoint()?)?)))
        .collect::<Result<Vec<_>>>()?;
    let labeled = Labeled {
        title: format!("Attribute directions of {}", subject(run)),
        subtitle: "from less to more of the attribute, in standard deviations of the latents; 0 is the reconstruction"
            .to_owned(),
        rows: directions
            .iter()
            .flat_map(|direction| places.iter().map(move |place| format!("{direction}\n{place}")))
            .collect(),
        columns: (0..steps)
            .map(|i| decimal(args.reach * (2.0 * i as f64 / (steps - 1) as f64 - 1.0), 1))
            .collect(),
        ..Labeled::default()
    };
    let picture = args
        .look
        .save(&labeled, &images, args.steps as usize, &args.out)?;
    print_file(&args.out, args.json, &picture);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read() {
        let read = |text: &str| text.parse::<Changes>().map(|found| found.0);
        let change = |name: &str, steps| (name.to_owned(), steps);
        assert_eq!(
            read("Smiling=+2,Eyeglasses=-1.5, digit=3=1"),
            Ok(vec![
                change("Smiling", 2.0),
                change("Eyeglasses", -1.5),
                change("class=3", 1.0)
            ])
        );
        for wrong in [
            "Smiling",
            "Smiling=",
            "=2",
            "Smiling=much",
            "Smiling=2,",
            "A=inf",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
