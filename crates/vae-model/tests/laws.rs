//! Laws that hold for every model: gradients, independence of images, saving, refusals.

mod common;
#[path = "common/gradients.rs"]
mod gradients;

use std::collections::BTreeMap;
use std::fs;

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{
    ConvBatchNormConfig, ConvConfig, DcganConfig, DiagonalGaussianConfig,
    DiscretizedLogisticConfig, GaussianConfig, ImageShape, Initialization, LaplaceConfig,
    LikelihoodConfig, LogisticMixtureConfig, LogisticScale, LossContext, MeanActivation, MlpConfig,
    Mode, ModelConfig, ModelError, NetworkConfig, NoiseScale, Objective, PixelMeanConfig,
    PosteriorConfig, Regularizer, ResidualConfig, ScaleConfig, ScaledBernoulliConfig, Vae,
    WEIGHTS_FILE, first_non_finite,
};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 9,
    width: 7,
};

fn small_conv() -> ModelConfig {
    ModelConfig {
        latent_dims: Some(3),
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
        latent_dims: Some(3),
        network: NetworkConfig::Mlp(MlpConfig { hidden: vec![10] }),
        ..Default::default()
    }
}

fn small_batch_norm() -> ModelConfig {
    ModelConfig {
        latent_dims: Some(3),
        network: NetworkConfig::ConvBatchNorm(ConvBatchNormConfig {
            channels: vec![3, 4],
        }),
        ..Default::default()
    }
}

fn small_residual() -> ModelConfig {
    ModelConfig {
        latent_dims: Some(3),
        network: NetworkConfig::Residual(ResidualConfig {
            channels: vec![4, 6],
            blocks: 1,
            group_size: 2,
        }),
        ..Default::default()
    }
}

fn small_networks() -> [ModelConfig; 4] {
    [
        small_conv(),
        small_mlp(),
        small_batch_norm(),
        small_residual(),
    ]
}

/// The small network with each likelihood.
fn small_likelihoods() -> Vec<ModelConfig> {
    let gaussian = |sigma, mean| LikelihoodConfig::Gaussian(GaussianConfig { sigma, mean });
    let laplace = |scale| {
        LikelihoodConfig::Laplace(LaplaceConfig {
            scale,
            mean: MeanActivation::Linear,
        })
    };
    let logistic =
        |scale| LikelihoodConfig::DiscretizedLogistic(DiscretizedLogisticConfig { scale });
    [
        gaussian(ScaleConfig::Learned, MeanActivation::Linear),
        gaussian(ScaleConfig::Fixed(0.5), MeanActivation::Tanh),
        gaussian(ScaleConfig::Learned, MeanActivation::Tanh),
        laplace(ScaleConfig::Learned),
        laplace(ScaleConfig::Fixed(0.2)),
        logistic(LogisticScale::PerChannel),
        logistic(LogisticScale::PerValue),
        LikelihoodConfig::ContinuousBernoulli,
        LikelihoodConfig::ScaledBernoulli(ScaledBernoulliConfig {
            black: -0.1,
            white: 0.6,
        }),
        LikelihoodConfig::LogisticMixture(LogisticMixtureConfig { components: 2 }),
    ]
    .into_iter()
    .map(|likelihood| ModelConfig {
        likelihood,
        ..small_mlp()
    })
    .collect()
}

/// A model with weights from a formula. Tests run in parallel and share libtorch's generator, so random weights would
/// not be reproducible.
fn fixed(config: &ModelConfig) -> Vae {
    let vae = Vae::new(config, SHAPE, Device::Cpu, 1).expect("a model");
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
        Objective {
            regularizer: Regularizer::PixelMean(PixelMeanConfig {
                kl_weight: 0.3,
                ..Default::default()
            }),
            ..Default::default()
        },
    ];
    let tutorials_noise = ModelConfig {
        posterior: PosteriorConfig::DiagonalGaussian(DiagonalGaussianConfig {
            noise_scale: NoiseScale::Variance,
        }),
        ..small_conv()
    };
    let mut configs = small_likelihoods();
    configs.extend(small_networks());
    configs.push(tutorials_noise);
    for config in configs {
        for objective in &objectives {
            let vae = fixed(&config);
            let (images, noise) = (images(4), noise(2, 4));
            let loss = || {
                let draws = vae
                    .draw_with_noise(&images, &noise, Mode::Train)
                    .expect("draws");
                let context = LossContext {
                    vae: &vae,
                    step: 0,
                    n_images: 4,
                };
                objective
                    .loss(&draws, context, &mut vae.generator(1))
                    .expect("a loss")
            };
            let what = format!("{objective:?}, {config:?}");
            gradients::assert_gradients_are_slopes(&vae, &loss, &what);
        }
    }
}

