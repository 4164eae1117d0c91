//! `vae traverse`: the effect of each latent dimension.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;
use tch::{Kind, Tensor, no_grad};
use vae_data::Split;
use vae_model::Support;
use vae_run::Session;
use vae_view::format::Content;
use vae_view::labeled::Labeled;
use vae_view::latent::plot::percent;
use vae_view::latent::{self, DirectionStore, Pca};
use vae_view::picture::{self, Pixels};
use vae_view::ticks::decimal;
use vae_view::tiles;

use super::place::{Place, Places};
use super::sounds::{self, Out};
use super::{LookArgs, RunArgs, labels, name_of, place, print_file, subject};
use crate::Done;
use crate::output::{self, out, say};

/// Draw the effect of each latent dimension on an image, of principal directions, of attributes
///
/// Each row goes from −3 to 3 standard deviations of the prior in one dimension, with the others as in the image (on a sphere from
/// −0.9 to 0.9, with the others scaled). Without --dims there is a row for each dimension in use (a variance of posterior means above
/// 0.01), the most used first.
///
/// Where no single dimension changes much, directions do: --principal draws those in which the latents of training images vary most
/// (from −3 to 3 of their standard deviations), --attributes those of `vae attribute learn` (from −3 to 3 of its steps).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae traverse runs/mnist-cyclic --out dimensions.png
  vae traverse runs/celeba face.jpg --rows 12 --out face.png
  vae traverse runs/celeba test:3 --dims 7,19 --steps 15 --out two.png
  vae traverse runs/celeba test:3 --principal 8 --attributes Smiling,Male --out directions.png
  vae traverse runs/celeba test:3 --principal 4 --out moving.gif
  vae traverse runs/spoken-digits test:3 --rows 6 --out heard/")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// The image: a file, test:N (a test image), z:0.1,-2,… or prior:SEED
    #[arg(value_name = "IMAGE")]
    origin: Option<Place>,

    /// Only these dimensions, in this order, from 0 on
    #[arg(long, value_name = "I,J", value_delimiter = ',')]
    dims: Option<Vec<usize>>,

    /// The first N principal directions of the latents of training images
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "8", value_parser = clap::value_parser!(u32).range(1..=1000))]
    principal: Option<u32>,

    /// Directions of attributes, as `vae attribute learn` has stored them
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    attributes: Vec<String>,

    /// The most rows of single dimensions, those that are used most first [default: 32, or all of --dims]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rows: Option<u32>,

    /// Images in a row
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(2..=101))]
    steps: u32,

    /// The range, in standard deviations of the prior
    #[arg(
        long,
        value_name = "STD",
        default_value_t = 3.0,
        allow_negative_numbers = true
    )]
    reach: f64,

    /// The picture to write: .png, .jpg or .webp of all steps, .gif, .apng or .mp4 of one step after another; of a model of sound
    /// also a folder for a WAV file of each row and the picture, of melodies with MIDI files
    #[arg(long, short, value_name = "FILE.png|DIR", value_parser = name_of(Content::Steps))]
    out: PathBuf,

    #[command(flatten)]
    look: LookArgs,

    /// Print JSON instead of the names of the files
    #[arg(long)]
    json: bool,
}

/// Rows of single dimensions that are drawn unasked.
const MOST_ROWS: usize = 32;

/// Rows of latents.
struct Rows {
    /// `[rows · steps, Z]`.
    latents: Vec<Tensor>,
    /// The name of each, and remarks.
    labels: Vec<String>,
    /// The name of each for files.
    files: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    ensure!(
        args.reach.is_finite() && args.reach > 0.0,
        "--reach {}: expected a number above 0",
        args.reach
    );
    let run = args.run.open()?;
    let first = match run.vae().has_encoder() {
        true => Place::Item(Split::Test, 0),
        false => Place::Prior(0),
    };
    let place = args.origin.clone().unwrap_or(first);
    let Places { latents, condition } = place::latents(&run, std::slice::from_ref(&place))?;
    let origin = latents.get(0);
    let steps = args.steps as usize;
    let offsets: Vec<f64> = (0..steps)
        .map(|i| args.reach * (2.0 * i as f64 / (steps - 1) as f64 - 1.0))
        .collect();
    let rows = rows(&run, &args, &origin, &offsets)?;
    let item = run.vae().item();
    let items = no_grad(|| {
        let latents = Tensor::cat(&rows.latents, 0);
        picture::decoded(run.vae(), (&latents, condition.as_ref()), Pixels::Mean)
    })?;
    let is_sphere = run.vae().support() == Support::Sphere;
    let labeled = Labeled {
        title: format!("Traversals of {} from {place}", subject(&run)),
        subtitle: match is_sphere {
            true => "each row changes one latent dimension, from −0.9 to 0.9 of the sphere's radius",
            false => "in each row one direction changes, in standard deviations; all else is as in the image",
        }
        .to_owned(),
        columns: offsets
            .iter()
            .map(|&offset| match is_sphere {
                true => decimal(0.3 * offset, 2),
                false => decimal(offset, 1),
            })
            .collect(),
        rows: rows.labels,
        ..Labeled::default()
    };
    let tiles = tiles(item, &items)?;
    if Out::of(item, &args.out)? == Out::Other {
        let picture = args.look.save(&labeled, &tiles, steps, &args.out)?;
        print_file(&args.out, args.json, &picture);
        return Ok(Done::Fully);
    }
    let picture = args.look.draw(&labeled, &tiles, steps)?;
    let of_row = |i: usize| (i * steps..(i + 1) * steps).map(|i| i as i64).collect();
    let named = rows.files.into_iter().enumerate();
    let named: Vec<sounds::Named> = named.map(|(i, name)| (name, of_row(i))).collect();
    let files = sounds::save_folder(item, &items, &named, &picture, &args.out)?;
    match args.json {
        true => out!("{}", json!({ "files": files })),
        false => files.iter().for_each(|file| output::print_path(file)),
    }
    Ok(Done::Fully)
}

