//! `vae sample`: new images, of latents from the prior or a fitted sampler.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tch::{Tensor, no_grad};
use vae_model::{Drawing, ItemSpec};
use vae_view::labeled::Labeled;
use vae_view::picture::{self, Pixels};
use vae_view::tiles;

use super::items_file::{self, picture_or_array_name};
use super::sampler::{self, Choice};
use super::sounds::{self, Out};
use super::{LookArgs, RunArgs, subject, texts};
use crate::Done;
use crate::output::{self, out};

/// Draw new items
///
/// Their latents are drawn from the best sampler of `vae fit-sampler`, if one was fitted, else from the prior.
///
/// A model with a condition gets a row for each class, or for both values of each attribute, or with --condition images of that. The
/// images of a column are drawn with the same noise, so that they differ by the condition alone.
///
/// Texts are printed, or written to a .txt file. Each token of texts and melodies is drawn by its probability.
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("output").multiple(true).args(["out", "each"])),
    after_help = "Examples:
  vae sample runs/mnist --count 64 --seed 7 --out new.png
  vae sample runs/celeba --grid 3x8 --temperature 0.8 --out faces.png
  vae sample runs/celeba --sampler gmm --out faces.png
  vae sample runs/celeba --count 1000 --each faces/
  vae sample runs/conditional --condition 7 --out sevens.png
  vae sample runs/series --count 1000 --draw-pixels --out new.npy
  vae sample runs/spoken-digits --count 16 --out sounds/
  vae sample runs/melodies --temperature 0.5 --out heard/
  vae sample runs/verses --count 5 --temperature 0.7 --top-p 0.9"
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// How many [default: as many as the grid holds, or 64; with a condition 8 in each row]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: Option<u32>,

    /// Rows and columns of the picture [default: nearly square]
    #[arg(long, value_name = "ROWSxCOLUMNS")]
    grid: Option<Grid>,

    /// Where latents come from: prior, or a sampler of `vae fit-sampler` (gaussian, gmm, flow, two-stage, knn, autoregressive)
    /// [default: the best that was fitted, else prior]
    #[arg(long, value_name = "SAMPLER")]
    sampler: Option<Choice>,

    /// Below 1 images are more typical and less diverse: it scales the noise of the prior (of a standard normal the latents
    /// themselves, of a hierarchy each group given those above), for samplers see docs/samplers.md. Of texts and melodies it divides the logits of each token, and with 0 the most likely token is taken
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    temperature: f64,

    /// Of texts and melodies: draw only the most likely tokens that together have this probability [default: 1, all tokens]
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,

    /// The same seed gives the same images
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Draw the values (pixels) from p(x|z) too, instead of showing its mean
    #[arg(long)]
    draw_pixels: bool,

    /// The picture to write, or the items themselves as an array [N, …] of float32 for NumPy; of a model of sound also
    /// a folder for WAV files and a picture of their spectrograms, or one WAV file; of melodies the same with MIDI files and
    /// piano rolls, or one MIDI file; of texts a text
    #[arg(long, short, value_name = "FILE.png|FILE.npy|DIR|FILE.wav|FILE.mid|FILE.txt", value_parser = picture_or_array_name())]
    out: Option<PathBuf>,

    /// A folder for a PNG file of each image, and of a model of sound a WAV file, of melodies also a MIDI file
    #[arg(long, value_name = "DIR")]
    each: Option<PathBuf>,

    #[command(flatten)]
    look: LookArgs,

    /// Print JSON instead of the files' names
    #[arg(long)]
    json: bool,
}

/// The number of texts.
const N_TEXTS: u32 = 10;

/// The number of melodies.
const N_MELODIES: u32 = 16;

/// The number of images in a row, if there is a row for each condition.
const IN_A_ROW: usize = 8;

/// Rows and columns of images.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Grid {
    rows: u32,
    columns: u32,
}

