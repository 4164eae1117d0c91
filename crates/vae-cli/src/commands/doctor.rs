//! `vae doctor`: checks this machine, with advice.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tch::{Cuda, Device};
use vae_base::read_small_text;
use vae_run::Precision;
use vae_torch::{Group, Network, Store};
use vae_train::{check_precision, libtorch_config, own_kernels};

use super::table;
use crate::Done;
use crate::device::{self, DeviceChoice};
use crate::output::out;

/// Check libtorch, devices and processor instructions, with advice about problems
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON instead
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    libtorch: Option<String>,
    libtorch_file: Option<String>,
    /// `AVX512`, `AVX2`, `DEFAULT`, ….
    cpu_capability: Option<String>,
    /// The instructions of our own kernels of convolutions and norms, if this processor has them.
    own_kernels: Option<&'static str>,
    bf16_on_cpu: bool,
    threads: i32,
    cores: usize,
    cuda_devices: i64,
    /// Whether processes can compute together, by Gloo.
    gloo: bool,
    /// Whether NCCL's library and ours on it are here (`--collectives nccl`).
    nccl_library: bool,
    /// The names of the network interfaces that are up, for `--interface`.
    interfaces: Vec<String>,
    advice: Vec<String>,
}

/// The version that tch 0.24 requires.
const WANTED_LIBTORCH: &str = "2.11.0";

pub(crate) fn run(args: Args) -> Result<Done> {
    let report = examine();
    if args.json {
        out!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(Done::Fully);
    }
    let unknown = || table::UNKNOWN.to_owned();
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let found = |value: &Option<String>| value.clone().unwrap_or_else(unknown);
    table::print(
        2,
        &["", ""],
        vec![
            row("vae", report.version.to_owned()),
            row("libtorch", found(&report.libtorch)),
            row("from", found(&report.libtorch_file)),
            row("instructions", found(&report.cpu_capability)),
            row(
                "convolutions, norms",
                match report.own_kernels {
                    Some(instructions) => format!("kernels of our own, {instructions}"),
                    None => "libtorch's".to_owned(),
                },
            ),
            row(
                "bf16 on the CPU",
                if report.bf16_on_cpu { "yes" } else { "no" }.to_owned(),
            ),
            row(
                "threads",
                format!("{} on {} cores", report.threads, report.cores),
            ),
            row("CUDA devices", report.cuda_devices.to_string()),
            row(
                "several processes",
                format!(
                    "Gloo {}; NCCL is {}",
                    if report.gloo {
                        "works"
                    } else {
                        "does not work"
                    },
                    if report.nccl_library {
                        "here"
                    } else {
                        "not here"
                    }
                ),
            ),
            row("interfaces", report.interfaces.join(", ")),
        ],
    );
    for advice in &report.advice {
        out!("\n{advice}");
    }
    Ok(Done::Fully)
}

fn examine() -> Report {
    let mut advice = Vec::new();
    // Before the first tensor, as in every command.
    let cuda = DeviceChoice::Cuda(0).select();
    if let (Err(error), true) = (&cuda, device::nvidia_driver_is_there()) {
        advice.push(format!(
            "There is a GPU driver, but it cannot be used: {error:#}"
        ));
    }
    let config = libtorch_config();
    let libtorch = between(&config, "TORCH_VERSION=", &[',', '\n']);
    if let Some(found) = libtorch
        .as_deref()
        .filter(|found| !found.starts_with(WANTED_LIBTORCH))
    {
        advice.push(format!(
            "libtorch is {found}, {WANTED_LIBTORCH} is needed: `cargo xtask libtorch` fetches it"
        ));
    }
    let cpu_capability = between(&config, "CPU capability usage: ", &['\n']);
    if cpu_capability.as_deref() == Some("DEFAULT") {
        advice.push(
            "libtorch uses no vector instructions: is ATEN_CPU_CAPABILITY set, or the processor a \
             virtual one without AVX2?"
                .to_owned(),
        );
    }
    let threads = tch::get_num_threads();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if usize::try_from(threads).is_ok_and(|threads| threads > cores) {
        advice.push(format!(
            "{threads} threads on {cores} cores wait for each other: --threads {cores}, or unset \
             OMP_NUM_THREADS"
        ));
    }
    let gloo = gloo_works();
    if let Err(error) = &gloo {
        let problem = format!("{error:#}");
        let line = problem.lines().next().unwrap_or_default();
        advice.push(format!(
            "Several processes cannot train together (vae train --processes): {line}"
        ));
    }
    let libtorch_file = loaded_file("libtorch_cpu.");
    Report {
        version: env!("CARGO_PKG_VERSION"),
        libtorch,
        nccl_library: nccl_is_here(libtorch_file.as_deref()),
        libtorch_file,
        gloo: gloo.is_ok(),
        interfaces: interfaces(),
        cpu_capability,
        own_kernels: own_kernels(),
        bf16_on_cpu: check_precision(Precision::Bf16, Device::Cpu).is_ok(),
        threads,
        cores,
        cuda_devices: if cuda.is_ok() {
            Cuda::device_count()
        } else {
            0
        },
        advice,
    }
}

/// Forms a group of one process.
fn gloo_works() -> Result<()> {
    let patience = Duration::from_secs(5);
    let store = Store::host(0, patience)?;
    let group = Group::join(&store, "doctor", 0, 1, patience, &Network::local())?;
    group.barrier()?;
    Ok(())
}

/// Whether our library on NCCL lies where the system or this libtorch would find it.
fn nccl_is_here(libtorch: Option<&str>) -> bool {
    let beside = libtorch.and_then(|file| Path::new(file).parent().map(Path::to_owned));
    let searched = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&searched).chain(beside);
    folders.any(|folder| folder.join("libvae_nccl.so").exists())
}

/// The interfaces that are up, as Linux lists them.
fn interfaces() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten();
    let is_up = |path: &Path| {
        let state = read_small_text(&path.join("operstate"), 1 << 12).unwrap_or_default();
        matches!(state.trim(), "up" | "unknown") // Of the loopback it is not known.
    };
    let up = entries.filter(|entry| is_up(&entry.path()));
    let mut names: Vec<String> = up
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The part of a text after `start`, up to one of `ends`.
fn between(text: &str, start: &str, ends: &[char]) -> Option<String> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split(ends).next()?.trim().to_owned())
}

/// The path of a library of this process, if the system reports it.
fn loaded_file(name: &str) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.contains(name))?;
    line.find('/').map(|start| line[start..].to_owned())
}
