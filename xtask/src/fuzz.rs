//! `cargo xtask fuzz`: damaged files for everything that reads files.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::cargo::{self, cargo};
use crate::ci;
use crate::libtorch::{self, include};
use crate::workspace::Workspace;

const CARGO_FUZZ: &str = "cargo-fuzz";
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// Mutants that are always the same, `n` of each kind of file: the test of vae-cli, with more of them.
///
/// # Errors
/// If libtorch cannot be had, or a mutant panics, hangs or takes a gigabyte.
pub(crate) fn mutants(workspace: &Workspace, n: usize) -> Result<()> {
    libtorch::ensure_present(workspace)?;
    let mut command = cargo(workspace);
    command
        .args(["test", "--release"])
        .args(ci::ALL_BUT_XTASK)
        .args(["--test", "mutants", "--", "--nocapture"])
        .env("VAE_MUTANTS", n.to_string());
    cargo::run("cargo test", &mut command)
}

/// Runs libFuzzer on each target, or on one of them, `minutes` in all.
///
/// # Errors
/// If the tools are not available, or a target finds a failure.
pub(crate) fn fuzz(workspace: &Workspace, minutes: f64, target: Option<&str>) -> Result<()> {
    ensure!(
        minutes > 0.0,
        "--minutes {minutes}: a positive number is needed"
    );
    let targets = targets(workspace)?;
    if let Some(name) = target {
        ensure!(
            targets.iter().any(|target| target == name),
            "no target {name}; there are {}",
            targets.join(", ")
        );
    }
    libtorch::ensure_present(workspace)?;
    let program = ci::install_tool(workspace, CARGO_FUZZ, CARGO_FUZZ_VERSION)?;
    let folder = workspace.root().join("target/fuzz");
    let seeds = folder.join("seeds");
    let mut command = cargo(workspace);
    command
        .args(["test", "--release"])
        .args(ci::ALL_BUT_XTASK)
        .args(["--test", "mutants", "--", "seeds_are_written"])
        .env("VAE_SEEDS", &seeds);
    cargo::run("cargo test", &mut command)?;

    let chosen: Vec<&String> = targets
        .iter()
        .filter(|name| target.is_none_or(|target| target == *name))
        .collect();
    let seconds = (minutes * 60.0 / chosen.len() as f64).ceil().max(1.0);
    let libtorch = include::recorded(&workspace.libtorch_include())?
        .context("libtorch is in place, but cargo was not told where")?;
    for name in chosen {
        eprintln!("== {name}, {seconds} s");
        let corpus = folder.join("corpus").join(name);
        let artifacts = folder.join("artifacts").join(name);
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let mut command = cargo(workspace);
        // Through rustup, independently of the toolchain that built xtask.
        command.env_remove("CARGO").env_remove("RUSTC");
        command.env("RUSTUP_TOOLCHAIN", "nightly");
        // cargo-fuzz's flags take the place of those in .cargo/libtorch.toml.
        command.env("RUSTFLAGS", include::runtime_path_flag(&libtorch));
        let mut command = replaced_program(command, &program);
        // Without a sanitizer: libtorch is not built with one.
        command
            .args(["run", "--sanitizer", "none", "--target-dir"])
            .arg(folder.join("target"))
            .arg(name)
            .arg(&corpus)
            .arg(seeds.join(name))
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .args(["-rss_limit_mb=2048", "-timeout=60", "-max_len=65536"])
            .arg(artifact_prefix(artifacts));
        cargo::run(&format!("cargo fuzz run {name}"), &mut command)?;
    }
    Ok(())
}

/// The same command with another program.
fn replaced_program(
    command: std::process::Command,
    program: &std::path::Path,
) -> std::process::Command {
    let mut replaced = std::process::Command::new(program);
    if let Some(folder) = command.get_current_dir() {
        replaced.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => replaced.env(name, value),
            None => replaced.env_remove(name),
        };
    }
    replaced
}

fn artifact_prefix(folder: PathBuf) -> OsString {
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(folder);
    prefix.push("/");
    prefix
}

/// The names of the fuzz targets: the programs in fuzz/fuzz_targets.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_program_of_the_manifest() {
        let workspace = Workspace::find().expect("a workspace");
        let targets = targets(&workspace).expect("targets");
        let manifest = workspace.root().join("fuzz/Cargo.toml");
        let manifest = fs::read_to_string(manifest).expect("a manifest");
        let manifest: toml::Table = manifest.parse().expect("TOML");
        let mut programs: Vec<&str> = manifest["bin"]
            .as_array()
            .expect("programs")
            .iter()
            .filter_map(|program| program["name"].as_str())
            .collect();
        programs.sort_unstable();
        assert_eq!(targets, programs);
        assert!(targets.len() >= 9);
    }
}
