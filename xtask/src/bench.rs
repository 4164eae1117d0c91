//! `cargo xtask bench`: training throughput beside PyTorch's, turn by turn in one sitting.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::workspace::Workspace;
use crate::{cargo, libtorch};

/// PyTorch's modes on a CPU; the best of them is the one to beat.
const PEER_MODES: [&str; 2] = ["eager", "eager-cl"];

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

/// Measure `vae bench configs/mnist.toml` and `benches/pytorch_vae.py` in turns.
///
/// # Errors
/// If something is missing or fails.
pub(crate) fn bench(workspace: &Workspace, python: &Path, rounds: usize) -> Result<()> {
    ensure!(rounds > 0, "at least one round is needed");
    libtorch::ensure_present(workspace)?;
    let mut build = cargo::cargo(workspace);
    build.args(["build", "--release", "--package", "vae-cli"]);
    cargo::run("build", &mut build)?;

    let mut ours = Vec::new();
    let mut peers = PEER_MODES.map(|_| Vec::new());
    for round in 1..=rounds {
        let mut command = cargo::cargo(workspace);
        command.args(["run", "--quiet", "--release", "--package", "vae-cli", "--"]);
        // The network of configs/mnist.toml at the peer's batch size.
        command.args(["bench", "configs/mnist.toml"]);
        command.args(["--set", "training.batch_size=128"]);
        ours.push(turn(&mut command, "vae")?);
        for (mode, turns) in PEER_MODES.iter().zip(&mut peers) {
            let mut command = Command::new(python);
            command.current_dir(workspace.root());
            command.args(["benches/pytorch_vae.py", "--model", "mnist", "--mode", mode]);
            turns.push(turn(&mut command, "python")?);
        }
        eprintln!("round {round} of {rounds} done");
    }

    println!("| program | images/s: median (min–max) | peak memory |");
    println!("| --- | --- | --- |");
    println!("{}", row("vae", &ours));
    for (mode, turns) in PEER_MODES.iter().zip(&peers) {
        println!("{}", row(&format!("PyTorch {mode}"), turns));
    }
    for (mode, turns) in PEER_MODES.iter().zip(&peers) {
        let ratios = ours
            .iter()
            .zip(turns)
            .map(|(ours, peer)| ours.images_per_s / peer.images_per_s)
            .collect();
        let [median, min, max] = spread(ratios);
        println!(
            "vae / PyTorch {mode}, round by round: median {median:.2} ({min:.2}–{max:.2}) over \
             {rounds} rounds"
        );
    }
    Ok(())
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

fn row(name: &str, turns: &[Turn]) -> String {
    let [median, min, max] = spread(turns.iter().map(|turn| turn.images_per_s).collect());
    let peak = turns
        .iter()
        .fold(0.0_f64, |peak, turn| peak.max(turn.peak_mib));
    format!("| {name} | {median:.0} ({min:.0}–{max:.0}) | {peak:.0} MiB |")
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
