//! A folder with a small data set, `vae` processes in it, and the comparison of two runs.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::name;

/// Pixels on a side of the images.
const SIDE: usize = 8;

/// A folder with a small data set and a config for it.
#[derive(Debug)]
pub(super) struct Bench {
    folder: TempDir,
    vae: PathBuf,
    random: Cell<u64>,
}

/// How a run is trained.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// `checkpoints.keep`.
    pub(super) keep: u32,
    /// Whether averaged weights are kept beside the raw ones.
    pub(super) averaged: bool,
    /// The run's seed.
    pub(super) seed: u64,
}

impl Settings {
    /// Settings that vary with the number of the series.
    pub(super) fn of(series: u32) -> Self {
        Self {
            keep: series % 3 + 1,
            averaged: series.is_multiple_of(2),
            seed: series.into(),
        }
    }

    /// Arguments of `vae train`. `busy` saves a checkpoint after nearly every step, which does not change the results.
    fn arguments(&self, busy: bool) -> Vec<String> {
        let mut settings = vec![
            format!("checkpoints.keep={}", self.keep),
            format!("seed={}", self.seed),
            format!(
                "checkpoints.every_minutes={}",
                if busy { "0.00001" } else { "1000" }
            ),
        ];
        if self.averaged {
            settings.push("training.ema_decay=0.9".to_owned());
        }
        let settings = settings.into_iter();
        settings
            .flat_map(|setting| ["--set".to_owned(), setting])
            .collect()
    }
}

impl Bench {
    pub(super) fn new(vae: PathBuf, seed: u64) -> Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let data = folder.path().join("data");
        fs::create_dir(&data)?;
        for (split, n) in [("train", 48), ("t10k", 16)] {
            fs::write(data.join(format!("{split}-images-idx3-ubyte")), images(n))?;
        }
        let config = "[dataset.idx]\nfolder = 'data'\n[model.network.mlp]\nhidden = [8]\n\
                      [training]\nbatch_size = 16\n[pictures]\nn_samples = 1\nn_reconstructions = 1\n\
                      manifold_size = 2\n";
        fs::write(
            folder.path().join("tiny.toml"),
            format!("tensorboard = false\n{config}"),
        )?;
        let random = Cell::new(seed);
        Ok(Self {
            folder,
            vae,
            random,
        })
    }

    pub(super) fn vae(&self) -> &Path {
        &self.vae
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Uniform in [0, 1): the high bits of a linear congruential generator with Knuth's MMIX constants.
    pub(super) fn random(&self) -> f64 {
        let next = self
            .random
            .get()
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.random.set(next);
        (next >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn random_seconds(&self, most: f64) -> Duration {
        Duration::from_secs_f64(most * self.random())
    }

    /// `vae train` with a new run, or with `--resume` if the run exists.
    pub(super) fn train(
        &self,
        run: &Path,
        settings: &Settings,
        epochs: u64,
        busy: bool,
    ) -> Command {
        let run_name = run.to_string_lossy().into_owned();
        let place = match run.join("config.toml").exists() {
            true => ["--resume".to_owned(), run_name],
            false => ["--out".to_owned(), run_name],
        };
        let mut command = self.command(&["train", "tiny.toml", "--epochs", &epochs.to_string()]);
        command.args(place).args(settings.arguments(busy));
        command
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.vae);
        command
            .args(arguments)
            .args(["--device", "cpu", "--threads", "1"])
            .current_dir(self.folder.path())
            .env("OMP_NUM_THREADS", "1")
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// Resumes the run to the end of a later epoch and compares it with an undisturbed one.
    pub(super) fn resume_and_compare(&self, run: &Path, settings: &Settings) -> Result<()> {
        let epochs = newest_epoch(run)? + 2;
        succeed(&mut self.train(run, settings, epochs, true)).context("the last resume")?;
        let straight = self.path("straight");
        remove(&straight)?;
        succeed(&mut self.train(&straight, settings, epochs, false)).context("the straight run")?;
        compare(run, &straight)?;
        let hidden = names(&run.join("checkpoints"))?;
        if let Some(name) = hidden.iter().find(|name| name.starts_with('.')) {
            bail!("left over: checkpoints/{name}");
        }
        remove(run)
    }
}

/// An idx file of images with bars, shifted by one pixel from image to image.
fn images(n: usize) -> Vec<u8> {
    let mut bytes = [0x803_u32, n as u32, SIDE as u32, SIDE as u32]
        .map(u32::to_be_bytes)
        .concat();
    for i in 0..n {
        bytes.extend((0..SIDE * SIDE).map(|p| if (p + i) % 7 < 2 { 230_u8 } else { 5 }));
    }
    bytes
}

/// A `vae` process.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    said: BufReader<ChildStderr>,
    /// Its output so far.
    text: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let said = BufReader::new(child.stderr.take().context("its stderr")?);
        Ok(Self {
            child,
            said,
            text: String::new(),
        })
    }

    pub(super) fn wait_for_line(&mut self, wanted: &str) -> Result<()> {
        loop {
            let before = self.text.len();
            let n = self.said.read_line(&mut self.text)?;
            ensure!(
                n > 0,
                "the process ended before it printed {wanted:?}: {}",
                self.text.trim()
            );
            if self.text[before..].contains(wanted) {
                return Ok(());
            }
        }
    }

    pub(super) fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status()?;
        ensure!(
            status.success(),
            "kill {signal} {pid}: the process has already ended"
        );
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// Waits for the end of the process. Returns its exit status and all of its output.
    pub(super) fn end(mut self) -> Result<(ExitStatus, String)> {
        let mut rest = Vec::new();
        self.said.read_to_end(&mut rest)?;
        let text = std::mem::take(&mut self.text) + &String::from_utf8_lossy(&rest);
        Ok((self.child.wait()?, text))
    }
}

