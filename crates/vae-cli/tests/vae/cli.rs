//! The binary as users run it: real files, exit codes, written files and messages.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{SIDE, Workplace, metrics, stderr, stdout};
use serde_json::Value;

fn size(path: &Path) -> (u32, u32) {
    image::image_dimensions(path).expect("a picture")
}

#[test]
fn a_run_leaves_what_it_promises_and_every_command_reads_it() {
    let workplace = Workplace::new();
    let output = workplace.vae(&["train", "small.toml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let run = workplace.path("runs/small");

    let records = metrics(&run);
    let places: Vec<_> = records
        .iter()
        .map(|r| (r["epoch"].as_u64(), r["step"].as_u64(), r["split"].as_str()))
        .collect();
    // 70 images in batches of 16: five steps, the last with six images.
    let place = |epoch, step, split| (Some(epoch), Some(step), Some(split));
    assert_eq!(
        places,
        [
            place(1, 5, "train"),
            place(1, 5, "validation"),
            place(2, 10, "train"),
            place(2, 10, "validation")
        ]
    );
    for record in &records {
        let number = |key: &str| record[key].as_f64().expect("a number");
        let sum = number("reconstruction") + number("kl");
        assert!((number("elbo") + sum).abs() < 1e-9, "{record}");
        assert!((number("loss") - sum).abs() < 1e-3, "{record}");
    }

    for name in ["manifold", "samples", "reconstructions"] {
        for epoch in [1, 2] {
            size(&run.join(format!("pictures/epoch-000{epoch}-{name}.png")));
        }
        let last = format!("runs/small/pictures/epoch-0002-{name}.png");
        assert!(
            stdout(&output).lines().any(|line| line == last),
            "{}",
            stdout(&output)
        );
    }
    for checkpoint in ["best", "last"] {
        let folder = run.join("checkpoints").join(checkpoint);
        assert!(folder.join("weights.safetensors").is_file());
        assert!(folder.join("state.json").is_file());
    }
    let summary = fs::read_to_string(run.join("summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["state"], "finished");
    assert_eq!(summary["n_train_images"], 70);

    let side = SIDE as u32;
    for (args, wanted) in [
        (&["manifold", "--size", "5"][..], (5 * side, 5 * side)),
        (
            &["sample", "--count", "9", "--seed", "3"],
            (3 * side + 4, 3 * side + 4),
        ),
        (
            &["reconstruct", "--count", "4"],
            (4 * side + 6, 2 * side + 2),
        ),
        (
            &["sample", "--checkpoint", "last"],
            (8 * side + 14, 8 * side + 14),
        ),
    ] {
        let rest = ["runs/small", "--plain", "--out", "picture.png"];
        let output = workplace.vae(&[args, &rest].concat());
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "picture.png\n");
        assert_eq!(size(&workplace.path("picture.png")), wanted, "{args:?}");
    }

    // A second run gets a new folder.
    let again = workplace.vae(&["train", "small.toml", "--json"]);
    assert!(again.status.success(), "{}", stderr(&again));
    let summary: Value = serde_json::from_str(&stdout(&again)).expect("JSON on stdout");
    assert_eq!(summary["run"], "runs/small-2");
}

#[test]
fn the_same_seed_gives_the_same_metrics_and_weights() {
    let workplace = Workplace::new();
    let first = workplace.train(&[], "first");
    let second = workplace.train(&[], "second");
    let other = workplace.train(&["--seed", "1"], "other");
    let weights =
        |run: &Path| fs::read(run.join("checkpoints/last/weights.safetensors")).expect("weights");
    assert_eq!(metrics(&first), metrics(&second));
    assert!(weights(&first) == weights(&second));
    assert_ne!(metrics(&first), metrics(&other));
    let sample = |name: &str| {
        let output = workplace.vae(&["sample", "first", "--seed", "5", "--out", name]);
        assert!(output.status.success(), "{}", stderr(&output));
        fs::read(workplace.path(name)).expect("a picture")
    };
    assert!(sample("a.png") == sample("b.png"));
}

#[test]
fn convolutions_on_two_threads_are_deterministic_too() {
    let workplace = Workplace::new();
    fs::write(
        workplace.path("small.toml"),
        "[dataset.idx]\nfolder = 'data'\n[model.network.conv]\n[training]\nepochs = 1\n",
    )
    .expect("written");
    let args = ["--threads", "2"];
    let [first, second] = ["first", "second"].map(|out| workplace.train(&args, out));
    assert_eq!(metrics(&first), metrics(&second));
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_is_no_checkpoint() {
    let workplace = Workplace::new();
    let args = [
        "train",
        "small.toml",
        "--set",
        "optimizer.adam.learning_rate=1e12",
    ];
    let output = workplace.vae(&args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("became"), "{said}");
    assert!(
        said.contains("after 3 rollbacks to an earlier state"),
        "{said}"
    );
    let run = workplace.path("runs/small");
    let summary = fs::read_to_string(run.join("summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["state"], "failed");
    assert_eq!(summary["incidents"].as_array().map(Vec::len), Some(3));
    assert!(!run.join("checkpoints/last").exists());
}

#[test]
fn a_network_too_large_for_memory_gives_an_error_in_one_line() {
    let workplace = Workplace::new();
    let args = [
        "train",
        "small.toml",
        "--set",
        "model.network.mlp.hidden=[1000000, 1000000]",
    ];
    let said = workplace.error(&args, 1);
    assert!(
        said.contains("encoder.1.weight [1000000, 1000000]"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    let said = workplace.error(
        &["describe", "small.toml", "--set", "model.latent_dims=0"],
        2,
    );
    assert!(said.contains("small.toml: model.latent_dims"), "{said}");
}

#[test]
fn the_resolved_config_trains_the_same_run_again() {
    let workplace = Workplace::new();
    let first = workplace.train(&["--limit", "40", "--set", "model.latent_dims=5"], "first");
    let output = workplace.vae(&["train", "first/config.toml", "--out", "second"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(metrics(&first), metrics(&workplace.path("second")));
    let summary = fs::read_to_string(first.join("summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["n_train_images"], 40);
    assert_eq!(summary["n_test_images"], 8);
}

#[test]
fn a_misspelled_key_is_named_with_its_line_and_the_nearest_one() {
    let workplace = Workplace::new();
    workplace.write_config("typo.toml", "sead = 1");
    let said = workplace.error(&["train", "typo.toml"], 2);
    assert!(
        said.contains("typo.toml:1: unknown key `sead`; did you mean `seed`?"),
        "{said}"
    );
    let said = workplace.error(&["train", "small.toml", "--set", "training.epoch=1"], 2);
    assert!(said.contains("did you mean `epochs`?"), "{said}");
    let said = workplace.error(&["train", "nowhere.toml"], 2);
    assert!(said.contains("nowhere.toml"), "{said}");
    let said = workplace.error(
        &["train", "small.toml", "--set", "training.batch_size=0"],
        2,
    );
    assert!(said.contains("training.batch_size"), "{said}");
    let said = workplace.error(&["train", "smal.toml"], 2);
    assert!(
        said.contains("did you mean ") && said.contains("small.toml?"),
        "{said}"
    );
    let said = workplace.error(&["train", "small.toml", "--batch-size", "3"], 2);
    assert!(
        said.contains(
            "there is no --batch-size; it is a setting of the config: --set training.batch_size="
        ),
        "{said}"
    );
    let said = stderr(&workplace.vae(&["train", "small.toml", "--frobnicate"]));
    assert!(
        said.contains("unexpected argument '--frobnicate'"),
        "{said}"
    );
    assert!(!workplace.path("runs").exists());
}

#[test]
fn a_run_as_a_config_gives_its_name_and_its_folder_is_told_how_to_go_on() {
    let workplace = Workplace::new();
    let run = workplace.train(&["--limit", "20", "--epochs", "1"], "runs/digits");
    let output = workplace.vae(&["train", "runs/digits/config.toml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(workplace.path("runs/digits-2/config.toml").is_file());
    assert!(
        stderr(&output).contains("finished after 1 epoch in"),
        "{}",
        stderr(&output)
    );
    let said = workplace.error(&["train", &run.to_string_lossy()], 2);
    assert!(said.contains("vae train --resume"), "{said}");
}

#[test]
fn a_missing_data_set_is_named_with_what_to_do() {
    let workplace = Workplace::new();
    let args = [
        "train",
        "small.toml",
        "--set",
        "dataset.idx.folder=datasets/mnist",
    ];
    let said = workplace.error(&args, 1);
    assert!(said.contains("datasets/mnist"), "{said}");
    assert!(said.contains("cargo xtask fetch-data mnist"), "{said}");
    assert!(!workplace.path("runs").exists());
}

#[test]
fn a_truncated_idx_file_is_named_with_what_was_found() {
    let workplace = Workplace::new();
    let path = workplace.path("data/train-images-idx3-ubyte");
    let bytes = fs::read(&path).expect("bytes");
    fs::write(&path, &bytes[..bytes.len() - 100]).expect("written");
    let said = workplace.error(&["train", "small.toml"], 1);
    assert!(said.contains("data/train-images-idx3-ubyte"), "{said}");
    assert!(!workplace.path("runs").exists());
}

#[test]
fn an_output_folder_that_cannot_be_written_or_is_taken_is_named() {
    let workplace = Workplace::new();
    // No folder can be created below a file, even by root, who may write anywhere else.
    let said = workplace.error(&["train", "small.toml", "--out", "small.toml/run"], 1);
    assert!(said.contains("small.toml/run"), "{said}");
    let said = workplace.error(&["train", "small.toml", "--out", "data"], 1);
    assert!(said.contains("data: already holds files"), "{said}");

    let run = workplace.train(&["--epochs", "1"], "run");
    let run = run.to_str().expect("UTF-8");
    let said = workplace.refused(&["sample", run, "--out", "nowhere/picture.png"]);
    assert!(said.contains("there is no folder nowhere"), "{said}");
    let said = workplace.error(&["encode", run, "--out", "nowhere/latents.csv"], 1);
    assert!(
        said.contains("nowhere/latents.csv: there is no folder nowhere"),
        "{said}"
    );
    let said = workplace.error(&["sample", "data", "--out", "picture.png"], 1);
    assert!(said.contains("data: not a run"), "{said}");
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let workplace = Workplace::new();
    let run = workplace.train(&["--epochs", "1"], "run");
    let weights = run.join("checkpoints/best/weights.safetensors");
    let bytes = fs::read(&weights).expect("bytes");
    fs::write(&weights, &bytes[..bytes.len() / 2]).expect("written");
    let said = workplace.error(&["sample", "run", "--out", "picture.png"], 1);
    assert!(
        said.contains("epoch-0001-step-00000005/weights.safetensors: damaged"),
        "{said}"
    );
}

#[test]
fn cuda_where_there_is_none_says_what_is_missing() {
    let workplace = Workplace::new();
    let output = workplace.vae(&["train", "small.toml", "--device", "cuda:0"]);
    if output.status.success() {
        let summary = fs::read_to_string(workplace.path("runs/small/summary.json"));
        assert!(summary.expect("a summary").contains("cuda:0"));
    } else {
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("libtorch_cuda") || said.contains("GPU"),
            "{said}"
        );
        assert!(!workplace.path("runs").exists());
    }
    let said = stderr(&workplace.vae(&["train", "small.toml", "--device", "gpu"]));
    assert!(
        said.contains("expected auto, cpu, cuda or cuda:N"),
        "{said}"
    );
}

#[test]
fn describe_prints_a_config_that_describes_itself() {
    let workplace = Workplace::new();
    let output = workplace.vae(&["describe", "small.toml"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    for line in [
        "seed = 0",
        "latent_dims = 2",
        "learning_rate = 0.001",
        "beta = 1.0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    fs::write(workplace.path("resolved.toml"), &text).expect("written");
    assert_eq!(stdout(&workplace.vae(&["describe", "resolved.toml"])), text);
}

#[test]
fn bench_prints_a_line_of_json_for_each_repetition() {
    let workplace = Workplace::new();
    let sizes = ["--shape", "1x12x12", "--steps", "2", "--reps", "2"];
    let works = [None, Some("encode"), Some("decode"), Some("likelihood")];
    for work in works {
        let mut args = vec!["bench", "small.toml"];
        args.extend(sizes);
        args.extend(work.map(|_| "--work"));
        args.extend(work);
        let output = workplace.vae(&args);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stdout(&output).lines().count(), 2);
        for line in stdout(&output).lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            assert!(line["images_per_s"].as_f64().expect("a number") > 0.0);
        }
    }
    let args = [
        "bench",
        "small.toml",
        "--work",
        "encode",
        "--processes",
        "2",
    ];
    let output = workplace.vae(&args);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_stops_with_130() {
    let workplace = Workplace::new();
    /// Kills the process if the test fails.
    struct Guard(std::process::Child);
    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.kill();
        }
    }
    let child = workplace
        .command(&["train", "small.toml", "--epochs", "1000000", "--out", "run"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut child = Guard(child);
    let start = Instant::now();
    while !workplace.path("run/checkpoints/last/state.json").exists() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no epoch in a minute"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = i32::try_from(child.0.id()).expect("a process number");
    // SAFETY: kill takes two integers; the process is our child and has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let status = child.0.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));

    let summary = fs::read_to_string(workplace.path("run/summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["state"], "interrupted");
    let output = workplace.vae(&[
        "sample",
        "run",
        "--checkpoint",
        "last",
        "--out",
        "picture.png",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
}
