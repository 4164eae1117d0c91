//! `.cargo/libtorch.toml`: the cargo configuration with the path of libtorch for every build.
//!
//! `.cargo/config.toml` includes it when it exists. It sets LIBTORCH for the build script of
//! `torch-sys` and the run-time library path of everything linked, doc tests included.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

#[derive(Serialize, Deserialize)]
struct Include {
    env: Environment,
    build: Build,
}

#[derive(Serialize, Deserialize)]
struct Environment {
    #[serde(rename = "LIBTORCH")]
    libtorch: Variable,
}

/// A table, as in `.cargo/no-libtorch.toml`, for which it stands in: cargo merges like with like.
#[derive(Serialize, Deserialize)]
struct Variable {
    value: String,
    relative: bool,
}

#[derive(Serialize, Deserialize)]
struct Build {
    rustflags: Vec<String>,
    rustdocflags: Vec<String>,
}

/// The libtorch folder in the include; `None` if there is no include.
///
/// # Errors
/// If the file cannot be read or has another form.
pub(crate) fn recorded(path: &Path) -> Result<Option<PathBuf>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let include: Include = toml::from_str(&text)
        .with_context(|| format!("{} is not of the form xtask writes", path.display()))?;
    Ok(Some(PathBuf::from(include.env.libtorch.value)))
}

/// Record `libtorch` in the include, unless it is recorded already.
///
/// # Errors
/// If the path has a character that cannot be passed on, or the file cannot be written.
pub(crate) fn record(path: &Path, libtorch: &Path) -> Result<()> {
    let text = render(libtorch)?;
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The flag that makes a program find `libtorch`'s libraries when it starts.
pub(crate) fn runtime_path_flag(libtorch: &Path) -> String {
    format!("-Clink-arg=-Wl,-rpath,{}", libtorch.join("lib").display())
}

fn render(libtorch: &Path) -> Result<String> {
    let folder = libtorch
        .to_str()
        .with_context(|| format!("{} is not UTF-8", libtorch.display()))?;
    // The compiler driver splits the argument of -Wl at commas, which cannot be quoted.
    ensure!(
        !folder.contains(','),
        "{folder}: the path has a comma, which the linker cannot be told"
    );
    let flags = vec![runtime_path_flag(libtorch)];
    let include = Include {
        env: Environment {
            libtorch: Variable {
                value: folder.to_owned(),
                relative: false,
            },
        },
        build: Build {
            rustflags: flags.clone(),
            rustdocflags: flags,
        },
    };
    let settings = toml::to_string(&include).context("cannot render the cargo configuration")?;
    Ok(format!(
        "# Written by `cargo xtask libtorch`, which also repairs it: do not edit.\n\n{settings}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_back_and_stays_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".cargo/libtorch.toml");
        assert_eq!(recorded(&path).unwrap(), None);

        let libtorch = Path::new(r#"/home/me/my "best" models/libtorch"#);
        record(&path, libtorch).unwrap();
        assert_eq!(recorded(&path).unwrap().as_deref(), Some(libtorch));

        let written = fs::metadata(&path).unwrap().modified().unwrap();
        record(&path, libtorch).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "a temporary file stayed"
        );
    }

    #[test]
    fn include_sets_the_variable_and_both_kinds_of_flags() {
        let text = render(Path::new("/opt/lib torch")).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        let flag = "-Clink-arg=-Wl,-rpath,/opt/lib torch/lib";
        let variable = &table["env"]["LIBTORCH"];
        assert_eq!(variable["value"].as_str(), Some("/opt/lib torch"));
        assert_eq!(table["build"]["rustflags"][0].as_str(), Some(flag));
        assert_eq!(table["build"]["rustdocflags"][0].as_str(), Some(flag));
    }

    #[test]
    fn a_comma_in_the_path_is_refused() {
        assert!(
            render(Path::new("/opt/a,b"))
                .unwrap_err()
                .to_string()
                .contains("comma")
        );
    }

    #[test]
    fn a_file_of_another_form_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libtorch.toml");
        fs::write(&path, "[env]\n").unwrap();
        assert!(format!("{:#}", recorded(&path).unwrap_err()).contains("libtorch.toml"));
    }
}
