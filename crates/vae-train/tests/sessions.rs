//! Sessions on several threads: what each gives is its own.

mod common;

use std::sync::Barrier;
use std::thread;

use common::{SHAPE, dataset};
use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{Generator, Vae};
use vae_train::{Learner, Precision, RunConfig, check_precision, evaluate, picture};

const N_STEPS: u64 = 12;

/// Objectives, priors and likelihoods that draw, each in its own way.
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

/// Trains, evaluates and samples; `wait` is called between. All that it computed.
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
        // In one thread without gradients, while the other may be in a step with them.
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
    let samples = no_grad(|| picture::samples(&vae, 4, config.seed)).expect("a picture");
    results.push(Tensor::from_slice(samples.as_bytes()));
    results.extend(
        vae.named_variables()
            .into_iter()
            .map(|(_, variable)| variable.detach()),
    );
    results
}

/// The only test here that looks at libtorch's global generator.
#[test]
fn two_threads_give_what_one_gives_and_leave_the_global_generator_alone() {
    tch::set_num_threads(1);
    // In half precision, where there is one: VampPrior uses each weight of its encoder twice.
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
    // Another seed would have given something else: the results do depend on what is drawn.
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
