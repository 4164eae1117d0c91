//! Runs that were stopped in every possible way, and resumed.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Workplace, metrics, stderr};
use serde_json::Value;
use vae_run::{Checkpoint, RunDir};

/// A process that is killed if the test fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(workplace: &Workplace, args: &[&str]) -> Self {
        let child = workplace
            .command(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        Self(child)
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.0.id()).expect("a process number");
        // SAFETY: kill takes two integers; the process is our child and has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Reads the output until a line contains `wanted`; false if the output ends before.
    fn wait_until_it_says(&mut self, wanted: &str) -> bool {
        let said = self.0.stderr.as_mut().expect("a pipe");
        // Unbuffered, so that the rest stays in the pipe.
        let mut line = String::new();
        let mut byte = [0];
        while said.read(&mut byte).is_ok_and(|n| n == 1) {
            line.push(byte[0] as char);
            if line.contains(wanted) {
                return true;
            }
            if byte[0] == b'\n' {
                line.clear();
            }
        }
        false
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let mut pipe = self.0.stderr.take().expect("a pipe");
        pipe.read_to_string(&mut said).expect("text");
        (self.0.wait().expect("it ends").code(), said)
    }
}

/// Uniform numbers from 0 to 1, the same in every run of the test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        // The high bits of a linear congruential generator with Knuth's MMIX constants are good enough here.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn bytes(run: &Path, file: &str) -> Vec<u8> {
    let run_dir = RunDir::open(run).expect("a run");
    let folder = Checkpoint::Last
        .open(&run_dir)
        .expect("a checkpoint")
        .folder;
    fs::read(folder.join(file)).expect("a file")
}

/// Checks that two runs have the same results, digit for digit.
fn assert_equal(run: &Path, straight: &Path) {
    assert_eq!(metrics(run), metrics(straight));
    for file in [
        "weights.safetensors",
        "raw-weights.safetensors",
        "optimizer.safetensors",
    ] {
        assert!(bytes(run, file) == bytes(straight, file), "{file}");
    }
}

/// Settings for a checkpoint after nearly every step and few other files.
const BUSY: [&str; 12] = [
    "--set",
    "checkpoints.every_minutes=0.00001",
    "--set",
    "training.ema_decay=0.99",
    "--set",
    "pictures.n_samples=1",
    "--set",
    "pictures.n_reconstructions=1",
    "--set",
    "pictures.manifold_size=2",
    "--set",
    "tensorboard=false",
];

