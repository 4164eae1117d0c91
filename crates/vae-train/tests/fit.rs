//! The training loop, evaluation and checkpoints on a small data set in memory.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use common::{SHAPE, dataset};
use tch::{Device, Kind, Tensor, no_grad};
use vae_data::{Splits, derive_seed};
use vae_model::{MlpConfig, Mode, ModelConfig, NetworkConfig, Vae};
use vae_train::{
    Callback, Evaluation, Event, Fit, Flow, LatentUse, Outcome, Record, RunConfig, Stop,
    TrainError, Trainer, evaluate,
};

fn splits() -> Splits {
    Splits::new(dataset(22), Some(dataset(7)), dataset(5))
}

fn config() -> RunConfig {
    let text = "[dataset.idx]\nfolder = 'unused'\n[training]\nepochs = 3\nbatch_size = 8\n";
    toml::from_str(text).expect("a config")
}

fn vae() -> Vae {
    let config = ModelConfig {
        latent_dims: Some(3),
        network: NetworkConfig::Mlp(MlpConfig { hidden: vec![6] }),
        ..Default::default()
    };
    Vae::new(&config, SHAPE, Device::Cpu, 1).expect("a model")
}

/// Records the notifications it gets, and requests a stop after a number of steps.
struct Witness {
    seen: Rc<RefCell<Vec<String>>>,
    stop_at_step: u64,
}

impl Callback for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let step = run.progress.position.steps;
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
        assert!((elbo + means.reconstruction.expect("one") + kl).abs() < 1e-9);
        assert!(latent_use.active_units() <= 3);
        kl // It has no noise in it.
    };
    assert!((kl(7) - kl(2)).abs() < 1e-6 * kl(7));
}

/// A config with these tables and a small network.
fn run_config(tables: &str, batch_size: usize, epochs: u64) -> RunConfig {
    let mut config: RunConfig =
        toml::from_str(&format!("dataset.idx.folder = 'unused'\n{tables}")).expect("a config");
    config.training.batch_size = batch_size;
    config.training.epochs = epochs;
    if let NetworkConfig::Conv(_) = config.model.network {
        config.model.network = NetworkConfig::Mlp(MlpConfig { hidden: vec![6] });
    }
    config.check().expect("a config that makes sense");
    config
}

/// A run of the config with these tables, and its model.
fn train(tables: &str, batch_size: usize, epochs: u64) -> (RunConfig, Vae, Outcome) {
    let config = run_config(tables, batch_size, epochs);
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
    let splits = splits();
    let trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
    let outcome = trainer.fit(&AtomicBool::new(false));
    (config, vae, outcome)
}

fn assert_close(what: &str, found: f64, wanted: f64) {
    let difference = (found - wanted).abs();
    assert!(
        difference < 1e-5 * wanted.abs().max(1.0),
        "{what}: {found} vs {wanted}"
    );
}

/// loss = reconstruction + β·kl.
fn assert_beta(record: &Record, beta: f64) {
    let kl = record.means.kl.expect("a kl");
    let found = (record.means.loss - record.means.reconstruction.expect("one")) / kl;
    assert!(
        (found - beta).abs() < 1e-3,
        "β of {record:?}: {found} vs {beta}"
    );
}

#[test]
fn a_step_has_the_rate_and_the_weight_of_the_kl_of_its_own_number() {
    let tables = "
        optimizer.sgd.learning_rate = 1e-3
        schedule.warm_up.warm_up_steps = 9
        objective.regularizer.kl.beta_schedule.warm_up.steps = 4
    ";
    // Three steps, numbered 0, 1 and 2: the last has 3/10 of the learning rate.
    let (_, _, outcome) = train(tables, 8, 1);
    let record = outcome.progress.last_train.expect("a record");
    assert_close("rate", record.learning_rate.expect("a rate"), 0.3e-3);
    assert_eq!(record.beta, Some(0.75), "that of the step to come");
    // One step per epoch: that of the second epoch has the number 1.
    let (_, _, outcome) = train(tables, 22, 2);
    let record = outcome.progress.last_train.expect("a record");
    assert_close("rate", record.learning_rate.expect("a rate"), 0.2e-3);
    assert_beta(&record, 0.25);
    assert_eq!(record.beta, Some(0.5));
    // Evaluation uses the schedule's final value, so that epochs are comparable.
    assert_beta(&outcome.progress.last_validation.expect("a record"), 1.0);
}

