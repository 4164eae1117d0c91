//! Compares the optimizers with PyTorch's trajectories (written by `tests/golden/optimizers.py`), and tests laws of
//! their states.

mod common;

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::Vae;
use vae_train::{
    AdamConfig, AdamwConfig, ClipConfig, Ema, Optimizer, OptimizerConfig, RmspropConfig, SgdConfig,
};

fn adam() -> AdamConfig {
    AdamConfig {
        learning_rate: 0.05,
        beta1: 0.8,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.0,
        decay_all: true,
    }
}

fn adamw() -> AdamwConfig {
    AdamwConfig {
        learning_rate: 0.05,
        beta1: 0.8,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.3,
        decay_all: true,
    }
}

fn rmsprop() -> RmspropConfig {
    RmspropConfig {
        learning_rate: 0.05,
        alpha: 0.9,
        epsilon: 1e-7,
        weight_decay: 0.0,
        decay_all: true,
    }
}

fn sgd() -> SgdConfig {
    SgdConfig {
        learning_rate: 0.01,
        decay_all: true,
        ..Default::default()
    }
}

/// An optimizer of each kind with all options in use.
fn all() -> [OptimizerConfig; 4] {
    [
        OptimizerConfig::Adam(AdamConfig {
            weight_decay: 0.3,
            ..adam()
        }),
        OptimizerConfig::Adamw(adamw()),
        OptimizerConfig::Rmsprop(RmspropConfig {
            weight_decay: 0.3,
            ..rmsprop()
        }),
        OptimizerConfig::Sgd(SgdConfig {
            momentum: 0.8,
            nesterov: true,
            weight_decay: 0.3,
            ..sgd()
        }),
    ]
}

/// The problem of the golden trajectories; the tests of laws add a second variable.
fn loss(w: &Tensor) -> Tensor {
    let c = Tensor::from_slice(&[0.1_f32, 1.0, 10.0, 0.01]);
    let t = Tensor::from_slice(&[1_f32, -2.0, 0.3, 5.0]);
    (c * (w - t).square()).sum(Kind::Float) + (w * 3.0).sin().sum(Kind::Float)
}

fn start() -> Tensor {
    Tensor::from_slice(&[0.5_f32; 4]).set_requires_grad(true)
}

fn named(variables: &[(&str, &Tensor)]) -> Vec<(String, Tensor)> {
    let named = |&(name, w): &(&str, &Tensor)| (name.to_owned(), w.shallow_clone());
    variables.iter().map(named).collect()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    Vec::try_from(t.detach().to_kind(Kind::Double).flatten(0, -1)).expect("numbers")
}

fn step(optimizer: &mut Optimizer, loss: &Tensor, clip: &ClipConfig) -> f64 {
    optimizer.zero_grad();
    optimizer.backward(loss).expect("gradients");
    let report = optimizer.step(clip).expect("a step");
    report.gradient_norm.double_value(&[])
}

const UNCLIPPED: ClipConfig = ClipConfig {
    norm: None,
    value: None,
    skip_above: None,
};

