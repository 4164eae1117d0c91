//! `cargo xtask bench`: what this program does in a second, beside PyTorch in its best modes, turn by turn in one sitting.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Deserialize;
use serde_json::json;

use crate::workspace::Workspace;
use crate::{cargo, libtorch};

/// A network that both sides have, or only this project.
struct Network {
    name: &'static str,
    /// The arguments of `vae bench`.
    ours: &'static [&'static str],
    /// The arguments of `benches/pytorch_vae.py`.
    peers: Option<&'static [&'static str]>,
}

/// The networks of the peer at its batch sizes, and that of `configs/celeba.toml`.
const NETWORKS: [Network; 3] = [
    Network {
        name: "mnist",
        ours: &["configs/mnist.toml", "--set", "training.batch_size=128"],
        peers: Some(&["--model", "mnist"]),
    },
    Network {
        name: "faces",
        ours: &[
            "configs/celeba.toml",
            "--shape=3x64x64",
            "--steps=12",
            "--set=training.batch_size=64",
            "--set=model.network={conv_batch_norm={channels=[32,64,128,256,512]}}",
        ],
        peers: Some(&["--model", "faces", "--batch", "64", "--steps", "12"]),
    },
    Network {
        name: "residual",
        ours: &[
            "configs/celeba.toml",
            "--shape=3x64x64",
            "--steps=6",
            "--set=training.batch_size=64",
        ],
        peers: None,
    },
];

/// This program, by its own kernels and by libtorch's alone.
const OURS: [(&str, &[&str]); 2] = [
    ("vae", &[]),
    ("vae --kernels libtorch", &["--kernels", "libtorch"]),
];

/// PyTorch's modes on a CPU, and whether its allocator keeps its blocks, as this program's does. The best is the one to beat.
const PEERS: [(&str, bool); 4] = [
    ("eager", false),
    ("eager-cl", false),
    ("eager-cl", true),
    ("compile-cl", true),
];

/// The settings by which glibc's allocator keeps its blocks.
const KEPT_BLOCKS: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "4294967296"),
    ("MALLOC_TRIM_THRESHOLD_", "4294967296"),
    ("MALLOC_TOP_PAD_", "268435456"),
];

/// The results of one program in one round.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Images or starts.
    per_s: f64,
    peak_mib: f64,
}

#[derive(Deserialize)]
struct Repetition {
    images_per_s: f64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Section {
    /// A step of training, beside PyTorch's in four modes.
    Training,
    /// What is done with a model: encode, decode, the bounds of evaluation.
    Use,
    /// Seconds until a program that has just been started has done something.
    StartUp,
    /// How the cost of training grows with batch, image size, latents and threads.
    Growth,
    /// Loading of photos, beside torchvision's.
    Loader,
}

/// The options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A Python that has torch 2.11 (and torchvision, for the loader).
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// What is measured; may be repeated [default: all, the loader where there are --photos].
    #[arg(long, value_name = "SECTION")]
    only: Vec<Section>,
    /// How often each program has its turn.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// A folder of JPEG files, for the loader.
    #[arg(long, value_name = "FOLDER")]
    photos: Option<PathBuf>,
    /// Write the numbers of every round to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only whether our own kernels are as fast, beside libtorch's, as benches/ratios.json says, loosely.
    #[arg(long, conflicts_with_all = ["only", "json", "photos"])]
    check: bool,
}

/// Measure this program and its peers in turns, one section after the other.
///
/// # Errors
/// If something is missing or fails.
pub(crate) fn bench(workspace: &Workspace, options: &Options) -> Result<()> {
    if options.check {
        return check(workspace);
    }
    build(workspace)?;
    let all = Section::value_variants();
    let mut results = Vec::new();
    for &section in all {
        let is_wanted = match options.only.is_empty() {
            true => section != Section::Loader || options.photos.is_some(),
            false => options.only.contains(&section),
        };
        if !is_wanted {
            continue;
        }
        for comparison in comparisons(workspace, options, section)? {
            let turns = comparison.measure(options.rounds)?;
            comparison.print(&turns);
            for (program, turns) in comparison.programs.iter().zip(&turns) {
                results.push(json!({
                    "comparison": comparison.name,
                    "program": program.name,
                    "per_s": turns.iter().map(|turn| turn.per_s).collect::<Vec<_>>(),
                    "peak_mib": turns.iter().map(|turn| turn.peak_mib).collect::<Vec<_>>(),
                }));
            }
        }
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&results)?;
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn build(workspace: &Workspace) -> Result<()> {
    libtorch::ensure_present(workspace)?;
    let mut command = cargo::cargo(workspace);
    command.args(["build", "--release", "--package", "vae-cli"]);
    cargo::run("build", &mut command)
}

/// Programs that do the same, the first of them the one that the others are compared with.
struct Comparison<'a> {
    name: String,
    unit: &'static str,
    programs: Vec<Program<'a>>,
}

