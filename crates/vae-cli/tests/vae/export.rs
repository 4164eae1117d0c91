//! Exports and imports, and the descriptions of models and machines.

use std::fs;

use crate::common::{Workplace, stderr, stdout};
use serde_json::Value;

#[test]
fn a_run_is_exported_with_its_preprocessing() {
    let workplace = Workplace::new();
    let run = workplace.train(&["--limit", "20", "--epochs", "1"], "run");
    let checkpoint = run.join("checkpoints/best");
    let checkpoint = checkpoint.to_str().expect("text");
    for (format, file) in [("onnx", "decoder.onnx"), ("torchscript", "encoder.pt")] {
        let args = [
            "export", "run", "--format", format, "--out", "out", "--device", "cpu",
        ];
        let output = workplace.vae(&args);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output).lines().count(), 3, "{}", stdout(&output));
        assert!(workplace.path("out").join(file).is_file());
    }
    let json = fs::read_to_string(workplace.path("out/preprocessing.json")).expect("written");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["image"]["height"], 12);
    assert_eq!(json["channels"], "gray");
    assert_eq!(json["value_range"], serde_json::json!([0.0, 1.0]));
    assert_eq!(json["framing"]["crop"], Value::Null);
    assert_eq!(json["framing"]["binarized"], false);

    let file = ["--format", "onnx", "--out", "both.onnx", "--device", "cpu"];
    let said = workplace.error(&[&["export", "run"], &file[..]].concat(), 1);
    assert!(said.contains("--part"), "{said}");

    // Weights exported from a checkpoint, imported and exported again are the same.
    let export = |run: &str, out: &str| {
        let args = [
            "export",
            run,
            "--format",
            "safetensors",
            "--out",
            out,
            "--device",
            "cpu",
        ];
        let output = workplace.vae(&args);
        assert!(output.status.success(), "{}", stderr(&output));
        fs::read(workplace.path(out)).expect("written")
    };
    let weights = export(checkpoint, "weights.safetensors");
    let args = [
        "import",
        "weights.safetensors",
        "--config",
        "small.toml",
        "--out",
        "imported",
    ];
    let output = workplace.vae(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(export("imported", "again.safetensors") == weights);

    let args = ["import", "--config", "small.toml", "--print-map"];
    let map = stdout(&workplace.vae(&args));
    assert!(
        map.contains("\"encoder.0.weight\" = \"encoder.0.weight\"  # [16, 144]"),
        "{map}"
    );
    fs::write(
        workplace.path("map.toml"),
        map.replace("\"encoder.0.bias\" =", "\"fc.bias\" ="),
    )
    .expect("written");
    let args = [
        &args[..3],
        &["weights.safetensors", "--out", "no", "--map", "map.toml"],
    ]
    .concat();
    let said = workplace.error(&args, 1);
    assert!(
        said.contains("fc.bias") && !workplace.path("no").exists(),
        "{said}"
    );
}

#[test]
fn describe_tells_the_layers_of_configs_and_runs() {
    let workplace = Workplace::new();
    let output = workplace.vae(&["describe", "small.toml", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let described: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let first = &described["parts"][0]["layers"][0];
    assert_eq!(first["name"], "encoder.0");
    assert_eq!(first["multiply_adds"], 144 * 16);
    let config_only = stdout(&workplace.vae(&["describe", "small.toml", "--config"]));
    let all = stdout(&workplace.vae(&["describe", "small.toml"]));
    assert!(all.starts_with(&config_only) && !config_only.contains('#'));
    assert!(all.contains("# encoder.0 "), "{all}");

    workplace.train(&["--limit", "20", "--epochs", "1"], "run");
    let of_run = stdout(&workplace.vae(&["describe", "run"]));
    assert!(of_run.contains("# encoder.0 "), "{of_run}");
    let weights = stdout(&workplace.vae(&["describe", "run/checkpoints/best"]));
    assert!(weights.starts_with("[model]\n"), "{weights}");

    fs::remove_dir_all(workplace.path("data")).expect("removed");
    let without = stdout(&workplace.vae(&["describe", "small.toml"]));
    assert!(
        without.starts_with(&config_only) && without.contains("--shape"),
        "{without}"
    );
    let shaped = workplace.vae(&["describe", "small.toml", "--shape", "3x8x8"]);
    assert!(
        stdout(&shaped).contains("# Images 3×8×8"),
        "{}",
        stdout(&shaped)
    );
}

#[test]
fn the_doctor_finds_libtorch_and_shells_complete() {
    let workplace = Workplace::new();
    let output = workplace.vae(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert!(
        report["libtorch"]
            .as_str()
            .expect("a version")
            .starts_with("2.11")
    );
    assert!(report["threads"].as_i64().expect("a number") >= 1);
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&workplace.vae(&["completions", shell]));
        assert!(script.contains("reconstruct"), "{shell}");
    }
}
