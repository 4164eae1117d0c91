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
    if let Some(folder) = data_folder(&text) {
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

/// The folder of the config's idx files, or the one around its zip or folder of photos, its sprites, recordings, melodies, texts or arrays. None for an
/// invalid config, whose errors `vae train` reports.
fn data_folder(config: &str) -> Option<PathBuf> {
    let config: toml::Table = toml::from_str(config).ok()?;
    let dataset = config.get("dataset")?;
    let path = |table, key| Some(Path::new(dataset.get(table)?.get(key)?.as_str()?));
    let folder = path("idx", "folder")
        .or_else(|| path("image_folder", "path")?.parent())
        .or_else(|| path("sprites", "file")?.parent())
        .or_else(|| path("audio_folder", "path"))
        .or_else(|| path("melodies", "path"))
        .or_else(|| path("text", "path")?.parent())
        .or_else(|| path("arrays", "train")?.parent())
        .or_else(|| {
            let file = dataset.get("arrays")?.get("train")?.get("file")?;
            Path::new(file.as_str()?).parent()
        });
    folder.map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_data_set_is_found() {
        for (config, folder) in [
            (
                "seed = 1\n[dataset.idx]\nfolder = \"datasets/mnist\"\n",
                "datasets/mnist",
            ),
            (
                "[dataset.image_folder]\npath = \"datasets/celeba/a.zip\"\n",
                "datasets/celeba",
            ),
            (
                "[dataset.sprites]\nfile = \"datasets/sprites/sprites.npz\"\n",
                "datasets/sprites",
            ),
            (
                "[dataset.arrays]\ntrain = \"datasets/signals/train.npy\"\n",
                "datasets/signals",
            ),
            (
                "[dataset.audio_folder]\npath = \"datasets/drums\"\n",
                "datasets/drums",
            ),
            (
                "[dataset.melodies]\npath = \"datasets/tunes\"\n",
                "datasets/tunes",
            ),
            (
                "[dataset.text]\npath = \"datasets/names/names.csv\"\n",
                "datasets/names",
            ),
            (
                "[dataset.arrays]\ntrain = { file = \"digits/mnist.npz\", array = \"x_train\" }\n",
                "digits",
            ),
        ] {
            assert_eq!(data_folder(config), Some(PathBuf::from(folder)));
        }
        for other in [
            "",
            "dataset = 1",
            "[dataset.image_folder]\nfolder = \"a\"",
            "not toml",
        ] {
            assert_eq!(data_folder(other), None, "{other}");
        }
    }
}
