//! A resumed run is bit for bit equal to one that was never stopped.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use common::{SHAPE, dataset};
use serde_json::Value;
use tch::Device;
use vae_data::{Splits, derive_seed};
use vae_model::{MlpConfig, NetworkConfig, Vae};
use vae_train::{
    Callback, Checkpoint, Checkpoints, EarlyStopping, Event, Fit, Flow, Metric, MetricsLog,
    Precision, RunConfig, RunDir, RunError, Stop, TrainError, Trainer, check_precision,
};

/// 22 images in batches of 8: three steps in an epoch, the last of 6 images.
fn splits() -> Splits {
    Splits::new(dataset(22), Some(dataset(7)), dataset(5))
}

fn config(extra: &str) -> RunConfig {
    let text = format!("seed = 3\n{extra}\n[dataset.idx]\nfolder = 'unused'\n");
    let mut config: RunConfig = toml::from_str(&text).expect("a config");
    config.model.latent_dims = Some(3);
    if matches!(config.model.network, NetworkConfig::Conv(_)) {
        config.model.network = NetworkConfig::Mlp(MlpConfig { hidden: vec![6] });
    }
    config.training.epochs = 4;
    config.training.batch_size = 8;
    config.training.log_every = 2;
    config
}

/// Stops the run after a step, or right after an epoch.
#[derive(Clone, Copy)]
enum StopAt {
    Step(u64),
    Epoch(u64),
    Never,
}

impl Callback for StopAt {
    fn name(&self) -> &'static str {
        "stop_at"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let stops = match (*self, event) {
            (Self::Step(step), Event::StepEnd { .. }) => run.progress.position.steps == step,
            (Self::Epoch(epoch), Event::EpochEnd { .. }) => run.progress.position.epochs == epoch,
            _ => false,
        };
        Ok(if stops { Flow::Stop } else { Flow::Continue })
    }
}

/// Trains as a new process would.
fn train(run_dir: &RunDir, config: &RunConfig, resume: bool, stop_at: StopAt) -> Stop {
    let splits = splits();
    let checkpoint = resume.then(|| Checkpoint::Last.open(run_dir).expect("a checkpoint"));
    let vae = match &checkpoint {
        Some(checkpoint) => Vae::load(&checkpoint.folder, Device::Cpu).expect("a model"),
        None => {
            let seed = derive_seed(config.seed, 0, "initial weights");
            Vae::new(&config.model, SHAPE, Device::Cpu, seed).expect("a model")
        }
    };
    let mut trainer = Trainer::new(&vae, &splits, config).expect("a trainer");
    trainer.save_to(run_dir.clone());
    trainer.add(MetricsLog::new(run_dir));
    if let Some(early_stopping) = &config.early_stopping {
        trainer.add(EarlyStopping::new(early_stopping));
    }
    trainer.add(Checkpoints::new(&config.checkpoints));
    trainer.add(stop_at);
    if let Some(checkpoint) = checkpoint {
        trainer.resume(checkpoint).expect("resumed");
    }
    let outcome = trainer.fit(&AtomicBool::new(false));
    outcome.ended.expect("no error")
}

struct Run {
    _folder: tempfile::TempDir,
    run_dir: RunDir,
}

fn new_run(config: &RunConfig) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = RunDir::create(&folder.path().join("run"), config).expect("a run");
    Run {
        _folder: folder,
        run_dir,
    }
}

/// Every file of the newest checkpoint, without the measured times of its state.
fn contents(run_dir: &RunDir) -> (BTreeMap<PathBuf, Vec<u8>>, Value) {
    let folder = Checkpoint::Last.open(run_dir).expect("a checkpoint").folder;
    let mut files = BTreeMap::new();
    let mut state = Value::Null;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a file");
        match path.file_name().and_then(|name| name.to_str()) {
            Some("state.json") => state = serde_json::from_slice(&bytes).expect("JSON"),
            Some("SHA256SUMS") => {}
            name => {
                files.insert(name.expect("a name").into(), bytes);
            }
        }
    }
    without_times(&mut state);
    (files, state)
}

fn without_times(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            for key in ["seconds", "epoch_seconds", "images_per_s", "waited"] {
                entries.remove(key);
            }
            // The number of checkpoints written before depends on the stops.
            for key in ["sequence", "previous"] {
                entries.remove(key);
            }
            entries.values_mut().for_each(without_times);
        }
        Value::Array(values) => values.iter_mut().for_each(without_times),
        _ => {}
    }
}

