//! `vae train`: from a config to a run folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tch::Device;
use tracing::warn;
use vae_base::{counted, derive_seed, memory, read_small_text, write_whole};
use vae_data::{Dataset, Splits};
use vae_model::Vae;
use vae_run::{
    Checkpoint, CheckpointState, OpenCheckpoint, Position, RunConfig, RunDir, RunLock, Summary,
    check_resume, preflight,
};
use vae_torch::Group;
use vae_train::{
    AdversarialWatch, Checkpoints, CollapseWatch, Curves, EarlyStopping, MetricsLog, Outcome,
    Pictures, Sounds, Stop, TensorBoard, Texts, Trainer, check_precision, device_name,
};

use super::fit_sampler;
use crate::device::DeviceChoice;
use crate::output::{self, out, say};
use crate::processes::{self, Placement, Processes, launcher};
use crate::progress::Progress;
use crate::{Done, run_config, signals, threads};

/// Train a model according to a config file, or resume a run
///
/// Writes a run folder: the resolved config, metrics.jsonl, pictures of every epoch, checkpoints, summary.json. Ctrl-C stops after the
/// step in progress and saves. A run that was stopped in any way can be resumed with --resume, and ends with the same results as an
/// uninterrupted one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae train configs/mnist.toml
  vae train configs/mnist.toml --limit 2000 --epochs 2      a quick look
  vae train configs/folder.toml --data ~/photos             photos of your own
  vae train configs/mnist.toml --set model.latent_dims=10 --out runs/ten
  vae train --resume runs/ten
  vae train --resume runs/ten --epochs 20                   more epochs than planned
  vae train configs/celeba.toml --processes 2               two processes share each batch")]
pub(crate) struct Args {
    /// The config file
    #[arg(required_unless_present = "resume")]
    config: Option<PathBuf>,

    /// Resume the run in this folder from its newest checkpoint. Its own config is used, unless a config file is given; only options that
    /// do not change the steps may differ
    #[arg(long, value_name = "RUN", conflicts_with = "out")]
    resume: Option<PathBuf>,

    /// Change a value, as in `--set model.latent_dims=10` (any number of times)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// The data set's folder or file, instead of the config's: `--data ~/photos`
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    /// Passes over the training images, instead of the config's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,

    /// Only the first N training images, N/5 validation and N/5 test images, for a quick run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// The seed, instead of the config's
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// The run folder [default: runs/ and the name of the config, numbered if it exists]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// After a NaN or infinite loss or gradient, name the first layer in which it occurs (safety.find_layer)
    #[arg(long)]
    find_layer: bool,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,

    /// Print summary.json at the end instead of the names of the pictures
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    together: processes::Args,
}

/// Trains. `threads` are those of `--threads`, which are set already.
pub(crate) fn run(mut args: Args, threads: Option<i32>) -> Result<Done> {
    let placement = Placement::of_environment()?;
    let asks_for_several =
        args.together.processes.is_some_and(|n| n > 1) || args.together.machines > 1;
    let Some(placement) = placement else {
        if asks_for_several {
            if let Some(file) = &args.config {
                let config = resolve(&args, file)?;
                let n = args.together.processes.unwrap_or(1) * args.together.machines;
                processes::check(n as usize, &config)?;
            }
            return launcher::run(&args.together);
        }
        return train_first(&args, threads, None);
    };
    if asks_for_several && placement.by != processes::LAUNCHER {
        bail!(
            "{} started {} processes of this program already; --processes and --machines are for those that it does \
             not start",
            placement.by,
            placement.size
        );
    }
    launcher::end_with_launcher();
    let begun = launcher::run_to_resume().or_else(|| {
        // A cluster's launcher starts the same command again.
        let out = args.out.clone().filter(|_| placement.generation > 0)?;
        RunDir::open(&out).is_ok().then_some(out)
    });
    if let Some(run) = begun {
        args.resume = Some(run);
        (args.config, args.out, args.data) = (None, None, None);
        (args.epochs, args.limit, args.seed) = (None, None, None);
        args.settings.clear();
    }
    if threads.is_none() {
        processes::choose_threads(&placement);
    }
    let of_launcher = placement.by == processes::LAUNCHER;
    let processes = Processes::connect(placement, &args.together)?;
    let threads = Some(tch::get_num_threads());
    let done = match processes.is_first() {
        true => train_first(&args, threads, Some(&processes)),
        false => train_along(&args, &processes),
    };
    match done.map_err(processes::explained) {
        // The launcher says which process it was.
        Err(error) if of_launcher && processes::is_of_another(&error) => Ok(Done::Alone),
        done => done,
    }
}

