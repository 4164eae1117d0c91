//! `vae fit-sampler`, and the commands that draw from what it fitted.

use std::fs;

use crate::common::{SIDE, Workplace, stderr, stdout};
use serde_json::Value;

fn succeeds(workplace: &Workplace, args: &[&str]) -> (String, String) {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    (stdout(&output), stderr(&output))
}

fn json(workplace: &Workplace, args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(workplace, args).0).expect("JSON")
}

/// The bytes of 16 samples.
fn sample(workplace: &Workplace, args: &[&str]) -> (Vec<u8>, String) {
    let args = [
        &[
            "sample", "run", "--count", "16", "--plain", "--out", "p.png",
        ],
        args,
    ]
    .concat();
    let (_, said) = succeeds(workplace, &args);
    let bytes = fs::read(workplace.path("p.png")).expect("a picture");
    (bytes, said)
}

#[test]
fn a_config_asks_for_samplers_when_training_ends() {
    let workplace = Workplace::new();
    workplace.train(
        &[
            "--set",
            "model.latent_dims=3",
            "--set",
            "samplers=[\"gmm\"]",
        ],
        "run",
    );
    let file = workplace.path("run").join("samplers/gmm.safetensors");
    assert!(file.exists());
    let (_, said) = sample(&workplace, &[]);
    assert!(said.contains("gmm"), "{said}");

    // Before the first step, not after the last one.
    let output = workplace.vae(&[
        "train",
        "small.toml",
        "--set",
        "samplers=[\"autoregressive\"]",
        "--out",
        "other",
    ]);
    let said = stderr(&output);
    assert!(
        !output.status.success() && said.contains("autoregressive"),
        "{said}"
    );
    assert!(!workplace.path("other/metrics.jsonl").exists(), "{said}");
}

const FIT: &[&str] = &["fit-sampler", "run", "--epochs", "1", "--sizes", "2"];

