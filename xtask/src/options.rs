//! `cargo xtask options`: docs/config.md and configs/schema.json, from the types that read a config.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;
use crate::{cargo, libtorch};

/// The files to write, each with the option of `vae options` that prints it.
const FILES: [(&str, &str); 2] = [
    ("docs/config.md", "--markdown"),
    ("configs/schema.json", "--schema"),
];

/// Write both, or with `check` only compare them with the existing ones.
///
/// # Errors
/// If `vae` cannot be built; with `check`, a file that differs.
pub(crate) fn options(workspace: &Workspace, check: bool) -> Result<()> {
    libtorch::ensure_present(workspace)?;
    let mut command = cargo::cargo(workspace);
    command.args(["build", "--release", "-p", "vae-cli", "--bin", "vae"]);
    cargo::run("cargo build", &mut command)?;
    for (file, option) in FILES {
        let vae = workspace.root().join("target/release/vae");
        let output = Command::new(&vae)
            .args(["options", option])
            .output()
            .with_context(|| format!("cannot run {}", vae.display()))?;
        ensure!(
            output.status.success(),
            "vae options {option}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let path = workspace.root().join(file);
        match check {
            true => ensure!(
                fs::read(&path).unwrap_or_default() == output.stdout,
                "{file} is out of date; `cargo xtask options` regenerates it"
            ),
            false => fs::write(&path, &output.stdout)
                .with_context(|| format!("cannot write {}", path.display()))?,
        }
    }
    Ok(())
}