#[test]
fn twenty_steps_are_pytorchs() {
    let golden: BTreeMap<String, Vec<[f64; 4]>> =
        serde_json::from_str(include_str!("golden/optimizers.json")).expect("the golden file");
    let sgd_clipped = SgdConfig {
        learning_rate: 0.05,
        ..sgd()
    };
    let [adam_decay, adamw, rmsprop_decay, _] = all();
    let cases = [
        ("adam", OptimizerConfig::Adam(adam()), UNCLIPPED),
        ("adam_decay", adam_decay, UNCLIPPED),
        ("adamw", adamw, UNCLIPPED),
        ("rmsprop", OptimizerConfig::Rmsprop(rmsprop()), UNCLIPPED),
        ("rmsprop_decay", rmsprop_decay, UNCLIPPED),
        ("sgd", OptimizerConfig::Sgd(sgd()), UNCLIPPED),
        (
            "sgd_decay",
            OptimizerConfig::Sgd(SgdConfig {
                weight_decay: 0.3,
                ..sgd()
            }),
            UNCLIPPED,
        ),
        (
            "momentum",
            OptimizerConfig::Sgd(SgdConfig {
                momentum: 0.8,
                weight_decay: 0.3,
                ..sgd()
            }),
            UNCLIPPED,
        ),
        (
            "nesterov",
            OptimizerConfig::Sgd(SgdConfig {
                momentum: 0.8,
                nesterov: true,
                ..sgd()
            }),
            UNCLIPPED,
        ),
        (
            "clip_norm",
            OptimizerConfig::Sgd(sgd_clipped.clone()),
            ClipConfig {
                norm: Some(1.5),
                value: None,
                skip_above: None,
            },
        ),
        (
            "clip_value",
            OptimizerConfig::Sgd(sgd_clipped.clone()),
            ClipConfig {
                norm: None,
                value: Some(0.7),
                skip_above: None,
            },
        ),
        (
            "clip_both",
            OptimizerConfig::Sgd(sgd_clipped),
            ClipConfig {
                norm: Some(1.5),
                value: Some(0.7),
                skip_above: None,
            },
        ),
    ];
    assert_eq!(cases.len(), golden.len());
    for (name, config, clip) in cases {
        let w = start();
        let mut optimizer = Optimizer::new(&config, named(&[("w", &w)]));
        for (i, wanted) in golden[name].iter().enumerate() {
            step(&mut optimizer, &loss(&w), &clip);
            for (found, wanted) in numbers(&w).iter().zip(wanted) {
                assert!(
                    (found - wanted).abs() < 1e-5,
                    "{name}, step {i}: {found}, PyTorch has {wanted}"
                );
            }
        }
    }
}

#[test]
fn the_reported_norm_is_of_all_gradients_before_clipping() {
    // Gradients of 3·a + (2, 6)·b: 3, 2 and 6, of norm 7. Scaled to 1.4: 0.6, 0.4, 1.2.
    let a = Tensor::from_slice(&[1_f32]).set_requires_grad(true);
    let b = Tensor::from_slice(&[1_f32, 1.0]).set_requires_grad(true);
    let config = OptimizerConfig::Sgd(SgdConfig {
        learning_rate: 1.0,
        ..Default::default()
    });
    let variables = named(&[("a", &a), ("b", &b)]);
    let mut optimizer = Optimizer::new(&config, variables);
    let loss =
        (&a * 3.0).sum(Kind::Float) + (&b * Tensor::from_slice(&[2_f32, 6.0])).sum(Kind::Float);
    let clip = ClipConfig {
        norm: Some(1.4),
        value: None,
        skip_above: None,
    };
    let norm = step(&mut optimizer, &loss, &clip);
    assert!((norm - 7.0).abs() < 1e-6, "{norm}");
    let found = [numbers(&a), numbers(&b)].concat();
    for (found, wanted) in found.iter().zip([0.4, 0.6, -0.2]) {
        assert!((found - wanted).abs() < 1e-6, "{found} vs {wanted}");
    }
}

#[test]
fn a_gradient_within_the_bound_is_left_as_it_is() {
    let w = Tensor::from_slice(&[1_f32]).set_requires_grad(true);
    let config = OptimizerConfig::Sgd(SgdConfig {
        learning_rate: 1.0,
        ..Default::default()
    });
    let mut optimizer = Optimizer::new(&config, named(&[("w", &w)]));
    let clip = ClipConfig {
        norm: Some(4.0),
        value: Some(4.0),
        skip_above: None,
    };
    let norm = step(&mut optimizer, &(&w * 3.0).sum(Kind::Float), &clip);
    assert_eq!((norm, numbers(&w)[0]), (3.0, -2.0));
}

/// AdamW: where the gradients are zero, a step is the weight decay alone, a factor of 1 − 0.1·0.5.
fn decay(decay_all: bool) -> OptimizerConfig {
    OptimizerConfig::Adamw(AdamwConfig {
        learning_rate: 0.1,
        weight_decay: 0.5,
        decay_all,
        ..Default::default()
    })
}

