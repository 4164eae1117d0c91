//! Models with a condition, from training to every command.

use std::fs;

use crate::common::{SIDE, Workplace, metrics, stderr, stdout};
use image::{GrayImage, Luma};
use serde_json::Value;

const CLASSES: &[&str] = &["--set", "model.condition.classes=true"];

fn succeeds(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn image(workplace: &Workplace, name: &str) -> GrayImage {
    let path = workplace.path(name);
    image::open(&path).expect(name).into_luma8()
}

/// A run of a model whose condition is the image's class, one of seven.
fn workplace() -> Workplace {
    let workplace = Workplace::new();
    workplace.train(CLASSES, "run");
    workplace
}

#[test]
fn new_images_come_in_a_row_for_each_class_or_of_the_one_asked_for() {
    let workplace = workplace();
    let side = SIDE as u32;
    succeeds(
        &workplace,
        &["sample", "run", "--plain", "--out", "rows.png"],
    );
    let rows = image(&workplace, "rows.png");
    assert_eq!(rows.dimensions(), (8 * side + 14, 7 * side + 12));
    succeeds(
        &workplace,
        &[
            "sample",
            "run",
            "--condition",
            "3",
            "--count",
            "8",
            "--grid",
            "1x8",
            "--plain",
            "--out",
            "threes.png",
        ],
    );
    let threes = image(&workplace, "threes.png");
    assert_eq!(threes.dimensions(), (8 * side + 14, side));
    // Equal to the fourth row, which has the same noise.
    let fourth =
        image::imageops::crop_imm(&rows, 0, 3 * (side + 2), 8 * side + 14, side).to_image();
    assert_eq!(fourth, threes);
    assert_ne!(
        image::imageops::crop_imm(&rows, 0, 0, 8 * side + 14, side).to_image(),
        threes
    );
    // Training also draws them after each epoch.
    let pictures = fs::read_dir(workplace.path("run/pictures")).expect("pictures");
    assert!(pictures.count() >= 6);
}

#[test]
fn an_unknown_condition_is_refused_with_the_known_ones() {
    let workplace = workplace();
    let said = workplace.error(
        &[
            "sample",
            "run",
            "--condition",
            "9",
            "--out",
            "p.png",
            "--device",
            "cpu",
        ],
        1,
    );
    assert!(
        said.contains("it knows classes: 0, 1, 2, 3, 4, 5, 6"),
        "{said}"
    );
    let said = workplace.error(
        &[
            "encode",
            "run",
            "--condition",
            "Smiling=1",
            "--out",
            "z.csv",
        ],
        1,
    );
    assert!(
        said.contains("--condition") && said.contains("it knows classes"),
        "{said}"
    );
    workplace.train(&[], "plain");
    let said = workplace.error(&["score", "plain", "--condition", "3", "--out", "s.csv"], 1);
    assert!(said.contains("this model has no condition"), "{said}");
    let said = workplace.error(
        &[
            "train",
            "small.toml",
            "--device",
            "cpu",
            "--set",
            "model.condition.attributes=[\"Smiling\"]",
        ],
        1,
    );
    assert!(
        said.contains("there is no attribute Smiling; these images have no table"),
        "{said}"
    );
}

#[test]
fn every_command_takes_the_condition_from_the_data_or_by_the_option() {
    let workplace = workplace();
    let side = SIDE as u32;
    GrayImage::from_fn(side, side, |x, _| Luma([if x % 7 < 2 { 230 } else { 5 }]))
        .save(workplace.path("a.png"))
        .expect("written");
    let picture = |args: &[&str]| {
        succeeds(&workplace, &[args, &["--out", "p.png"]].concat());
        image(&workplace, "p.png")
    };
    for args in [
        &["reconstruct", "run"][..],
        &["reconstruct", "run", "a.png"],
        &["interpolate", "run", "test:0", "a.png"],
        &["traverse", "run", "test:1"],
        &["manifold", "run", "--size", "3"],
        &["arithmetic", "run", "test:0 - test:1 + test:2"],
        &["interpolate", "run", "prior:1", "z:0.5,0"],
    ] {
        let own = picture(args);
        let six = picture(&[args, &["--condition", "6"]].concat());
        let five = picture(&[args, &["--condition", "5"]].concat());
        assert_eq!(own.dimensions(), six.dimensions(), "{args:?}");
        assert_ne!(six, five, "{args:?}");
    }
    // Test images have their class as condition: that of the first is 0.
    let first = |condition: &[&str]| {
        let args = ["reconstruct", "run", "--count", "1"];
        picture(&[&args[..], condition].concat())
    };
    assert_eq!(first(&[]), first(&["--condition", "0"]));
    assert_ne!(first(&[]), first(&["--condition", "unknown"]));

    let table = |args: &[&str]| {
        let file = workplace.path("t.csv");
        succeeds(&workplace, &[args, &["--out", "t.csv"]].concat());
        fs::read_to_string(file).expect("a table")
    };
    for command in ["encode", "score"] {
        let own = table(&[command, "run"]);
        let four = table(&[command, "run", "--condition", "4"]);
        let (own, four): (Vec<_>, Vec<_>) = (own.lines().collect(), four.lines().collect());
        assert_eq!((own.len(), four.len()), (21, 21));
        for (i, (own, four)) in own.iter().zip(&four).enumerate().skip(1) {
            // The header, then images of the classes 0, 1, … 6, 0, …
            assert_eq!(own == four, (i - 1) % 7 == 4, "{command}: {i}");
        }
    }
    table(&["encode", "run"]);
    succeeds(
        &workplace,
        &[
            "decode",
            "run",
            "t.csv",
            "--condition",
            "2",
            "--out",
            "p.png",
        ],
    );
    let report: Value = serde_json::from_str(&succeeds(
        &workplace,
        &["eval", "run", "--json", "--samples", "3"],
    ))
    .expect("JSON");
    assert!(report.to_string().contains("\"elbo\""));
    succeeds(&workplace, &["neighbors", "run", "a.png", "--out", "p.png"]);
    succeeds(&workplace, &["plot", "run", "latents", "--out", "p.png"]);
    succeeds(&workplace, &["plot", "run", "dimensions", "--out", "p.png"]);
    succeeds(&workplace, &["attribute", "run", "learn", "class=3"]);
    succeeds(
        &workplace,
        &[
            "attribute",
            "run",
            "strip",
            "class=3",
            "test:0",
            "test:1",
            "--out",
            "p.png",
        ],
    );
    succeeds(
        &workplace,
        &["export", "run", "--format", "onnx", "--out", "exported"],
    );
    let said = workplace.error(
        &[
            "export",
            "run",
            "--format",
            "onnx",
            "--out",
            "e2",
            "--condition",
            "3",
        ],
        1,
    );
    assert!(said.contains("--condition"), "{said}");
}

#[test]
fn a_resumed_run_is_the_one_that_was_never_stopped() {
    let workplace = Workplace::new();
    workplace.train(CLASSES, "whole");
    workplace.train(&[CLASSES, &["--epochs", "1"]].concat(), "half");
    let output = workplace.vae(&["train", "--resume", "half", "--epochs", "2"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        metrics(&workplace.path("half")),
        metrics(&workplace.path("whole"))
    );
    let weights = |run: &str| {
        fs::read(
            workplace
                .path(run)
                .join("checkpoints/last/weights.safetensors"),
        )
        .expect("weights")
    };
    assert_eq!(weights("half"), weights("whole"));
}
