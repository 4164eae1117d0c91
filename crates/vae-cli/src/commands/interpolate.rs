//! `vae interpolate`: the way from one image to another.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use image::imageops::FilterType;
use serde_json::json;
use tch::{Kind, Tensor, no_grad};
use vae_model::Support;
use vae_view::animation;
use vae_view::latent::{self, Blend};
use vae_view::picture::{self, Pixels};

use super::place::Place;
use super::{RunArgs, picture_name, place};
use crate::Done;
use crate::output::{self, out};

/// Draw the way from one image or latent to another, or through many
///
/// A PLACE is an image file, test:N (a held-out image, from 0 on), z:0.1,-2,… (a latent) or prior:SEED
/// (one drawn from the prior). A row of the picture is the stretch from one place to the next; the moving
/// picture goes there and back. On a sphere (posterior = "von_mises_fisher") the way is always along a
/// great circle.
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("output").required(true).multiple(true).args(["out", "gif"])),
    after_help = "Examples:
  vae interpolate runs/mnist test:0 test:1 --out way.png
  vae interpolate runs/celeba a.jpg b.jpg c.jpg --steps 12 --slerp --gif way.gif
  vae interpolate runs/mnist z:-2,0 z:2,0 --steps 20 --out line.png"
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// Where it goes through, two places or more
    #[arg(value_name = "PLACE", required = true, num_args = 2..)]
    places: Vec<Place>,

    /// Images of each stretch, both ends among them
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1000))]
    steps: u32,

    /// Along great circles (spherical interpolation) instead of straight lines
    #[arg(long)]
    slerp: bool,

    /// A PNG file of all images
    #[arg(long, short, value_name = "FILE.png", value_parser = picture_name())]
    out: Option<PathBuf>,

    /// A moving picture: .gif, or with all colors .png or .apng
    #[arg(long, value_name = "FILE")]
    gif: Option<PathBuf>,

    /// Milliseconds of each image of the moving picture
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    delay: u32,

    /// The moving picture so many times larger
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    enlarge: u32,

    /// Print JSON instead of the files' names
    #[arg(long)]
    json: bool,
}

/// Pixels of all images of a moving picture together, there and back.
const LARGEST_MOVING: i64 = 1 << 30;

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    let places = place::latents(&run, &args.places)?;
    let points = |rows: &Tensor| {
        (0..args.places.len() as i64)
            .map(|i| Ok(Vec::<f64>::try_from(rows.get(i).to_kind(Kind::Double))?))
            .collect::<Result<Vec<_>>>()
    };
    let is_sphere = run.vae().support() == Support::Sphere;
    let blend = match args.slerp || is_sphere {
        true => Blend::Spherical,
        false => Blend::Linear,
    };
    let steps = args.steps as usize;
    let path = |rows: &Tensor, blend| -> Result<Tensor> {
        let path = latent::path(&points(rows)?, steps, blend).concat();
        Ok(Tensor::from_slice(&path)
            .view([-1, rows.size()[1]])
            .to_kind(Kind::Float))
    };
    let latents = path(&places.latents, blend)?;
    // What the model is told changes on the way, too.
    let condition = places
        .condition
        .as_ref()
        .map(|known| path(known, Blend::Linear));
    let condition = condition.transpose()?;
    let latents = latent::onto_support(run.vae(), &latents)?;
    let images = no_grad(|| {
        picture::decoded_tiles(run.vae(), (&latents, condition.as_ref()), Pixels::Mean)
    })?;
    if let Some(out) = &args.out {
        picture::save(&picture::grid(&images, steps, 2)?, out)?;
    }
    if let Some(gif) = &args.gif {
        // Where stretches meet, an image is there twice.
        let there = (0..images.size()[0]).filter(|i| *i == 0 || i % steps as i64 != 0);
        let there: Vec<i64> = there.collect();
        let back = there
            .iter()
            .rev()
            .skip(1)
            .take(there.len().saturating_sub(2));
        let (_, _, height, width) = images.size4()?;
        let pixels = height * width * i64::from(args.enlarge).pow(2);
        ensure!(
            2 * there.len() as i64 * pixels <= LARGEST_MOVING,
            "--gif: {} images, {} times larger, are too many for memory; fewer --steps or a smaller --enlarge",
            there.len(),
            args.enlarge
        );
        let frames = there
            .iter()
            .chain(back)
            .map(|&i| {
                let frame = picture::grid(&images.narrow(0, i, 1), 1, 0)?;
                let (width, height) = (frame.width(), frame.height());
                let times = args.enlarge;
                Ok(match times {
                    1 => frame,
                    _ => frame.resize_exact(width * times, height * times, FilterType::Nearest),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        animation::save(&frames, Duration::from_millis(args.delay.into()), gif)?;
    }
    if args.json {
        let n_images = images.size()[0];
        let report = json!({ "picture": args.out, "moving": args.gif, "n_images": n_images });
        out!("{report}");
    } else {
        for file in args.out.iter().chain(&args.gif) {
            output::print_path(file);
        }
    }
    Ok(Done::Fully)
}
