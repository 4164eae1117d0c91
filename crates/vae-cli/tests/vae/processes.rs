//! `vae train --processes`: several processes that train together, and what becomes of them when one fails.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Workplace, lines, stderr, stdout};
use serde_json::Value;

/// The metrics of a run without what depends on time, and its weights.
fn results(run: &Path) -> (Vec<Value>, Vec<u8>) {
    let mut records = lines(&run.join("metrics.jsonl"));
    for record in &mut records {
        let record = record.as_object_mut().expect("an object");
        for key in ["seconds", "images_per_s", "waited"] {
            record.remove(key);
        }
    }
    let weights = fs::read(run.join("checkpoints/last/weights.safetensors"));
    (records, weights.expect("weights"))
}

/// The validation elbo of the last epoch.
fn elbo(run: &Path) -> f64 {
    let (records, _) = results(run);
    let last = records.last().expect("a record");
    last["elbo"].as_f64().expect("an elbo")
}

/// The processes that this one has started, by their numbers.
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|process| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
            after.split(' ').nth(1) == Some(&*parent.to_string())
        })
        .collect()
}

fn is_there(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn signal(process: u32, name: &str) {
    // The shell's own, which is there without a package.
    let line = format!("kill {name} {process}");
    let sent = Command::new("sh")
        .args(["-c", &line])
        .stderr(Stdio::null())
        .status();
    assert!(sent.is_ok());
}

fn started(command: &mut Command) -> Child {
    let pipes = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    pipes.spawn().expect("the binary runs")
}

/// Waits for the end of a process, not for ever.
fn ended(mut child: Child, within: Duration) -> Output {
    let begun = Instant::now();
    while child.try_wait().expect("a process").is_none() {
        if begun.elapsed() > within {
            let _ = child.kill();
            let output = child.wait_with_output().expect("what it said");
            panic!("it did not end: {}", stderr(&output));
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("what it said")
}

const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until a run has a checkpoint.
fn wait_for_checkpoint(run: &Path) {
    let begun = Instant::now();
    while !run.join("checkpoints/last").exists() {
        assert!(begun.elapsed() < PATIENCE, "no checkpoint");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_same_number_of_processes_gives_the_same_bits_and_another_nearly_the_same_numbers() {
    let workplace = Workplace::new();
    let alone = workplace.train(&[], "alone");
    let two = workplace.train(&["--processes", "2"], "two");
    let again = workplace.train(&["--processes", "2"], "again");
    let four = workplace.train(&["--processes", "4"], "four");
    assert_eq!(results(&two), results(&again));
    for other in [&two, &four] {
        let (wanted, found) = (elbo(&alone), elbo(other));
        assert!(
            (wanted - found).abs() < 1e-4 * wanted.abs(),
            "{wanted} {found}"
        );
    }
    // One writer: a run of several has what a run of one has.
    let names = |run: &Path| -> Vec<String> {
        let entries = fs::read_dir(run).expect("a folder").flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&alone), names(&two));
    let output = workplace.vae(&[
        "train",
        "small.toml",
        "--processes",
        "2",
        "--json",
        "--out",
        "json",
    ]);
    let summary: Value = serde_json::from_str(&stdout(&output)).expect("one summary");
    assert_eq!(summary["state"], "finished");
}

#[test]
fn a_checkpoint_of_two_processes_is_resumed_by_one_and_by_three() {
    let workplace = Workplace::new();
    let whole = workplace.train(&["--epochs", "4"], "whole");
    for n in ["1", "3"] {
        let name = format!("by-{n}");
        workplace.train(&["--processes", "2"], &name);
        let arguments = [
            "train",
            "--resume",
            &name,
            "--epochs",
            "4",
            "--processes",
            n,
        ];
        let output = workplace.vae(&arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains("will not be those of an uninterrupted run"));
        let (wanted, found) = (elbo(&whole), elbo(&workplace.path(&name)));
        assert!(
            (wanted - found).abs() < 1e-2 * wanted.abs(),
            "{wanted} {found}"
        );
    }
}

#[test]
fn an_interrupted_run_is_saved_and_goes_on_with_the_same_bits() {
    let workplace = Workplace::new();
    let long = ["--epochs", "60", "--processes", "2"];
    let whole = workplace.train(&long, "whole");
    let mut command = workplace.command(&["train", "small.toml", "--out", "stopped"]);
    let child = started(command.args(long));
    wait_for_checkpoint(&workplace.path("stopped"));
    signal(child.id(), "-TERM");
    let output = ended(child, PATIENCE);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("resume with"), "{said}");
    let output = workplace.vae(&["train", "--resume", "stopped", "--processes", "2"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(results(&whole), results(&workplace.path("stopped")));
}

/// Kills processes of a run of two at random moments until it has ended well, at least so often. It ends as an undisturbed one.
fn kills(workplace: &Workplace, n_wanted: usize, epochs: &str) {
    let mut arguments = vec!["--processes", "2", "--epochs", epochs];
    // Small pictures take less time.
    let keys = ["manifold_size", "n_samples", "n_reconstructions"];
    let settings = keys.map(|key| format!("pictures.{key}=1"));
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let whole = workplace.train(&arguments, "whole");
    let mut command = workplace.command(&["train", "small.toml", "--out", "killed"]);
    // It says more than a pipe holds.
    let said = workplace.path("said.txt");
    command.stdout(Stdio::null());
    command.stderr(fs::File::create(&said).expect("a file"));
    let command = command.args(&arguments).args(["--restarts", "1000"]);
    let child = command.spawn().expect("the binary runs");
    // No generator of the test's own: the moments need not be the same in every run.
    let mut state = 0x9E37_79B9_u64 ^ u64::from(child.id());
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    let mut n_killed = 0;
    let begun = Instant::now();
    while is_there(child.id()) && n_killed < n_wanted {
        assert!(begun.elapsed() < 20 * PATIENCE, "{n_killed} killed");
        thread::sleep(Duration::from_millis(300 + random(1500)));
        let processes = children(child.id());
        if processes.len() == 2 {
            signal(processes[random(2) as usize], "-KILL");
            n_killed += 1;
        }
    }
    let output = ended(child, 20 * PATIENCE);
    let said = fs::read_to_string(&said).expect("what it said");
    assert!(output.status.success(), "{said}");
    assert_eq!(n_killed, n_wanted, "the run is too short: {said}");
    let n_told = said.matches("was killed by signal 9").count();
    assert!(n_told > 0 && n_told <= n_killed, "{said}");
    assert_eq!(results(&whole), results(&workplace.path("killed")));
}

#[test]
fn a_run_whose_processes_are_killed_goes_on_by_itself_and_ends_as_undisturbed() {
    kills(&Workplace::new(), 3, "150");
}

#[test]
#[ignore = "minutes; cargo xtask test --long"]
fn fifty_killed_processes_change_nothing() {
    kills(&Workplace::new(), 50, "600");
}

#[test]
fn a_killed_or_stopped_process_ends_the_others_with_one_message() {
    let workplace = Workplace::new();
    for (name, how, part) in [
        ("killed", "-KILL", "was killed by signal 9"),
        ("stopped", "-STOP", "was stopped for"),
    ] {
        let arguments = [
            "train",
            "small.toml",
            "--out",
            name,
            "--epochs",
            "100000",
            "--processes",
            "2",
        ];
        let child = started(&mut workplace.command(&arguments));
        wait_for_checkpoint(&workplace.path(name));
        let processes = children(child.id());
        signal(processes[1], how);
        let begun = Instant::now();
        let output = ended(child, PATIENCE);
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        let errors: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("error:"))
            .collect();
        assert_eq!(errors.len(), 1, "{said}");
        assert!(
            errors[0].contains(part) && errors[0].contains("rank"),
            "{said}"
        );
        assert!(processes.iter().all(|&process| !is_there(process)));
        // What was saved is whole.
        let resumed = workplace.vae(&["train", "--resume", name, "--epochs", "1"]);
        assert!(
            !resumed.status.success() || stderr(&resumed).contains("epoch"),
            "{}",
            stderr(&resumed)
        );
    }
}

#[test]
fn processes_end_with_their_launcher() {
    let workplace = Workplace::new();
    let arguments = [
        "train",
        "small.toml",
        "--out",
        "run",
        "--epochs",
        "100000",
        "--processes",
        "2",
    ];
    let child = started(&mut workplace.command(&arguments));
    wait_for_checkpoint(&workplace.path("run"));
    let processes = children(child.id());
    assert_eq!(processes.len(), 2);
    signal(child.id(), "-KILL");
    drop(ended(child, PATIENCE));
    let begun = Instant::now();
    while processes.iter().any(|&process| is_there(process)) {
        assert!(begun.elapsed() < PATIENCE, "they go on");
        thread::sleep(Duration::from_millis(50));
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Starts a rank as a cluster's launcher does.
fn rank(workplace: &Workplace, rank: usize, size: usize, port: u16, arguments: &[&str]) -> Child {
    let mut command = workplace.command(&[&["train"], arguments].concat());
    command
        .env("RANK", rank.to_string())
        .env("WORLD_SIZE", size.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("LOCAL_WORLD_SIZE", size.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string());
    started(&mut command)
}

#[test]
fn a_clusters_launcher_starts_the_processes_and_those_that_differ_are_refused() {
    let workplace = Workplace::new();
    let wanted = workplace.train(&["--processes", "2"], "wanted");
    let own: &[&str] = &["small.toml", "--out", "run"];
    let port = free_port();
    let both = [0, 1].map(|i| rank(&workplace, i, 2, port, own));
    for child in both {
        let output = ended(child, PATIENCE);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(results(&wanted), results(&workplace.path("run")));

    let other_data = Workplace::new();
    let images = other_data.path("data/train-images-idx3-ubyte");
    let mut bytes = fs::read(&images).expect("images");
    for byte in &mut bytes[16..] {
        *byte ^= 1;
    }
    fs::write(&images, bytes).expect("written");
    let cases: [(&Workplace, &[&str], &str); 3] = [
        (
            &workplace,
            &["small.toml", "--epochs", "3"],
            "training.epochs = 3 instead of 2",
        ),
        (
            &workplace,
            &["small.toml", "--threads", "2"],
            "threads 2 instead of 1",
        ),
        (&other_data, &["small.toml"], "other training items"),
    ];
    for (at, arguments, part) in cases {
        let port = free_port();
        let first = rank(&workplace, 0, 2, port, &["small.toml", "--out", "refused"]);
        let second = rank(at, 1, 2, port, arguments);
        for child in [first, second] {
            let output = ended(child, PATIENCE);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(
                said.contains(part) && said.contains("rank 1"),
                "{part}: {said}"
            );
        }
        assert!(!workplace.path("refused").exists(), "before the first step");
    }
}

#[test]
fn a_process_that_never_comes_and_a_port_that_is_taken_are_errors_after_the_timeout() {
    let workplace = Workplace::new();
    let arguments = ["small.toml", "--out", "run", "--timeout", "2"];
    let output = ended(rank(&workplace, 0, 2, free_port(), &arguments), PATIENCE);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("did not come within 2 s: rank 1"), "{said}");
    let output = ended(rank(&workplace, 1, 2, free_port(), &arguments), PATIENCE);
    assert!(
        stderr(&output).contains("nobody is there"),
        "{}",
        stderr(&output)
    );

    let taken = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let output = ended(rank(&workplace, 0, 2, port, &arguments), PATIENCE);
    let said = stderr(&output);
    assert!(said.contains(&format!("port {port} is taken")), "{said}");
    let said = workplace.error(&["train", "small.toml", "--processes", "17"], 1);
    assert!(said.contains("17 processes for a batch of 16"), "{said}");
}

/// Starts the launcher of one of two machines.
fn machine(command: &mut Command, number: usize, address: &str, arguments: &[&str]) -> Child {
    let number = number.to_string();
    let line = [
        "--machines",
        "2",
        "--machine",
        &number,
        "--address",
        address,
    ];
    started(command.args(arguments).args(line))
}

#[test]
fn two_machines_without_a_common_file_system_train_together_and_survive_a_killed_process() {
    let (first, second) = (Workplace::new(), Workplace::new());
    let arguments = ["--epochs", "60", "--restarts", "3"];
    let wanted = first.train(&["--epochs", "60", "--processes", "2"], "wanted");
    for kill in [false, true] {
        let out = if kill { "killed" } else { "run" };
        let address = format!("127.0.0.1:{}", free_port());
        let begin = |workplace: &Workplace, number| {
            let mut command = workplace.command(&["train", "small.toml", "--out", out]);
            machine(&mut command, number, &address, &arguments)
        };
        let children_of = [begin(&first, 0), begin(&second, 1)];
        if kill {
            wait_for_checkpoint(&first.path(out));
            for process in children(children_of[1].id()) {
                signal(process, "-KILL");
            }
        }
        for child in children_of {
            let output = ended(child, PATIENCE);
            assert!(output.status.success(), "{}", stderr(&output));
        }
        assert_eq!(results(&wanted), results(&first.path(out)));
        assert!(!second.path(out).exists(), "one writer");
    }
}

/// Two machines with networks of their own, and a cable between them.
#[test]
fn two_machines_in_network_namespaces_give_the_numbers_of_one() {
    let id = std::process::id() % 10_000;
    let [a, b] = ["a", "b"].map(|end| format!("vae-{end}{id}"));
    let ip = |line: &str| {
        let line = line.replace("{a}", &a).replace("{b}", &b);
        let output = Command::new("ip").args(line.split(' ')).output();
        output.is_ok_and(|output| output.status.success())
    };
    let is_made = [
        "netns add {a}",
        "netns add {b}",
        "link add {a} type veth peer name {b}",
        "link set {a} netns {a}",
        "link set {b} netns {b}",
        "netns exec {a} ip addr add 10.77.0.1/24 dev {a}",
        "netns exec {b} ip addr add 10.77.0.2/24 dev {b}",
        "netns exec {a} ip link set {a} up",
        "netns exec {b} ip link set {b} up",
        "netns exec {a} ip link set lo up",
        "netns exec {b} ip link set lo up",
    ]
    .iter()
    .all(|line| ip(line));
    let workplace = Workplace::new();
    let outcome = is_made.then(|| {
        let wanted = workplace.train(&["--processes", "2"], "wanted");
        let begin = |space: &String, number| {
            let vae = workplace.command(&["train", "small.toml", "--out", "run"]);
            let mut command = Command::new("ip");
            command
                .args(["netns", "exec", space])
                .arg(vae.get_program());
            command.args(vae.get_args()).current_dir(workplace.path(""));
            let variables: BTreeMap<_, _> = vae.get_envs().collect();
            for (name, value) in variables {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            machine(&mut command, number, "10.77.0.1:29511", &[])
        };
        let both = [begin(&a, 0), begin(&b, 1)];
        let outputs = both.map(|child| ended(child, PATIENCE));
        (wanted, outputs)
    });
    for space in ["{a}", "{b}"] {
        ip(&format!("netns delete {space}"));
    }
    let Some((wanted, outputs)) = outcome else {
        eprintln!(
            "NOT TESTED: two machines; this system lets nobody make network namespaces (ip netns)"
        );
        return;
    };
    for output in outputs {
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(results(&wanted), results(&workplace.path("run")));
}

#[test]
fn the_lines_for_several_machines_are_printed() {
    let workplace = Workplace::new();
    let arguments = [
        "launch",
        "--machines",
        "2",
        "--processes",
        "3",
        "--address",
        "node1",
        "small.toml",
    ];
    let output = workplace.vae(&arguments);
    let wanted = [0, 1].map(|machine| {
        format!(
            "vae train small.toml --processes 3 --machines 2 --machine {machine} --address node1:29500\n"
        )
    });
    assert_eq!(stdout(&output), wanted.concat());
    let bench = workplace.vae(&["bench", "small.toml", "--processes", "2", "--reps", "1"]);
    let line: Value = serde_json::from_str(&stdout(&bench)).expect("one line");
    assert_eq!(line["processes"], 2);
    assert!(
        line["share_waited"]
            .as_f64()
            .is_some_and(|share| share > 0.0 && share < 1.0)
    );
}

#[test]
fn two_processes_measure_the_likelihood_that_one_measures() {
    let workplace = Workplace::new();
    workplace.train(&[], "run");
    let measured = |more: &[&str]| -> Vec<f64> {
        let arguments = [
            "eval",
            "run",
            "--only",
            "likelihood",
            "--samples",
            "50",
            "--json",
        ];
        let output = workplace.vae(&[&arguments, more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_str(&stdout(&output)).expect("one report");
        let findings = &report["sections"]["likelihood"];
        let measures = findings["measures"].as_array().expect("measures");
        let value = |measure: &Value| measure["value"].as_f64().expect("a number");
        measures.iter().map(value).collect()
    };
    let (alone, two) = (measured(&[]), measured(&["--processes", "2"]));
    assert!(alone.len() > 3 && alone.len() == two.len());
    for (alone, two) in alone.iter().zip(&two) {
        assert!((alone - two).abs() < 1e-5 * alone.abs(), "{alone} {two}");
    }
}

#[test]
fn a_pack_is_made_by_one_process_and_read_by_all() {
    let workplace = Workplace::new();
    let photos = workplace.path("photos");
    fs::create_dir(&photos).expect("a folder");
    for i in 0..40_u8 {
        let pixel = |x: u32, y: u32| image::Rgb([(x * 12) as u8, (y * 12) as u8, i * 6]);
        let photo = image::RgbImage::from_fn(20, 20, pixel);
        photo.save(photos.join(format!("{i}.png"))).expect("saved");
    }
    let text = "[dataset.image_folder]\npath = 'photos'\nimage_size = 16\n\
                [model.network.mlp]\nhidden = [16]\n[training]\nepochs = 2\nbatch_size = 9\n";
    fs::write(workplace.path("photos.toml"), text).expect("written");
    let train = |out: &str, n: &str| {
        let output = workplace.vae(&["train", "photos.toml", "--out", out, "--processes", n]);
        assert!(output.status.success(), "{}", stderr(&output));
        workplace.path(out)
    };
    // The first of them makes the pack, the others find it.
    let two = train("two", "2");
    let entries = fs::read_dir(workplace.path(""))
        .expect("a folder")
        .flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let packs: Vec<String> = names.filter(|name| name.contains(".pack")).collect();
    assert_eq!(packs.len(), 1, "{packs:?}");
    let again = train("again", "2");
    assert_eq!(results(&two), results(&again));
    let (wanted, found) = (elbo(&train("one", "1")), elbo(&two));
    assert!(
        (wanted - found).abs() < 1e-4 * wanted.abs(),
        "{wanted} {found}"
    );
}