#[test]
fn by_default_only_the_weights_of_layers_decay() {
    for (decay_all, others_wanted) in [(false, 2.0), (true, 1.9)] {
        let twos = || {
            Tensor::from_slice(&[2_f32])
                .view([1, 1])
                .detach()
                .set_requires_grad(true)
        };
        let variables = [
            "encoder.0.weight",
            "encoder.0.bias",
            "encoder.norm.0.weight",
            "prior.mean",
            "likelihood.log_scale",
        ]
        .map(|name| (name.to_owned(), twos()));
        let named = variables
            .iter()
            .map(|(name, w)| (name.clone(), w.shallow_clone()));
        let mut optimizer = Optimizer::new(&decay(decay_all), named.collect());
        let sum = variables.iter().map(|(_, w)| (w * 0.0).sum(Kind::Float));
        step(
            &mut optimizer,
            &sum.reduce(|a, b| a + b).expect("a loss"),
            &UNCLIPPED,
        );
        for (i, (name, w)) in variables.iter().enumerate() {
            let wanted = if i == 0 { 1.9 } else { others_wanted };
            assert!((numbers(w)[0] - wanted).abs() < 1e-6, "{name}");
        }
    }
}

#[test]
fn in_every_config_the_matrices_and_kernels_of_layers_decay_and_nothing_else() {
    let mut spared_tables = Vec::new();
    let mut configs = common::configs("configs");
    configs.extend(common::configs("configs/models"));
    for (path, config) in configs {
        let spec = common::data_spec(&config, common::item(&config));
        let vae = Vae::new(&config.model, spec, Device::Cpu, 1).expect("a model");
        let variables = vae.trainable_variables();
        let before: Vec<Tensor> = variables.iter().map(|(_, w)| w.detach().copy()).collect();
        for (_, w) in &variables {
            let _ = no_grad(|| w.shallow_clone().fill_(1.0));
        }
        let mut optimizer = Optimizer::new(&decay(false), vae.named_variables());
        let sum = variables.iter().map(|(_, w)| (w * 0.0).sum(Kind::Float));
        step(
            &mut optimizer,
            &sum.reduce(|a, b| a + b).expect("a loss"),
            &UNCLIPPED,
        );
        let n_decayed = variables.iter().zip(&before).filter(|((name, w), _)| {
            let decayed = w.max().double_value(&[]) < 0.99;
            // The layers of the networks; those of a flow are in the prior or the posterior.
            let is_layer = name.ends_with(".weight") && w.dim() >= 2;
            assert_eq!(decayed, is_layer, "{name} in {}", path.display());
            if w.dim() >= 2 && !decayed {
                spared_tables.push(name.clone());
            }
            decayed
        });
        assert!(n_decayed.count() >= 2, "{}", path.display());
    }
    spared_tables.sort();
    spared_tables.dedup();
    // The start and the offsets of a hierarchy's maps are biases; an embedding is a table with a row for each token.
    let wanted = [
        "decoder.1.offset",
        "decoder.2.offset",
        "decoder.3.offset",
        "decoder.4.offset",
        "decoder.5.offset",
        "decoder.embedding",
        "decoder.start",
        "encoder.embedding",
        "likelihood.log_scale",
        "prior.log_var",
        "prior.mean",
        "prior.pseudo_inputs",
    ];
    assert_eq!(spared_tables, wanted);
}

