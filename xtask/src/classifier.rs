//! `cargo xtask classifier`: the classifiers by whose features `vae eval` compares images.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{cargo, fetch_data, libtorch};

const MNIST: &str = "datasets/mnist";
const FILE: &str = "datasets/mnist/classifier.safetensors";

/// Train the one of digits, with everything it needs, and write it beside MNIST's files.
///
/// # Errors
/// If something cannot be fetched or built, or the training fails.
pub(crate) fn train(workspace: &Workspace, seed: u64) -> Result<()> {
    libtorch::ensure_present(workspace)?;
    fetch_data::ensure_present(workspace, Path::new(MNIST))?;
    let mut command = example(workspace, "mnist_classifier")?;
    command.current_dir(workspace.root());
    cargo::run(
        "mnist_classifier",
        command.args([MNIST, FILE, &seed.to_string()]),
    )
}

/// Train one of the attributes and classes of the data set of a config.
///
/// # Errors
/// If something cannot be fetched or built, or the training fails.
pub(crate) fn train_on(
    workspace: &Workspace,
    config: &Path,
    output: &Path,
    n_epochs: u64,
    seed: u64,
) -> Result<()> {
    libtorch::ensure_present(workspace)?;
    let mut command = example(workspace, "attribute_classifier")?;
    command.args([config, output]);
    command.args([n_epochs.to_string(), seed.to_string()]);
    cargo::run("attribute_classifier", &mut command)
}

/// Builds an example of vae-eval and gives the command that runs it.
fn example(workspace: &Workspace, name: &str) -> Result<Command> {
    let mut command = cargo::cargo(workspace);
    // Beside vae-cli, so that shared dependencies have the features that they have everywhere.
    command.args(["build", "--release", "-p", "vae-cli", "-p", "vae-eval"]);
    cargo::run("cargo build", command.args(["--example", name]))?;
    let program = format!("target/release/examples/{name}");
    Ok(Command::new(workspace.root().join(program)))
}
