//! `vae`: train variational autoencoders and look at what they learned.

mod commands;
mod device;
mod progress;
mod run_config;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{bench, describe, manifold, reconstruct, sample, train};
use run_config::ConfigError;

/// Train variational autoencoders and look at what they learned.
///
/// Messages go to stderr, results to stdout.
#[derive(Debug, Parser)]
#[command(name = "vae", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// CPU threads of libtorch [default: one for each core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    threads: Option<i32>,

    /// Say more on stderr
    #[arg(long, short, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Args),
    Manifold(manifold::Args),
    Sample(sample::Args),
    Reconstruct(reconstruct::Args),
    Describe(describe::Args),
    Bench(bench::Args),
}

/// What a command came to, short of an error.
enum Done {
    Fully,
    Interrupted,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    vae_train::memory::keep_freed_blocks();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(if cli.verbose {
            tracing::Level::DEBUG
        } else {
            tracing::Level::WARN
        })
        .without_time()
        .with_target(false)
        .init();
    if let Some(threads) = cli.threads {
        // Only before the first operation; loading CUDA later is not hurt by it.
        tch::set_num_threads(threads);
    }
    let result = match cli.command {
        Command::Train(args) => train::run(args),
        Command::Manifold(args) => manifold::run(args),
        Command::Sample(args) => sample::run(args),
        Command::Reconstruct(args) => reconstruct::run(args),
        Command::Describe(args) => describe::run(args),
        Command::Bench(args) => bench::run(args),
    };
    match result {
        Ok(Done::Fully) => ExitCode::SUCCESS,
        // What shells report for a process ended by Ctrl-C.
        Ok(Done::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error:#}");
            // As clap does: 2 where what was asked for makes no sense, 1 where it could not be done.
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}