#[test]
fn adam_counts_the_steps_of_each_variable_from_its_first_gradient_on() {
    let golden: BTreeMap<String, Vec<[f64; 2]>> =
        serde_json::from_str(include_str!("golden/late_variable.json")).expect("the golden file");
    let [adam_decay, adamw, ..] = all();
    for (name, config) in [("adam_decay", adam_decay), ("adamw", adamw)] {
        let [early, late] = [0, 1].map(|_| Tensor::from_slice(&[0.5_f32]).set_requires_grad(true));
        let variables = || named(&[("early", &early), ("late", &late)]);
        let mut optimizer = Optimizer::new(&config, variables());
        let problem =
            |w: &Tensor, c: f64, t: f64| ((w - t).square() * c + (w * 3.0).sin()).sum(Kind::Float);
        for (i, wanted) in golden[name].iter().enumerate() {
            let mut loss = problem(&early, 1.0, -2.0);
            if i >= 4 {
                loss += problem(&late, 0.1, 1.0);
            }
            step(&mut optimizer, &loss, &UNCLIPPED);
            for (w, wanted) in [&early, &late].into_iter().zip(wanted) {
                let found = numbers(w)[0];
                assert!(
                    (found - wanted).abs() < 1e-5,
                    "{name}, step {i}: {found}, {wanted}"
                );
            }
            // A stop and a resume between any two steps change nothing.
            let state: BTreeMap<_, _> = optimizer.state().into_iter().collect();
            let mut resumed = Optimizer::new(&config, variables());
            resumed
                .load_state(optimizer.n_steps(), &state)
                .expect("it fits");
            optimizer = resumed;
        }
        let state: BTreeMap<_, _> = optimizer.state().into_iter().collect();
        assert_eq!(numbers(&state["steps.early"]), [12.0]);
        assert_eq!(numbers(&state["steps.late"]), [8.0]);
    }
}

#[test]
fn a_state_of_before_steps_were_counted_for_each_variable_goes_on() {
    let (w, config) = (start(), OptimizerConfig::Adam(adam()));
    let mut optimizer = Optimizer::new(&config, named(&[("w", &w)]));
    for _ in 0..3 {
        step(&mut optimizer, &loss(&w), &UNCLIPPED);
    }
    let mut state: BTreeMap<_, _> = optimizer.state().into_iter().collect();
    state.retain(|name, _| !name.starts_with("steps."));
    let mut resumed = Optimizer::new(&config, named(&[("w", &w)]));
    resumed.load_state(3, &state).expect("it fits");
    let steps: BTreeMap<_, _> = resumed.state().into_iter().collect();
    assert_eq!(numbers(&steps["steps.w"]), [3.0]);
}

#[test]
fn ten_steps_are_five_saved_loaded_and_five_more_bit_for_bit() {
    for config in all() {
        let straight = start();
        let mut optimizer = Optimizer::new(&config, named(&[("w", &straight)]));
        let mut halfway = None;
        for i in 0..10 {
            if i == 5 {
                let state: BTreeMap<String, Tensor> = optimizer
                    .state()
                    .into_iter()
                    .map(|(name, tensor)| (name, tensor.copy()))
                    .collect();
                halfway = Some((straight.detach().copy(), optimizer.n_steps(), state));
            }
            step(&mut optimizer, &loss(&straight), &UNCLIPPED);
        }
        let (w, n_steps, state) = halfway.expect("the state after 5 steps");
        let resumed = w.set_requires_grad(true);
        let mut optimizer = Optimizer::new(&config, named(&[("w", &resumed)]));
        optimizer.load_state(n_steps, &state).expect("it fits");
        for _ in 0..5 {
            step(&mut optimizer, &loss(&resumed), &UNCLIPPED);
        }
        assert_eq!(numbers(&straight), numbers(&resumed), "{config:?}");
        assert_eq!(optimizer.n_steps(), 10);
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing() {
    let w = start();
    let config = OptimizerConfig::Adam(adam());
    let mut optimizer = Optimizer::new(&config, named(&[("decoder.bias", &w)]));
    step(&mut optimizer, &loss(&w), &UNCLIPPED);
    let before: BTreeMap<_, _> = optimizer.state().into_iter().collect();
    let names: Vec<_> = before.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "mean.decoder.bias",
            "mean_square.decoder.bias",
            "steps.decoder.bias"
        ]
    );
    let kept = numbers(&before["mean.decoder.bias"]);

    let mut refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut state: BTreeMap<_, _> = before
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.zeros_like()))
            .collect();
        change(&mut state);
        let error = optimizer.load_state(7, &state).expect_err("refused");
        assert_eq!(numbers(&before["mean.decoder.bias"]), kept);
        error.to_string()
    };
    let square = "mean_square.decoder.bias";
    let message = refused(&|state| drop(state.remove(square)));
    assert!(
        message.contains("`mean_square.decoder.bias` is missing"),
        "{message}"
    );
    let message = refused(&|state| {
        state.insert(square.to_owned(), Tensor::from_slice(&[0_f32; 3]));
    });
    assert!(
        message.contains("Float [3], Float [4] is needed"),
        "{message}"
    );
    let message = refused(&|state| {
        state.insert("momentum.other".to_owned(), Tensor::from_slice(&[0_f32]));
    });
    assert!(message.contains("`momentum.other`"), "{message}");
    assert_eq!(optimizer.n_steps(), 1);
}

