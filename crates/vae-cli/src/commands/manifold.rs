//! `vae manifold`: the latent plane as one picture.

use anyhow::Result;
use tch::no_grad;
use vae_train::picture;

use super::{OutArgs, RunArgs};
use crate::Done;

/// Draw the latent plane: a grid over quantiles of the prior, decoded
///
/// Quantiles go from 0.05 to 0.95, to the right in the first dimension and upward in the second.
/// A model of more than two latent dimensions shows the two that it uses most; the others are at their
/// medians. Latents on a sphere are shown as a map of the world.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// Images on each side
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=200))]
    size: u32,

    #[command(flatten)]
    out: OutArgs,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    let usage = run.state.latent_use.unwrap_or_default();
    let picture = no_grad(|| picture::manifold(&run.vae, args.size as usize, usage.ranking()))?;
    args.out.save(&picture)?;
    Ok(Done::Fully)
}
