//! Compiles the C++ that calls functions of libtorch without tch bindings.

use std::env;
use std::path::PathBuf;

fn main() {
    const FILES: [&str; 4] = [
        "src/generator.cpp",
        "src/group.cpp",
        "src/kernels.cpp",
        "src/recompute.cpp",
    ];
    // Declarations of gloo's, whose headers libtorch names and does not have.
    const GLOO: &str = "include";
    for file in FILES
        .into_iter()
        .chain(["src/autocast.h", "src/call.h", GLOO])
    {
        println!("cargo::rerun-if-changed={file}");
    }
    // torch-sys, which has `links = "tch"`, passes on where it found libtorch.
    let Some(lib) = env::var_os("DEP_TCH_LIBTORCH_LIB") else {
        panic!("torch-sys did not say where libtorch is (DEP_TCH_LIBTORCH_LIB)");
    };
    let mut include = PathBuf::from(lib);
    include.set_file_name("include");
    cc::Build::new()
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
