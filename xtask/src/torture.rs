//! `cargo xtask torture`: runs that are killed, stopped, or left without space or permissions must end the same, bit for bit,
//! as undisturbed ones.

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

/// Its title, where it is written first.
const TITLE: &str = "Reliability: what was tried, and what happened";

/// The arguments of `cargo xtask torture`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kills (SIGKILL) at random moments, each followed by a resume.
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: u32,
    /// Trials of every other fault.
    #[arg(long, value_name = "N", default_value_t = 5)]
    trials: u32,
    /// The same seed gives the same delays.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// A `vae` that is built already [default: a release build, made first].
    #[arg(long, value_name = "PATH")]
    vae: Option<PathBuf>,
    /// Leave docs/reliability.md as it is.
    #[arg(long)]
    no_page: bool,
    /// Print the counts as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Only the faults that need a disk of their own, in this namespace, for the process that started it.
    #[arg(long, hide = true)]
    may_mount: bool,
}

/// The results of the trials of one fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Count {
    fault: String,
    wanted: String,
    tried: u32,
    as_wanted: u32,
    /// The first few unexpected results.
    failures: Vec<String>,
    /// Why there were no trials.
    not_tested: Option<String>,
}

impl Count {
    fn new(fault: &str, wanted: &str) -> Self {
        Self {
            fault: fault.to_owned(),
            wanted: wanted.to_owned(),
            tried: 0,
            as_wanted: 0,
            failures: Vec::new(),
            not_tested: None,
        }
    }

    /// Counts `n` trials with the same result.
    fn add(&mut self, n: u32, outcome: Result<()>) {
        self.tried += n;
        match outcome {
            Ok(()) => self.as_wanted += n,
            Err(error) => {
                eprintln!("NOT AS WANTED: {}: {error:#}", self.fault);
                self.failures.push(format!("{error:#}"));
                self.failures.truncate(10);
            }
        }
    }
}

/// Tries every fault, and prints and writes the counts.
///
/// # Errors
/// SIGINT is ignored; `vae` cannot be built; a trial did not end as expected.
pub(crate) fn torture(workspace: &Workspace, args: &Args) -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ensure!(
        !ignores_interrupts(&status),
        "SIGINT is ignored here, as in a script's background job: each `vae` would ignore it too; \
         start this in the foreground"
    );
    let vae = match &args.vae {
        Some(path) => fs::canonicalize(path).with_context(|| path.display().to_string())?,
        None => build(workspace)?,
    };
    let bench = Bench::new(vae, args.seed)?;
    if args.may_mount {
        let counts = faults::on_disks_of_their_own(&bench, args.trials)?;
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
            "## Kills, signals and full disks\n\nRuns of a tiny model that writes a checkpoint after nearly every \
             step, `checkpoints.keep` 1, 2 and 3, with and without averaged weights. \"The same bits\": \
             metrics.jsonl (but for what a clock measured), pictures, weights and moments equal those of a run \
             of the same config that nothing happened to.\n\n{table}\nWritten by `{command}`.\n"
        );
        let page = workspace.root().join(PAGE);
        section::write(&page, TITLE, "torture", &text)?;
    }
    let n_failed: u32 = counts
        .iter()
        .map(|count| count.tried - count.as_wanted)
        .sum();
    ensure!(n_failed == 0, "{n_failed} trials did not end as wanted");
    Ok(())
}

/// Whether SIGINT, signal 2, is ignored, by Linux' /proc/PID/status.
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

/// The faults that need a disk of their own, by this program in a mount namespace where it may mount one.
fn mounted(bench: &Bench, args: &Args) -> Result<Vec<Count>> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount"]);
        command
    };
    let may_mount = unshare().arg("true").output();
    if !may_mount.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "NOT TESTED: full and read-only disks: this system lets nobody mount one (unshare)"
        );
        return Ok(faults::untested_disks());
    }
    let this = std::env::current_exe().context("the path of this program")?;
    let output = unshare()
        .arg(this)
        .args(["torture", "--may-mount", "--vae"])
        .arg(bench.vae())
        .args(["--trials", &args.trials.to_string()])
        .args(["--seed", &args.seed.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("unshare")?;
    cargo::check("the part with disks of its own", output.status)?;
    serde_json::from_slice(&output.stdout).context("counts of the part with disks of its own")
}

/// A Markdown table, which is read as well in a terminal.
fn table(counts: &[Count]) -> String {
    let mut text =
        "| fault | tried | as wanted | wanted |\n| --- | ---: | ---: | --- |\n".to_owned();
    for count in counts {
        let Count {
            fault,
            wanted,
            tried,
            as_wanted,
            ..
        } = count;
        text += &match &count.not_tested {
            None => format!("| {fault} | {tried} | {as_wanted} | {wanted} |\n"),
            Some(why) => format!("| {fault} | NOT TESTED | | {wanted} ({why}) |\n"),
        };
    }
    for count in counts {
        for failure in &count.failures {
            let failure = failure.replace(['\n', '|'], " ");
            text += &format!("\nNot as wanted, {}: {failure}\n", count.fault);
        }
    }
    text
}

/// A path for messages, without the part that all share.
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
    fn an_ignored_interrupt_is_known() {
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
            "| fault | tried | as wanted | wanted |\n| --- | ---: | ---: | --- |\n\
             | SIGKILL | 100 | 50 | the same bytes |\n\
             | full disk | NOT TESTED | | a pause (no unshare) |\n\
             \nNot as wanted, SIGKILL: metrics differ\n"
        );
    }
}
