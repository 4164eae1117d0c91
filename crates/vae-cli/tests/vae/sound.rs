//! Models of sound, from training to every command.

use std::fs;
use std::path::Path;

use crate::common::{Workplace, metrics, stderr, stdout};
use vae_sound::{decode, wav};

/// Spectrograms of 16 bands and 16 frames.
const SPECTROGRAMS: &str = "[dataset.audio_folder]
path = 'recordings'
rate = 8000
seconds = 0.256
align = 'onset'
[dataset.audio_folder.spectrogram]
bands = 16
[model]
latent_dims = 3
[model.likelihood.gaussian]
sigma = 'learned'
[model.network.conv]
channels = [8, 8]
strides = [2, 2]
hidden = 16
decoder_channels = [8, 8]
decoder_strides = [2, 2]
[training]
epochs = 2
batch_size = 8
[pictures]
n_samples = 4
n_reconstructions = 2
";

/// Samples, and distances of their spectrograms.
const SAMPLES: &str = "[dataset.audio_folder]
path = 'recordings'
rate = 8000
seconds = 0.128
[model]
latent_dims = 3
[model.likelihood.spectral]
windows = [64, 256]
[model.network.conv1d]
channels = [8, 8]
strides = [4, 4]
hidden = 16
[training]
epochs = 2
batch_size = 8
[pictures]
n_samples = 4
n_reconstructions = 2
";

/// Forty tones in two folders.
fn workplace() -> Workplace {
    let workplace = Workplace::new();
    for (name, frequency) in [("high", 1500.0), ("low", 200.0)] {
        let folder = workplace.path("recordings").join(name);
        fs::create_dir_all(&folder).expect("created");
        for i in 0..20 {
            let step = (frequency + 20.0 * i as f32) * std::f32::consts::TAU / 8000.0;
            let tone: Vec<f32> = (0..3000).map(|t| 0.4 * (step * t as f32).sin()).collect();
            fs::write(folder.join(format!("{i}.wav")), wav::encode(&tone, 1, 8000))
                .expect("written");
        }
    }
    fs::write(workplace.path("mel.toml"), SPECTROGRAMS).expect("written");
    fs::write(workplace.path("wave.toml"), SAMPLES).expect("written");
    workplace
}

