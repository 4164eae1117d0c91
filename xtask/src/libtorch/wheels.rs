//! The Python wheels that contain libtorch: their names, how pip downloads them, and which files are used.
//!
//! A wheel is a zip archive; nothing of it is installed and no Python runs later. The wheels for
//! Linux are built with CUDA, on both architectures. Their CPU half works alone, given the two small
//! CUDA libraries it is linked with and a `libtorch.so` of our own in place of the one that would
//! load the CUDA half.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{VERSION, archive, remake};
use crate::checksum;
use crate::pip::{Pip, the_wheel_in};

/// The folder, made of the wheels, that becomes LIBTORCH.
pub(super) const CUDA_FOLDER: &str = "torch";

/// Make a libtorch in the empty folder `tree` out of wheels, which are gathered in `downloads`.
///
/// # Errors
/// If this machine has no such wheels or no pip, or pip fails, or a wheel is not the pinned one.
/// Wheels that arrived whole stay in `downloads` for the next call.
pub(super) fn build(cuda: bool, downloads: &Path, tree: &Path) -> Result<()> {
    let (cpu_wheels, cuda_wheels) = pinned()?;
    ensure!(
        !cuda || !cuda_wheels.is_empty(),
        "there are no CUDA wheels for this system"
    );
    let extra = if cuda { cuda_wheels } else { &[] };
    let pip = Pip::find()?;
    let mut paths = Vec::new();
    for wheel in cpu_wheels.iter().chain(extra) {
        paths.push(fetch(&pip, wheel, downloads)?);
    }
    for path in &paths {
        let place = if cuda { in_cuda_layout } else { in_cpu_layout };
        archive::extract(path, tree, place)?;
    }
    if cuda {
        let version = format!("{VERSION}+cu130\n");
        return write(&tree.join(CUDA_FOLDER).join("build-version"), &version);
    }
    if cfg!(target_os = "linux") {
        link_stub(&tree.join("lib"))?;
    }
    write(&tree.join("build-version"), &format!("{VERSION}+cpu\n"))
}

