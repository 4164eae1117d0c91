//! `vae import`: weights trained with PyTorch, or an autoencoder of latent diffusion.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use tch::Device;
use tracing::warn;
use vae_data::read_small_text;
use vae_model::{Crop, DiffusersFiles, Framing, Resize, StateDictMap, Vae, WEIGHTS_FILE};

use super::shape::{self, Shape};
use crate::Done;
use crate::output::{self, out};
use crate::run_config::{self, ConfigError};

/// Convert a PyTorch state_dict that was saved as safetensors, or an autoencoder of latent diffusion, to a weights folder
///
/// Of diffusers' AutoencoderKL (its folder, or a safetensors file with its or the original names, also within a whole checkpoint) the
/// files say what the model is. Of others the config defines it; all names and shapes have to match. A prefix that all names share (`model.`, `module.`,
/// `_orig_mod.`, `state_dict.`) is removed. The folder holds weights.safetensors, which `vae export`, `vae describe` and `Vae::load`
/// accept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae import --config configs/mnist.toml --print-map > names.toml      then edit the left side
  vae import state.safetensors --config configs/mnist.toml --map names.toml --out imported
  vae export imported --format onnx --out exported
  vae import stable-diffusion/vae --image-size 256 --out tokenizer     a folder of diffusers
  vae reconstruct tokenizer photo.jpg --out pair.png")]
pub(crate) struct Args {
    /// The file, as `safetensors.torch.save_file(model.state_dict(), FILE)` writes it, or a folder of diffusers
    #[arg(required_unless_present = "print_map")]
    state: Option<PathBuf>,

    /// The config file of the model; not of an autoencoder of latent diffusion
    #[arg(long, required_unless_present = "state")]
    config: Option<PathBuf>,

    /// The size of the images of an autoencoder of latent diffusion, N or HxW: multiples of its factor, mostly 8 [default: that in its
    /// config, or 256]
    #[arg(long, value_name = "N", conflicts_with = "config")]
    image_size: Option<Sides>,

    /// Change a value of the config, as in `--set model.latent_dims=10`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// Shape of the images, C×H×W, if the config's data set is not at hand
    #[arg(long)]
    shape: Option<Shape>,

    /// A TOML file of lines "PyTorch's name" = "our name"; tensors that it does not list have the same name. The name "" excludes a
    /// tensor, and so does a line drop = ["fc.weight", "ema.*"]
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,

    /// Import NaN and infinite weights, with a warning
    #[arg(long)]
    allow_non_finite: bool,

    /// The folder to write to
    #[arg(
        long,
        short,
        value_name = "FOLDER",
        required_unless_present = "print_map"
    )]
    out: Option<PathBuf>,

    /// Only print a map of our names to themselves, with their shapes, to be edited
    #[arg(long)]
    print_map: bool,
}

/// Height and width.
#[derive(Clone, Copy, Debug)]
struct Sides([i64; 2]);

impl FromStr for Sides {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides: Result<Vec<i64>, _> = text.split(['x', '×']).map(str::parse).collect();
        match sides.as_deref() {
            Ok(&[side]) if side > 0 => Ok(Self([side; 2])),
            Ok(&[height, width]) if height > 0 && width > 0 => Ok(Self([height, width])),
            _ => Err("expected one number or two, as in 256 or 256x384".to_owned()),
        }
    }
}

/// The size of images where nothing says it.
pub(super) const USUAL_SIDE: i64 = 256;

