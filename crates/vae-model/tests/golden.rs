//! Compares the networks, the ELBO and its gradients with PyTorch's results for fixed weights and inputs, which
//! `tests/golden/networks.py` computed.

mod common;

use std::collections::BTreeMap;
use std::f64::consts::PI;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use vae_model::{
    ConvBatchNormConfig, ConvConfig, GaussianConfig, ImageShape, LikelihoodConfig, LossContext,
    MeanActivation, MlpConfig, Mode, ModelConfig, NetworkConfig, Objective, PixelMeanConfig,
    Regularizer, ResidualConfig, ScaleConfig, Vae,
};

#[derive(Deserialize)]
struct Golden {
    mnist: Case,
    odd: Case,
    mlp: Case,
    faces: Case,
    odd_faces: Case,
    residual: Case,
}

#[derive(Deserialize)]
struct Case {
    mean: Vec<f64>,
    log_var: Vec<f64>,
    evaluated_mean: Vec<f64>,
    mean_image_head: Vec<f64>,
    reconstruction: Vec<f64>,
    kl: Vec<f64>,
    loss: f64,
    tutorial_loss: f64,
    gradient_norms: BTreeMap<String, f64>,
    gradient_heads: BTreeMap<String, Vec<f64>>,
    running_heads: BTreeMap<String, Vec<f64>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/networks.json")).expect("the golden file")
}

fn assert_close(what: &str, found: &Tensor, wanted: &[f64], tolerance: f64) {
    let found = Vec::<f64>::try_from(found.to_kind(Kind::Double).flatten(0, -1)).expect("numbers");
    assert!(
        found.len() >= wanted.len(),
        "{what}: {} numbers",
        found.len()
    );
    let scale = wanted.iter().fold(1e-3_f64, |scale, w| scale.max(w.abs()));
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (found - wanted).abs() <= tolerance * scale,
            "{what}[{i}]: {found}, PyTorch has {wanted}"
        );
    }
}

/// The density whose log is the squared error, up to ½ ln π for each value.
fn squared_error() -> LikelihoodConfig {
    LikelihoodConfig::Gaussian(GaussianConfig {
        sigma: ScaleConfig::Fixed(0.5_f64.sqrt()),
        mean: MeanActivation::Tanh,
    })
}

/// Relative tolerance for the norm of a variable's gradient.
const GRADIENT_TOLERANCE: f64 = 2e-4;

/// The effect of rounding on the gradients: the largest relative change of a variable's gradient norm if the last
/// digits of the noise change. Batch norms over three images magnify rounding a thousandfold.
fn sensitivity(vae: &Vae, images: &Tensor, noise: &Tensor) -> f64 {
    let norms = |factor: f64| -> Vec<f64> {
        let variables = vae.trainable_variables();
        for (_, variable) in &variables {
            let mut gradient = variable.grad();
            if gradient.defined() {
                let _ = gradient.zero_();
            }
        }
        let draws = vae
            .draw_with_noise(images, &(noise * factor), Mode::Train)
            .expect("draws");
        let context = LossContext {
            vae,
            step: 0,
            n_images: images.size()[0] as u64,
        };
        Objective::default()
            .loss(&draws, context, &mut vae.generator(1))
            .expect("a loss")
            .backward();
        let norm = |(_, variable): &(String, Tensor)| variable.grad().norm().double_value(&[]);
        variables.iter().map(norm).collect()
    };
    let wanted = norms(1.0);
    let change = [1e-6, -1e-6, 5e-7]
        .into_iter()
        .flat_map(|change| {
            norms(1.0 + change)
                .into_iter()
                .zip(&wanted)
                .collect::<Vec<_>>()
        })
        .map(|(found, wanted)| (found / wanted - 1.0).abs())
        .fold(0.0, f64::max);
    for (_, variable) in vae.trainable_variables() {
        let _ = variable.grad().zero_();
    }
    change
}

