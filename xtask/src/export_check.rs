//! `cargo xtask export-check`: exported models in Python's torch and onnxruntime.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::libtorch::include;
use crate::workspace::Workspace;
use crate::{cargo, libtorch};

const SCRIPT: &str = include_str!("export_check.py");

/// The packages that run ONNX.
const PACKAGES: [&str; 3] = ["numpy==2.4.6", "safetensors==0.8.0", "onnxruntime==1.32.0"];

/// The reader of latent diffusion's autoencoders.
const DIFFUSERS: [&str; 1] = ["diffusers==0.42.1"];

/// The torch of our libtorch, and of its own requirements those that its import needs.
const TORCH: [&str; 1] = ["torch==2.11.0"];
const OF_TORCH: [&str; 6] = [
    "filelock",
    "fsspec",
    "jinja2",
    "networkx",
    "sympy",
    "typing_extensions",
];

/// The libraries that the Linux wheel is linked with, gigabytes that nothing on the CPU calls: they are replaced by empty
/// libraries.
const CUDA_LIBRARIES: [&str; 13] = [
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcuda.so.1",
    "libcudnn.so.9",
    "libcufft.so.12",
    "libcufile.so.0",
    "libcurand.so.10",
    "libcusolver.so.12",
    "libcusparse.so.12",
    "libcusparseLt.so.0",
    "libnccl.so.2",
    "libnvrtc.so.13",
    "libnvshmem_host.so.3",
];

/// Export a model of each kind, and compare the outputs of other runtimes.
///
/// # Errors
/// If something cannot be fetched, or an output differs by more than 1e-4.
pub(crate) fn check(workspace: &Workspace, without_torch: bool) -> Result<()> {
    libtorch::ensure_present(workspace)?;
    let folder = workspace.root().join("target/export-check");
    let models = folder.join("models");
    if models.exists() {
        fs::remove_dir_all(&models).with_context(|| models.display().to_string())?;
    }
    let mut command = cargo::cargo(workspace);
    // Beside vae-cli, so that shared dependencies have the features that they have everywhere.
    command.args(["build", "--release", "-p", "vae-cli", "-p", "vae-model"]);
    cargo::run("cargo build", command.args(["--example", "export_kinds"]))?;
    let program = workspace
        .root()
        .join("target/release/examples/export_kinds");
    cargo::run("export_kinds", Command::new(program).arg(&models))?;

    let venv = folder.join("venv");
    let python = venv.join("bin/python");
    if !python.is_file() {
        let mut command = Command::new("python3");
        cargo::run("python3 -m venv", command.args(["-m", "venv"]).arg(&venv))?;
    }
    install(&python, "onnxruntime", &PACKAGES, &[])?;
    let mut path = OsString::new();
    if !without_torch {
        install(&python, "jinja2, networkx, sympy", &OF_TORCH, &[])?;
        let stubs = folder.join("stubs");
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            make_stubs(&stubs)?;
            // CUDA's runtime is there.
            if let Some(libtorch) = include::recorded(&workspace.libtorch_include())? {
                path.push(libtorch.join("lib"));
                path.push(":");
            }
            path.push(&stubs);
        }
        install(&python, "torch.version", &TORCH, &["--no-deps"])?;
        install(&python, "diffusers", &DIFFUSERS, &[])?;
    }
    let script = folder.join("export_check.py");
    fs::write(&script, SCRIPT).with_context(|| script.display().to_string())?;
    let mut command = Command::new(&python);
    command
        .arg(&script)
        .arg(&models)
        .env("LD_LIBRARY_PATH", path);
    if without_torch {
        command.arg("--without-torch");
    }
    cargo::run("export_check.py", &mut command)
}

/// Installs packages unless `module` is there already.
fn install(python: &Path, module: &str, packages: &[&str], options: &[&str]) -> Result<()> {
    let found = format!(
        "import importlib.util as u, sys; sys.exit(any(u.find_spec(m.split('.')[0]) is None for m in '{module}'.split(', ')))"
    );
    let mut command = Command::new(python);
    command.args(["-c", &found]).stderr(Stdio::null());
    if command.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let mut command = Command::new(python);
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    cargo::run("pip install", command.args(options).args(packages))
}

fn make_stubs(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for name in CUDA_LIBRARIES {
        let file = folder.join(name);
        if !file.is_file() {
            let mut command = Command::new("cc");
            command
                .args(["-shared", "-x", "c", "/dev/null", "-o"])
                .arg(file);
            cargo::run("cc", command.arg(format!("-Wl,-soname,{name}")))?;
        }
    }
    Ok(())
}
