//! Sessions on several threads do not influence each other's results.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::thread;

use common::{SHAPE, data_spec, dataset};
use tch::{Device, Kind, Tensor, no_grad};
use vae_data::Splits;
use vae_model::{Generator, LatentSource, Mode, Vae, WEIGHTS_FILE};
use vae_train::{
    Checkpoint, Learner, Precision, RunConfig, RunDir, Session, Trainer, check_precision, evaluate,
    picture,
};

const N_STEPS: u64 = 12;

/// Objectives, priors and likelihoods that draw random numbers in different ways.
const SESSIONS: [&str; 2] = [
    "seed = 4
     model = { latent_dims = 3, network.conv = { channels = [3], strides = [2] }, prior.gaussian_mixture.components = 3 }
     objective.regularizer.mmd.weight = 10.0
     objective.decoder_penalty.gradient_penalty.weight = 0.1",
    "seed = 5
     model = { latent_dims = 2, network.mlp.hidden = [7], prior.vamp.pseudo_inputs = 4, likelihood.logistic_mixture.components = 2 }
     objective.estimator.iwae.samples = 3",
];

fn config(session: &str, precision: Precision) -> RunConfig {
    let text = format!("dataset.idx.folder = 'unused'\n{session}");
    let mut config: RunConfig = toml::from_str(&text).expect("a config");
    config.training.precision = precision;
    config.check().expect("a config that makes sense");
    config
}

/// Trains, evaluates and samples, and calls `wait` in between. Returns all results.
fn session(config: &RunConfig, wait: impl Fn()) -> Vec<Tensor> {
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu, config.seed).expect("a model");
    let data = dataset(9);
    let images = data.first(9).expect("images");
    let mut learner = Learner::new(&vae, config, data.len()).expect("a learner");
    let mut results = Vec::new();
    for step in 0..N_STEPS {
        wait();
        let output = learner.step(&images, step, step).expect("a step");
        results.push(output.loss);
        wait();
        // Without gradients, while the other thread may be in a training step.
        let mut pixels = vae.generator(step);
        let images = no_grad(|| {
            wait();
            let latents = vae.sample_latents(5, &mut pixels);
            wait();
            vae.decode_sampled(&latents, &mut pixels)
        });
        results.push(images.expect("images"));
    }
    wait();
    let evaluation = evaluate(&vae, config, &data, data.len(), N_STEPS).expect("an evaluation");
    results.push(Tensor::from(evaluation.means.loss));
    wait();
    let samples =
        no_grad(|| picture::samples(&vae, LatentSource::PRIOR, 4, config.seed)).expect("a picture");
    results.push(Tensor::from_slice(samples.as_bytes()));
    results.extend(
        vae.named_variables()
            .into_iter()
            .map(|(_, variable)| variable.detach()),
    );
    results
}

/// The only test here that reads libtorch's global generator.
#[test]
fn two_threads_give_what_one_gives_and_leave_the_global_generator_alone() {
    tch::set_num_threads(1);
    // In bf16 if the processor supports it, because VampPrior uses each weight of its encoder twice.
    let half = match check_precision(Precision::Bf16, Device::Cpu) {
        Ok(()) => Precision::Bf16,
        Err(_) => Precision::F32,
    };
    for precisions in [[Precision::F32; 2], [half; 2], [half, Precision::F32]] {
        assert_threads_are_independent(precisions);
    }
}

