//! `cargo xtask mutants`: whether the tests detect changed formulas.
//!
//! Each mutant is one small change: of an operator, a sign, a number or a condition, or a statement that is removed.
//! All of them are compiled at once in a copy of the workspace under `target/mutants`, each behind a switch (mutant
//! schemata, Untch et al. 1993). An environment variable switches on one at a time.

mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::workspace::Workspace;
use crate::{cargo, libtorch};

/// The source of the module that selects the active mutant by an environment variable.
const SWITCH: &str = include_str!("mutants/switch.rs");

/// The files and folders with formulas.
const PATHS: [&str; 14] = [
    "crates/vae-model/src/objective",
    "crates/vae-model/src/posterior",
    "crates/vae-model/src/prior",
    "crates/vae-model/src/likelihood",
    "crates/vae-train/src/learner.rs",
    "crates/vae-train/src/evaluate.rs",
    "crates/vae-train/src/fit.rs",
    "crates/vae-train/src/totals.rs",
    "crates/vae-train/src/plateau.rs",
    "crates/vae-run/src/config/schedule.rs",
    "crates/vae-train/src/callback/kl_schedule.rs",
    "crates/vae-train/src/ema.rs",
    "crates/vae-train/src/optimizer",
    "crates/vae-eval/src",
];

/// Files and folders within [`PATHS`] without formulas.
const LEFT_OUT: [&str; 3] = [
    "crates/vae-eval/src/html",
    "crates/vae-eval/src/figures.rs",
    "crates/vae-eval/src/published.rs",
];

/// The crates whose tests are run.
const CRATES: [&str; 5] = ["vae-model", "vae-run", "vae-view", "vae-train", "vae-eval"];

/// The largest number of builds in which mutants that do not compile are excluded.
const MOST_ROUNDS: usize = 30;

/// The arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Number of mutants to try, drawn at random from all; 0 tries all.
    #[arg(long, value_name = "N", default_value_t = 150)]
    sample: usize,
    /// The seed of the draw. The rank of a mutant in it depends only on the seed and on the mutant's own code.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Draw only mutants whose description contains this text, for example `ema.rs` or `vae-eval/src/latents.rs`.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Besides the drawn mutants, try those whose description contains this text; may be given several times. They
    /// are not counted.
    #[arg(long, value_name = "TEXT")]
    also: Vec<String>,
    /// Also count the mutants that are detected by the tests of this commit, which are identified by their names.
    #[arg(long, value_name = "COMMIT")]
    since: Option<String>,
    /// Leave out tests that take longer than this.
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    longest_test: f64,
    /// The crates whose formulas are changed and whose tests are run.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values = CRATES)]
    crates: Vec<String>,
    /// Test programs to leave out, by the names of their files.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    except_tests: Vec<String>,
    /// Test programs to run in parallel.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// List the mutants without trying them.
    #[arg(long)]
    list: bool,
}

/// A change to a file.
struct Mutant {
    /// From 1.
    number: u32,
    file: String,
    site: sites::Site,
    /// Whether it was drawn, not added by `--also`.
    is_drawn: bool,
}

impl std::fmt::Display for Mutant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file.trim_start_matches("crates/");
        let sites::Site {
            line,
            function,
            what,
            ..
        } = &self.site;
        write!(f, "{file}:{line} {function} {what}")
    }
}

/// A test of a compiled program.
struct Test {
    program: usize,
    name: String,
    seconds: f64,
    /// Numbers of the mutants whose code the test runs.
    reaches: BTreeSet<u32>,
}

/// A compiled test program.
struct Program {
    path: PathBuf,
    /// The folder of its package.
    folder: PathBuf,
}

