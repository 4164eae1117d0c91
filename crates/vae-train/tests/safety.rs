//! Numbers that are none: back to the last good state, a lower learning rate, and the culprit's name.

mod common;

use std::sync::atomic::AtomicBool;

use common::{SHAPE, alone, dataset};
use tch::{Device, Kind, Tensor, no_grad};
use vae_data::Splits;
use vae_model::Vae;
use vae_train::{
    Callback, Checkpoints, Event, Fit, Flow, Outcome, RunConfig, RunDir, TrainError, Trainer,
};

fn config(extra: &str) -> RunConfig {
    let text = format!(
        "{extra}\n[dataset.idx]\nfolder = 'unused'\n[model.network.mlp]\nhidden = [6]\n\
         [training]\nepochs = 3\nbatch_size = 8\n"
    );
    toml::from_str(&text).expect("a config")
}

fn train(config: &RunConfig, callback: Option<Poison>) -> (Outcome, Vae) {
    tch::manual_seed(5);
    let splits = Splits::new(dataset(22), Some(dataset(7)), dataset(5));
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu).expect("a model");
    let mut trainer = Trainer::new(&vae, &splits, config).expect("a trainer");
    if let Some(callback) = callback {
        trainer.add(callback);
    }
    let outcome = trainer.fit(&AtomicBool::new(false));
    (outcome, vae)
}

/// Puts a value into a weight after a step, once: what a fault of the hardware would do.
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
            && run.position.steps == self.after_step
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
    let _mine = alone();
    // A first step of 1e20 ends in infinities; one of 1e20 · 1e-22 = 0.01 does not.
    let config =
        config("[optimizer.sgd]\nlearning_rate = 1e20\n[safety]\nlearning_rate_factor = 1e-22\n");
    let (outcome, vae) = train(&config, None);
    outcome.ended.expect("it recovers");
    assert_eq!(outcome.position.epochs, 3);
    let [incident] = &outcome.incidents[..] else {
        panic!("{:?}", outcome.incidents);
    };
    assert_eq!(incident.returned_to_step, 0);
    assert!((incident.learning_rate_scale - 1e-22).abs() < 1e-30);
    assert!(incident.problem.contains("became"), "{}", incident.problem);
    let record = outcome.last_train.expect("a record");
    assert!((record.learning_rate.expect("a rate") - 0.01).abs() < 1e-6);
    for (name, variable) in vae.named_variables() {
        assert!(variable.isfinite().all().int64_value(&[]) == 1, "{name}");
    }
}

#[test]
fn a_fault_is_undone_and_the_run_ends_as_without_it_but_for_the_learning_rate() {
    let _mine = alone();
    // With a factor of 1 nothing is left of the fault.
    let config = config("[safety]\nlearning_rate_factor = 1.0\n");
    let (clean, _) = train(&config, None);
    let means = |outcome: &Outcome| outcome.last_validation.clone().expect("a record").means;
    // The third value is finite and a ruin all the same; after step 6 an epoch ends.
    for (step, value) in [(4, f64::NAN), (4, f64::INFINITY), (4, 1e37), (6, f64::NAN)] {
        let (faulty, _) = train(&config, Some(Poison::new(step, value)));
        assert_eq!(faulty.incidents.len(), 1, "{:?}", faulty.incidents);
        assert_eq!(
            faulty.incidents[0].returned_to_step, 3,
            "the epoch's first step"
        );
        assert_eq!(means(&faulty), means(&clean));
    }
}

#[test]
fn no_ruin_becomes_a_checkpoint() {
    let _mine = alone();
    // A checkpoint is due after every step, also after the one that leaves NaN in a weight.
    let config = config("[checkpoints]\nevery_minutes = 1e-9\nkeep = 100\n");
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = RunDir::create(&folder.path().join("run"), &config).expect("a run");
    tch::manual_seed(5);
    let splits = Splits::new(dataset(22), Some(dataset(7)), dataset(5));
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu).expect("a model");
    let mut trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
    trainer.save_to(run_dir.clone());
    trainer.add(Poison::new(4, f64::NAN));
    trainer.add(Checkpoints::new(&config.checkpoints));
    let outcome = trainer.fit(&AtomicBool::new(false));
    outcome.ended.expect("it recovers");
    assert_eq!(outcome.incidents.len(), 1);
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
    let _mine = alone();
    let config = config(
        "[optimizer.sgd]\nlearning_rate = 1e30\n[safety]\nmax_rollbacks = 2\nfind_layer = true\n",
    );
    let (outcome, vae) = train(&config, None);
    assert_eq!(outcome.incidents.len(), 2);
    let error = outcome.ended.expect_err("it gives up");
    assert!(matches!(error, TrainError::GaveUp { n_rollbacks: 2, .. }));
    let message = error.to_string();
    for wanted in ["became", "after 2 returns", "learning_rate", "first in the"] {
        assert!(message.contains(wanted), "{wanted} in {message}");
    }
    // What is left is the last good state, no ruin.
    let sum = |t: &Tensor| t.sum(Kind::Double).double_value(&[]);
    assert!(
        vae.named_variables()
            .iter()
            .all(|(_, t)| sum(t).is_finite())
    );
}

#[test]
fn the_layer_where_it_began_is_named() {
    let _mine = alone();
    let config = config("[optimizer.sgd]\nlearning_rate = 1e30\n[safety]\nfind_layer = true\n");
    let (outcome, _) = train(&config, None);
    let origin = outcome.incidents[0].origin.as_deref().expect("an origin");
    // The first step's numbers are fine, its change of the weights is not.
    assert!(origin.contains("step 2"), "{origin}");
    assert!(origin.contains("coder"), "{origin}");
}
