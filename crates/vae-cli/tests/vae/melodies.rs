//! Melodies: from a folder of MIDI files to a run, and every command on it.

use std::fs;
use std::path::Path;

use crate::common::{Workplace, lines, stderr, stdout};
use serde_json::Value;
use vae_base::MelodySpec;
use vae_data::melodies::to_midi;
use vae_data::{DatasetConfig, Inputs};
use vae_sound::decode;

const CONFIG: &str = "
[dataset.melodies]
path = 'tunes'
transpose = 3
[model]
latent_dims = 3
likelihood = 'categorical'
network.recurrent = { embedding = 6, encoder_hidden = 8, decoder_hidden = 12, conductor = { hidden = 5 } }
[training]
epochs = 2
batch_size = 16
[pictures]
n_samples = 3
n_reconstructions = 2
n_traversals = 2
";

const SPEC: MelodySpec = MelodySpec {
    bars: 2,
    steps_per_bar: 16,
    meter: [4, 4],
};

/// A workplace with the config `melodies.toml` and 24 files of four bars in two folders.
fn workplace() -> Workplace {
    let workplace = Workplace::new();
    for number in 0..24_i64 {
        let folder = workplace
            .path("tunes")
            .join(["jigs", "reels"][(number % 2) as usize]);
        fs::create_dir_all(&folder).expect("created");
        let tokens: Vec<i64> = (0..64)
            .map(|step| match step % 4 {
                0 => 35 + (number * 7 + step * (number % 5 + 1)) % 20,
                2 if number % 3 == 0 => MelodySpec::REST,
                _ => MelodySpec::HOLD,
            })
            .collect();
        fs::write(
            folder.join(format!("{number}.mid")),
            to_midi(&SPEC, &tokens),
        )
        .expect("written");
    }
    fs::write(workplace.path("melodies.toml"), CONFIG).expect("written");
    workplace
}