fn check(case: &Case, config: &ModelConfig, shape: ImageShape) {
    let vae = Vae::new(config, shape, Device::Cpu, 1).expect("a model");
    let trained: Vec<String> = vae.trainable_variables().into_iter().map(|v| v.0).collect();
    assert_eq!(
        trained,
        case.gradient_norms.keys().cloned().collect::<Vec<_>>()
    );
    common::fill(&vae);
    let constant = match config.likelihood {
        LikelihoodConfig::Bernoulli => 0.0,
        _ => 0.5 * PI.ln() * shape.n_values() as f64,
    };

    let batch = 3;
    let images = common::images(batch, shape);
    let latent_dims = config.n_latents();
    let noise =
        common::wave((batch * latent_dims) as usize, 0.3, 1.2).view([1, batch, latent_dims]);
    // PyTorch's numbers were computed on another processor, so they may differ by the effect of rounding on either
    // side. The tolerance cannot be smaller.
    let slack = (sensitivity(&vae, &images, &noise) * 2.0 / GRADIENT_TOLERANCE).max(1.0);
    common::fill(&vae); // Also resets the running averages.
    let draws = vae
        .draw_with_noise(&images, &noise, Mode::Train)
        .expect("draws");
    assert_close("mean", &draws.posterior.center(), &case.mean, 2e-5);
    let log_var = draws.posterior.log_var().expect("a Gaussian");
    assert_close("log_var", &log_var, &case.log_var, 2e-5);
    let terms = &draws.terms;
    assert_close(
        "reconstruction",
        &(&terms.reconstruction - constant),
        &case.reconstruction,
        2e-5,
    );
    assert_close("kl", terms.kl.as_ref().expect("a kl"), &case.kl, 2e-5);

    let context = LossContext {
        vae: &vae,
        step: 0,
        n_images: batch as u64,
    };
    let tutorial = Objective {
        regularizer: Regularizer::PixelMean(PixelMeanConfig::default()),
        ..Default::default()
    };
    let mut generator = vae.generator(1); // Nothing is drawn from it here.
    let tutorial_loss = tutorial
        .loss(&draws, context, &mut generator)
        .expect("a loss")
        - constant / shape.n_values() as f64;
    assert_close("tutorial loss", &tutorial_loss, &[case.tutorial_loss], 2e-5);

    let loss = Objective::default()
        .loss(&draws, context, &mut generator)
        .expect("a loss");
    assert_close("loss", &(&loss - constant), &[case.loss], 2e-5);
    loss.backward();
    for (name, variable) in vae.trainable_variables() {
        let gradient = variable.grad();
        let norm = gradient.norm();
        assert_close(
            &format!("‖∂{name}‖"),
            &norm,
            &[case.gradient_norms[&name]],
            GRADIENT_TOLERANCE * slack,
        );
        // Single entries are sums of thousands of terms; the tolerance is relative to the largest one.
        assert_close(
            &format!("∂{name}"),
            &gradient,
            &case.gradient_heads[&name],
            1e-3 * slack,
        );
    }

    let mut running = vae.named_variables();
    running.retain(|(name, _)| !case.gradient_norms.contains_key(name));
    assert_eq!(running.len(), case.running_heads.len());
    for (name, variable) in running {
        assert_close(&name, &variable, &case.running_heads[&name], 2e-5 * slack);
    }
    let posterior = vae.encode(&images).expect("a posterior");
    assert_close(
        "evaluated mean",
        &posterior.center(),
        &case.evaluated_mean,
        2e-5 * slack,
    );
    let mean_image = vae.decode(&posterior.center()).expect("an image");
    assert_close(
        "mean image",
        &mean_image,
        &case.mean_image_head,
        2e-5 * slack,
    );
}

#[test]
fn the_mnist_network_is_pytorchs() {
    let shape = ImageShape {
        channels: 1,
        height: 28,
        width: 28,
    };
    check(&golden().mnist, &ModelConfig::default(), shape);
}

#[test]
fn a_color_network_at_sizes_that_no_stride_divides_is_pytorchs() {
    let shape = ImageShape {
        channels: 3,
        height: 17,
        width: 22,
    };
    let config = ModelConfig {
        latent_dims: Some(5),
        network: NetworkConfig::Conv(ConvConfig {
            channels: vec![6, 8, 10],
            strides: vec![2, 1, 3],
            hidden: 16,
            decoder_channels: vec![7, 6, 4],
            decoder_strides: vec![3, 1, 2],
        }),
        ..Default::default()
    };
    check(&golden().odd, &config, shape);
}

#[test]
fn the_mlp_is_pytorchs() {
    let shape = ImageShape {
        channels: 1,
        height: 28,
        width: 28,
    };
    let config = ModelConfig {
        latent_dims: Some(8),
        network: NetworkConfig::Mlp(MlpConfig {
            hidden: vec![40, 30],
        }),
        ..Default::default()
    };
    check(&golden().mlp, &config, shape);
}

#[test]
fn the_faces_network_with_batch_norm_and_its_squared_error_are_pytorchs() {
    let shape = ImageShape {
        channels: 3,
        height: 64,
        width: 64,
    };
    let config = ModelConfig {
        latent_dims: Some(128),
        likelihood: squared_error(),
        network: NetworkConfig::ConvBatchNorm(ConvBatchNormConfig::default()),
        ..Default::default()
    };
    check(&golden().faces, &config, shape);
}

#[test]
fn batch_norm_at_sizes_that_no_stride_divides_is_pytorchs() {
    let shape = ImageShape {
        channels: 3,
        height: 37,
        width: 50,
    };
    let config = ModelConfig {
        latent_dims: Some(5),
        likelihood: squared_error(),
        network: NetworkConfig::ConvBatchNorm(ConvBatchNormConfig {
            channels: vec![4, 6, 8],
        }),
        ..Default::default()
    };
    check(&golden().odd_faces, &config, shape);
}

#[test]
fn the_residual_network_is_the_same_one_built_in_pytorch() {
    let shape = ImageShape {
        channels: 3,
        height: 21,
        width: 34,
    };
    let config = ModelConfig {
        latent_dims: Some(5),
        likelihood: squared_error(),
        network: NetworkConfig::Residual(ResidualConfig {
            channels: vec![4, 8, 12],
            blocks: 2,
            group_size: 4,
        }),
        ..Default::default()
    };
    check(&golden().residual, &config, shape);
}
