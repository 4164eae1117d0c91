//! NaN and infinity in training: the run returns to the last good state, lowers the learning rate and names the cause.

mod common;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use common::{SHAPE, dataset};
use tch::{Device, Kind, Tensor, no_grad};
use vae_data::Splits;
use vae_model::{MlpConfig, NetworkConfig, Vae};
use vae_train::{
    Callback, Checkpoint, Checkpoints, Event, Fit, Flow, MetricsLog, Outcome, RunConfig, RunDir,
    TrainError, Trainer,
};

fn config(extra: &str) -> RunConfig {
    let text = format!(
        "{extra}\n[dataset.idx]\nfolder = 'unused'\n[model.network.mlp]\nhidden = [6]\n\
         [training]\nepochs = 3\nbatch_size = 8\n"
    );
    toml::from_str(&text).expect("a config")
}

fn train(config: &RunConfig, callback: Option<Poison>) -> (Outcome, Vae) {
    let splits = Splits::new(dataset(22), Some(dataset(7)), dataset(5));
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 5).expect("a model");
    let mut trainer = Trainer::new(&vae, &splits, config).expect("a trainer");
    if let Some(callback) = callback {
        trainer.add(callback);
    }
    let outcome = trainer.fit(&AtomicBool::new(false));
    (outcome, vae)
}

/// Puts a value into a weight after a step, once, as a hardware fault would.
struct Poison {
    after_step: u64,
    value: f64,
    done: bool,
}

impl Poison {
    fn new(after_step: u64, value: f64) -> Self {
        Self {
            after_step,
            value,
            done: false,
        }
    }
}

impl Callback for Poison {
    fn name(&self) -> &'static str {
        "poison"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if matches!(event, Event::StepEnd { .. })
            && run.progress.position.steps == self.after_step
            && !self.done
        {
            self.done = true;
            let (_, variable) = run.vae.named_variables().swap_remove(0);
            let _ = no_grad(|| variable.get(0).fill_(self.value));
        }
        Ok(Flow::Continue)
    }
}

#[test]
fn a_step_too_large_is_taken_back_and_tried_smaller() {
    // A first step of 1e12 ends in infinities; one of 1e12 · 1e-14 = 0.01 does not.
    let config =
        config("[optimizer.sgd]\nlearning_rate = 1e12\n[safety]\nlearning_rate_factor = 1e-14\n");
    let (outcome, vae) = train(&config, None);
    outcome.ended.expect("it recovers");
    assert_eq!(outcome.progress.position.epochs, 3);
    let [incident] = &outcome.progress.incidents[..] else {
        panic!("{:?}", outcome.progress.incidents);
    };
    assert_eq!(incident.returned_to_step, 0);
    assert!((incident.learning_rate_scale - 1e-14).abs() < 1e-22);
    assert!(incident.problem.contains("became"), "{}", incident.problem);
    let record = outcome.progress.last_train.expect("a record");
    assert!((record.learning_rate.expect("a rate") - 0.01).abs() < 1e-6);
    for (name, variable) in vae.named_variables() {
        assert!(variable.isfinite().all().int64_value(&[]) == 1, "{name}");
    }
}

#[test]
fn a_step_too_large_of_a_second_player_is_taken_back_too() {
    let factor = "objective.regularizer.factor.hidden = [5, 5, 5, 5]\n";
    let gan = "model.posterior = 'none'\nobjective.regularizer = 'none'\n\
               objective.adversarial.discriminator.mlp.hidden = [5, 5, 5, 5]\n";
    for objective in [factor, gan] {
        let config = config(&format!(
            "players.discriminator.optimizer.sgd.learning_rate = 1e12\n{objective}\
             [safety]\nlearning_rate_factor = 1e-14\n",
        ));
        let (outcome, _) = train(&config, None);
        outcome.ended.expect("it recovers");
        let incidents = &outcome.progress.incidents;
        assert_eq!(incidents.len(), 1, "{incidents:?}");
        let record = outcome.progress.last_validation.expect("a record");
        assert!(record.named["discriminator_loss"].is_finite());
    }
}

