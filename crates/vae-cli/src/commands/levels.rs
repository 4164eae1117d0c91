//! `vae levels`: what each level of a hierarchy of latents decides.

use anyhow::{Result, bail, ensure};
use tch::no_grad;
use vae_view::levels;

use super::place::{self, Place};
use super::{OutArgs, RunArgs};
use crate::Done;

/// Draw what each level of a hierarchy of latents decides
///
/// For a model with groups of latents (topology.ladder or network.top_down). Each row keeps the upper groups of an image and
/// draws the others anew from the prior given those: what a row's images share, the kept groups have decided. The first image of
/// each row is the original one. Titles name the groups, from z1 the lowest; the first row keeps nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae levels runs/mnist-ladder --out levels.png
  vae levels runs/mnist-ladder test:0 test:7 --columns 4 --out two.png
  vae levels runs/mnist-ladder prior:3 --kept 0,1,4 --out some.png")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// The images: files, test:N (a test image), z:0.1,-2,… or prior:SEED [default: prior:0]
    #[arg(value_name = "IMAGE")]
    origins: Vec<Place>,

    /// The numbers of groups that the rows keep, from the top [default: a row for each resolution or level]
    #[arg(long, value_name = "N,M", value_delimiter = ',')]
    kept: Option<Vec<usize>>,

    /// Drawn images in a row
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    columns: u32,

    /// The seed of what is drawn
    #[arg(long, default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    out: OutArgs,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    if !run.vae().draws_by_group() {
        bail!(
            "this model draws its latents as a single group; vae traverse shows what each of them does"
        );
    }
    let n_groups = run.vae().config().latent_groups().len();
    let rows = match &args.kept {
        None => levels::level_rows(run.vae()),
        Some(kept) => {
            if let Some(n) = kept.iter().find(|&&n| n >= n_groups) {
                bail!(
                    "--kept {n}: the model has {n_groups} groups, of which at least one has to be drawn anew; \
                     expected numbers from 0 to {}",
                    n_groups - 1
                );
            }
            let kept = kept.iter();
            kept.map(|&n| levels::level_row(run.vae(), n)).collect()
        }
    };
    ensure!(!rows.is_empty(), "--kept: expected at least one number");
    let origins = match args.origins.is_empty() {
        true => vec![Place::Prior(0)],
        false => args.origins,
    };
    let origins = place::latents(&run, &origins)?;
    let columns = args.columns as usize;
    let condition = origins.condition.as_ref();
    let picture = no_grad(|| {
        levels::levels(
            run.vae(),
            (&origins.latents, condition),
            &rows,
            columns,
            args.seed,
        )
    })?;
    args.out.save(&picture)?;
    Ok(Done::Fully)
}
