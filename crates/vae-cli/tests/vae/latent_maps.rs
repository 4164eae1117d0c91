//! Latent maps and codes, from training to every command.

use std::fs;

use crate::common::{Workplace, metrics, stderr};

/// A model with latent maps of 3×3 places for images of 12×12 pixels.
const NETWORK: &str = "latent_shape = [3, 3, 3]
[model.network.conv]
channels = [6, 8]
strides = [2, 2]
decoder_channels = [8, 6]
decoder_strides = [2, 2]
";

const CODES: &str = "prior = 'uniform_codes'
[model.posterior.finite_scalar]
levels = [5, 4, 3]
[objective]
regularizer = 'none'
";

/// A workplace with the config `map.toml`.
fn workplace(codes: bool) -> Workplace {
    let workplace = Workplace::new();
    let (model, rest) = NETWORK.split_once('\n').expect("two lines");
    let (prior, codes) = match codes {
        true => CODES.split_once('\n').expect("two lines"),
        false => ("", ""),
    };
    let text = format!(
        "[dataset.idx]\nfolder = 'data'\n[model]\n{model}\n{prior}\n{rest}{codes}[training]\nepochs = 2\n\
         batch_size = 16\n"
    );
    fs::write(workplace.path("map.toml"), text).expect("written");
    workplace
}

fn succeeds(workplace: &Workplace, args: &[&str]) {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
}

#[test]
fn every_command_knows_maps_and_codes() {
    for codes in [false, true] {
        let workplace = workplace(codes);
        succeeds(&workplace, &["train", "map.toml", "--out", "run"]);
        for args in [
            &["sample", "run"][..],
            &["reconstruct", "run"],
            &["interpolate", "run", "test:0", "test:1"],
            &["traverse", "run", "test:0", "--rows", "4"],
            &["manifold", "run", "--size", "3"],
            &["arithmetic", "run", "test:0 - test:1 + test:2"],
            &["plot", "run", "latents"],
            &["plot", "run", "dimensions"],
        ] {
            succeeds(&workplace, &[args, &["--out", "p.png"]].concat());
        }
        succeeds(&workplace, &["encode", "run", "--out", "z.csv"]);
        let table = fs::read_to_string(workplace.path("z.csv")).expect("a table");
        let row = table.lines().nth(1).expect("a row");
        if codes {
            // Levels of the last latent: −1, 0, 1.
            let header: Vec<&str> = table.lines().next().expect("a header").split(',').collect();
            let last = header
                .iter()
                .position(|name| *name == "mean_26")
                .expect("a column");
            let value: f64 = row
                .split(',')
                .nth(last)
                .expect("a value")
                .parse()
                .expect("a number");
            assert!([-1.0, 0.0, 1.0].contains(&value), "{row}");
        }
        for record in metrics(&workplace.path("run")) {
            let has_use = record["code_perplexity"]
                .as_f64()
                .is_some_and(|n| (1.0..=60.0).contains(&n))
                && record["codes_in_use"]
                    .as_f64()
                    .is_some_and(|n| (1.0..=60.0).contains(&n));
            assert_eq!(
                has_use,
                codes && record["split"] == "validation",
                "{record}"
            );
        }
        succeeds(&workplace, &["decode", "run", "z.csv", "--out", "p.png"]);
        succeeds(&workplace, &["score", "run", "--out", "s.csv"]);
        succeeds(&workplace, &["eval", "run", "--samples", "3"]);
        for format in ["onnx", "torchscript"] {
            succeeds(
                &workplace,
                &["export", "run", "--format", format, "--out", format],
            );
        }
    }
}

#[test]
fn a_resumed_run_is_the_one_that_was_never_stopped() {
    for codes in [false, true] {
        let workplace = workplace(codes);
        succeeds(&workplace, &["train", "map.toml", "--out", "whole"]);
        succeeds(
            &workplace,
            &["train", "map.toml", "--out", "half", "--epochs", "1"],
        );
        succeeds(&workplace, &["train", "--resume", "half", "--epochs", "2"]);
        assert_eq!(
            metrics(&workplace.path("half")),
            metrics(&workplace.path("whole"))
        );
        let weights = |run: &str| {
            let file = workplace
                .path(run)
                .join("checkpoints/last/weights.safetensors");
            fs::read(file).expect("weights")
        };
        assert_eq!(weights("half"), weights("whole"));
    }
}
