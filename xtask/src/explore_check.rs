//! `cargo xtask explore-check`: `vae explore` in a real browser.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::report_check::find_browser;
use crate::workspace::Workspace;
use crate::{cargo, libtorch};

/// Moves sliders, clicks and drags on the map, drops an image, and checks that the pixels change; leaves screenshots in
/// `target/explore-check`.
///
/// # Errors
/// There is no Chromium or node; the page writes to the console, asks another host, or does not react.
pub(crate) fn check(workspace: &Workspace, runs: &[String], image: Option<&Path>) -> Result<()> {
    libtorch::ensure_present(workspace)?;
    let browser = find_browser()?;
    let mut build = cargo::cargo(workspace);
    cargo::run(
        "cargo build",
        build.args(["build", "--release", "-p", "vae-cli"]),
    )?;
    let folder = workspace.root().join("target/explore-check");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    if !folder.join("node_modules/playwright-core").exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--prefix"])
            .arg(&folder)
            .arg("playwright-core@1");
        cargo::run("npm install playwright-core", &mut npm)?;
    }
    let mut server = Command::new(workspace.root().join("target/release/vae"))
        .args(["explore", "--no-open"])
        .args(runs)
        .stdout(Stdio::piped())
        .spawn()
        .context("vae explore")?;
    let mut link = String::new();
    let stdout = server.stdout.take().context("a pipe")?;
    let read = BufReader::new(stdout).read_line(&mut link);
    let node = Command::new("node")
        .arg(workspace.root().join("xtask/src/explore_check.mjs"))
        .arg(link.trim())
        .arg(&folder)
        .arg(which(browser))
        .arg(image.unwrap_or(Path::new("")))
        .current_dir(&folder)
        .status();
    let _ = server.kill();
    let _ = server.wait();
    read.context("the address of the page")?;
    ensure!(node.context("node")?.success(), "the page fails");
    println!("{}", folder.display());
    Ok(())
}

/// The path of a program, which playwright wants in full.
fn which(program: &str) -> String {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .map_or_else(|| program.to_owned(), |path| path.display().to_string())
}
