//! The faults, with one function for each.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::Count;
use super::bench::{Bench, Process, Settings, remove, succeed};

/// Epochs that no trial reaches.
const FOR_EVER: u64 = 1_000_000;

/// Kills of one run before it is compared.
const KILLS_OF_A_RUN: u32 = 25;

/// The longest training before a fault, in seconds.
const LONGEST: f64 = 0.15;

/// Part of the message that is printed just before the first step.
const BEGINS: &str = "training and";

/// The progress of the trials: a bar on a terminal, otherwise a line every 20 seconds.
struct Trials {
    bar: ProgressBar,
    what: &'static str,
    printed: Instant,
}

impl Trials {
    fn new(what: &'static str, n: u32) -> Self {
        let bar = ProgressBar::new(n.into());
        if let Ok(style) =
            ProgressStyle::with_template("  {msg} {wide_bar} {pos}/{len}, {eta} left")
        {
            bar.set_style(style);
        }
        let bar = bar.with_message(what);
        let printed = Instant::now();
        Self { bar, what, printed }
    }

    fn add(&mut self, n: u32) {
        self.bar.inc(n.into());
        if self.bar.is_hidden() && self.printed.elapsed() > Duration::from_secs(20) {
            self.printed = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let left = self.bar.eta().as_secs();
            eprintln!("{}: {done}/{all}, {left} s left", self.what);
        }
    }
}

/// Runs `n` trials, each with a new run.
fn trials(
    what: &'static str,
    expected: &'static str,
    n: u32,
    mut trial: impl FnMut(u32) -> Result<()>,
) -> Count {
    let mut count = Count::new(what, expected);
    let mut progress = Trials::new(what, n);
    for i in 0..n {
        count.add(1, trial(i));
        progress.add(1);
    }
    progress.bar.finish_and_clear();
    count
}

/// SIGKILL, up to [`KILLS_OF_A_RUN`] times for each run.
pub(super) fn kills(bench: &Bench, n: u32) -> Result<Count> {
    let mut count = Count::new(
        "SIGKILL at a random moment, then `--resume`",
        "every resume continues; after 25 kills bit for bit equal to a run that was never killed",
    );
    let mut progress = Trials::new("kills", n);
    let mut startup = 0.5;
    for series in 0..n.div_ceil(KILLS_OF_A_RUN) {
        let settings = Settings::of(series);
        let run = bench.path("killed");
        remove(&run)?;
        let n_kills = KILLS_OF_A_RUN.min(n - series * KILLS_OF_A_RUN);
        let mut trial = || -> Result<()> {
            for kill in 0..n_kills {
                killed(bench, &run, &settings, kill, &mut startup)
                    .with_context(|| format!("series {series}, kill {kill}"))?;
                progress.add(1);
            }
            bench
                .resume_and_compare(&run, &settings)
                .with_context(|| format!("series {series}: {settings:?}"))
        };
        let outcome = trial();
        count.add(n_kills, outcome);
        progress
            .bar
            .set_position((series * KILLS_OF_A_RUN + n_kills).into());
    }
    progress.bar.finish_and_clear();
    Ok(count)
}

/// Starts a process and kills it at a random moment: every fifth one while it starts, the others while it trains.
fn killed(
    bench: &Bench,
    run: &Path,
    settings: &Settings,
    kill: u32,
    startup: &mut f64,
) -> Result<()> {
    let begun = Instant::now();
    let mut process = Process::start(&mut bench.train(run, settings, FOR_EVER, true))?;
    if kill % 5 == 4 {
        thread::sleep(bench.random_seconds(*startup));
    } else {
        process.wait_for_line(BEGINS)?;
        *startup = begun.elapsed().as_secs_f64();
        thread::sleep(bench.random_seconds(LONGEST));
    }
    process.kill()?;
    let (status, said) = process.end()?;
    ensure!(
        status.code().is_none(),
        "the process ended before it was killed ({status}): {}",
        said.trim()
    );
    ensure!(!said.contains("damaged"), "{}", said.trim());
    Ok(())
}

/// A single SIGINT or SIGTERM: the run is saved, and can be resumed exactly.
pub(super) fn stops(bench: &Bench, n: u32) -> Result<Count> {
    let expected = "saved, exit code 130; after `--resume` bit for bit equal";
    Ok(trials(
        "SIGINT or SIGTERM, then `--resume`",
        expected,
        n,
        |i| {
            let (run, settings) = (bench.path("stopped"), Settings::of(i));
            remove(&run)?;
            let mut process = Process::start(&mut bench.train(&run, &settings, FOR_EVER, true))?;
            process.wait_for_line(BEGINS)?;
            thread::sleep(bench.random_seconds(3.0 * LONGEST));
            process.signal(if i % 2 == 0 { "-INT" } else { "-TERM" })?;
            let (status, said) = process.end()?;
            ensure!(status.code() == Some(130), "{status}: {}", said.trim());
            bench.resume_and_compare(&run, &settings)
        },
    ))
}

