//! Mixed precision: which tensors are cast, and that training gives nearly the same losses.

mod common;

use std::panic::{self, AssertUnwindSafe};

use tch::{Device, Kind, Tensor};
use vae_model::{
    ConvConfig, Draws, ImageShape, LossContext, Mode, ModelConfig, NetworkConfig, Objective, Vae,
};
use vae_train::{
    ClipConfig, Learner, Optimizer, OptimizerConfig, Precision, RunConfig, autocast,
    check_precision,
};

fn linear(input: &Tensor, weight: &Tensor) -> Tensor {
    input.linear(weight, None::<&Tensor>)
}

fn ones(size: [i64; 2]) -> Tensor {
    Tensor::ones(size, (Kind::Float, Device::Cpu))
}

#[test]
fn outputs_are_bf16_inside_and_gradients_f32() {
    let weight = ones([3, 2]).set_requires_grad(true);
    // 1 + 2⁻⁹ needs 10 bits: bf16 has 8 and makes it 1.
    let input = ones([4, 2]) * (1.0 + 2_f64.powi(-9));
    let run = |precision: Precision| autocast(precision, Device::Cpu, || linear(&input, &weight));
    let (exact, rounded) = (run(Precision::F32), run(Precision::Bf16));
    assert_eq!(
        (exact.kind(), rounded.kind()),
        (Kind::Float, Kind::BFloat16)
    );
    assert_eq!(exact.double_value(&[0, 0]), 2.0 + 2_f64.powi(-8));
    assert_eq!(rounded.double_value(&[0, 0]), 2.0);
    rounded.to_kind(Kind::Float).sum(Kind::Float).backward();
    assert_eq!(weight.grad().kind(), Kind::Float);
    assert_eq!(weight.grad().double_value(&[0, 0]), 4.0);
    assert_eq!(linear(&input, &weight).kind(), Kind::Float);
}

#[test]
fn what_was_in_force_before_comes_back() {
    let (input, weight) = (ones([4, 2]), ones([3, 2]));
    let kind = || linear(&input, &weight).kind();
    autocast(Precision::Bf16, Device::Cpu, || {
        assert_eq!(autocast(Precision::Bf16, Device::Cpu, kind), Kind::BFloat16);
        assert_eq!(kind(), Kind::BFloat16, "the outer one still holds");
    });
    assert_eq!(kind(), Kind::Float);
    let body = || autocast(Precision::Bf16, Device::Cpu, || panic!("on purpose"));
    let caught = panic::catch_unwind(AssertUnwindSafe(body));
    assert!(caught.is_err());
    assert_eq!(kind(), Kind::Float);
}

#[test]
fn the_next_step_computes_with_the_changed_weights() {
    let weight = ones([1, 1]).set_requires_grad(true);
    let run = || {
        autocast(Precision::Bf16, Device::Cpu, || {
            linear(&ones([1, 1]), &weight)
        })
    };
    assert_eq!(run().double_value(&[0, 0]), 1.0);
    let _ = tch::no_grad(|| weight.shallow_clone().fill_(3.0));
    assert_eq!(run().double_value(&[0, 0]), 3.0);
    // Also within a single autocast region, after a pass without gradients.
    let output = autocast(Precision::Bf16, Device::Cpu, || {
        let _ = tch::no_grad(|| {
            let _ = linear(&ones([1, 1]), &weight);
            weight.shallow_clone().fill_(5.0)
        });
        linear(&ones([1, 1]), &weight)
    });
    assert_eq!(output.double_value(&[0, 0]), 5.0);
    output.backward();
    assert_eq!(weight.grad().double_value(&[0, 0]), 1.0);
}

/// The losses of 40 steps of a small model on eight images.
fn losses(precision: Precision) -> Vec<f64> {
    let shape = ImageShape {
        channels: 1,
        height: 12,
        width: 12,
    };
    let config = ModelConfig {
        latent_dims: Some(4),
        network: NetworkConfig::Conv(ConvConfig {
            channels: vec![8, 16],
            strides: vec![2, 1],
            hidden: 32,
            decoder_channels: vec![8],
            decoder_strides: vec![2],
        }),
        ..Default::default()
    };
    let vae = Vae::new(&config, shape, Device::Cpu, 1).expect("a model");
    for (i, (_, mut variable)) in vae.named_variables().into_iter().enumerate() {
        let size = variable.size();
        let fan_in: i64 = size.iter().skip(1).product();
        let wave = (Tensor::arange(variable.numel() as i64, (Kind::Float, Device::Cpu)) * 0.7
            + i as f64)
            .sin()
            / (fan_in as f64).sqrt();
        tch::no_grad(|| variable.copy_(&wave.view_(&size)));
    }
    let bytes: Vec<u8> = (0..8 * 144)
        .map(|i| if (i * i) % 11 < 4 { 220 } else { 10 })
        .collect();
    let images = Tensor::from_slice(&bytes).view([8, 1, 12, 12]);
    let noise = (Tensor::arange(32, (Kind::Float, Device::Cpu)) * 1.3)
        .sin()
        .view([1, 8, 4]);
    let mut optimizer = Optimizer::new(&OptimizerConfig::default(), vae.named_variables());
    (0..40)
        .map(|step| {
            let loss = autocast(precision, Device::Cpu, || {
                let draws = vae
                    .draw_with_noise(&images, &noise, Mode::Train)
                    .expect("draws");
                let context = LossContext {
                    vae: &vae,
                    step,
                    n_images: 8,
                };
                Objective::default()
                    .loss(&draws, context, &mut vae.generator(1))
                    .expect("a loss")
            });
            assert_eq!(loss.kind(), Kind::Float);
            optimizer.zero_grad();
            optimizer.backward(&loss).expect("gradients");
            optimizer.step(&ClipConfig::default()).expect("a step");
            loss.double_value(&[])
        })
        .collect()
}

