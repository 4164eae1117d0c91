//! `vae plot`: plots of the latent space.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};
use vae_data::Dataset;
use vae_run::Session;
use vae_view::format::{Content, check_name};
use vae_view::latent::plot::{Dimensions, Scatter, bars, percent};
use vae_view::latent::{Pca, projector};
use vae_view::{Plot, as_decoded, picture, tiles};

use super::{RunArgs, labels, place, print_file};
use crate::Done;
use crate::output::{self, out, say};

/// Plot the latents of held-out images
///
/// latents: a point for each image, colored by class, in the plane of a 2-D model, of --dims, or of the two principal components.
/// dimensions: for each of the most used dimensions, the distribution of the images' latents (the aggregate posterior) and the prior.
/// kl: the kl of each dimension in nats. projector: a folder for TensorBoard's projector, with vectors, metadata and thumbnails.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae plot runs/mnist latents --out latents.png
  vae plot runs/celeba latents --label Male --out by-sex.png
  vae plot runs/celeba latents --density --out density.png
  vae plot runs/celeba dimensions --out dimensions.png
  vae plot runs/celeba kl --out kl.svg
  vae plot runs/mnist projector --out projector && tensorboard --logdir projector")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// What to plot
    #[arg(value_enum, value_name = "WHAT")]
    what: What,

    /// The picture to write: .png, .svg, .jpg, .webp, .gif or .apng; for the projector, a new folder
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,

    /// Only the first N held-out images [default: 10000; for the projector 2000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    limit: Option<u32>,

    /// Color latents by this attribute instead of by class
    #[arg(long, value_name = "NAME")]
    label: Option<String>,

    /// The density of the latents, instead of points
    #[arg(long)]
    density: bool,

    /// These dimensions, from 0 on: two for latents, any number for dimensions
    #[arg(long, value_name = "I,J", value_delimiter = ',')]
    dims: Option<Vec<usize>>,

    /// Seed of the latents that are drawn: the same seed gives the same picture
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Print JSON instead of the file's name
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Latents,
    Dimensions,
    Kl,
    Projector,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    if args.what != What::Projector {
        check_name(&args.out, Content::Plot)?;
    }
    let run = args.run.open()?;
    let plot = match args.what {
        What::Latents => scatter(&run, &args)?,
        What::Dimensions => dimensions(&run, &args)?,
        What::Kl => kl(&run)?,
        What::Projector => {
            export(&run, &args)?;
            match args.json {
                true => out!("{}", json!({ "folder": args.out })),
                false => output::print_path(&args.out),
            }
            return Ok(Done::Fully);
        }
    };
    plot.save(&args.out)?;
    print_file(&args.out, args.json, &plot.image()?);
    Ok(Done::Fully)
}

/// The class of each image as an index into the names; a single class if none is known.
struct Classes {
    names: Vec<String>,
    of: Vec<usize>,
}

/// Where a table of attributes comes from.
const TABLE: &str = "dataset.image_folder.attributes of the run's config";

impl Classes {
    fn of(dataset: &Dataset, label: Option<&str>) -> Result<Self> {
        if let Some(label) = label {
            let name = labels::canonical(label);
            let answers = labels::yes_or_no(dataset, &name, TABLE)?;
            let names = [format!("not {name}"), name, "unknown".to_owned()];
            let n_names = if answers.contains(&None) { 3 } else { 2 };
            return Ok(Self {
                names: names[..n_names].to_vec(),
                of: answers
                    .iter()
                    .map(|answer| answer.map_or(2, usize::from))
                    .collect(),
            });
        }
        let Some(classes) = dataset.labels() else {
            return Ok(Self {
                names: vec!["images".to_owned()],
                of: vec![0; dataset.len()],
            });
        };
        let labels = Vec::<i64>::try_from(classes.to_kind(Kind::Int64))?;
        let mut known = labels.clone();
        known.sort_unstable();
        known.dedup();
        Ok(Self {
            names: known
                .iter()
                .map(|&class| dataset.class_name(class))
                .collect(),
            of: labels
                .iter()
                .map(|label| known.partition_point(|other| other < label))
                .collect(),
        })
    }
}

fn scatter(run: &Session, args: &Args) -> Result<Plot> {
    let latent_dims = run.vae().config().n_latents() as usize;
    ensure!(
        latent_dims >= 2,
        "one latent dimension does not span a plane; `vae plot RUN dimensions` shows it"
    );
    if let Some(dims) = &args.dims {
        place::check_dims(run, dims, 2)?;
        ensure!(
            dims.len() == 2,
            "--dims: found one dimension, a plane needs two"
        );
    }
    let dataset = run
        .splits()?
        .test
        .truncated(args.limit.unwrap_or(10_000) as usize);
    let classes = Classes::of(&dataset, args.label.as_deref())?;
    let centers = place::encode(run, &dataset, "held-out images", args.seed)?.centers;
    let dims = match (&args.dims, latent_dims) {
        (Some(dims), _) => Some([dims[0], dims[1]]),
        (None, 2) => Some([0, 1]),
        (None, _) => None,
    };
    let (plane, axes, how) = match dims {
        Some(dims) => {
            let columns = dims.map(|dim| centers.select(1, dim as i64));
            let axes = dims.map(|dim| format!("z{dim}"));
            (
                Tensor::stack(&columns, 1),
                axes,
                "posterior centers".to_owned(),
            )
        }
        None => {
            let pca = Pca::fit(&centers, 2)?;
            let explained = &pca.explained;
            let axis = |i: usize| {
                format!(
                    "component {}, {} of the variance",
                    i + 1,
                    percent(explained[i])
                )
            };
            let how =
                format!("posterior centers of {latent_dims} dimensions by principal components");
            (pca.project(&centers), [axis(0), axis(1)], how)
        }
    };
    let column = |i| Vec::<f64>::try_from(plane.select(1, i).contiguous());
    let points: Vec<(f64, f64)> = column(0)?.into_iter().zip(column(1)?).collect();
    let scatter = Scatter {
        title: &format!("Latents of {}", run.run_dir()?.path().display()),
        subtitle: &format!("{} held-out images, {how}", points.len()),
        axes,
        points: &points,
        class_of: &classes.of,
        classes: &classes.names,
    };
    Ok(match args.density {
        true => scatter.draw_density()?,
        false => scatter.draw()?,
    })
}

