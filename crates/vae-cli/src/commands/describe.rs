//! `vae describe`: the resolved config.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{Done, run_config};

/// Print a config with every default filled in
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A config file
    config: PathBuf,

    /// Change a value, as in `--set model.latent_dims=10`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let config = run_config::load(&args.config, &args.settings)?;
    run_config::check(&args.config, &config)?;
    print!("{}", toml::to_string(&config).context("config as TOML")?);
    Ok(Done::Fully)
}
