//! `vae launch`: the lines that train on several machines.

use anyhow::{Result, bail};

use crate::Done;
use crate::output::{out, say};

/// The port where processes meet if none is given, which is torchrun's.
const PORT: u16 = 29_500;

/// Print the line to run on each of several machines that train together
///
/// For machines without a launcher of their own. Under torchrun, SLURM (srun) and MPI `vae train CONFIG` is enough: it reads their
/// variables.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vae launch --machines 2 --processes 4 --address node1 configs/celeba.toml --out runs/faces")]
pub(crate) struct Args {
    /// How many machines take part
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..=4096))]
    machines: u32,

    /// How many processes run on each: one for each GPU, or on CPUs for some of the cores
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    processes: u32,

    /// The name or address by which the others reach machine 0, and a free port of it [default port: 29500]
    #[arg(long, value_name = "HOST[:PORT]")]
    address: String,

    /// What `vae train` gets: the config and options
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGUMENTS"
    )]
    arguments: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<Done> {
    let address = with_port(&args.address)?;
    let given: Vec<String> = args
        .arguments
        .iter()
        .map(|argument| quoted(argument))
        .collect();
    say!(
        "one line for each machine; the config and the data have to be on all of them, the run is written by machine 0:"
    );
    for machine in 0..args.machines {
        out!(
            "vae train {} --processes {} --machines {} --machine {machine} --address {address}",
            given.join(" "),
            args.processes,
            args.machines,
        );
    }
    Ok(Done::Fully)
}

fn with_port(address: &str) -> Result<String> {
    match address.rsplit_once(':') {
        None => Ok(format!("{address}:{PORT}")),
        Some((_, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(address.to_owned()),
        Some((_, port)) => {
            bail!("--address: found the port {port:?}, expected a number from 1 to 65535")
        }
    }
}

/// An argument as a shell reads it.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    match !argument.is_empty() && argument.chars().all(is_plain) {
        true => argument.to_owned(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_added_and_arguments_survive_a_shell() {
        assert_eq!(with_port("node1").unwrap(), "node1:29500");
        assert_eq!(with_port("node1:7").unwrap(), "node1:7");
        assert!(with_port("node1:x").is_err());
        assert_eq!(quoted("configs/celeba.toml"), "configs/celeba.toml");
        assert_eq!(quoted("my faces"), "'my faces'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("a=[1, 2]"), "'a=[1, 2]'");
    }
}
