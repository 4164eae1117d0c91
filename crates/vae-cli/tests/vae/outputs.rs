//! Output and exit of the program: closed pipes, full disks, impossible names, signals, endless files.
#![cfg(unix)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Workplace, stderr, stdout};
use serde_json::Value;

/// A shared workplace with a trained run, which tests must not change.
static TRAINED: LazyLock<Workplace> = LazyLock::new(|| {
    let workplace = Workplace::new();
    workplace.train(&["--epochs", "1"], "run");
    workplace
});

/// A separate workplace with a run.
fn trained() -> Workplace {
    let workplace = Workplace::new();
    let copied = Command::new("cp")
        .arg("-r")
        .args([TRAINED.path("run"), workplace.path("run")])
        .status();
    assert!(copied.expect("cp runs").success());
    workplace
}

fn succeeds(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// The program with a limit set by the shell, for example `ulimit -f 0`.
fn limited(workplace: &Workplace, limit: &str, args: &[&str]) -> Output {
    let vae = workplace.command(args);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{limit}; exec \"$@\""), "sh"])
        .arg(vae.get_program())
        .args(vae.get_args())
        .current_dir(workplace.path(""))
        .env("OMP_NUM_THREADS", "1")
        .env_remove("RUST_BACKTRACE");
    shell.output().expect("sh runs")
}