#[test]
fn a_fault_is_undone_and_the_run_ends_as_without_it_but_for_the_learning_rate() {
    // With a factor of 1 the fault leaves no trace.
    let config = config("[safety]\nlearning_rate_factor = 1.0\n");
    let (clean, _) = train(&config, None);
    let means = |outcome: &Outcome| {
        outcome
            .progress
            .last_validation
            .clone()
            .expect("a record")
            .means
    };
    // The third value is finite but far too large. An epoch ends after step 6.
    for (step, value) in [(4, f64::NAN), (4, f64::INFINITY), (4, 1e37), (6, f64::NAN)] {
        let (faulty, _) = train(&config, Some(Poison::new(step, value)));
        assert_eq!(
            faulty.progress.incidents.len(),
            1,
            "{:?}",
            faulty.progress.incidents
        );
        assert_eq!(
            faulty.progress.incidents[0].returned_to_step, 3,
            "the epoch's first step"
        );
        assert_eq!(means(&faulty), means(&clean));
    }
}

#[test]
fn no_ruin_becomes_a_checkpoint() {
    // A checkpoint is due after every step, also after the one that leaves NaN in a weight.
    let config = config("[checkpoints]\nevery_minutes = 1e-9\nkeep = 100\n");
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = RunDir::create(&folder.path().join("run"), &config).expect("a run");
    let splits = Splits::new(dataset(22), Some(dataset(7)), dataset(5));
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 5).expect("a model");
    let mut trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
    trainer.save_to(run_dir.clone());
    trainer.add(Poison::new(4, f64::NAN));
    trainer.add(Checkpoints::new(&config.checkpoints));
    let outcome = trainer.fit(&AtomicBool::new(false));
    outcome.ended.expect("it recovers");
    assert_eq!(outcome.progress.incidents.len(), 1);
    let mut n_checkpoints = 0;
    for entry in std::fs::read_dir(run_dir.checkpoints()).expect("a folder") {
        let folder = entry.expect("an entry").path();
        let vae = Vae::load(&folder, Device::Cpu).expect("a model");
        for (name, variable) in vae.named_variables() {
            let is_finite = variable.isfinite().all().int64_value(&[]) == 1;
            assert!(is_finite, "{name} in {}", folder.display());
        }
        n_checkpoints += 1;
    }
    assert!(n_checkpoints >= 9, "{n_checkpoints}");
}

#[test]
fn it_gives_up_after_so_many_returns_and_says_what_to_try() {
    let config = config(
        "[optimizer.sgd]\nlearning_rate = 1e12\n[safety]\nmax_rollbacks = 2\nfind_layer = true\n",
    );
    let (outcome, vae) = train(&config, None);
    assert_eq!(outcome.progress.incidents.len(), 2);
    let error = outcome.ended.expect_err("it gives up");
    assert!(matches!(error, TrainError::GaveUp { n_rollbacks: 2, .. }));
    let message = error.to_string();
    for wanted in [
        "became",
        "after 2 rollbacks",
        "learning_rate",
        "first in the",
    ] {
        assert!(message.contains(wanted), "{wanted} in {message}");
    }
    // The model is left in the last good state.
    let sum = |t: &Tensor| t.sum(Kind::Double).double_value(&[]);
    assert!(
        vae.named_variables()
            .iter()
            .all(|(_, t)| sum(t).is_finite())
    );
}

#[test]
fn the_layer_where_it_began_is_named() {
    let mut config = config("[optimizer.sgd]\nlearning_rate = 1e12\n[safety]\nfind_layer = true\n");
    // With weights of at least 1e9 in each layer, values exceed f32 before the last layer.
    config.model.network = NetworkConfig::Mlp(MlpConfig { hidden: vec![6; 5] });
    let (outcome, _) = train(&config, None);
    let origin = outcome.progress.incidents[0]
        .origin
        .as_deref()
        .expect("an origin");
    // The values of the first step are finite, but its change of the weights is too large.
    assert!(origin.contains("step 2"), "{origin}");
    assert!(origin.contains("coder"), "{origin}");
}

