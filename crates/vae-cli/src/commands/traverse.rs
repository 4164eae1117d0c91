//! `vae traverse`: the effect of each latent dimension.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;
use tch::no_grad;
use vae_data::Split;
use vae_view::picture::{self, Pixels};
use vae_view::tiles;

use super::place::Place;
use super::sounds::{self, Out};
use super::{OutArgs, RunArgs, picture_name, place};
use crate::Done;
use crate::output::{self, out};

/// Draw the effect of each latent dimension on an image
///
/// Each row goes from −3 to 3 standard deviations of the prior in one dimension, with the others as in the image (on a sphere from
/// −0.9 to 0.9, with the others scaled). Without --dims there is a row for each dimension in use (a variance of posterior means above
/// 0.01), the most used first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae traverse runs/mnist-cyclic --out dimensions.png
  vae traverse runs/celeba face.jpg --rows 12 --out face.png
  vae traverse runs/celeba test:3 --dims 7,19 --steps 15 --out two.png
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

    /// The most rows
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

    /// The PNG file to write; of a model of sound also a folder for a WAV file of each row and the picture, of melodies
    /// with MIDI files
    #[arg(long, short, value_name = "FILE.png|DIR", value_parser = picture_name())]
    out: PathBuf,

    /// Print JSON instead of the names of the files
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    ensure!(
        args.reach.is_finite() && args.reach > 0.0,
        "--reach {}: expected a number above 0",
        args.reach
    );
    let run = args.run.open()?;
    let latent_dims = run.vae().config().n_latents() as usize;
    let mut dims = match args.dims {
        Some(dims) => dims,
        None => {
            let usage = run.latent_use().cloned().unwrap_or_default();
            let mut dims = picture::by_use(latent_dims, usage.ranking());
            let n_active = usage.active_units() as usize;
            // If the model uses none, all are shown.
            dims.retain(|&dim| n_active == 0 || usage.is_active(dim));
            dims
        }
    };
    dims.truncate(args.rows.map_or(usize::MAX, |n| n as usize));
    place::check_dims(&run, &dims, latent_dims)?;
    let first = match run.vae().has_encoder() {
        true => Place::Item(Split::Test, 0),
        false => Place::Prior(0),
    };
    let origin = place::latents(&run, &[args.origin.unwrap_or(first)])?;
    let (latent, condition) = (origin.latents.get(0), origin.condition);
    let origin = (&latent, condition.as_ref());
    let steps = args.steps as usize;
    if Out::of(run.vae().item(), &args.out)? == Out::Other {
        let picture = no_grad(|| picture::traversals(run.vae(), origin, &dims, steps, args.reach))?;
        OutArgs {
            out: args.out,
            json: args.json,
        }
        .save(&picture)?;
        return Ok(Done::Fully);
    }
    let (latents, condition) = origin;
    let items = no_grad(|| {
        let latents = picture::traversal_latents(run.vae(), latents, &dims, steps, args.reach)?;
        picture::decoded(run.vae(), (&latents, condition), Pixels::Mean)
    })?;
    let item = run.vae().item();
    let picture = picture::grid(&tiles(item, &items)?, steps, 2)?;
    let row = |i: usize| (i * steps..(i + 1) * steps).map(|i| i as i64).collect();
    let named: Vec<sounds::Named> = dims
        .iter()
        .enumerate()
        .map(|(i, dim)| (format!("dim-{dim:03}"), row(i)))
        .collect();
    let files = sounds::save_folder(item, &items, &named, &picture, &args.out)?;
    match args.json {
        true => out!("{}", json!({ "files": files })),
        false => files.iter().for_each(|file| output::print_path(file)),
    }
    Ok(Done::Fully)
}
