//! `vae describe`: the resolved config, and the model layer by layer.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use tch::Device;
use vae_model::{DiffusersFiles, ModelConfig, PartSummary, Preprocessing, Vae};
use vae_run::{Checkpoint, RunConfig, RunDir};

use super::import::USUAL_SIDE;
use super::shape::{self, Shape};
use super::table;
use crate::output::{self, out};
use crate::{Done, run_config};

/// Print a config with all defaults, and its model layer by layer
///
/// The layers, their output shapes, parameters, bytes and multiply-adds for one image are comments below the config, so that the
/// output is a valid config file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae describe configs/mnist.toml
  vae describe configs/celeba.toml --set dataset.image_folder.image_size=96 --json
  vae describe runs/mnist --config > again.toml")]
pub(crate) struct Args {
    /// A config file, the folder of a run or checkpoint, a weights file, or an autoencoder of latent diffusion
    #[arg(value_name = "CONFIG|RUN")]
    what: PathBuf,

    /// Change a value of a config file, as in `--set model.latent_dims=10`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// The data set's folder or file, instead of a config file's
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    /// Only the config
    #[arg(long, conflicts_with = "json")]
    config: bool,

    /// Shape of the images, C×H×W, if the data set is not at hand, or of an autoencoder of latent diffusion
    #[arg(long)]
    shape: Option<Shape>,

    /// Print JSON instead
    #[arg(long)]
    json: bool,
}

/// What is printed.
struct Described {
    config: Option<RunConfig>,
    model: ModelConfig,
    vae: Result<Vae>,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let Described { config, model, vae } = describe(&args)?;
    if args.json {
        let vae = vae?;
        let described = json!({
            "config": config,
            "model": model,
            "preprocessing": vae.preprocessing(),
            "n_parameters": vae.n_parameters(),
            "parts": vae.summary(),
        });
        out!("{}", serde_json::to_string_pretty(&described)?);
        return Ok(Done::Fully);
    }
    let text = match &config {
        Some(config) => toml::to_string(config),
        None => toml::to_string(&toml::Table::from_iter([(
            "model".to_owned(),
            toml::Value::try_from(&model)?,
        )])),
    };
    output::print(format_args!("{}", text.context("config as TOML")?));
    if !args.config {
        let text = match &vae {
            Ok(vae) => layers(&vae.summary(), &vae.preprocessing()),
            Err(error) => format!("No layers: {error:#}"),
        };
        out!();
        for line in text.lines() {
            out!("{}", format!("# {line}").trim_end());
        }
    }
    Ok(Done::Fully)
}

fn describe(args: &Args) -> Result<Described> {
    let loaded = |path: &Path| -> Result<Described> {
        let vae = Vae::load(path, Device::Cpu)?;
        Ok(Described {
            config: None,
            model: vae.config().clone(),
            vae: Ok(vae),
        })
    };
    let is_weights = args
        .what
        .extension()
        .is_some_and(|extension| extension == "safetensors");
    if (is_weights || args.what.is_dir())
        && let Some(files) = DiffusersFiles::find(&args.what)?
    {
        let asked = args.shape.map(|Shape(shape)| [shape.height, shape.width]);
        let size = asked.or(files.sample_size()).unwrap_or([USUAL_SIDE; 2]);
        let (model, image) = files.model(size);
        return Ok(Described {
            config: None,
            vae: Vae::new(&model, image, Device::Cpu, 1).map_err(Into::into),
            model,
        });
    }
    if is_weights || (args.what.is_dir() && args.what.join(vae_model::WEIGHTS_FILE).is_file()) {
        return loaded(&args.what);
    }
    if !args.what.is_dir() {
        let mut config = run_config::load(&args.what, &args.settings)?;
        if let Some(path) = &args.data {
            config.dataset = config.dataset.at(path.clone());
        }
        run_config::check(&args.what, &config)?;
        return Ok(Described {
            model: config.model.clone(),
            vae: fresh(&config, args.shape),
            config: Some(config),
        });
    }
    let run_dir = RunDir::open(&args.what)?;
    let config = run_dir.config()?;
    let vae = match Checkpoint::any(&run_dir)? {
        true => {
            let checkpoint = Checkpoint::Last.open(&run_dir)?;
            Vae::load(checkpoint.folder, Device::Cpu).map_err(Into::into)
        }
        false => fresh(&config, args.shape),
    };
    Ok(Described {
        model: config.model.clone(),
        config: Some(config),
        vae,
    })
}

fn fresh(config: &RunConfig, asked: Option<Shape>) -> Result<Vae> {
    let mut vae = Vae::new(&config.model, shape::of(config, asked)?, Device::Cpu, 1)?;
    vae.set_framing(config.framing());
    Ok(vae)
}

fn layers(parts: &[PartSummary], preprocessing: &Preprocessing) -> String {
    let count = |n: usize| grouped(n as i64);
    let mut rows = Vec::new();
    for part in parts.iter().filter(|part| !part.layers.is_empty()) {
        for layer in &part.layers {
            let output = layer.output.as_ref().map(|sides| {
                let sides: Vec<String> = sides.iter().map(i64::to_string).collect();
                sides.join("×")
            });
            rows.push(vec![
                layer.name.clone(),
                layer.kind.clone().unwrap_or_default(),
                output.unwrap_or_default(),
                count(layer.n_parameters),
                count(layer.n_bytes),
                layer.multiply_adds.map_or_else(String::new, grouped),
            ]);
        }
        rows.push(vec![
            part.name.to_owned(),
            "in all".to_owned(),
            String::new(),
            count(part.n_parameters),
            count(part.n_bytes),
            grouped(part.multiply_adds),
        ]);
        rows.push(vec![String::new(); 6]);
    }
    let all = |of: fn(&PartSummary) -> usize| count(parts.iter().map(of).sum());
    rows.push(vec![
        "model".to_owned(),
        "in all".to_owned(),
        String::new(),
        all(|part| part.n_parameters),
        all(|part| part.n_bytes),
        grouped(parts.iter().map(|part| part.multiply_adds).sum()),
    ]);
    let header = [
        "layer",
        "",
        "output",
        "parameters",
        "bytes",
        "multiply-adds",
    ];
    let [black, white] = preprocessing.value_range;
    format!(
        "Images {}, seen as [{black}, {white}]; one image:\n\n{}",
        preprocessing.image,
        table::text(2, &header, rows, None)
    )
}

/// A number with thousands separators: 1,234,567.
fn grouped(n: i64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        let numbers = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
    }
}
