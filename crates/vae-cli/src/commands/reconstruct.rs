//! `vae reconstruct`: held-out images above what the model makes of them.

use anyhow::Result;
use tch::no_grad;
use vae_train::picture;

use super::{OutArgs, RunArgs};
use crate::Done;

/// Draw held-out images, each above its reconstruction
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// How many, from the start of the held-out split
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,

    #[command(flatten)]
    out: OutArgs,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    let splits = run.run_dir.config()?.dataset.load()?;
    let images = splits.test.first(args.count as usize)?;
    let picture = no_grad(|| picture::reconstructions(&run.vae, &images))?;
    args.out.save(&picture)?;
    Ok(Done::Fully)
}
