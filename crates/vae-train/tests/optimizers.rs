//! The optimizers against PyTorch's trajectories (`tests/golden/optimizers.py` made them).

use serde::Deserialize;
use tch::{Kind, Tensor};
use vae_train::{AdamConfig, Optimizer, OptimizerConfig, RmspropConfig};

#[derive(Deserialize)]
struct Golden {
    adam: Vec<[f64; 4]>,
    rmsprop: Vec<[f64; 4]>,
}

fn check(name: &str, config: &OptimizerConfig, wanted: &[[f64; 4]]) {
    let c = Tensor::from_slice(&[0.1_f32, 1.0, 10.0, 0.01]);
    let t = Tensor::from_slice(&[1_f32, -2.0, 0.3, 5.0]);
    let w = Tensor::from_slice(&[0.5_f32; 4]).set_requires_grad(true);
    let mut optimizer = Optimizer::new(config, vec![("w".to_owned(), w.shallow_clone())]);
    for (step, wanted) in wanted.iter().enumerate() {
        let loss = (&c * (&w - &t).square()).sum(Kind::Float) + (&w * 3.0).sin().sum(Kind::Float);
        optimizer.minimize(&loss).expect("a step");
        let found = Vec::<f64>::try_from(w.detach().to_kind(Kind::Double)).expect("four numbers");
        for (found, wanted) in found.iter().zip(wanted) {
            assert!(
                (found - wanted).abs() < 1e-5,
                "{name}, step {step}: {found}, PyTorch has {wanted}"
            );
        }
    }
}

#[test]
fn twenty_steps_are_pytorchs() {
    let golden: Golden =
        serde_json::from_str(include_str!("golden/optimizers.json")).expect("the golden file");
    let adam = AdamConfig {
        learning_rate: 0.05,
        beta1: 0.8,
        beta2: 0.95,
        epsilon: 1e-8,
    };
    check("adam", &OptimizerConfig::Adam(adam), &golden.adam);
    let rmsprop = RmspropConfig {
        learning_rate: 0.05,
        alpha: 0.9,
        epsilon: 1e-7,
    };
    check(
        "rmsprop",
        &OptimizerConfig::Rmsprop(rmsprop),
        &golden.rmsprop,
    );
}

#[test]
fn numbers_outside_their_range_are_refused_by_name() {
    let adam = |change: fn(&mut AdamConfig)| {
        let mut config = AdamConfig::default();
        change(&mut config);
        OptimizerConfig::Adam(config)
            .check()
            .expect_err("refused")
            .to_string()
    };
    assert!(adam(|c| c.learning_rate = 0.0).contains("optimizer.adam.learning_rate"));
    assert!(adam(|c| c.beta2 = 1.0).contains("optimizer.adam.beta2"));
    assert!(adam(|c| c.epsilon = f64::NAN).contains("optimizer.adam.epsilon"));
}