/// Put the headers of CUDA and NCCL in the folder `headers`.
///
/// # Errors
/// As [`build`], and on other systems than Linux on x86_64.
pub(super) fn nccl_headers(downloads: &Path, headers: &Path) -> Result<()> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "NCCL's wheels are pinned for Linux on x86_64 alone"
    );
    let named = |wheels: &'static [Wheel], name: &str| {
        let mut wheels = wheels.iter();
        wheels.find(|wheel| wheel.requirement.starts_with(name))
    };
    let known = [
        named(LINUX_X86_64_CPU, "nvidia-cuda-runtime"),
        named(LINUX_X86_64_CUDA, "nvidia-nccl"),
    ];
    let pip = Pip::find()?;
    for wheel in known.into_iter().flatten().chain(LINUX_X86_64_CUDA_HEADERS) {
        let path = fetch(&pip, wheel, downloads)?;
        archive::extract(&path, headers, |name| {
            let (_, header) = name.strip_prefix("nvidia/")?.split_once("/include/")?;
            Some(PathBuf::from(header))
        })?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Where a wheel's file goes in the CPU layout, `include/` and `lib/`; `None` if it is not needed.
fn in_cpu_layout(name: &str) -> Option<PathBuf> {
    if let Some(header) = name.strip_prefix("torch/include/") {
        return Some(Path::new("include").join(header));
    }
    if let Some(library) = name.strip_prefix("torch/lib/") {
        // On macOS the wheel is a CPU one, with a libtorch of its own.
        let unneeded = if cfg!(target_os = "macos") {
            MACOS_UNNEEDED
        } else {
            LINUX_UNNEEDED
        };
        let stem = library.split('.').next().unwrap_or_default();
        let needed = is_library(library) && !unneeded.contains(&stem);
        return needed.then(|| Path::new("lib").join(library));
    }
    let library = name.strip_prefix("nvidia/cu13/lib/")?;
    let needed = ["libcudart.so", "libcupti.so"]
        .iter()
        .any(|stem| library.starts_with(stem));
    needed.then(|| Path::new("lib").join(library))
}

/// Python's own libraries, and the CUDA libraries with their loader.
const LINUX_UNNEEDED: &[&str] = &[
    "libtorch",
    "libtorch_cuda",
    "libtorch_cuda_linalg",
    "libtorch_global_deps",
    "libtorch_nvshmem",
    "libtorch_python",
    "libc10_cuda",
    "libcaffe2_nvrtc",
    "libshm",
];
const MACOS_UNNEEDED: &[&str] = &["libtorch_global_deps", "libtorch_python", "libshm"];

/// Where a wheel's file goes in the CUDA layout: where it is, since the libraries look for each
/// other along paths from `torch/lib` to `nvidia/…/lib`.
fn in_cuda_layout(name: &str) -> Option<PathBuf> {
    let header = name.starts_with("torch/include/");
    let library = name.starts_with("torch/lib/") || name.starts_with("nvidia/");
    let needed = header || (library && is_library(name) && !name.contains("libtorch_python"));
    needed.then(|| PathBuf::from(name))
}

fn is_library(name: &str) -> bool {
    name.ends_with(".so") || name.contains(".so.") || name.ends_with(".dylib")
}

/// Link a `libtorch.so` that loads the CPU half only.
fn link_stub(lib: &Path) -> Result<()> {
    let compiler = std::env::var_os("CC").unwrap_or_else(|| OsString::from("cc"));
    let mut command = Command::new(&compiler);
    command
        .arg("-shared")
        .arg("-Wl,-soname,libtorch.so")
        .arg("-o")
        .arg(lib.join("libtorch.so"))
        .args(["-Wl,--no-as-needed", "-L"])
        .arg(lib)
        .args(["-l:libtorch_cpu.so", "-Wl,-rpath,$ORIGIN"]);
    let output = command.output().with_context(|| {
        format!("no C compiler {compiler:?} to link libtorch.so with (install gcc)")
    })?;
    if !output.status.success() {
        bail!(
            "cannot link libtorch.so: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// The wheel's file in `downloads`, fetched unless it is there already.
fn fetch(pip: &Pip, wheel: &Wheel, downloads: &Path) -> Result<PathBuf> {
    let kept = downloads.join(format!("{}.whl", wheel.requirement.replace("==", "-")));
    if kept.is_file() && checksum::of_file(&kept)? == wheel.sha256 {
        eprintln!("  {} is here already", wheel.requirement);
        return Ok(kept);
    }
    // A folder of its own tells which file pip brings. What an interrupted call left there may
    // be the whole wheel, or a part of it: pip copies.
    let incoming = downloads.join("incoming");
    if let Ok(arrived) = the_wheel_in(&incoming)
        && checksum::of_file(&arrived)? == wheel.sha256
    {
        eprintln!("  {} is here already", wheel.requirement);
        return keep(&arrived, kept);
    }
    remake(&incoming)?;
    eprintln!("  {} through pip …", wheel.requirement);
    let options = [
        "--python-version=3.11".to_owned(),
        "--implementation=cp".to_owned(),
        "--abi=cp311".to_owned(),
        format!("--platform={}", wheel.platform),
    ];
    let arrived = pip.download(wheel.requirement, &options, &incoming)?;
    let sha256 = checksum::of_file(&arrived)?;
    ensure!(
        sha256 == wheel.sha256,
        "pip's {} has SHA-256 {sha256}, expected {}; refused",
        wheel.requirement,
        wheel.sha256
    );
    keep(&arrived, kept)
}

fn keep(arrived: &Path, kept: PathBuf) -> Result<PathBuf> {
    fs::rename(arrived, &kept).with_context(|| format!("cannot move {}", arrived.display()))?;
    Ok(kept)
}

/// One wheel, pinned to the byte.
struct Wheel {
    /// Name and version as pip takes them.
    requirement: &'static str,
    /// pip's name of the platform; exact, so that every machine gets the same file.
    platform: &'static str,
    sha256: &'static str,
}

const fn wheel(requirement: &'static str, platform: &'static str, sha256: &'static str) -> Wheel {
    Wheel {
        requirement,
        platform,
        sha256,
    }
}

/// This system's wheels: those of the CPU libraries, and what CUDA needs besides.
fn pinned() -> Result<(&'static [Wheel], &'static [Wheel])> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok((LINUX_X86_64_CPU, LINUX_X86_64_CUDA)),
        ("linux", "aarch64") => Ok((LINUX_AARCH64_CPU, LINUX_AARCH64_CUDA)),
        ("macos", "aarch64") => Ok((MACOS_ARM64, &[])),
        (system, architecture) => bail!("no wheels are pinned for {system} on {architecture}"),
    }
}

// Sums as the package index states them; those of the x86_64 CPU wheels and of both other torch
// wheels were also computed here from the files.

const LINUX_X86_64_CPU: &[Wheel] = &[
    wheel(
        "torch==2.11.0",
        "manylinux_2_28_x86_64",
        "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
    ),
    wheel(
        "nvidia-cuda-cupti==13.0.85",
        "manylinux_2_25_x86_64",
        "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
    ),
    wheel(
        "nvidia-cuda-runtime==13.0.96",
        "manylinux2014_x86_64",
        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    ),
];

/// What NCCL's C++ needs of CUDA besides the runtime, headers alone.
const LINUX_X86_64_CUDA_HEADERS: &[Wheel] = &[
    wheel(
        "nvidia-cuda-crt==13.0.88",
        "manylinux2014_x86_64",
        "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
    ),
    wheel(
        "nvidia-cuda-cccl==13.0.85",
        "manylinux2014_x86_64",
        "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649",
    ),
];

const LINUX_X86_64_CUDA: &[Wheel] = &[
    wheel(
        "nvidia-cublas==13.1.0.3",
        "manylinux_2_27_x86_64",
        "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171",
    ),
    wheel(
        "nvidia-cuda-nvrtc==13.0.88",
        "manylinux2010_x86_64",
        "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
    ),
    wheel(
        "nvidia-cudnn-cu13==9.19.0.56",
        "manylinux_2_27_x86_64",
        "d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf",
    ),
    wheel(
        "nvidia-cufft==12.0.0.61",
        "manylinux2014_x86_64",
        "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
    ),
    wheel(
        "nvidia-cufile==1.15.1.6",
        "manylinux2014_x86_64",
        "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44",
    ),
    wheel(
        "nvidia-curand==10.4.0.35",
        "manylinux_2_27_x86_64",
        "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
    ),
    wheel(
        "nvidia-cusolver==12.0.4.66",
        "manylinux_2_27_x86_64",
        "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112",
    ),
    wheel(
        "nvidia-cusparse==12.6.3.3",
        "manylinux2014_x86_64",
        "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b",
    ),
    wheel(
        "nvidia-cusparselt-cu13==0.8.0",
        "manylinux2014_x86_64",
        "25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd",
    ),
    wheel(
        "nvidia-nccl-cu13==2.28.9",
        "manylinux_2_18_x86_64",
        "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
    ),
    wheel(
        "nvidia-nvjitlink==13.0.88",
        "manylinux2010_x86_64",
        "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
    ),
    wheel(
        "nvidia-nvshmem-cu13==3.4.5",
        "manylinux2014_x86_64",
        "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80",
    ),
    wheel(
        "nvidia-nvtx==13.0.85",
        "manylinux1_x86_64",
        "4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4",
    ),
];

const LINUX_AARCH64_CPU: &[Wheel] = &[
    wheel(
        "torch==2.11.0",
        "manylinux_2_28_aarch64",
        "d91aac77f24082809d2c5a93f52a5f085032740a1ebc9252a7b052ef5a4fddc6",
    ),
    wheel(
        "nvidia-cuda-cupti==13.0.85",
        "manylinux_2_25_aarch64",
        "796bd679890ee55fb14a94629b698b6db54bcfd833d391d5e94017dd9d7d3151",
    ),
    wheel(
        "nvidia-cuda-runtime==13.0.96",
        "manylinux2014_aarch64",
        "ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55",
    ),
];

const LINUX_AARCH64_CUDA: &[Wheel] = &[
    wheel(
        "nvidia-cublas==13.1.0.3",
        "manylinux_2_27_aarch64",
        "c86fc7f7ae36d7528288c5d88098edcb7b02c633d262e7ddbb86b0ad91be5df2",
    ),
    wheel(
        "nvidia-cuda-nvrtc==13.0.88",
        "manylinux2014_aarch64",
        "d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b",
    ),
    wheel(
        "nvidia-cudnn-cu13==9.19.0.56",
        "manylinux_2_27_aarch64",
        "6ed29ffaee1176c612daf442e4dd6cfeb6a0caa43ddcbeb59da94953030b1be4",
    ),
    wheel(
        "nvidia-cufft==12.0.0.61",
        "manylinux2014_aarch64",
        "2708c852ef8cd89d1d2068bdbece0aa188813a0c934db3779b9b1faa8442e5f5",
    ),
    wheel(
        "nvidia-cufile==1.15.1.6",
        "manylinux_2_27_aarch64",
        "bdc0deedc61f548bddf7733bdc216456c2fdb101d020e1ab4b88d232d5e2f6d1",
    ),
    wheel(
        "nvidia-curand==10.4.0.35",
        "manylinux_2_27_aarch64",
        "133df5a7509c3e292aaa2b477afd0194f06ce4ea24d714d616ff36439cee349a",
    ),
    wheel(
        "nvidia-cusolver==12.0.4.66",
        "manylinux_2_27_aarch64",
        "02c2457eaa9e39de20f880f4bd8820e6a1cfb9f9a34f820eb12a155aa5bc92d2",
    ),
    wheel(
        "nvidia-cusparse==12.6.3.3",
        "manylinux2014_aarch64",
        "80bcc4662f23f1054ee334a15c72b8940402975e0eab63178fc7e670aa59472c",
    ),
    wheel(
        "nvidia-cusparselt-cu13==0.8.0",
        "manylinux2014_aarch64",
        "400c6ed1cf6780fc6efedd64ec9f1345871767e6a1a0a552a1ea0578117ea77c",
    ),
    wheel(
        "nvidia-nccl-cu13==2.28.9",
        "manylinux_2_18_aarch64",
        "01c873ba1626b54caa12272ed228dc5b2781545e0ae8ba3f432a8ef1c6d78643",
    ),
    wheel(
        "nvidia-nvjitlink==13.0.88",
        "manylinux2014_aarch64",
        "e931536ccc7d467a98ba1d8b89ff7fa7f1fa3b13f2b0069118cd7f47bff07d0c",
    ),
    wheel(
        "nvidia-nvshmem-cu13==3.4.5",
        "manylinux2014_aarch64",
        "6dc2a197f38e5d0376ad52cd1a2a3617d3cdc150fd5966f4aee9bcebb1d68fe9",
    ),
    wheel(
        "nvidia-nvtx==13.0.85",
        "manylinux2014_aarch64",
        "cb7780edb6b14107373c835bf8b72e7a178bac7367e23da7acb108f973f157a6",
    ),
];

const MACOS_ARM64: &[Wheel] = &[wheel(
    "torch==2.11.0",
    "macosx_11_0_arm64",
    "7b6a60d48062809f58595509c524b88e6ddec3ebe25833d6462eeab81e5f2ce4",
)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn cpu_layout_keeps_headers_and_the_cpu_half() {
        let place = |name| in_cpu_layout(name).map(|path| path.to_str().unwrap().to_owned());
        let kept = [
            ("torch/include/ATen/ATen.h", "include/ATen/ATen.h"),
            ("torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so"),
            ("torch/lib/libgomp.so.1", "lib/libgomp.so.1"),
            (
                "torch/lib/libnvpl_blas_core.so.0",
                "lib/libnvpl_blas_core.so.0",
            ),
            ("nvidia/cu13/lib/libcudart.so.13", "lib/libcudart.so.13"),
            ("nvidia/cu13/lib/libcupti.so.13", "lib/libcupti.so.13"),
        ];
        for (name, to) in kept {
            assert_eq!(place(name).as_deref(), Some(to));
        }
        for name in [
            "torch/lib/libtorch.so",
            "torch/lib/libtorch_cuda.so",
            "torch/lib/libshm/err.h",
            "torch/nn/init.py",
            "nvidia/cu13/lib/libcudart_static.a",
            "nvidia/cu13/lib/libnvperf_host.so",
            "nvidia/cu13/include/cuda.h",
        ] {
            assert_eq!(place(name), None, "{name}");
        }
    }

    #[test]
    fn cuda_layout_leaves_libraries_where_they_look_for_each_other() {
        for name in [
            "torch/lib/libtorch.so",
            "torch/lib/libtorch_cuda.so",
            "nvidia/cudnn/lib/libcudnn.so.9",
            "torch/include/a.h",
        ] {
            assert_eq!(in_cuda_layout(name), Some(PathBuf::from(name)));
        }
        for name in [
            "torch/lib/libtorch_python.so",
            "torch/nn/init.py",
            "nvidia/cu13/lib/libx.a",
            "torch/_C.so",
        ] {
            assert_eq!(in_cuda_layout(name), None, "{name}");
        }
    }

    #[test]
    fn every_pin_is_exact() {
        let tables = [
            LINUX_X86_64_CPU,
            LINUX_X86_64_CUDA,
            LINUX_AARCH64_CPU,
            LINUX_AARCH64_CUDA,
            MACOS_ARM64,
        ];
        for wheel in tables.into_iter().flatten() {
            assert!(wheel.requirement.contains("=="), "{}", wheel.requirement);
            assert!(
                wheel.sha256.len() == 64 && wheel.sha256.bytes().all(|b| b.is_ascii_hexdigit()),
                "{}",
                wheel.requirement
            );
        }
    }
}
