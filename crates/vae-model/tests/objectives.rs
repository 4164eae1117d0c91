//! Every objective, with its gradient, on terms that can be added by hand.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};
use vae_model::{
    BetaCyclicConfig, BetaSchedule, BetaWarmUpConfig, CapacityConfig, Draws, ImageShape, KlConfig,
    LossContext, MlpConfig, Mode, ModelConfig, NetworkConfig, Objective, PixelMeanConfig,
    Regularizer, Vae,
};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 2,
    width: 3,
};

fn model() -> ModelConfig {
    ModelConfig {
        latent_dims: Some(2),
        network: NetworkConfig::Mlp(MlpConfig { hidden: vec![] }),
        ..Default::default()
    }
}

/// Two images with reconstruction 10 and 20, kl 0.1 + 2 and 0.3 + 4; and the leaf tensor of the kl.
fn draws(vae: &Vae) -> (Draws, Tensor) {
    let noise = Tensor::zeros([1, 2, 2], (Kind::Float, Device::Cpu));
    let images = Tensor::zeros([2, 1, 2, 3], (Kind::Uint8, Device::Cpu));
    let mut draws = vae
        .draw_with_noise(&images, &noise, Mode::Evaluate)
        .expect("draws");
    let kl = Tensor::from_slice(&[0.1_f32, 2.0, 0.3, 4.0]).view([2, 2]);
    let kl = kl.detach().set_requires_grad(true);
    draws.kl_per_dimension = Some(kl.shallow_clone());
    draws.terms.kl = Some(kl.sum_dim_intlist(-1, false, Kind::Float));
    draws.terms.reconstruction = Tensor::from_slice(&[10_f32, 20.0]);
    (draws, kl)
}

/// The loss, and its gradient with respect to each image's kl in each dimension.
fn loss_and_gradient(objective: &Objective, step: u64) -> (f64, Vec<f64>) {
    let vae = Vae::new(&model(), SHAPE, Device::Cpu, 1).expect("a model");
    let (draws, kl) = draws(&vae);
    let context = LossContext {
        vae: &vae,
        step,
        n_images: 2,
    };
    let loss = objective
        .loss(&draws, context, &mut vae.generator(1))
        .expect("a loss");
    loss.backward();
    let gradient = kl.grad().to_kind(Kind::Double).flatten(0, -1);
    (
        loss.double_value(&[]),
        Vec::try_from(gradient).expect("four numbers"),
    )
}

fn assert_loss(objective: &Objective, step: u64, wanted: f64, gradient: [f64; 4]) {
    objective.check(&model()).expect("a sound objective");
    let (loss, found) = loss_and_gradient(objective, step);
    assert!((loss - wanted).abs() < 1e-5, "{step}: {loss} vs {wanted}");
    for (found, wanted) in found.iter().zip(gradient) {
        assert!((found - wanted).abs() < 1e-6, "{step}: {found} vs {wanted}");
    }
}

fn with(regularizer: Regularizer) -> Objective {
    Objective {
        regularizer,
        ..Default::default()
    }
}

fn kl(beta: f64, free_bits: f64, beta_schedule: BetaSchedule) -> Objective {
    with(Regularizer::Kl(KlConfig {
        beta,
        free_bits,
        beta_schedule,
        free_bits_per_group: 0.0,
    }))
}

#[test]
fn beta_weighs_the_kl() {
    // 15 + 2·(2.1 + 4.3)/2.
    let objective = kl(2.0, 0.0, BetaSchedule::Constant);
    assert_loss(&objective, 0, 21.4, [1.0; 4]);
}

#[test]
fn free_bits_cost_nothing_and_pull_at_nothing() {
    // The dimensions' means are 0.2 and 3: 15 + 2·(0.5 + 3), and the first is below its 0.5 nats.
    let objective = kl(2.0, 0.5, BetaSchedule::Constant);
    assert_loss(&objective, 0, 22.0, [0.0, 1.0, 0.0, 1.0]);
    // The mean over the batch counts: 0.2 is above 0.15, although one image is below.
    let objective = kl(2.0, 0.15, BetaSchedule::Constant);
    assert_loss(&objective, 0, 21.4, [1.0; 4]);
}