#[allow(clippy::disallowed_methods)]
fn assert_threads_are_independent(precisions: [Precision; 2]) {
    let configs = [0, 1].map(|i| config(SESSIONS[i], precisions[i]));
    let options = (Kind::Float, Device::Cpu);
    tch::manual_seed(3);
    let of_global = Tensor::randn([20], options);
    tch::manual_seed(3);
    let one_by_one = [0, 1].map(|i| session(&configs[i], || ()));
    let barrier = Barrier::new(2);
    let together = thread::scope(|scope| {
        let threads = configs.each_ref().map(|config| {
            let barrier = &barrier;
            scope.spawn(move || {
                session(config, || {
                    barrier.wait();
                })
            })
        });
        threads.map(|thread| thread.join().expect("no panic"))
    });
    assert!(Tensor::randn([20], options).equal(&of_global));
    for (alone, together) in one_by_one.iter().zip(&together) {
        assert_eq!(alone.len(), together.len());
        for (i, (alone, together)) in alone.iter().zip(together).enumerate() {
            assert_eq!(alone.isfinite().all().int64_value(&[]), 1, "result {i}");
            assert!(alone.equal(together), "result {i}");
        }
    }
    // Another seed gives other results, so they do depend on the drawn numbers.
    let mut other = config(SESSIONS[1], precisions[1]);
    other.seed = 6;
    assert!(!session(&other, || ())[0].equal(&one_by_one[1][0]));
}

#[test]
fn a_model_and_its_noise_may_be_made_on_one_thread_and_used_on_another() {
    let config = config(SESSIONS[0], Precision::F32);
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
    let generator: Generator = vae.generator(2);
    let here = no_grad(|| vae.sample(3, &mut vae.generator(2))).expect("images");
    let there = thread::spawn(move || {
        let mut generator = generator;
        no_grad(|| vae.sample(3, &mut generator)).expect("images")
    });
    assert!(there.join().expect("no panic").equal(&here));
}

/// The answers of a server: images sampled from the prior, and reconstructions with their latents.
fn answers(path: &Path, seed: u64, wait: impl Fn()) -> Vec<Tensor> {
    let session = Session::open(path, Device::Cpu).expect("a session");
    let vae = session.vae();
    let mut results = Vec::new();
    for request in 0..N_STEPS {
        let mut generator = vae.generator(seed + request);
        wait();
        results.push(no_grad(|| vae.sample(3, &mut generator)).expect("images"));
        wait();
        let bytes = generator.randint(256, [2, 1, SHAPE.height, SHAPE.width], IMAGES);
        let draws = no_grad(|| vae.draw(&bytes, 2, Mode::Evaluate, &mut generator)).expect("draws");
        wait();
        results.push(draws.latents.shallow_clone());
        results.push(no_grad(|| vae.decode(&draws.latents.get(0))).expect("images"));
    }
    results
}

const IMAGES: (Kind, Device) = (Kind::Uint8, Device::Cpu);

/// A run of one epoch.
fn trained(folder: &Path) -> RunDir {
    let config = RunConfig {
        training: toml::from_str("epochs = 1\nbatch_size = 8").expect("a table"),
        ..config(SESSIONS[0], Precision::F32)
    };
    let run_dir = RunDir::create(&folder.join("run"), &config).expect("a run");
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu, config.seed).expect("a model");
    let splits = Splits::new(dataset(12), Some(dataset(5)), dataset(3));
    let mut trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
    trainer.save_to(run_dir.clone());
    trainer.add(vae_train::Checkpoints::new(&config.checkpoints));
    let outcome = trainer.fit(&AtomicBool::new(false));
    outcome.ended.expect("no error");
    run_dir
}

#[test]
fn two_threads_of_a_server_answer_as_one_would() {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = trained(folder.path());
    let run = run_dir.path();
    let one_by_one = [1, 100].map(|seed| answers(run, seed, || ()));
    let barrier = Barrier::new(2);
    let together = thread::scope(|scope| {
        let threads = [1, 100].map(|seed| {
            let barrier = &barrier;
            scope.spawn(move || {
                answers(run, seed, || {
                    barrier.wait();
                })
            })
        });
        threads.map(|thread| thread.join().expect("no panic"))
    });
    for (alone, together) in one_by_one.iter().zip(&together) {
        assert_eq!(alone.len(), together.len());
        let mut pairs = alone.iter().zip(together);
        assert!(pairs.all(|(alone, together)| alone.equal(together)));
    }
    assert!(!one_by_one[0][0].equal(&one_by_one[1][0]));
}