/// Tries mutants and prints those that no test detects.
///
/// # Errors
/// The copy does not compile, and not because of a mutant; a command fails; a file cannot be read or written.
pub(crate) fn mutants(workspace: &Workspace, options: &Options) -> Result<()> {
    let folder = workspace.root().join("target/mutants");
    let copy = folder.join("workspace");
    copy_sources(workspace, &copy)?;
    let sources = sources(&copy)?;
    let mut mutants = draw(&sources, options)?;
    if options.list {
        mutants.iter().for_each(|mutant| println!("{mutant}"));
        return Ok(());
    }
    libtorch::ensure_present(workspace)?;
    for name in CRATES {
        let crate_folder = copy.join("crates").join(name).join("src");
        write(&crate_folder.join("mutant_switch.rs"), SWITCH)?;
        let root = copy.join("original/crates").join(name).join("src/lib.rs");
        let text = fs::read_to_string(&root).with_context(|| root.display().to_string())?;
        let switch = "#[allow(warnings, clippy::all)]\nmod mutant_switch;";
        write(&crate_folder.join("lib.rs"), &format!("{text}\n{switch}\n"))?;
    }
    let n_drawn = |mutants: &[Mutant]| mutants.iter().filter(|mutant| mutant.is_drawn).count();
    let n_before = n_drawn(&mutants);
    let programs = compile(workspace, &copy, &sources, &mut mutants, options)?;
    let n_left_out = n_before - n_drawn(&mutants);
    println!("{n_before} mutants drawn, of which {n_left_out} do not compile");
    let tests = tests(&programs, &folder, options)?;
    let known = match &options.since {
        Some(commit) => tests_of(workspace, commit)?,
        None => BTreeSet::new(),
    };
    let ends = try_all(&programs, &tests, &known, &mutants, options.jobs)?;
    let count = |wanted: End| ends.iter().filter(|(end, _)| *end == wanted).count();
    let (n, old, new) = (ends.len(), count(End::DetectedBefore), count(End::Detected));
    if let Some(commit) = &options.since {
        println!("\n{old} of {n} mutants are detected by the tests of {commit}");
    }
    println!("\n{} of {n} mutants are detected. Undetected:", old + new);
    for (end, line) in ends {
        if end == End::Survives {
            println!("{line}");
        }
    }
    Ok(())
}

/// The output of git.
fn git(workspace: &Workspace, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command.current_dir(workspace.root()).args(arguments);
    let output = command.output().context("git")?;
    cargo::check("git", output.status)?;
    Ok(String::from_utf8(output.stdout)?)
}

/// The names of a commit's tests.
fn tests_of(workspace: &Workspace, commit: &str) -> Result<BTreeSet<String>> {
    let arguments = [
        "grep",
        "-h",
        "-A",
        "3",
        "#\\[test\\]",
        commit,
        "--",
        "crates",
    ];
    let name = |line: &str| {
        let (_, rest) = line.split_once("fn ")?;
        let (name, _) = rest.split_once('(')?;
        Some(name.to_owned())
    };
    Ok(git(workspace, &arguments)?
        .lines()
        .filter_map(name)
        .collect())
}

/// Updates the copy of the workspace. Files that have not changed keep their modification times.
fn copy_sources(workspace: &Workspace, copy: &Path) -> Result<()> {
    let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let list = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    for name in git(workspace, &list)?.split_terminator('\0') {
        let path = workspace.root().join(name);
        if path.is_file() {
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            files.insert(PathBuf::from(name), bytes);
        }
    }
    // Remove files that no longer exist in the workspace.
    for old in all_files(&copy.join("crates"))? {
        let name = old.strip_prefix(copy)?;
        if !files.contains_key(name) && !name.ends_with("mutant_switch.rs") {
            fs::remove_file(&old).with_context(|| old.display().to_string())?;
        }
    }
    let originals = copy.join("original");
    if originals.exists() {
        fs::remove_dir_all(&originals).with_context(|| originals.display().to_string())?;
    }
    for (name, bytes) in files {
        // The copy is below the workspace, whose cargo configuration applies to it already. A second one would repeat
        // the compiler flags, and cargo would compile all dependencies again.
        if name.starts_with(".cargo") {
            continue;
        }
        let is_root = |crate_name| name == Path::new("crates").join(crate_name).join("src/lib.rs");
        // These files are written later, with the mutants in them.
        let folder = match is_mutated(&name) || CRATES.iter().any(is_root) {
            true => &originals,
            false => copy,
        };
        write_bytes(&folder.join(&name), &bytes)?;
    }
    Ok(())
}