impl Comparison<'_> {
    /// The turns of each program.
    fn measure(&self, rounds: u32) -> Result<Vec<Vec<Turn>>> {
        let mut turns: Vec<Vec<Turn>> = self.programs.iter().map(|_| Vec::new()).collect();
        for round in 1..=rounds {
            for (program, turns) in self.programs.iter().zip(&mut turns) {
                turns.push(program.turn()?);
            }
            eprintln!("{}: round {round} of {rounds} done", self.name);
        }
        Ok(turns)
    }

    fn print(&self, turns: &[Vec<Turn>]) {
        println!("\n{}:\n", self.name);
        let unit = self.unit;
        println!(
            "| program | {unit}: median (min–max) | peak memory | first / program, round by round |"
        );
        println!("| --- | --- | --- | --- |");
        for (program, others) in self.programs.iter().zip(turns) {
            println!("{}", row(&program.name, others, ratios(&turns[0], others)));
        }
    }
}

/// Round by round.
fn ratios(first: &[Turn], others: &[Turn]) -> Vec<f64> {
    let pairs = first.iter().zip(others);
    pairs
        .map(|(first, other)| first.per_s / other.per_s)
        .collect()
}

/// Our own kernels against libtorch's, and the least share of the stored ratio that passes: machines differ, and other work
/// disturbs, but kernels that are no longer used or have become slow are noticed.
///
/// # Errors
/// Slow kernels, or something is missing or fails.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    const ROUNDS: u32 = 3;
    const LEAST_SHARE: f64 = 0.6;
    build(workspace)?;
    let path = workspace.root().join("benches/ratios.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let stored: BTreeMap<String, f64> =
        serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    for (what, stored) in stored {
        let mut arguments = NETWORKS[0].ours.to_vec();
        arguments.extend(["--steps=8", "--reps=1"]);
        if let Some((work, more)) = WORKS.iter().find(|(work, _)| *work == what) {
            arguments.extend(["--work", work]);
            arguments.extend(*more);
        }
        let comparison = Comparison {
            name: what.clone(),
            unit: "images/s",
            programs: ours(workspace, &arguments),
        };
        let turns = comparison.measure(ROUNDS)?;
        let [ratio, ..] = spread(ratios(&turns[0], &turns[1]));
        println!("{what}: own kernels / libtorch's {ratio:.2}, stored {stored:.2}");
        ensure!(
            ratio >= LEAST_SHARE * stored,
            "{what}: our own kernels are {ratio:.2} times as fast as libtorch's, {} says {stored:.2}; either they have become \
             slow, or the machine is busy",
            path.display()
        );
    }
    Ok(())
}

fn comparisons<'a>(
    workspace: &'a Workspace,
    options: &'a Options,
    section: Section,
) -> Result<Vec<Comparison<'a>>> {
    let python = options.python.as_path();
    Ok(match section {
        Section::Training => NETWORKS
            .iter()
            .map(|network| Comparison {
                name: format!("training, {}", network.name),
                unit: "images/s",
                programs: programs(workspace, python, network),
            })
            .collect(),
        Section::Use => WORKS
            .iter()
            .map(|(work, more)| {
                let mut arguments = NETWORKS[0].ours.to_vec();
                arguments.extend(["--work", work]);
                arguments.extend(*more);
                Comparison {
                    name: format!("{work}, {}", NETWORKS[0].name),
                    unit: "images/s",
                    programs: ours(workspace, &arguments),
                }
            })
            .collect(),
        Section::StartUp => vec![start_up(workspace, python)],
        Section::Growth => GROWTH
            .iter()
            .map(|(name, base, variants)| Comparison {
                name: format!("growth with {name}"),
                unit: "images/s",
                programs: variants
                    .iter()
                    .map(|variant| {
                        let arguments = [base, *variant].concat();
                        vae_bench(workspace, variant.join(" "), &arguments)
                    })
                    .collect(),
            })
            .collect(),
        Section::Loader => {
            let photos = options.photos.as_deref();
            vec![loader(
                workspace,
                python,
                photos.context("the loader needs --photos FOLDER")?,
            )]
        }
    })
}

/// What is done with a model, and the arguments for a batch that does not take minutes.
const WORKS: [(&str, &[&str]); 3] = [
    ("encode", &[]),
    ("decode", &[]),
    ("likelihood", &["--set=training.batch_size=4"]),
];

/// What the cost grows with: the arguments of all, and those of each.
type Growth = (
    &'static str,
    &'static [&'static str],
    &'static [&'static [&'static str]],
);