impl FromStr for Grid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once(['x', '×']).and_then(|(rows, columns)| {
            let side = |text: &str| text.parse().ok().filter(|n| (1..=10_000).contains(n));
            Some((side(rows)?, side(columns)?))
        });
        match sides {
            Some((rows, columns)) if rows * columns <= 10_000 => Ok(Self { rows, columns }),
            _ => Err(format!(
                "found `{text}`, expected rows and columns of at most 10000 images, as in 4x8"
            )),
        }
    }
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let temperature = args.temperature;
    ensure!(
        temperature.is_finite() && temperature >= 0.0,
        "--temperature {temperature}: expected a number from 0 on"
    );
    let count = args
        .count
        .or(args.grid.map(|grid| grid.rows * grid.columns));
    if let (Some(count), Some(Grid { rows, columns })) = (count, args.grid) {
        ensure!(
            count <= rows * columns,
            "--grid {rows}x{columns} has no room for {count} images"
        );
    }
    let run = args.run.open()?;
    let has_texts = run.vae().item().text.is_some();
    let has_tokens = run.vae().item().is_tokens();
    match (&args.out, &args.each) {
        (None, Some(_)) if !has_texts => {}
        (None, Some(_)) => bail!("--each: these items are texts, which are printed without it"),
        (out, _) => {
            texts::check_name(run.vae(), out.as_deref())?;
        }
    }
    ensure!(
        has_tokens || args.top_p.is_none(),
        "--top-p: is for texts and melodies, and these items are {}",
        run.vae().item().noun(2)
    );
    let sampler = match args.sampler {
        Some(choice) => sampler::open(&run, choice).context("--sampler")?,
        None => sampler::best(&run).context("--sampler prior does without the fitted samplers")?,
    };
    let drawing = Drawing {
        temperature,
        top_p: args.top_p.unwrap_or(1.0),
    };
    let temperature = if has_tokens { 1.0 } else { temperature };
    let is_scaled = sampler.is_some() || run.vae().prior_has_temperature();
    ensure!(
        is_scaled || temperature == 1.0,
        "--temperature {temperature}: this model's prior has no Gaussian noise to scale; a sampler of `vae fit-sampler` has one"
    );
    let source = sampler::source(sampler.as_ref(), temperature);
    // A row of images for each condition; none if all have the same condition, or the model has none.
    let rows: Vec<Vec<f32>> = match args.run.condition {
        Some(_) => Vec::new(),
        None => {
            let examples = run.vae().condition().examples().into_iter();
            examples.map(|(_, row)| row).collect()
        }
    };
    let names: Vec<String> = match (rows.is_empty(), args.grid) {
        (false, None) => {
            let examples = run.vae().condition().examples().into_iter();
            examples.map(|(name, _)| name).collect()
        }
        _ => Vec::new(),
    };
    let (count, columns) = match rows.len() {
        0 => {
            let default = match (has_texts, has_tokens) {
                (true, _) => N_TEXTS,
                (false, true) => N_MELODIES,
                (false, false) => 64,
            };
            let count = count.unwrap_or(default) as usize;
            (count, (count as f64).sqrt().ceil() as usize)
        }
        n_rows => {
            let count = count.map_or(n_rows * IN_A_ROW, |count| count as usize);
            (count, count.div_ceil(n_rows))
        }
    };
    let items = no_grad(|| -> Result<Tensor> {
        let mut generator = picture::sample_generator(run.vae(), args.seed);
        let (latents, condition) = match run.condition_alone() {
            None => {
                let latents = run
                    .vae()
                    .latents_from(source, count as i64, None, &mut generator)?;
                (latents, None)
            }
            Some(row) if rows.is_empty() => {
                let condition = row.repeat([count as i64, 1]);
                let n = count as i64;
                let latents =
                    run.vae()
                        .latents_from(source, n, Some(&condition), &mut generator)?;
                (latents, Some(condition))
            }
            Some(_) => {
                let (latents, condition) =
                    picture::latents_of_rows(run.vae(), source, &rows, columns, args.seed)?;
                let first = |tensor: Tensor| tensor.narrow(0, 0, count as i64);
                (first(latents), Some(first(condition)))
            }
        };
        if has_tokens {
            let latents = (&latents, condition.as_ref());
            return Ok(run.vae().decode_drawn(latents, drawing, &mut generator)?);
        }
        let pixels = match args.draw_pixels {
            true => Pixels::Drawn(&mut generator),
            false => Pixels::Mean,
        };
        Ok(picture::decoded(
            run.vae(),
            (&latents, condition.as_ref()),
            pixels,
        )?)
    })?;
    if let Some(found) = texts::of(run.vae(), &items)? {
        match args.json {
            true => out!("{}", json!({ "texts": found })),
            false => texts::print(&found, args.out.as_deref())?,
        }
        return Ok(Done::Fully);
    }
    let mut files = Vec::new();
    if let Some(out) = &args.out {
        let columns = args.grid.map_or(columns, |grid| grid.columns as usize);
        let item = run.vae().item();
        let from = sampler.as_ref().map_or("the prior".to_owned(), |found| {
            found.config().kind().to_string()
        });
        let labeled = Labeled {
            title: format!("New {} of {}", item.noun(2), subject(&run)),
            subtitle: format!("latents from {from}, seed {}", args.seed),
            rows: names,
            ..Labeled::default()
        };
        let picture = || args.look.draw(&labeled, &tiles(item, &items)?, columns);
        match Out::of(item, out)? {
            _ if items_file::is_array(out) => {
                items_file::save(item, &items, out)?;
                files.push(out.clone());
            }
            Out::Other => {
                picture::save(&picture()?, out)?;
                files.push(out.clone());
            }
            Out::Track => {
                sounds::save_track(item, &items, out)?;
                files.push(out.clone());
            }
            Out::Folder => {
                let named = sounds::each("sample", items.size()[0]);
                files.extend(sounds::save_folder(item, &items, &named, &picture()?, out)?);
            }
        }
    }
    if let Some(folder) = &args.each {
        files.extend(save_each(run.vae().item(), &items, folder, "sample")?);
    }
    if args.json {
        out!("{}", json!({ "pictures": files }));
    } else {
        for file in files {
            output::print_path(&file);
        }
    }
    Ok(Done::Fully)
}

/// Writes a picture of each of the items `[N, C, H, W]` to its own file, `NAME-0001.png` and so on, and of those with sound
/// also that, of melodies in a MIDI file, too.
pub(super) fn save_each(
    item: &ItemSpec,
    items: &Tensor,
    folder: &Path,
    name: &str,
) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let images = tiles(item, items)?;
    let mut files = Vec::new();
    for i in 0..images.size()[0] {
        let file = folder.join(format!("{name}-{:04}.png", i + 1));
        picture::save(&picture::grid(&images.narrow(0, i, 1), 1, 0)?, &file)?;
        files.push(file);
    }
    if item.has_sound() {
        let named = sounds::each(name, items.size()[0]);
        files.extend(sounds::save_each(item, items, &named, folder)?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_read() {
        assert_eq!(
            "4x8".parse(),
            Ok(Grid {
                rows: 4,
                columns: 8
            })
        );
        for wrong in ["4", "4x", "0x3", "x", "-1x2", "101x100", "9999x9999"] {
            assert!(wrong.parse::<Grid>().is_err(), "{wrong}");
        }
    }
}