fn is_mutated(name: &Path) -> bool {
    let within = |path: &&str| name.starts_with(path);
    name.extension().is_some_and(|extension| extension == "rs")
        && PATHS.iter().any(within)
        && !LEFT_OUT.iter().any(within)
        && !name.ends_with("lib.rs")
        && !name.ends_with("laws.rs")
}

fn all_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    Ok(files)
}

fn write(path: &Path, text: &str) -> Result<()> {
    write_bytes(path, text.as_bytes())
}

/// Writes a file unless it already has this content, because cargo rebuilds by modification times.
fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::write(path, bytes).with_context(|| path.display().to_string())
}

/// The original text of each file with mutants, by its path in the workspace.
fn sources(copy: &Path) -> Result<BTreeMap<String, String>> {
    let originals = copy.join("original");
    let mut sources = BTreeMap::new();
    for path in all_files(&originals)? {
        let name = path.strip_prefix(&originals)?;
        if is_mutated(name) {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            sources.insert(name.display().to_string(), text);
        }
    }
    Ok(sources)
}

/// Draws from all mutants of the files.
fn draw(sources: &BTreeMap<String, String>, options: &Options) -> Result<Vec<Mutant>> {
    let mut all = Vec::new();
    let of_crates = |file: &str| {
        let of = |name: &String| file.starts_with(&format!("crates/{name}/"));
        options.crates.iter().any(of)
    };
    for (file, source) in sources.iter().filter(|(file, _)| of_crates(file)) {
        let mut n_alike: BTreeMap<String, u32> = BTreeMap::new();
        for site in sites::find(source).with_context(|| file.clone())? {
            // Without the line number, which changes with any edit above it.
            let identity = format!("{file} {} {}", site.function, site.what);
            let n = n_alike.entry(identity.clone()).or_default();
            *n += 1;
            let ticket = Sha256::digest(format!("{} {identity} {n}", options.seed));
            let mutant = Mutant {
                number: 0,
                file: file.clone(),
                site,
                is_drawn: false,
            };
            all.push((ticket, mutant));
        }
    }
    println!("{} mutants in {} files", all.len(), sources.len());
    all.sort_by_key(|(ticket, _)| *ticket);
    let most = match options.sample {
        0 => all.len(),
        n => n,
    };
    let only = options.only.as_ref();
    all.iter_mut()
        .filter(|(_, mutant)| only.is_none_or(|text| mutant.to_string().contains(text)))
        .take(most)
        .for_each(|(_, mutant)| mutant.is_drawn = true);
    let is_wanted = |mutant: &Mutant| {
        let shown = mutant.to_string();
        mutant.is_drawn || options.also.iter().any(|text| shown.contains(text))
    };
    let mut mutants: Vec<_> = all.into_iter().map(|(_, mutant)| mutant).collect();
    mutants.retain(is_wanted);
    // By file, then in the order of the sites, with outer ones first.
    mutants.sort_by(|a, b| (&a.file, a.site.place()).cmp(&(&b.file, b.site.place())));
    for (number, mutant) in (1..).zip(&mut mutants) {
        mutant.number = number;
    }
    Ok(mutants)
}