#[test]
fn two_accumulated_halves_are_one_whole_batch() {
    // A mean over four images, or half the sum of the means over two and two.
    let inputs = Tensor::from_slice(&[1_f32, -2.0, 0.5, 3.0, 0.1, 0.2, -1.0, 1.5]).view([4, 2]);
    let mean_loss = |w: &Tensor, first, n| {
        let outputs = inputs.narrow(0, first, n).matmul(w);
        outputs.sin().square().mean(Kind::Float)
    };
    let weight = || Tensor::from_slice(&[0.3_f32, -0.4]).set_requires_grad(true);
    for config in all() {
        let (whole, halves) = (weight(), weight());
        let mut optimizer = Optimizer::new(&config, named(&[("w", &whole)]));
        let mut accumulating = Optimizer::new(&config, named(&[("w", &halves)]));
        for _ in 0..3 {
            step(&mut optimizer, &mean_loss(&whole, 0, 4), &UNCLIPPED);
            accumulating.zero_grad();
            for first in [0, 2] {
                let half = mean_loss(&halves, first, 2) / 2.0;
                accumulating.backward(&half).expect("gradients");
            }
            accumulating.step(&UNCLIPPED).expect("a step");
        }
        for (a, b) in numbers(&whole).iter().zip(numbers(&halves)) {
            assert!((a - b).abs() < 1e-6, "{a} vs {b} ({config:?})");
        }
        assert!((numbers(&whole)[0] - 0.3).abs() > 1e-3, "it moved");
    }
}

#[test]
fn a_gradient_in_another_memory_order_is_the_same_gradient() {
    // The fused kernels process values in memory order: a transposed weight must not get a transposed update.
    for config in all() {
        let values = [0.1_f32, 0.2, 0.3, 0.4, 0.5, 0.6];
        let plain = Tensor::from_slice(&values).view([2, 3]);
        let transposed = no_grad(|| plain.transpose(0, 1).contiguous().transpose(0, 1));
        let slopes = Tensor::from_slice(&[1_f32, -2.0, 3.0, -4.0, 5.0, -6.0]).view([2, 3]);
        let moved = |weight: Tensor| {
            let weight = weight.detach().copy().set_requires_grad(true);
            let mut optimizer = Optimizer::new(&config, named(&[("w", &weight)]));
            for _ in 0..2 {
                step(
                    &mut optimizer,
                    &(&weight * &slopes).sin().sum(Kind::Float),
                    &UNCLIPPED,
                );
            }
            numbers(&weight.contiguous())
        };
        assert_eq!(moved(plain), moved(transposed));
    }
}

#[test]
fn variables_that_no_loss_reaches_stay() {
    for config in all() {
        let (reached, apart) = (start(), start());
        let variables = named(&[("reached", &reached), ("apart", &apart)]);
        let mut optimizer = Optimizer::new(&config, variables);
        step(&mut optimizer, &loss(&reached), &UNCLIPPED);
        assert_eq!(numbers(&apart), [0.5; 4]);
        assert_ne!(numbers(&reached), [0.5; 4]);
        // And with no gradient at all.
        optimizer.zero_grad();
        let report = optimizer.step(&UNCLIPPED).expect("a step");
        assert_eq!(report.gradient_norm.double_value(&[]), 0.0);
    }
}

