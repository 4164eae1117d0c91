//! Latents in levels, from training to every command.

use std::fs;

use crate::common::{Workplace, metrics, stderr};

/// A ladder whose levels have two and three latents.
const LADDER: &str = "[dataset.idx]
folder = 'data'
[model.network.mlp]
hidden = [16]
[model.topology.ladder]
levels = [2, 3]
hidden = 8
[objective.regularizer.kl.beta_schedule.warm_up]
steps = 3
[training]
epochs = 2
batch_size = 16
[checkpoints]
metric = 'kl_1'
";

/// A hierarchy of maps on the images of the workplace, of 12×12 pixels.
const HIERARCHY: &str = "[dataset.idx]
folder = 'data'
[model.network.top_down]
sizes = [1, 3, 6, 12]
widths = [8, 8, 4, 4]
blocks = [1, 2, 1, 0]
latents = [3, 1, 1, 0]
encoder_blocks = [0, 1, 0, 0]
[objective.regularizer.kl]
free_bits_per_group = 0.1
beta_schedule.by_group.steps = 3
[training]
epochs = 2
batch_size = 16
ema_decay = 0.9
clip.skip_above = 1e5
[pictures]
n_traversals = 1
[checkpoints]
metric = 'kl_at_3'
";

#[test]
fn every_command_takes_a_hierarchy_of_maps_as_one_vector() {
    let workplace = Workplace::new();
    fs::write(workplace.path("deep.toml"), HIERARCHY).expect("written");
    succeeds(&workplace, &["train", "deep.toml", "--out", "run"]);
    for args in [
        &["sample", "run"][..],
        &["sample", "run", "--temperature", "0.7"],
        &["reconstruct", "run"],
        &["interpolate", "run", "test:0", "test:1"],
        &["traverse", "run", "test:0", "--dims", "0,5,50"],
        &["levels", "run", "test:0", "--columns", "3"],
    ] {
        succeeds(&workplace, &[args, &["--out", "p.png"]].concat());
    }
    succeeds(&workplace, &["encode", "run", "--out", "z.csv"]);
    succeeds(&workplace, &["decode", "run", "z.csv", "--out", "p.png"]);
    succeeds(&workplace, &["eval", "run", "--samples", "3"]);
    succeeds(&workplace, &["describe", "run"]);
    for format in ["onnx", "torchscript"] {
        succeeds(
            &workplace,
            &["export", "run", "--format", format, "--out", format],
        );
    }
    let train = ["train", "deep.toml", "--out", "half", "--epochs", "1"];
    succeeds(&workplace, &train);
    succeeds(&workplace, &["train", "--resume", "half", "--epochs", "2"]);
    let [half, whole] = ["half", "run"].map(|run| metrics(&workplace.path(run)));
    assert_eq!(half, whole);
}

fn workplace() -> Workplace {
    let workplace = Workplace::new();
    fs::write(workplace.path("ladder.toml"), LADDER).expect("written");
    workplace
}

fn succeeds(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_command_takes_the_levels_as_one_vector() {
    let workplace = workplace();
    succeeds(&workplace, &["train", "ladder.toml", "--out", "run"]);
    for args in [
        &["sample", "run"][..],
        &["reconstruct", "run"],
        &["interpolate", "run", "test:0", "test:1"],
        &["traverse", "run", "test:0", "--rows", "5"],
        &["manifold", "run", "--size", "3"],
        &["arithmetic", "run", "test:0 - test:1 + test:2"],
        &["plot", "run", "latents"],
        &["plot", "run", "dimensions"],
        &["levels", "run", "--columns", "2"],
        &["levels", "run", "test:0", "prior:3", "--kept", "1"],
    ] {
        succeeds(&workplace, &[args, &["--out", "p.png"]].concat());
    }
    let refused = workplace.vae(&["levels", "run", "--kept", "2", "--out", "p.png"]);
    assert!(
        stderr(&refused).contains("from 0 to 1"),
        "{}",
        stderr(&refused)
    );
    for record in metrics(&workplace.path("run")) {
        let of = |key: &str| {
            record[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{key}: {record}"))
        };
        assert!(
            (of("kl_1") + of("kl_2") - of("kl")).abs() < 1e-3,
            "{record}"
        );
        assert!(of("kl_1") >= 0.0 && of("kl_2") >= 0.0, "{record}");
    }
    succeeds(&workplace, &["encode", "run", "--out", "z.csv"]);
    let table = fs::read_to_string(workplace.path("z.csv")).expect("a table");
    let header = table.lines().next().expect("a header");
    assert!(
        header.contains("mean_4") && !header.contains("mean_5"),
        "{header}"
    );
    succeeds(&workplace, &["decode", "run", "z.csv", "--out", "p.png"]);
    succeeds(&workplace, &["score", "run", "--out", "s.csv"]);
    succeeds(&workplace, &["eval", "run", "--samples", "3"]);
    let described = succeeds(&workplace, &["describe", "run"]);
    assert!(described.contains("prior.level_1.hidden"), "{described}");
    for format in ["onnx", "torchscript"] {
        succeeds(
            &workplace,
            &["export", "run", "--format", format, "--out", format],
        );
    }
}

#[test]
fn a_resumed_run_is_the_one_that_was_never_stopped() {
    let workplace = workplace();
    succeeds(&workplace, &["train", "ladder.toml", "--out", "whole"]);
    succeeds(
        &workplace,
        &["train", "ladder.toml", "--out", "half", "--epochs", "1"],
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