/// The rows of single dimensions, then those of principal directions and attributes.
fn rows(run: &Session, args: &Args, origin: &Tensor, offsets: &[f64]) -> Result<Rows> {
    let mut rows = Rows {
        latents: Vec::new(),
        labels: Vec::new(),
        files: Vec::new(),
    };
    let has_directions = args.principal.is_some() || !args.attributes.is_empty();
    let dims = match (&args.dims, has_directions) {
        (None, true) => Vec::new(),
        (dims, _) => dims_to_show(run, dims.clone(), args.rows)?,
    };
    let usage = run.latent_use().cloned().unwrap_or_default();
    if !dims.is_empty() {
        let (steps, reach) = (offsets.len(), args.reach);
        let latents =
            no_grad(|| picture::traversal_latents(run.vae(), origin, &dims, steps, reach))?;
        rows.latents.push(latents);
    }
    for dim in dims {
        let kl = usage.kl.as_ref().and_then(|kl| kl.get(dim));
        let use_of = kl.map(|kl| format!("\nkl {} nats", decimal(*kl, 2)));
        rows.labels
            .push(format!("z{dim}{}", use_of.unwrap_or_default()));
        rows.files.push(format!("dim-{dim:03}"));
    }
    if let Some(n) = args.principal {
        run.vae().check_encoder()?;
        let train = run.splits()?.train.truncated(N_OF_PRINCIPAL);
        let centers = place::encode(run, &train, "training images", 0)?.centers;
        let pca = Pca::fit(&centers, n as usize)?;
        for (i, &share) in pca.explained.iter().enumerate() {
            let line = pca.line(origin, i, offsets);
            rows.latents.push(latent::onto_support(run.vae(), &line)?);
            rows.labels.push(format!(
                "direction {}\n{} of the variance",
                i + 1,
                percent(share)
            ));
            rows.files.push(format!("direction-{:03}", i + 1));
        }
    }
    if !args.attributes.is_empty() {
        let store = DirectionStore::open(run.run_dir()?)?;
        for name in &args.attributes {
            let name = labels::canonical(name.trim());
            let direction = store.get(&name, run.checkpoint()?)?;
            super::attribute::warn_of_chance(direction);
            let steps = Tensor::from_slice(offsets).unsqueeze(1);
            let step = Tensor::from_slice(&direction.step).unsqueeze(0);
            let line = origin.to_kind(Kind::Double).unsqueeze(0) + steps * step;
            rows.latents.push(latent::onto_support(run.vae(), &line)?);
            rows.labels.push(super::attribute::label(direction));
            rows.files.push(name.replace(['/', '='], "-"));
        }
    }
    Ok(rows)
}

/// The training images whose latents give the principal directions.
const N_OF_PRINCIPAL: usize = 5000;

/// Those that were asked for, or those in use, the most used first.
fn dims_to_show(run: &Session, asked: Option<Vec<usize>>, most: Option<u32>) -> Result<Vec<usize>> {
    let latent_dims = run.vae().config().n_latents() as usize;
    let mut dims = match asked {
        Some(dims) => dims,
        None => {
            let usage = run.latent_use().cloned().unwrap_or_default();
            let mut dims = picture::by_use(latent_dims, usage.ranking());
            let n_active = usage.active_units() as usize;
            // If the model uses none, all are shown.
            dims.retain(|&dim| n_active == 0 || usage.is_active(dim));
            if most.is_none() && dims.len() > MOST_ROWS {
                say!(
                    "the {MOST_ROWS} most used dimensions of {}; --rows shows more",
                    dims.len()
                );
                dims.truncate(MOST_ROWS);
            }
            dims
        }
    };
    dims.truncate(most.map_or(usize::MAX, |n| n as usize));
    place::check_dims(run, &dims, latent_dims)?;
    Ok(dims)
}