/// SIGINT twice: the process exits at once.
pub(super) fn second_ctrl_c(bench: &Bench, n: u32) -> Result<Count> {
    let expected = "exit code 130 and no crash; after `--resume` bit for bit equal";
    Ok(trials("SIGINT twice, then `--resume`", expected, n, |i| {
        let (run, settings) = (bench.path("twice"), Settings::of(i));
        remove(&run)?;
        let mut process = Process::start(&mut bench.train(&run, &settings, FOR_EVER, true))?;
        process.wait_for_line(BEGINS)?;
        thread::sleep(bench.random_seconds(3.0 * LONGEST));
        process.signal("-INT")?;
        process.wait_for_line("once more")?;
        // The first signal may have ended the process already.
        let _ = process.signal("-INT");
        let (status, said) = process.end()?;
        ensure!(status.code() == Some(130), "{status}: {}", said.trim());
        bench.resume_and_compare(&run, &settings)
    }))
}

/// `ulimit -f`: a limit on the size of files.
pub(super) fn file_size_limits(bench: &Bench, n: u32) -> Result<Count> {
    let expected = "an error that names the file, no signal; without the limit bit for bit equal after `--resume`";
    Ok(trials("`ulimit -f`", expected, n, |i| {
        let (run, settings) = (bench.path("limited"), Settings::of(i));
        remove(&run)?;
        let n_blocks = 4 + (bench.random() * 16.0) as u32;
        let train = bench.train(&run, &settings, FOR_EVER, true);
        let mut limited = Command::new("sh");
        limited
            .args(["-c", &format!("ulimit -f {n_blocks}; exec \"$@\""), "sh"])
            .arg(train.get_program())
            .args(train.get_args())
            .current_dir(bench.path(""))
            .env("OMP_NUM_THREADS", "1");
        let (status, said) = Process::start(&mut limited)?.end()?;
        let last = said.trim().lines().last().unwrap_or_default();
        ensure!(
            status.code() == Some(1),
            "{n_blocks} blocks: {status}: {last}"
        );
        ensure!(last.contains("File too large"), "{n_blocks} blocks: {last}");
        if !run.join("config.toml").exists() {
            return Ok(()); // Even the config exceeded the limit.
        }
        bench.resume_and_compare(&run, &settings)
    }))
}

const FULL: (&str, &str) = (
    "full disk, then space again",
    "a pause that states the reason; continues without help; after SIGINT and `--resume` bit for bit equal",
);
const READ_ONLY: (&str, &str) = (
    "read-only disk",
    "`sample` works, `train --resume` fails with an error in one line, no file changes",
);

/// The counts of [`on_separate_disks`] where no disk can be mounted.
pub(super) fn untested_disks() -> Vec<Count> {
    let why = "no disk can be mounted on this system";
    let untested = |(fault, wanted)| Count {
        not_tested: Some(why.to_owned()),
        ..Count::new(fault, wanted)
    };
    [FULL, READ_ONLY].map(untested).into()
}

/// Full and read-only disks, for a process that may mount them.
pub(super) fn on_separate_disks(bench: &Bench, n: u32) -> Result<Vec<Count>> {
    let disk = bench.path("disk");
    fs::create_dir(&disk)?;
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=1500k", "tmpfs"])
        .arg(&disk);
    succeed(&mut mount).context("mount")?;
    let full = trials(FULL.0, FULL.1, n, |i| full(bench, &disk, &Settings::of(i)));
    let read_only = trials(READ_ONLY.0, READ_ONLY.1, n, |i| {
        read_only(bench, &disk, &Settings::of(i))
    });
    let mut unmount = Command::new("umount");
    succeed(unmount.arg(&disk)).context("umount")?;
    Ok(vec![full, read_only])
}

fn full(bench: &Bench, disk: &Path, settings: &Settings) -> Result<()> {
    let (run, filler) = (disk.join("run"), disk.join("filler"));
    remove(&run)?;
    let mut process = Process::start(&mut bench.train(&run, settings, FOR_EVER, true))?;
    process.wait_for_line(BEGINS)?;
    thread::sleep(bench.random_seconds(3.0 * LONGEST));
    let mut file = fs::File::create(&filler)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    process.wait_for_line("no space left")?;
    thread::sleep(bench.random_seconds(2.0 * LONGEST));
    drop(file);
    fs::remove_file(&filler)?;
    process.wait_for_line("continuing")?;
    thread::sleep(bench.random_seconds(LONGEST));
    process.signal("-INT")?;
    let (status, said) = process.end()?;
    ensure!(status.code() == Some(130), "{status}: {}", said.trim());
    bench.resume_and_compare(&run, settings)
}

fn read_only(bench: &Bench, disk: &Path, settings: &Settings) -> Result<()> {
    let run = disk.join("run");
    remove(&run)?;
    succeed(&mut bench.train(&run, settings, 1, false))?;
    let remount = |how: &str| {
        let mut mount = Command::new("mount");
        succeed(mount.args(["-o", &format!("remount,{how}")]).arg(disk)).context("mount")
    };
    remount("ro")?;
    let trial = || -> Result<()> {
        let picture = bench.path("p.png");
        let (from, to) = (run.to_string_lossy(), picture.to_string_lossy());
        succeed(&mut bench.command(&["sample", &from, "--out", &to])).context("sample")?;
        let (status, said) = Process::start(&mut bench.train(&run, settings, 2, false))?.end()?;
        let said = said.trim();
        ensure!(status.code() == Some(1), "train --resume: {status}: {said}");
        ensure!(
            said.lines().count() == 1 && said.contains("Read-only"),
            "train --resume: {said}"
        );
        Ok(())
    };
    let outcome = trial();
    remount("rw")?;
    outcome?;
    bench.resume_and_compare(&run, settings)
}