const GROWTH: [Growth; 4] = [
    (
        "the batch",
        &["configs/mnist.toml", "--steps=12", "--reps=1"],
        &[
            &["--set=training.batch_size=8"],
            &["--set=training.batch_size=32"],
            &["--set=training.batch_size=128"],
            &["--set=training.batch_size=512"],
        ],
    ),
    (
        "the image's size",
        &[
            "configs/celeba.toml",
            "--steps=4",
            "--reps=1",
            "--set=training.batch_size=16",
        ],
        &[
            &["--shape=3x32x32"],
            &["--shape=3x64x64"],
            &["--shape=3x128x128"],
        ],
    ),
    (
        "latents",
        &["configs/mnist.toml", "--steps=12", "--reps=1"],
        &[
            &["--set=model.latent_dims=2"],
            &["--set=model.latent_dims=32"],
            &["--set=model.latent_dims=512"],
        ],
    ),
    (
        "threads",
        &[
            "configs/mnist.toml",
            "--steps=12",
            "--reps=1",
            "--set=training.batch_size=128",
        ],
        &[&["--threads=1"], &["--threads=2"]],
    ),
];

/// `vae bench` by our own kernels and by libtorch's alone.
fn ours<'a>(workspace: &'a Workspace, arguments: &[&str]) -> Vec<Program<'a>> {
    OURS.iter()
        .map(|(name, options)| {
            vae_bench(
                workspace,
                (*name).to_owned(),
                &[arguments, options].concat(),
            )
        })
        .collect()
}

fn vae_bench<'a>(workspace: &'a Workspace, name: String, arguments: &[&str]) -> Program<'a> {
    let arguments: Vec<String> = arguments.iter().map(|&part| part.to_owned()).collect();
    Program {
        name,
        command: Box::new(move || {
            let mut command = vae(workspace);
            command.arg("bench").args(&arguments);
            command
        }),
        measured: Measured::Lines,
    }
}

/// The program, as `cargo run` starts it.
fn vae(workspace: &Workspace) -> Command {
    let mut command = cargo::cargo(workspace);
    command.args(["run", "--quiet", "--release", "--package", "vae-cli", "--"]);
    command
}

/// Starts as often as they fit into a second: the rate's inverse is the time of one.
fn start_up<'a>(workspace: &'a Workspace, python: &'a Path) -> Comparison<'a> {
    let vae = |name: &str, arguments: &'static [&'static str]| Program {
        name: name.to_owned(),
        command: Box::new(move || {
            let mut command = Command::new(workspace.root().join("target/release/vae"));
            command.current_dir(workspace.root()).args(arguments);
            command
        }),
        measured: Measured::WholeProgram,
    };
    let python = |name: &str, code: &'static str| Program {
        name: name.to_owned(),
        command: Box::new(move || {
            let mut command = Command::new(python);
            command.args(["-c", code]);
            command
        }),
        measured: Measured::WholeProgram,
    };
    Comparison {
        name: "start-up".to_owned(),
        unit: "starts/s",
        programs: vec![
            vae("vae --help", &["--help"]),
            vae(
                "vae: 64 digits decoded",
                &[
                    "bench",
                    "configs/mnist.toml",
                    "--work=decode",
                    "--set=training.batch_size=64",
                    "--steps=1",
                    "--reps=1",
                ],
            ),
            python("PyTorch: import torch", "import torch"),
        ],
    }
}

fn loader<'a>(workspace: &'a Workspace, python: &'a Path, photos: &'a Path) -> Comparison<'a> {
    Comparison {
        name: "loading of photos".to_owned(),
        unit: "images/s",
        programs: vec![
            Program {
                name: "vae data bench, from files".to_owned(),
                command: Box::new(move || {
                    let mut command = vae(workspace);
                    command.args(["data", "bench", "configs/folder.toml", "--reps", "1"]);
                    command.arg("--data").arg(photos);
                    command
                }),
                // The second line is from the pack.
                measured: Measured::FirstLine,
            },
            Program {
                name: "torchvision".to_owned(),
                command: Box::new(move || {
                    let mut command = Command::new(python);
                    command.current_dir(workspace.root());
                    command.arg("benches/jpeg_loader.py").arg(photos);
                    command
                }),
                measured: Measured::Lines,
            },
        ],
    }
}

/// A program, how it is started, and what of it is measured.
struct Program<'a> {
    name: String,
    command: Box<dyn Fn() -> Command + 'a>,
    measured: Measured,
}

#[derive(Clone, Copy)]
enum Measured {
    /// The median of `images_per_s` in its lines of JSON.
    Lines,
    /// That of the first line.
    FirstLine,
    /// From its start to its end.
    WholeProgram,
}