#[test]
fn the_learning_rate_follows_its_factor() {
    let w = start();
    let config = OptimizerConfig::Sgd(SgdConfig {
        learning_rate: 0.5,
        ..Default::default()
    });
    let mut optimizer = Optimizer::new(&config, named(&[("w", &w)]));
    optimizer.set_learning_rate_factor(0.1);
    optimizer.set_learning_rate_factor(0.2);
    assert!((optimizer.learning_rate() - 0.1).abs() < 1e-15);
    step(&mut optimizer, &w.sum(Kind::Float), &UNCLIPPED);
    assert!((numbers(&w)[0] - 0.4).abs() < 1e-7);
}

#[test]
fn an_average_of_weights_follows_its_formula_and_swaps_bit_for_bit() {
    let mut w = start();
    let statistics = Tensor::from_slice(&[9_f32]);
    let variables = named(&[("w", &w), ("running_mean", &statistics)]);
    let mut ema = Ema::new(0.5, variables);
    // d = min(½, (1 + n)/(10 + n)): 2/11 and 3/12 after the first two steps, ½ from n = 8 on.
    let mut wanted = 0.5;
    for (n, weight, d) in [
        (1, 2.0, 2.0 / 11.0),
        (2, -1.0, 0.25),
        (8, 3.0, 0.5),
        (99, 4.0, 0.5),
    ] {
        let _ = no_grad(|| w.fill_(weight));
        ema.update(n).expect("an average");
        wanted = d * wanted + (1.0 - d) * weight;
        let found = numbers(&ema.state()[0].1)[3];
        assert!((found - wanted).abs() < 1e-6, "{n}: {found} vs {wanted}");
    }
    let names: Vec<_> = ema.state().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["w"], "statistics are no weights");

    let third = 1.0 / 3.0;
    let _ = no_grad(|| w.fill_(third));
    let (weights, averages) = (numbers(&w), numbers(&ema.state()[0].1));
    ema.swap().expect("swapped");
    assert_eq!(numbers(&w), averages);
    ema.swap().expect("swapped back");
    assert_eq!(numbers(&w), weights);
    assert_eq!(numbers(&ema.state()[0].1), averages);

    let saved: BTreeMap<_, _> = ema.state().into_iter().collect();
    let mut resumed = Ema::new(0.5, named(&[("w", &w)]));
    resumed.load_state(&saved).expect("it fits");
    for ema in [&mut ema, &mut resumed] {
        ema.update(100).expect("an average");
    }
    assert_eq!(numbers(&ema.state()[0].1), numbers(&resumed.state()[0].1));
    let mut foreign = Ema::new(0.5, named(&[("other", &w)]));
    let message = foreign.load_state(&saved).expect_err("refused").to_string();
    assert!(
        message.contains("averaged weights") && message.contains("`w`"),
        "{message}"
    );
}

#[test]
fn numbers_outside_their_range_are_refused_by_name() {
    let refused = |config: OptimizerConfig, key: &str| {
        let message = config.check().expect_err(key).to_string();
        assert!(
            message.starts_with(&format!("optimizer.{key}: ")),
            "{message}"
        );
    };
    let adam = |change: fn(&mut AdamConfig)| {
        let mut config = AdamConfig::default();
        change(&mut config);
        OptimizerConfig::Adam(config)
    };
    refused(adam(|c| c.learning_rate = 0.0), "adam.learning_rate");
    refused(adam(|c| c.beta1 = 1.0), "adam.beta1");
    refused(adam(|c| c.beta2 = 1.0), "adam.beta2");
    refused(adam(|c| c.epsilon = f64::NAN), "adam.epsilon");
    refused(adam(|c| c.weight_decay = -1.0), "adam.weight_decay");
    let no_momentum = SgdConfig {
        nesterov: true,
        ..Default::default()
    };
    refused(OptimizerConfig::Sgd(no_momentum), "sgd.nesterov");
    let clip = ClipConfig {
        norm: Some(0.0),
        value: None,
        skip_above: None,
    };
    assert!(
        clip.check()
            .expect_err("refused")
            .to_string()
            .contains("clip.norm")
    );
    for config in all() {
        config.check().expect("these are fine");
    }
}
