//! The networks, the ELBO and its gradients against PyTorch's numbers for fixed weights and inputs
//! (`tests/golden/networks.py` made them).

mod common;

use std::collections::BTreeMap;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use vae_model::{
    ConvConfig, ElboConfig, ImageShape, MlpConfig, ModelConfig, NetworkConfig, Objective,
    PixelMeanConfig, Vae,
};

#[derive(Deserialize)]
struct Golden {
    mnist: Case,
    odd: Case,
    mlp: Case,
}

#[derive(Deserialize)]
struct Case {
    mean: Vec<f64>,
    log_var: Vec<f64>,
    mean_image_head: Vec<f64>,
    reconstruction: Vec<f64>,
    kl: Vec<f64>,
    loss: f64,
    tutorial_loss: f64,
    gradient_norms: BTreeMap<String, f64>,
    gradient_heads: BTreeMap<String, Vec<f64>>,
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

fn check(case: &Case, network: NetworkConfig, latent_dims: i64, shape: ImageShape) {
    let config = ModelConfig {
        latent_dims,
        network,
        ..Default::default()
    };
    let vae = Vae::new(&config, shape, Device::Cpu).expect("a model");
    let names: Vec<String> = vae.named_variables().into_iter().map(|v| v.0).collect();
    assert_eq!(
        names,
        case.gradient_norms.keys().cloned().collect::<Vec<_>>()
    );
    common::fill(&vae);

    let batch = 3;
    let images = common::images(batch, shape);
    let noise =
        common::wave((batch * latent_dims) as usize, 0.3, 1.2).view([1, batch, latent_dims]);
    let draws = vae.draw_with_noise(&images, &noise).expect("draws");
    assert_close("mean", draws.posterior.mean(), &case.mean, 2e-5);
    assert_close("log_var", &draws.posterior.log_var(), &case.log_var, 2e-5);
    let terms = &draws.terms;
    assert_close(
        "reconstruction",
        &terms.reconstruction,
        &case.reconstruction,
        2e-5,
    );
    assert_close("kl", &terms.kl, &case.kl, 2e-5);
    let mean_image = vae.decode(draws.posterior.mean()).expect("an image");
    assert_close("mean image", &mean_image, &case.mean_image_head, 2e-5);

    let tutorial = Objective::PixelMean(PixelMeanConfig { kl_weight: 5e-4 });
    let tutorial_loss = tutorial.loss(&draws, shape, 0);
    assert_close("tutorial loss", &tutorial_loss, &[case.tutorial_loss], 2e-5);

    let objective = Objective::Elbo(ElboConfig::default());
    let loss = objective.loss(&draws, shape, 0);
    assert_close("loss", &loss, &[case.loss], 2e-5);
    loss.backward();
    for (name, variable) in vae.named_variables() {
        let gradient = variable.grad();
        let norm = gradient.norm();
        assert_close(
            &format!("‖∂{name}‖"),
            &norm,
            &[case.gradient_norms[&name]],
            2e-4,
        );
        // Single entries of a sum of thousands of terms: relative to the largest shown.
        assert_close(
            &format!("∂{name}"),
            &gradient,
            &case.gradient_heads[&name],
            1e-3,
        );
    }
}

#[test]
fn the_mnist_network_is_pytorchs() {
    let shape = ImageShape {
        channels: 1,
        height: 28,
        width: 28,
    };
    check(
        &golden().mnist,
        NetworkConfig::Conv(ConvConfig::default()),
        2,
        shape,
    );
}

#[test]
fn a_color_network_at_sizes_that_no_stride_divides_is_pytorchs() {
    let shape = ImageShape {
        channels: 3,
        height: 17,
        width: 22,
    };
    let config = ConvConfig {
        channels: vec![6, 8, 10],
        strides: vec![2, 1, 3],
        hidden: 16,
        decoder_channels: vec![7, 6, 4],
        decoder_strides: vec![3, 1, 2],
    };
    check(&golden().odd, NetworkConfig::Conv(config), 5, shape);
}

#[test]
fn the_mlp_is_pytorchs() {
    let shape = ImageShape {
        channels: 1,
        height: 28,
        width: 28,
    };
    let config = MlpConfig {
        hidden: vec![40, 30],
    };
    check(&golden().mlp, NetworkConfig::Mlp(config), 8, shape);
}