/// Compiles the copy and removes the mutants that do not compile from `mutants`.
fn compile(
    workspace: &Workspace,
    copy: &Path,
    sources: &BTreeMap<String, String>,
    mutants: &mut Vec<Mutant>,
    options: &Options,
) -> Result<Vec<Program>> {
    // Mutants that do not compile are stored for later runs, together with a digest of their file.
    let list = copy.join("not-compiling");
    let known = fs::read_to_string(&list).unwrap_or_default();
    let mut known: BTreeSet<String> = known.lines().map(String::from).collect();
    let identity = |mutant: &Mutant| {
        let digest = Sha256::digest(&sources[&mutant.file]);
        format!("{digest:x} {mutant}")
    };
    mutants.retain(|mutant| !known.contains(&identity(mutant)));
    for round in 0..MOST_ROUNDS {
        let mut places: BTreeMap<String, Vec<(u32, Range<usize>)>> = BTreeMap::new();
        for (file, source) in sources {
            let of_file: Vec<_> = mutants
                .iter()
                .filter(|mutant| mutant.file == *file)
                .map(|mutant| (mutant.number, &mutant.site))
                .collect();
            let (text, of_file) = sites::rewrite(source, &of_file);
            write(&copy.join(file), &text)?;
            places.insert(file.clone(), of_file);
        }
        // A mutant within the replaced code of another one is not written.
        let written: BTreeSet<u32> = places.values().flatten().map(|place| place.0).collect();
        mutants.retain(|mutant| written.contains(&mutant.number));
        // `cargo check` of the libraries is cheaper than a build, and finds nearly all errors.
        let mut errors = check(workspace, copy)?;
        if errors.is_empty() {
            let programs;
            (programs, errors) = build(workspace, copy, options)?;
            if errors.is_empty() {
                return Ok(programs);
            }
        }
        let culprits: BTreeSet<u32> = errors
            .iter()
            .flat_map(|error| culprits(error, &places))
            .collect();
        if culprits.is_empty() {
            let messages: Vec<_> = errors.iter().map(|error| &error.message[..]).collect();
            let (copy, messages) = (copy.display(), messages.join("; "));
            bail!("the copy in {copy} does not compile: {messages}");
        }
        println!("round {round}: {} mutants do not compile", culprits.len());
        let refused = |mutant: &&Mutant| culprits.contains(&mutant.number);
        known.extend(mutants.iter().filter(refused).map(identity));
        write(
            &list,
            &known
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>(),
        )?;
        mutants.retain(|mutant| !culprits.contains(&mutant.number));
    }
    bail!("after {MOST_ROUNDS} builds some mutants still do not compile")
}

/// The compiler's errors about the copy.
struct Error {
    message: String,
    /// The primary ones come first.
    places: Vec<(String, Range<usize>)>,
}

/// The mutants that may have caused an error: the smallest one at the first of the error's places that has any, or
/// otherwise all mutants of the files that the error names.
fn culprits(error: &Error, places: &BTreeMap<String, Vec<(u32, Range<usize>)>>) -> Vec<u32> {
    let of_file = |file: &String| places.get(file).map_or(&[][..], Vec::as_slice);
    let smallest = error.places.iter().find_map(|(file, bytes)| {
        let overlapping = of_file(file)
            .iter()
            .filter(|(_, place)| place.start < bytes.end && bytes.start < place.end);
        overlapping.min_by_key(|(_, place)| place.len())
    });
    match smallest {
        Some((number, _)) => vec![*number],
        None => {
            let files = error.places.iter().flat_map(|(file, _)| of_file(file));
            files.map(|(number, _)| *number).collect()
        }
    }
}

/// The compiler's errors about the copy's libraries.
fn check(workspace: &Workspace, copy: &Path) -> Result<Vec<Error>> {
    let arguments = ["check", "--keep-going", "--lib"].map(String::from);
    let (_, errors) = messages(workspace, copy, &arguments)?;
    Ok(errors)
}

/// The test programs, or the compiler's errors.
fn build(
    workspace: &Workspace,
    copy: &Path,
    options: &Options,
) -> Result<(Vec<Program>, Vec<Error>)> {
    let mut arguments = ["test", "--no-run", "--lib"].map(String::from).to_vec();
    for name in &options.crates {
        for file in all_files(&copy.join("crates").join(name).join("tests"))? {
            let is_target = file
                .parent()
                .is_some_and(|folder| folder.ends_with("tests"))
                && file.extension().is_some_and(|extension| extension == "rs");
            let name = file.file_stem().map(|name| name.display().to_string());
            let name = name.filter(|name| is_target && !options.except_tests.contains(name));
            arguments.extend(
                name.into_iter()
                    .flat_map(|name| ["--test".to_owned(), name]),
            );
        }
    }
    let (mut programs, errors) = messages(workspace, copy, &arguments)?;
    programs.retain(|program| {
        options
            .crates
            .iter()
            .any(|name| program.folder.ends_with(name))
    });
    Ok((programs, errors))
}