fn metrics(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("metrics");
    text.lines()
        .map(|line| {
            let mut record = serde_json::from_str(line).expect("a line of JSON");
            without_times(&mut record);
            record
        })
        .collect()
}

/// Those of the ends of epochs.
fn of_epochs(records: &[Value]) -> Vec<&Value> {
    let records = records.iter();
    records
        .filter(|record| record["split"] != "train_steps")
        .collect()
}

/// Settings with all kinds of state that a run carries from step to step.
const EVERYTHING: &str = "[training]\nema_decay = 0.9\nmicro_batch_size = 3\nclip.norm = 5.0\n\
     [schedule.cosine]\nwarm_up_steps = 2\n[early_stopping]\npatience_epochs = 50\n";

/// Batch norm's running averages are part of the state, too.
const BATCH_NORM: &str = "[model.network.conv_batch_norm]\nchannels = [4]\n\
     [model.likelihood.gaussian]\nsigma = \"learned\"\n[training]\nema_decay = 0.9\n";

/// A second player with all options of a player.
const FACTOR: &str = "[objective.regularizer.factor]\nhidden = [5]\n[training]\nema_decay = 0.9\n\
     micro_batch_size = 5\n[players.discriminator]\nema_decay = 0.9\nevery = 2\nclip.norm = 0.5\n\
     schedule.cosine.warm_up_steps = 3\n[checkpoints]\nmetric = 'total_correlation'\n";

/// A generator and its critic, which learns in steps in which the generator does not.
const GAN: &str = "[model]\nposterior = 'none'\n[objective]\nregularizer = 'none'\n\
     [objective.adversarial]\nloss = 'wasserstein'\ndiscriminator.mlp.hidden = [5]\n\
     penalty.gradient_penalty = {}\naugmentation = ['translation']\n[training]\nmodel_every = 2\nema_decay = 0.9\n";

/// A discriminator of images after a head start, with an adaptive weight and features, and one of latents.
const TWO_DISCRIMINATORS: &str = "[objective]\nregularizer.adversarial.hidden = [4]\n[objective.perceptual]\n\
     [objective.adversarial]\nstart = 4\nadaptive_weight = true\njudges = 'both'\n\
     discriminator.conv = { channels = [3], normalization = 'batch', patch = true }\n\
     [players.discriminator]\nema_decay = 0.9\n[training]\nmicro_batch_size = 5\n";

#[test]
fn a_run_of_two_players_that_was_killed_amid_an_epoch_ends_as_one_that_was_not() {
    let config = config(FACTOR);
    let straight = new_run(&config);
    train(&straight.run_dir, &config, false, StopAt::Never);
    let run = new_run(&config);
    train(&run.run_dir, &config, false, StopAt::Epoch(2));
    train(&run.run_dir, &config, true, StopAt::Step(8));
    // Killed after step 8: nothing was saved since the second epoch.
    let newest = Checkpoint::Last.open(&run.run_dir).expect("a checkpoint");
    assert_eq!(newest.state.position.steps, 8);
    assert!(newest.folder.join("players.safetensors").exists());
    fs::remove_dir_all(newest.folder).expect("removed");
    train(&run.run_dir, &config, true, StopAt::Never);
    assert!(contents(&run.run_dir) == contents(&straight.run_dir));
    let of = |run: &Run| metrics(&run.run_dir.metrics_file());
    assert_eq!(of(&run), of(&straight));
}

