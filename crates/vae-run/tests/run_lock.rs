//! The lock of a run, between real processes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use vae_run::{RunConfig, RunDir, RunError, RunState};

fn new_run(folder: &Path) -> RunDir {
    let text = "[dataset.idx]\nfolder = 'unused'\n";
    let config: RunConfig = toml::from_str(text).expect("a config");
    RunDir::create(&folder.join("run"), &config).expect("a run")
}

/// The run that [`holds_the_lock_until_it_is_killed`] locks.
const RUN: &str = "VAE_TEST_LOCKED_RUN";

/// Not a test: the other process of the next one.
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
        matches!(&refusal, RunError::Locked { pid: Some(found), .. } if *found == pid),
        "{refusal:?}"
    );
    let said = refusal.to_string();
    let path = run_dir.path().to_str().expect("UTF-8");
    assert!(
        said.contains(path) && said.contains(&pid.to_string()),
        "{said}"
    );

    // On Unix this is kill -9: the other process runs no more code.
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

#[test]
fn what_killed_processes_left_is_removed_when_the_run_goes_on_and_what_others_write_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = new_run(folder.path());
    let checkpoints = run_dir.checkpoints();
    let gone = [
        checkpoints.join(".epoch-0001-step-00000005.partial"),
        checkpoints.join(".epoch-0001-step-00000004-2.removed"),
        checkpoints.join(".last.partial"),
        run_dir.path().join(".tmpAb3dE6"),
        run_dir.pictures().join(".tmpAb3dE6"),
        folder.path().join(".run-aB3dE6"),
    ];
    for path in &gone {
        match path.extension().is_some() || path.ends_with(".run-aB3dE6") {
            true => fs::create_dir(path).expect("created"),
            false => fs::write(path, "left").expect("written"),
        }
    }
    fs::remove_dir(&gone[2]).expect("removed");
    fs::write(&gone[2], "a link").expect("written");
    fs::write(gone[0].join("weights.safetensors"), "left").expect("written");
    fs::write(gone[5].join("run.lock"), "").expect("written");

    let stays = [
        run_dir.path().join(".tmp-living"), // Not one of this program's names.
        run_dir.path().join(".tmpLiv1ng"),
        folder.path().join(".run-Liv1ng"),
        folder.path().join(".run-n3wn3w"), // Not locked yet.
        checkpoints.join(".epochs"),
    ];
    let living = fs::File::create(&stays[1]).expect("created");
    living.lock().expect("free");
    fs::create_dir(&stays[2]).expect("created");
    let creator = fs::File::create(stays[2].join("run.lock")).expect("created");
    creator.lock().expect("free");
    for path in [&stays[0], &stays[4]] {
        fs::write(path, "another's").expect("written");
    }
    fs::create_dir(&stays[3]).expect("created");

    let _lock = run_dir.lock().expect("free");
    run_dir
        .reopen(&run_dir.config().expect("a config"))
        .expect("reopened");
    for path in &gone {
        assert!(fs::symlink_metadata(path).is_err(), "{}", path.display());
    }
    for path in &stays {
        assert!(path.exists(), "{}", path.display());
    }
}

#[test]
fn a_run_begins_in_a_folder_that_is_there_if_it_holds_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).expect("created");
    let text = "[dataset.idx]\nfolder = 'unused'\n";
    let config: RunConfig = toml::from_str(text).expect("a config");
    #[cfg(unix)]
    let path = {
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&empty, &link).expect("linked");
        link
    };
    #[cfg(not(unix))]
    let path = empty.clone();
    // The contents of a new file system, and those left by a process that was killed while it created the run.
    for name in ["lost+found", "pictures", "checkpoints"] {
        fs::create_dir(empty.join(name)).expect("created");
    }
    for name in ["run.lock", ".tmpAb3dE6"] {
        fs::write(empty.join(name), "").expect("written");
    }
    assert!(RunDir::open(&path).is_err(), "no run yet");
    let run_dir = RunDir::create(&path, &config).expect("a run");
    let mut found = RunDir::open(&empty)
        .expect("a run")
        .config()
        .expect("a config");
    found.dataset.folders.clear(); // Where the data are looked for.
    assert_eq!(found, config.clone().resolved());
    drop(run_dir.lock().expect("free"));
    // The run exists and is not created again; nor is one in a folder with other files.
    let other = folder.path().join("other");
    fs::create_dir_all(other.join("checkpoints/epoch-0001-step-00000005")).expect("created");
    for path in [&path, &other] {
        let refused = RunDir::create(path, &config).expect_err("files");
        assert!(matches!(refused, RunError::RunExists { .. }), "{refused}");
    }
}
