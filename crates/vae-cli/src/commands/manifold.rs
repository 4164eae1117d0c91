//! `vae manifold`: the latent plane as one picture.

use anyhow::Result;
use tch::no_grad;
use vae_view::labeled::Labeled;
use vae_view::picture::{self, Manifold};

use super::{LookArgs, OutArgs, RunArgs, place, subject};
use crate::Done;

/// Draw the latent plane: a grid over quantiles of the prior, decoded
///
/// Quantiles go from 0.05 to 0.95, to the right in the first dimension and upward in the second. A model with more than two latent
/// dimensions shows the two most used ones, or those of --dims, with the others at their medians. Latents on a sphere are shown as a
/// world map. A model with a condition uses --condition, or else the first class or attribute.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae manifold runs/mnist --size 25 --out plane.png
  vae manifold runs/celeba --dims 7,19 --out two.png
  vae manifold runs/conditional --condition 7 --out sevens.png")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// Images on each side
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=200))]
    size: u32,

    /// These dimensions, from 0 on: at most two, or three on a sphere
    #[arg(long, value_name = "I,J", value_delimiter = ',')]
    dims: Option<Vec<usize>>,

    #[command(flatten)]
    look: LookArgs,

    #[command(flatten)]
    out: OutArgs,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    let vae = run.vae();
    let size = args.size as usize;
    let condition = run.condition_or_example();
    let condition = condition.as_ref();
    let dims = match args.dims {
        Some(dims) => {
            place::check_dims(&run, &dims, picture::n_manifold_dims(vae))?;
            dims
        }
        None => {
            let usage = run.latent_use().cloned().unwrap_or_default();
            picture::manifold_dims(vae, usage.ranking())
        }
    };
    let Manifold {
        tiles,
        axes: [across, up],
        columns,
        rows,
    } = no_grad(|| picture::manifold_tiles(vae, size, &dims, condition))?;
    let rest = match picture::has_whole_manifold(vae) {
        true => "",
        false => ", the other dimensions at their medians",
    };
    let labeled = Labeled {
        title: format!("Latent space of {}", subject(&run)),
        subtitle: match up.is_empty() {
            true => format!("{across} grows to the right{rest}"),
            false => format!("{across} grows to the right, {up} upward{rest}"),
        },
        rows: named(&up, rows),
        columns: named(&across, columns),
        // Tiles of curves are white at their edges.
        gap: Some(u32::from(!vae.item().is_image())),
        ..Labeled::default()
    };
    args.out.save(&args.look.draw(&labeled, &tiles, size)?)?;
    Ok(Done::Fully)
}

/// Values with the name of their axis at the first one.
fn named(axis: &str, mut values: Vec<String>) -> Vec<String> {
    if let Some(first) = values.first_mut() {
        *first = format!("{axis} = {first}");
    }
    values
}
