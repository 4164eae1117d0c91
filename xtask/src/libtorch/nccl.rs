//! `cargo xtask nccl`: the library by which processes with GPUs reach each other directly.

use std::ffi::OsString;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{include, remake, wheels};
use crate::workspace::Workspace;

/// The library's name, which `vae --collectives nccl` loads.
const LIBRARY: &str = "libvae_nccl.so";

/// Compile the library against the headers of CUDA and NCCL, which are fetched, and put it beside libtorch's.
///
/// It needs no GPU here. At run time it needs libtorch's CUDA library and NCCL's, which `cargo xtask libtorch --cuda` brings.
///
/// # Errors
/// If this is not Linux on x86_64, libtorch is not in place, the headers cannot be fetched, or there is no C++ compiler.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let recorded = include::recorded(&workspace.libtorch_include())?;
    let libtorch = recorded.context("libtorch is not in place: cargo xtask libtorch --cuda")?;
    let partial = workspace.libtorch_partial().join("nccl");
    let downloads = partial.join("downloads");
    fs::create_dir_all(&downloads)
        .with_context(|| format!("cannot create {}", downloads.display()))?;
    let headers = partial.join("headers");
    remake(&headers)?;
    wheels::nccl_headers(&downloads, &headers)?;

    let ours = workspace.root().join("crates/vae-torch");
    let made = partial.join(LIBRARY);
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| OsString::from("c++"));
    let mut command = Command::new(&compiler);
    command
        .args([
            "-std=c++17",
            "-O2",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-w",
        ])
        .args(["-DUSE_C10D_NCCL", "-DUSE_C10D_GLOO"]);
    let libtorch_headers = libtorch.join("include");
    for folder in [
        libtorch_headers.join("torch/csrc/api/include"),
        libtorch_headers,
        ours.join("include"),
        ours.join("nccl/include"),
        headers,
    ] {
        command.arg("-I").arg(folder);
    }
    command.arg(ours.join("nccl/nccl.cpp")).arg("-o").arg(&made);
    let output = command
        .output()
        .with_context(|| format!("no C++ compiler {compiler:?} (install g++)"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("cannot compile {LIBRARY}: {}", said.trim());
    }
    let library = libtorch.join("lib").join(LIBRARY);
    ensure!(
        library.parent().is_some_and(|folder| folder.is_dir()),
        "{} has no lib",
        libtorch.display()
    );
    fs::rename(&made, &library).with_context(|| format!("cannot write {}", library.display()))?;
    eprintln!(
        "{} is ready; vae train --processes N --collectives nccl",
        library.display()
    );
    Ok(())
}