pub(crate) fn run(args: Args) -> Result<Done> {
    let Some(config) = &args.config else {
        return import_autoencoder(&args);
    };
    let config_file = config;
    let config = run_config::load(config_file, &args.settings)?;
    run_config::check(config_file, &config)?;
    let image = shape::of(&config, args.shape)?;
    if args.print_map {
        for (name, variable) in Vae::new(&config.model, image, Device::Cpu, 1)?.named_variables() {
            out!("\"{name}\" = \"{name}\"  # {:?}", variable.size());
        }
        return Ok(Done::Fully);
    }
    let (Some(state), Some(out)) = (&args.state, &args.out) else {
        anyhow::bail!("no state_dict, or no --out"); // clap prevents this.
    };
    let mut map = match &args.map {
        Some(path) => read_map(path)?,
        None => StateDictMap::default(),
    };
    map.allow_non_finite = args.allow_non_finite;
    let (mut vae, notes) = Vae::import(&config.model, image, state, &map, Device::Cpu)?;
    for note in notes {
        warn!("{}: {note}", state.display());
    }
    vae.set_framing(config.framing());
    save(&vae, out)
}

/// An autoencoder of latent diffusion, whose files say what it is.
fn import_autoencoder(args: &Args) -> Result<Done> {
    let (Some(path), Some(out)) = (&args.state, &args.out) else {
        anyhow::bail!("no files, or no --out"); // clap prevents this.
    };
    let Some(files) = DiffusersFiles::find(path)? else {
        let path = path.display();
        let problem = format!(
            "{path}: is no autoencoder of diffusers, whose files say what they are; --config names the config of another model"
        );
        return Err(ConfigError::new(problem).into());
    };
    let Sides(size) = args
        .image_size
        .or(files.sample_size().map(Sides))
        .unwrap_or(Sides([USUAL_SIDE; 2]));
    let mut vae = files.load(size, Device::Cpu)?;
    vae.set_framing(Framing {
        crop: Some(Crop::Center { fraction: 1.0 }),
        resize: Some(Resize::BilinearAntialiased),
        binarized: false,
    });
    save(&vae, out)
}

fn save(vae: &Vae, out: &Path) -> Result<Done> {
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let file = out.join(WEIGHTS_FILE);
    vae.save(&file)?;
    output::print_path(&file);
    Ok(Done::Fully)
}

/// The largest map of names in bytes.
const LARGEST_MAP: u64 = 1 << 24;

fn read_map(path: &Path) -> Result<StateDictMap> {
    let text = read_small_text(path, LARGEST_MAP)
        .map_err(|error| ConfigError::new(format!("{}: {error}", path.display())))?;
    parse_map(&text).map_err(|problem| {
        let path = path.display();
        ConfigError::new(format!(
            "{path}: {problem}; wanted are lines \"theirs\" = \"ours\", or \"theirs\" = \"\" and drop = \
             [\"theirs\"] for what is left out"
        ))
        .into()
    })
}

fn parse_map(text: &str) -> Result<StateDictMap, String> {
    /// A line of the map.
    #[derive(serde::Deserialize)]
    #[serde(
        untagged,
        expecting = "a name in quotes is needed, or a list of names after drop"
    )]
    enum Line {
        Name(String),
        Names(Vec<String>),
    }
    let lines: BTreeMap<String, Line> =
        toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let mut map = StateDictMap::default();
    for (key, line) in lines {
        match line {
            Line::Name(ours) => {
                map.names.insert(key, ours);
            }
            Line::Names(names) if key == "drop" => map.drop = names,
            Line::Names(_) => return Err(format!("{key:?} has a list of names")),
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_names_and_what_to_leave_out() {
        let map = parse_map(
            "\"fc.weight\" = \"encoder.0.weight\"\n\"fc.bias\" = \"\"\ndrop = [\"ema.*\"]\n",
        );
        let map = map.expect("a map");
        assert_eq!(map.names["fc.weight"], "encoder.0.weight");
        assert_eq!(map.names["fc.bias"], "");
        assert_eq!(map.drop, ["ema.*"]);
        assert!(!map.allow_non_finite);
        // A tensor may have this name.
        let map = parse_map("drop = \"encoder.0.bias\"").expect("a map");
        assert_eq!(map.names["drop"], "encoder.0.bias");
        for wrong in ["fc.weight = \"a\"", "a = [\"b\"]", "a = 1", "[a]\nb = 2"] {
            assert!(parse_map(wrong).is_err(), "{wrong}");
        }
    }
}