#[test]
fn capacity_draws_the_kl_up_and_then_down_to_it() {
    // The mean kl is 3.2; C is 0, 2, 4 and stays 4.
    let objective = with(Regularizer::Capacity(CapacityConfig {
        gamma: 10.0,
        final_capacity: 4.0,
        over_steps: 10,
        ..Default::default()
    }));
    assert_loss(&objective, 0, 15.0 + 32.0, [5.0; 4]);
    assert_loss(&objective, 5, 15.0 + 12.0, [5.0; 4]);
    assert_loss(&objective, 10, 15.0 + 8.0, [-5.0; 4]);
    assert_loss(&objective, 99, 15.0 + 8.0, [-5.0; 4]);
    assert_eq!(objective.scheduled(5), [("capacity", 2.0)]);
}

#[test]
fn beta_rises_once_or_again_and_again() {
    let betas = |schedule: BetaSchedule| -> Vec<f64> {
        let objective = kl(2.0, 0.0, schedule);
        objective.check(&model()).expect("a sound objective");
        (0..9)
            .map(|step| {
                let scheduled = objective.scheduled(step);
                assert_eq!(scheduled[0].0, "beta");
                let (loss, _) = loss_and_gradient(&objective, step);
                assert!((loss - 15.0 - 3.2 * scheduled[0].1).abs() < 1e-5);
                scheduled[0].1
            })
            .collect()
    };
    let warm_up = BetaSchedule::WarmUp(BetaWarmUpConfig {
        steps: 4,
        ..Default::default()
    });
    assert_eq!(
        betas(warm_up),
        [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]
    );
    let cyclic = BetaSchedule::Cyclic(BetaCyclicConfig {
        period_steps: 4,
        ramp: 0.5,
        ..Default::default()
    });
    assert_eq!(betas(cyclic), [0.0, 1.0, 2.0, 2.0, 0.0, 1.0, 2.0, 2.0, 0.0]);
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    let refused = |objective: Objective, wanted: &str| {
        let message = objective.check(&model()).expect_err(wanted).to_string();
        assert!(message.starts_with(wanted), "{message}");
    };
    let constant = BetaSchedule::Constant;
    refused(
        kl(f64::NAN, 0.0, constant.clone()),
        "objective.regularizer.kl.beta: found NaN",
    );
    refused(
        kl(1.0, -0.1, constant),
        "objective.regularizer.kl.free_bits: found -0.1",
    );
    let cyclic = |period_steps, ramp| {
        let config = BetaCyclicConfig {
            period_steps,
            ramp,
            ..Default::default()
        };
        kl(1.0, 0.0, BetaSchedule::Cyclic(config))
    };
    refused(
        cyclic(0, 0.5),
        "objective.regularizer.kl.beta_schedule.cyclic.period_steps: found 0",
    );
    refused(
        cyclic(5, 0.0),
        "objective.regularizer.kl.beta_schedule.cyclic.ramp: found 0",
    );
    let still = BetaSchedule::WarmUp(BetaWarmUpConfig {
        steps: 0,
        ..Default::default()
    });
    refused(
        kl(1.0, 0.0, still),
        "objective.regularizer.kl.beta_schedule.warm_up.steps: found 0",
    );
    let capacity = with(Regularizer::Capacity(CapacityConfig {
        gamma: f64::INFINITY,
        ..Default::default()
    }));
    refused(capacity, "objective.regularizer.capacity.gamma: found inf");
}