#[test]
fn images_do_not_see_each_other() {
    for config in small_networks().into_iter().chain(small_likelihoods()) {
        let vae = fixed(&config);
        let (images, noise) = (images(5), noise(2, 5));
        let order = Tensor::from_slice(&[3_i64, 0, 4, 1, 2]);
        let elbo = vae
            .draw_with_noise(&images, &noise, Mode::Evaluate)
            .expect("draws")
            .terms
            .elbo()
            .expect("an elbo");
        let shuffled = vae
            .draw_with_noise(
                &images.index_select(0, &order),
                &noise.index_select(1, &order),
                Mode::Evaluate,
            )
            .expect("draws")
            .terms
            .elbo()
            .expect("an elbo");
        assert!(max_difference(&elbo.index_select(0, &order), &shuffled) < 1e-4);
    }
}

#[test]
fn k_samples_are_the_mean_of_single_ones() {
    let vae = fixed(&small_conv());
    let (images, noise) = (images(4), noise(3, 4));
    let all = vae
        .draw_with_noise(&images, &noise, Mode::Evaluate)
        .expect("draws");
    assert_eq!(all.latents.size(), [3, 4, 3]);
    assert_eq!(all.log_px_z.size(), [3, 4]);
    let single: Vec<Tensor> = (0..3)
        .map(|k| {
            let draws = vae
                .draw_with_noise(&images, &noise.narrow(0, k, 1), Mode::Evaluate)
                .expect("draws");
            draws.terms.reconstruction
        })
        .collect();
    let mean = Tensor::stack(&single, 0).mean_dim(0, false, Kind::Float);
    assert!(max_difference(&all.terms.reconstruction, &mean) < 1e-3);
}

