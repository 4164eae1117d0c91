//! Texts: from a file of lines to a run, and every command on it.

use std::fs;

use crate::common::{Workplace, lines, metrics, stderr, stdout};
use serde_json::Value;

const CONFIG: &str = "
[dataset.text]
path = 'words.txt'
max_length = 8
[model]
latent_dims = 2
likelihood = 'categorical'
network.recurrent = { embedding = 6, encoder_hidden = 8, decoder_hidden = 12, word_dropout = 0.3 }
[training]
epochs = 2
batch_size = 16
[pictures]
n_samples = 3
n_reconstructions = 2
";

/// A workplace with the config `text.toml` and its lines.
fn workplace() -> Workplace {
    let workplace = Workplace::new();
    let words: String = (0..120)
        .map(|i| {
            let word: String = (0..2 + i % 5)
                .map(|j| char::from(b'a' + ((i * 7 + j * 3) % 9) as u8))
                .collect();
            format!("{word} {}\n", i % 3)
        })
        .collect();
    fs::write(workplace.path("words.txt"), words).expect("written");
    fs::write(workplace.path("text.toml"), CONFIG).expect("written");
    workplace
}

fn succeeds(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn json(workplace: &Workplace, args: &[&str]) -> Value {
    let said = succeeds(workplace, &[args, &["--json"]].concat());
    serde_json::from_str(&said).expect("JSON")
}

fn texts(value: &Value) -> Vec<&str> {
    let list = value["texts"].as_array().expect("a list");
    list.iter().filter_map(Value::as_str).collect()
}

#[test]
fn a_run_of_texts_is_trained_sampled_scored_and_searched() {
    let workplace = workplace();
    succeeds(&workplace, &["train", "text.toml", "--out", "run"]);
    let page = fs::read_to_string(workplace.path("run/texts/epoch-0002.txt")).expect("texts");
    assert_eq!(page.lines().filter(|line| line.starts_with('#')).count(), 3);
    assert!(
        fs::read_dir(workplace.path("run/pictures"))
            .expect("a folder")
            .next()
            .is_none()
    );
    let records = lines(&workplace.path("run/metrics.jsonl"));
    let last = records.last().expect("a record");
    assert!(
        last["token_accuracy"].as_f64().expect("a number") > 0.0,
        "{last}"
    );
    assert!(last.get("mse").is_none_or(Value::is_null), "{last}");

    // Drawn by the seed; with the temperature 0 there is nothing to draw but latents.
    let args = ["sample", "run", "--count", "4", "--seed", "3"];
    let drawn = succeeds(&workplace, &args);
    assert_eq!(drawn.lines().count(), 4);
    assert_eq!(drawn, succeeds(&workplace, &args));
    let cold = [&args[..], &["--temperature", "0"]].concat();
    let narrow = [&args[..], &["--top-p", "0.000001"]].concat();
    assert_eq!(succeeds(&workplace, &cold), succeeds(&workplace, &narrow));
    let found = json(&workplace, &args);
    let listed: Vec<String> = texts(&found).into_iter().map(vae_base::one_line).collect();
    assert_eq!(listed.join("\n") + "\n", drawn);
    let said = succeeds(&workplace, &[&args[..], &["--out", "new.txt"]].concat());
    assert_eq!(said.trim_end(), "new.txt");
    assert_eq!(
        fs::read_to_string(workplace.path("new.txt")).expect("a file"),
        drawn
    );

    let pairs = succeeds(
        &workplace,
        &["reconstruct", "run", "abc 1", "text:words.txt"],
    );
    let pairs: Vec<&str> = pairs.lines().collect();
    assert_eq!((pairs.len(), pairs[0]), (4, "abc 1"));
    assert!(pairs[1].starts_with("    "));
    let found = json(&workplace, &["reconstruct", "run", "--count", "3"]);
    assert_eq!(found["texts"].as_array().expect("pairs").len(), 3);

    let way = ["interpolate", "run", "abc 1", "test:0", "--steps", "5"];
    assert_eq!(succeeds(&workplace, &way).lines().count(), 5);
    let sum = json(&workplace, &["arithmetic", "run", "abc 1 - abd 1 + z:0,1"]);
    assert_eq!(texts(&sum).len(), 4);

    succeeds(&workplace, &["encode", "run", "--out", "latents.csv"]);
    succeeds(
        &workplace,
        &["decode", "run", "latents.csv", "--out", "decoded.txt"],
    );
    let decoded = fs::read_to_string(workplace.path("decoded.txt")).expect("a file");
    assert_eq!(decoded.lines().count(), 12);
    let latents = fs::read_to_string(workplace.path("latents.csv")).expect("a file");
    // The column `file` has the texts.
    let first = latents
        .lines()
        .nth(1)
        .expect("a row")
        .split(',')
        .next()
        .expect("a text");
    let all = fs::read_to_string(workplace.path("words.txt")).expect("a file");
    assert!(all.lines().any(|line| line == first), "{first}");

    let scored = json(
        &workplace,
        &["score", "run", "--out", "scores.csv", "--samples", "5"],
    );
    let perplexity = scored["perplexity"].as_f64().expect("a number");
    assert!(perplexity > 1.0 && perplexity < 40.0, "{scored}");
    let table = fs::read_to_string(workplace.path("scores.csv")).expect("a file");
    assert_eq!(table.lines().next(), Some("file,score,tokens,perplexity"));
    succeeds(
        &workplace,
        &[
            "score",
            "run",
            "abc 1",
            "--out",
            "one.csv",
            "--values",
            "values.npy",
        ],
    );

    let near = json(&workplace, &["neighbors", "run", "abc 1", "--count", "3"]);
    assert_eq!(near["neighbors"].as_array().expect("a list").len(), 3);
    let report = json(&workplace, &["eval", "run", "--samples", "5"]);
    assert!(report["sections"].get("pictures").is_none(), "{report}");
    let measures = report["sections"]["likelihood"]["measures"]
        .as_array()
        .expect("a list");
    let names: Vec<_> = measures
        .iter()
        .filter_map(|measure| measure["name"].as_str())
        .collect();
    assert!(names.contains(&"perplexity"), "{names:?}");
    succeeds(&workplace, &["describe", "run"]);
    succeeds(
        &workplace,
        &[
            "export",
            "run",
            "--format",
            "torchscript",
            "--out",
            "exported",
        ],
    );
}

#[test]
fn what_is_no_text_or_no_picture_is_refused_with_what_would_fit() {
    let workplace = workplace();
    succeeds(
        &workplace,
        &["train", "text.toml", "--out", "run", "--epochs", "1"],
    );
    workplace.train(&["--epochs", "1"], "images");
    for (args, wanted) in [
        (
            &["sample", "run", "--out", "a.png"][..],
            "are written to a .txt file",
        ),
        (&["sample", "run", "--each", "a"], "these items are texts"),
        (&["sample", "run", "--top-p", "0"], "top-p: found 0"),
        (
            &["sample", "images", "--out", "a.txt"],
            "these items are no texts",
        ),
        (&["sample", "images"], "--out: is needed"),
        (
            &["sample", "images", "--out", "a.png", "--top-p", "0.9"],
            "--top-p: is for texts",
        ),
        (
            &["interpolate", "images", "test:0", "test:1"],
            "--out: is needed",
        ),
        (
            &["interpolate", "run", "a", "b", "--gif", "a.gif"],
            "these items are texts",
        ),
        (
            &["neighbors", "run", "a", "--out", "a.png"],
            "which have no picture",
        ),
        (
            &["score", "run", "--out", "a.csv", "--picture", "a.png"],
            "which have no picture",
        ),
        (
            &["traverse", "run", "--out", "a.png"],
            "sequences of tokens, which have no picture",
        ),
        (
            &["manifold", "run", "--out", "a.png"],
            "sequences of tokens, which have no picture",
        ),
        (
            &["eval", "run", "--only", "pictures"],
            "these items are tokens",
        ),
        (
            &["export", "run", "--format", "onnx", "--out", "onnx"],
            "has no ONNX export; TorchScript supports it",
        ),
    ] {
        let output = workplace.vae(args);
        let said = stderr(&output);
        assert!(
            !output.status.success() && said.contains(wanted),
            "{args:?}: {said}"
        );
    }
}

#[test]
fn a_run_with_word_dropout_that_is_resumed_equals_one_in_a_piece() {
    let workplace = workplace();
    succeeds(
        &workplace,
        &["train", "text.toml", "--out", "whole", "--epochs", "2"],
    );
    succeeds(
        &workplace,
        &["train", "text.toml", "--out", "parts", "--epochs", "1"],
    );
    succeeds(&workplace, &["train", "--resume", "parts", "--epochs", "2"]);
    let of = |run: &str| metrics(&workplace.path(run));
    assert_eq!(of("whole"), of("parts"));
    let page = |run: &str| {
        let path = workplace.path(run).join("texts/epoch-0002.txt");
        fs::read_to_string(path).expect("texts")
    };
    assert_eq!(page("whole"), page("parts"));
}