#[test]
fn without_returns_a_failure_ends_the_run_and_leaves_the_checkpoints_of_before() {
    let config = config("[safety]\nmax_rollbacks = 0\n");
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = RunDir::create(&folder.path().join("run"), &config).expect("a run");
    let splits = Splits::new(dataset(22), Some(dataset(7)), dataset(7));
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 5).expect("a model");
    let mut trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
    trainer.save_to(run_dir.clone());
    trainer.add(Poison::new(4, 1e37)); // Finite, so that only the loss becomes infinite.
    trainer.add(Checkpoints::new(&config.checkpoints));
    let outcome = trainer.fit(&AtomicBool::new(false));
    let error = outcome.ended.expect_err("it gives up");
    assert!(matches!(error, TrainError::GaveUp { n_rollbacks: 0, .. }));
    assert!(outcome.progress.incidents.is_empty());
    let newest = Checkpoint::Last.open(&run_dir).expect("a checkpoint");
    assert_eq!(newest.state.position.steps, 3, "after the first epoch");
}

/// Puts NaN into a weight after step 83, unless the run has returned to step 50 or before, as if the cause were there.
struct Ruin;

impl Callback for Ruin {
    fn name(&self) -> &'static str {
        "ruin"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let is_mended = run
            .progress
            .incidents
            .iter()
            .any(|i| i.returned_to_step <= 50);
        if matches!(event, Event::StepEnd { .. }) && run.progress.position.steps == 83 && !is_mended
        {
            let (_, variable) = run.vae.named_variables().swap_remove(0);
            let _ = no_grad(|| variable.get(0).fill_(f64::NAN));
        }
        Ok(Flow::Continue)
    }
}

/// Requests checkpoints after these steps.
struct SaveAt(Vec<u64>);

impl Callback for SaveAt {
    fn name(&self) -> &'static str {
        "save_at"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if matches!(event, Event::StepEnd { .. }) && self.0.contains(&run.progress.position.steps) {
            run.request_checkpoint();
        }
        Ok(Flow::Continue)
    }
}

/// Copies the run's folder after these numbers of steps, where repeated steps are counted again. A copy is what a
/// process leaves that is killed at that moment.
struct KillAt<'a> {
    n_steps: usize,
    moments: &'a [usize],
    run: &'a Path,
    copies: &'a Path,
}

impl Callback for KillAt<'_> {
    fn name(&self) -> &'static str {
        "kill_at"
    }

    fn on_event(&mut self, _: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if matches!(event, Event::StepEnd { .. }) {
            self.n_steps += 1;
            if self.moments.contains(&self.n_steps) {
                copy(self.run, &self.copies.join(self.n_steps.to_string()));
            }
        }
        Ok(Flow::Continue)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let copied = to.join(path.file_name().expect("a name"));
        match fs::symlink_metadata(&path).expect("metadata").file_type() {
            kind if kind.is_dir() => copy(&path, &copied),
            kind if kind.is_file() => drop(fs::copy(&path, &copied).expect("copied")),
            _ => {} // `last` and `best` are for people.
        }
    }
}

/// 110 steps in an epoch: finite checks after 50, 100 and 110.
fn long_epochs(keep: usize) -> RunConfig {
    let text = format!(
        "[checkpoints]\nkeep = {keep}\n[dataset.idx]\nfolder = 'unused'\n[model.network.mlp]\n\
         hidden = [4]\n[training]\nepochs = 2\nbatch_size = 1\nema_decay = 0.9\n\
         [safety]\nfind_layer = true\n"
    );
    toml::from_str(&text).expect("a config")
}