#[test]
fn a_run_that_was_stopped_anywhere_ends_as_one_that_was_not() {
    let half = "[training]\nprecision = \"bf16\"\n";
    let has_half = check_precision(Precision::Bf16, Device::Cpu).is_ok();
    if !has_half {
        eprintln!("NOT TESTED: bf16; this processor has no instructions for it");
    }
    let always = [
        "",
        EVERYTHING,
        "[optimizer.rmsprop]\n",
        "[optimizer.sgd]\n", // It has no state: its file contains no tensor.
        "[optimizer.sgd]\nmomentum = 0.9\n[schedule.plateau]\npatience = 0\n",
        "[schedule.step]\nevery_steps = 3\nfactor = 0.1\n", // It decays at the end of an epoch.
        BATCH_NORM,
        FACTOR,
        GAN,
        TWO_DISCRIMINATORS,
        // A ladder; the kl of one level is the selection metric.
        "[model.topology.ladder]\nlevels = [1, 2]\nhidden = 4\n[checkpoints]\nmetric = 'kl_2'\n",
        // Codes, some of which are replaced after an epoch.
        "[model]\nprior = 'uniform_codes'\n[model.posterior.vector_quantized]\ncodes = 30\ncode_dims = 1\n\
         [objective]\nregularizer = 'none'\n[training]\nema_decay = 0.9\n",
        // Some steps are skipped.
        "[training]\nema_decay = 0.9\nclip.skip_above = 14.0\n",
        // An objective with named terms, one of which is the selection metric.
        "[objective.regularizer.beta_tc]\n[checkpoints]\nmetric = 'total_correlation'\n",
    ];
    for extra in always.into_iter().chain(has_half.then_some(half)) {
        let config = config(extra);
        let straight = new_run(&config);
        train(&straight.run_dir, &config, false, StopAt::Never);
        let wanted = contents(&straight.run_dir);
        let wanted_metrics = metrics(&straight.run_dir.metrics_file());
        assert_eq!(of_epochs(&wanted_metrics).len(), 8, "two for each of four");
        assert_eq!(wanted_metrics.len(), 8 + 6, "and one for every two steps");

        // Stops within the first epoch, at its last step, after it, twice, and within the last epoch.
        for stops in [
            vec![StopAt::Step(1)],
            vec![StopAt::Step(3)],
            vec![StopAt::Epoch(1)],
            vec![StopAt::Step(5), StopAt::Epoch(3)],
            vec![StopAt::Step(11)],
        ] {
            let run = new_run(&config);
            for (i, stop_at) in stops.into_iter().enumerate() {
                assert_eq!(train(&run.run_dir, &config, i > 0, stop_at), Stop::Callback);
            }
            assert_eq!(
                train(&run.run_dir, &config, true, StopAt::Never),
                Stop::Finished
            );
            assert_eq!(metrics(&run.run_dir.metrics_file()), wanted_metrics);
            assert!(contents(&run.run_dir) == wanted, "other bytes, {extra}");
        }
    }
}

#[test]
fn an_epoch_of_several_passes_goes_on_in_the_one_that_it_was_stopped_in() {
    // Three steps a pass, so that four steps at least are two passes.
    let config = config("training.least_steps_per_epoch = 4");
    let straight = new_run(&config);
    train(&straight.run_dir, &config, false, StopAt::Never);
    let newest = Checkpoint::Last
        .open(&straight.run_dir)
        .expect("a checkpoint");
    let position = newest.state.position;
    assert_eq!((position.epochs, position.steps), (4, 24));
    for step in [2, 3, 5, 6, 10] {
        let run = new_run(&config);
        train(&run.run_dir, &config, false, StopAt::Step(step));
        train(&run.run_dir, &config, true, StopAt::Never);
        assert!(
            contents(&run.run_dir) == contents(&straight.run_dir),
            "{step}"
        );
        let of = |run: &Run| metrics(&run.run_dir.metrics_file());
        assert_eq!(of(&run), of(&straight), "{step}");
    }
}

