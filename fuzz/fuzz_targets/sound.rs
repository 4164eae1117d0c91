#![no_main]

#[allow(dead_code)]
#[path = "../../crates/vae-cli/tests/mutants/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    targets::read_sound(bytes);
});
