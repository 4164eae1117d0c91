//! `vae export`: a model for other runtimes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde_json::json;
use vae_eval::latent_moments;
use vae_model::{LatentScaling, Part, Vae, WEIGHTS_FILE, write_tensors, write_whole};
use vae_run::Session;
use vae_view::latent::encode;

use super::RunArgs;
use crate::Done;
use crate::output::{self, out, say};

/// Export a trained model for other programs: PyTorch, onnxruntime, or readers of safetensors
///
/// The encoder maps images f32 [N, C, H, W] in [0, 1] to the mean and, if the posterior has it, the log-variance; the decoder maps
/// latents f32 [N, Z] to mean images in [0, 1]. preprocessing.json describes how to prepare pictures as such images.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae export runs/mnist --format onnx --out exported          encoder.onnx, decoder.onnx, preprocessing.json
  vae export runs/mnist --format torchscript --part decoder --out decoder.pt
  vae export runs/mnist --format safetensors --out mnist.safetensors
  vae export runs/tokenizer --format onnx --any-size --out exported
  vae export runs/tokenizer --format diffusers --out vae      AutoencoderKL.from_pretrained(\"vae\")
  vae export runs/tokenizer --format diffusers --rescale --out vae")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// The format
    #[arg(long, value_enum)]
    format: Format,

    /// The part of the model
    #[arg(long, value_enum, default_value_t = Parts::Both)]
    part: Parts,

    /// Of ONNX: files for images of any size that the network can take, with latents as maps [N, C, h, w]; for models whose latents are
    /// a map and whose layers are convolutions
    #[arg(long)]
    any_size: bool,

    /// Of diffusers' folder: measure the scaling factor anew (and the shift factor, if the model came with one), on the first 1000
    /// training images of the run's data set or of --data
    #[arg(long)]
    rescale: bool,

    /// The folder to write to, or for a single file its name with the format's ending
    #[arg(long, short, value_name = "DIR|FILE")]
    out: PathBuf,

    /// Print JSON instead of the files' names
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The weights; `Vae::load` reads the file of a whole model
    Safetensors,
    /// For PyTorch 2 and libtorch, in Python, C++ or Rust
    Torchscript,
    /// For onnxruntime and others
    Onnx,
    /// The folder of diffusers' AutoencoderKL, of models with network.autoencoder_kl
    Diffusers,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Torchscript => "pt",
            Self::Onnx => "onnx",
            Self::Diffusers => "",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Parts {
    Encoder,
    Decoder,
    Both,
}

impl Parts {
    /// The parts to export of a model; of both the decoder alone if there is no encoder.
    fn list(self, vae: &Vae) -> &'static [Part] {
        match self {
            Self::Both if !vae.has_encoder() => &[Part::Decoder],
            Self::Encoder => &[Part::Encoder],
            Self::Decoder => &[Part::Decoder],
            Self::Both => &Part::ALL,
        }
    }
}

/// The name of the preprocessing file beside exported files.
const PREPROCESSING_FILE: &str = "preprocessing.json";

