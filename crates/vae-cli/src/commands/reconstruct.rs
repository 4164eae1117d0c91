//! `vae reconstruct`: images above their reconstructions.

use std::path::PathBuf;

use anyhow::Result;
use tch::no_grad;
use vae_data::Split;
use vae_view::picture;

use super::{OutArgs, RunArgs};
use crate::Done;

/// Draw images, each above its reconstruction
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae reconstruct runs/mnist --out pairs.png
  vae reconstruct runs/celeba me.jpg holidays/ --out us.png
  vae reconstruct runs/conditional me.jpg --condition Eyeglasses=1 --out me-with-glasses.png")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// Images: files, folders or zips of them, idx files [default: the run's test images]
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,

    /// How many test images, from the start of the split
    #[arg(long, default_value_t = 32, conflicts_with = "inputs", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,

    #[command(flatten)]
    out: OutArgs,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    let (images, condition) = match args.inputs.is_empty() {
        true => {
            let batch = run.first_test_images(args.count as usize)?;
            (batch.items, batch.condition)
        }
        false => {
            let inputs = run.inputs(&args.inputs, Split::Test, None)?;
            let batch = inputs.read(10_000)?;
            let condition = run.condition_of(&inputs, &batch);
            (batch.images, condition)
        }
    };
    let images = (&images, condition.as_ref());
    let picture = no_grad(|| picture::reconstructions(run.vae(), images))?;
    args.out.save(&picture)?;
    Ok(Done::Fully)
}