#[test]
fn a_session_opens_a_run_a_checkpoint_or_weights_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let run_dir = trained(folder.path());
    let last = Checkpoint::Last.open(&run_dir).expect("a checkpoint");
    let sample = |session: &Session| {
        let vae = session.vae();
        no_grad(|| vae.sample(2, &mut vae.generator(9))).expect("images")
    };
    let of_run = Session::open(run_dir.path(), Device::Cpu).expect("a session");
    let wanted = sample(&of_run);
    assert_eq!(of_run.checkpoint().expect("one").name(), last.name());
    assert_eq!(of_run.run_dir().expect("one"), &run_dir);
    assert!(of_run.latent_use().is_some());
    for path in [&last.folder, &run_dir.checkpoints().join("best")] {
        let of_checkpoint = Session::open(path, Device::Cpu).expect("a session");
        assert_eq!(of_checkpoint.checkpoint().expect("one").state, last.state);
        assert!(sample(&of_checkpoint).equal(&wanted));
        let choice = Session::open_checkpoint(path, Checkpoint::Best, Device::Cpu);
        let error = choice.expect_err("a checkpoint itself").to_string();
        assert!(error.contains("the folder of a run is needed"), "{error}");
    }
    let newest = Session::open_checkpoint(run_dir.path(), Checkpoint::Last, Device::Cpu);
    assert!(sample(&newest.expect("a session")).equal(&wanted));
    // A copy of the checkpoint with its checksums outside of a run, and the weights file itself.
    let copy = folder.path().join("copy");
    fs::create_dir(&copy).expect("a folder");
    for entry in fs::read_dir(&last.folder).expect("a folder") {
        let file = entry.expect("an entry").path();
        fs::copy(&file, copy.join(file.file_name().expect("a name"))).expect("copied");
    }
    for path in [&copy, &copy.join(WEIGHTS_FILE)] {
        let alone = Session::open(path, Device::Cpu).expect("a session");
        assert!(sample(&alone).equal(&wanted));
        assert!(alone.latent_use().is_none());
        let error = alone.splits().expect_err("no run").to_string();
        assert!(error.contains("weights that belong to no run"), "{error}");
    }
    assert!(Session::open(folder.path(), Device::Cpu).is_err());
}

#[test]
fn a_session_has_a_condition_that_replaces_what_is_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(
        "model = { latent_dims = 2, network.mlp.hidden = [4], condition.classes = true }",
        Precision::F32,
    );
    let file = folder.path().join(WEIGHTS_FILE);
    let spec = data_spec(&config, SHAPE);
    let vae = Vae::new(&config.model, spec.clone(), Device::Cpu, 1).expect("a model");
    vae.save(&file).expect("saved");
    let mut session = Session::open(&file, Device::Cpu).expect("a session");
    let alone = |session: &Session| {
        let row = session.condition_alone().expect("a model with a condition");
        Vec::<f32>::try_from(row.view([-1])).expect("a row")
    };
    let parse = |text| spec.condition.parse(text).expect("a condition");
    assert!(alone(&session).iter().all(|value| value.is_nan()));
    session.set_condition(Some("3")).expect("a class");
    assert_eq!(alone(&session), parse("3"));
    let error = session.set_condition(Some("12")).expect_err("no class");
    assert!(error.to_string().contains("12"), "{error}");
    assert_eq!(alone(&session), parse("3"), "as it was");
    let classes = Tensor::from_slice(&[1_i64, 2]);
    let images = dataset(2).first(2).expect("images");
    let images = vae_data::Dataset::new(images, Some(classes)).expect("a data set");
    let images = session.conditioned(images);
    let batch = images.batch(&[0, 1]).expect("a batch");
    let rows = Vec::<f32>::try_from(batch.condition.expect("rows").view([-1])).expect("rows");
    assert_eq!(rows, [parse("3"), parse("3")].concat());
    session.set_condition(None).expect("none");
    assert!(alone(&session).iter().all(|value| value.is_nan()));
    let example = session.condition_or_example().expect("an example");
    assert_eq!(
        Vec::<f32>::try_from(example.view([-1])).expect("a row"),
        parse("0")
    );
}
