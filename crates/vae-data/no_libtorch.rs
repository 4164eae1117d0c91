// The build script of vae-data and vae-model. It says what to do when there is no libtorch, before
// torch-sys, which fails less helpfully, has got that far.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["LIBTORCH", "LIBTORCH_USE_PYTORCH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // The three places in which torch-sys looks.
    let found = env::var_os("LIBTORCH").is_some()
        || env::var_os("LIBTORCH_USE_PYTORCH").is_some()
        || Path::new("/usr/lib/libtorch.so").exists();
    if !found {
        println!(
            "cargo::error=libtorch is not here yet. Run `cargo xtask libtorch` in the workspace once \
             (or set LIBTORCH to a libtorch 2.11 folder), then build again."
        );
    }
}
