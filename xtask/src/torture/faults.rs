//! The faults, one function each.

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

/// Kills that one run has to bear before it is compared.
const KILLS_OF_A_RUN: u32 = 25;

/// Seconds of training before a fault, at most.
const LONGEST: f64 = 0.15;

/// The message of a training whose first step is next.
const BEGINS: &str = "training and";

/// How far the trials are: a bar on a terminal, else a line now and then.
struct Trials {
    bar: ProgressBar,
    what: &'static str,
    told: Instant,
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
        let told = Instant::now();
        Self { bar, what, told }
    }

    fn add(&mut self, n: u32) {
        self.bar.inc(n.into());
        if self.bar.is_hidden() && self.told.elapsed() > Duration::from_secs(20) {
            self.told = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let left = self.bar.eta().as_secs();
            eprintln!("{}: {done}/{all}, {left} s left", self.what);
        }
    }
}

/// One trial after another, each of its own run.
fn trials(
    what: &'static str,
    wanted: &'static str,
    n: u32,
    mut trial: impl FnMut(u32) -> Result<()>,
) -> Count {
    let mut count = Count::new(what, wanted);
    let mut progress = Trials::new(what, n);
    for i in 0..n {
        count.add(1, trial(i));
        progress.add(1);
    }
    progress.bar.finish_and_clear();
    count
}

/// SIGKILL, many times in the life of each run.
pub(super) fn kills(bench: &Bench, n: u32) -> Result<Count> {
    let mut count = Count::new(
        "SIGKILL at a random moment, then `--resume`",
        "each resume goes on; after 25 kills the same bits as of a run that was never killed",
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
                .ends_as_an_undisturbed_one(&run, &settings)
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

/// One process and its end: most at a random moment of the training, every fifth while it starts.
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
        process.wait_until_it_says(BEGINS)?;
        *startup = begun.elapsed().as_secs_f64();
        thread::sleep(bench.random_seconds(LONGEST));
    }
    process.kill()?;
    let (status, said) = process.end()?;
    ensure!(
        status.code().is_none(),
        "it ended by itself ({status}): {}",
        said.trim()
    );
    ensure!(!said.contains("damaged"), "{}", said.trim());
    Ok(())
}

/// SIGINT and SIGTERM once: it saves, and can be resumed exactly.
pub(super) fn stops(bench: &Bench, n: u32) -> Result<Count> {
    let wanted = "saved, exit code 130; after `--resume` the same bits";
    Ok(trials(
        "SIGINT or SIGTERM, then `--resume`",
        wanted,
        n,
        |i| {
            let (run, settings) = (bench.path("stopped"), Settings::of(i));
            remove(&run)?;
            let mut process = Process::start(&mut bench.train(&run, &settings, FOR_EVER, true))?;
            process.wait_until_it_says(BEGINS)?;
            thread::sleep(bench.random_seconds(3.0 * LONGEST));
            process.signal(if i % 2 == 0 { "-INT" } else { "-TERM" })?;
            let (status, said) = process.end()?;
            ensure!(status.code() == Some(130), "{status}: {}", said.trim());
            bench.ends_as_an_undisturbed_one(&run, &settings)
        },
    ))
}

/// SIGINT twice: it ends at once.
pub(super) fn second_ctrl_c(bench: &Bench, n: u32) -> Result<Count> {
    let wanted = "exit code 130 and no crash; after `--resume` the same bits";
    Ok(trials("SIGINT twice, then `--resume`", wanted, n, |i| {
        let (run, settings) = (bench.path("twice"), Settings::of(i));
        remove(&run)?;
        let mut process = Process::start(&mut bench.train(&run, &settings, FOR_EVER, true))?;
        process.wait_until_it_says(BEGINS)?;
        thread::sleep(bench.random_seconds(3.0 * LONGEST));
        process.signal("-INT")?;
        process.wait_until_it_says("once more")?;
        // The first one may have ended it already.
        let _ = process.signal("-INT");
        let (status, said) = process.end()?;
        ensure!(status.code() == Some(130), "{status}: {}", said.trim());
        bench.ends_as_an_undisturbed_one(&run, &settings)
    }))
}

/// `ulimit -f`: files may not grow beyond some blocks.
pub(super) fn file_size_limits(bench: &Bench, n: u32) -> Result<Count> {
    let wanted =
        "an error that names the file, no signal; without the limit `--resume` gives the same bits";
    Ok(trials("`ulimit -f`", wanted, n, |i| {
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
            return Ok(()); // Not even the config was to be written.
        }
        bench.ends_as_an_undisturbed_one(&run, &settings)
    }))
}

const FULL: (&str, &str) = (
    "full disk, then space again",
    "a pause that says why; goes on by itself; after SIGINT and `--resume` the same bits",
);
const READ_ONLY: (&str, &str) = (
    "read-only disk",
    "`sample` works, `train --resume` is an error in one line, nothing changes",
);

/// The faults of [`on_disks_of_their_own`], if there are no such disks.
pub(super) fn untested_disks() -> Vec<Count> {
    let why = "this system lets nobody mount one";
    let untested = |(fault, wanted)| Count {
        not_tested: Some(why.to_owned()),
        ..Count::new(fault, wanted)
    };
    [FULL, READ_ONLY].map(untested).into()
}

/// Full and read-only disks; for a process that may mount them.
pub(super) fn on_disks_of_their_own(bench: &Bench, n: u32) -> Result<Vec<Count>> {
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
    process.wait_until_it_says(BEGINS)?;
    thread::sleep(bench.random_seconds(3.0 * LONGEST));
    let mut file = fs::File::create(&filler)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    process.wait_until_it_says("no space left")?;
    thread::sleep(bench.random_seconds(2.0 * LONGEST));
    drop(file);
    fs::remove_file(&filler)?;
    process.wait_until_it_says("continuing")?;
    thread::sleep(bench.random_seconds(LONGEST));
    process.signal("-INT")?;
    let (status, said) = process.end()?;
    ensure!(status.code() == Some(130), "{status}: {}", said.trim());
    bench.ends_as_an_undisturbed_one(&run, settings)
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
    bench.ends_as_an_undisturbed_one(&run, settings)
}
