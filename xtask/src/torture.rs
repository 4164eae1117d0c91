//! `cargo xtask torture`: runs that are killed, stopped, or left without space or permissions must end bit for bit
//! equal to undisturbed ones.

mod bench;
mod faults;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::workspace::Workspace;
use crate::{cargo, libtorch, section};
use bench::Bench;

/// The page that the counts are written to.
const PAGE: &str = "docs/reliability.md";

/// Its title, for a page that does not exist yet.
const TITLE: &str = "Reliability: tests of faults, formulas and damaged files";

/// The arguments of `cargo xtask torture`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kills (SIGKILL) at random moments, each followed by a resume.
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: u32,
    /// Trials of each other fault.
    #[arg(long, value_name = "N", default_value_t = 5)]
    trials: u32,
    /// The seed of the random delays.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// An existing `vae` binary [default: build one in release mode first].
    #[arg(long, value_name = "PATH")]
    vae: Option<PathBuf>,
    /// Do not update docs/reliability.md.
    #[arg(long)]
    no_page: bool,
    /// Print the counts as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Only the faults that need a separate disk. The parent process starts this one in a mount namespace.
    #[arg(long, hide = true)]
    may_mount: bool,
}

/// The results of the trials of one fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Count {
    fault: String,
    /// The expected result.
    expected: String,
    n_trials: u32,
    n_as_expected: u32,
    /// The first few unexpected results.
    failures: Vec<String>,
    /// The reason if there were no trials.
    not_tested: Option<String>,
}

impl Count {
    fn new(fault: &str, expected: &str) -> Self {
        Self {
            fault: fault.to_owned(),
            expected: expected.to_owned(),
            n_trials: 0,
            n_as_expected: 0,
            failures: Vec::new(),
            not_tested: None,
        }
    }

    /// Counts `n` trials with the same result.
    fn add(&mut self, n: u32, outcome: Result<()>) {
        self.n_trials += n;
        match outcome {
            Ok(()) => self.n_as_expected += n,
            Err(error) => {
                eprintln!("UNEXPECTED: {}: {error:#}", self.fault);
                self.failures.push(format!("{error:#}"));
                self.failures.truncate(10);
            }
        }
    }
}

/// Runs the trials of every fault, prints the counts and writes them to the page.
///
/// # Errors
/// SIGINT is ignored; `vae` cannot be built; a trial did not end as expected.
pub(crate) fn torture(workspace: &Workspace, args: &Args) -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ensure!(
        !ignores_interrupts(&status),
        "SIGINT is ignored in this shell, as in a script's background job, and each `vae` would ignore it too; \
         run this command in the foreground"
    );
    let vae = match &args.vae {
        Some(path) => fs::canonicalize(path).with_context(|| path.display().to_string())?,
        None => build(workspace)?,
    };
    let bench = Bench::new(vae, args.seed)?;
    if args.may_mount {
        let counts = faults::on_separate_disks(&bench, args.trials)?;
        println!("{}", serde_json::to_string(&counts)?);
        return Ok(());
    }
    let mut counts = vec![
        faults::kills(&bench, args.kills)?,
        faults::stops(&bench, args.trials)?,
        faults::second_ctrl_c(&bench, args.trials)?,
        faults::file_size_limits(&bench, args.trials)?,
    ];
    counts.extend(mounted(&bench, args)?);
    let table = table(&counts);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&counts)?);
    } else {
        print!("{table}");
    }
    if !args.no_page {
        let command = format!(
            "cargo xtask torture --kills {} --trials {} --seed {}",
            args.kills, args.trials, args.seed
        );
        let text = format!(
            "## Kills, signals and full disks\n\nEach run trains a tiny model and writes a checkpoint after nearly \
             every step, with `checkpoints.keep` 1, 2 or 3, with or without averaged weights. \"Bit for bit equal\" \
             means that metrics.jsonl (except measured times), pictures, weights and the optimizer's moments equal \
             those of an undisturbed run of the same config.\n\n{table}\nWritten by `{command}`.\n"
        );
        let page = workspace.root().join(PAGE);
        section::write(&page, TITLE, "torture", &text)?;
    }
    let n_failed: u32 = counts
        .iter()
        .map(|count| count.n_trials - count.n_as_expected)
        .sum();
    ensure!(n_failed == 0, "{n_failed} trials did not end as expected");
    Ok(())
}