/// Kills a run of the config `n_kills` times, each time at a random moment, and checks that it ends as a run that was never
/// killed. `of_an_epoch` is in the line of a finished epoch.
fn killed_at_random(workplace: &Workplace, config: &str, n_kills: usize, of_an_epoch: &str) {
    let mut random = Random(1);
    let mut said_on_resume = 0;
    for kill in 0..n_kills {
        let exists = workplace.path("run/config.toml").exists();
        let mut args = vec!["train", config, "--epochs", "1000000"];
        args.extend(if exists {
            ["--resume", "run"]
        } else {
            ["--out", "run"]
        });
        args.extend(BUSY);
        let mut process = Process::start(workplace, &args);
        // Every sixth kill is while the process starts, the others are at a random moment of the training.
        if kill % 6 != 0 {
            let trains = process.wait_until_it_says("training and");
            assert!(trains, "{:?}", process.end());
            said_on_resume += usize::from(exists);
        }
        // Some processes reach the end of an epoch even on a slow machine.
        if kill % 6 == 5 {
            let ends = process.wait_until_it_says(of_an_epoch);
            assert!(ends, "{:?}", process.end());
        }
        std::thread::sleep(Duration::from_secs_f64(0.3 * random.next()));
        process.signal(libc::SIGKILL);
        let (code, said) = process.end();
        assert_eq!(code, None, "it ended by itself: {said}");
        assert!(!said.contains("damaged"), "{said}");
    }
    assert!(said_on_resume > n_kills / 2);

    let epochs = {
        let run_dir = RunDir::open(&workplace.path("run")).expect("a run");
        let state = Checkpoint::Last.open(&run_dir).expect("a checkpoint").state;
        // The number of steps depends on the machine.
        assert!(state.position.steps > 0, "{:?}", state.position);
        (state.position.epochs + 2).to_string()
    };
    let output = workplace.vae(&["train", "--resume", "run", "--epochs", &epochs]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut args = vec!["train", config, "--out", "straight", "--epochs", &epochs];
    args.extend(BUSY);
    args.extend(["--set", "checkpoints.every_minutes=1000"]);
    let output = workplace.vae(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_equal(&workplace.path("run"), &workplace.path("straight"));
    // Kills during a write left no temporary files.
    for folder in ["", "run", "run/checkpoints", "run/pictures"] {
        for entry in fs::read_dir(workplace.path(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            assert!(!name.to_string_lossy().starts_with('.'), "{name:?}");
        }
    }
}

#[test]
fn a_run_that_was_killed_50_times_ends_as_one_that_was_not() {
    let workplace = Workplace::new();
    killed_at_random(&workplace, "small.toml", 50, "train elbo");
}

/// A generator, its discriminator with moments of its own, and a penalty on every second step.
#[test]
fn a_game_that_was_killed_at_random_steps_ends_as_one_that_was_not() {
    let workplace = Workplace::new();
    let config = "[dataset.idx]\nfolder = 'data'\n[model]\nlatent_dims = 2\nposterior = 'none'\n\
                  network.mlp.hidden = [8]\n[objective]\nregularizer = 'none'\n[objective.adversarial]\n\
                  discriminator.mlp.hidden = [8]\npenalty.r1.interval = 2\n[training]\nbatch_size = 8\n";
    fs::write(workplace.path("gan.toml"), config).expect("written");
    killed_at_random(&workplace, "gan.toml", 18, "train loss");
    let players = |run: &str| bytes(&workplace.path(run), "players.safetensors");
    assert!(players("run") == players("straight"));
}

#[test]
fn ctrl_c_and_sigterm_save_say_how_to_go_on_and_going_on_is_exact() {
    let workplace = Workplace::new();
    let ema = ["--set", "training.ema_decay=0.9"];
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let run = format!("run-{signal}");
        let mut args = vec!["train", "small.toml", "--epochs", "1000000", "--out", &run];
        args.extend(ema);
        let mut process = Process::start(&workplace, &args);
        assert!(process.wait_until_it_says("epoch 2/"));
        process.signal(signal);
        let (code, said) = process.end();
        assert_eq!(code, Some(130), "{said}");
        assert!(
            said.contains(&format!("vae train --resume {run}")),
            "{said}"
        );
        let summary = fs::read_to_string(workplace.path(&run).join("summary.json"));
        let summary: Value = serde_json::from_str(&summary.expect("a summary")).expect("JSON");
        assert_eq!(summary["state"], "interrupted");

        let epochs = (summary["epochs"].as_u64().expect("a number") + 2).to_string();
        let output = workplace.vae(&["train", "--resume", &run, "--epochs", &epochs]);
        assert!(output.status.success(), "{}", stderr(&output));
        let straight = format!("straight-{signal}");
        let mut args = vec![
            "train",
            "small.toml",
            "--epochs",
            &epochs,
            "--out",
            &straight,
        ];
        args.extend(ema);
        assert!(workplace.vae(&args).status.success());
        assert_equal(&workplace.path(&run), &workplace.path(&straight));
    }
}

#[test]
fn a_config_that_changes_the_steps_is_refused_and_one_that_does_not_is_not() {
    let workplace = Workplace::new();
    workplace.train(&["--epochs", "1"], "run");
    let resume = ["train", "--resume", "run"];
    for (setting, key) in [
        (
            "training.batch_size=17",
            "training.batch_size (was 16, now 17)",
        ),
        ("seed=1", "seed (was 0, now 1)"),
        (
            "optimizer.adam.beta1=0.8",
            "optimizer.adam.beta1 (was 0.9, now 0.8)",
        ),
        ("model.latent_dims=3", "model.latent_dims (was 2, now 3)"),
    ] {
        let args = [&resume[..], &["--epochs", "2", "--set", setting]].concat();
        let said = workplace.error(&args, 1);
        assert!(said.contains(key), "{said}");
    }
    let said = workplace.refused(&[&resume[..], &["--epochs", "0"]].concat());
    assert!(
        said.contains("--epochs") && said.contains("0 is not in 1.."),
        "{said}"
    );
    // Another data set at the config's path is recognized by its images.
    let config = fs::read_to_string(workplace.path("run/config.toml")).expect("a config");
    let images = workplace.path("data/train-images-idx3-ubyte");
    let bytes = fs::read(&images).expect("images");
    let mut other = bytes.clone();
    other[20] ^= 0xff;
    fs::write(&images, other).expect("written");
    let said = workplace.error(&[&resume[..], &["--epochs", "2"]].concat(), 1);
    assert!(said.contains("other images"), "{said}");
    fs::write(&images, bytes).expect("written");
    // The refused commands changed nothing.
    let unchanged = fs::read_to_string(workplace.path("run/config.toml")).expect("a config");
    assert_eq!(unchanged, config);
    assert!(workplace.path("run/summary.json").exists());
    let output = workplace.vae(&[&resume[..], &["--epochs", "2"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let straight = workplace.train(&["--epochs", "2"], "straight");
    assert_eq!(metrics(&workplace.path("run")), metrics(&straight));
    // Resuming a run that is already complete is no error.
    let output = workplace.vae(&[&resume[..], &["--epochs", "2"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let said = workplace.error(&["train", "--resume", "data"], 1);
    assert!(said.contains("data: not a run"), "{said}");
}

#[test]
fn a_second_process_is_refused_and_the_first_one_goes_on() {
    let workplace = Workplace::new();
    let args = ["train", "small.toml", "--epochs", "1000000", "--out", "run"];
    let mut process = Process::start(&workplace, &args);
    assert!(process.wait_until_it_says("epoch 1/"));
    let said = workplace.error(&["train", "--resume", "run", "--epochs", "1000000"], 1);
    assert!(said.contains("another process"), "{said}");
    assert!(said.contains(&process.0.id().to_string()), "{said}");
    assert!(process.wait_until_it_says("epoch 2/"));
    process.signal(libc::SIGKILL);
    drop(process);
    // The lock ended with the process.
    let run_dir = RunDir::open(&workplace.path("run")).expect("a run");
    let epochs = Checkpoint::Last
        .open(&run_dir)
        .expect("a checkpoint")
        .state
        .position
        .epochs
        + 1;
    let args = ["train", "--resume", "run", "--epochs", &epochs.to_string()];
    let output = workplace.vae(&args);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn of_three_that_resume_a_run_at_once_one_goes_on_and_the_others_are_refused() {
    let workplace = Workplace::new();
    workplace.train(&["--epochs", "1"], "run");
    let args = ["train", "--resume", "run", "--epochs", "1000000"];
    let mut running: Vec<Process> = (0..3).map(|_| Process::start(&workplace, &args)).collect();
    let mut refused = Vec::new();
    // The one that got the lock trains until it is killed.
    while refused.len() < 2 {
        std::thread::sleep(Duration::from_millis(10));
        let ended = running
            .iter_mut()
            .position(|process| process.0.try_wait().expect("a status").is_some());
        refused.extend(ended.map(|index| running.remove(index).end()));
    }
    let mut winner = running.remove(0);
    assert!(winner.wait_until_it_says("epoch 2/"));
    for (code, said) in refused {
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("another process"), "{said}");
    }
}

/// Runs the next test in a new mount namespace, where it may mount a small disk.
#[test]
fn a_full_disk_pauses_the_run_and_loses_nothing() {
    let this = std::env::current_exe().expect("this test's file");
    let may_mount = Command::new("unshare")
        .args(["--map-root-user", "--mount", "true"])
        .status()
        .is_ok_and(|status| status.success());
    if !may_mount {
        eprintln!("NOT TESTED: a full disk; this system lets nobody mount one (unshare)");
        return;
    }
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount"])
        .arg(this)
        .args(["--exact", "on_a_small_disk", "--ignored", "--nocapture"])
        .output()
        .expect("unshare runs");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        stderr(&output)
    );
}

#[test]
#[ignore = "a_full_disk_pauses_the_run_and_loses_nothing runs it where it may mount"]
fn on_a_small_disk() {
    let workplace = Workplace::new();
    let disk = workplace.path("disk");
    fs::create_dir(&disk).expect("created");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(&disk)
        .status()
        .expect("mount runs");
    assert!(mounted.success());

    let mut args = vec![
        "train",
        "small.toml",
        "--epochs",
        "1000000",
        "--out",
        "disk/run",
    ];
    args.extend(BUSY);
    let mut process = Process::start(&workplace, &args);
    assert!(process.wait_until_it_says("epoch 2/"));
    // Another file fills the disk while the run continues to write.
    let mut filler = fs::File::create(disk.join("filler")).expect("created");
    while filler.write_all(&[0; 4096]).is_ok() {}
    assert!(
        process.wait_until_it_says("no space left"),
        "{:?}",
        process.end()
    );
    let run_dir = RunDir::open(&workplace.path("disk/run")).expect("a run");
    let before = Checkpoint::Last
        .open(&run_dir)
        .expect("whole")
        .state
        .position;
    // The process waits and does not exit.
    std::thread::sleep(Duration::from_millis(500));
    assert!(process.0.try_wait().expect("a status").is_none());

    drop(filler);
    fs::remove_file(disk.join("filler")).expect("removed");
    assert!(process.wait_until_it_says("continuing"));
    assert!(process.wait_until_it_says("epoch "));
    process.signal(libc::SIGINT);
    let (code, said) = process.end();
    assert_eq!(code, Some(130), "{said}");
    let state = Checkpoint::Last.open(&run_dir).expect("whole").state;
    assert!(state.position.steps > before.steps);

    let epochs = (state.position.epochs + 1).to_string();
    let output = workplace.vae(&["train", "--resume", "disk/run", "--epochs", &epochs]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut args = vec![
        "train",
        "small.toml",
        "--out",
        "straight",
        "--epochs",
        &epochs,
    ];
    args.extend(BUSY);
    assert!(workplace.vae(&args).status.success());
    assert_equal(&workplace.path("disk/run"), &workplace.path("straight"));
}
