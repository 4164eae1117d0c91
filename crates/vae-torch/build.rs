//! Compiles the C++ that calls functions of libtorch without tch bindings.

use std::env;
use std::path::PathBuf;

fn main() {
    const FILES: [&str; 5] = [
        "src/cpu/cpu.cpp",
        "src/differentiable.cpp",
        "src/generator.cpp",
        "src/group.cpp",
        "src/kernels.cpp",
    ];
    // What differentiable.cpp includes.
    const DIFFERENTIABLE: [&str; 5] = [
        "src/bernoulli.cpp",
        "src/convolution.cpp",
        "src/gaussians.cpp",
        "src/norm_silu.cpp",
        "src/recompute.cpp",
    ];
    // Declarations of gloo's, whose headers libtorch names and does not have.
    const GLOO: &str = "include";
    let others = [
        "src/autocast.h",
        "src/call.h",
        "src/gradients.h",
        "src/cpu",
        GLOO,
    ];
    for file in FILES.into_iter().chain(DIFFERENTIABLE).chain(others) {
        println!("cargo::rerun-if-changed={file}");
    }
    // torch-sys, which has `links = "tch"`, passes on where it found libtorch.
    let Some(lib) = env::var_os("DEP_TCH_LIBTORCH_LIB") else {
        panic!("torch-sys did not say where libtorch is (DEP_TCH_LIBTORCH_LIB)");
    };
    let mut include = PathBuf::from(lib);
    include.set_file_name("include");
    let has_kernels = compile_kernels();
    let mut build = cc::Build::new();
    if has_kernels {
        build.define("VAE_CPU_KERNELS", None);
    }
    build
        .cpp(true)
        .std("c++17")
        .include(include.join("torch/csrc/api/include"))
        .include(include)
        .include(GLOO)
        .define("USE_C10D_GLOO", None)
        // Warnings in libtorch's headers are not ours to fix.
        .warnings(false)
        .files(FILES)
        .compile("vae_torch");
}

/// Compiles the kernels for CPUs, each for instructions that are looked for when the program runs. They are written with
/// vectors of GCC and Clang, for x86-64.
fn compile_kernels() -> bool {
    let is = |variable, value: &str| env::var(variable).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_ARCH", "x86_64") || is("CARGO_CFG_TARGET_ENV", "msvc") {
        return false;
    }
    let avx512 = [
        "-mavx512f",
        "-mavx512dq",
        "-mavx512bw",
        "-mavx512vl",
        "-mfma",
    ];
    for (name, flags) in [("avx512", &avx512[..]), ("avx2", &["-mavx2", "-mfma"])] {
        let mut build = cc::Build::new();
        for flag in flags {
            build.flag(flag);
        }
        build
            .cpp(true)
            .std("c++17")
            .opt_level(3)
            // Warnings in the compiler's headers are not ours to fix.
            .warnings(false)
            .file(format!("src/cpu/{name}.cpp"))
            .compile(&format!("vae_torch_{name}"));
    }
    true
}
