//! The transforms against the numbers of librosa (golden/make.py).

use std::f32::consts::TAU;
use std::fs;

use realfft::num_complex::Complex;
use vae_base::Spectrogram;
use vae_sound::{GriffinLim, LogMel, MelBank, Stft};

const WINDOW: usize = 512;
const HOP: usize = 128;
const N_FRAMES: usize = 33;

fn golden(name: &str) -> Vec<f32> {
    let path = format!("{}/tests/golden/{name}.f32", env!("CARGO_MANIFEST_DIR"));
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    bytes
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect()
}

fn largest_difference(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    found
        .iter()
        .zip(wanted)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn mel_bands_are_those_of_librosa() {
    for (name, bank) in [
        ("mel-8000-512-40", MelBank::new(8000, 512, 40, 0.0, 4000.0)),
        (
            "mel-22050-512-32-50-8000",
            MelBank::new(22_050, 512, 32, 50.0, 8000.0),
        ),
    ] {
        let weights: Vec<f32> = (0..bank.n_bands())
            .flat_map(|band| bank.weights(band))
            .collect();
        let wanted = golden(name);
        let largest = wanted.iter().copied().fold(0.0, f32::max);
        assert!(
            largest_difference(&weights, &wanted) < 1e-6 * largest.max(1.0),
            "{name}"
        );
    }
}

#[test]
fn the_transform_and_its_inverse_are_those_of_librosa() {
    let stft = Stft::new(WINDOW, HOP);
    let frames = stft.transform(&golden("signal"), N_FRAMES);
    let real: Vec<f32> = frames.iter().map(|value| value.re).collect();
    let imag: Vec<f32> = frames.iter().map(|value| value.im).collect();
    assert!(largest_difference(&real, &golden("stft-real")) < 1e-4);
    assert!(largest_difference(&imag, &golden("stft-imag")) < 1e-4);

    let turn = Complex::from_polar(1.0, 0.3);
    let last = (stft.n_bins() - 1) as f32;
    let changed: Vec<_> = frames
        .iter()
        .enumerate()
        .map(|(i, value)| value * turn * (1.0 - (i % stft.n_bins()) as f32 / last))
        .collect();
    let found = stft.inverse(&changed, 4096);
    assert!(largest_difference(&found, &golden("istft-of-changed")) < 1e-5);
}

#[test]
fn a_log_mel_spectrogram_is_that_of_librosa() {
    let spec = Spectrogram {
        rate: 8000,
        window: WINDOW as u32,
        hop: HOP as u32,
        low: 0.0,
        high: 4000.0,
        floor: -60.0,
    };
    let found = LogMel::new(spec, 40).spectrogram(&golden("signal"), N_FRAMES);
    assert!(largest_difference(&found, &golden("log-mel")) < 0.01);
}

#[test]
fn griffin_lim_is_that_of_librosa() {
    let stft = Stft::new(WINDOW, HOP);
    let frames = stft.transform(&golden("signal"), N_FRAMES);
    let magnitudes: Vec<f32> = frames.iter().map(|value| value.norm()).collect();
    let griffin_lim = GriffinLim {
        n_iterations: 4,
        momentum: 0.99,
        seed: 7,
    };
    let found = griffin_lim.run(&stft, &magnitudes, 4096);
    let wanted = golden("griffin-lim-4");
    // Phases of values near 0 depend on the last bits of f32.
    let share = |found: &[f32]| {
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
        let difference = square(&mut found.iter().zip(&wanted).map(|(a, b)| a - b));
        (difference / square(&mut wanted.iter().copied())).sqrt()
    };
    assert!(share(&found) < 0.02, "{}", share(&found));
    let without = GriffinLim {
        momentum: 0.0,
        ..griffin_lim
    };
    assert!(share(&without.run(&stft, &magnitudes, 4096)) > 0.05);
}

#[test]
fn the_signal_is_what_its_formula_says() {
    // So that the golden files are known to be of a sweep.
    let t = 1000.0 / 8000.0;
    let sweep = 0.4 * (TAU * (200.0 * t + 900.0 * t * t)).sin() * (-2.0 * t).exp();
    let tone = 0.05 * (TAU * 3100.0 * t).sin();
    assert!((golden("signal")[1000] - sweep - tone).abs() < 1e-4);
}