fn succeeds(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// Seconds of a WAV file.
fn seconds(path: &Path) -> f64 {
    let file = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let sound = decode(&file, 600.0).expect("sound");
    sound.channels[0].len() as f64 / f64::from(sound.rate)
}

/// The windows of two bars of a MIDI file, without overlap.
fn n_windows(path: &Path) -> usize {
    let text = "[melodies]\npath = 'x'\nstride = 2\nmin_notes = 1\nmelody = 'skyline'";
    let config: DatasetConfig = toml::from_str(text).expect("a config");
    let item = config.item_spec().expect("a shape");
    let inputs = Inputs::open(&config, item, &[path.to_owned()], None);
    inputs.map_or(0, |inputs| inputs.n_images())
}

#[test]
fn a_run_of_melodies_is_trained_heard_seen_scored_and_searched() {
    let workplace = workplace();
    succeeds(&workplace, &["train", "melodies.toml", "--out", "run"]);
    for file in [
        "pictures/epoch-0002-samples.png",
        "pictures/epoch-0002-reconstructions.png",
        "pictures/epoch-0002-traversals.png",
        "sounds/epoch-0001-samples.wav",
        "sounds/epoch-0002-reconstructions.wav",
    ] {
        assert!(workplace.path("run").join(file).is_file(), "{file}");
    }
    assert!(!workplace.path("run/texts").exists());
    // Two bars at 120 quarters a minute last 4 s, with a quarter of a second to die away, and 0.15 s between two.
    let heard = seconds(&workplace.path("run/sounds/epoch-0002-samples.wav"));
    assert!((heard - 3.0 * 4.25 - 0.3).abs() < 0.01, "{heard}");
    let records = lines(&workplace.path("run/metrics.jsonl"));
    let last = records.last().expect("a record");
    assert_eq!(last["tokens"].as_f64(), Some(32.0), "{last}");

    let sample = [
        "sample",
        "run",
        "--count",
        "3",
        "--temperature",
        "0.5",
        "--top-p",
        "0.9",
    ];
    let named = succeeds(&workplace, &[&sample[..], &["--out", "heard/"]].concat());
    assert_eq!(named.lines().count(), 3 + 3 + 1, "{named}");
    assert!(workplace.path("heard/piano-rolls.png").is_file());
    assert!((seconds(&workplace.path("heard/sample-0002.wav")) - 4.25).abs() < 0.01);
    let midi = fs::read(workplace.path("heard/sample-0001.mid")).expect("written");
    assert!(midi.starts_with(b"MThd"));
    succeeds(&workplace, &[&sample[..], &["--out", "again/"]].concat());
    assert_eq!(
        fs::read(workplace.path("again/sample-0001.mid")).expect("written"),
        midi
    );
    for out in ["all.mid", "all.wav", "all.png", "all.npy"] {
        succeeds(&workplace, &[&sample[..], &["--out", out]].concat());
        assert!(workplace.path(out).is_file(), "{out}");
    }
    let each = succeeds(&workplace, &[&sample[..], &["--each", "each/"]].concat());
    assert_eq!(each.lines().count(), 9, "{each}");

    succeeds(
        &workplace,
        &["reconstruct", "run", "--count", "2", "--out", "pairs/"],
    );
    assert!(workplace.path("pairs/0002-reconstruction.mid").is_file());
    // The original of a file is the file.
    let input = "tunes/jigs/6.mid#1";
    succeeds(&workplace, &["reconstruct", "run", input, "--out", "own/"]);
    let own = workplace.path("own/0001-original.mid");
    assert_eq!(n_windows(&own), 1);
    assert_eq!(n_windows(&workplace.path("tunes/jigs/6.mid")), 2);
    succeeds(
        &workplace,
        &["reconstruct", "run", input, "--out", "own.png"],
    );

    let places = [
        "interpolate",
        "run",
        "test:0",
        "tunes/reels/5.mid#2",
        "--steps",
        "3",
    ];
    let named = succeeds(&workplace, &[&places[..], &["--out", "morph/"]].concat());
    assert_eq!(named.lines().count(), 2 * 4 + 1, "{named}");
    let morph = seconds(&workplace.path("morph/morph.wav"));
    assert!((morph - 3.0 * 4.25 - 0.3).abs() < 0.01, "{morph}");
    succeeds(
        &workplace,
        &[
            "traverse", "run", "--rows", "2", "--steps", "3", "--out", "rows/",
        ],
    );
    assert_eq!(
        fs::read_dir(workplace.path("rows")).expect("made").count(),
        5
    );

    succeeds(&workplace, &["encode", "run", "--out", "latents.csv"]);
    succeeds(
        &workplace,
        &["decode", "run", "latents.csv", "--out", "decoded/"],
    );
    let table = fs::read_to_string(workplace.path("latents.csv")).expect("written");
    let n = table.lines().count() - 1;
    let decoded = walk(&workplace.path("decoded"));
    assert_eq!(
        decoded.len(),
        3 * n,
        "a picture, a sound and a MIDI file of each"
    );
    let scored = succeeds(
        &workplace,
        &["score", "run", "--out", "scores.csv", "--samples", "5"],
    );
    assert!(
        scored.contains("perplexity") || !scored.is_empty(),
        "{scored}"
    );
    let found = succeeds(
        &workplace,
        &["neighbors", "run", input, "--out", "near.png"],
    );
    assert!(found.contains(".mid#"), "{found}");

    let report = succeeds(
        &workplace,
        &[
            "eval",
            "run",
            "--only",
            "likelihood",
            "--samples",
            "5",
            "--json",
        ],
    );
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let text = report.to_string();
    assert!(text.contains("melodies of 32 steps"), "{text}");
    for name in [
        "perplexity",
        "token_accuracy_teacher_forced",
        "token_accuracy_free_running",
        "whole_items_free_running",
        "note_accuracy_free_running",
    ] {
        assert!(text.contains(name), "{name}: {text}");
    }

    let said = workplace.error(&["sample", "run", "--out", "a.txt"], 1);
    assert!(said.contains("these items are no texts"), "{said}");
    let said = workplace.error(
        &[
            "interpolate",
            "run",
            "tunes/jigs/6.mid",
            "test:0",
            "--out",
            "a.png",
        ],
        1,
    );
    assert!(
        said.contains("3 melodies, expected at most 1 here; FILE#5"),
        "{said}"
    );
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(walk(&path)),
            false => files.push(path),
        }
    }
    files
}

#[test]
fn a_resumed_run_is_the_one_that_was_never_stopped() {
    let workplace = workplace();
    succeeds(&workplace, &["train", "melodies.toml", "--out", "whole"]);
    succeeds(
        &workplace,
        &["train", "melodies.toml", "--out", "half", "--epochs", "1"],
    );
    succeeds(&workplace, &["train", "--resume", "half", "--epochs", "2"]);
    let [whole, half] = ["whole", "half"].map(|run| {
        let records = lines(&workplace.path(run).join("metrics.jsonl"));
        let last = records.last().expect("a record").clone();
        ["loss", "elbo", "kl", "token_accuracy"].map(|name| last[name].clone())
    });
    assert_eq!(whole, half);
    for name in ["samples", "reconstructions"] {
        let file = format!("sounds/epoch-0002-{name}.wav");
        let [whole, half] = ["whole", "half"]
            .map(|run| fs::read(workplace.path(run).join(&file)).expect("written"));
        assert!(whole == half, "{file}");
    }
}

#[test]
fn midi_is_for_models_of_melodies() {
    let workplace = Workplace::new();
    workplace.train(&[], "run");
    for (out, said) in [
        ("a.mid", "WAV files are of models of sound"),
        (
            "a.wav",
            "or melodies ([dataset.melodies]), and this is one of images",
        ),
    ] {
        let error = workplace.error(&["sample", "run", "--out", out], 1);
        assert!(error.contains(said), "{error}");
    }
    let error = workplace.error(&["sample", "run", "--top-p", "0.5", "--out", "a.png"], 1);
    assert!(
        error.contains("--top-p: is for texts and melodies, and these items are images"),
        "{error}"
    );
}