/// Trains as the only process, or as the first of several, which writes what the run leaves.
fn train_first(args: &Args, threads: Option<i32>, processes: Option<&Processes>) -> Result<Done> {
    // Locked before anything in it is read: another process may be changing it.
    let resumed = match &args.resume {
        Some(path) => {
            let run_dir = RunDir::open(path)?;
            let lock = run_dir.lock()?;
            Some((run_dir, lock))
        }
        None => None,
    };
    let config_file = match (&args.config, &resumed) {
        (Some(file), _) => file.clone(),
        (None, Some((run_dir, _))) => run_dir.config_file(),
        (None, None) => bail!("no config"), // clap prevents this.
    };
    let config = resolve(args, &config_file)?;
    if let Some(processes) = processes {
        processes::check(processes.placement().size, &config)?;
        processes.share_config(Some(&config))?;
    }
    let device = device(args, processes)?;
    check_precision(config.training.precision, device)?;
    match resumed {
        Some((run_dir, lock)) => {
            // A run without a checkpoint was stopped before its first one, so it starts again.
            let checkpoint = match Checkpoint::any(&run_dir)? {
                true => Some(Checkpoint::Last.open(&run_dir)?),
                false => None,
            };
            // Other numbers of threads sum in another order.
            match (&checkpoint, threads) {
                (_, Some(_)) => {}
                (Some(checkpoint), None) if device == Device::Cpu => {
                    threads::set(checkpoint.state.resume.threads);
                }
                (Some(_), None) => {}
                (None, None) => threads::choose(&config, device),
            }
            if let Some(checkpoint) = &checkpoint {
                check_resume(&run_dir, &checkpoint.state, &config)?;
                let n_processes = processes.map_or(1, |processes| processes.placement().size);
                warn_of_other_numbers(&checkpoint.state, &config, device, n_processes);
            }
            let splits = load(&config, processes)?;
            let vae = match &checkpoint {
                Some(checkpoint) => loaded(checkpoint, &config, device)?,
                None => fresh(&config, &splits, device)?,
            };
            let group = meet(processes, &config, &splits, &vae)?;
            let begun = Begun {
                run_dir: &run_dir,
                _lock: &lock,
                config: &config,
                splits: &splits,
                vae: &vae,
                checkpoint,
                group,
            };
            train(args, processes, begun)
        }
        None => {
            if threads.is_none() {
                threads::choose(&config, device);
            }
            let splits = load(&config, processes)?;
            let vae = fresh(&config, &splits, device)?;
            for warning in preflight(&config, &vae, &splits)? {
                warn!("{warning}");
            }
            let group = meet(processes, &config, &splits, &vae)?;
            let out = args
                .out
                .clone()
                .unwrap_or_else(|| free_folder(&config_file));
            let run_dir = RunDir::create(&out, &config)?;
            let lock = run_dir.lock()?;
            let begun = Begun {
                run_dir: &run_dir,
                _lock: &lock,
                config: &config,
                splits: &splits,
                vae: &vae,
                checkpoint: None,
                group,
            };
            train(args, processes, begun)
        }
    }
}

/// Trains as one of several processes, but not the first: it computes, and writes nothing.
fn train_along(args: &Args, processes: &Processes) -> Result<Done> {
    let config = match &args.config {
        Some(file) => resolve(args, file)?,
        None => processes.share_config(None)?,
    };
    let device = device(args, Some(processes))?;
    let splits = load(&config, Some(processes))?;
    let group = processes.join(device)?;
    processes.compare(&group, &config, &splits, device)?;
    let shared = processes.share_checkpoint(&group, None)?;
    let (_folder, checkpoint) = shared.unzip();
    let vae = match &checkpoint {
        Some(checkpoint) => loaded(checkpoint, &config, device)?,
        None => fresh(&config, &splits, device)?,
    };
    let mut trainer = Trainer::new(&vae, &splits, &config)?;
    if let Some(checkpoint) = checkpoint {
        trainer.resume(checkpoint)?;
    }
    trainer.train_among(group)?;
    let stop = signals::stop_when_asked(" after this step")?;
    Ok(match trainer.fit(&stop).ended? {
        Stop::Interrupted => Done::Interrupted,
        Stop::Finished | Stop::Callback => Done::Fully,
    })
}

/// Where this process computes: of several ones with GPUs, each on its own.
fn device(args: &Args, processes: Option<&Processes>) -> Result<Device> {
    let local_rank = processes.map_or(0, |processes| processes.placement().local_rank);
    args.device.select_for(local_rank)
}

