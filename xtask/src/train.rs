//! `cargo xtask train`: from a fresh checkout to a trained model in one command.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{cargo, fetch_data, libtorch};

const DEFAULT_CONFIG: &str = "configs/mnist.toml";

/// Fetch what is missing, build `vae` and run `vae train`.
///
/// # Errors
/// If something cannot be fetched or built; on Unix this process then *is* the training.
pub(crate) fn train(
    workspace: &Workspace,
    config: Option<PathBuf>,
    arguments: &[OsString],
) -> Result<()> {
    let config = config.unwrap_or_else(|| workspace.root().join(DEFAULT_CONFIG));
    let config =
        fs::canonicalize(&config).with_context(|| format!("no config {}", config.display()))?;
    libtorch::ensure_present(workspace)?;
    let text =
        fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    if let Some(folder) = idx_folder(&text) {
        fetch_data::ensure_present(workspace, &folder)?;
    }
    // Paths in configs are relative to the workspace's root, where the training runs.
    let root = fs::canonicalize(workspace.root()).context("cannot find the workspace")?;
    let config = config.strip_prefix(root).unwrap_or(&config);
    let mut command = cargo::cargo(workspace);
    command.args([
        "run",
        "--release",
        "--package",
        "vae-cli",
        "--bin",
        "vae",
        "--",
        "train",
    ]);
    command.arg(config).args(arguments);
    cargo::become_child("training", &mut command)
}

/// The folder of the config's idx data set. `vae train` says what else is wrong with a config, and
/// knows how to say it; here a wrong one just names no folder.
fn idx_folder(config: &str) -> Option<PathBuf> {
    let config: toml::Table = toml::from_str(config).ok()?;
    let folder = config.get("dataset")?.get("idx")?.get("folder")?.as_str()?;
    Some(Path::new(folder).to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_of_an_idx_data_set_is_found() {
        let config = "seed = 1\n[dataset.idx]\nfolder = \"datasets/mnist\"\n";
        assert_eq!(idx_folder(config), Some(PathBuf::from("datasets/mnist")));
        for other in [
            "",
            "dataset = 1",
            "[dataset.image_folder]\nfolder = \"a\"",
            "not toml",
        ] {
            assert_eq!(idx_folder(other), None, "{other}");
        }
    }
}