/// cargo's messages about the copy: test programs and errors.
fn messages(
    workspace: &Workspace,
    copy: &Path,
    arguments: &[String],
) -> Result<(Vec<Program>, Vec<Error>)> {
    let output = cargo::cargo(workspace)
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", workspace.root().join("target"))
        .args(arguments)
        .args(["--release", "--workspace", "--exclude", "xtask"])
        .args(["--message-format=json", "--quiet"])
        // Optimizing these crates would take minutes and save little: the tests spend their time in libtorch's kernels.
        .args(
            [
                "vae-base",
                "vae-data",
                "vae-model",
                "vae-run",
                "vae-view",
                "vae-train",
                "vae-eval",
            ]
            .map(|name| format!("--config=profile.release.package.{name}.opt-level=0")),
        )
        .stderr(Stdio::inherit())
        .output()
        .context("cargo")?;
    let (mut programs, mut errors) = (Vec::new(), Vec::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if let (Some(path), Some(manifest), true) = (
            message["executable"].as_str(),
            message["manifest_path"].as_str(),
            message["profile"]["test"] == true,
        ) {
            let folder = Path::new(manifest)
                .parent()
                .context("a manifest")?
                .to_owned();
            if CRATES.iter().any(|name| folder.ends_with(name)) {
                let path = path.into();
                programs.push(Program { path, folder });
            }
        }
        let message = &message["message"];
        if message["level"] == "error" {
            let mut spans = message["spans"].as_array().cloned().unwrap_or_default();
            spans.sort_by_key(|span| span["is_primary"] != true);
            let place = |span: &Value| {
                let byte = |name: &str| span[name].as_u64().unwrap_or(0) as usize;
                let bytes = byte("byte_start")..byte("byte_end").max(byte("byte_start") + 1);
                let file = span["file_name"].as_str().unwrap_or_default();
                (file.to_owned(), bytes)
            };
            if !spans.is_empty() {
                errors.push(Error {
                    message: message["message"].as_str().unwrap_or_default().to_owned(),
                    places: spans.iter().map(place).collect(),
                });
            }
        }
    }
    if errors.is_empty() {
        cargo::check("cargo", output.status)?;
    }
    Ok((programs, errors))
}

