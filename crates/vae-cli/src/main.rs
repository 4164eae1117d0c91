//! `vae`: train variational autoencoders and explore what they learned.

// They panic if stdout is closed; see `output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod arrays;
mod commands;
mod device;
mod output;
mod processes;
mod progress;
mod run_config;
mod signals;
mod threads;

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{Parser, Subcommand};

use commands::{
    arithmetic, attribute, bench, codes, compare, completions, data, decode, describe, doctor,
    encode, eval, explore, export, fit_sampler, import, interpolate, launch, levels, manifold,
    neighbors, options, plot, reconstruct, runs, sample, score, train, traverse,
};
use output::say;
use run_config::ConfigError;
use vae_train::CpuKernels;

/// Train variational autoencoders and explore what they learned.
///
/// Messages go to stderr, results to stdout.
#[derive(Debug, Parser)]
#[command(name = "vae", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// CPU threads of libtorch [default: one per core; in training fewer, if a short trial finds them faster because other work is
    /// on the machine, and those of before when a run is resumed]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=4096))]
    threads: Option<i32>,

    /// Convolutions, norms and log-probabilities on the CPU: by kernels of our own where they are faster, or by libtorch alone; the results
    /// differ by rounding
    #[arg(
        long,
        global = true,
        value_name = "WHOSE",
        default_value = "own",
        value_enum
    )]
    kernels: Kernels,

    /// More messages on stderr
    #[arg(long, short, global = true)]
    verbose: bool,
}

/// Who computes convolutions and norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kernels {
    Own,
    Libtorch,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Args),
    Launch(launch::Args),
    Manifold(manifold::Args),
    Sample(sample::Args),
    FitSampler(fit_sampler::Args),
    Reconstruct(reconstruct::Args),
    Interpolate(interpolate::Args),
    Traverse(traverse::Args),
    Levels(levels::Args),
    Attribute(attribute::Args),
    Arithmetic(arithmetic::Args),
    Plot(plot::Args),
    Runs(runs::Args),
    Compare(compare::Args),
    Eval(eval::Args),
    Explore(explore::Args),
    Encode(encode::Args),
    Codes(codes::Args),
    Decode(decode::Args),
    Score(score::Args),
    Neighbors(neighbors::Args),
    Describe(describe::Args),
    Options(options::Args),
    Export(export::Args),
    Import(import::Args),
    Bench(bench::Args),
    Data(data::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

/// How a command ended, if not with an error.
enum Done {
    Fully,
    Interrupted,
    /// With an error that was printed: some of tch's functions panic if libtorch refuses, and the panic hook says why.
    Badly,
    /// Because another of several processes is gone: their launcher says which.
    Alone,
}

/// Prints one line, as for every error.
fn report_panic(info: &PanicHookInfo) {
    if vae_data::image_folder::is_decoding()
        || vae_data::audio_folder::is_decoding()
        || vae_data::array_file::is_reading()
    {
        return; // It costs a file, which is listed among the bad ones or named by an error.
    }
    let message = info.payload_as_str().unwrap_or("no message");
    say!(
        "error: {}",
        panic_line(message, info.location().map(ToString::to_string))
    );
}

/// The message for a panic at a place in the source.
fn panic_line(message: &str, location: Option<String>) -> String {
    // tch unwraps: libtorch's message comes quoted, with its C++ stack after an escaped line end.
    let Some((_, quoted)) = message.split_once("Torch(\"") else {
        let line = message.lines().next().unwrap_or_default();
        let location = location.map_or(String::new(), |place| format!(" at {place}"));
        return format!(
            "a bug in this program{location}: {line} (please report it; RUST_BACKTRACE=1 shows more)"
        );
    };
    let line = quoted.split("\\n").next().unwrap_or_default();
    let line = line.lines().next().unwrap_or_default();
    // The CPU's message is "can't allocate memory", the GPU's "CUDA out of memory".
    let advice = match line.to_ascii_lowercase().contains("memory") {
        true => "a smaller training.batch_size or network needs less memory; ",
        false => "",
    };
    format!("libtorch refused: {line} ({advice}RUST_BACKTRACE=1 shows more)")
}

fn run(command: Command, threads: Option<i32>) -> anyhow::Result<Done> {
    // RUST_BACKTRACE restores the full message.
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        panic::set_hook(Box::new(report_panic));
    }
    match command {
        Command::Train(args) => train::run(args, threads),
        Command::Launch(args) => launch::run(&args),
        Command::Manifold(args) => manifold::run(args),
        Command::Sample(args) => sample::run(args),
        Command::FitSampler(args) => fit_sampler::run(args),
        Command::Reconstruct(args) => reconstruct::run(args),
        Command::Interpolate(args) => interpolate::run(args),
        Command::Traverse(args) => traverse::run(args),
        Command::Levels(args) => levels::run(args),
        Command::Attribute(args) => attribute::run(args),
        Command::Arithmetic(args) => arithmetic::run(args),
        Command::Plot(args) => plot::run(args),
        Command::Runs(args) => runs::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Eval(args) => eval::run(&args, threads),
        Command::Explore(args) => explore::run(args),
        Command::Encode(args) => encode::run(args),
        Command::Codes(args) => codes::run(args),
        Command::Decode(args) => decode::run(args),
        Command::Score(args) => score::run(args),
        Command::Neighbors(args) => neighbors::run(args),
        Command::Describe(args) => describe::run(args),
        Command::Options(args) => options::run(&args),
        Command::Bench(args) => bench::run(&args, threads),
        Command::Export(args) => export::run(args),
        Command::Import(args) => import::run(args),
        Command::Data(args) => data::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions(args) => completions::run::<Cli>(&args),
    }
}

