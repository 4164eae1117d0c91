//! `cargo xtask doctor`: what is missing to build and to start `vae`, which cannot say so itself: without libtorch it does
//! not start.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::libtorch::include;
use crate::libtorch::installation::Installation;
use crate::workspace::Workspace;

/// What was found, or what is wrong and what to do.
type Finding = Result<String, String>;

/// Print what is there and what is missing. Ends with `vae doctor` where `vae` is built and starts.
///
/// # Errors
/// Something is missing.
pub(crate) fn doctor(workspace: &Workspace) -> Result<()> {
    let program = program(workspace);
    let findings = [
        ("C++ compiler", compiler()),
        ("libtorch", libtorch(&workspace.libtorch_include())),
        ("vae", starts(&program)),
    ];
    let mut n_wrong = 0;
    for (name, finding) in &findings {
        match finding {
            Ok(found) => println!("{name:<13} {found}"),
            Err(problem) => {
                n_wrong += 1;
                println!("{name:<13} WRONG: {problem}");
            }
        }
    }
    if n_wrong > 0 {
        bail!("{n_wrong} of {} are wrong", findings.len());
    }
    println!();
    crate::cargo::run("vae doctor", Command::new(program).arg("doctor"))
}

/// The release build of `vae`.
fn program(workspace: &Workspace) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.root().join("target"), PathBuf::from);
    let name = format!("vae{}", std::env::consts::EXE_SUFFIX);
    target.join("release").join(name)
}

/// The compiler that builds the bindings of libtorch.
fn compiler() -> Finding {
    let name = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let said = Command::new(&name).arg("--version").output();
    match said {
        Ok(said) if said.status.success() => {
            let text = String::from_utf8_lossy(&said.stdout);
            Ok(text.lines().next().unwrap_or_default().to_owned())
        }
        _ => Err(format!(
            "`{name}` does not run: install a C++ compiler, such as Debian's g++ or Xcode's command line tools"
        )),
    }
}

/// The libtorch that cargo was told of.
fn libtorch(include: &Path) -> Finding {
    const REPAIR: &str = "`cargo xtask libtorch` repairs this";
    let folder = match include::recorded(include) {
        Ok(Some(folder)) => folder,
        Ok(None) => return Err("none is there yet: `cargo xtask libtorch` fetches it".to_owned()),
        Err(error) => return Err(format!("{error:#}: {REPAIR}")),
    };
    match Installation::inspect(&folder) {
        Ok(found) => Ok(format!("{} in {}", found.version, found.folder.display())),
        Err(error) => Err(format!("{error:#}: {REPAIR}")),
    }
}

/// Whether the program starts: without one of its libraries it does not.
fn starts(program: &Path) -> Finding {
    if !program.is_file() {
        return Err(format!(
            "{} is not there yet: `cargo build --release -p vae-cli` builds it",
            program.display()
        ));
    }
    let said = Command::new(program).arg("--version").output();
    let said = said.map_err(|error| format!("{}: {error}", program.display()))?;
    if said.status.success() {
        let version = String::from_utf8_lossy(&said.stdout);
        return Ok(format!("{} in {}", version.trim(), program.display()));
    }
    let traced = traced(program);
    let missing = libraries_missing(&traced);
    let reason = match missing.is_empty() {
        true => String::from_utf8_lossy(&said.stderr).trim().to_owned(),
        false => format!("it finds no {}", missing.join(", ")),
    };
    Err(format!(
        "{} does not start: {reason}. `cargo xtask libtorch` puts the libraries in place, and `cargo build --release -p \
         vae-cli` tells the program where they are; or set LD_LIBRARY_PATH to libtorch's lib folder",
        program.display()
    ))
}

/// What the dynamic linker says of the program's libraries, on Linux.
fn traced(program: &Path) -> String {
    let traced = Command::new(program)
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .output();
    match traced {
        Ok(traced) if cfg!(target_os = "linux") => {
            String::from_utf8_lossy(&traced.stdout).into_owned()
        }
        _ => String::new(),
    }
}

/// The names in lines such as `libc10.so => not found`.
fn libraries_missing(traced: &str) -> Vec<&str> {
    traced
        .lines()
        .filter(|line| line.contains("not found"))
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::libtorch::installation::tests::fake_libtorch;

    #[test]
    fn a_libtorch_that_is_missing_damaged_or_old_is_named_with_the_way_to_repair_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libtorch.toml");
        assert!(
            libtorch(&file)
                .unwrap_err()
                .contains("`cargo xtask libtorch` fetches it")
        );
        let place = folder.path().join("libtorch");
        include::record(&file, &place).unwrap();
        let said = libtorch(&file).unwrap_err();
        assert!(
            said.contains("no folder") && said.contains("repairs this"),
            "{said}"
        );
        fake_libtorch(&place, "2.10.0");
        assert!(libtorch(&file).unwrap_err().contains("wanted 2.11.0"));
        fake_libtorch(&place, "2.11.0+cpu");
        assert!(libtorch(&file).unwrap().starts_with("2.11.0+cpu in "));
        fs::write(&file, "nothing").unwrap();
        assert!(libtorch(&file).unwrap_err().contains("repairs this"));
    }

    #[test]
    fn missing_libraries_are_named() {
        let traced = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibtorch_cpu.so => not found\n\tlibc10.so => not found\n\
                      \tlibm.so.6 => /lib/libm.so.6 (0x00007f)\n";
        assert_eq!(libraries_missing(traced), ["libtorch_cpu.so", "libc10.so"]);
        assert!(libraries_missing("").is_empty());
    }

    #[test]
    fn a_program_that_is_not_there_is_to_be_built() {
        let folder = tempfile::tempdir().unwrap();
        let said = starts(&folder.path().join("vae")).unwrap_err();
        assert!(said.contains("cargo build --release -p vae-cli"), "{said}");
    }
}