#[test]
fn fresh_weights_fill_the_documented_interval() {
    // The hidden layer of the encoder has 12544 inputs and 32 outputs. The transposed convolution has 64 input and 32
    // output channels with 9 weights each, of which a stride of 2 uses a quarter.
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
        let vae = Vae::new(&config, shape, Device::Cpu, 1).expect("a model");
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
    for config in small_networks().into_iter().chain(small_likelihoods()) {
        let vae = fixed(&config);
        // Also changes variables that are not trained.
        vae.draw_with_noise(&images(3), &noise(1, 3), Mode::Train)
            .expect("draws");
        vae.save(folder.path().join(WEIGHTS_FILE)).expect("saved");
        let loaded = Vae::load(folder.path(), Device::Cpu).expect("loaded");
        assert_eq!(loaded.config(), &config);
        assert_eq!(loaded.image_shape(), SHAPE);
        let (images, noise) = (images(4), noise(1, 4));
        let elbo = |vae: &Vae| {
            vae.draw_with_noise(&images, &noise, Mode::Evaluate)
                .expect("draws")
                .terms
                .elbo()
                .expect("an elbo")
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
    let vae = Vae::new(&small_mlp(), SHAPE, Device::Cpu, 1).expect("a model");
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
    assert!(refused("another model").contains("expected"));
}

/// The file with a change in the model's header (JSON in JSON) and a corrected length.
fn with_model(whole: &[u8], from: &str, to: &str) -> Vec<u8> {
    let behind = 8 + length_of(whole);
    let [from, to] = [from, to].map(|text| text.replace('"', "\\\""));
    let header = replace(&whole[8..behind], from.as_bytes(), to.as_bytes());
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_slice(), &whole[behind..]].concat()
}

fn length_of(whole: &[u8]) -> usize {
    u64::from_le_bytes(whole[..8].try_into().expect("8 bytes")) as usize
}

/// Small models with each network, posterior, prior and likelihood that has sizes, and all of these sizes in their
/// headers.
fn claims() -> Vec<(ModelConfig, Vec<&'static str>)> {
    let with = |text: &str| -> ModelConfig { toml::from_str(text).expect("a model") };
    vec![
        (small_mlp(), vec![r#""latent_dims":3"#, r#""hidden":[10]"#]),
        (
            small_conv(),
            vec![
                r#""channels":[3,4]"#,
                r#""hidden":8"#,
                r#""decoder_channels":[3]"#,
                r#""strides":[1,2]"#,
            ],
        ),
        (
            with("network.conv_batch_norm.channels = [4]"),
            vec![r#""channels":[4]"#],
        ),
        (
            with("network.dcgan.channels = [5]"),
            vec![r#""channels":[5]"#],
        ),
        (
            with("network.residual = { channels = [8], blocks = 1, group_size = 8 }"),
            vec![r#""blocks":1"#, r#""channels":[8]"#, r#""group_size":8"#],
        ),
        (
            with(
                "posterior.iaf = { flows = 2, hidden = 5, context = 3 }\nnetwork.mlp.hidden = [4]\n\
                 decoder_spectral_norm = true",
            ),
            vec![r#""flows":2"#, r#""hidden":5"#, r#""context":3"#],
        ),
        (
            with("posterior.planar = { flows = 2 }\nnetwork.mlp.hidden = [4]"),
            vec![r#""flows":2"#],
        ),
        (
            with("prior.vamp.pseudo_inputs = 2\nnetwork.mlp.hidden = [4]"),
            vec![r#""pseudo_inputs":2"#],
        ),
        (
            with("prior.real_nvp = { layers = 2, hidden = 3 }\nnetwork.mlp.hidden = [4]"),
            vec![r#""layers":2"#, r#""hidden":3"#],
        ),
        (
            with("prior.gaussian_mixture.components = 2\nnetwork.mlp.hidden = [4]"),
            vec![r#""components":2"#],
        ),
        (
            with("likelihood.logistic_mixture.components = 2\nnetwork.mlp.hidden = [4]"),
            vec![r#""components":2"#],
        ),
    ]
}

#[test]
fn sizes_that_a_header_claims_and_the_file_does_not_hold_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(WEIGHTS_FILE);
    let image = [r#""channels":1,""#, r#""height":9"#, r#""width":7"#];
    for (config, sizes) in claims() {
        let vae = Vae::new(&config, SHAPE, Device::Cpu, 1).expect("a model");
        vae.save(&path).expect("saved");
        let whole = fs::read(&path).expect("bytes");
        for size in sizes.into_iter().chain(image) {
            let numbers = |c: char| c.is_ascii_digit();
            let at = size.find(numbers).expect("a number");
            let end = at + size[at..].find(|c| !numbers(c)).unwrap_or(size[at..].len());
            for claim in [
                "0",
                "-1",
                "1048576",
                "2147483648",
                "9007199254740992",
                "9223372036854775807",
                "1e300",
                "null",
            ] {
                let claimed = format!("{}{claim}{}", &size[..at], &size[end..]);
                fs::write(&path, with_model(&whole, size, &claimed)).expect("written");
                let before = peak_memory();
                let error = Vae::load(&path, Device::Cpu).expect_err(&claimed);
                // Some of these models would need 6 GB and more.
                assert!(peak_memory() - before < 200 << 20, "{claimed}");
                let message = error.to_string();
                assert!(message.contains(WEIGHTS_FILE), "{claimed}: {message}");
                assert!(message.chars().count() < 5000, "{claimed}: {message}");
            }
        }
        fs::write(&path, &whole).expect("written");
        Vae::load(&path, Device::Cpu).expect("the file as it was");
    }
}

/// The peak memory of this process in bytes; 0 if the system does not report it.
fn peak_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kilobytes.unwrap_or(0) << 10
}

#[test]
fn a_model_that_no_memory_holds_is_refused_before_it_is_built() {
    for text in [
        "network.mlp.hidden = [1048576, 1048576]",
        "network.conv.channels = [1048576, 1048576, 1048576, 1048576]",
        "posterior.iaf.hidden = 1048576",
        "prior.real_nvp.hidden = 1048576",
        "prior.vamp.pseudo_inputs = 1048576\nnetwork.mlp.hidden = [8]",
        "latent_dims = 65536\nnetwork.mlp.hidden = [65536]",
    ] {
        let config: ModelConfig = toml::from_str(text).expect(text);
        let shape = ImageShape {
            channels: 3,
            height: 64,
            width: 64,
        };
        let message = Vae::new(&config, shape, Device::Cpu, 1)
            .expect_err(text)
            .to_string();
        assert!(message.contains("most of them"), "{text}: {message}");
    }
    for (channels, height, width) in [
        (0, 1, 1),
        (1, -1, 1),
        (i64::MAX, i64::MAX, i64::MAX),
        (1 << 20, 28, 28),
        (3, 1 << 16, 1 << 16),
    ] {
        let shape = ImageShape {
            channels,
            height,
            width,
        };
        assert!(
            Vae::new(&small_mlp(), shape, Device::Cpu, 1).is_err(),
            "{shape}"
        );
    }
}

#[test]
fn weights_that_are_not_those_of_the_sums_beside_them_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(WEIGHTS_FILE);
    let vae = Vae::new(&small_mlp(), SHAPE, Device::Cpu, 1).expect("a model");
    vae.save(&path).expect("saved");
    vae_model::write_sums(folder.path(), &[WEIGHTS_FILE]).expect("written");
    Vae::load(folder.path(), Device::Cpu).expect("whole");
    Vae::load(&path, Device::Cpu).expect("whole");
    // After one bit of one weight changes, it is still a complete safetensors file.
    let mut bytes = fs::read(&path).expect("bytes");
    *bytes.last_mut().expect("a weight") ^= 1;
    fs::write(&path, bytes).expect("written");
    for path in [folder.path(), &path] {
        let message = Vae::load(path, Device::Cpu)
            .expect_err("changed")
            .to_string();
        assert!(message.contains("SHA-256"), "{message}");
    }
    // A list without the file does not verify it.
    fs::write(folder.path().join("other"), "").expect("written");
    vae_model::write_sums(folder.path(), &["other"]).expect("written");
    Vae::load(folder.path(), Device::Cpu).expect("a model");
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
    let vae = Vae::new(&small_conv(), SHAPE, Device::Cpu, 1).expect("a model");
    let float = images(2).to_kind(Kind::Float);
    assert!(matches!(vae.encode(&float), Err(ModelError::Images { .. })));
    let other_size = Tensor::zeros([2, 1, 9, 8], (Kind::Uint8, Device::Cpu));
    assert!(matches!(
        vae.elbo(&other_size, &mut vae.generator(1)),
        Err(ModelError::Images { .. })
    ));
    let latents = Tensor::zeros([2, 4], (Kind::Float, Device::Cpu));
    assert!(matches!(
        vae.decode(&latents),
        Err(ModelError::Latents { .. })
    ));
    assert!(
        vae.draw_with_noise(&images(2), &noise(1, 3), Mode::Evaluate)
            .is_err()
    );

    let conv = |change: fn(&mut ConvConfig)| {
        let mut config = ConvConfig::default();
        change(&mut config);
        let config = ModelConfig {
            network: NetworkConfig::Conv(config),
            ..Default::default()
        };
        Vae::new(&config, SHAPE, Device::Cpu, 1)
            .expect_err("refused")
            .to_string()
    };
    assert!(conv(|c| c.strides = vec![1]).contains("model.network.conv.strides"));
    assert!(conv(|c| c.channels[1] = 0).contains("model.network.conv.channels"));
    assert!(conv(|c| c.decoder_strides = vec![3]).contains("the encoder's in reverse are [2]"));
    assert!(conv(|c| c.hidden = -1).contains("model.network.conv.hidden"));
    let no_latents = ModelConfig {
        latent_dims: Some(0),
        ..Default::default()
    };
    assert!(Vae::new(&no_latents, SHAPE, Device::Cpu, 1).is_err());
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
        let vae = Vae::new(&config, dot, Device::Cpu, 1).expect("a model");
        let samples = vae.sample(3, &mut vae.generator(1));
        assert_eq!(samples.expect("samples").size(), [3, 2, 1, 1]);
    }
}

/// Copies of all variables.
fn snapshot(vae: &Vae) -> Vec<(String, Tensor)> {
    let copy = |(name, variable): (String, Tensor)| (name, variable.detach().copy());
    vae.named_variables().into_iter().map(copy).collect()
}

/// The names of variables with different values.
fn changed(before: &[(String, Tensor)], after: &[(String, Tensor)]) -> Vec<String> {
    let pairs = before.iter().zip(after);
    pairs
        .filter(|((_, before), (_, after))| max_difference(before, after) > 0.0)
        .map(|((name, _), _)| name.clone())
        .collect()
}

#[test]
fn evaluation_changes_no_variable_and_sees_each_image_alone() {
    for config in small_networks().into_iter().chain(small_likelihoods()) {
        let vae = fixed(&config);
        let before = snapshot(&vae);
        let (images, noise) = (images(5), noise(2, 5));
        let elbo = |start, n| {
            let (images, noise) = (images.narrow(0, start, n), noise.narrow(1, start, n));
            let draws = vae.draw_with_noise(&images, &noise, Mode::Evaluate);
            draws.expect("draws").terms.elbo().expect("an elbo")
        };
        let together = elbo(0, 5);
        for i in 0..5 {
            let difference = max_difference(&together.narrow(0, i, 1), &elbo(i, 1));
            let scale = together.abs().max().double_value(&[]);
            assert!(difference < 1e-6 * scale, "{config:?}: {difference}");
        }
        let _ = vae.reconstruct(&images).expect("images");
        let _ = vae.sample(3, &mut vae.generator(1)).expect("images");
        assert_eq!(changed(&before, &snapshot(&vae)), Vec::<String>::new());
    }
}

#[test]
fn what_is_not_trained_is_named_and_not_counted() {
    let config = ModelConfig {
        likelihood: LikelihoodConfig::Gaussian(GaussianConfig::default()),
        ..small_batch_norm()
    };
    let vae = fixed(&config);
    let trained: Vec<String> = vae.trainable_variables().into_iter().map(|v| v.0).collect();
    let mut others: Vec<String> = vae.named_variables().into_iter().map(|v| v.0).collect();
    others.retain(|name| !trained.contains(name));
    let mut wanted = vec![];
    for norm in [
        "decoder.norm.0",
        "decoder.norm.1",
        "encoder.norm.0",
        "encoder.norm.1",
    ] {
        wanted.push(format!("{norm}.running_mean"));
        wanted.push(format!("{norm}.running_var"));
    }
    wanted.extend(["likelihood.n_batches", "likelihood.variance"].map(String::from));
    assert_eq!(others, wanted);
    assert!(trained.is_sorted());
    // Encoder on 1×9×7: convolutions 27 + 108, norms 6 + 8, 4·3·2 features to 6 values. Decoder: 3 latents to 24
    // features, convolutions 108 + 81, norms 6 + 6, 27 + 1 for the likelihood.
    assert_eq!(vae.n_parameters(), 135 + 14 + 150 + 96 + 189 + 12 + 28);

    let before = snapshot(&vae);
    vae.draw_with_noise(&images(3), &noise(1, 3), Mode::Train)
        .expect("draws");
    assert_eq!(changed(&before, &snapshot(&vae)), wanted);
}

#[test]
fn batch_norm_takes_a_batch_of_one_value_for_what_it_is() {
    // 2×2 pixels are reduced to 1×1, where one image has a single value for each channel and so no variance.
    let shape = ImageShape {
        channels: 1,
        height: 2,
        width: 2,
    };
    let config = ModelConfig {
        latent_dims: Some(3),
        network: NetworkConfig::ConvBatchNorm(ConvBatchNormConfig { channels: vec![4] }),
        ..Default::default()
    };
    let vae = Vae::new(&config, shape, Device::Cpu, 1).expect("a model");
    common::fill(&vae);
    let image = common::images(1, shape);
    let before = snapshot(&vae);
    let train = vae
        .draw_with_noise(&image, &noise(1, 1), Mode::Train)
        .expect("draws");
    let after = snapshot(&vae);
    // The decoder's map has 2×2 values, which have a variance.
    assert_eq!(
        changed(&before, &after),
        ["decoder.norm.0.running_mean", "decoder.norm.0.running_var"]
    );
    let posterior = vae.encode(&image).expect("a posterior");
    assert_eq!(
        max_difference(&train.posterior.center(), &posterior.center()),
        0.0
    );
    let elbo = train.terms.elbo().expect("an elbo");
    elbo.sum(Kind::Float).backward();
    for (name, variable) in vae.trainable_variables() {
        let finite = variable.grad().isfinite().all().int64_value(&[]);
        assert_eq!(finite, 1, "{name}");
    }
}

#[test]
fn the_learned_scale_is_the_best_one() {
    let with = |likelihood| ModelConfig {
        likelihood,
        ..small_conv()
    };
    let gaussian = |sigma| {
        with(LikelihoodConfig::Gaussian(GaussianConfig {
            sigma,
            ..Default::default()
        }))
    };
    let laplace = |scale| {
        with(LikelihoodConfig::Laplace(LaplaceConfig {
            scale,
            ..Default::default()
        }))
    };
    let reconstruction = |config: &ModelConfig, mode| {
        let vae = fixed(config);
        let draw = || vae.draw_with_noise(&images(6), &noise(2, 6), Mode::Train);
        let draws = match mode {
            Mode::Train => draw().expect("draws"),
            // The running average has seen the first batch only.
            Mode::Evaluate => {
                draw().expect("draws");
                vae.draw_with_noise(&images(6), &noise(2, 6), Mode::Evaluate)
                    .expect("draws")
            }
        };
        draws
            .terms
            .reconstruction
            .mean(Kind::Double)
            .double_value(&[])
    };
    let families: [&dyn Fn(ScaleConfig) -> ModelConfig; 2] = [&gaussian, &laplace];
    for family in families {
        let learned = reconstruction(&family(ScaleConfig::Learned), Mode::Train);
        let evaluated = reconstruction(&family(ScaleConfig::Learned), Mode::Evaluate);
        assert!((learned - evaluated).abs() < 1e-5 * learned.abs());
        // Golden-section search for the log of a fixed scale.
        let at = |log_scale: f64| {
            reconstruction(&family(ScaleConfig::Fixed(log_scale.exp())), Mode::Train)
        };
        let (mut low, mut high) = (-5.0, 3.0);
        let ratio = (5_f64.sqrt() - 1.0) / 2.0;
        while high - low > 1e-3 {
            let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
            if at(a) < at(b) {
                high = b;
            } else {
                low = a;
            }
        }
        let best = at(0.5 * (low + high));
        assert!(
            (learned - best).abs() < 1e-5 * best.abs(),
            "{learned} nats with the closed form, {best} with the best fixed scale"
        );
    }
}

#[test]
fn the_first_layer_that_is_not_finite_is_named() {
    for (config, name) in [
        (small_conv(), "encoder.conv.1"),
        (small_mlp(), "decoder.1"),
        (small_batch_norm(), "decoder.norm.0"),
        (small_residual(), "encoder.1.block.0.norm.1"),
    ] {
        let vae = fixed(&config);
        let draw = || vae.draw_with_noise(&images(2), &noise(1, 2), Mode::Train);
        let (draws, culprit) = first_non_finite(draw);
        assert!(draws.is_ok() && culprit.is_none(), "{culprit:?}");
        let weight = vae
            .named_variables()
            .into_iter()
            .find(|(variable, _)| *variable == format!("{name}.weight"))
            .expect("a weight");
        let _ = no_grad(|| weight.1.flatten(0, -1).get(0).fill_(f64::NAN));
        assert_eq!(first_non_finite(draw).1.as_deref(), Some(name));
        // An inner finite check does not hide anything from an outer one.
        let ((_, inner), outer) = first_non_finite(|| first_non_finite(draw));
        assert_eq!(
            (inner.as_deref(), outer.as_deref()),
            (Some(name), Some(name))
        );
    }
    // Finite logits, but one pixel has probability 0 in f32: only the sum over pixels is infinite.
    let vae = fixed(&small_mlp());
    for (name, variable) in vae.named_variables() {
        if name == "decoder.1.bias" {
            let _ = no_grad(|| variable.shallow_clone().fill_(3e38));
        }
    }
    let draw = || vae.draw_with_noise(&images(2), &noise(1, 2), Mode::Train);
    assert_eq!(
        first_non_finite(draw).1.as_deref(),
        Some("likelihood log_prob")
    );
}

#[test]
fn faces_of_any_size_go_in_and_come_out() {
    let networks = [
        NetworkConfig::ConvBatchNorm(ConvBatchNormConfig {
            channels: vec![2, 2, 4, 4, 4],
        }),
        NetworkConfig::Dcgan(DcganConfig {
            channels: vec![2, 2, 4, 4, 4],
        }),
        NetworkConfig::Residual(ResidualConfig {
            channels: vec![2, 2, 4, 4, 4],
            blocks: 1,
            group_size: 2,
        }),
        // Like the tutorials' network, with fewer channels.
        NetworkConfig::Conv(ConvConfig {
            channels: vec![2, 4, 4, 4],
            ..Default::default()
        }),
    ];
    for network in networks {
        for (height, width) in [(32, 32), (218, 178), (33, 47), (256, 100), (1, 5)] {
            let shape = ImageShape {
                channels: 3,
                height,
                width,
            };
            let config = ModelConfig {
                network: network.clone(),
                likelihood: LikelihoodConfig::DiscretizedLogistic(DiscretizedLogisticConfig {
                    scale: LogisticScale::PerValue,
                }),
                ..Default::default()
            };
            let vae = Vae::new(&config, shape, Device::Cpu, 1).expect("a model");
            let images = common::images(2, shape);
            let draws = vae.draw(&images, 3, Mode::Train, &mut vae.generator(1));
            let draws = draws.expect("draws");
            assert_eq!(draws.log_px_z.size(), [3, 2]);
            let pictures = vae.reconstruct(&images).expect("pictures");
            assert_eq!(pictures.size(), [2, 3, height, width]);
            let (low, high) = (pictures.min(), pictures.max());
            assert!(low.double_value(&[]) >= 0.0 && high.double_value(&[]) <= 1.0);
        }
    }
}

#[test]
fn a_fresh_residual_block_is_the_identity() {
    // One stage: image → convolution → block → norm. More blocks do not change the values.
    let config = |blocks| ModelConfig {
        network: NetworkConfig::Residual(ResidualConfig {
            channels: vec![4],
            blocks,
            group_size: 2,
        }),
        ..Default::default()
    };
    let one = Vae::new(&config(1), SHAPE, Device::Cpu, 1).expect("a model");
    let three = Vae::new(&config(3), SHAPE, Device::Cpu, 1).expect("a model");
    let weights: BTreeMap<_, _> = one.named_variables().into_iter().collect();
    for (name, mut variable) in three.named_variables() {
        if let Some(same) = weights.get(&name) {
            no_grad(|| variable.copy_(same));
        }
    }
    let mean = |vae: &Vae| vae.encode(&images(2)).expect("a posterior").center().copy();
    assert_eq!(max_difference(&mean(&one), &mean(&three)), 0.0);
}

#[test]
fn numbers_that_no_face_network_or_likelihood_can_have_are_refused_by_name() {
    let refused = |config: ModelConfig| config.check().expect_err("refused").to_string();
    let network = |network| {
        refused(ModelConfig {
            network,
            ..Default::default()
        })
    };
    let batch_norm = |channels| NetworkConfig::ConvBatchNorm(ConvBatchNormConfig { channels });
    let key = "model.network.conv_batch_norm.channels";
    assert!(network(batch_norm(vec![])).contains(key));
    assert!(network(batch_norm(vec![8, 0])).contains(key));
    let dcgan = |channels| NetworkConfig::Dcgan(DcganConfig { channels });
    assert!(network(dcgan(vec![])).contains("model.network.dcgan.channels"));
    let residual = |change: fn(&mut ResidualConfig)| {
        let mut config = ResidualConfig::default();
        change(&mut config);
        network(NetworkConfig::Residual(config))
    };
    assert!(residual(|c| c.group_size = 32).contains("does not divide the 16 channels"));
    assert!(residual(|c| c.group_size = 0).contains("model.network.residual.group_size"));
    assert!(residual(|c| c.channels.clear()).contains("model.network.residual.channels"));
    assert!(residual(|c| c.blocks = 0).contains("model.network.residual.blocks"));
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let likelihood = |likelihood| {
            refused(ModelConfig {
                likelihood,
                ..Default::default()
            })
        };
        let gaussian = likelihood(LikelihoodConfig::Gaussian(GaussianConfig {
            sigma: ScaleConfig::Fixed(scale),
            ..Default::default()
        }));
        assert!(gaussian.contains("model.likelihood.gaussian.sigma"));
        let laplace = likelihood(LikelihoodConfig::Laplace(LaplaceConfig {
            scale: ScaleConfig::Fixed(scale),
            ..Default::default()
        }));
        assert!(laplace.contains("model.likelihood.laplace.scale"));
    }
}

#[test]
fn the_parts_have_their_names_in_a_config() {
    let config: ModelConfig = toml::from_str(
        r#"
        likelihood.gaussian = { sigma = 0.5, mean = "tanh" }
        network.residual = { channels = [8, 16], blocks = 2 }
        "#,
    )
    .expect("a config");
    let gaussian = GaussianConfig {
        sigma: ScaleConfig::Fixed(0.5),
        mean: MeanActivation::Tanh,
    };
    assert_eq!(config.likelihood, LikelihoodConfig::Gaussian(gaussian));
    let config: ModelConfig = toml::from_str(
        r#"
        likelihood.laplace = { scale = "learned" }
        network.conv_batch_norm = {}
        "#,
    )
    .expect("a config");
    assert_eq!(
        config.likelihood,
        LikelihoodConfig::Laplace(LaplaceConfig::default())
    );
    let logistic = r#"likelihood.discretized_logistic.scale = "per_value""#;
    let config: ModelConfig = toml::from_str(logistic).expect("a config");
    assert_eq!(config.likelihood.n_maps(1), 2);
    assert!(toml::from_str::<ModelConfig>("likelihood.gaussian.sgima = 1").is_err());
    let typo = toml::from_str::<ModelConfig>("likelihood.gaussian.sigma = \"leraned\"");
    let message = typo.expect_err("refused").to_string();
    assert!(
        message.contains("a positive number or \"learned\""),
        "{message}"
    );
}

#[test]
fn only_a_probability_of_bytes_has_bits_per_dim() {
    let shape = ImageShape {
        channels: 3,
        height: 2,
        width: 2,
    };
    // Uniform bytes: 12 values with 8 bits each, 96·ln 2 nats.
    let logistic = LikelihoodConfig::DiscretizedLogistic(DiscretizedLogisticConfig::default());
    let bits = logistic.bits_per_dim(-96.0 * 2_f64.ln(), shape);
    assert!((bits.expect("bits") - 8.0).abs() < 1e-12);
    for likelihood in [
        LikelihoodConfig::Bernoulli,
        LikelihoodConfig::ScaledBernoulli(ScaledBernoulliConfig::default()),
        LikelihoodConfig::ContinuousBernoulli,
        LikelihoodConfig::Gaussian(GaussianConfig::default()),
        LikelihoodConfig::Laplace(LaplaceConfig::default()),
    ] {
        assert_eq!(likelihood.bits_per_dim(-96.0, shape), None);
    }
}