/// The data; of several processes one at a time makes the files that the others then find.
fn load(config: &RunConfig, processes: Option<&Processes>) -> Result<Splits> {
    let load = || Ok(config.load()?);
    match processes {
        Some(processes) => processes.in_turns(load),
        None => load(),
    }
}

/// Waits for the other processes, and makes sure that they are about to do the same.
fn meet(
    processes: Option<&Processes>,
    config: &RunConfig,
    splits: &Splits,
    vae: &Vae,
) -> Result<Option<Arc<Group>>> {
    let Some(processes) = processes else {
        return Ok(None);
    };
    let group = processes.join(vae.device())?;
    processes.compare(&group, config, splits, vae.device())?;
    Ok(Some(group))
}

/// The model of a checkpoint.
fn loaded(checkpoint: &OpenCheckpoint, config: &RunConfig, device: Device) -> Result<Vae> {
    let mut vae = Vae::load(&checkpoint.folder, device)?;
    vae.set_framing(config.framing()); // Older weights files lack it.
    Ok(vae)
}

/// What is needed to train, in a folder whose lock this process holds.
struct Begun<'a> {
    run_dir: &'a RunDir,
    _lock: &'a RunLock,
    config: &'a RunConfig,
    splits: &'a Splits,
    vae: &'a Vae,
    checkpoint: Option<OpenCheckpoint>,
    group: Option<Arc<Group>>,
}

fn train(args: &Args, processes: Option<&Processes>, begun: Begun) -> Result<Done> {
    let Begun {
        run_dir,
        config,
        splits,
        vae,
        checkpoint,
        group,
        ..
    } = begun;
    if let (Some(processes), Some(group)) = (processes, &group) {
        processes.share_checkpoint(group, checkpoint.as_ref())?;
        processes.note_run(run_dir.path())?;
    }
    for kind in &config.samplers {
        kind.check(&vae.latent_space()?).context("samplers")?;
    }
    let mut trainer = Trainer::new(vae, splits, config)?;
    trainer.save_to(run_dir.clone());
    trainer.add(MetricsLog::new(run_dir));
    trainer.add(Curves::new(run_dir.clone(), config.checkpoint_metric()));
    trainer.add(Pictures::new(run_dir.clone()));
    trainer.add(Sounds::new(run_dir.clone()));
    trainer.add(Texts::new(run_dir.clone()));
    if config.tensorboard {
        trainer.add(TensorBoard::new(run_dir.clone()));
    }
    trainer.add(CollapseWatch::default());
    trainer.add(AdversarialWatch::default());
    if let Some(early_stopping) = &config.early_stopping {
        trainer.add(EarlyStopping::new(early_stopping));
    }
    trainer.add(Checkpoints::new(&config.checkpoints));
    trainer.add(Progress::new());
    let from = match checkpoint {
        Some(checkpoint) => {
            let Position { epochs, steps } = checkpoint.state.position;
            trainer.resume(checkpoint)?;
            let (epochs, steps) = (epochs as usize, steps as usize);
            format!(
                "after {} and {}, ",
                counted(epochs, "epoch"),
                counted(steps, "step")
            )
        }
        None => String::new(),
    };
    let n_processes = group.as_ref().map_or(1, |group| group.size());
    if let Some(group) = group {
        trainer.train_among(group)?;
    }
    // Only now is it certain that the run continues.
    run_dir.reopen(config)?;
    let bad_files = &splits.report.bad_files;
    if !bad_files.is_empty() {
        let file = run_dir.path().join("bad-files.txt");
        write_whole(&file, bad_files.to_text().as_bytes())
            .with_context(|| file.display().to_string())?;
        say!("{}: the skipped files and why", file.display());
    }
    say!(
        "{}: {from}{} training and {} validation {} of {}, {} parameters, {} ({}{})",
        run_dir.path().display(),
        splits.train.len(),
        n_validation(splits),
        vae.item().noun(2),
        vae.item(),
        vae.n_parameters(),
        device_name(vae.device()),
        match n_processes {
            1 => String::new(),
            n => format!("{n} processes, each "),
        },
        counted(tch::get_num_threads() as usize, "thread"),
    );
    let stop = signals::stop_when_asked(" after this step")?;
    let outcome = trainer.fit(&stop);
    let is_trained = matches!(outcome.ended, Ok(Stop::Finished | Stop::Callback));
    let done = finish(args, run_dir, vae, splits, outcome)?;
    if !is_trained || config.samplers.is_empty() {
        return Ok(done);
    }
    // The run itself is complete and saved, whatever becomes of its samplers.
    fit_sampler::after_training(run_dir, vae.device(), &config.samplers, &stop)
        .context("the run is trained, but its samplers are not; `vae fit-sampler` tries again")
}