pub(crate) fn run(args: Args) -> Result<Done> {
    if args.format == Format::Diffusers {
        return write_diffusers(&args);
    }
    ensure!(
        !args.rescale,
        "--rescale: only diffusers' folder has a scaling factor"
    );
    ensure!(
        !args.any_size || args.format == Format::Onnx,
        "--any-size: only of --format onnx"
    );
    let vae = args.run.open_model()?;
    let extension = args.format.extension();
    let is_file = args.out.extension().is_some_and(|found| found == extension);
    let whole = args.format == Format::Safetensors && args.part == Parts::Both;
    let parts = args.part.list(&vae);
    if is_file && parts.len() > 1 && !whole {
        bail!(
            "{}: two files are to be written; give a folder, or one of --part encoder and decoder",
            args.out.display()
        );
    }
    // Everything is computed before the first file is written.
    let mut files: Vec<(PathBuf, Content)> = Vec::new();
    if whole {
        let file = match is_file {
            true => args.out.clone(),
            false => args.out.join(WEIGHTS_FILE),
        };
        files.push((file, Content::Whole));
    } else {
        for &part in parts {
            let file = match is_file {
                true => args.out.clone(),
                false => args.out.join(format!("{}.{extension}", part.name())),
            };
            let content = match args.format {
                Format::Safetensors => Content::Weights(part),
                Format::Torchscript => Content::Bytes(vae.to_torchscript(part)?),
                Format::Onnx if args.any_size => Content::Bytes(vae.to_onnx_of_any_size(part)?),
                Format::Onnx => Content::Bytes(vae.to_onnx(part)?),
                Format::Diffusers => bail!(WHOLE), // Written above.
            };
            files.push((file, content));
        }
    }
    let preprocessing = match is_file {
        // Several exports may share a folder.
        true => args.out.with_extension(PREPROCESSING_FILE),
        false => args.out.join(PREPROCESSING_FILE),
    };
    if !is_file {
        fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    }
    let json = serde_json::to_vec_pretty(&vae.preprocessing())?;
    write(&preprocessing, &json)?;
    for (file, content) in &files {
        match content {
            Content::Whole => vae.save(file)?,
            Content::Weights(part) => write_part(&vae, *part, file, &json)?,
            Content::Bytes(bytes) => write(file, bytes)?,
        }
    }
    let names = files.iter().map(|(file, _)| file).chain([&preprocessing]);
    if args.json {
        out!("{}", json!({ "files": names.collect::<Vec<_>>() }));
    } else {
        for name in names {
            output::print_path(name);
        }
    }
    Ok(Done::Fully)
}

/// Why a part of a model is no folder of diffusers.
const WHOLE: &str = "--part: diffusers' folder is of the whole model";

/// A folder that diffusers reads.
fn write_diffusers(args: &Args) -> Result<Done> {
    if args.part != Parts::Both {
        bail!(WHOLE);
    }
    let run = args.run.open()?;
    let scaling = match args.rescale {
        true => Some(measured_scaling(&run).context("--rescale")?),
        false => None,
    };
    run.vae().save_diffusers(&args.out, scaling)?;
    if args.json {
        out!("{}", json!({ "files": [args.out] }));
    } else {
        output::print_path(&args.out);
    }
    Ok(Done::Fully)
}

/// The training images that a scaling factor is measured on.
const N_MEASURED: usize = 1000;

/// The scaling that the latents of training images imply.
fn measured_scaling(run: &Session) -> Result<LatentScaling> {
    let vae = run.vae();
    let train = run.splits()?.train.truncated(N_MEASURED);
    let latents = encode(vae, &train, 0, |_| ())?.drawn;
    let moments = latent_moments(vae, &latents)?.context("the latents of this model are no map")?;
    let LatentScaling { factor, shift } = moments.scaling;
    let has_shift = vae.latent_scaling().is_some_and(|known| known.shift != 0.0);
    let shift = if has_shift { shift } else { 0.0 };
    say!(
        "scaling factor {factor:.5} from {} training images{}",
        train.len(),
        match vae.latent_scaling() {
            Some(known) => format!("; before {}", known.factor),
            None => String::new(),
        }
    );
    Ok(LatentScaling { factor, shift })
}

enum Content {
    /// A weights file.
    Whole,
    /// The tensors of one part.
    Weights(Part),
    Bytes(Vec<u8>),
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(file, bytes).with_context(|| file.display().to_string())
}

fn write_part(vae: &Vae, part: Part, file: &Path, preprocessing: &[u8]) -> Result<()> {
    let prefixes = match part {
        Part::Encoder => ["encoder.", "posterior."],
        Part::Decoder => ["decoder.", "likelihood."],
    };
    let mut tensors = vae.named_variables();
    tensors.retain(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    let preprocessing = std::str::from_utf8(preprocessing)?;
    write_tensors(file, &tensors, &[("preprocessing", preprocessing)])?;
    Ok(())
}