#[test]
fn training_in_bf16_goes_the_way_of_f32() {
    let (exact, rounded) = (losses(Precision::F32), losses(Precision::Bf16));
    assert!(exact[39] < 0.9 * exact[0], "{} to {}", exact[0], exact[39]);
    assert_ne!(exact, rounded, "bf16 rounds");
    for (step, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
        assert!(
            (exact - rounded).abs() < 0.03 * exact,
            "step {step}: {exact} in f32, {rounded} in bf16"
        );
    }
}

/// Loss, total correlation, and the discriminator's loss of each of 20 steps of FactorVAE.
fn steps_of_two_players(precision: Precision) -> Vec<[f64; 3]> {
    let text = "dataset.idx.folder = 'unused'
        model = { latent_dims = 3, network.mlp.hidden = [16] }
        objective.regularizer.factor = { gamma = 4.0, hidden = [8] }";
    let mut config: RunConfig = toml::from_str(text).expect("a config");
    config.training.precision = precision;
    config.check().expect("a config that makes sense");
    let vae = Vae::new(&config.model, common::SHAPE, Device::Cpu, 1).expect("a model");
    let images = common::dataset(8).first(8).expect("images");
    let mut learner = Learner::new(&vae, &config, 8).expect("a learner");
    let steps = (0..20).map(|step| {
        let output = learner.step(&images, step, step).expect("a step");
        let term = |name: &str| {
            let value = output.named.get(name).expect("logged");
            value.mean(Kind::Double).double_value(&[])
        };
        assert_eq!(output.loss.kind(), Kind::Float);
        [
            output.loss.double_value(&[]),
            term("total_correlation"),
            term("discriminator_loss"),
        ]
    });
    let steps = steps.collect();
    let variables = vae.named_variables();
    assert!(variables.iter().all(|(_, v)| v.kind() == Kind::Float));
    steps
}

#[test]
fn a_second_player_trains_in_bf16_as_it_does_in_f32() {
    if check_precision(Precision::Bf16, Device::Cpu).is_err() {
        return;
    }
    let exact = steps_of_two_players(Precision::F32);
    let rounded = steps_of_two_players(Precision::Bf16);
    assert_ne!(exact, rounded, "bf16 rounds");
    for (step, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
        let [loss, total_correlation, discriminator_loss] = *exact;
        let close = |found: f64, wanted: f64, most: f64| (found - wanted).abs() < most;
        assert!(
            close(rounded[0], loss, 0.02 * loss)
                && close(rounded[1], total_correlation, 0.05)
                && close(rounded[2], discriminator_loss, 0.02),
            "step {step}: {exact:?} in f32, {rounded:?} in bf16"
        );
    }
}

/// The adaptive weight of each of 20 steps of an autoencoder with a discriminator, in parts of three images.
fn adaptive_weights(precision: Precision) -> Vec<f64> {
    let text = "dataset.idx.folder = 'unused'
        model = { latent_dims = 3, network.mlp.hidden = [16] }
        objective.perceptual = {}
        objective.adversarial = { adaptive_weight = true, discriminator.mlp.hidden = [8] }
        training.micro_batch_size = 3";
    let mut config: RunConfig = toml::from_str(text).expect("a config");
    config.training.precision = precision;
    config.check().expect("a config that makes sense");
    let vae = Vae::new(&config.model, common::SHAPE, Device::Cpu, 1).expect("a model");
    let images = common::dataset(8).first(8).expect("images");
    let mut learner = Learner::new(&vae, &config, 8).expect("a learner");
    let weight = |step| {
        let output = learner.step(&images, step, step).expect("a step");
        for (term, value) in output.named.iter() {
            let value = value.mean(Kind::Double).double_value(&[]);
            assert!(value.is_finite(), "step {step}: {} is {value}", term.name);
        }
        let weight = output.named.get("adversarial_weight").expect("logged");
        weight.double_value(&[])
    };
    (0..20).map(weight).collect()
}