#[test]
fn a_resumed_run_logs_no_epoch_twice() {
    let config = config("");
    let run = new_run(&config);
    train(&run.run_dir, &config, false, StopAt::Epoch(2));
    // The state left by a process that wrote an epoch's metrics and was killed before the epoch's checkpoint.
    let file = run.run_dir.metrics_file();
    let mut text = fs::read_to_string(&file).expect("metrics");
    let whole = text
        .lines()
        .last()
        .expect("a line")
        .replace("\"epoch\":2", "\"epoch\":3");
    text += &format!("{whole}\n{}", &whole[..20]);
    fs::write(&file, text).expect("written");
    train(&run.run_dir, &config, true, StopAt::Never);
    let found = metrics(&file);
    let epochs: Vec<_> = of_epochs(&found)
        .iter()
        .map(|r| r["epoch"].clone())
        .collect();
    assert_eq!(epochs, [1, 1, 2, 2, 3, 3, 4, 4]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let config = config("");
    let run = new_run(&config);
    train(&run.run_dir, &config, false, StopAt::Never);
    let newest = Checkpoint::Last.open(&run.run_dir).expect("a checkpoint");
    assert_eq!(newest.state.position.epochs, 4);
    for (name, damage) in [
        ("optimizer.safetensors", 300),
        ("state.json", 10),
        ("SHA256SUMS", 3),
    ] {
        let file = newest.folder.join(name);
        let whole = fs::read(&file).expect("a file");
        let mut bytes = whole.clone();
        bytes[damage] ^= 1;
        fs::write(&file, &bytes).expect("written");
        let found = Checkpoint::Last.open(&run.run_dir).expect("the one before");
        assert_eq!(found.state.position.epochs, 3, "{name}");
        fs::write(&file, &whole[..damage]).expect("written");
        let found = Checkpoint::Last.open(&run.run_dir).expect("the one before");
        assert_eq!(found.state.position.epochs, 3, "{name} cut short");
        fs::write(&file, &whole).expect("written");
    }
    // Resuming from the previous checkpoint gives the same result and replaces the damaged one.
    let wanted = contents(&run.run_dir);
    fs::remove_file(newest.folder.join("weights.safetensors")).expect("removed");
    assert_eq!(
        train(&run.run_dir, &config, true, StopAt::Never),
        Stop::Finished
    );
    assert!(contents(&run.run_dir) == wanted);
}

#[test]
fn what_is_written_after_a_damaged_checkpoint_was_passed_over_is_the_newest() {
    let mut config = config("");
    let run = new_run(&config);
    train(&run.run_dir, &config, false, StopAt::Never);
    let damaged = Checkpoint::Last.open(&run.run_dir).expect("a checkpoint");
    assert_eq!(damaged.state.position.steps, 12);
    fs::write(damaged.folder.join("weights.safetensors"), "damaged").expect("written");
    config.checkpoints.keep = 1;
    // The run continues after step 9 and stops before the step of the damaged checkpoint.
    train(&run.run_dir, &config, true, StopAt::Step(10));
    let newest = Checkpoint::Last.open(&run.run_dir).expect("a checkpoint");
    assert_eq!(newest.state.position.steps, 10);
    assert!(newest.state.sequence > damaged.state.sequence);
    assert!(!damaged.folder.exists());
    train(&run.run_dir, &config, true, StopAt::Never);
    let newest = Checkpoint::Last.open(&run.run_dir).expect("a checkpoint");
    assert_eq!(newest.state.position.steps, 12);
}

/// Fails once with an error of the disk: at the end of epoch 2, or at the end of the run.
struct Fails {
    at_the_end: bool,
}

impl Callback for Fails {
    fn name(&self) -> &'static str {
        "fails"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let fails = match event {
            Event::EpochEnd { .. } => !self.at_the_end && run.progress.position.epochs == 2,
            Event::FitEnd { .. } => self.at_the_end,
            _ => false,
        };
        match fails {
            true => Err(TrainError::Run(RunError::Io {
                path: "disk".into(),
                source: std::io::Error::other("injected"),
            })),
            false => Ok(Flow::Continue),
        }
    }
}

/// Counts the epochs it is notified of.
#[derive(Default)]
struct Counts(u64);

impl Callback for Counts {
    fn name(&self) -> &'static str {
        "counts"
    }

    fn on_event(&mut self, _: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        self.0 += u64::from(matches!(event, Event::EpochEnd { .. }));
        Ok(Flow::Continue)
    }

    fn state(&self) -> Value {
        self.0.into()
    }

    fn restore(&mut self, state: &Value) -> Result<(), TrainError> {
        self.0 = state.as_u64().expect("its own state");
        Ok(())
    }
}

/// Trains with [`Fails`] before the callback with this index, or without it.
fn train_with(
    run_dir: &RunDir,
    config: &RunConfig,
    resume: bool,
    fails: Option<(usize, bool)>,
) -> Result<Stop, TrainError> {
    let splits = splits();
    let checkpoint = resume.then(|| Checkpoint::Last.open(run_dir).expect("a checkpoint"));
    let vae = match &checkpoint {
        Some(checkpoint) => Vae::load(&checkpoint.folder, Device::Cpu).expect("a model"),
        None => Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model"),
    };
    let mut trainer = Trainer::new(&vae, &splits, config).expect("a trainer");
    trainer.save_to(run_dir.clone());
    let early_stopping = config.early_stopping.as_ref().expect("a table");
    for index in 0..N_POSITIONS {
        if let Some((_, at_the_end)) = fails.filter(|&(position, _)| position == index) {
            trainer.add(Fails { at_the_end });
        }
        match index {
            0 => trainer.add(Counts::default()),
            1 => trainer.add(MetricsLog::new(run_dir)),
            2 => trainer.add(EarlyStopping::new(early_stopping)),
            3 => trainer.add(Checkpoints::new(&config.checkpoints)),
            _ => {}
        }
    }
    if let Some(checkpoint) = checkpoint {
        trainer.resume(checkpoint).expect("resumed");
    }
    trainer.fit(&AtomicBool::new(false)).ended
}

