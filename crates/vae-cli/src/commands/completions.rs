//! `vae completions`: shell completions.

use anyhow::Result;
use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use crate::Done;
use crate::output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae completions bash > ~/.local/share/bash-completion/completions/vae
  vae completions zsh > ~/.zfunc/_vae
  vae completions fish > ~/.config/fish/completions/vae.fish")]
pub(crate) struct Args {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

pub(crate) fn run<Cli: Parser + CommandFactory>(args: &Args) -> Result<Done> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vae", &mut script);
    output::print(format_args!("{}", String::from_utf8(script)?));
    Ok(Done::Fully)
}
