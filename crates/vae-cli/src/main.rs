//! `vae`: train variational autoencoders and look at what they learned.

mod arrays;
mod commands;
mod device;
mod progress;
mod run_config;

use std::io::IsTerminal;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{
    arithmetic, attribute, bench, compare, completions, data, decode, describe, doctor, encode,
    eval, export, import, interpolate, manifold, neighbors, plot, reconstruct, runs, sample, score,
    train, traverse,
};
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
    Interpolate(interpolate::Args),
    Traverse(traverse::Args),
    Attribute(attribute::Args),
    Arithmetic(arithmetic::Args),
    Plot(plot::Args),
    Runs(runs::Args),
    Compare(compare::Args),
    Eval(eval::Args),
    Encode(encode::Args),
    Decode(decode::Args),
    Score(score::Args),
    Neighbors(neighbors::Args),
    Describe(describe::Args),
    Export(export::Args),
    Import(import::Args),
    Bench(bench::Args),
    Data(data::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

/// What a command came to, short of an error.
enum Done {
    Fully,
    Interrupted,
    /// Some of tch's functions panic where libtorch refuses; the hook has said why.
    Badly,
}

fn run(command: Command) -> anyhow::Result<Done> {
    // One line, like every error; RUST_BACKTRACE brings the whole message back.
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        panic::set_hook(Box::new(|info| {
            if vae_data::image_folder::is_decoding() || arrays::is_reading() {
                return; // It costs a file, which is listed among the bad ones or named by an error.
            }
            let message = info.payload_as_str().unwrap_or("no message");
            // tch unwraps: libtorch's message comes quoted, its C++ stack after an escaped line end.
            let quoted = message
                .split_once("Torch(\"")
                .map_or(message, |(_, quoted)| quoted);
            let line = quoted.split("\\n").next().unwrap_or_default();
            let line = line.lines().next().unwrap_or_default();
            eprintln!(
                "error: libtorch refused: {line} (out of memory? a smaller training.batch_size or \
                 network needs less; RUST_BACKTRACE=1 tells more)"
            );
        }));
    }
    match command {
        Command::Train(args) => train::run(args),
        Command::Manifold(args) => manifold::run(args),
        Command::Sample(args) => sample::run(args),
        Command::Reconstruct(args) => reconstruct::run(args),
        Command::Interpolate(args) => interpolate::run(args),
        Command::Traverse(args) => traverse::run(args),
        Command::Attribute(args) => attribute::run(args),
        Command::Arithmetic(args) => arithmetic::run(args),
        Command::Plot(args) => plot::run(args),
        Command::Runs(args) => runs::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Decode(args) => decode::run(args),
        Command::Score(args) => score::run(args),
        Command::Neighbors(args) => neighbors::run(args),
        Command::Describe(args) => describe::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Export(args) => export::run(args),
        Command::Import(args) => import::run(args),
        Command::Data(args) => data::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions(args) => completions::run::<Cli>(&args),
    }
}

/// As `cat` does: `vae describe CONFIG | head` ends quietly.
fn die_of_a_closed_pipe() {
    #[cfg(unix)]
    // SAFETY: at the start of main, no other thread is there; the default action is a valid one.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Training outlives those who look at it: `vae train … | tee log` is to save at Ctrl-C, which
    // ends tee at once.
    if !matches!(cli.command, Command::Train(_)) {
        die_of_a_closed_pipe();
    }
    vae_train::memory::keep_freed_blocks();
    tracing_subscriber::fmt()
        .with_writer(progress::above_the_bar)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(if cli.verbose {
            tracing::Level::DEBUG
        } else {
            tracing::Level::WARN
        })
        .without_time()
        .with_target(false)
        .log_internal_errors(false)
        .init();
    if let Some(threads) = cli.threads {
        // Only before the first operation; loading CUDA later is not hurt by it.
        tch::set_num_threads(threads);
    }
    let result = panic::catch_unwind(AssertUnwindSafe(|| run(cli.command)));
    match result.unwrap_or_else(|_| Ok(Done::Badly)) {
        Ok(Done::Fully) => ExitCode::SUCCESS,
        // What shells report for a process ended by Ctrl-C.
        Ok(Done::Interrupted) => ExitCode::from(130),
        Ok(Done::Badly) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            // As clap does: 2 where what was asked for makes no sense, 1 where it could not be done.
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}