fn succeeds(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// The seconds of a WAV file.
fn seconds(path: &Path) -> f64 {
    let file = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let sound = decode(&file, 600.0).expect("sound");
    assert_eq!(sound.rate, 8000);
    sound.channels[0].len() as f64 / 8000.0
}

#[test]
fn a_model_of_spectrograms_is_heard_by_every_command() {
    let workplace = workplace();
    succeeds(&workplace, &["train", "mel.toml", "--out", "run"]);
    let sounds = workplace.path("run/sounds");
    // Four samples and two pairs, with pauses of 0.15 s.
    assert!((seconds(&sounds.join("epoch-0002-samples.wav")) - 4.0 * 0.256 - 0.45).abs() < 1e-3);
    assert!(
        (seconds(&sounds.join("epoch-0001-reconstructions.wav")) - 4.0 * 0.256 - 0.45).abs() < 1e-3
    );
    assert!(
        workplace
            .path("run/pictures/epoch-0002-samples.png")
            .is_file()
    );
    let events = fs::read_dir(workplace.path("run/events"))
        .expect("events")
        .next()
        .expect("a file");
    let events = fs::read(events.expect("a file").path()).expect("read");
    let has = |text: &[u8]| events.windows(text.len()).any(|part| part == text);
    assert!(has(b"sounds/samples") && has(b"audio/wav"));

    let named = succeeds(
        &workplace,
        &["sample", "run", "--count", "3", "--out", "sounds/"],
    );
    assert_eq!(named.lines().count(), 4, "{named}");
    for name in ["sample-0001.wav", "sample-0003.wav"] {
        assert!((seconds(&workplace.path("sounds").join(name)) - 0.256).abs() < 1e-6);
    }
    assert!(workplace.path("sounds/spectrograms.png").is_file());
    succeeds(
        &workplace,
        &["sample", "run", "--count", "3", "--out", "all.wav"],
    );
    assert!((seconds(&workplace.path("all.wav")) - 3.0 * 0.256 - 0.3).abs() < 1e-3);
    let again = fs::read(workplace.path("all.wav")).expect("read");
    succeeds(
        &workplace,
        &["sample", "run", "--count", "3", "--out", "all.wav"],
    );
    assert_eq!(
        again,
        fs::read(workplace.path("all.wav")).expect("read"),
        "the same seed"
    );

    succeeds(
        &workplace,
        &[
            "reconstruct",
            "run",
            "recordings/low/3.wav",
            "--out",
            "pairs",
        ],
    );
    for name in ["0001-original.wav", "0001-reconstruction.wav"] {
        assert!((seconds(&workplace.path("pairs").join(name)) - 0.256).abs() < 1e-6);
    }
    let places = [
        "interpolate",
        "run",
        "recordings/low/3.wav",
        "test:0",
        "--steps",
        "4",
    ];
    succeeds(&workplace, &[&places[..], &["--out", "morph"]].concat());
    assert!((seconds(&workplace.path("morph/step-004.wav")) - 0.256).abs() < 1e-6);
    assert!((seconds(&workplace.path("morph/morph.wav")) - 4.0 * 0.256 - 0.45).abs() < 1e-3);
    succeeds(
        &workplace,
        &[
            "traverse", "run", "test:0", "--dims", "2", "--steps", "3", "--out", "heard",
        ],
    );
    assert!((seconds(&workplace.path("heard/dim-002.wav")) - 3.0 * 0.256 - 0.3).abs() < 1e-3);

    succeeds(
        &workplace,
        &["encode", "run", "recordings/low", "--out", "latents.npy"],
    );
    succeeds(
        &workplace,
        &["decode", "run", "latents.npy", "--out", "decoded"],
    );
    assert!((seconds(&workplace.path("decoded/00000000.wav")) - 0.256).abs() < 1e-6);
    assert!(workplace.path("decoded/00000019.png").is_file());
    succeeds(
        &workplace,
        &["score", "run", "recordings/low", "--out", "scores.csv"],
    );
    succeeds(
        &workplace,
        &[
            "neighbors",
            "run",
            "recordings/low/3.wav",
            "--out",
            "near.png",
        ],
    );
    let report = succeeds(&workplace, &["eval", "run", "--json", "--samples", "5"]);
    for name in [
        "\"log_spectral_distance\"",
        "\"log_spectral_distance_pca\"",
        "\"class_accuracy_sound\"",
        "\"class_accuracy_reconstructions\"",
        "\"frechet_sound_samples\"",
        "\"nll\"",
    ] {
        assert!(report.contains(name), "{name} in {report}");
    }
    assert!(!report.contains("\"mse\""), "bytes of pixels: {report}");
    let said = succeeds(&workplace, &["data", "check", "mel.toml"]);
    assert!(said.is_empty(), "no bad files: {said}");
}

#[test]
fn a_model_of_samples_is_heard_too() {
    let workplace = workplace();
    succeeds(&workplace, &["train", "wave.toml", "--out", "run"]);
    assert!(
        (seconds(&workplace.path("run/sounds/epoch-0002-samples.wav")) - 4.0 * 0.128 - 0.45).abs()
            < 1e-3
    );
    succeeds(
        &workplace,
        &["sample", "run", "--count", "2", "--out", "sounds"],
    );
    assert!((seconds(&workplace.path("sounds/sample-0002.wav")) - 0.128).abs() < 1e-6);
    succeeds(
        &workplace,
        &["reconstruct", "run", "--count", "2", "--out", "pairs.wav"],
    );
    let report = succeeds(&workplace, &["eval", "run", "--json"]);
    assert!(report.contains("\"log_spectral_distance\""), "{report}");
    assert!(
        report.contains("is a distance and no likelihood"),
        "{report}"
    );
}

#[test]
fn a_resumed_run_of_sound_equals_one_without_a_break() {
    let workplace = workplace();
    for config in ["mel.toml", "wave.toml"] {
        succeeds(&workplace, &["train", config, "--out", "whole"]);
        succeeds(
            &workplace,
            &["train", config, "--out", "parts", "--epochs", "1"],
        );
        succeeds(&workplace, &["train", "--resume", "parts", "--epochs", "2"]);
        assert_eq!(
            metrics(&workplace.path("whole")),
            metrics(&workplace.path("parts")),
            "{config}"
        );
        for name in [
            "checkpoints/last/weights.safetensors",
            "sounds/epoch-0002-samples.wav",
            "sounds/epoch-0002-reconstructions.wav",
        ] {
            let read = |run: &str| fs::read(workplace.path(run).join(name)).expect("read");
            assert_eq!(read("whole"), read("parts"), "{config}: {name}");
        }
        for run in ["whole", "parts"] {
            fs::remove_dir_all(workplace.path(run)).expect("removed");
        }
    }
}

#[test]
fn what_sound_cannot_have_is_said_in_a_line() {
    let workplace = workplace();
    let wrong = "model.likelihood=bernoulli";
    let said = workplace.error(&["train", "wave.toml", "--set", wrong, "--out", "run"], 1);
    assert!(said.contains("spectral would fit"), "{said}");
    let said = workplace.error(&["train", "mel.toml", "--set", wrong, "--out", "run"], 1);
    assert!(said.contains("gaussian"), "{said}");
    let wrong = "model.likelihood={spectral={}}";
    let said = workplace.error(&["train", "mel.toml", "--set", wrong, "--out", "run"], 1);
    assert!(
        said.contains("model.likelihood.spectral: it is for samples of sound"),
        "{said}"
    );
    succeeds(&workplace, &["train", "small.toml", "--out", "pictures"]);
    let said = workplace.error(&["sample", "pictures", "--out", "a.wav"], 1);
    assert!(said.contains("WAV files are of models of sound"), "{said}");
    let said = workplace.error(&["eval", "pictures", "--only", "sound"], 1);
    assert!(said.contains("needs a model of sound"), "{said}");
}
