//! The loop, evaluation and checkpoints on a small data set in memory.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use tch::{Device, Tensor};
use vae_data::{Dataset, Splits};
use vae_model::{ImageShape, MlpConfig, ModelConfig, NetworkConfig, Vae};
use vae_train::{
    Callback, Checkpoint, CheckpointState, Event, Fit, Flow, RunConfig, RunDir, Stop, TrainError,
    evaluate, fit,
};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 4,
    width: 5,
};

fn dataset(n: i64) -> Dataset {
    let bytes: Vec<u8> = (0..n * SHAPE.n_values())
        .map(|i| if (i * i) % 11 < 4 { 220 } else { 10 })
        .collect();
    let images = Tensor::from_slice(&bytes).view([n, 1, SHAPE.height, SHAPE.width]);
    Dataset::new(images, None).expect("a data set")
}

fn splits() -> Splits {
    Splits::new(dataset(22), dataset(7))
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
    fn on_event(&mut self, run: &Fit, event: &Event) -> Result<Flow, TrainError> {
        let step = run.position.steps;
        let what = match event {
            Event::FitStart => "start".to_owned(),
            Event::StepEnd { .. } => format!("step {step}"),
            Event::EpochEnd { test, .. } => format!("epoch {}", test.epoch),
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
    let mut callbacks: Vec<Box<dyn Callback>> = vec![Box::new(witness)];
    let outcome = fit(&vae(), &splits(), &config(), &stop, &mut callbacks);
    let ended = outcome.ended.expect("no error");
    drop(callbacks);
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
        let result = evaluate(&vae, &config.objective, &data, batch_size, 0, 0);
        let result = result.expect("an evaluation");
        let sum: f64 = result.kl_per_dimension.iter().sum();
        assert!((sum - result.means.kl).abs() < 1e-5 * result.means.kl);
        assert!((result.means.elbo + result.means.reconstruction + result.means.kl).abs() < 1e-9);
        result.means.kl // The kl has no noise in it.
    };
    assert!((kl(7) - kl(2)).abs() < 1e-6 * kl(7));
}

#[test]
fn a_checkpoint_survives_a_crash_between_its_two_renames() {
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = RunDir::create(&folder.path().join("run"), &config()).expect("a run");
    let state = |epoch| CheckpointState {
        version: "test".to_owned(),
        epoch,
        step: 10 * epoch,
        test: None,
        kl_per_dimension: Some(vec![0.5, 1.5, 0.0]),
    };
    let vae = vae();
    assert!(Checkpoint::Last.open(&run_dir).is_err());
    for epoch in [1, 2] {
        Checkpoint::Last
            .save(&run_dir, &vae, &state(epoch))
            .expect("saved");
        let (path, found) = Checkpoint::Last.open(&run_dir).expect("a checkpoint");
        assert_eq!(found, state(epoch));
        assert!(Vae::load(path, Device::Cpu).is_ok());
    }
    let checkpoints = run_dir.checkpoints();
    assert_eq!(fs::read_dir(&checkpoints).expect("a folder").count(), 1);

    // As a crash leaves it: the old one moved away, the new one not yet in its place.
    fs::rename(checkpoints.join("last"), checkpoints.join("last.previous")).expect("renamed");
    fs::create_dir(checkpoints.join("last.partial")).expect("created");
    let (path, found) = Checkpoint::Last.open(&run_dir).expect("the one before");
    assert_eq!(found.epoch, 2);
    assert!(Vae::load(path, Device::Cpu).is_ok());
    Checkpoint::Last
        .save(&run_dir, &vae, &state(3))
        .expect("saved");
    let (_, found) = Checkpoint::Last.open(&run_dir).expect("a checkpoint");
    assert_eq!(found.epoch, 3);
}
