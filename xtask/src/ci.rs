//! `cargo xtask test` and `cargo xtask ci`: the tests, and every check a change must pass.

use std::ffi::OsString;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::bench;
use crate::cargo::{self, cargo};
use crate::libtorch;
use crate::tidy;
use crate::workspace::Workspace;

const MACHETE: &str = "cargo-machete";
const MACHETE_VERSION: &str = "0.9.2";

/// One of the checks of `cargo xtask ci`, in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Check {
    /// Formatting, by rustfmt.
    Format,
    /// The rules of ARCHITECTURE.md: the same as `cargo xtask tidy`.
    Tidy,
    /// Compiler and clippy warnings, denied.
    Lint,
    /// All tests: the same as `cargo xtask test`.
    Test,
    /// Documentation, with warnings denied.
    Docs,
    /// The program in examples/embed: built and run.
    Embed,
    /// Our own kernels beside libtorch's, loosely: the same as `cargo xtask bench --check`.
    Speed,
    /// Dependencies that no code uses.
    UnusedDependencies,
}

impl Check {
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    fn run(self, workspace: &Workspace) -> Result<()> {
        match self {
            Self::Format => cargo::run(
                "cargo fmt",
                cargo(workspace).args(["fmt", "--all", "--check"]),
            ),
            Self::Tidy => tidy::tidy(workspace),
            Self::Lint => {
                libtorch::ensure_present(workspace)?;
                let mut command = cargo(workspace);
                command
                    .args(["clippy", "--release", "--all-targets"])
                    .args(ALL_BUT_XTASK);
                cargo::run("cargo clippy", command.args(["--", "--deny=warnings"]))?;
                let mut command = cargo_for_xtask(workspace, "clippy");
                cargo::run(
                    "cargo clippy",
                    command.args(["--all-targets", "--", "--deny=warnings"]),
                )
            }
            Self::Test => test(workspace, &[]),
            Self::Docs => {
                libtorch::ensure_present(workspace)?;
                let mut command = cargo(workspace);
                command
                    .args(["doc", "--release", "--no-deps"])
                    .args(ALL_BUT_XTASK);
                cargo::run("cargo doc", command.env("RUSTDOCFLAGS", "-Dwarnings"))?;
                let mut command = cargo_for_xtask(workspace, "doc");
                cargo::run(
                    "cargo doc",
                    command.arg("--no-deps").env("RUSTDOCFLAGS", "-Dwarnings"),
                )
            }
            Self::Embed => {
                libtorch::ensure_present(workspace)?;
                let mut command = cargo(workspace);
                // Beside vae-cli, so that shared dependencies have the features that they have everywhere.
                command.args(["build", "--release", "-p", "embed", "-p", "vae-cli"]);
                cargo::run("cargo build", &mut command)?;
                let program = workspace.root().join("target/release/embed");
                cargo::run("examples/embed", &mut Command::new(program))
            }
            Self::Speed => bench::check(workspace),
            Self::UnusedDependencies => {
                let machete = install_tool(workspace, MACHETE, MACHETE_VERSION)?;
                cargo::run(MACHETE, Command::new(machete).current_dir(workspace.root()))
            }
        }
    }
}

/// Run every check but those in `except`, stop at the first that fails, and print their times.
///
/// # Errors
/// Names the check that failed.
pub(crate) fn run(workspace: &Workspace, except: &[Check]) -> Result<()> {
    let mut times = Vec::new();
    let checks = Check::value_variants()
        .iter()
        .filter(|check| !except.contains(check));
    for check in checks {
        let name = check.name();
        eprintln!("== {name}");
        let begun = Instant::now();
        let outcome = check.run(workspace);
        eprintln!(
            "== {name}: {}, {:.1} s",
            verdict(outcome.is_ok()),
            begun.elapsed().as_secs_f32()
        );
        times.push((name.clone(), outcome.is_ok(), begun.elapsed()));
        if let Err(error) = outcome {
            eprint!("\n{}\n", table(&times));
            return Err(error).with_context(|| format!("check `{name}`"));
        }
    }
    eprint!("\n{}", table(&times));
    Ok(())
}

