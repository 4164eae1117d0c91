//! `vae import`: weights that PyTorch trained.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tch::Device;
use vae_data::read_small_text;
use vae_model::{Vae, WEIGHTS_FILE};

use super::shape::{self, Shape};
use crate::Done;
use crate::output::{self, out};
use crate::run_config::{self, ConfigError};

/// Make a weights folder of a PyTorch state_dict that was saved as safetensors
///
/// The config says what the model is; every name and shape has to fit. The folder holds
/// weights.safetensors, which `vae export`, `vae describe` and `Vae::load` take.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae import --config configs/mnist.toml --print-map > names.toml      then edit the left side
  vae import state.safetensors --config configs/mnist.toml --map names.toml --out imported
  vae export imported --format onnx --out exported")]
pub(crate) struct Args {
    /// The file, as `safetensors.torch.save_file(model.state_dict(), FILE)` writes it
    #[arg(required_unless_present = "print_map")]
    state: Option<PathBuf>,

    /// A config file whose model it is
    #[arg(long)]
    config: PathBuf,

    /// Change a value of the config, as in `--set model.latent_dims=10`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// Shape of the images, C×H×W, where the config's data set is not at hand
    #[arg(long)]
    shape: Option<Shape>,

    /// A TOML file of lines "PyTorch's name" = "our name"; names that it does not list are the same
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,

    /// The folder to write to
    #[arg(
        long,
        short,
        value_name = "FOLDER",
        required_unless_present = "print_map"
    )]
    out: Option<PathBuf>,

    /// Only print a map of all our names to themselves, with their shapes, to be edited
    #[arg(long)]
    print_map: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let config = run_config::load(&args.config, &args.settings)?;
    run_config::check(&args.config, &config)?;
    let image = shape::of(&config, args.shape)?;
    if args.print_map {
        for (name, variable) in Vae::new(&config.model, image, Device::Cpu)?.named_variables() {
            out!("\"{name}\" = \"{name}\"  # {:?}", variable.size());
        }
        return Ok(Done::Fully);
    }
    let (Some(state), Some(out)) = (&args.state, &args.out) else {
        anyhow::bail!("no state_dict, or no --out"); // clap does not let it come to this.
    };
    let names = args
        .map
        .as_deref()
        .map(read_map)
        .transpose()?
        .unwrap_or_default();
    let mut vae = Vae::import(&config.model, image, state, &names, Device::Cpu)?;
    vae.set_framing(config.framing());
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let file = out.join(WEIGHTS_FILE);
    vae.save(&file)?;
    output::print_path(&file);
    Ok(Done::Fully)
}

/// Bytes of the largest map of names.
const LARGEST_MAP: u64 = 1 << 24;

fn read_map(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = read_small_text(path, LARGEST_MAP)
        .map_err(|error| ConfigError::new(format!("{}: {error}", path.display())))?;
    let map = toml::from_str(&text).map_err(|error| {
        let path = path.display();
        let problem = error.message();
        ConfigError::new(format!(
            "{path}: {problem}; wanted are lines \"theirs\" = \"ours\""
        ))
    })?;
    Ok(map)
}
