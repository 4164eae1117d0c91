//! `vae reconstruct`: items above their reconstructions.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use tch::no_grad;
use vae_data::Split;
use vae_view::picture;

use super::items_file::{self, picture_or_array_name};
use super::{RunArgs, print_file};
use crate::Done;
use crate::output::{self, out};

/// Draw items, each above its reconstruction
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae reconstruct runs/mnist --out pairs.png
  vae reconstruct runs/celeba me.jpg holidays/ --out us.png
  vae reconstruct runs/series new.npy --out reconstructed.npy
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

    /// The picture to write, or the reconstructions alone as an array [N, …] of float32 for NumPy
    #[arg(long, short, value_name = "FILE.png|FILE.npy", value_parser = picture_or_array_name())]
    out: PathBuf,

    /// Print JSON instead of the file's name
    #[arg(long)]
    json: bool,
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
    if items_file::is_array(&args.out) {
        let items = no_grad(|| picture::reconstructed(run.vae(), images))?;
        items_file::save(run.vae().item(), &items, &args.out)?;
        match args.json {
            true => out!("{}", json!({ "array": args.out, "n": items.size()[0] })),
            false => output::print_path(&args.out),
        }
        return Ok(Done::Fully);
    }
    let picture = no_grad(|| picture::reconstructions(run.vae(), images))?;
    picture::save(&picture, &args.out)?;
    print_file(&args.out, args.json, &picture);
    Ok(Done::Fully)
}