#[test]
fn samplers_are_fitted_chosen_and_drawn_from() {
    let workplace = Workplace::new();
    workplace.train(&["--set", "model.latent_dims=3"], "run");
    let (of_prior, said) = sample(&workplace, &[]);
    assert!(!said.contains("sampler"), "{said}");

    let kinds = ["--kind", "gaussian,gmm,flow,two-stage,knn", "--json"];
    let report = json(&workplace, &[FIT, &kinds].concat());
    let samplers = report["samplers"].as_array().expect("a list");
    assert_eq!(samplers.len(), 5);
    for (sampler, kind) in samplers
        .iter()
        .zip(["gaussian", "gmm", "flow", "two-stage", "knn"])
    {
        assert_eq!(sampler["kind"], kind);
        let file = workplace
            .path("run")
            .join(format!("samplers/{kind}.safetensors"));
        assert!(file.exists(), "{kind}");
        assert_eq!(sampler["log_prob"].is_f64(), kind != "knn", "{sampler}");
        assert_eq!(sampler["is_bound"], kind == "two-stage");
        assert_eq!(sampler["n_train"], 70);
        assert_eq!(sampler["n_validation"], 14);
    }
    let best = report["best"]
        .as_str()
        .expect("one is better than the prior");
    let found = samplers.iter().find(|sampler| sampler["kind"] == best);
    let best_log_prob = found.expect("the best")["log_prob"].as_f64();
    for sampler in samplers
        .iter()
        .filter(|sampler| sampler["is_bound"] == false)
    {
        assert!(best_log_prob >= sampler["log_prob"].as_f64(), "{report}");
        assert!(sampler["prior_log_prob"].as_f64() < best_log_prob);
    }
    // A second fit gives the same files.
    let file = workplace.path("run/samplers/gmm.safetensors");
    let before = fs::read(&file).expect("a file");
    let (table, _) = succeeds(&workplace, &[FIT, &["--kind", "gmm"]].concat());
    assert!(table.contains("components"), "{table}");
    assert_eq!(fs::read(&file).expect("a file"), before);

    // The best is taken, and named with the way to the prior.
    let (of_best, said) = sample(&workplace, &[]);
    assert!(said.contains(&format!("the sampler {best}")), "{said}");
    assert!(said.contains("--sampler prior"), "{said}");
    assert_eq!(sample(&workplace, &["--sampler", best]).0, of_best);
    assert_eq!(sample(&workplace, &["--sampler", "prior"]).0, of_prior);
    assert_ne!(of_best, of_prior);
    for kind in ["gaussian", "gmm", "flow", "two-stage", "knn"] {
        let named = ["--sampler", kind];
        let (one, said) = sample(&workplace, &named);
        assert!(said.is_empty(), "{said}");
        assert_eq!(sample(&workplace, &named).0, one, "{kind}");
        let other = sample(&workplace, &[&named[..], &["--seed", "1"]].concat());
        assert_ne!(other.0, one, "{kind}");
        let cold = sample(
            &workplace,
            &[&named[..], &["--temperature", "0.5"]].concat(),
        );
        assert_ne!(cold.0, one, "{kind}");
    }
    let size = image::image_dimensions(workplace.path("p.png")).expect("a picture");
    assert_eq!(size, (4 * SIDE as u32 + 6, 4 * SIDE as u32 + 6));

    // The protocols of samples name the sampler, and nothing else does.
    let args = ["eval", "run", "--only", "pictures", "--json"];
    let plain = json(&workplace, &args);
    assert!(!plain.to_string().contains("\"sampler\""), "{plain}");
    let named = json(&workplace, &[&args[..], &["--sampler", "gmm"]].concat());
    let measures = named["pictures"]["measures"]
        .as_array()
        .or_else(|| named["sections"]["pictures"]["measures"].as_array());
    let measures = measures.expect("measures");
    for measure in measures {
        let of_samples = measure["protocol"]["images"] == "samples";
        let wanted = if of_samples {
            Value::from("gmm")
        } else {
            Value::Null
        };
        assert_eq!(measure["protocol"]["sampler"], wanted, "{measure}");
    }
    assert!(
        measures
            .iter()
            .any(|measure| measure["protocol"]["sampler"] == "gmm")
    );
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() {
    let workplace = Workplace::new();
    workplace.train(&[], "run");
    let sample = [
        "sample",
        "run",
        "--out",
        "p.png",
        "--device",
        "cpu",
        "--sampler",
    ];
    let said = workplace.error(&[&sample[..], &["gmm"]].concat(), 1);
    assert!(said.contains("none was fitted yet"), "{said}");
    assert!(said.contains("`vae fit-sampler RUN --kind gmm`"), "{said}");
    let output = workplace.vae(&[&sample[..], &["gnn"]].concat());
    assert!(stderr(&output).contains("two-stage, knn, autoregressive, or prior"));
    let said = workplace.error(&[FIT, &["--kind", "autoregressive"]].concat(), 1);
    assert!(said.contains("flow or gmm would fit"), "{said}");
    let said = workplace.error(&[FIT, &["--condition", "3"]].concat(), 1);
    assert!(said.contains("--condition"), "{said}");

    // Of other weights.
    succeeds(&workplace, &[FIT, &["--kind", "gaussian"]].concat());
    let output = workplace.vae(&["train", "--resume", "run", "--epochs", "4"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = workplace.error(&[&sample[..], &["gaussian"]].concat(), 1);
    assert!(
        said.contains("it was fitted to the latents of the checkpoint"),
        "{said}"
    );
    let (_, said) = succeeds(&workplace, &["sample", "run", "--out", "p.png"]);
    assert!(said.contains("of another checkpoint"), "{said}");

    // Damaged.
    let file = workplace.path("run/samplers/gaussian.safetensors");
    let mut bytes = fs::read(&file).expect("a file");
    bytes.truncate(bytes.len() - 8);
    fs::write(&file, bytes).expect("written");
    let said = workplace.error(&["sample", "run", "--out", "p.png"], 1);
    assert!(
        said.contains("gaussian.safetensors") && said.contains("--sampler prior"),
        "{said}"
    );
    succeeds(&workplace, &[&sample[..], &["prior"]].concat());
}

#[test]
fn classes_have_samplers_of_their_own() {
    let workplace = Workplace::new();
    workplace.train(&["--set", "model.condition.classes=true"], "run");
    let kinds = ["--kind", "gaussian,gmm,flow,two-stage,knn"];
    succeeds(&workplace, &[FIT, &kinds].concat());
    for kind in ["gaussian", "gmm", "flow", "two-stage", "knn"] {
        // A row of 8 for each of the seven classes, and one class alone with the same noise.
        let rows = [
            "sample",
            "run",
            "--sampler",
            kind,
            "--plain",
            "--out",
            "rows.png",
        ];
        succeeds(&workplace, &rows);
        let rows = image::open(workplace.path("rows.png"))
            .expect("a picture")
            .into_luma8();
        let side = SIDE as u32;
        assert_eq!(rows.dimensions(), (8 * side + 14, 7 * side + 12), "{kind}");
        let of_class = |class: &str| {
            let args = [
                "sample",
                "run",
                "--sampler",
                kind,
                "--condition",
                class,
                "--count",
                "8",
                "--grid",
                "1x8",
                "--plain",
                "--out",
                "one.png",
            ];
            succeeds(&workplace, &args);
            image::open(workplace.path("one.png"))
                .expect("a picture")
                .into_luma8()
        };
        let fourth = image::imageops::crop_imm(&rows, 0, 3 * (side + 2), 8 * side + 14, side);
        assert_eq!(fourth.to_image(), of_class("3"), "{kind}");
        assert_ne!(of_class("3"), of_class("5"), "{kind}");
    }
}

#[test]
fn maps_and_codes_have_an_autoregressive_sampler() {
    let workplace = Workplace::new();
    let network = "[model.network.conv]\nchannels = [6, 8]\nstrides = [2, 2]\ndecoder_channels = [8, 6]\n\
                   decoder_strides = [2, 2]\n";
    let codes =
        "[model.posterior.finite_scalar]\nlevels = [5, 4, 3]\n[objective]\nregularizer = 'none'\n";
    for (prior, codes) in [("", ""), ("prior = 'uniform_codes'\n", codes)] {
        let text = format!(
            "[dataset.idx]\nfolder = 'data'\n[model]\nlatent_shape = [3, 3, 3]\n{prior}{network}{codes}[training]\n\
             epochs = 1\nbatch_size = 16\n"
        );
        fs::write(workplace.path("map.toml"), text).expect("written");
        let _ = fs::remove_dir_all(workplace.path("run"));
        succeeds(&workplace, &["train", "map.toml", "--out", "run"]);
        let kinds = match codes {
            "" => &["--kind", "autoregressive"][..],
            _ => &[],
        };
        let report = json(&workplace, &[FIT, kinds, &["--json"]].concat());
        let sampler = &report["samplers"][0];
        assert_eq!(sampler["kind"], "autoregressive");
        assert!(
            sampler["log_prob"].as_f64() > sampler["prior_log_prob"].as_f64(),
            "{report}"
        );
        sample(
            &workplace,
            &["--sampler", "autoregressive", "--temperature", "0.7"],
        );
        if codes.is_empty() {
            continue;
        }
        let said = workplace.error(&[FIT, &["--kind", "gmm"]].concat(), 1);
        assert!(said.contains("autoregressive or knn would fit"), "{said}");
        succeeds(&workplace, &[FIT, &["--kind", "knn"]].concat());
        sample(&workplace, &["--sampler", "knn"]);
    }
}