#[test]
fn results_that_nobody_reads_are_no_error() {
    let workplace = Workplace::new();
    let train = ["train", "small.toml", "--epochs", "1", "--out", "run"];
    let commands: [&[&str]; 7] = [
        &train,
        &["runs", "."],
        &["compare", "run", "run"],
        &["describe", "small.toml"],
        &["data", "stats", "small.toml"],
        &["sample", "run", "--out", "p.png"],
        &[
            "eval",
            "run",
            "--only",
            "likelihood",
            "--samples",
            "2",
            "--device",
            "cpu",
        ],
    ];
    for args in commands {
        let mut child = workplace
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        drop(child.stdout.take()); // Like `| head -c 0`.
        let output = child.wait_with_output().expect("it ends");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        assert!(
            !said.contains("error") && !said.contains("pipe"),
            "{args:?}: {said}"
        );
    }
    for closed in ["exec >&-", "exec 2>&-", "exec >&- 2>&-"] {
        let output = limited(&workplace, closed, &["runs", "."]);
        assert_eq!(output.status.code(), Some(0), "{closed}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_stdout_or_stderr_ends_no_training() {
    let workplace = Workplace::new();
    let full = || {
        let device = File::options().write(true).open("/dev/full");
        Stdio::from(device.expect("a device"))
    };
    let train =
        |out: &str| workplace.command(&["train", "small.toml", "--epochs", "1", "--out", out]);
    let output = train("a").stdout(full()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("warning: standard output: No space left"));
    let output = train("b").stderr(full()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("samples.png"));
    // The result of other commands is their output.
    let mut command = workplace.command(&["describe", "small.toml"]);
    let output = command.stdout(full()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let mut command = workplace.command(&["describe", "nowhere.toml"]);
    let output = command.stderr(full()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn what_was_measured_is_printed_where_it_cannot_be_written() {
    let workplace = trained();
    let eval = [
        "eval",
        "run",
        "--device",
        "cpu",
        "--only",
        "likelihood",
        "--samples",
        "2",
    ];
    let output = limited(&workplace, "ulimit -f 0", &eval);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        stdout(&output).contains("negative log-likelihood"),
        "{}",
        stdout(&output)
    );
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].contains("the results will only be printed"),
        "{said}"
    );
    let last = lines.last().expect("a line");
    assert!(
        last.starts_with("error: run/eval.json: File too large"),
        "{said}"
    );

    let learn = ["attribute", "run", "learn", "digit=3", "digit=5"];
    let output = limited(&workplace, "ulimit -f 0", &learn);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(stdout(&output).contains("class=5"), "{}", stdout(&output));
    assert!(
        said.contains("the directions will only be printed"),
        "{said}"
    );
    assert!(
        said.contains("attributes.safetensors: File too large"),
        "{said}"
    );
    assert!(!workplace.path("run/attributes.safetensors").exists());
}

#[test]
fn a_file_that_may_not_grow_is_an_error_of_its_name() {
    let workplace = trained();
    let decode = [
        "decode", "run", "z.csv", "--device", "cpu", "--out", "images",
    ];
    fs::write(workplace.path("z.csv"), "mean_0,mean_1\n0,0\n1,1\n").expect("written");
    for args in [
        &["sample", "run", "--out", "p.png"][..],
        &["sample", "run", "--each", "new"],
        &["interpolate", "run", "z:0,0", "z:1,1", "--gif", "a.gif"],
        &["plot", "run", "projector", "--out", "projector"],
        &["encode", "run", "--device", "cpu", "--out", "z.parquet"],
        &["encode", "run", "--device", "cpu", "--out", "z.npy"],
        &["encode", "run", "--device", "cpu", "--out", "z2.csv"],
        &["encode", "run", "--device", "cpu", "--out", "z.safetensors"],
        &[
            "export",
            "run",
            "--device",
            "cpu",
            "--format",
            "safetensors",
            "--out",
            "e",
        ],
        &[
            "export",
            "run",
            "--device",
            "cpu",
            "--format",
            "torchscript",
            "--out",
            "e2",
        ],
        &["compare", "run", "run", "--out", "c.png"],
        &decode,
    ] {
        let output = limited(&workplace, "ulimit -f 0", args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("File too large"), "{args:?}: {said}");
        let out = workplace.path(args.last().expect("an argument"));
        let is_empty = |folder: &Path| fs::read_dir(folder).is_ok_and(|mut e| e.next().is_none());
        assert!(!out.exists() || is_empty(&out), "{args:?} left something");
    }
    let args = ["train", "small.toml", "--epochs", "1", "--out", "run2"];
    let output = limited(&workplace, "ulimit -f 4", &args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
}

#[test]
fn every_latent_becomes_a_file_whatever_its_name() {
    let workplace = trained();
    let decode = ["decode", "run", "z.csv", "--device", "cpu", "--out"];
    let long = "x".repeat(400);
    let table = format!(
        "file,mean_0,mean_1\na.png,0,0\na.png,0,1\na.png,1,1\n{long}.png,0,0\na.png/b,0,0\n00000005,1,1\n,0,0\n"
    );
    fs::write(workplace.path("z.csv"), table).expect("written");
    let output = workplace.vae(&[&decode[..], &["images"]].concat());
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    let mut names: Vec<String> = fs::read_dir(workplace.path("images"))
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    let wanted = [
        "00000003.png",
        "00000004.png",
        "00000005.png",
        "00000006.png",
        "a-1.png",
        "a-2.png",
        "a.png",
    ];
    assert_eq!(names, wanted);
    for name in wanted {
        let size = image::image_dimensions(workplace.path("images").join(name));
        assert_eq!(size.expect("a picture"), (12, 12), "{name}");
    }
    assert!(
        said.contains("row 1: the name a.png is taken or not possible; its image is a-1.png"),
        "{said}"
    );
}

#[test]
fn pictures_with_endings_of_no_format_are_refused() {
    let workplace = trained();
    fs::write(workplace.path("z.csv"), "mean_0,mean_1\n0,0\n").expect("written");
    for (args, code) in [
        (&["sample", "run", "--out"][..], 2),
        (&["manifold", "run", "--out"], 2),
        (&["reconstruct", "run", "--out"], 2),
        (&["traverse", "run", "--out"], 2),
        (&["interpolate", "run", "z:0,0", "z:1,1", "--out"], 2),
        (&["attribute", "run", "apply", "digit=3=1", "--out"], 2),
        (&["attribute", "run", "strip", "digit=3", "--out"], 2),
        (&["compare", "run", "run", "--out"], 2),
        (&["plot", "run", "kl", "--out"], 1),
        (&["decode", "run", "z.csv", "--device", "cpu", "--out"], 1),
    ] {
        for name in ["s.tif", "s.bmp"] {
            let output = workplace.vae(&[args, &[name]].concat());
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
            assert!(said.contains("expected a name in .png"), "{args:?}: {said}");
            assert!(!workplace.path(name).exists());
        }
    }
}

#[test]
fn directions_learned_at_the_same_time_are_all_kept() {
    let workplace = trained();
    let children: Vec<Child> = (0..7)
        .map(|class| {
            workplace
                .command(&["attribute", "run", "learn", &format!("digit={class}")])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary runs")
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", stderr(&output));
    }
    for class in 0..7 {
        succeeds(
            &workplace,
            &[
                "attribute",
                "run",
                "strip",
                &format!("digit={class}"),
                "--out",
                "p.png",
            ],
        );
    }
}

#[test]
fn directions_of_another_length_are_refused() {
    let workplace = trained();
    succeeds(&workplace, &["attribute", "run", "learn", "digit=3"]);
    let path = workplace.path("run/attributes.safetensors");
    let file = fs::read(&path).expect("a file");
    let header_length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    let header = String::from_utf8(file[8..8 + header_length].to_vec()).expect("JSON");
    assert!(
        header.contains("\"shape\":[2],\"data_offsets\":[0,8]"),
        "{header}"
    );
    let with = |shape: &str, numbers: &[f32]| {
        let end = 4 * numbers.len();
        let header = header.trim_end().replace(
            "\"shape\":[2],\"data_offsets\":[0,8]",
            &format!("\"shape\":{shape},\"data_offsets\":[0,{end}]"),
        );
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        fs::write(&path, bytes).expect("written");
        workplace.error(
            &["attribute", "run", "strip", "digit=3", "--out", "p.png"],
            1,
        )
    };
    for (shape, numbers, wanted) in [
        (
            "[3]",
            &[1.0; 3][..],
            "has 3 numbers, but the model has 2 latent dimensions",
        ),
        ("[1]", &[1.0], "has 1 numbers"),
        ("[0]", &[], "has 0 numbers"),
        ("[1,2]", &[1.0, 2.0], "has shape [1, 2], expected [Z]"),
        ("[2]", &[1.0, f32::NAN], "holds NaN"),
    ] {
        let said = with(shape, numbers);
        assert!(
            said.contains(wanted) && said.contains("attributes.safetensors"),
            "{said}"
        );
    }
}

#[test]
fn names_with_control_characters_are_shown_escaped() {
    let workplace = trained();
    let name = "\u{1b}[2Jrun\nforged: line\u{202e}";
    fs::rename(workplace.path("run"), workplace.path(name)).expect("renamed");
    fs::create_dir(workplace.path("broken\u{7}")).expect("created");
    let shown = "\\u{1b}[2Jrun\\nforged: line\\u{202e}";
    let output = workplace.vae(&["runs", "."]);
    let table = stdout(&output);
    assert!(
        table.contains(shown) && table.contains("broken\\u{7}"),
        "{table}"
    );
    assert!(!table.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{table}");
    let said = workplace.refused(&["sample", name, "--out", "nowhere/p.png"]);
    assert!(said.contains("nowhere"), "{said}");
    let said = workplace.error(&["train", name], 2);
    assert!(said.contains(shown), "{said}");
    let said = workplace.error(&["compare", name, "nowhere\u{1b}"], 1);
    assert!(said.contains("nowhere\\u{1b}"), "{said}");
    // A warning about a checkpoint that is skipped.
    let checkpoints = workplace
        .path(name)
        .join("checkpoints/epoch-0009-step-00000099");
    fs::create_dir(&checkpoints).expect("created");
    fs::write(checkpoints.join("SHA256SUMS"), "").expect("written");
    let output = workplace.vae(&["sample", name, "--checkpoint", "last", "--out", "p.png"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains(shown) && !said.contains('\u{1b}'), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// Runs a command that must end within seconds, with little memory.
fn ends_soon(workplace: &Workplace, args: &[&str]) -> String {
    let begun = Instant::now();
    // 4 GiB of addresses: more than libtorch's libraries take.
    let output = limited(
        workplace,
        "ulimit -v 8388608",
        &[args, &["--threads", "1"]].concat(),
    );
    let said = stderr(&output);
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{args:?}: {:?}",
        begun.elapsed()
    );
    assert_eq!(said.trim_end().lines().count(), 1, "{args:?}: {said}");
    assert!(said.starts_with("error: "), "{args:?}: {said}");
    said
}

#[cfg(target_os = "linux")]
#[test]
fn files_without_end_and_things_that_are_no_files_are_refused_at_once() {
    let workplace = trained();
    let pipe = workplace.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    fs::create_dir(workplace.path("folder")).expect("created");
    let newlines = workplace.path("newlines.toml");
    fs::write(&newlines, vec![b'\n'; 2 << 20]).expect("written");

    let said = ends_soon(&workplace, &["train", "newlines.toml"]);
    assert!(
        said.contains("newlines.toml: is larger than 1 MiB"),
        "{said}"
    );
    let linked = |name: &str, target: &str| {
        let path = workplace.path(name);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).expect("linked");
    };
    for (target, wanted) in [
        ("/dev/zero", "is a pipe or device, expected a file"),
        (
            pipe.to_str().expect("UTF-8"),
            "is a pipe or device, expected a file",
        ),
        (
            workplace.path("folder").to_str().expect("UTF-8"),
            "is a folder, expected a file",
        ),
    ] {
        let said = ends_soon(&workplace, &["train", target]);
        assert!(said.contains(wanted), "{target}: {said}");
        let endings: &[&str] = match target {
            "/dev/zero" => &["csv", "npy", "parquet", "safetensors"],
            _ => &["csv"], // Opened by the same function.
        };
        for ending in endings {
            let name = format!("z.{ending}");
            linked(&name, target);
            let args = ["decode", "run", &name, "--device", "cpu", "--out", "d"];
            let said = ends_soon(&workplace, &args);
            assert!(said.contains(wanted), "{target} {ending}: {said}");
        }
        let import = [
            "import",
            "--config",
            "small.toml",
            "state.safetensors",
            "--map",
            target,
            "--out",
            "i",
        ];
        let said = ends_soon(&workplace, &import);
        assert!(said.contains(wanted), "{target}: {said}");
        for (file, args) in [
            ("eval.json", &["compare", "run", "run"][..]),
            (
                "metrics.jsonl",
                &["compare", "run", "run", "--out", "p.png"],
            ),
            ("summary.json", &["compare", "run", "run"]),
        ] {
            let path = workplace.path("run").join(file);
            let kept = fs::read(&path).ok();
            linked(&format!("run/{file}"), target);
            let said = ends_soon(&workplace, args);
            assert!(said.contains(wanted), "{target} {file}: {said}");
            fs::remove_file(&path).expect("removed");
            if let Some(kept) = kept {
                fs::write(&path, kept).expect("written");
            }
        }
    }
}

/// A command that goes on until it is stopped.
struct Running {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn train(workplace: &Workplace, args: &[&str], ignored: &'static [i32]) -> Self {
        let args = [&["train", "--epochs", "1000000"], args].concat();
        Self::start(workplace, &args, ignored)
    }

    /// `ignored` signals are ignored when the program starts, and no others, whatever the tests were started
    /// with (`nohup`).
    fn start(workplace: &Workplace, args: &[&str], ignored: &'static [i32]) -> Self {
        let mut command = workplace.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: `signal` may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
                    let action = match ignored.contains(&signal) {
                        true => libc::SIG_IGN,
                        false => libc::SIG_DFL,
                    };
                    libc::signal(signal, action);
                }
                Ok(())
            });
        }
        let mut child = command.spawn().expect("the binary runs");
        let said = BufReader::new(child.stderr.take().expect("a pipe"));
        Self { child, said }
    }

    fn wait_until_it_says(&mut self, wanted: &str) {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.said.read_line(&mut line).expect("text");
            assert!(n > 0, "it ended before it said {wanted}");
            if line.contains(wanted) {
                return;
            }
        }
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process number");
        // SAFETY: kill takes two integers; the process is our child and has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// The exit code or signal, and the remaining output.
    fn end(mut self) -> (Option<i32>, Option<i32>, String) {
        let mut said = String::new();
        self.said.read_to_string(&mut said).expect("text");
        let status = self.child.wait().expect("it ends");
        (status.code(), status.signal(), said)
    }
}

#[test]
fn a_second_ctrl_c_ends_at_once_and_does_not_crash() {
    let workplace = Workplace::new();
    // Two threads, and steps long enough that the second signal arrives during one.
    fs::write(
        workplace.path("wide.toml"),
        "[dataset.idx]\nfolder = 'data'\n[model.network.mlp]\nhidden = [1500, 1500]\n[training]\n\
         batch_size = 70\n",
    )
    .expect("written");
    let mut n_at_once = 0;
    for i in 0..20 {
        let out = format!("run-{i}");
        let args = ["wide.toml", "--threads", "2", "--out", &out];
        let mut training = Running::train(&workplace, &args, &[]);
        training.wait_until_it_says("training and");
        thread::sleep(Duration::from_millis(20 + 7 * i));
        training.signal(libc::SIGINT);
        training.wait_until_it_says("once more to exit at once");
        training.signal(libc::SIGINT);
        let (code, signal, said) = training.end();
        assert_eq!((code, signal), (Some(130), None), "{said}");
        n_at_once += usize::from(!said.contains("resume with"));
    }
    assert!(n_at_once > 0, "no second signal came before the end");
}

#[test]
fn a_search_for_latents_that_is_stopped_leaves_no_file() {
    let workplace = trained();
    for args in [
        &["reconstruct", "run", "--out", "closer.png"][..],
        &["encode", "run", "--device", "cpu", "--out", "closer.csv"],
    ] {
        let long = [args, &["--invert", "--invert-steps", "1000000"]].concat();
        let mut search = Running::start(&workplace, &long, &[]);
        search.wait_until_it_says("1000000 steps for 20 images");
        search.signal(libc::SIGINT);
        let (code, signal, said) = search.end();
        assert_eq!((code, signal), (Some(130), None), "{said}");
        let files = fs::read_dir(workplace.path("")).expect("a folder");
        let names = files.map(|file| file.expect("a file").file_name());
        assert!(
            !names
                .into_iter()
                .any(|name| name.to_string_lossy().contains("closer"))
        );
    }
}

#[test]
fn signals_that_are_ignored_at_the_start_stay_ignored() {
    let workplace = Workplace::new();
    let ignored: [&'static [i32]; 2] = [&[libc::SIGHUP], &[libc::SIGINT]];
    for (i, ignored) in ignored.into_iter().enumerate() {
        let out = format!("run-{i}");
        let mut training = Running::train(&workplace, &["small.toml", "--out", &out], ignored);
        training.wait_until_it_says("epoch 1/");
        training.signal(ignored[0]);
        training.signal(ignored[0]);
        for _ in 0..3 {
            training.wait_until_it_says("epoch ");
        }
        training.signal(libc::SIGTERM);
        let (code, signal, said) = training.end();
        assert_eq!((code, signal), (Some(130), None), "{said}");
        assert!(said.contains("resume with"), "{said}");
    }
    // Where it is not ignored, a hangup stops and saves.
    let mut training = Running::train(&workplace, &["small.toml", "--out", "run"], &[]);
    training.wait_until_it_says("epoch 1/");
    training.signal(libc::SIGHUP);
    let (code, _, said) = training.end();
    assert_eq!(code, Some(130), "{said}");
    let summary = fs::read_to_string(workplace.path("run/summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(summary["state"], "interrupted");
}
