//! `vae reconstruct`: items above their reconstructions.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;
use tch::{Tensor, no_grad};
use vae_data::Split;
use vae_model::{Conditioned, Vae};
use vae_view::labeled::Labeled;
use vae_view::picture::{self, Pixels};
use vae_view::{as_decoded, tiles};

use super::invert::InvertArgs;
use super::items_file::{self, picture_or_array_name};
use super::sounds::{self, Out};
use super::{LookArgs, RunArgs, subject, texts};
use crate::Done;
use crate::output::{self, out};

/// Draw items, each above its reconstruction
///
/// With --invert there is a further row: the reconstruction from the latents that a search by gradient descent found. A model without an
/// encoder has no other.
///
/// Texts are printed, each above its reconstruction: the most likely token at each step. An INPUT that is no file is a text itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae reconstruct runs/mnist --out pairs.png
  vae reconstruct runs/celeba me.jpg holidays/ --out us.png
  vae reconstruct runs/series new.npy --out reconstructed.npy
  vae reconstruct runs/spoken-digits seven.wav --out pairs/
  vae reconstruct runs/melodies song.mid --out pairs/
  vae reconstruct runs/celeba me.jpg --invert --out closer.png
  vae reconstruct runs/conditional me.jpg --condition Eyeglasses=1 --out me-with-glasses.png
  vae reconstruct runs/verses \"And God said, Let there be light.\"")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// Images, recordings or MIDI and ABC files: files, folders or zips of them; idx files; files of arrays [default: the run's test items]
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,

    /// How many test images, from the start of the split
    #[arg(long, default_value_t = 32, conflicts_with = "inputs", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,

    /// The picture to write, or the reconstructions alone as an array [N, …] of float32 for NumPy; of a model of sound also
    /// a folder for pairs of WAV files and their picture, or one WAV file of all pairs; of melodies the same with MIDI files; of
    /// texts a text
    #[arg(long, short, value_name = "FILE.png|FILE.npy|DIR|FILE.wav|FILE.mid|FILE.txt", value_parser = picture_or_array_name())]
    out: Option<PathBuf>,

    #[command(flatten)]
    invert: InvertArgs,

    #[command(flatten)]
    look: LookArgs,

    /// Print JSON instead of the file's name
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    texts::check_name(run.vae(), args.out.as_deref())?;
    let (images, condition) = match args.inputs.is_empty() {
        true => {
            let batch = run.first_test_images(args.count as usize)?;
            (batch.items, batch.condition)
        }
        false => {
            let inputs = run.inputs(&args.inputs, Split::Test, None)?;
            let batch = inputs.read(10_000)?;
            let condition = run.condition_of(&inputs, &batch);
            (batch.items, condition)
        }
    };
    let items = Conditioned::from((&images, condition.as_ref()));
    let (mut inverted, mut gain) = (None, None);
    if let Some(mut search) = args.invert.search(items.tensor.size()[0] as usize)? {
        let Some(latents) = search.latents(run.vae(), items)? else {
            return Ok(Done::Interrupted);
        };
        inverted = Some(latents);
        gain = Some(search.finish());
    }
    let Some(out) = &args.out.as_ref().filter(|out| !texts::is_text(out)) else {
        return no_grad(|| write_texts(run.vae(), items, inverted.as_ref(), gain, &args));
    };
    let mut report = no_grad(|| {
        let title = format!("Reconstructions of {}", subject(&run));
        write(
            run.vae(),
            items,
            inverted.as_ref(),
            out,
            (args.look, &title),
        )
    })?;
    if let Some(gain) = gain {
        report["inversion"] = gain;
    }
    match args.json {
        true => out!("{report}"),
        false => output::print_path(out),
    }
    Ok(Done::Fully)
}

