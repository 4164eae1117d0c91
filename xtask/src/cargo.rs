//! Child processes: cargo with a clean environment, and errors of processes that failed.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};

use crate::libtorch::include;
use crate::workspace::Workspace;

/// A child process that ran and failed; it has already printed the reason.
#[derive(Debug)]
pub(crate) struct Failed {
    what: String,
    /// Exit code to pass on.
    pub(crate) code: u8,
}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} failed (exit code {})", self.what, self.code)
    }
}

impl std::error::Error for Failed {}

/// cargo as a shell in the workspace's root would run it.
pub(crate) fn cargo(workspace: &Workspace) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(workspace.root());
    for (name, _) in std::env::vars_os() {
        if set_by_outer_cargo(&name) {
            command.env_remove(name);
        }
    }
    // RUSTFLAGS replaces the flags of the include, and with them the path where the programs find
    // libtorch when they start.
    if let Some(flags) = inherited_rustflags()
        && let Ok(folder) = include::recorded(&workspace.libtorch_include())
        && let Some(folder) = folder
    {
        let flags = [flags, include::runtime_path_flag(&folder)].join("\x1f");
        command
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    command
}

/// Variables that `cargo run` sets for xtask, and that would make an inner cargo rebuild crates or
/// miss a libtorch put in place just now.
fn set_by_outer_cargo(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    matches!(
        name,
        "LIBTORCH"
            | "CARGO_BIN_NAME"
            | "CARGO_CRATE_NAME"
            | "CARGO_PRIMARY_PACKAGE"
            | "RUST_RECURSION_COUNT"
    ) || name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
}

/// Compiler flags of the user's environment, joined as CARGO_ENCODED_RUSTFLAGS wants them.
fn inherited_rustflags() -> Option<String> {
    if let Ok(encoded) = std::env::var("CARGO_ENCODED_RUSTFLAGS") {
        return Some(encoded);
    }
    let flags = std::env::var("RUSTFLAGS").ok()?;
    Some(flags.split_whitespace().collect::<Vec<_>>().join("\x1f"))
}

/// Run `command` with the terminal's input and output and wait for its success.
///
/// # Errors
/// If it cannot be started; [`Failed`] if it ran and failed.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{what}: cannot start {:?}", command.get_program()))?;
    check(what, status)
}

/// Run `command` in place of this process where the system can: it then gets the terminal's
/// signals alone, and its exit code is ours.
///
/// # Errors
/// As [`run`].
pub(crate) fn become_child(what: &str, command: &mut Command) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let error = command.exec();
        Err(error).with_context(|| format!("{what}: cannot start {:?}", command.get_program()))
    }
    #[cfg(not(unix))]
    run(what, command)
}

/// # Errors
/// [`Failed`] unless `status` is a success.
pub(crate) fn check(what: &str, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let code = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1);
    Err(Failed {
        what: what.to_owned(),
        code,
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outer_cargos_variables_are_dropped() {
        for name in [
            "LIBTORCH",
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "CARGO_BIN_NAME",
        ] {
            assert!(set_by_outer_cargo(OsStr::new(name)), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_TERM_COLOR",
            "CARGO",
            "PATH",
            "RUSTFLAGS",
        ] {
            assert!(!set_by_outer_cargo(OsStr::new(name)), "{name}");
        }
    }
}