/// The most panels in a picture.
const N_PANELS: usize = 20;

fn dimensions(run: &Session, args: &Args) -> Result<Plot> {
    let latent_dims = run.vae().config().n_latents() as usize;
    let dims = match &args.dims {
        Some(dims) => dims.clone(),
        None => {
            let usage = run.latent_use().cloned().unwrap_or_default();
            let mut dims = picture::by_use(latent_dims, usage.ranking());
            dims.truncate(N_PANELS);
            dims
        }
    };
    place::check_dims(run, &dims, 100)?;
    let dataset = run
        .splits()?
        .test
        .truncated(args.limit.unwrap_or(10_000) as usize);
    let aggregate = place::encode(run, &dataset, "held-out images", args.seed)?.drawn;
    let mut generator = picture::sample_generator(run.vae(), args.seed);
    const N_OF_PRIOR: i64 = 100_000;
    let prior = no_grad(|| match dataset.condition() {
        Some(condition) => {
            let rows = Tensor::arange(N_OF_PRIOR, (Kind::Int64, tch::Device::Cpu));
            let rows = rows.remainder(condition.size()[0]);
            let condition = condition.index_select(0, &rows);
            run.vae().sample_latents_of(&condition, &mut generator)
        }
        None => Ok(run.vae().sample_latents(N_OF_PRIOR, &mut generator)),
    })?;
    let of_all = match dims.len() {
        n if n < latent_dims && args.dims.is_none() => {
            format!("the {n} most used of {latent_dims} dimensions, ")
        }
        _ => String::new(),
    };
    let dimensions = Dimensions {
        title: &format!("Aggregate posterior of {}", run.run_dir()?.path().display()),
        subtitle: &format!(
            "{of_all}latents drawn for {} held-out images",
            dataset.len()
        ),
        dims: &dims,
        aggregate: &aggregate,
        prior: &prior.to_device(tch::Device::Cpu),
    };
    Ok(dimensions.draw()?)
}

fn kl(run: &Session) -> Result<Plot> {
    let usage = run.latent_use();
    let usage = usage.context("this checkpoint was written before the first evaluation")?;
    let folder = run.run_dir()?.path().display();
    let title = |what| format!("{what} of {folder}");
    let active = format!(
        "{} of {} dimensions in use",
        usage.active_units(),
        usage.center_variance.len()
    );
    Ok(match &usage.kl {
        Some(kl) => {
            let total: f64 = kl.iter().sum();
            let subtitle = format!("{total:.2} nats per held-out image, {active}");
            bars(&title("KL"), &subtitle, "nats per image", kl)?
        }
        None => {
            let subtitle = format!(
                "{active}; the kl of this posterior and prior has no closed form per dimension"
            );
            bars(
                &title("Use"),
                &subtitle,
                "variance of the posterior's center",
                &usage.center_variance,
            )?
        }
    })
}

fn export(run: &Session, args: &Args) -> Result<()> {
    let item = run.vae().item();
    let shape = run.vae().image_shape();
    let nothing = [1, shape.channels, shape.height, shape.width];
    let nothing = Tensor::zeros(nothing, (Kind::Float, Device::Cpu));
    let (_, _, height, width) = tiles(item, &nothing)?.size4()?;
    let most = projector::most_thumbnails(width as u32, height as u32);
    ensure!(
        most > 0,
        "images of {height}×{width} are larger than the largest sprite"
    );
    let limit = args.limit.map_or(2000, |limit| limit as usize);
    if limit > most {
        say!("note: only {most} images, TensorBoard's limit for a sprite");
    }
    let dataset = run.splits()?.test.truncated(limit.min(most));
    let centers = place::encode(run, &dataset, "held-out images", args.seed)?.centers;
    let images = tiles(item, &as_decoded(item, &dataset.first(dataset.len())?))?;
    projector::export(
        &args.out,
        &centers,
        &metadata(&dataset, args.label.as_deref())?,
        &images,
    )
    .with_context(|| format!("the projector's folder {}", Path::new(&args.out).display()))
}

/// The metadata of each image for TensorBoard: its class, its file, its attributes.
fn metadata(dataset: &Dataset, label: Option<&str>) -> Result<Vec<(String, Vec<String>)>> {
    let mut columns = Vec::new();
    if label.is_some() || dataset.labels().is_some() {
        let classes = Classes::of(dataset, label)?;
        let names = classes.of.iter().map(|&class| classes.names[class].clone());
        columns.push(("label".to_owned(), names.collect()));
    }
    let names = (0..dataset.len()).map(|i| dataset.file_name(i).map(str::to_owned));
    if let Some(names) = names.collect::<Option<Vec<_>>>() {
        columns.push(("file".to_owned(), names));
    }
    if let Some(attributes) = dataset.attributes() {
        for name in attributes.names() {
            let values = attributes.column(name).into_iter().flatten();
            let texts = values.map(|value| value.map_or(String::new(), |value| value.to_string()));
            columns.push((name.clone(), texts.collect()));
        }
    }
    if columns.is_empty() {
        let positions = (0..dataset.len()).map(|i| i.to_string());
        columns.push(("position".to_owned(), positions.collect()));
    }
    Ok(columns)
}