/// Keras' cross-entropy: probabilities are clipped to [ε, 1 − ε], and clipped ones have no gradient.
#[test]
fn clipped_pixels_cost_what_the_clip_allows_and_pull_at_nothing() {
    let objective = |probability_clip: f64| {
        with(Regularizer::PixelMean(PixelMeanConfig {
            kl_weight: 0.0,
            probability_clip,
        }))
    };
    let vae = Vae::new(&model(), SHAPE, Device::Cpu, 1).expect("a model");
    let context = LossContext {
        vae: &vae,
        step: 0,
        n_images: 2,
    };
    // With ε = 0.1, logits within ±ln 9 = ±2.197 are not clipped.
    let values = [
        3_f32, 3.0, -3.0, -3.0, 0.0, 1.0, 30.0, -30.0, 2.0, -2.0, 2.3, -1.0,
    ];
    let targets = [
        0_f32, 1.0, 0.0, 1.0, 0.25, 1.0, 0.0, 1.0, 1.0, 0.5, 0.5, 0.0,
    ];
    let loss = |values: &[f32], clip: f64| {
        let (mut draws, _) = draws(&vae);
        let logits = Tensor::from_slice(values).view([1, 2, 1, 2, 3]);
        let logits = logits.set_requires_grad(true);
        draws.params = logits.shallow_clone();
        draws.targets = Tensor::from_slice(&targets).view([2, 1, 2, 3]);
        let objective = objective(clip);
        objective.check(&model()).expect("a sound objective");
        let loss = objective
            .loss(&draws, context, &mut vae.generator(1))
            .expect("a loss");
        (loss, logits)
    };
    let (found, logits) = loss(&values, 0.1);
    found.backward();
    let gradient = Vec::<f32>::try_from(logits.grad().flatten(0, -1)).expect("numbers");
    // By hand, for each pixel: −t·ln p − (1 − t)·ln(1 − p) with p in [0.1, 0.9].
    let mut wanted = 0.0;
    for (i, (&logit, &target)) in values.iter().zip(&targets).enumerate() {
        let (logit, target) = (f64::from(logit), f64::from(target));
        let p = 1.0 / (1.0 + (-logit).exp());
        let clipped = p.clamp(0.1, 0.9);
        wanted += -target * clipped.ln() - (1.0 - target) * (1.0 - clipped).ln();
        // A mean over 6 pixels and 2 images.
        let slope = if p == clipped {
            (p - target) / 12.0
        } else {
            0.0
        };
        assert!((f64::from(gradient[i]) - slope).abs() < 1e-7, "pixel {i}");
        if i == 0 {
            assert!((wanted - 10_f64.ln()).abs() < 1e-12);
        }
    }
    assert!((found.double_value(&[]) - wanted / 12.0).abs() < 1e-6);
    // Finite differences give the same for each logit; none is at the limit of the clip.
    for i in 0..values.len() {
        let at = |step: f32| {
            let mut values = values;
            values[i] += step;
            loss(&values, 0.1).0.double_value(&[])
        };
        let slope = (at(0.02) - at(-0.02)) / 0.04;
        let gradient = f64::from(gradient[i]);
        assert!(
            (slope - gradient).abs() < 1e-4,
            "pixel {i}: {slope} {gradient}"
        );
    }
    // Keras' own ε: at most ln 1e7 = 16.1 nats a pixel. Without a clip the two distant logits cost 30 each.
    let far = [-30_f32; 12];
    let all = f64::from(targets.iter().sum::<f32>());
    let (keras, logits) = loss(&far, 1e-7);
    keras.backward();
    assert!((keras.double_value(&[]) - all * 1e7_f64.ln() / 12.0).abs() < 1e-4);
    assert_eq!(logits.grad().abs().max().double_value(&[]), 0.0);
    // The logged reconstruction has no clip. Without a clip it equals the loss: 15 nats for six pixels.
    let (unclipped, _) = loss(&far, 0.0);
    assert!((unclipped.double_value(&[]) - 15.0 / 6.0).abs() < 1e-6);
}