/// Prints texts, each above its reconstruction.
fn write_texts(
    vae: &Vae,
    items: Conditioned,
    inverted: Option<&Tensor>,
    gain: Option<serde_json::Value>,
    args: &Args,
) -> Result<Done> {
    let reconstructed = match inverted {
        Some(latents) => picture::decoded(vae, (latents, items.condition), Pixels::Mean)?,
        None => picture::reconstructed(vae, items)?,
    };
    let texts = texts::of(vae, items.tensor)?.unwrap_or_default();
    let reconstructions = texts::of(vae, &reconstructed)?.unwrap_or_default();
    let pairs = texts.iter().zip(&reconstructions);
    if args.json {
        let pairs: Vec<_> = pairs
            .map(|(text, found)| json!({ "text": text, "reconstruction": found }))
            .collect();
        let mut report = json!({ "texts": pairs });
        if let Some(gain) = gain {
            report["inversion"] = gain;
        }
        out!("{report}");
        return Ok(Done::Fully);
    }
    let lines: Vec<String> = pairs
        .flat_map(|(text, found)| [text.clone(), format!("    {found}")])
        .collect();
    texts::print(&lines, args.out.as_deref())?;
    Ok(Done::Fully)
}

/// Writes the reconstructions of items to a picture or an array: the encoder's, or from these latents `[N, Z]`. A picture shows the
/// latter below the former. Returns what was written as JSON.
fn write(
    vae: &Vae,
    items: Conditioned,
    inverted: Option<&Tensor>,
    out: &Path,
    (look, title): (LookArgs, &str),
) -> Result<serde_json::Value> {
    let of_latents =
        inverted.map(|latents| picture::decoded(vae, (latents, items.condition), Pixels::Mean));
    let of_latents = of_latents.transpose()?; // [N, C, H, W]
    if items_file::is_array(out) {
        let reconstructed = match of_latents {
            Some(reconstructed) => reconstructed,
            None => picture::reconstructed(vae, items)?,
        };
        items_file::save(vae.item(), &reconstructed, out)?;
        return Ok(json!({ "array": out, "n": reconstructed.size()[0] }));
    }
    let kind = Out::of(vae.item(), out)?;
    if kind == Out::Track || kind == Out::Folder {
        let reconstructed = match &of_latents {
            Some(reconstructed) => reconstructed.shallow_clone(),
            None => picture::reconstructed(vae, items)?,
        };
        let originals = as_decoded(vae.item(), items.tensor);
        let n = reconstructed.size()[0];
        // Each original before its reconstruction.
        let reconstructed = reconstructed.to_kind(originals.kind());
        let pairs = Tensor::stack(&[&originals, &reconstructed], 1).flatten(0, 1);
        if kind == Out::Track {
            sounds::save_track(vae.item(), &pairs, out)?;
            return Ok(json!({ "sound": out, "n": n }));
        }
        let named: Vec<sounds::Named> = (0..n)
            .flat_map(|i| {
                [
                    (format!("{:04}-original", i + 1), vec![2 * i]),
                    (format!("{:04}-reconstruction", i + 1), vec![2 * i + 1]),
                ]
            })
            .collect();
        let shown = |items: &Tensor| tiles(vae.item(), items);
        let picture = picture::stacked(&shown(&originals)?, &[&shown(&reconstructed)?])?;
        let files = sounds::save_folder(vae.item(), &pairs, &named, &picture, out)?;
        return Ok(json!({ "folder": out, "n": n, "files": files }));
    }
    let mut names = vec!["original"];
    let mut below = Vec::new();
    // Without an encoder and without a search this is an error.
    if vae.has_encoder() || of_latents.is_none() {
        names.push("reconstruction");
        below.push(tiles(vae.item(), &picture::reconstructed(vae, items)?)?);
    }
    if let Some(reconstructed) = of_latents {
        names.push("found by search");
        below.push(tiles(vae.item(), &reconstructed)?);
    }
    let above = tiles(vae.item(), &as_decoded(vae.item(), items.tensor))?;
    let n_images = above.size()[0] as usize;
    let (grid, columns) = picture::stacked_tiles(&above, &below.iter().collect::<Vec<_>>())?;
    let n_blocks = n_images.div_ceil(columns.max(1));
    let labeled = Labeled {
        title: title.to_owned(),
        rows: (0..n_blocks)
            .flat_map(|_| names.iter().map(ToString::to_string))
            .collect(),
        ..Labeled::default()
    };
    let picture = look.draw(&labeled, &grid, columns)?;
    picture::save(&picture, out)?;
    Ok(json!({ "picture": out, "width": picture.width(), "height": picture.height() }))
}