fn verdict(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}

fn table(times: &[(String, bool, Duration)]) -> String {
    let row = |(name, passed, time): &(String, bool, Duration)| {
        format!(
            "{name:<20} {} {:>8.1} s\n",
            verdict(*passed),
            time.as_secs_f32()
        )
    };
    times.iter().map(row).collect()
}

/// How many threads libtorch computes with.
const THREADS: &str = "OMP_NUM_THREADS";

/// Run all tests, or those that cargo's `arguments` choose.
///
/// # Errors
/// If libtorch cannot be had or a test fails.
pub(crate) fn test(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    libtorch::ensure_present(workspace)?;
    let mut command = cargo(workspace);
    command.args(["test", "--release"]);
    // The tests of a program run on all cores already. With libtorch's threads on top each would wait for the others.
    if std::env::var_os(THREADS).is_none() {
        command.env(THREADS, "1");
    }
    if !chooses_packages(arguments) {
        command.args(ALL_BUT_XTASK);
    }
    cargo::run("cargo test", command.args(arguments))?;
    if arguments.is_empty() {
        cargo::run("cargo test", &mut cargo_for_xtask(workspace, "test"))?;
    }
    Ok(())
}

/// The packages that `train` builds, in the same profile. Built together with xtask, some shared dependencies would get
/// further features, and `tch` and everything above it would be compiled again.
pub(crate) const ALL_BUT_XTASK: [&str; 3] = ["--workspace", "--exclude", "xtask"];

/// A cargo command on xtask, with the profile and flags of the alias in `.cargo/config.toml`, so that existing build results
/// of `cargo xtask` are reused.
fn cargo_for_xtask(workspace: &Workspace, subcommand: &str) -> Command {
    let mut command = cargo(workspace);
    command.args([subcommand, "--package", "xtask"]);
    command.args([
        "--config",
        "target.'cfg(all())'.rustflags=['-Cdebuginfo=0']",
    ]);
    command
}

/// Whether cargo's own arguments, those before a `--`, name packages.
fn chooses_packages(arguments: &[OsString]) -> bool {
    let cargos = arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .take_while(|&argument| argument != "--");
    let mut packages = cargos.filter(|argument| {
        argument.starts_with("-p") || *argument == "--package" || argument.starts_with("--package=")
    });
    packages.next().is_some()
}

/// The path of a cargo command, built into the target folder where it is missing.
pub(crate) fn install_tool(
    workspace: &Workspace,
    name: &str,
    version: &str,
) -> Result<std::path::PathBuf> {
    let tools = workspace.root().join("target/tools");
    let program = tools.join("bin").join(name);
    if !program.is_file() {
        let mut command = cargo(workspace);
        command
            .args(["install", "--locked", "--root"])
            .arg(&tools)
            .arg(format!("{name}@{version}"));
        cargo::run("cargo install", &mut command)?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_chosen_by_cargos_arguments_only() {
        let chooses = |arguments: &[&str]| {
            chooses_packages(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
        };
        assert!(chooses(&["-p", "vae-data"]));
        assert!(chooses(&["-pvae-data"]));
        assert!(chooses(&["--package=vae-data", "--", "x"]));
        assert!(!chooses(&["elbo", "--", "-p"]));
        assert!(!chooses(&[]));
    }

    #[test]
    fn table_has_a_row_for_each_check_with_its_verdict() {
        let times = [
            ("format".to_owned(), true, Duration::from_millis(1200)),
            ("lint".to_owned(), false, Duration::ZERO),
        ];
        let table = table(&times);
        assert_eq!(
            table.lines().collect::<Vec<_>>(),
            [
                "format               passed      1.2 s",
                "lint                 FAILED      0.0 s"
            ]
        );
    }
}