#[test]
fn a_held_out_loss_knows_how_many_images_there_are_to_train_on() {
    let tables = "objective.regularizer.beta_tc = { alpha = 1.0, beta = 3.0, gamma = 1.0 }";
    let (config, vae, outcome) = train(tables, 8, 1);
    let found = outcome
        .progress
        .last_validation
        .expect("a record")
        .means
        .loss;
    let of = |n_images: usize| {
        let data = splits().validation.expect("images");
        let evaluation = evaluate(&vae, &config, &data, n_images, 3);
        evaluation.expect("an evaluation").means.loss
    };
    assert_close("of 22 images", found, of(22));
    // (β − 1)·ln(22/7): log(N·B) occurs once in the joint density and once in each of two dimensions.
    assert_close("of 7 images", of(22) - of(7), 2.0 * (22.0_f64 / 7.0).ln());
}

#[test]
fn an_evaluation_is_the_mean_over_samples_and_images() {
    let mut config = config();
    let text = "estimator.elbo.samples = 3";
    config.objective = toml::from_str(text).expect("an objective");
    let (vae, data) = (vae(), dataset(7));
    let Evaluation {
        means,
        named: _,
        latent_use,
        mse,
    } = evaluate(&vae, &config, &data, 22, 0).expect("an evaluation");
    // All images in one batch, with the same noise.
    let mut noise = vae.generator(derive_seed(config.seed, 0, "evaluation noise"));
    let images = data.first(7).expect("images");
    let draws = no_grad(|| vae.draw(&images, 3, Mode::Evaluate, &mut noise)).expect("draws");
    let pixels = images.to_kind(Kind::Double) / 255.0;
    let errors = vae.mean_images(&draws).to_kind(Kind::Double) - pixels; // [3, 7, 1, 6, 5]
    assert_eq!(errors.size(), [3, 7, 1, 6, 5]);
    assert_close(
        "mse",
        mse.expect("one"),
        errors.square().mean(Kind::Double).double_value(&[]),
    );
    let mean = |values: &Tensor| values.mean(Kind::Double).double_value(&[]);
    assert_close(
        "reconstruction",
        means.reconstruction.expect("one"),
        -mean(&draws.log_px_z),
    );
    let kl = draws.terms.kl.as_ref().expect("a kl");
    assert_close("kl", means.kl.expect("a kl"), mean(kl));
    let elbo = mean(&draws.log_px_z) - mean(kl);
    assert_close("elbo", means.elbo.expect("an elbo"), elbo);
    assert_close("loss", means.loss, -elbo);
    let columns = |values: Tensor| Vec::<f64>::try_from(values.to_kind(Kind::Double)).expect("Z");
    let centers = draws.posterior.center().to_kind(Kind::Double);
    let variances = columns(centers.var_dim([0_i64].as_slice(), false, false));
    let kls = draws.kl_per_dimension.as_ref().expect("a closed form");
    let kls = columns(kls.mean_dim(0, false, Kind::Double));
    let found = latent_use.kl.as_ref().expect("a closed form");
    for dim in 0..3 {
        assert_close("variance", latent_use.center_variance[dim], variances[dim]);
        assert_close("kl of a dimension", found[dim], kls[dim]);
    }
}

