//! Laws that hold for every model: gradients, independence of images, saving, refusals.

mod common;

use std::collections::BTreeMap;
use std::fs;

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{
    ConvConfig, DiagonalGaussianConfig, ImageShape, Initialization, MlpConfig, ModelConfig,
    ModelError, NetworkConfig, NoiseScale, Objective, PixelMeanConfig, PosteriorConfig, Prior, Vae,
    WEIGHTS_FILE,
};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 9,
    width: 7,
};

fn small_conv() -> ModelConfig {
    ModelConfig {
        latent_dims: 3,
        network: NetworkConfig::Conv(ConvConfig {
            channels: vec![3, 4],
            strides: vec![1, 2],
            hidden: 8,
            decoder_channels: vec![3],
            decoder_strides: vec![2],
        }),
        ..Default::default()
    }
}

fn small_mlp() -> ModelConfig {
    ModelConfig {
        latent_dims: 3,
        network: NetworkConfig::Mlp(MlpConfig { hidden: vec![10] }),
        ..Default::default()
    }
}

/// A model with weights from a formula: tests run at the same time, and share libtorch's generator.
fn fixed(config: &ModelConfig) -> Vae {
    let vae = Vae::new(config, SHAPE, Device::Cpu).expect("a model");
    common::fill(&vae);
    vae
}

fn images(n: i64) -> Tensor {
    common::images(n, SHAPE)
}

fn noise(k: i64, n: i64) -> Tensor {
    common::wave((k * n * 3) as usize, 0.2, 1.3).view([k, n, 3])
}

fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn gradients_are_finite_differences() {
    let objectives = [
        Objective::default(),
        Objective::PixelMean(PixelMeanConfig { kl_weight: 0.3 }),
    ];
    let tutorials_noise = ModelConfig {
        posterior: PosteriorConfig::DiagonalGaussian(DiagonalGaussianConfig {
            noise_scale: NoiseScale::Variance,
        }),
        ..small_conv()
    };
    for config in [small_conv(), small_mlp(), tutorials_noise] {
        for objective in &objectives {
            let vae = fixed(&config);
            let (images, noise) = (images(4), noise(2, 4));
            let loss = || {
                let draws = vae.draw_with_noise(&images, &noise).expect("draws");
                objective.loss(&draws, SHAPE, 0)
            };
            let value = loss();
            value.backward();
            let loss_now = value.double_value(&[]);
            for (name, mut variable) in vae.named_variables() {
                // Along the gradient's own direction the slope is its norm.
                let gradient = variable.grad().copy();
                let norm = gradient.norm().double_value(&[]);
                let direction = &gradient / norm.max(1e-12);
                let step = 2e-3;
                let mut at = |t: f64| {
                    no_grad(|| {
                        variable += &direction * t;
                        let value = loss().double_value(&[]);
                        variable -= &direction * t;
                        value
                    })
                };
                let slope = (at(step) - at(-step)) / (2.0 * step);
                // f32 rounds the loss to a part in 10⁷, which the small step magnifies.
                let rounding = 2e-7 * loss_now / step;
                assert!(
                    norm > 10.0 * rounding,
                    "{name}: a gradient of {norm} shows nothing"
                );
                assert!(
                    (slope - norm).abs() <= 0.02 * norm + rounding,
                    "{name}: slope {slope}, gradient {norm} ({objective:?})"
                );
            }
        }
    }
}

#[test]
fn the_prior_is_a_standard_normal() {
    let latents = Prior::StandardNormal.sample(20_000, 3, Device::Cpu);
    assert_eq!(latents.size(), [20_000, 3]);
    // Five standard errors of the mean and of the variance.
    let mean = latents.mean_dim(0, false, Kind::Float).abs().max();
    assert!(mean.double_value(&[]) < 5.0 / 20_000_f64.sqrt());
    let variance = latents.square().mean_dim(0, false, Kind::Float) - 1.0;
    assert!(variance.abs().max().double_value(&[]) < 5.0 * (2.0 / 20_000_f64).sqrt());
}

#[test]
fn images_do_not_see_each_other() {
    for config in [small_conv(), small_mlp()] {
        let vae = fixed(&config);
        let (images, noise) = (images(5), noise(2, 5));
        let order = Tensor::from_slice(&[3_i64, 0, 4, 1, 2]);
        let elbo = vae
            .draw_with_noise(&images, &noise)
            .expect("draws")
            .terms
            .elbo();
        let shuffled = vae
            .draw_with_noise(
                &images.index_select(0, &order),
                &noise.index_select(1, &order),
            )
            .expect("draws")
            .terms
            .elbo();
        assert!(max_difference(&elbo.index_select(0, &order), &shuffled) < 1e-4);
    }
}

