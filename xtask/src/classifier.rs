//! `cargo xtask classifier`: the classifier of digits by whose features `vae eval` compares images.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{cargo, fetch_data, libtorch};

const MNIST: &str = "datasets/mnist";
const FILE: &str = "datasets/mnist/classifier.safetensors";

/// Train it, with everything it needs, and write it beside MNIST's files.
///
/// # Errors
/// If something cannot be fetched or built, or the training fails.
pub(crate) fn train(workspace: &Workspace, seed: u64) -> Result<()> {
    libtorch::ensure_present(workspace)?;
    fetch_data::ensure_present(workspace, Path::new(MNIST))?;
    let mut command = cargo::cargo(workspace);
    // Beside vae-cli, so that shared dependencies have the features that they have everywhere.
    command.args(["build", "--release", "-p", "vae-cli", "-p", "vae-eval"]);
    cargo::run(
        "cargo build",
        command.args(["--example", "mnist_classifier"]),
    )?;
    let program = "target/release/examples/mnist_classifier";
    let mut command = Command::new(workspace.root().join(program));
    command.current_dir(workspace.root());
    cargo::run(
        "mnist_classifier",
        command.args([MNIST, FILE, &seed.to_string()]),
    )
}
