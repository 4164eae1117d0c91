//! `cargo xtask bench`: training throughput beside PyTorch's in its best modes, turn by turn in one sitting.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
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
    (
        "vae --convolutions libtorch",
        &["--convolutions", "libtorch"],
    ),
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
    /// Median over the turn's repetitions.
    images_per_s: f64,
    peak_mib: f64,
}

#[derive(Deserialize)]
struct Repetition {
    images_per_s: f64,
}

/// Measure `vae bench` and `benches/pytorch_vae.py` in turns, one network after the other.
///
/// # Errors
/// If something is missing or fails.
pub(crate) fn bench(
    workspace: &Workspace,
    python: &Path,
    rounds: usize,
    json: Option<&Path>,
) -> Result<()> {
    ensure!(rounds > 0, "at least one round is needed");
    libtorch::ensure_present(workspace)?;
    let mut build = cargo::cargo(workspace);
    build.args(["build", "--release", "--package", "vae-cli"]);
    cargo::run("build", &mut build)?;
    let mut results = Vec::new();
    for network in &NETWORKS {
        let programs = programs(workspace, python, network);
        let mut turns: Vec<Vec<Turn>> = programs.iter().map(|_| Vec::new()).collect();
        for round in 1..=rounds {
            for (program, turns) in programs.iter().zip(&mut turns) {
                let command = &mut (program.command)();
                turns.push(turn(command, &program.name)?);
            }
            eprintln!("{}: round {round} of {rounds} done", network.name);
        }
        println!("\n{}:\n", network.name);
        println!(
            "| program | images/s: median (min–max) | peak memory | vae / program, round by round |"
        );
        println!("| --- | --- | --- | --- |");
        for (program, others) in programs.iter().zip(&turns) {
            let ratios = turns[0].iter().zip(others);
            let ratios = ratios.map(|(ours, other)| ours.images_per_s / other.images_per_s);
            println!("{}", row(&program.name, others, ratios.collect()));
            results.push(json!({
                "network": network.name,
                "program": program.name,
                "images_per_s": others.iter().map(|turn| turn.images_per_s).collect::<Vec<_>>(),
                "peak_mib": others.iter().map(|turn| turn.peak_mib).collect::<Vec<_>>(),
            }));
        }
    }
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&results)?;
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// A program and how it is started.
struct Program<'a> {
    name: String,
    command: Box<dyn Fn() -> Command + 'a>,
}

/// What is compared on a network; this program comes first.
fn programs<'a>(
    workspace: &'a Workspace,
    python: &'a Path,
    network: &'static Network,
) -> Vec<Program<'a>> {
    let ours = OURS.map(|(name, options)| Program {
        name: name.to_owned(),
        command: Box::new(move || {
            let mut command = cargo::cargo(workspace);
            command.args(["run", "--quiet", "--release", "--package", "vae-cli", "--"]);
            command.arg("bench").args(network.ours).args(options);
            command
        }),
    });
    let mut programs: Vec<_> = ours.into();
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
        }));
    }
    programs
}

/// Runs one program and reads its lines of JSON.
fn turn(command: &mut Command, what: &str) -> Result<Turn> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let peak_mib = watch_memory(&mut child)?;
    let output = child.wait_with_output()?;
    cargo::check(what, output.status)?;
    let rates = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| Ok(serde_json::from_str::<Repetition>(line)?.images_per_s))
        .collect::<Result<Vec<f64>>>()
        .with_context(|| format!("{what}: expected lines of JSON with images_per_s"))?;
    ensure!(!rates.is_empty(), "{what}: printed no result");
    let [images_per_s, ..] = spread(rates);
    Ok(Turn {
        images_per_s,
        peak_mib,
    })
}

/// Waits for the end of a process; gives its largest resident size, as seen four times a second.
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
        thread::sleep(Duration::from_millis(250));
    }
    Ok(peak_kib / 1024.0)
}

fn row(name: &str, turns: &[Turn], ratios: Vec<f64>) -> String {
    let [median, min, max] = spread(turns.iter().map(|turn| turn.images_per_s).collect());
    let [ratio, least, most] = spread(ratios);
    let peak = turns
        .iter()
        .fold(0.0_f64, |peak, turn| peak.max(turn.peak_mib));
    format!(
        "| {name} | {median:.0} ({min:.0}–{max:.0}) | {peak:.0} MiB | {ratio:.2} ({least:.2}–{most:.2}) |"
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
    fn a_turn_is_the_median_of_its_lines() {
        let mut command = Command::new("printf");
        command.arg(r#"{"images_per_s": 3, "x": 1}\n{"images_per_s": 5}\n{"images_per_s": 100}\n"#);
        assert_eq!(turn(&mut command, "printf").unwrap().images_per_s, 5.0);
        let mut silent = Command::new("true");
        assert!(turn(&mut silent, "true").is_err());
    }
}