#[test]
fn k_samples_are_the_mean_of_single_ones() {
    let vae = fixed(&small_conv());
    let (images, noise) = (images(4), noise(3, 4));
    let all = vae.draw_with_noise(&images, &noise).expect("draws");
    assert_eq!(all.latents.size(), [3, 4, 3]);
    assert_eq!(all.log_px_z.size(), [3, 4]);
    let single: Vec<Tensor> = (0..3)
        .map(|k| {
            let draws = vae
                .draw_with_noise(&images, &noise.narrow(0, k, 1))
                .expect("draws");
            draws.terms.reconstruction
        })
        .collect();
    let mean = Tensor::stack(&single, 0).mean_dim(0, false, Kind::Float);
    assert!(max_difference(&all.terms.reconstruction, &mean) < 1e-3);
}

#[test]
fn a_bernoulli_pixel_has_its_own_log_probability() {
    // Two pixels, logits 0 and ln 3 (p = ½ and ¾), targets 1 and 0: ln ½ + ln ¼.
    let params = Tensor::from_slice(&[0_f32, 3_f32.ln()]).view([1, 1, 1, 1, 2]);
    let targets = Tensor::from_slice(&[1_f32, 0.0]).view([1, 1, 1, 2]);
    let log_prob = vae_model::Likelihood::Bernoulli.log_prob(&params, &targets);
    assert!((log_prob.double_value(&[0, 0]) - (0.125_f64).ln()).abs() < 1e-6);
    // Far logits stay finite: the log of a sigmoid would not.
    let far = Tensor::from_slice(&[-200_f32, 200.0]).view([1, 1, 1, 1, 2]);
    let log_prob = vae_model::Likelihood::Bernoulli.log_prob(&far, &targets);
    assert!((log_prob.double_value(&[0, 0]) + 400.0).abs() < 1e-3);
}

#[test]
fn fresh_weights_fill_the_documented_interval() {
    // The hidden layer of the encoder has 12544 inputs and 32 outputs; the transposed convolution
    // has 64 input and 32 output channels, 9 weights each, of which a stride of 2 uses a quarter.
    let cases = [
        (
            Initialization::Pytorch,
            (1.0 / 12544_f64).sqrt(),
            (1.0 / (9.0 * 32_f64)).sqrt(),
            false,
        ),
        (
            Initialization::Keras,
            (6.0 / 12576_f64).sqrt(),
            (6.0 / (9.0 * 96_f64)).sqrt(),
            true,
        ),
        (
            Initialization::Kaiming,
            (6.0 / 12544_f64).sqrt(),
            (6.0 / (9.0 * 64_f64 / 4.0)).sqrt(),
            true,
        ),
    ];
    for (initialization, weight_bound, transposed_bound, bias_is_zero) in cases {
        let config = ModelConfig {
            initialization,
            ..Default::default()
        };
        let shape = ImageShape {
            channels: 1,
            height: 28,
            width: 28,
        };
        let vae = Vae::new(&config, shape, Device::Cpu).expect("a model");
        let variables: BTreeMap<_, _> = vae.named_variables().into_iter().collect();
        for (name, bound) in [
            ("encoder.hidden.weight", weight_bound),
            ("decoder.conv.0.weight", transposed_bound),
        ] {
            let weight = &variables[name];
            let largest = weight.abs().max().double_value(&[]);
            assert!(
                largest <= bound && largest > 0.99 * bound,
                "{name}: {largest} vs {bound}"
            );
            // A uniform distribution's standard deviation is bound/√3.
            let std = weight.std(true).double_value(&[]);
            assert!(
                (std / (bound / 3_f64.sqrt()) - 1.0).abs() < 0.03,
                "{name}: {std}"
            );
        }
        let bias = variables["encoder.hidden.bias"]
            .abs()
            .max()
            .double_value(&[]);
        assert_eq!(bias == 0.0, bias_is_zero);
    }
}