/// Runs a command that must succeed.
pub(super) fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        said.trim()
    );
    Ok(())
}

pub(super) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| name(folder))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<std::io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// The number of whole epochs of the newest checkpoint, from the names of the folders such as
/// `epoch-0003-step-00000009`; 0 without a checkpoint.
fn newest_epoch(run: &Path) -> Result<u64> {
    let epoch = |name: &String| name.strip_prefix("epoch-")?.split('-').next()?.parse().ok();
    let names = names(&run.join("checkpoints"))?;
    Ok(names.iter().filter_map(epoch).max().unwrap_or(0))
}

/// The lines of `metrics.jsonl` without measured times.
fn metrics(run: &Path) -> Result<Vec<BTreeMap<String, Value>>> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).context("metrics.jsonl")?;
    text.lines()
        .map(|line| {
            let mut record: BTreeMap<String, Value> =
                serde_json::from_str(line).with_context(|| format!("metrics.jsonl: {line}"))?;
            record.retain(|key, _| !["seconds", "images_per_s", "waited"].contains(&key.as_str()));
            Ok(record)
        })
        .collect()
}

/// Whether two runs have the same results: metrics digit for digit, pictures, weights and moments bit for bit.
fn compare(run: &Path, straight: &Path) -> Result<()> {
    let (found, wanted) = (metrics(run)?, metrics(straight)?);
    for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        ensure!(found == wanted, "metrics.jsonl: line {} differs", i + 1);
    }
    let (n_found, n_wanted) = (found.len(), wanted.len());
    ensure!(
        n_found == n_wanted,
        "metrics.jsonl: {n_found} lines, expected {n_wanted}"
    );
    for folder in ["checkpoints/last", "pictures"] {
        let (found, wanted) = (run.join(folder), straight.join(folder));
        let files = names(&wanted)?;
        let mut others = names(&found)?;
        others.retain(|name| !files.contains(name));
        ensure!(
            others.is_empty(),
            "{folder}: left over: {}",
            others.join(", ")
        );
        for file in files {
            // These contain times.
            if ["state.json", "SHA256SUMS"].contains(&file.as_str()) {
                continue;
            }
            let read = |folder: &Path| fs::read(folder.join(&file)).with_context(|| file.clone());
            let same = read(&found)? == read(&wanted)?;
            ensure!(same, "{folder}/{file}: different bytes");
        }
    }
    Ok(())
}