/// What is compared on a network; this program comes first.
fn programs<'a>(
    workspace: &'a Workspace,
    python: &'a Path,
    network: &'static Network,
) -> Vec<Program<'a>> {
    let mut programs = ours(workspace, network.ours);
    if let Some(arguments) = network.peers {
        programs.extend(PEERS.map(|(mode, keeps_blocks)| Program {
            name: format!(
                "PyTorch {mode}{}",
                if keeps_blocks { ", kept blocks" } else { "" }
            ),
            command: Box::new(move || {
                let mut command = Command::new(python);
                command.current_dir(workspace.root());
                command.arg("benches/pytorch_vae.py").args(arguments);
                command.args(["--mode", mode]);
                if keeps_blocks {
                    command.envs(KEPT_BLOCKS);
                }
                command
            }),
            measured: Measured::Lines,
        }));
    }
    programs
}

impl Program<'_> {
    /// Runs it once, and reads its lines of JSON where it is measured by them.
    fn turn(&self) -> Result<Turn> {
        let mut command = (self.command)();
        let begun = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let peak_mib = watch_memory(&mut child)?;
        let seconds = begun.elapsed().as_secs_f64();
        let output = child.wait_with_output()?;
        cargo::check(&self.name, output.status)?;
        let rates = || {
            let text = String::from_utf8_lossy(&output.stdout);
            let rates = text
                .lines()
                .map(|line| Ok(serde_json::from_str::<Repetition>(line)?.images_per_s));
            let rates: Vec<f64> = rates.collect::<Result<_>>().with_context(|| {
                format!("{}: expected lines of JSON with images_per_s", self.name)
            })?;
            ensure!(!rates.is_empty(), "{}: printed no result", self.name);
            anyhow::Ok(rates)
        };
        let per_s = match self.measured {
            Measured::Lines => spread(rates()?)[0],
            Measured::FirstLine => rates()?[0],
            Measured::WholeProgram => 1.0 / seconds,
        };
        Ok(Turn { per_s, peak_mib })
    }
}

/// Waits for the end of a process; gives its largest resident size, as seen a hundred times a second.
fn watch_memory(child: &mut Child) -> Result<f64> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0.0_f64;
    while child.try_wait()?.is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let seen = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
        peak_kib = peak_kib.max(seen.unwrap_or(0.0));
        thread::sleep(Duration::from_millis(10));
    }
    Ok(peak_kib / 1024.0)
}

fn row(name: &str, turns: &[Turn], ratios: Vec<f64>) -> String {
    let [median, min, max] = spread(turns.iter().map(|turn| turn.per_s).collect());
    let [ratio, least, most] = spread(ratios);
    let peak = turns
        .iter()
        .fold(0.0_f64, |peak, turn| peak.max(turn.peak_mib));
    let [median, min, max] = [median, min, max].map(|rate| match rate < 20.0 {
        true => format!("{rate:.2}"),
        false => format!("{rate:.0}"),
    });
    format!(
        "| {name} | {median} ({min}–{max}) | {peak:.0} MiB | {ratio:.2} ({least:.2}–{most:.2}) |"
    )
}

/// Median (the mean of the middle two), minimum and maximum of at least one number.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    [(lower + upper) / 2.0, values[0], values[values.len() - 1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_median_minimum_maximum() {
        assert_eq!(spread(vec![3.0]), [3.0, 3.0, 3.0]);
        assert_eq!(spread(vec![4.0, 1.0, 2.0]), [2.0, 1.0, 4.0]);
        assert_eq!(spread(vec![4.0, 1.0, 2.0, 3.0]), [2.5, 1.0, 4.0]);
    }

    #[test]
    fn a_turn_is_the_median_of_its_lines_or_the_first() {
        let program = |text: &'static str, measured| Program {
            name: "printf".to_owned(),
            command: Box::new(move || {
                let mut command = Command::new("printf");
                command.arg(text);
                command
            }),
            measured,
        };
        let text = r#"{"images_per_s": 3, "x": 1}\n{"images_per_s": 5}\n{"images_per_s": 100}\n"#;
        let lines = program(text, Measured::Lines);
        assert_eq!(lines.turn().unwrap().per_s, 5.0);
        let first = program(text, Measured::FirstLine);
        assert_eq!(first.turn().unwrap().per_s, 3.0);
        assert!(program("", Measured::Lines).turn().is_err());
        assert!(program("", Measured::WholeProgram).turn().unwrap().per_s > 0.0);
    }

    #[test]
    fn ratios_are_those_of_a_round() {
        let turn = |per_s| Turn {
            per_s,
            peak_mib: 0.0,
        };
        let found = ratios(&[turn(3.0), turn(8.0)], &[turn(2.0), turn(2.0)]);
        assert_eq!(found, [1.5, 4.0]);
    }
}
