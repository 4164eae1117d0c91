//! Python's package client, by which wheels are downloaded. Nothing of them is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo;

/// The way to call pip here.
pub(crate) struct Pip(&'static [&'static str]);

impl Pip {
    pub(crate) fn find() -> Result<Self> {
        let ways: [&[&str]; 4] = [
            &["python3", "-m", "pip"],
            &["python", "-m", "pip"],
            &["pip3"],
            &["pip"],
        ];
        for way in ways {
            let mut command = Command::new(way[0]);
            command
                .args(&way[1..])
                .arg("--version")
                .stdin(Stdio::null());
            if command.output().is_ok_and(|output| output.status.success()) {
                return Ok(Self(way));
            }
        }
        bail!("no pip found (tried python3 -m pip, python -m pip, pip3, pip)")
    }

    /// Downloads the wheel of a requirement, such as `torch==2.11.0`, into a folder that is empty, and returns its file. `options`
    /// say for which Python it is.
    pub(crate) fn download(
        &self,
        requirement: &str,
        options: &[String],
        folder: &Path,
    ) -> Result<PathBuf> {
        let mut command = Command::new(self.0[0]);
        command
            .args(&self.0[1..])
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-input"])
            .args(["--disable-pip-version-check", "--retries=2", "--timeout=20"])
            .args(options)
            .arg("--dest")
            .arg(folder)
            .arg(requirement)
            // The system's temporary folder is often a memory file system, too small for this.
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(std::io::stderr());
        cargo::run("pip download", &mut command)?;
        the_wheel_in(folder)
    }
}

/// The wheel in a folder.
pub(crate) fn the_wheel_in(folder: &Path) -> Result<PathBuf> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")
}
