//! What the tests share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with a small data set and a config for it.
pub(crate) struct Workplace {
    folder: TempDir,
}

pub(crate) const SIDE: usize = 12;

impl Workplace {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("created");
        // A sixth, 14 images, is for validation, which leaves 70 for training.
        write_images(&data.join("train-images-idx3-ubyte"), 84);
        write_labels(&data.join("train-labels-idx1-ubyte"), 84);
        write_images(&data.join("t10k-images-idx3-ubyte"), 20);
        write_labels(&data.join("t10k-labels-idx1-ubyte"), 20);
        let workplace = Self { folder };
        workplace.write_config("small.toml", "");
        workplace
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write_config(&self, name: &str, extra: &str) {
        let text = format!(
            "{extra}\n[dataset.idx]\nfolder = 'data'\n[model.network.mlp]\nhidden = [16]\n\
             [training]\nepochs = 2\nbatch_size = 16\n"
        );
        fs::write(self.path(name), text).expect("written");
    }

    pub(crate) fn vae(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vae"));
        command.args(args).current_dir(self.folder.path());
        let computes = [
            "train",
            "manifold",
            "sample",
            "reconstruct",
            "interpolate",
            "traverse",
            "attribute",
            "arithmetic",
            "plot",
            "bench",
        ]
        .contains(&args[0]);
        if computes && !args.contains(&"--device") {
            command.args(["--device", "cpu"]);
        }
        // Tests run many small processes at once, whose threads would only wait for each other.
        command
            .env("OMP_NUM_THREADS", "1")
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// Trains a run and returns its folder.
    pub(crate) fn train(&self, args: &[&str], out: &str) -> PathBuf {
        let output = self.vae(&[&["train", "small.toml", "--out", out], args].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        self.path(out)
    }

    /// Runs a command whose arguments are refused, and returns what is said.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.vae(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        said
    }

    /// Runs a command that must fail, and returns its one line of output.
    pub(crate) fn error(&self, args: &[&str], code: i32) -> String {
        let output = self.vae(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(output.stdout.is_empty(), "results on stdout only");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(said.starts_with("error: "), "{said}");
        said
    }
}

/// Runs the binary in a folder.
pub(crate) fn vae_in(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vae"))
        .args(args)
        .current_dir(folder)
        .env("OMP_NUM_THREADS", "1")
        .output()
        .expect("the binary runs")
}

/// What a command that must succeed in a folder prints.
pub(crate) fn succeeds_in(folder: &Path, args: &[&str]) -> String {
    let output = vae_in(folder, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Images of bright bars at different positions on black.
fn write_images(path: &Path, n: usize) {
    let mut bytes = [0x803_u32, n as u32, SIDE as u32, SIDE as u32]
        .map(u32::to_be_bytes)
        .concat();
    for i in 0..n {
        bytes.extend((0..SIDE * SIDE).map(|p| if (p + i) % 7 < 2 { 230_u8 } else { 5 }));
    }
    fs::write(path, bytes).expect("written");
}

fn write_labels(path: &Path, n: usize) {
    let mut bytes = [0x801_u32, n as u32].map(u32::to_be_bytes).concat();
    bytes.extend((0..n).map(|i| (i % 7) as u8));
    fs::write(path, bytes).expect("written");
}

pub(crate) fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path)
        .expect("a text file")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

/// The metrics without measured times.
pub(crate) fn metrics(run: &Path) -> Vec<Value> {
    let mut records = lines(&run.join("metrics.jsonl"));
    for record in &mut records {
        let record = record.as_object_mut().expect("an object");
        record.remove("seconds").expect("seconds");
        record.remove("images_per_s").expect("images_per_s");
        record.remove("waited"); // Training records only.
    }
    records
}
