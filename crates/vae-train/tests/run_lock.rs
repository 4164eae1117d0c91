//! The lock of a run, between real processes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use vae_train::{RunConfig, RunDir, RunState, TrainError};

fn new_run(folder: &Path) -> RunDir {
    let text = "[dataset.idx]\nfolder = 'unused'\n";
    let config: RunConfig = toml::from_str(text).expect("a config");
    RunDir::create(&folder.join("run"), &config).expect("a run")
}

/// The run that [`holds_the_lock_until_it_is_killed`] locks.
const RUN: &str = "VAE_TEST_LOCKED_RUN";

/// No test: the other process of the next one.
#[test]
#[ignore = "run by another test in a process of its own"]
fn holds_the_lock_until_it_is_killed() {
    let path = std::env::var_os(RUN).expect("a run");
    let run_dir = RunDir::open(Path::new(&path)).expect("a run");
    let _lock = run_dir.lock().expect("free");
    println!("\nlocked");
    std::thread::sleep(std::time::Duration::from_secs(60));
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_lock_keeps_others_out_and_dies_with_its_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = new_run(folder.path());
    assert_eq!(run_dir.state().expect("a state"), RunState::Stopped);

    let mut other = Command::new(std::env::current_exe().expect("this test"))
        .args(["holds_the_lock_until_it_is_killed", "--exact"])
        .args(["--ignored", "--nocapture"])
        .env(RUN, run_dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .map(Guard)
        .expect("this test again");
    let said = BufReader::new(other.0.stdout.take().expect("piped"));
    let locked = said.lines().any(|line| line.expect("text") == "locked");
    assert!(locked);

    assert_eq!(run_dir.state().expect("a state"), RunState::Running);
    let refusal = run_dir.lock().expect_err("the other process has it");
    let pid = other.0.id();
    assert!(
        matches!(&refusal, TrainError::Locked { pid: Some(found), .. } if *found == pid),
        "{refusal:?}"
    );
    let said = refusal.to_string();
    let path = run_dir.path().to_str().expect("UTF-8");
    assert!(
        said.contains(path) && said.contains(&pid.to_string()),
        "{said}"
    );

    // On Unix this is kill -9: nothing of the other process runs any more.
    other.0.kill().expect("killed");
    other.0.wait().expect("ended");
    assert_eq!(run_dir.state().expect("a state"), RunState::Stopped);
    let lock = run_dir.lock().expect("free again");
    assert_eq!(run_dir.state().expect("a state"), RunState::Running);
    assert!(run_dir.lock().is_err());
    drop(lock);
    drop(run_dir.lock().expect("free again"));
    assert_eq!(run_dir.state().expect("a state"), RunState::Stopped);
}

#[test]
fn asking_for_the_state_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = new_run(folder.path());
    let n_entries = || fs::read_dir(run_dir.path()).expect("a folder").count();
    let before = n_entries();
    assert_eq!(run_dir.state().expect("a state"), RunState::Stopped);
    assert_eq!(n_entries(), before);
}

#[test]
fn a_summary_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = new_run(folder.path());
    fs::write(run_dir.summary_file(), "{\"state\"").expect("written");
    let said = run_dir.state().expect_err("half a file").to_string();
    assert!(said.contains("summary.json"), "{said}");
}

#[test]
fn the_last_line_of_the_metrics_may_be_incomplete_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = new_run(folder.path());
    assert!(run_dir.records().expect("none yet").is_empty());
    let line = r#"{"epoch":1,"step":5,"split":"validation","elbo":-3.0,"reconstruction":2.0,"kl":1.0,"loss":3.0,"images_per_s":9.0,"seconds":1.0,"learning_rate":0.001}"#;
    let write = |text: String| fs::write(run_dir.metrics_file(), text).expect("written");

    write(format!("{line}\n{}", &line[..40]));
    let records = run_dir.records().expect("records");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].means.elbo, Some(-3.0));
    write(line[..40].to_owned());
    assert!(run_dir.records().expect("none yet").is_empty());
    write(format!("{line}\n{}\n{line}\n", &line[..40]));
    let said = run_dir.records().expect_err("half a line").to_string();
    assert!(said.contains("metrics.jsonl: line 2"), "{said}");
}