/// The failing callback is before each of four callbacks, or after the last.
const N_POSITIONS: usize = 5;

#[test]
fn an_epoch_that_not_every_callback_was_told_of_is_not_done() {
    let config = config(
        "[training]\nema_decay = 0.9\n[early_stopping]\npatience_epochs = 50\n\
         min_improvement = 1e9\n[schedule.plateau]\npatience = 0\n",
    );
    let straight = new_run(&config);
    train_with(&straight.run_dir, &config, false, None).expect("no error");
    let wanted = contents(&straight.run_dir);
    let wanted_metrics = metrics(&straight.run_dir.metrics_file());
    assert_eq!(wanted.1["resume"]["callbacks"]["counts"], 4);
    for position in 0..N_POSITIONS {
        for at_the_end in [false, true] {
            let run = new_run(&config);
            let fails = Some((position, at_the_end));
            let error = train_with(&run.run_dir, &config, false, fails).expect_err("it fails");
            assert!(error.to_string().contains("disk"), "{error}");
            let newest = Checkpoint::Last.open(&run.run_dir).expect("a checkpoint");
            let (epochs, steps) = if at_the_end { (4, 12) } else { (1, 6) };
            assert_eq!(newest.state.position.epochs, epochs, "before {position}");
            assert_eq!(newest.state.position.steps, steps, "before {position}");
            train_with(&run.run_dir, &config, true, None).expect("no error");
            let found = metrics(&run.run_dir.metrics_file());
            assert_eq!(found, wanted_metrics, "before {position}");
            let found = contents(&run.run_dir);
            assert_eq!(found.1, wanted.1, "before {position}");
            assert!(found.0 == wanted.0, "before {position}");
        }
    }
}

#[test]
fn a_failure_of_the_first_callback_at_the_end_keeps_no_other_from_saving() {
    let mut config = config("[early_stopping]\npatience_epochs = 50\n");
    config.checkpoints.every_epochs = 3; // So that only the end of the run saves the fourth.
    config.checkpoints.metric = Some(Metric::Loss);
    let run = new_run(&config);
    let fails = Some((0, true));
    train_with(&run.run_dir, &config, false, fails).expect_err("it fails");
    let newest = Checkpoint::Last.open(&run.run_dir).expect("a checkpoint");
    assert_eq!(newest.state.position.epochs, 4);
}

/// Fails at the end of a step.
struct FailsAtStep(u64);

impl Callback for FailsAtStep {
    fn name(&self) -> &'static str {
        "fails_at_step"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let fails = matches!(event, Event::StepEnd { .. }) && run.progress.position.steps == self.0;
        match fails {
            true => Err(TrainError::Run(RunError::Io {
                path: "disk".into(),
                source: std::io::Error::other("injected"),
            })),
            false => Ok(Flow::Continue),
        }
    }
}

/// Counts the steps it is notified of.
#[derive(Default)]
struct CountsSteps(u64);

impl Callback for CountsSteps {
    fn name(&self) -> &'static str {
        "counts_steps"
    }

    fn on_event(&mut self, _: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        self.0 += u64::from(matches!(event, Event::StepEnd { .. }));
        Ok(Flow::Continue)
    }

    fn state(&self) -> Value {
        self.0.into()
    }
}

#[test]
fn a_step_at_which_a_callback_fails_is_told_to_those_after_it() {
    let config = config("");
    let run = new_run(&config);
    let splits = splits();
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
    let mut trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
    trainer.save_to(run.run_dir.clone());
    trainer.add(FailsAtStep(5));
    trainer.add(CountsSteps::default());
    trainer.add(Checkpoints::new(&config.checkpoints));
    let outcome = trainer.fit(&AtomicBool::new(false));
    let error = outcome.ended.expect_err("it fails").to_string();
    assert!(error.contains("disk"), "{error}");
    let newest = Checkpoint::Last.open(&run.run_dir).expect("a checkpoint");
    assert_eq!(newest.state.position.steps, 5);
    assert_eq!(newest.state.resume.callbacks["counts_steps"], 5);
}