/// The loss of the two images, and the named terms.
fn loss_and_terms(toml: &str, model: &ModelConfig) -> (f64, BTreeMap<String, f64>) {
    let objective: Objective = toml::from_str(toml).expect(toml);
    let vae = Vae::new(model, SHAPE, Device::Cpu, 1).expect("a model");
    let (draws, _) = draws(&vae);
    let context = LossContext {
        vae: &vae,
        step: 5,
        n_images: 2,
    };
    let (loss, terms) = objective
        .loss_and_terms(&draws, context, &mut vae.generator(1))
        .expect("a loss");
    let declared: Vec<_> = objective.terms(model);
    let logged: Vec<_> = terms.iter().map(|(term, _)| term.clone()).collect();
    assert_eq!(logged, declared, "{toml}: those that the config declares");
    assert!(
        terms.iter().all(|(_, value)| !value.requires_grad()),
        "{toml}"
    );
    let terms = terms.iter().map(|(term, value)| {
        let value = value.mean(Kind::Double).double_value(&[]);
        (term.name.to_string(), value)
    });
    (loss.double_value(&[]), terms.collect())
}

#[test]
fn an_objective_logs_the_parts_that_it_declares_without_their_weights() {
    // Reconstruction 15, kl 3.2.
    let (_, terms) = loss_and_terms(
        "regularizer.capacity = { gamma = 10.0, final_capacity = 4.0, over_steps = 10 }",
        &model(),
    );
    assert!((terms["capacity_gap"] - 1.2).abs() < 1e-6);
    let (_, terms) = loss_and_terms("regularizer.kl.free_bits = 0.5", &model());
    assert!((terms["free_bits_kl"] - 3.5).abs() < 1e-6);

    let codes: ModelConfig = toml::from_str(
        "latent_dims = 2\nposterior = 'deterministic'\nnetwork.mlp.hidden = []\n\
         prior.gaussian_mixture.components = 2",
    )
    .expect("a model");
    for (toml, model, base, weights) in [
        ("", model(), 18.2, vec![]),
        ("estimator.iwae.samples = 1", model(), f64::NAN, vec![]),
        (
            "regularizer.beta_tc = { alpha = 2.0, beta = 3.0, gamma = 4.0 }",
            model(),
            15.0,
            vec![
                ("mutual_information", 2.0),
                ("total_correlation", 3.0),
                ("dimension_wise_kl", 4.0),
            ],
        ),
        (
            "regularizer.dip = { off_diagonal = 10.0, diagonal = 100.0 }",
            model(),
            18.2,
            vec![("dip_off_diagonal", 10.0), ("dip_diagonal", 100.0)],
        ),
        (
            "regularizer.mmd = { weight = 3.0, kl_weight = 0.0 }",
            model(),
            15.0,
            vec![("mmd", 3.0)],
        ),
        (
            "decoder_penalty.l2.weight = 0.25",
            model(),
            18.2,
            vec![("decoder_l2", 0.25)],
        ),
        (
            "decoder_penalty.gradient_penalty.weight = 2.0",
            model(),
            18.2,
            vec![("decoder_jacobian", 2.0)],
        ),
        (
            "regularizer.latent_norm.weight = 3.0",
            codes,
            15.0,
            vec![("squared_latent_norm", 1.5), ("code_nll", 1.0)],
        ),
    ] {
        let (loss, terms) = loss_and_terms(toml, &model);
        assert_eq!(terms.len(), weights.len(), "{toml}");
        let wanted = weights
            .iter()
            .map(|(name, weight)| weight * terms[*name])
            .sum::<f64>()
            + base;
        assert!(
            base.is_nan() || (loss - wanted).abs() < 1e-4 * wanted.abs(),
            "{toml}: {loss} vs {wanted}"
        );
    }

    let tutorial = "regularizer.pixel_mean.probability_clip = 1e-7";
    let (_, terms) = loss_and_terms(tutorial, &model());
    assert!(terms["clipped_reconstruction"] > 0.0);
}