fn go_on(run: &Path, config: &RunConfig, saves: &[u64], killed: Option<(&[usize], &Path)>) {
    let run_dir = RunDir::open(run).expect("a run");
    let splits = Splits::new(dataset(110), Some(dataset(7)), dataset(7));
    let checkpoint = match Checkpoint::any(&run_dir).expect("a folder") {
        true => Some(Checkpoint::Last.open(&run_dir).expect("a checkpoint")),
        false => None,
    };
    let vae = match &checkpoint {
        Some(checkpoint) => Vae::load(&checkpoint.folder, Device::Cpu),
        None => Vae::new(&config.model, SHAPE, Device::Cpu, 5),
    };
    let vae = vae.expect("a model");
    let mut trainer = Trainer::new(&vae, &splits, config).expect("a trainer");
    trainer.save_to(run_dir.clone());
    trainer.add(MetricsLog::new(&run_dir));
    trainer.add(Ruin);
    trainer.add(SaveAt(saves.to_owned()));
    trainer.add(Checkpoints::new(&config.checkpoints));
    if let Some((moments, copies)) = killed {
        trainer.add(KillAt {
            n_steps: 0,
            moments,
            run,
            copies,
        });
    }
    if let Some(checkpoint) = checkpoint {
        trainer.resume(checkpoint).expect("resumed");
    }
    run_dir.reopen(config).expect("reopened");
    trainer.fit(&AtomicBool::new(false)).ended.expect("it ends");
}

/// The results of a run, without measured times.
fn end(run: &Path) -> (Vec<Vec<u8>>, String, Vec<String>) {
    let run_dir = RunDir::open(run).expect("a run");
    let last = Checkpoint::Last.open(&run_dir).expect("a checkpoint");
    let files = [
        "weights.safetensors",
        "raw-weights.safetensors",
        "optimizer.safetensors",
    ];
    let files = files.map(|name| fs::read(last.folder.join(name)).expect("a file"));
    let records = run_dir.records().expect("records");
    let means = |record: &vae_train::Record| format!("{} {:?}", record.epoch, record.means);
    (
        files.into(),
        format!("{:?}", last.state.resume.progress.incidents),
        records.iter().map(means).collect(),
    )
}

#[test]
fn a_run_that_returns_ends_the_same_wherever_it_is_killed() {
    tch::set_num_threads(1); // The model is too small for more threads.
    for keep in [1, 2, 3] {
        let config = long_epochs(keep);
        // Checkpoints in the abandoned branch, in the branch after the return, and at the same step in both.
        let saves = [30, 60, 72, 81, 90, 105, 150];
        // The run finds NaN at step 90, where a checkpoint is due, returns to step 50, and does 170 more.
        let mut moments = vec![31, 61, 82, 90, 91, 105, 150];
        let mut random = 17_u64.wrapping_add(keep as u64);
        for _ in 0..2 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            moments.push(1 + (random >> 33) as usize % 250);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let straight = folder.path().join("straight");
        RunDir::create(&straight, &config).expect("a run");
        let killed = (&moments[..], folder.path());
        go_on(&straight, &config, &saves, Some(killed));
        let wanted = end(&straight);
        assert!(wanted.1.contains("returned_to_step: 50"), "{}", wanted.1);
        assert_eq!(wanted.1.matches("returned_to_step").count(), 1);
        for moment in &moments {
            let run = folder.path().join(moment.to_string());
            go_on(&run, &config, &saves, None);
            let found = end(&run);
            assert_eq!(found.1, wanted.1, "keep {keep}, killed at {moment}");
            assert_eq!(found.2, wanted.2, "keep {keep}, killed at {moment}");
            assert!(found.0 == wanted.0, "keep {keep}, killed at {moment}");
            let n_kept = fs::read_dir(run.join("checkpoints"))
                .expect("a folder")
                .filter(|entry| {
                    let name = entry.as_ref().expect("an entry").file_name();
                    !["last", "best"].iter().any(|link| name == *link)
                })
                .count();
            assert!(n_kept <= keep + 1, "the best and {keep}, found {n_kept}");
        }
    }
}