fn fresh(config: &RunConfig, splits: &Splits, device: Device) -> Result<Vae> {
    let seed = derive_seed(config.seed, 0, "initial weights");
    let mut vae = Vae::new(&config.model, splits.train.spec(), device, seed)?;
    vae.set_framing(config.framing());
    if let Some(path) = &config.training.start_from {
        vae.take_weights(path).context("training.start_from")?;
        return Ok(vae);
    }
    let n_start_images = vae.n_start_images();
    if n_start_images > 0 {
        vae.start_from(&splits.train.first(n_start_images)?)?;
    }
    Ok(vae)
}

fn n_validation(splits: &Splits) -> usize {
    splits.validation.as_ref().map_or(0, Dataset::len)
}

/// Warns if the resumed run will differ from an uninterrupted one.
fn warn_of_other_numbers(
    state: &CheckpointState,
    config: &RunConfig,
    device: Device,
    n_processes: usize,
) {
    let before = &state.resume;
    let [was, is] = [
        (before.device.clone(), before.threads, before.processes),
        (device_name(device), tch::get_num_threads(), n_processes),
    ];
    if was != is {
        let with = |(device, threads, n): &(String, i32, usize)| match n {
            1 => format!("{device} with {threads} threads"),
            n => format!("{device} by {n} processes with {threads} threads each"),
        };
        warn!(
            "the run was computed on {} and continues on {}: the numbers will not be those of an uninterrupted run to \
             the last digit",
            with(&was),
            with(&is)
        );
    }
    let (planned, epochs) = (state.config.training.epochs, config.training.epochs);
    if planned != epochs && (config.schedule.spans_the_run() || config.objective.spans_the_run()) {
        warn!(
            "a schedule spans the whole run: with {epochs} epochs instead of {planned} it jumps to another place \
             of its curve"
        );
    }
}

/// The config of the command: the file, then `--set`, then the other options.
fn resolve(args: &Args, file: &Path) -> Result<RunConfig> {
    let mut config = run_config::load(file, &args.settings)?;
    if let Some(path) = &args.data {
        config.dataset = config.dataset.at(path.clone());
    }
    if let Some(epochs) = args.epochs {
        config.training.epochs = epochs;
    }
    if let Some(seed) = args.seed {
        config.seed = seed;
    }
    if let Some(limit) = args.limit {
        let limit = limit as usize;
        config.dataset.train_limit = Some(limit);
        let few = (limit / 5).max(1);
        config.dataset.validation_limit = Some(few);
        config.dataset.test_limit = Some(few);
    }
    config.safety.find_layer |= args.find_layer;
    run_config::check(file, &config)?;
    Ok(config)
}

/// The summary, and how the run ended.
fn finish(
    args: &Args,
    run_dir: &RunDir,
    vae: &Vae,
    splits: &Splits,
    outcome: Outcome,
) -> Result<Done> {
    let pictures = match outcome.progress.position.epochs {
        0 => Vec::new(),
        epoch => Pictures::names(vae)
            .into_iter()
            .map(|name| run_dir.picture_file(epoch, name))
            .collect(),
    };
    let summary = Summary {
        run: run_dir.path().to_owned(),
        state: match outcome.ended {
            Ok(Stop::Interrupted) => "interrupted",
            Ok(Stop::Finished | Stop::Callback) => "finished",
            Err(_) => "failed",
        }
        .to_owned(),
        error: outcome.ended.as_ref().err().map(ToString::to_string),
        epochs: outcome.progress.position.epochs,
        steps: outcome.progress.position.steps,
        best: outcome.progress.best,
        last_train: outcome.progress.last_train,
        last_validation: outcome.progress.last_validation,
        incidents: outcome.progress.incidents,
        seconds: outcome.seconds,
        engine_seconds: outcome.engine_seconds,
        n_parameters: vae.n_parameters(),
        n_train_images: splits.train.len(),
        n_validation_images: n_validation(splits),
        n_test_images: splits.test.len(),
        device: device_name(vae.device()),
        threads: tch::get_num_threads(),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        git_commit: git_commit(Path::new(".")),
        peak_resident_bytes: memory::peak_resident_bytes(),
        pictures,
    };
    let written = run_dir.write_summary(&summary);
    let ended = outcome.ended?; // The cause comes before what may follow from it.
    written?;
    report(&summary, ended, args.json)
}

