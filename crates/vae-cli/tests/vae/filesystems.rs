//! File systems that do not support every operation of a local disk: network shares, FUSE, mount points.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::{Workplace, metrics, stderr};

/// A library that makes system calls fail as on SMB shares, FUSE file systems, Lustre and exFAT. Each environment
/// variable sets the error of one call.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>

int fsync(int file) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    struct stat status;
    if (getenv("REFUSE_FSYNC") && !fstat(file, &status) && S_ISDIR(status.st_mode)) {
        errno = atoi(getenv("REFUSE_FSYNC"));
        return -1;
    }
    return real(file);
}

int flock(int file, int operation) {
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    if (getenv("REFUSE_FLOCK")) {
        errno = atoi(getenv("REFUSE_FLOCK"));
        return -1;
    }
    return real(file, operation);
}

int symlink(const char *target, const char *link) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "symlink");
    if (getenv("REFUSE_SYMLINK")) {
        errno = atoi(getenv("REFUSE_SYMLINK"));
        return -1;
    }
    return real(target, link);
}

void *mmap64(void *address, size_t length, int access, int flags, int file, off64_t offset) {
    void *(*real)(void *, size_t, int, int, int, off64_t) = dlsym(RTLD_NEXT, "mmap64");
    if (getenv("REFUSE_MMAP") && file >= 0 && (flags & MAP_SHARED)) {
        errno = atoi(getenv("REFUSE_MMAP"));
        return MAP_FAILED;
    }
    return real(address, length, access, flags, file, offset);
}
"#;

/// Compiles the library in the workplace.
fn shim(workplace: &Workplace) -> PathBuf {
    let (source, library) = (workplace.path("shim.c"), workplace.path("shim.so"));
    fs::write(&source, SHIM).expect("written");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .expect("a C compiler, which vae-train needs as well");
    assert!(compiled.success());
    library
}

fn refused(workplace: &Workplace, shim: &Path, call: (&str, i32), args: &[&str]) -> Output {
    let (name, errno) = call;
    workplace
        .command(args)
        .env("LD_PRELOAD", shim)
        .env(name, errno.to_string())
        .output()
        .expect("the binary runs")
}

#[test]
fn a_run_continues_without_unsupported_file_operations() {
    let workplace = Workplace::new();
    let shim = shim(&workplace);
    let straight = workplace.train(&["--epochs", "3"], "straight");
    let calls = [
        ("REFUSE_FSYNC", libc::EINVAL, ""),
        ("REFUSE_FSYNC", libc::EOPNOTSUPP, ""),
        ("REFUSE_FLOCK", libc::ENOLCK, "has no locks"),
        ("REFUSE_FLOCK", libc::EOPNOTSUPP, "has no locks"),
        ("REFUSE_SYMLINK", libc::EPERM, "no link to epoch-0001"),
        ("REFUSE_MMAP", libc::ENODEV, ""),
    ];
    for (i, (name, errno, warning)) in calls.into_iter().enumerate() {
        let vae = |args: &[&str]| {
            let output = refused(&workplace, &shim, (name, errno), args);
            let said = stderr(&output);
            assert!(output.status.success(), "{name} {errno}: {said}");
            said
        };
        let run = format!("run-{i}");
        for args in [
            ["train", "small.toml", "--epochs", "2", "--out", &run],
            ["train", "small.toml", "--epochs", "3", "--resume", &run],
        ] {
            let said = vae(&args);
            let is_ours = |line: &&str| line.contains("WARN") && !line.contains("collapse");
            let n_warnings = said.lines().filter(is_ours).count();
            assert_eq!(n_warnings, usize::from(!warning.is_empty()), "{said}");
            assert!(said.contains(warning) || name == "REFUSE_SYMLINK", "{said}");
        }
        assert_eq!(metrics(&workplace.path(&run)), metrics(&straight));
        let picture = format!("{run}.png");
        vae(&["sample", &run, "--out", &picture]);
        assert!(workplace.path(&picture).is_file());
        let left = fs::read_dir(workplace.path(&run)).expect("a folder");
        for name in left.map(|entry| entry.expect("an entry").file_name()) {
            assert!(!name.to_string_lossy().starts_with('.'), "{name:?}");
        }
    }
    // On a file system without locks, a run without a summary may or may not be in training.
    let state = |call: (&str, i32)| {
        let listed = refused(&workplace, &shim, call, &["runs", "straight", "--json"]);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        listed[0]["state"].as_str().expect("a state").to_owned()
    };
    let (no_locks, locks) = (("REFUSE_FLOCK", libc::ENOLCK), ("REFUSE_NOTHING", 0));
    assert_eq!([state(no_locks), state(locks)], ["finished"; 2]);
    fs::remove_file(straight.join("summary.json")).expect("removed");
    assert_eq!([state(no_locks), state(locks)], ["unknown", "stopped"]);
}

#[test]
fn the_current_folder_and_a_link_are_places_for_a_run() {
    let workplace = Workplace::new();
    let straight = workplace.train(&[], "straight");
    let (here, target) = (workplace.path("here"), workplace.path("target"));
    for folder in [&here, &target] {
        fs::create_dir(folder).expect("created");
    }
    std::os::unix::fs::symlink(&target, workplace.path("link")).expect("linked");
    let in_link = workplace.train(&[], "link");
    assert_eq!(metrics(&in_link), metrics(&straight));

    let config = workplace.path("small.toml");
    let data = format!("dataset.idx.folder={:?}", workplace.path("data"));
    let config = config.to_str().expect("UTF-8");
    let here_args = ["train", config, "--set", &data, "--out", "."];
    let output = workplace
        .command(&here_args)
        .current_dir(&here)
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(metrics(&here), metrics(&straight));
    let again = workplace
        .command(&here_args)
        .current_dir(&here)
        .output()
        .expect("the binary runs");
    assert!(stderr(&again).contains("already holds files"), "{again:?}");
}

/// Runs the next test in a new mount namespace.
#[test]
fn an_empty_mount_point_is_a_place_for_a_run() {
    let this = std::env::current_exe().expect("this test's file");
    let may_mount = Command::new("unshare")
        .args(["--map-root-user", "--mount", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !may_mount {
        eprintln!("NOT TESTED: a mount point; this system lets nobody mount one (unshare)");
        return;
    }
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount"])
        .arg(this)
        .args(["--exact", "on_a_mount_point", "--ignored", "--nocapture"])
        .output()
        .expect("unshare runs");
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
#[ignore = "an_empty_mount_point_is_a_place_for_a_run runs it where it may mount"]
fn on_a_mount_point() {
    let workplace = Workplace::new();
    let disk = workplace.path("disk");
    fs::create_dir(&disk).expect("created");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
        .arg(&disk)
        .status()
        .expect("mount runs");
    assert!(mounted.success());
    let run = workplace.train(&[], "disk");
    assert_eq!(metrics(&run).len(), 4);
}
