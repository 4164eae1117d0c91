//! Models with a codebook: which codes are in use, codes as tables, and back to images.

use std::fs;

use crate::common::{Workplace, metrics, stderr, stdout};
use serde_json::Value;

const CONFIG: &str = "[dataset.idx]
folder = 'data'
[model]
latent_shape = [4, 3, 3]
prior = 'uniform_codes'
[model.posterior.vector_quantized]
codes = 7
heads = 2
depth = 2
[model.network.conv]
channels = [6, 8]
strides = [2, 2]
decoder_channels = [8, 6]
decoder_strides = [2, 2]
[objective]
regularizer = 'none'
[training]
epochs = 2
batch_size = 16
";

fn trained() -> Workplace {
    let workplace = Workplace::new();
    fs::write(workplace.path("vq.toml"), CONFIG).expect("written");
    succeeds(&workplace, &["train", "vq.toml", "--out", "run"]);
    workplace
}

fn succeeds(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn fails(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(args);
    assert!(!output.status.success(), "{args:?}");
    stderr(&output)
}

#[test]
fn codes_become_tables_and_images_again() {
    let workplace = trained();
    succeeds(&workplace, &["encode", "run", "--out", "z.npy"]);
    succeeds(
        &workplace,
        &["decode", "run", "z.npy", "--out", "wanted.png"],
    );
    let read = |name: &str| fs::read(workplace.path(name)).expect("a file");
    for ending in ["npy", "csv", "parquet", "safetensors"] {
        let file = format!("codes.{ending}");
        succeeds(&workplace, &["encode", "run", "--codes", "--out", &file]);
        succeeds(
            &workplace,
            &["decode", "run", &file, "--codes", "--out", "found.png"],
        );
        assert!(read("found.png") == read("wanted.png"), "{ending}");
    }
    let header = String::from_utf8_lossy(&read("codes.npy")[..80]).into_owned();
    assert!(
        header.contains("'<i8'") && header.contains("(20, 36)"),
        "{header}"
    );
    let table = fs::read_to_string(workplace.path("codes.csv")).expect("a table");
    let first: Vec<&str> = table.lines().next().expect("a header").split(',').collect();
    assert_eq!(
        (first[0], first[1], first[36]),
        ("file", "code_0", "code_35")
    );

    fs::write(workplace.path("codes.csv"), table.replacen(",0,", ",7,", 1)).expect("written");
    let error = fails(
        &workplace,
        &["decode", "run", "codes.csv", "--codes", "--out", "x.png"],
    );
    assert!(
        error.contains("found codes from 0 to 7, expected i64 [N, 36] from 0 to 6"),
        "{error}"
    );
    let error = fails(
        &workplace,
        &["decode", "run", "z.npy", "--codes", "--out", "x.png"],
    );
    assert!(
        error.contains("found numbers with a fraction, expected codes"),
        "{error}"
    );
}

#[test]
fn use_of_codes_is_counted_and_drawn() {
    let workplace = trained();
    let json = succeeds(
        &workplace,
        &["codes", "run", "--out", "codes.png", "--json"],
    );
    let said: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(said["n_images"], 20);
    assert_eq!(said["codes_of_an_image"], 36);
    assert_eq!(said["n_codebooks"], 4);
    let bits = said["bits_per_image"].as_f64().expect("a number");
    assert!((bits - 36.0 * 7_f64.log2()).abs() < 1e-9);
    let by_frequency = said["entropy_bits_per_image"].as_f64().expect("a number");
    assert!(by_frequency > 0.0 && by_frequency <= bits);
    let counts = said["counts"].as_array().expect("codebooks");
    for of_book in counts {
        let sum: i64 = of_book
            .as_array()
            .expect("codes")
            .iter()
            .filter_map(Value::as_i64)
            .sum();
        assert_eq!(sum, 20 * 9);
    }
    assert!(image::open(workplace.path("codes.png")).is_ok());
    let words = succeeds(&workplace, &["codes", "run"]);
    assert!(
        words.contains("codes of an image     36, each one of 7"),
        "{words}"
    );
    for record in metrics(&workplace.path("run")) {
        assert!(
            record["commitment_loss"].as_f64().is_some_and(|x| x >= 0.0),
            "{record}"
        );
    }

    workplace.train(&[], "plain");
    for args in [
        &["codes", "plain"][..],
        &["encode", "plain", "--codes", "--out", "x.csv"],
    ] {
        let error = fails(&workplace, args);
        assert!(
            error.contains(
                "the latents of this model are not codes: its posterior is diagonal_gaussian"
            ),
            "{error}"
        );
    }
}

#[test]
fn every_command_works_or_says_why_not() {
    let workplace = trained();
    for args in [
        &["sample", "run"][..],
        &["reconstruct", "run"],
        &["interpolate", "run", "test:0", "test:1"],
        &["traverse", "run", "test:0", "--rows", "4"],
        &["manifold", "run", "--size", "3"],
        &["arithmetic", "run", "test:0 - test:1 + test:2"],
        &["plot", "run", "latents"],
    ] {
        succeeds(&workplace, &[args, &["--out", "p.png"]].concat());
    }
    succeeds(&workplace, &["score", "run", "--out", "s.csv"]);
    succeeds(&workplace, &["eval", "run", "--samples", "3"]);
    for format in ["onnx", "torchscript"] {
        succeeds(
            &workplace,
            &["export", "run", "--format", format, "--out", format],
        );
    }
    succeeds(
        &workplace,
        &["train", "vq.toml", "--out", "half", "--epochs", "1"],
    );
    succeeds(&workplace, &["train", "--resume", "half", "--epochs", "2"]);
    let weights = |run: &str| {
        let file = workplace
            .path(run)
            .join("checkpoints/last/weights.safetensors");
        fs::read(file).expect("weights")
    };
    assert!(weights("half") == weights("run"));
}
