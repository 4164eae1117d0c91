//! `vae eval` and the files that it writes into a run.

use std::fs;
use std::path::Path;

use crate::common::{Workplace, lines, stderr, stdout};
use serde_json::{Value, json};

fn eval(workplace: &Workplace, args: &[&str]) -> Value {
    let output = workplace.vae(&[&["eval"], args, &["--device", "cpu", "--json"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("a report")
}

fn report(run: &Path) -> Value {
    let text = fs::read_to_string(run.join("eval.json")).expect("eval.json");
    serde_json::from_str(&text).expect("a report")
}

/// A value in a report.
fn measure<'a>(report: &'a Value, topic: &str, name: &str) -> &'a Value {
    let measures = report["sections"][topic]["measures"]
        .as_array()
        .unwrap_or_else(|| panic!("no section {topic}"));
    let found = measures.iter().find(|measure| measure["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn a_run_is_evaluated_and_sections_of_the_same_weights_are_kept() {
    let workplace = Workplace::new();
    let run = workplace.train(&["--set", "model.latent_dims=3"], "run");
    let all = eval(&workplace, &["run", "--samples", "7"]);
    assert_eq!(all, report(&run));
    let topics: Vec<_> = all["sections"]
        .as_object()
        .expect("sections")
        .keys()
        .collect();
    assert_eq!(topics, ["latents", "likelihood", "pictures"]);
    assert_eq!(all["subject"]["latent_dims"], 3);
    let images = &all["sections"]["likelihood"]["images"];
    assert_eq!(
        images["dataset"],
        json!({ "name": "unknown", "source": "data" })
    );
    assert_eq!(
        (&images["n_images"], &images["pixels"]),
        (&20.into(), &"gray".into())
    );
    assert_eq!(
        measure(&all, "likelihood", "nll")["protocol"],
        json!({ "method": "importance_weighted", "n_samples": 7 })
    );
    // The images are 12×12. Images with MNIST's shape that are not MNIST have a reason here instead of a value.
    assert!(all["sections"]["pictures"]["not_measured"]["fid_mnist_classifier"].is_null());
    for (topic, name) in [
        ("pictures", "psnr"),
        ("pictures", "fid_pixel_pca"),
        ("latents", "active_units"),
        ("latents", "linear_probe_accuracy"),
    ] {
        assert!(measure(&all, topic, name)["value"].is_number(), "{name}");
    }
    let not_measured = &all["sections"]["pictures"]["not_measured"];
    let why = not_measured["fid_inception"].as_str().expect("a reason");
    assert!(!why.is_empty());

    // The same seed gives the same values; sections that were not requested are kept.
    let again = eval(
        &workplace,
        &["run", "--only", "likelihood", "--samples", "7"],
    );
    let measures = |report: &Value, topic: &str| report["sections"][topic]["measures"].clone();
    assert_eq!(measures(&again, "likelihood"), measures(&all, "likelihood"));
    assert_eq!(again["sections"]["latents"], all["sections"]["latents"]);

    // Results of other weights are not kept.
    let output = workplace.vae(&[
        "train", "--resume", "run", "--epochs", "3", "--device", "cpu",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let other = eval(
        &workplace,
        &[
            "run",
            "--only",
            "likelihood",
            "--checkpoint",
            "last",
            "--limit",
            "5",
        ],
    );
    assert_eq!(other["sections"].as_object().expect("sections").len(), 1);
    assert_eq!(other["subject"]["epoch"], 3);
    assert_eq!(other["sections"]["likelihood"]["images"]["n_images"], 5);
}

#[test]
fn the_page_stands_alone_and_the_table_names_every_protocol() {
    let workplace = Workplace::new();
    let run = workplace.train(&[], "run");
    let output = workplace.vae(&["eval", "run", "--samples", "3", "--device", "cpu"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stdout(&output);
    for wanted in [
        "negative log-likelihood",
        "K = 3",
        "20 test images of 1×12×12, gray",
        "report.html",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in {said}");
    }
    let page = fs::read_to_string(run.join("report.html")).expect("the page");
    assert!(page.contains("negative log-likelihood") && page.contains("data:image/png"));
    for outside in ["src=\"http", "<script", "@import", "url(http"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// `vae eval` measures the averaged weights, as the run's own evaluation does.
#[test]
fn averaged_weights_are_those_that_are_measured() {
    let workplace = Workplace::new();
    let run = workplace.train(&["--set", "training.ema_decay=0.9"], "run");
    let report = eval(
        &workplace,
        &[
            "run",
            "--checkpoint",
            "last",
            "--only",
            "likelihood",
            "--split",
            "validation",
            "--samples",
            "2",
        ],
    );
    assert_eq!(report["subject"]["averaged_weights"], true);
    let images = &report["sections"]["likelihood"]["images"];
    assert_eq!(
        (&images["split"], &images["n_images"]),
        (&"validation".into(), &14.into())
    );
    // The kl has a closed form, so the two values do not differ by noise.
    let measured = measure(&report, "likelihood", "kl")["value"]
        .as_f64()
        .expect("a number");
    let records = lines(&run.join("metrics.jsonl"));
    let of_epoch = |record: &&Value| record["epoch"] == 2 && record["split"] == "validation";
    let record = records.iter().find(of_epoch).expect("the last epoch");
    let logged = record["kl"].as_f64().expect("a number");
    assert!(
        (measured - logged).abs() < 1e-4 * logged,
        "{measured} {logged}"
    );
    // Raw weights have another kl: a run without averages makes the same steps.
    let raw = workplace.train(&[], "raw");
    let records = lines(&raw.join("metrics.jsonl"));
    let record = records.iter().find(of_epoch).expect("the last epoch");
    let raw = record["kl"].as_f64().expect("a number");
    assert!((raw - logged).abs() > 1e-3 * logged, "{raw} {logged}");
}

#[test]
fn pixels_are_recorded_and_may_differ_from_those_of_training() {
    let workplace = Workplace::new();
    // Test images that differ from the training images, so that the distance between them is not 0.
    let file = workplace.path("data/t10k-images-idx3-ubyte");
    let mut bytes = fs::read(&file).expect("images");
    for byte in bytes[16..].iter_mut().step_by(5) {
        *byte = 255 - *byte;
    }
    fs::write(&file, bytes).expect("written");
    workplace.train(&["--set", "dataset.binarization=dynamic"], "run");
    let likelihood = |args: &[&str]| {
        let args = [&["run", "--only", "likelihood", "--samples", "3"], args].concat();
        let report = eval(&workplace, &args);
        let nll = measure(&report, "likelihood", "nll")["value"].as_f64();
        (
            report["sections"]["likelihood"]["images"].clone(),
            nll.expect("a number"),
        )
    };
    let (own, dynamic) = likelihood(&[]);
    assert_eq!(
        (&own["pixels"], &own["trained_on"]["pixels"]),
        (&"dynamic".into(), &"dynamic".into())
    );
    let (images, gray) = likelihood(&["--binarization", "gray"]);
    assert_eq!(images["pixels"], "gray");
    let (images, drawn_once) = likelihood(&["--binarization", "static"]);
    assert_eq!(images["pixels"], "static");
    // Both settings draw each held-out image once, with the same result.
    assert_eq!(drawn_once, dynamic);
    assert_ne!(gray, dynamic);

    // The setting also applies to training images, where they are compared with test images.
    let baseline = |args: &[&str]| {
        let args = [&["run", "--only", "pictures"], args].concat();
        let report = eval(&workplace, &args);
        measure(&report, "pictures", "fid_pixel_pca_of_training_images")["value"].clone()
    };
    let own = baseline(&[]);
    assert!(own.as_f64().expect("a number") > 1e-3, "{own}");
    workplace.train(&[], "gray");
    let args = ["gray", "--only", "pictures", "--binarization", "dynamic"];
    let of_gray = eval(&workplace, &args);
    let of_gray = &measure(&of_gray, "pictures", "fid_pixel_pca_of_training_images")["value"];
    assert_eq!(&own, of_gray);
    assert_ne!(own, baseline(&["--binarization", "gray"]));

    let (images, same) = likelihood(&["--data", "data"]);
    assert_eq!(images["dataset"]["source"], "data");
    assert_eq!(same, dynamic);
}

#[test]
fn what_cannot_be_measured_has_a_reason() {
    let workplace = Workplace::new();
    workplace.train(&[], "run");
    let error = workplace.error(&["eval", "run", "--only", "disentanglement"], 1);
    assert!(error.contains("[dataset.sprites]"), "{error}");
    let error = workplace.error(&["eval", "run", "--data", "nowhere"], 1);
    assert!(error.contains("nowhere: no such folder"), "{error}");
    fs::write(workplace.path("run/eval.json"), "{}").expect("written");
    // The runs are compared nevertheless.
    let output = workplace.vae(&["compare", "run", "run"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("eval.json: is not a report of this version"),
        "{}",
        stderr(&output)
    );
    let anew = workplace.vae(&["eval", "run", "--only", "likelihood", "--samples", "2"]);
    assert!(anew.status.success(), "{}", stderr(&anew));
    assert!(
        stderr(&anew).contains("it is replaced"),
        "{}",
        stderr(&anew)
    );
}

#[test]
fn evaluated_runs_stand_side_by_side() {
    let workplace = Workplace::new();
    workplace.train(&[], "one");
    workplace.train(&["--seed", "1"], "two");
    eval(
        &workplace,
        &["one", "--only", "likelihood", "--samples", "3"],
    );
    eval(
        &workplace,
        &["two", "--only", "likelihood", "--samples", "4"],
    );
    let output = workplace.vae(&["compare", "one", "two"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stdout(&output);
    let line = |label: &str| {
        let found = said
            .lines()
            .find(|line| line.trim_start().starts_with(label));
        found.unwrap_or_else(|| panic!("no {label} in {said}"))
    };
    assert!(line("negative log-likelihood ↓ *").contains('±'), "{said}");
    assert!(line("kl ").contains("nats per image"), "{said}");
    assert!(said.contains("different protocols"), "{said}");
    let difference = "protocol.n_samples: 3, 4 (elbo, reconstruction, negative log-likelihood, effective \
                      sample size)";
    assert!(said.contains(difference), "{said}");
    assert!(!said.contains("images."), "{said}");
    let output = workplace.vae(&["compare", "one", "two", "--json"]);
    let compared: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let nll = measure(&compared["runs"][1]["evaluation"], "likelihood", "nll");
    assert!(nll["value"].is_number());
}