#[test]
fn evaluation_leaves_a_models_statistics_and_goes_by_them() {
    let tables = "
        model.latent_dims = 3
        model.network.conv_batch_norm.channels = [3]
        model.likelihood.gaussian = {}
    ";
    let (mut config, vae, _) = train(tables, 8, 1);
    let copies = || -> Vec<(String, Tensor)> {
        let variables = vae.named_variables().into_iter();
        variables
            .map(|(name, variable)| (name, variable.copy()))
            .collect()
    };
    let (before, data) = (copies(), dataset(7));
    let mut kl = |batch_size| {
        config.training.evaluation_batch_size = batch_size;
        let evaluation = evaluate(&vae, &config, &data, 22, 0).expect("an evaluation");
        evaluation.means.kl.expect("a kl")
    };
    // The statistics of single batches would differ from batch to batch.
    assert_close("kl", kl(2), kl(7));
    for ((name, before), (_, after)) in before.iter().zip(copies()) {
        assert!(before.equal(&after), "{name}");
    }
}

#[test]
fn bits_per_dimension_are_of_the_held_out_elbo() {
    let tables = "model.likelihood.discretized_logistic = {}";
    let (_, _, outcome) = train(tables, 8, 1);
    let record = outcome.progress.last_validation.expect("a record");
    let elbo = record.means.elbo.expect("an elbo");
    let wanted = -elbo / (30.0 * 2_f64.ln());
    assert_close("bits", record.bits_per_dim.expect("bits"), wanted);
}

#[test]
fn a_latent_dimension_is_in_use_above_a_variance_of_a_hundredth() {
    let latent_use = LatentUse {
        kl: None,
        center_variance: vec![0.0101, 0.0099, 0.01, 0.5, 0.0],
        n_images: 10,
    };
    assert!(latent_use.is_known());
    assert_eq!(latent_use.active_units(), 2);
    let active: Vec<bool> = (0..6).map(|dim| latent_use.is_active(dim)).collect();
    assert_eq!(active, [true, false, false, true, false, false]);
    assert_eq!(latent_use.ranking(), latent_use.center_variance);
    let with_kl = LatentUse {
        kl: Some(vec![1.0, 2.0, 3.0, 4.0, 5.0]),
        ..latent_use
    };
    assert_eq!(with_kl.ranking(), [1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn epochs_are_compared_by_a_term_that_the_objective_logs() {
    let tables = "
        checkpoints.metric = 'dimension_wise_kl'
        objective.regularizer.beta_tc = {}
        optimizer.adam.learning_rate = 0.01
    ";
    let seen = Rc::new(RefCell::new(Vec::new()));
    struct Records(Rc<RefCell<Vec<Record>>>);
    impl Callback for Records {
        fn name(&self) -> &'static str {
            "records"
        }

        fn on_event(&mut self, _: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
            if let Event::EpochEnd {
                train, validation, ..
            } = event
            {
                assert_eq!(train.named.len(), 3, "in training too");
                self.0.borrow_mut().extend(validation.cloned());
            }
            Ok(Flow::Continue)
        }
    }
    let config = run_config(tables, 8, 6);
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
    let splits = splits();
    let mut trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
    trainer.add(Records(seen.clone()));
    let best = trainer
        .fit(&AtomicBool::new(false))
        .progress
        .best
        .expect("a record");
    let records = seen.borrow();
    let least = |value: fn(&Record) -> f64| {
        let order = |a: &&Record, b: &&Record| value(a).total_cmp(&value(b));
        records.iter().min_by(order).expect("records").epoch
    };
    assert_eq!(
        best.epoch,
        least(|record| record.named["dimension_wise_kl"])
    );
    assert_ne!(
        best.epoch,
        least(|record| record.means.loss),
        "the loss would choose another"
    );
    // The loss is the reconstruction plus the parts with the weights 1, 6 and 1.
    let named = &best.named;
    let wanted = best.means.reconstruction.expect("one")
        + named["mutual_information"]
        + 6.0 * named["total_correlation"]
        + named["dimension_wise_kl"];
    assert_close("loss", best.means.loss, wanted);
}
