//! `vae encode`: the latents of images, as a table.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use tch::{Device, Tensor, no_grad};
use vae_model::Conditioned;

use super::invert::{InvertArgs, Search};
use super::{InputArgs, RunArgs, warn_of_bad};
use crate::Done;
use crate::arrays::{FILE_COLUMN, Field, Format, MEAN, TableWriter, Values};
use crate::output::{self, out, say};
use crate::progress::ImageCount;

/// Encode images: write their latents to a .parquet, .csv, .npy or .safetensors file
///
/// A row for each image, in order: the name of its file, the center of q(z|x) in columns mean_0, mean_1, … (the mean, on a sphere
/// the mean direction, for a flow the image of the base's mean), log_var_0, … if the posterior has them, the label of a digit, the
/// attributes of a table. An .npy file has only the centers, [N, Z]. docs/arrays.md describes every column.
///
/// With --codes, of a model whose latents are codes, the columns are code_0, code_1, … instead, and an .npy file has integers
/// [N, n]: those of a codebook at all places of the latent map, row by row, then those of the next one.
///
/// With --invert the columns mean_0, mean_1, … are the latents that a search by gradient descent found, and there are no log_var_0, ….
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae encode runs/mnist --out latents.parquet                        the held-out images
  vae encode runs/mnist datasets/mnist/train-images-idx3-ubyte.gz --out train.npy
  vae encode runs/celeba photos/ more.zip one.jpg --out latents.csv
  vae encode runs/celeba photos/ --invert --out closer.parquet
  vae encode runs/celeba photos/ --attributes people.csv --out latents.safetensors
  vae encode runs/vq-vae --codes --out codes.npy                     integers, for vae decode --codes
  vae encode runs/verses \"In the beginning.\" --out latents.csv      of texts, a file of lines or the text itself")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    #[command(flatten)]
    inputs: InputArgs,

    /// The file to write; its ending selects the format: .parquet, .csv, .npy or .safetensors
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    invert: InvertArgs,

    /// Write codes instead of latents, for models whose latents are codes
    #[arg(long, conflicts_with = "invert")]
    codes: bool,

    /// Print JSON instead of the file's name
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let format = Format::of(&args.out)?;
    output::check_folder(&args.out)?;
    let run = args.run.open()?;
    let n_slots = match args.codes {
        true => Some(super::codes::quantizer(&run)?.1),
        false => None,
    };
    let inputs = args.inputs.open(&run)?;
    let latent_dims = run.vae().config().n_latents() as usize;
    let mut writer: Option<TableWriter> = None;
    let mut search = args.invert.search(inputs.n_images())?;
    let mut count = match search {
        Some(_) => ImageCount::without_bar(),
        None => ImageCount::new(Some(inputs.n_images())),
    };
    let mut batches = inputs.batches(inputs.batch_size());
    for batch in &mut batches {
        let mut batch = batch?;
        let condition = run.condition_of(&inputs, &batch);
        let items = Conditioned::from((&batch.items, condition.as_ref()));
        let (mean, log_var, codes) = match &mut search {
            Some(search) => match search.latents(run.vae(), items)? {
                Some(latents) => (latents, None, None),
                None => return Ok(Done::Interrupted),
            },
            None => no_grad(|| -> Result<_> {
                let posterior = run.vae().encode(items)?;
                Ok((posterior.center(), posterior.log_var(), posterior.codes()))
            })?,
        };
        let latents = match n_slots.and(codes) {
            Some(codes) => Values::Codes(Vec::<i64>::try_from(codes.flatten(0, -1))?),
            None => Values::Reals(numbers(&mean)?),
        };
        let log_var = log_var.as_ref().map(numbers).transpose()?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => {
                let latents = match n_slots {
                    Some(n_slots) => Field::codes(n_slots as usize),
                    None => Field::vector(MEAN, latent_dims),
                };
                let mut fields = vec![Field::text(FILE_COLUMN), latents];
                if log_var.is_some() {
                    fields.push(Field::vector("log_var", latent_dims));
                }
                fields.extend(super::known_fields(&inputs, &fields));
                none.insert(TableWriter::create(&args.out, fields)?)
            }
        };
        let names = std::mem::take(&mut batch.names);
        count.add(names.len());
        let mut values = vec![Values::Text(names), latents];
        values.extend(log_var.map(Values::Reals));
        values.extend(super::known_values(&inputs, batch));
        writer.write(values)?;
    }
    let n_images = match writer {
        Some(writer) => writer.finish()?,
        None => 0, // No image is an error of the batches.
    };
    let inversion = search.map(Search::finish);
    let images_per_s = count.finish();
    warn_of_bad(batches.bad());
    if args.json {
        let n_bad = batches.bad().len();
        out!(
            "{}",
            json!({
                "latents": args.out,
                "n_images": n_images,
                "latent_dims": latent_dims,
                "n_codes": n_slots,
                "n_bad_files": n_bad,
                "images_per_s": images_per_s,
                "inversion": inversion,
            })
        );
    } else {
        if format.is_bare() {
            let what = if args.codes { "codes" } else { "means" };
            say!("an .npy file contains only the {what}; the other formats have names and more");
        }
        output::print_path(&args.out);
    }
    Ok(Done::Fully)
}

/// The values of a tensor, row by row.
pub(super) fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.to_device(Device::Cpu).to_kind(tch::Kind::Float);
    Ok(Vec::<f32>::try_from(tensor.contiguous().view(-1))?)
}