/// Whether SIGINT (signal 2) is ignored according to the text of Linux's /proc/PID/status.
fn ignores_interrupts(status: &str) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 0b10 != 0)
}

fn build(workspace: &Workspace) -> Result<PathBuf> {
    libtorch::ensure_present(workspace)?;
    let mut command = cargo::cargo(workspace);
    command.args(["build", "--release", "--package", "vae-cli"]);
    cargo::run("cargo build", &mut command)?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.root().join("target"), PathBuf::from);
    let vae = target.join("release/vae");
    fs::canonicalize(&vae).with_context(|| vae.display().to_string())
}

/// The faults that need a separate disk. Runs this program again in a mount namespace, where it may mount one.
fn mounted(bench: &Bench, args: &Args) -> Result<Vec<Count>> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount"]);
        command
    };
    let may_mount = unshare().arg("true").output();
    if !may_mount.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "NOT TESTED: full and read-only disks: `unshare` cannot mount a disk on this system"
        );
        return Ok(faults::untested_disks());
    }
    let this = std::env::current_exe().context("cannot find the path of this program")?;
    let output = unshare()
        .arg(this)
        .args(["torture", "--may-mount", "--vae"])
        .arg(bench.vae())
        .args(["--trials", &args.trials.to_string()])
        .args(["--seed", &args.seed.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("unshare")?;
    cargo::check("`cargo xtask torture --may-mount`", output.status)?;
    serde_json::from_slice(&output.stdout)
        .context("cannot parse the counts of `cargo xtask torture --may-mount`")
}

/// A Markdown table, which is also readable in a terminal.
fn table(counts: &[Count]) -> String {
    let mut text =
        "| fault | trials | as expected | expected result |\n| --- | ---: | ---: | --- |\n"
            .to_owned();
    for count in counts {
        let Count {
            fault,
            expected,
            n_trials,
            n_as_expected,
            ..
        } = count;
        text += &match &count.not_tested {
            None => format!("| {fault} | {n_trials} | {n_as_expected} | {expected} |\n"),
            Some(why) => format!("| {fault} | NOT TESTED | | {expected} ({why}) |\n"),
        };
    }
    for count in counts {
        for failure in &count.failures {
            let failure = failure.replace(['\n', '|'], " ");
            text += &format!("\nUnexpected result of {}: {failure}\n", count.fault);
        }
    }
    text
}

/// The last component of a path, for messages.
fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_interrupt_is_recognized() {
        assert!(ignores_interrupts(
            "SigBlk:\t0\nSigIgn:\t0000000001001006\n"
        ));
        assert!(!ignores_interrupts(
            "SigIgn:\t0000000001001004\nSigCgt:\t2\n"
        ));
        assert!(!ignores_interrupts("")); // Not Linux.
    }

    #[test]
    fn a_table_counts_and_names_what_went_wrong() {
        let mut kills = Count::new("SIGKILL", "the same bytes");
        kills.add(50, Ok(()));
        kills.add(50, Err(anyhow::anyhow!("metrics differ")));
        let mut disks = Count::new("full disk", "a pause");
        disks.not_tested = Some("no unshare".to_owned());
        assert_eq!(
            table(&[kills, disks]),
            "| fault | trials | as expected | expected result |\n| --- | ---: | ---: | --- |\n\
             | SIGKILL | 100 | 50 | the same bytes |\n\
             | full disk | NOT TESTED | | a pause (no unshare) |\n\
             \nUnexpected result of SIGKILL: metrics differ\n"
        );
    }
}