#[test]
fn a_run_that_stopped_early_stays_stopped_until_told_to_be_patient() {
    let mut config = config("[early_stopping]\npatience_epochs = 1\nmin_improvement = 1e9\n");
    let run = new_run(&config);
    let stopped = train(&run.run_dir, &config, false, StopAt::Never);
    assert_eq!(stopped, Stop::Callback);
    let wanted = metrics(&run.run_dir.metrics_file());
    assert_eq!(
        of_epochs(&wanted).len(),
        4,
        "the second epoch was no better by a billion"
    );
    assert_eq!(
        train(&run.run_dir, &config, true, StopAt::Never),
        Stop::Callback
    );
    assert_eq!(metrics(&run.run_dir.metrics_file()), wanted);
    if let Some(early_stopping) = &mut config.early_stopping {
        early_stopping.patience_epochs = 2;
    }
    assert_eq!(
        train(&run.run_dir, &config, true, StopAt::Never),
        Stop::Callback
    );
    let longer = metrics(&run.run_dir.metrics_file());
    assert_eq!(of_epochs(&longer).len(), 6);
}

#[test]
fn a_best_checkpoint_whose_state_is_damaged_is_passed_over_too() {
    let config = config("[checkpoints]\nkeep = 4\n");
    let run = new_run(&config);
    train(&run.run_dir, &config, false, StopAt::Never);
    let best = Checkpoint::Best.open(&run.run_dir).expect("a checkpoint");
    fs::write(best.folder.join("state.json"), "{").expect("written");
    let next = Checkpoint::Best.open(&run.run_dir).expect("the next best");
    assert_ne!(next.folder, best.folder);
    for entry in fs::read_dir(run.run_dir.checkpoints()).expect("a folder") {
        let state = entry.expect("an entry").path().join("state.json");
        fs::write(state, "{").expect("written");
    }
    let message = Checkpoint::Best
        .open(&run.run_dir)
        .expect_err("none")
        .to_string();
    assert!(message.contains("every checkpoint is damaged"), "{message}");
}

#[test]
fn another_data_set_is_refused() {
    let config = config("");
    let run = new_run(&config);
    train(&run.run_dir, &config, false, StopAt::Epoch(1));
    let checkpoint = Checkpoint::Last.open(&run.run_dir).expect("a checkpoint");
    let vae = Vae::load(&checkpoint.folder, Device::Cpu).expect("a model");
    let splits = Splits::new(dataset(23), Some(dataset(7)), dataset(5));
    let mut trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
    let message = trainer.resume(checkpoint).expect_err("refused").to_string();
    assert!(message.contains("22 training images"), "{message}");
    assert!(message.contains("has 23"), "{message}");
}

#[test]
fn only_the_newest_and_the_best_checkpoints_stay() {
    let mut config = config("");
    config.checkpoints.keep = 1;
    let run = new_run(&config);
    train(&run.run_dir, &config, false, StopAt::Never);
    let names: Vec<_> = fs::read_dir(run.run_dir.checkpoints())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name.to_string_lossy().starts_with("epoch-"))
        .collect();
    let best = Checkpoint::Best.open(&run.run_dir).expect("a checkpoint");
    let last = Checkpoint::Last.open(&run.run_dir).expect("a checkpoint");
    let expected = if best.folder == last.folder { 1 } else { 2 };
    assert_eq!(names.len(), expected, "{names:?}");
    assert!(Vae::load(run.run_dir.checkpoints().join("last"), Device::Cpu).is_ok());
}

#[test]
fn averaged_weights_are_the_model_and_the_raw_ones_lie_beside() {
    let config = config("[training]\nema_decay = 0.9\n");
    let run = new_run(&config);
    train(&run.run_dir, &config, false, StopAt::Never);
    let folder = Checkpoint::Last
        .open(&run.run_dir)
        .expect("a checkpoint")
        .folder;
    let raw = vae_model::read_tensors(&folder.join("raw-weights.safetensors"))
        .expect("raw")
        .tensors;
    let vae = Vae::load(&folder, Device::Cpu).expect("a model");
    let differ = vae
        .named_variables()
        .iter()
        .any(|(name, average)| raw[name] != *average);
    assert!(differ, "the average lags behind");
}