/// Prints what is wrong with the arguments and exits. An unknown option that is a setting of the config is said to be one.
fn explain(error: clap::Error) -> ! {
    let unknown = match error.kind() {
        ErrorKind::UnknownArgument => error.get(ContextKind::InvalidArg).map(ToString::to_string),
        _ => None,
    };
    let option = unknown
        .as_deref()
        .and_then(|option| option.split('=').next());
    let keys = option.map_or_else(Vec::new, run_config::keys_meant);
    if let (Some(option), false) = (option, keys.is_empty()) {
        let settings: Vec<String> = keys.iter().map(|key| format!("--set {key}=…")).collect();
        say!(
            "error: there is no {option}; it is a setting of the config: {}",
            settings.join(" or ")
        );
        std::process::exit(2);
    }
    error.exit()
}

fn main() -> ExitCode {
    signals::refused_writes_are_errors();
    let cli = Cli::try_parse().unwrap_or_else(|error| explain(error));
    vae_base::memory::keep_freed_blocks();
    tracing_subscriber::fmt()
        .with_writer(progress::above_the_bar)
        .with_ansi(progress::takes_colors())
        .with_max_level(if cli.verbose {
            tracing::Level::DEBUG
        } else {
            tracing::Level::WARN
        })
        .log_internal_errors(false)
        .event_format(output::OneLine)
        .init();
    if let Some(threads) = cli.threads {
        // This must come before the first operation; CUDA may still be loaded later.
        tch::set_num_threads(threads);
    }
    vae_train::use_cpu_kernels(match cli.kernels {
        Kernels::Own => CpuKernels::Own,
        Kernels::Libtorch => CpuKernels::Libtorch,
    });
    vae_data::image_folder::watch_packs(progress::show_pack);
    // The results of training are in its folder; other commands have theirs on stdout.
    let prints_results = !matches!(cli.command, Command::Train(_));
    let result = panic::catch_unwind(AssertUnwindSafe(|| run(cli.command, cli.threads)));
    let unread = output::stdout_error();
    if let Some(error) = &unread {
        let what = if prints_results { "error" } else { "warning" };
        say!("{what}: standard output: {error}");
    }
    match result.unwrap_or_else(|_| Ok(Done::Badly)) {
        Ok(Done::Fully) if unread.is_some() && prints_results => ExitCode::FAILURE,
        Ok(Done::Fully) => ExitCode::SUCCESS,
        Ok(Done::Interrupted) => ExitCode::from(signals::INTERRUPTED),
        Ok(Done::Badly) => ExitCode::FAILURE,
        Ok(Done::Alone) => ExitCode::from(signals::ANOTHER_IS_GONE),
        Err(error) => {
            say!("error: {}", output::whole(&error));
            // Like clap: 2 for an invalid request, 1 for one that failed.
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_libtorch_says_is_said_to_be_libtorchs() {
        let place = || Some("src/a.rs:3:5".to_owned());
        let tch = |message: &str| {
            format!(
                "called `Result::unwrap()` on an `Err` value: Torch(\"{message}\\nException raised from\")"
            )
        };
        let line = panic_line(
            &tch("DefaultCPUAllocator: can't allocate memory: 4 TB"),
            place(),
        );
        assert!(
            line.starts_with("libtorch refused: DefaultCPUAllocator"),
            "{line}"
        );
        assert!(line.contains("a smaller training.batch_size"), "{line}");
        let line = panic_line(&tch("mat1 and mat2 shapes cannot be multiplied"), place());
        assert_eq!(
            line,
            "libtorch refused: mat1 and mat2 shapes cannot be multiplied (RUST_BACKTRACE=1 shows more)"
        );
        let line = panic_line("failed printing to stdout: Broken pipe\nand more", place());
        assert!(
            line.starts_with("a bug in this program at src/a.rs:3:5: failed"),
            "{line}"
        );
        assert!(
            !line.contains("libtorch") && !line.contains("memory"),
            "{line}"
        );
    }
}
