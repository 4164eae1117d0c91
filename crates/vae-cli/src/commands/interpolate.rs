//! `vae interpolate`: the path from one image to another.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use image::imageops::FilterType;
use serde_json::json;
use tch::{Kind, Tensor, no_grad};
use vae_model::Support;
use vae_view::animation;
use vae_view::format::{Content, Format};
use vae_view::labeled::{Labeled, there_and_back};
use vae_view::latent::{self, Blend};
use vae_view::picture::{self, Pixels};
use vae_view::ticks::decimal;
use vae_view::tiles;

use super::items_file::steps_or_array_name;
use super::place::Place;
use super::sounds::{self, Out};
use super::{LookArgs, RunArgs, items_file, name_of, place, subject, texts};
use crate::Done;
use crate::output::{self, out};

/// Draw the path between images or latents
///
/// A PLACE is an image file, test:N (a test image, from 0 on), z:0.1,-2,… (a latent) or prior:SEED (drawn from the prior). Each row of
/// the picture is the path from one place to the next; the animation goes back and forth. On a sphere (posterior =
/// "von_mises_fisher") the path is always along great circles.
///
/// In a run of texts a PLACE may also be the text itself. The texts along the path are printed: the most likely token at each step.
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("output").multiple(true).args(["out", "gif"])),
    after_help = "Examples:
  vae interpolate runs/mnist test:0 test:1 --out way.png
  vae interpolate runs/celeba a.jpg b.jpg c.jpg --steps 12 --slerp --gif way.gif
  vae interpolate runs/mnist z:-2,0 z:2,0 --steps 20 --out line.png
  vae interpolate runs/spoken-digits seven.wav test:3 --out morph/
  vae interpolate runs/melodies test:3 test:8 --steps 7 --out morph/
  vae interpolate runs/verses \"And it came to pass.\" \"The LORD is my shepherd.\""
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// The places along the path, at least two
    #[arg(value_name = "PLACE", required = true, num_args = 2..)]
    places: Vec<Place>,

    /// Images between two places, both included
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1000))]
    steps: u32,

    /// Along great circles (spherical interpolation) instead of straight lines
    #[arg(long)]
    slerp: bool,

    /// A picture of all images (.png, .jpg, .webp), or of one after another (.gif, .apng, .mp4); of a model of sound also a folder
    /// for the steps and the morph of one after another as WAV files, or one WAV file of the morph; of melodies the same with MIDI
    /// files; of texts a text
    #[arg(long, short, value_name = "FILE.png|DIR|FILE.wav|FILE.mid|FILE.txt", value_parser = steps_or_array_name())]
    out: Option<PathBuf>,

    /// An animation of the bare images: .gif, with all colors .png or .apng, or .mp4
    #[arg(long, value_name = "FILE", value_parser = name_of(Content::Frames))]
    gif: Option<PathBuf>,

    #[command(flatten)]
    look: LookArgs,

    /// Milliseconds per image of the animation
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    delay: u32,

    /// Enlarge the animation by this factor
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    enlarge: u32,

    /// Print JSON instead of the files' names
    #[arg(long)]
    json: bool,
}

/// The most pixels of all images of an animation, back and forth.
const LARGEST_MOVING: i64 = 1 << 30;

/// The images of a path of several stretches, each once, with the stretch and the share of the way.
fn one_way(images: &Tensor, steps: usize, labeled: &Labeled) -> (Tensor, Vec<String>) {
    let n = images.size()[0] as usize;
    // The image between two stretches appears only once.
    let there: Vec<i64> = (0..n)
        .filter(|i| *i == 0 || i % steps != 0)
        .map(|i| i as i64)
        .collect();
    let label = |&i: &i64| {
        let (row, column) = (i as usize / steps, i as usize % steps);
        format!(
            "{}, {}",
            labeled.rows[row].replace('\n', " "),
            labeled.columns[column]
        )
    };
    let labels = there.iter().map(label).collect();
    (images.index_select(0, &Tensor::from_slice(&there)), labels)
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    let has_texts = match (&args.out, &args.gif) {
        (None, Some(_)) if run.vae().item().text.is_none() => false,
        (_, Some(_)) if run.vae().item().text.is_some() => {
            bail!("--gif: these items are texts, which are printed without it")
        }
        (out, _) => texts::check_name(run.vae(), out.as_deref())?,
    };
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
    // The condition is interpolated, too.
    let condition = places
        .condition
        .as_ref()
        .map(|known| path(known, Blend::Linear));
    let condition = condition.transpose()?;
    let latents = latent::onto_support(run.vae(), &latents)?;
    let item = run.vae().item();
    let items =
        no_grad(|| picture::decoded(run.vae(), (&latents, condition.as_ref()), Pixels::Mean))?;
    if has_texts {
        let found = texts::of(run.vae(), &items)?.unwrap_or_default();
        match args.json {
            true => out!("{}", json!({ "texts": found })),
            false => texts::print(&found, args.out.as_deref())?,
        }
        return Ok(Done::Fully);
    }
    let images = tiles(item, &items)?;
    let mut files = Vec::new();
    if let Some(out) = &args.out {
        let names: Vec<String> = args.places.iter().map(Place::to_string).collect();
        let labeled = Labeled {
            title: format!("Between {} of {}", item.noun(2), subject(&run)),
            subtitle: match blend {
                Blend::Spherical => "decoded latents along great circles, by the share of the way",
                Blend::Linear => "decoded latents along straight lines, by the share of the way",
            }
            .to_owned(),
            rows: names
                .windows(2)
                .map(|ends| format!("{}\nto {}", ends[0], ends[1]))
                .collect(),
            columns: (0..steps)
                .map(|i| format!("{} %", decimal(100.0 * i as f64 / (steps - 1) as f64, 0)))
                .collect(),
            ..Labeled::default()
        };
        let picture = || args.look.draw(&labeled, &images, steps);
        match Out::of(item, out)? {
            _ if items_file::is_array(out) => items_file::save(item, &items, out)?,
            Out::Other if Format::of(out, Content::Steps)?.moves() => {
                let (there, labels) = one_way(&images, steps, &labeled);
                let labeled = Labeled {
                    rows: Vec::new(),
                    columns: labels,
                    ..labeled
                };
                let frames = args
                    .look
                    .frames(&labeled, &there, there.size()[0] as usize)?;
                let frames = there_and_back(frames);
                animation::save(&frames, Duration::from_millis(args.delay.into()), out)?;
            }
            Out::Other => picture::save(&picture()?, out)?,
            Out::Track => sounds::save_track(item, &items, out)?,
            Out::Folder => {
                let all = 0..items.size()[0];
                let mut named: Vec<sounds::Named> = all
                    .clone()
                    .map(|i| (format!("step-{:03}", i + 1), vec![i]))
                    .collect();
                named.push(("morph".to_owned(), all.collect()));
                files = sounds::save_folder(item, &items, &named, &picture()?, out)?;
            }
        }
        if files.is_empty() {
            files.push(out.clone());
        }
    }
    if let Some(gif) = &args.gif {
        // The image between two stretches appears only once.
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
        for file in files.iter().chain(&args.gif) {
            output::print_path(file);
        }
    }
    Ok(Done::Fully)
}
