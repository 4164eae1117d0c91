//! Reads thousands of damaged and hostile files of every format, the same in every run of the test. Each must give an
//! error or the values that its bytes encode, without a panic, a hang or a gigabyte of memory.
//!
//! `VAE_MUTANTS=N` makes N mutants of each format instead; `cargo xtask fuzz --mutants N` sets it.

#[path = "mutants/mutate.rs"]
mod mutate;
#[path = "mutants/targets.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use mutate::{Chance, mutant, with_true_header_length};
use targets::{TARGETS, Target};

/// More than a mutant of a few kilobytes needs on the slowest machine.
const HANG: Duration = Duration::from_secs(120);

/// The largest memory use of the process, including libtorch.
const MOST_MEMORY: usize = 1 << 30;

/// Reads `n` mutants for a target and fails with the panics.
fn run(target: &Target, n: usize) {
    let (sender, receiver) = channel::<Vec<u8>>();
    // A hang cannot be ended, but the watching thread can report it.
    let name = target.name;
    let watch = thread::spawn(move || {
        let mut current = Vec::new();
        loop {
            match receiver.recv_timeout(HANG) {
                Ok(bytes) => current = bytes,
                Err(RecvTimeoutError::Timeout) => {
                    let file = keep(name, "hang", &current);
                    eprintln!("{name}: {file} took longer than {HANG:?}");
                    std::process::abort();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    let seeds = (target.seeds)();
    for (i, seed) in seeds.iter().enumerate() {
        assert!((target.read)(seed), "{name}: seed {i} is refused as it is");
    }
    let mut chance = Chance::new(target.name.bytes().map(u64::from).sum());
    let (mut n_taken, mut panicked) = (0, Vec::new());
    for i in 0..n {
        let seed = &seeds[i % seeds.len()];
        let mut bytes = mutant(seed, &mut chance);
        if seed.get(8) == Some(&b'{') && chance.below(4) > 0 {
            let length = u64::from_le_bytes(seed[..8].try_into().expect("8 bytes")) as usize;
            with_true_header_length(&mut bytes, seed.len() - 8 - length);
        }
        sender.send(bytes.clone()).expect("watched");
        match catch_unwind(AssertUnwindSafe(|| (target.read)(&bytes))) {
            Ok(is_taken) => n_taken += usize::from(is_taken),
            Err(_) => panicked.push(keep(name, &format!("panic-{i}"), &bytes)),
        }
    }
    drop(sender);
    watch.join().expect("nothing hangs");
    assert!(
        panicked.is_empty(),
        "{} of {n} mutants of {name} panicked: {}",
        panicked.len(),
        panicked.join(" ")
    );
    let peak = peak_memory();
    assert!(peak < MOST_MEMORY, "{name}: {} MB", peak >> 20);
    println!(
        "{name}: {n} mutants, {n_taken} taken, the others errors, no panic; at most {} MB in this process",
        peak >> 20
    );
}

/// Saves a file for inspection and describes where it is.
fn keep(name: &str, what: &str, bytes: &[u8]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutants");
    let file = folder.join(format!("{name}-{what}"));
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&file, bytes));
    written.map_or_else(|error| error.to_string(), |()| file.display().to_string())
}

/// The peak memory of this process in bytes; 0 if the system does not report it.
fn peak_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kilobytes.unwrap_or(0) << 10
}

fn of(name: &str, n: usize) {
    let n = match std::env::var("VAE_MUTANTS") {
        Ok(n) => n.parse().expect("VAE_MUTANTS is a number"),
        Err(_) => n,
    };
    let target = TARGETS.iter().find(|target| target.name == name);
    run(target.expect("a target"), n);
}

#[test]
fn idx_files() {
    of("idx", 6000);
}

#[test]
fn zips() {
    of("zip", 3000);
}

#[test]
fn arrays_as_items() {
    of("arrays", 3000);
}

#[test]
fn texts() {
    of("text", 1000);
}

#[test]
fn sounds() {
    of("sound", 500);
}

#[test]
fn melodies() {
    of("melody", 3000);
}

#[test]
fn images() {
    of("image", 3000);
}

#[test]
fn weights() {
    of("weights", 6000);
}

#[test]
fn samplers() {
    of("sampler", 2000);
}

#[test]
fn checkpoints() {
    of("checkpoint", 2000);
}

#[test]
fn configs() {
    of("config", 4000);
}

#[test]
fn latents() {
    of("latents", 6000);
}

#[test]
fn partition_lists() {
    of("partition", 1500);
}

#[test]
fn attribute_lists() {
    of("attributes", 1500);
}

/// Writes the initial inputs of the fuzz targets, if `cargo xtask fuzz` sets the folder.
#[test]
fn seeds_are_written_where_they_are_asked_for() {
    let Some(folder) = std::env::var_os("VAE_SEEDS") else {
        return;
    };
    for target in &TARGETS {
        let folder = Path::new(&folder).join(target.name);
        fs::create_dir_all(&folder).expect("created");
        for (i, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{i}")), seed).expect("written");
        }
    }
}