/// The commit that the git checkout around a folder is at.
fn git_commit(folder: &Path) -> Option<String> {
    /// Bytes of the largest file of references.
    const LARGEST: u64 = 1 << 24;
    let folder = folder.canonicalize().ok()?;
    let dot_git = folder
        .ancestors()
        .map(|folder| folder.join(".git"))
        .find(|path| path.exists())?;
    let read = |path: &Path| read_small_text(path, LARGEST).ok();
    // A worktree's .git is a file that names its folder.
    let git = match dot_git.is_dir() {
        true => dot_git,
        false => {
            let text = read(&dot_git)?;
            folder.join(text.strip_prefix("gitdir: ")?.trim())
        }
    };
    let common = match read(&git.join("commondir")) {
        Some(path) => git.join(path.trim()),
        None => git.clone(),
    };
    let head = read(&git.join("HEAD"))?;
    let hash = match head.trim().strip_prefix("ref: ") {
        None => head.trim().to_owned(),
        Some(name) => match read(&common.join(name)) {
            Some(hash) => hash.trim().to_owned(),
            None => {
                let packed = read(&common.join("packed-refs"))?;
                let mut lines = packed.lines().filter_map(|line| line.split_once(' '));
                lines.find(|(_, of)| *of == name)?.0.to_owned()
            }
        },
    };
    let is_hash = hash.len() >= 40 && hash.chars().all(|c| c.is_ascii_hexdigit());
    is_hash.then_some(hash)
}

/// `runs/mnist` for `configs/mnist.toml` and for `runs/mnist/config.toml`, or the first of `runs/mnist-2`, `-3`, … that does
/// not exist.
fn free_folder(config: &Path) -> PathBuf {
    let of_run = config
        .ends_with("config.toml")
        .then(|| config.parent()?.file_name());
    let name = of_run.flatten().or(config.file_stem()).map_or_else(
        || "run".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    );
    let runs = Path::new("runs");
    let first = runs.join(&name);
    let numbered = (2..).map(|i| runs.join(format!("{name}-{i}")));
    std::iter::once(first.clone())
        .chain(numbered)
        .find(|folder| !folder.exists())
        .unwrap_or(first)
}

/// So many epochs that are no better than the best one are worth a word.
const WITHOUT_BETTER: u64 = 3;

fn report(summary: &Summary, ended: Stop, as_json: bool) -> Result<Done> {
    if let Some(best) = &summary.best {
        say!(
            "{} after {} in {:.0} s. Best: epoch {}, validation {}{}",
            summary.state,
            counted(summary.epochs as usize, "epoch"),
            summary.seconds,
            best.epoch,
            best.means,
            match best.means.reconstruction {
                Some(_) => ", in nats per image",
                None => "",
            },
        );
    }
    if let Some(best) = &summary.best
        && summary.epochs >= best.epoch + WITHOUT_BETTER
    {
        say!(
            "no better on the validation items in the {} epochs since: more epochs of this config hardly help. \
             [early_stopping] ends such a run by itself",
            summary.epochs - best.epoch
        );
    }
    let best = summary.run.join("checkpoints").join("best");
    if best.exists() {
        say!("weights: {}", best.display());
    }
    if ended == Stop::Interrupted {
        say!("resume with: vae train --resume {}", summary.run.display());
    }
    if as_json {
        out!("{}", serde_json::to_string_pretty(summary)?);
    } else {
        for picture in &summary.pictures {
            output::print_path(picture);
        }
    }
    Ok(match ended {
        Stop::Interrupted => Done::Interrupted,
        Stop::Finished | Stop::Callback => Done::Fully,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_commit_of_a_checkout_is_read_loose_packed_or_detached() {
        let folder = tempfile::tempdir().expect("a folder");
        let git = folder.path().join(".git");
        let below = folder.path().join("a/b");
        fs::create_dir_all(git.join("refs/heads")).expect("made");
        fs::create_dir_all(&below).expect("made");
        let write = |name: &str, text: &str| fs::write(git.join(name), text).expect("written");
        let [one, two, three] = ["1", "2", "3"].map(|digit| digit.repeat(40));
        write("HEAD", "ref: refs/heads/main\n");
        assert_eq!(git_commit(&below), None);
        write(
            "packed-refs",
            &format!("# pack-refs\n{one} refs/heads/main\n"),
        );
        assert_eq!(git_commit(&below), Some(one));
        write("refs/heads/main", &format!("{two}\n"));
        assert_eq!(git_commit(folder.path()), Some(two));
        write("HEAD", &format!("{three}\n"));
        assert_eq!(git_commit(&below), Some(three));
        write("HEAD", "nonsense");
        assert_eq!(git_commit(&below), None);
    }
}
