//! `vae runs` and `vae compare` for hand-written runs with known values.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;
use vae_run::{Means, Position, Record, RunConfig, RunDir, Summary};

/// A folder that contains a folder `runs`.
struct Workplace {
    folder: TempDir,
}

fn record(epoch: u64, elbo: f64) -> Record {
    let position = Position {
        epochs: epoch,
        steps: 10 * epoch,
    };
    let means = Means {
        elbo: Some(elbo),
        reconstruction: Some(-elbo - 4.0),
        kl: Some(4.0),
        loss: -elbo,
    };
    Record {
        images_per_s: 100.0,
        seconds: 30.0,
        ..Record::new(position, Record::VALIDATION, means)
    }
}

impl Workplace {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("runs")).expect("created");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run with ten planned epochs and the elbos of the completed ones. In the state `killed` it has no summary.
    fn run(&self, name: &str, extra: &str, state: &str, elbos: &[f64]) -> RunDir {
        let text = format!("{extra}\n[dataset.idx]\nfolder = 'data'\n[training]\nepochs = 10\n");
        let config: RunConfig = toml::from_str(&text).expect("a config");
        let run_dir = RunDir::create(&self.path(&format!("runs/{name}")), &config).expect("a run");
        let records: Vec<Record> = (1..).zip(elbos).map(|(e, &elbo)| record(e, elbo)).collect();
        let line = |record| serde_json::to_string(record).expect("JSON") + "\n";
        let lines: String = records.iter().map(line).collect();
        fs::write(run_dir.metrics_file(), lines).expect("written");
        if state == "killed" {
            return run_dir;
        }
        let best = records
            .iter()
            .max_by(|a, b| a.means.elbo.partial_cmp(&b.means.elbo).expect("numbers"));
        let summary = Summary {
            run: run_dir.path().to_owned(),
            state: state.to_owned(),
            error: (state == "failed").then(|| "the disk is full".to_owned()),
            epochs: records.len() as u64,
            steps: 10 * records.len() as u64,
            best: best.cloned(),
            last_train: None,
            last_validation: records.last().cloned(),
            incidents: Vec::new(),
            seconds: 3700.0,
            engine_seconds: 0.0,
            n_parameters: 1234,
            n_train_images: 70,
            n_validation_images: 20,
            n_test_images: 20,
            device: "cpu".to_owned(),
            threads: 1,
            version: None,
            git_commit: None,
            peak_resident_bytes: None,
            pictures: Vec::new(),
        };
        run_dir.write_summary(&summary).expect("written");
        run_dir
    }

    fn vae(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vae"))
            .args(args)
            .current_dir(self.folder.path())
            .env_remove("RUST_BACKTRACE")
            .output()
            .expect("the binary runs")
    }

    /// The stdout of a command that must succeed.
    fn stdout(&self, args: &[&str]) -> String {
        let output = self.vae(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.stdout(&[args, &["--json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    /// The one line of output of a command that must fail.
    fn error(&self, args: &[&str]) -> String {
        let output = self.vae(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        said
    }
}

/// The words of a line.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn every_run_is_listed_with_its_state() {
    let workplace = Workplace::new();
    workplace.run("a", "", "finished", &[-20.0, -12.0, -13.0]);
    workplace.run("b", "", "interrupted", &[-15.5]);
    workplace.run("c", "", "failed", &[]);
    workplace.run("d", "", "killed", &[-9.0, -8.0, -8.5]);
    let running = workplace.run("e", "", "interrupted", &[-7.0, -6.0]);
    let lock = running.lock().expect("free");
    let odd = workplace.run("f", "", "asleep", &[-1.0]);
    fs::create_dir(workplace.path("runs/g")).expect("created");
    fs::write(workplace.path("runs/notes.txt"), "no folder").expect("written");
    fs::create_dir(workplace.path("runs/.cache")).expect("created");

    let table = workplace.stdout(&["runs", "--sort", "name"]);
    let lines: Vec<&str> = table.lines().collect();
    // The rows without sizes.
    let rows: Vec<Vec<&str>> = lines[1..8].iter().map(|line| words(line)).collect();
    let rows: Vec<&[&str]> = rows.iter().map(|row| &row[..6]).collect();
    assert_eq!(
        rows,
        [
            ["a", "finished", "3/10", "-12.00", "2", "01:01:40"],
            ["b", "interrupted", "1/10", "-15.50", "1", "01:01:40"],
            ["c", "failed", "0/10", "-", "-", "01:01:40"],
            // Without a valid summary the time comes from the metrics: 30 s per epoch.
            ["d", "stopped", "3/10", "-8.00", "2", "00:01:30"],
            ["e", "running", "2/10", "-6.00", "2", "00:01:00"],
            ["f", "broken", "-", "-", "-", "-"],
            ["g", "broken", "-", "-", "-", "-"],
        ]
    );
    assert!(lines[..8].iter().all(|line| line.len() <= 100), "{table}");
    assert_eq!(lines[8], "runs/c: the disk is full");
    assert!(lines[9].contains("runs/f/summary.json: state: found \"asleep\""));
    assert!(lines[10].contains("runs/g: not a run"), "{table}");
    assert_eq!(lines.len(), 11, "{table}");

    let listed = workplace.json(&["runs"]);
    let listed = listed.as_array().expect("a list");
    let of = |name: &str| {
        let run = json!(format!("runs/{name}"));
        let mut found = listed.iter().filter(|listed| listed["run"] == run);
        found.next().expect("listed").clone()
    };
    assert_eq!(listed.len(), 7);
    assert_eq!(of("a")["best"]["elbo"], -12.0);
    assert_eq!(of("a")["n_parameters"], 1234);
    assert_eq!(of("c")["error"], "the disk is full");
    assert_eq!(of("e")["state"], "running");
    assert!(
        of("g")["problem"]
            .as_str()
            .expect("text")
            .contains("not a run")
    );

    drop(lock);
    let table = workplace.stdout(&["runs"]);
    let row = table.lines().find(|line| line.starts_with("e "));
    assert_eq!(words(row.expect("a row"))[1], "interrupted");
    // Runs have a lock file from the start. Listing does not create one in other folders.
    assert!(running.lock_file().exists() && odd.lock_file().exists());
    assert!(!workplace.path("runs/g/run.lock").exists());
}

#[test]
fn the_size_is_that_of_all_files_below() {
    let workplace = Workplace::new();
    let run_dir = workplace.run("a", "", "killed", &[]);
    let size = || workplace.json(&["runs", "runs/a"])[0]["size_bytes"].as_u64();
    let before = size().expect("a number");
    fs::write(run_dir.pictures().join("one.png"), [0; 1000]).expect("written");
    fs::write(run_dir.checkpoints().join("two"), [0; 24]).expect("written");
    assert_eq!(size(), Some(before + 1024));
}

#[test]
fn no_runs_are_no_error_and_no_folder_is_one() {
    let workplace = Workplace::new();
    assert_eq!(workplace.stdout(&["runs"]), "");
    assert_eq!(workplace.json(&["runs"]), json!([]));
    fs::remove_dir(workplace.path("runs")).expect("an empty folder");
    assert_eq!(workplace.stdout(&["runs"]), "");
    assert_eq!(workplace.json(&["runs"]), json!([]));
    let said = workplace.error(&["runs", "nowhere"]);
    assert!(said.starts_with("error: nowhere: "), "{said}");
}

#[test]
fn runs_are_compared_by_metrics_and_by_what_differs_in_their_configs() {
    let workplace = Workplace::new();
    workplace.run("a", "seed = 0", "finished", &[-20.0, -12.0, -13.0]);
    workplace.run(
        "b",
        "seed = 1\n[model]\nlatent_dims = 5",
        "killed",
        &[-15.5],
    );
    let args = ["compare", "runs/a", "runs/b", "--out", "elbo.png"];

    let text = workplace.stdout(&args);
    let lines: Vec<Vec<&str>> = text.lines().map(words).collect();
    assert_eq!(
        lines[1],
        ["runs/a,", "best", "-12.00", "8.00", "4.00", "2/10"]
    );
    let last = ["runs/a,", "last", "-13.00", "9.00", "4.00", "3/10"];
    assert_eq!(
        lines[2],
        [&last[..], &["finished", "01:01:40", "1,234"]].concat()
    );
    // Its only epoch is both.
    let both = ["runs/b,", "best", "and", "last"];
    let values = ["-15.50", "11.50", "4.00", "1/10"];
    assert_eq!(
        lines[3],
        [&both[..], &values, &["stopped", "00:00:30", "-"]].concat()
    );
    assert_eq!(lines[5], ["config", "runs/a", "runs/b"]);
    assert_eq!(lines[6], ["model.latent_dims", "2", "5"]);
    assert_eq!(lines[7], ["seed", "0", "1"]);
    assert_eq!(lines[9], ["elbo.png"]);
    assert_eq!(lines.len(), 10, "{text}");
    let size = image::image_dimensions(workplace.path("elbo.png")).expect("a picture");
    assert_eq!(size, (1400, 900));

    let found = workplace.json(&args);
    assert_eq!(
        found["differences"],
        json!({ "model.latent_dims": [2, 5], "seed": [0, 1] })
    );
    assert_eq!(found["runs"][0]["best"]["elbo"], -12.0);
    assert_eq!(found["runs"][1]["state"], "stopped");
    assert_eq!(found["picture"], "elbo.png");

    let same = workplace.stdout(&["compare", "runs/a", "runs/a"]);
    assert!(same.ends_with("\nThe configs are the same.\n"), "{same}");
}

#[test]
fn a_key_that_only_one_run_has_differs_and_other_images_are_noted() {
    let workplace = Workplace::new();
    workplace.run("a", "[optimizer.adam]", "finished", &[-3.0]);
    workplace.run("b", "[optimizer.rmsprop]", "finished", &[-3.0]);
    let found = workplace.json(&["compare", "runs/a", "runs/b"]);
    let values = &found["differences"]["optimizer.rmsprop.learning_rate"];
    assert_eq!(values[0], Value::Null);
    assert!(values[1].is_f64());

    let config = fs::read_to_string(workplace.path("runs/a/config.toml")).expect("text");
    let other = config.replace("folder = \"data\"", "folder = \"elsewhere\"");
    fs::write(workplace.path("runs/b/config.toml"), other).expect("written");
    let output = workplace.vae(&["compare", "runs/a", "runs/b"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("differ in dataset.idx.folder"), "{said}");
}

#[test]
fn a_run_that_cannot_be_compared_is_named() {
    let workplace = Workplace::new();
    let run_dir = workplace.run("a", "", "killed", &[-3.0, -2.0]);
    let said = workplace.error(&["compare", "runs/a", "runs/b"]);
    assert!(said.contains("runs/b: no such folder"), "{said}");
    fs::write(run_dir.metrics_file(), "{\"epoch\": 1}\n").expect("written");
    let said = workplace.error(&["compare", "runs/a", "runs/a"]);
    assert!(said.contains("runs/a/metrics.jsonl: line 1"), "{said}");
}

#[test]
fn an_objectives_named_terms_are_listed_with_their_better_direction() {
    let workplace = Workplace::new();
    let beta_tc = "objective.regularizer.beta_tc = {}";
    let run_dir = workplace.run("a", beta_tc, "killed", &[-20.0, -12.0]);
    workplace.run("b", "", "killed", &[-3.0]);
    let mut records = run_dir.records().expect("records");
    for record in &mut records {
        let value = -record.means.elbo.expect("an elbo") / 8.0;
        record.named.insert("total_correlation".to_owned(), value);
    }
    fs::remove_file(run_dir.metrics_file()).expect("removed");
    run_dir.append_records(records.iter()).expect("written");
    let terms = run_dir.terms().expect("a table");
    let term = terms.iter().find(|term| term.name == "total_correlation");
    assert_eq!(term.expect("declared").unit, "nats per image");

    let text = workplace.stdout(&["compare", "runs/a", "runs/b"]);
    let lines: Vec<Vec<&str>> = text.lines().map(words).collect();
    assert_eq!(
        lines[0][..6],
        [
            "run",
            "elbo",
            "reconstruction",
            "kl",
            "total_correlation",
            "↓"
        ]
    );
    assert_eq!(
        lines[1][1..8],
        ["best", "and", "last", "-12.00", "8.00", "4.00", "1.5000"]
    );
    assert_eq!(
        lines[2][1..8],
        ["best", "and", "last", "-3.00", "-1.00", "4.00", "-"]
    );
    let found = workplace.json(&["compare", "runs/a", "runs/b"]);
    assert_eq!(found["runs"][0]["best"]["total_correlation"], 1.5);

    let table = workplace.stdout(&["runs", "--metric", "total_correlation", "--sort", "name"]);
    let lines: Vec<Vec<&str>> = table.lines().map(words).collect();
    assert_eq!(lines[0][3..5], ["best", "total_correlation"]);
    assert_eq!(lines[1][..5], ["a", "stopped", "2/10", "1.5000", "2"]);
    assert_eq!(lines[2][..5], ["b", "stopped", "1/10", "-", "-"]);
}

#[test]
fn the_best_epoch_is_that_of_the_runs_own_metric_or_of_the_one_asked_for() {
    let workplace = Workplace::new();
    for name in ["a", "b"] {
        // By the elbo the second epoch is best, by the mean squared error the third.
        let run_dir = workplace.run(
            name,
            "checkpoints.metric = 'mse'",
            "killed",
            &[-20.0, -12.0, -13.0],
        );
        let mut records = run_dir.records().expect("records");
        for (record, mse) in records.iter_mut().zip([0.3, 0.2, 0.1]) {
            record.mse = Some(mse);
        }
        fs::remove_file(run_dir.metrics_file()).expect("removed");
        run_dir.append_records(records.iter()).expect("written");
    }
    let compare = ["compare", "runs/a", "runs/b", "--out", "curves.png"];
    let with = |metric| [&compare[..], &["--metric", metric]].concat();
    let best = |args: &[&str]| {
        let found = workplace.json(args);
        [0, 1].map(|i| {
            found["runs"][i]["best"]["epoch"]
                .as_u64()
                .expect("an epoch")
        })
    };
    assert_eq!(best(&compare), [3, 3]);
    let picture = || fs::read(workplace.path("curves.png")).expect("a picture");
    let by_mse = picture();
    assert_eq!(best(&with("elbo")), [2, 2]);
    assert_ne!(picture(), by_mse, "another metric has other curves");
    assert_eq!(best(&with("mse")), [3, 3]);
    assert_eq!(picture(), by_mse);
    assert_eq!(
        workplace.json(&["runs", "--sort", "name"])[0]["best"]["epoch"],
        3
    );
    let said = workplace.error(&with("accuracy"));
    assert!(
        said.contains("--metric accuracy: no run has logged it"),
        "{said}"
    );
}