#[test]
fn a_saved_model_is_the_same_model() {
    let folder = tempfile::tempdir().expect("a folder");
    for config in [small_conv(), small_mlp()] {
        let vae = fixed(&config);
        vae.save(folder.path().join(WEIGHTS_FILE)).expect("saved");
        let loaded = Vae::load(folder.path(), Device::Cpu).expect("loaded");
        assert_eq!(loaded.config(), &config);
        assert_eq!(loaded.image_shape(), SHAPE);
        let (images, noise) = (images(4), noise(1, 4));
        let elbo = |vae: &Vae| {
            vae.draw_with_noise(&images, &noise)
                .expect("draws")
                .terms
                .elbo()
        };
        assert_eq!(max_difference(&elbo(&vae), &elbo(&loaded)), 0.0);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}

#[test]
fn a_damaged_or_foreign_weights_file_is_refused_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    let refused = |what: &str| {
        let message = Vae::load(&path, Device::Cpu).expect_err(what).to_string();
        assert!(message.contains("weights.safetensors"), "{what}: {message}");
        message
    };
    refused("missing");
    let vae = Vae::new(&small_mlp(), SHAPE, Device::Cpu).expect("a model");
    vae.save(&path).expect("saved");
    let whole = fs::read(&path).expect("bytes");
    for length in [0, 7, 8, 100, whole.len() - 1] {
        fs::write(&path, &whole[..length]).expect("written");
        refused("cut short");
    }
    // Another program's file: no metadata.
    let mut foreign = 2_u64.to_le_bytes().to_vec();
    foreign.extend(b"{}");
    fs::write(&path, foreign).expect("written");
    assert!(refused("foreign").contains("did not write it"));
    // The header of one model with the tensors of another.
    let header = String::from_utf8_lossy(&whole).into_owned();
    assert!(
        header.contains(r#"\"hidden\":[10]"#),
        "the model is in the header"
    );
    let altered = replace(&whole, br#"\"latent_dims\":3"#, br#"\"latent_dims\":4"#);
    fs::write(&path, altered).expect("written");
    assert!(refused("another model").contains("this model wants"));
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes
        .windows(from.len())
        .position(|w| w == from)
        .expect("found");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn wrong_inputs_and_configs_are_errors_not_panics() {
    let vae = Vae::new(&small_conv(), SHAPE, Device::Cpu).expect("a model");
    let float = images(2).to_kind(Kind::Float);
    assert!(matches!(vae.encode(&float), Err(ModelError::Images { .. })));
    let other_size = Tensor::zeros([2, 1, 9, 8], (Kind::Uint8, Device::Cpu));
    assert!(matches!(
        vae.elbo(&other_size),
        Err(ModelError::Images { .. })
    ));
    let latents = Tensor::zeros([2, 4], (Kind::Float, Device::Cpu));
    assert!(matches!(
        vae.decode(&latents),
        Err(ModelError::Latents { .. })
    ));
    assert!(vae.draw_with_noise(&images(2), &noise(1, 3)).is_err());

    let conv = |change: fn(&mut ConvConfig)| {
        let mut config = ConvConfig::default();
        change(&mut config);
        let config = ModelConfig {
            network: NetworkConfig::Conv(config),
            ..Default::default()
        };
        Vae::new(&config, SHAPE, Device::Cpu)
            .expect_err("refused")
            .to_string()
    };
    assert!(conv(|c| c.strides = vec![1]).contains("model.network.conv.strides"));
    assert!(conv(|c| c.channels[1] = 0).contains("model.network.conv.channels"));
    assert!(conv(|c| c.decoder_strides = vec![3]).contains("the encoder's in reverse are [2]"));
    assert!(conv(|c| c.hidden = -1).contains("model.network.conv.hidden"));
    let no_latents = ModelConfig {
        latent_dims: 0,
        ..Default::default()
    };
    assert!(Vae::new(&no_latents, SHAPE, Device::Cpu).is_err());
}

#[test]
fn a_one_pixel_image_and_an_empty_hidden_list_are_models_too() {
    let dot = ImageShape {
        channels: 2,
        height: 1,
        width: 1,
    };
    let linear = ModelConfig {
        network: NetworkConfig::Mlp(MlpConfig { hidden: vec![] }),
        ..Default::default()
    };
    for config in [ModelConfig::default(), linear] {
        let vae = Vae::new(&config, dot, Device::Cpu).expect("a model");
        assert_eq!(vae.sample(3).expect("samples").size(), [3, 2, 1, 1]);
    }
}
