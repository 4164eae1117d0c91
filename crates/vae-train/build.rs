//! Compiles `src/kernels.cpp`, the calls into libtorch that tch does not bind.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=src/kernels.cpp");
    // torch-sys, which has `links = "tch"`, says where it found libtorch.
    let Some(lib) = env::var_os("DEP_TCH_LIBTORCH_LIB") else {
        panic!("torch-sys did not say where libtorch is (DEP_TCH_LIBTORCH_LIB)");
    };
    let mut include = PathBuf::from(lib);
    include.set_file_name("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(include)
        // Warnings of libtorch's headers are not ours to mend.
        .warnings(false)
        .file("src/kernels.cpp")
        .compile("vae_kernels");
}
