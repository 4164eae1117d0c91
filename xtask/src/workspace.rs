//! Where things are in the workspace.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace that xtask works on.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace this crate is part of.
    ///
    /// # Errors
    /// If the crate's own folder has no parent.
    pub(crate) fn find() -> Result<Self> {
        // The variable of the running process, not of the compilation: a moved workspace may still
        // run the binary that was built at its old place.
        let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = crate_folder
            .parent()
            .context("the folder of xtask has no parent")?;
        Ok(Self::at(root))
    }

    /// The workspace with that root folder.
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// The folder of the root manifest.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where libtorch is put.
    pub(crate) fn libtorch(&self) -> PathBuf {
        self.root.join("libtorch")
    }

    /// Downloads and the half-unpacked libtorch.
    pub(crate) fn libtorch_partial(&self) -> PathBuf {
        self.root.join("libtorch.partial")
    }

    /// The cargo configuration that `.cargo/config.toml` includes when it is there.
    pub(crate) fn libtorch_include(&self) -> PathBuf {
        self.root.join(".cargo/libtorch.toml")
    }

    /// Manifests (`NAME.toml`) and the data sets themselves (`NAME/`).
    pub(crate) fn datasets(&self) -> PathBuf {
        self.root.join("datasets")
    }

    /// `path` as people would write it in the workspace's root.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}
