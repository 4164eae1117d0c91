//! The loop, evaluation and checkpoints on a small data set in memory.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use common::{SHAPE, dataset};
use tch::Device;
use vae_data::Splits;
use vae_model::{MlpConfig, ModelConfig, NetworkConfig, Vae};
use vae_train::{Callback, Event, Fit, Flow, RunConfig, Stop, TrainError, Trainer, evaluate};

fn splits() -> Splits {
    Splits::new(dataset(22), Some(dataset(7)), dataset(5))
}

fn config() -> RunConfig {
    let text = "[dataset.idx]\nfolder = 'unused'\n[training]\nepochs = 3\nbatch_size = 8\n";
    toml::from_str(text).expect("a config")
}

fn vae() -> Vae {
    let config = ModelConfig {
        latent_dims: 3,
        network: NetworkConfig::Mlp(MlpConfig { hidden: vec![6] }),
        ..Default::default()
    };
    Vae::new(&config, SHAPE, Device::Cpu).expect("a model")
}

/// Notes what it is told, and asks to stop after so many steps.
struct Witness {
    seen: Rc<RefCell<Vec<String>>>,
    stop_at_step: u64,
}

impl Callback for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let step = run.position.steps;
        let what = match event {
            Event::FitStart => "start".to_owned(),
            Event::StepEnd { .. } => format!("step {step}"),
            Event::EpochEnd { train, .. } => format!("epoch {}", train.epoch),
            Event::FitEnd { .. } => "end".to_owned(),
            _ => "?".to_owned(),
        };
        self.seen.borrow_mut().push(what);
        Ok(if step >= self.stop_at_step {
            Flow::Stop
        } else {
            Flow::Continue
        })
    }
}

fn events(stop_at_step: u64) -> (Vec<String>, Stop) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let witness = Witness {
        seen: Rc::clone(&seen),
        stop_at_step,
    };
    let stop = AtomicBool::new(false);
    let (vae, splits, config) = (vae(), splits(), config());
    let mut trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
    trainer.add(witness);
    let ended = trainer.fit(&stop).ended.expect("no error");
    (Rc::into_inner(seen).expect("one owner").into_inner(), ended)
}

#[test]
fn events_come_in_order_and_the_last_partial_batch_is_a_step() {
    let (seen, ended) = events(u64::MAX);
    let mut wanted = vec!["start".to_owned()];
    for epoch in 1..=3 {
        // 22 images in batches of 8: 8, 8, 6.
        wanted.extend((1..=3).map(|i| format!("step {}", (epoch - 1) * 3 + i)));
        wanted.push(format!("epoch {epoch}"));
    }
    wanted.push("end".to_owned());
    assert_eq!(seen, wanted);
    assert_eq!(ended, Stop::Finished);
}

#[test]
fn a_callback_may_stop_the_run_between_steps() {
    let (seen, ended) = events(2);
    assert_eq!(seen, ["start", "step 1", "step 2", "end"]);
    assert_eq!(ended, Stop::Callback);
}

#[test]
fn evaluation_does_not_depend_on_how_images_are_batched() {
    let (vae, config, data) = (vae(), config(), dataset(7));
    let kl = |batch_size| {
        let mut config = config.clone();
        config.training.evaluation_batch_size = batch_size;
        let result = evaluate(&vae, &config, &data, data.len(), 0).expect("an evaluation");
        let (means, latent_use) = (result.means, result.latent_use);
        let (elbo, kl) = (means.elbo.expect("an elbo"), means.kl.expect("a kl"));
        let sum: f64 = latent_use.ranking().iter().sum();
        assert!((sum - kl).abs() < 1e-5 * kl);
        assert!((elbo + means.reconstruction + kl).abs() < 1e-9);
        assert!(latent_use.active_units() <= 3);
        kl // It has no noise in it.
    };
    assert!((kl(7) - kl(2)).abs() < 1e-6 * kl(7));
}
