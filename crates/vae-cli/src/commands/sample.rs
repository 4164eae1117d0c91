//! `vae sample`: new images from the prior.

use anyhow::Result;
use tch::no_grad;
use vae_train::picture::{self, Pixels};

use super::{OutArgs, RunArgs};
use crate::Done;

/// Draw new images: latents from the prior, decoded
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// How many
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,

    /// The same seed gives the same images
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Draw the pixels too, from p(x|z), instead of showing its mean
    #[arg(long)]
    draw_pixels: bool,

    #[command(flatten)]
    out: OutArgs,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    let pixels = match args.draw_pixels {
        true => Pixels::Drawn,
        false => Pixels::Mean,
    };
    let picture = no_grad(|| picture::samples(&run.vae, args.count as usize, args.seed, pixels))?;
    args.out.save(&picture)?;
    Ok(Done::Fully)
}