#[test]
fn an_adaptive_weight_in_bf16_and_in_parts_is_finite_and_near_that_in_f32() {
    let exact = adaptive_weights(Precision::F32);
    assert!(
        exact.iter().all(|weight| (0.0..=1e4).contains(weight)),
        "{exact:?}"
    );
    if check_precision(Precision::Bf16, Device::Cpu).is_err() {
        return;
    }
    let rounded = adaptive_weights(Precision::Bf16);
    for (step, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
        assert!(
            (exact - rounded).abs() < 0.1 * exact,
            "step {step}: {exact} in f32, {rounded} in bf16"
        );
    }
}

/// bf16 has 8 significant bits, too few to distinguish neighboring levels k/500.
#[test]
fn codes_are_levels_in_f32_under_autocast() {
    let config: ModelConfig = toml::from_str(
        "latent_dims = 6
         network.mlp.hidden = [16]
         posterior.finite_scalar.levels = [1001]
         prior = 'uniform_codes'",
    )
    .expect("a model");
    let vae = Vae::new(&config, common::SHAPE, Device::Cpu, 3).expect("a model");
    let images = common::dataset(16).first(16).expect("images");
    let (latents, codes, nearest) = autocast(Precision::Bf16, Device::Cpu, || {
        let draws = vae.draw(&images, 1, Mode::Train, &mut vae.generator(1));
        let latents = draws.expect("draws").latents.get(0).detach(); // [B, Z]
        let codes = vae.codes(&latents).expect("codes").expect("codes");
        let nearest = vae.nearest_codes(&latents).expect("levels");
        (latents, codes, nearest)
    });
    assert_eq!(latents.kind(), Kind::Float);
    let places = &latents.to_kind(Kind::Double) * 500.0;
    let off = (&places - places.round()).abs().max().double_value(&[]);
    assert!(off < 1e-4, "levels k/500, off by {off}");
    assert!((places.round().to_kind(Kind::Int64) + 500).equal(&codes));
    assert!(nearest.allclose(&latents, 0.0, 1e-6, false));
    // More different levels than bf16 could represent in their range.
    let n_different = codes.flatten(0, -1).f_unique_dim(0, true, false, false);
    assert!(n_different.expect("codes").0.size()[0] > 10);
}

#[test]
fn vectors_of_codes_are_those_of_the_codebook_under_autocast() {
    let config: ModelConfig = toml::from_str(
        "latent_dims = 24
         network.mlp.hidden = [16]
         posterior.vector_quantized = { codes = 40, code_dims = 4, depth = 2 }
         prior = 'uniform_codes'",
    )
    .expect("a model");
    let vae = Vae::new(&config, common::SHAPE, Device::Cpu, 3).expect("a model");
    let images = common::dataset(16).first(16).expect("images");
    let draw = |mode| {
        vae.draw(&images, 1, mode, &mut vae.generator(1))
            .expect("draws")
    };
    let exact = draw(Mode::Evaluate);
    let draws = autocast(Precision::Bf16, Device::Cpu, || draw(Mode::Evaluate));
    let latents = draws.latents.get(0).detach();
    assert_eq!(latents.kind(), Kind::Float);
    let codes = draws.posterior.codes().expect("codes");
    let of_codes = vae.latents_of_codes(&codes).expect("latents");
    assert!(of_codes.allclose(&latents, 1e-6, 1e-6, false));
    // What the codes cost is computed in f32 of an encoder that was rounded.
    let penalty = |draws: &Draws| {
        let penalty = draws.penalty.as_ref().expect("a commitment");
        assert_eq!(penalty.kind(), Kind::Float);
        penalty.mean(Kind::Double).double_value(&[])
    };
    assert!((penalty(&draws) / penalty(&exact) - 1.0).abs() < 0.05);
    autocast(Precision::Bf16, Device::Cpu, || draw(Mode::Train));
    let codebooks = vae.named_variables();
    let codebooks = codebooks
        .iter()
        .find(|(name, _)| name == "posterior.codebooks");
    assert_eq!(codebooks.expect("codebooks").1.kind(), Kind::Float);
}

#[test]
fn a_device_without_bf16_is_refused() {
    assert!(check_precision(Precision::F32, Device::Mps).is_ok());
    let error = check_precision(Precision::Bf16, Device::Mps).expect_err("refused");
    assert!(
        error.to_string().contains("\"f32\" works everywhere"),
        "{error}"
    );
    // Linux reports the same property of the processor in /proc/cpuinfo.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        let flags = std::fs::read_to_string("/proc/cpuinfo").expect("the processor's flags");
        let has_bf16 = flags.contains("avx512_bf16");
        assert_eq!(
            check_precision(Precision::Bf16, Device::Cpu).is_ok(),
            has_bf16
        );
    }
}

#[test]
fn config_files_say_it_like_this() {
    let read = |text| serde_json::from_str::<Precision>(text);
    assert_eq!(read("\"f32\"").expect("f32"), Precision::F32);
    assert_eq!(read("\"bf16\"").expect("bf16"), Precision::Bf16);
    assert!(read("\"fp16\"").is_err());
}