/// The command that runs some tests of a program, on one thread and with bounded memory.
fn command(program: &Program, tests: &[&str]) -> Command {
    // A mutant may allocate any amount of memory.
    const MOST_KILOBYTES: u64 = 12_000_000;
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit -v {MOST_KILOBYTES}; exec \"$0\" \"$@\""))
        .arg(&program.path)
        .args(["--exact", "--test-threads=1"])
        .args(tests)
        .current_dir(&program.folder)
        .env("OMP_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Calls `work` with the numbers below `n` on `n_jobs` threads. Returns the results in order.
fn in_parallel<T: Send>(
    n_jobs: usize,
    n: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..n_jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        return;
                    }
                    let result = work(i);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((i, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs every test separately without a mutant, to measure its time and to find the mutants whose code it runs.
fn tests(programs: &[Program], folder: &Path, options: &Options) -> Result<Vec<Test>> {
    let mut names = Vec::new();
    for (i, program) in programs.iter().enumerate() {
        let output = Command::new(&program.path)
            .args(["--list", "--format=terse"])
            .current_dir(&program.folder)
            .output()
            .with_context(|| program.path.display().to_string())?;
        let list = String::from_utf8_lossy(&output.stdout).into_owned();
        let of_program = list.lines().filter_map(|line| line.strip_suffix(": test"));
        names.extend(of_program.map(|name| (i, name.to_owned())));
    }
    let tests = in_parallel(options.jobs, names.len(), |i| {
        let (program, name) = &names[i];
        let seen = folder.join(format!("seen-{i}"));
        if seen.exists() {
            fs::remove_file(&seen)?;
        }
        let start = Instant::now();
        let mut child = command(&programs[*program], &[name])
            .env("VAE_MUTANTS_SEEN", &seen)
            .spawn()
            .with_context(|| programs[*program].path.display().to_string())?;
        let passed = wait(&mut child, Duration::from_secs_f64(options.longest_test))?;
        let seconds = start.elapsed().as_secs_f64();
        let reaches = fs::read_to_string(&seen).unwrap_or_default();
        if seen.exists() {
            fs::remove_file(&seen)?;
        }
        match passed {
            Some(true) => {}
            Some(false) => println!("{name} is left out: it fails without a mutant"),
            None => println!("{name} is left out: it takes more than {seconds:.0} s"),
        }
        Ok(passed.unwrap_or(false).then(|| Test {
            program: *program,
            name: name.clone(),
            seconds,
            reaches: reaches
                .lines()
                .filter_map(|line| line.parse().ok())
                .collect(),
        }))
    })?;
    let mut tests: Vec<Test> = tests.into_iter().flatten().collect();
    tests.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let seconds: f64 = tests.iter().map(|test| test.seconds).sum();
    println!(
        "{} tests take {seconds:.0} s one after another",
        tests.len()
    );
    Ok(tests)
}

/// Whether a program succeeded; `None` if it was killed after `limit`.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<bool>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The result of the tests for a mutant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Detected by a test of the commit of `--since`.
    DetectedBefore,
    Detected,
    Survives,
}

/// For each mutant, runs the tests that reach its code until one fails. Tests named in `known` are run first.
fn try_all(
    programs: &[Program],
    tests: &[Test],
    known: &BTreeSet<String>,
    mutants: &[Mutant],
    n_jobs: usize,
) -> Result<Vec<(End, String)>> {
    let ends = in_parallel(n_jobs, mutants.len(), |i| {
        let mutant = &mutants[i];
        let number = mutant.number;
        let is_known = |test: &&Test| {
            let name = test.name.rsplit("::").next().unwrap_or(&test.name);
            known.contains(name)
        };
        let reaching = tests.iter().filter(|test| test.reaches.contains(&number));
        let (before, since): (Vec<&Test>, Vec<&Test>) = reaching.partition(is_known);
        let n_tests = before.len() + since.len();
        let end = if detects(programs, &before, number)? {
            End::DetectedBefore
        } else if detects(programs, &since, number)? {
            End::Detected
        } else {
            End::Survives
        };
        let said = match end {
            End::DetectedBefore => "detected before",
            End::Detected => "detected",
            End::Survives if n_tests == 0 => "survives, because no test runs it",
            End::Survives => "survives",
        };
        let drawn = if mutant.is_drawn { "" } else { ", not drawn" };
        let line = format!("{said} ({n_tests} tests{drawn}): {mutant}");
        println!("{number} of {}: {line}", mutants.len());
        Ok(mutant.is_drawn.then_some((end, line)))
    })?;
    Ok(ends.into_iter().flatten().collect())
}

/// Whether one of these tests fails or takes too long with the mutant.
fn detects(programs: &[Program], tests: &[&Test], number: u32) -> Result<bool> {
    let mut of_programs: BTreeMap<usize, Vec<&Test>> = BTreeMap::new();
    for test in tests {
        of_programs.entry(test.program).or_default().push(test);
    }
    let seconds = |tests: &[&Test]| tests.iter().map(|test| test.seconds).sum::<f64>();
    let mut of_programs: Vec<_> = of_programs.into_iter().collect();
    of_programs.sort_by(|a, b| seconds(&a.1).total_cmp(&seconds(&b.1)));
    for (program, tests) in of_programs {
        let names: Vec<_> = tests.iter().map(|test| &test.name[..]).collect();
        let mut child = command(&programs[program], &names)
            .env("VAE_MUTANT", number.to_string())
            .spawn()?;
        let limit = Duration::from_secs_f64(30.0 + 5.0 * seconds(&tests));
        if wait(&mut child, limit)? != Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}
