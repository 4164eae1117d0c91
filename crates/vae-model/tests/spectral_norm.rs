//! `model.decoder_spectral_norm`: every weight of the decoder has norm 1 as a matrix.

mod common;
#[path = "common/gradients.rs"]
mod gradients;

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{ImageShape, Mode, ModelConfig, NetworkConfig, Vae, WEIGHTS_FILE};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 9,
    width: 7,
};

const VECTOR: &str = "left_singular_vector";

/// Each network, with all kinds of layers that its decoder can have.
fn configs() -> Vec<ModelConfig> {
    [
        "network.mlp.hidden = [10]",
        "network.conv = { channels = [3, 4], strides = [1, 2], hidden = 8, decoder_channels = [3], decoder_strides = [2] }",
        "network.conv_batch_norm.channels = [3, 4]",
        "network.dcgan.channels = [3, 4]",
        "network.residual = { channels = [4, 6], group_size = 2 }",
    ]
    .into_iter()
    .map(|network| {
        let text = format!("latent_dims = 3\ndecoder_spectral_norm = true\n{network}");
        toml::from_str(&text).expect("a model")
    })
    .collect()
}

/// A model with weights from a formula, after this many training passes with unchanged weights.
fn after_passes(config: &ModelConfig, n_passes: usize) -> Vae {
    let vae = Vae::new(config, SHAPE, Device::Cpu, 1).expect("a model");
    common::fill(&vae);
    for _ in 0..n_passes {
        let _ = elbo(&vae, Mode::Train);
    }
    vae
}

fn elbo(vae: &Vae, mode: Mode) -> Tensor {
    let noise = common::wave(12, 0.2, 1.3).view([1, 4, 3]);
    let draws = vae
        .draw_with_noise(&common::images(4, SHAPE), &noise, mode)
        .expect("draws");
    draws.terms.elbo().expect("an elbo")
}

/// The decoder's weights by name, as matrices `[out, rest]`.
fn matrices(vae: &Vae) -> Vec<(String, Tensor)> {
    let variables = vae.trainable_variables().into_iter();
    let is_matrix = |(name, weight): &(String, Tensor)| {
        name.starts_with("decoder.") && name.ends_with(".weight") && weight.dim() > 1
    };
    variables
        .filter(is_matrix)
        .map(|(name, weight)| {
            let is_transposed = name.starts_with("decoder.conv.");
            let output_dim = i64::from(is_transposed);
            let matrix = weight.detach().transpose(0, output_dim).flatten(1, -1);
            (name, matrix)
        })
        .collect()
}

fn largest_singular_value(matrix: &Tensor) -> f64 {
    let (_, values, _) = matrix.to_kind(Kind::Double).svd(true, false);
    values.max().double_value(&[])
}

fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn a_decoder_is_the_plain_one_with_weights_of_norm_1() {
    for config in configs() {
        let vae = after_passes(&config, 200);
        let plain = ModelConfig {
            decoder_spectral_norm: false,
            ..config.clone()
        };
        let plain = Vae::new(&plain, SHAPE, Device::Cpu, 1).expect("a model");
        let variables: BTreeMap<_, _> = vae.named_variables().into_iter().collect();
        let norms: BTreeMap<_, _> = matrices(&vae)
            .into_iter()
            .map(|(name, matrix)| (name, largest_singular_value(&matrix)))
            .collect();
        for (name, mut variable) in plain.named_variables() {
            let norm = norms.get(&name).copied().unwrap_or(1.0);
            no_grad(|| variable.copy_(&(&variables[&name] / norm)));
        }
        for (name, matrix) in matrices(&plain) {
            let vector = name.replace("weight", VECTOR);
            let found = (matrix.tr().matmul(&variables[&vector])).norm();
            let error = (found.double_value(&[]) - 1.0).abs();
            assert!(error < 1e-3, "{name}: {error} ({config:?})");
        }
        let latents = common::wave(15, 0.4, 1.5).view([5, 3]);
        let decoded = |vae: &Vae| vae.decode(&latents).expect("images");
        let difference = max_difference(&decoded(&vae), &decoded(&plain));
        assert!(difference < 1e-3, "{difference} ({config:?})");
        let (ours, theirs) = (norms.len(), variables.keys());
        assert_eq!(ours, theirs.filter(|name| name.ends_with(VECTOR)).count());
    }
}

#[test]
fn a_fresh_model_has_its_norms_and_evaluation_changes_nothing() {
    for config in configs() {
        let vae = Vae::new(&config, SHAPE, Device::Cpu, 1).expect("a model");
        let copies = |vae: &Vae| -> Vec<Tensor> {
            let variables = vae.named_variables().into_iter();
            variables.map(|(_, variable)| variable.copy()).collect()
        };
        let before = copies(&vae);
        let first = elbo(&vae, Mode::Evaluate);
        let second = elbo(&vae, Mode::Evaluate);
        assert_eq!(max_difference(&first, &second), 0.0);
        let changed = |vae: &Vae| {
            let pairs = before.iter().zip(copies(vae));
            pairs.filter(|(a, b)| max_difference(a, b) > 0.0).count()
        };
        assert_eq!(changed(&vae), 0);
        let _ = elbo(&vae, Mode::Train);
        assert!(changed(&vae) > 0);
        let variables: BTreeMap<_, _> = vae.named_variables().into_iter().collect();
        for (name, matrix) in matrices(&vae) {
            let vector = variables[&name.replace("weight", VECTOR)].shallow_clone();
            assert!((vector.norm().double_value(&[]) - 1.0).abs() < 1e-5);
            let found = matrix.tr().matmul(&vector).norm().double_value(&[]);
            let wanted = largest_singular_value(&matrix);
            // Two nearly equal singular values converge slowly, so the last digits may differ.
            assert!(
                found <= wanted * 1.000_01 && found > 0.9 * wanted,
                "{name}: {found} {wanted}"
            );
        }
    }
}

#[test]
fn gradients_are_finite_differences_and_do_not_see_a_weights_length() {
    for config in configs() {
        let vae = after_passes(&config, 3);
        if let NetworkConfig::Dcgan(_) = config.network {
            // At the formula's weights the step of a difference crosses kinks of its ReLUs. With these all are on.
            for (name, bias) in vae.trainable_variables() {
                if name.starts_with("decoder.norm") && name.ends_with("bias") {
                    let _ = no_grad(|| bias.shallow_clone().fill_(8.0));
                }
            }
        }
        // In evaluation the singular vectors do not change.
        let loss = || -elbo(&vae, Mode::Evaluate).sum(Kind::Float);
        gradients::assert_gradients_are_slopes(&vae, &loss, &format!("{config:?}"));
        let rounding = 2e-7 * loss().double_value(&[]).abs();
        let matrices: BTreeMap<_, _> = matrices(&vae).into_iter().collect();
        for (name, variable) in vae.trainable_variables() {
            if matrices.contains_key(&name) {
                let gradient = variable.grad();
                let along = (&gradient * &variable).sum(Kind::Double).double_value(&[]);
                let bound = gradient.norm().double_value(&[]) * variable.norm().double_value(&[]);
                assert!(along.abs() < 1e-4 * bound + rounding, "{name}: {along}");
            }
        }
    }
}

/// The dense matrix of a linear map on maps `[1, C, H, W]`, with a row for each input value.
fn dense(map: impl Fn(&Tensor) -> Tensor, size: [i64; 3]) -> Tensor {
    let n = size.iter().product();
    let basis = Tensor::eye(n, (Kind::Float, Device::Cpu)).view([n, size[0], size[1], size[2]]);
    map(&basis).flatten(1, -1)
}

#[test]
fn a_kernel_of_norm_1_stretches_at_most_as_often_as_its_side() {
    let none: Option<&Tensor> = None;
    let averaging = Tensor::full([1, 1, 3, 3], 1.0 / 3.0, (Kind::Float, Device::Cpu));
    let waving = common::wave(2 * 3 * 9, 0.3, 1.0).view([2, 3, 3, 3]);
    for kernel in [averaging, waving] {
        let [n_first, n_second] = [kernel.size()[0], kernel.size()[1]];
        for stride in [1, 2] {
            let conv = |maps: &Tensor| maps.conv2d(&kernel, none, [stride; 2], [1; 2], [1; 2], 1);
            let transposed = |maps: &Tensor| {
                maps.conv_transpose2d(&kernel, none, [stride; 2], [1; 2], [0; 2], 1, [1; 2])
            };
            let of_conv = kernel.flatten(1, -1);
            let of_transposed = kernel.transpose(0, 1).flatten(1, -1);
            for (matrix, operator) in [
                (of_conv, dense(conv, [n_second, 9, 7])),
                (of_transposed, dense(transposed, [n_first, 9, 7])),
            ] {
                let stretch = largest_singular_value(&operator) / largest_singular_value(&matrix);
                assert!(stretch < 3.0, "{stretch}");
                if n_first == 1 && stride == 1 {
                    // (1 + 2·cos(π/10))·(1 + 2·cos(π/8))/3: the eigenvalues of a sum over neighbors.
                    assert!((stretch - 2.755).abs() < 1e-3, "{stretch}");
                }
            }
        }
    }
}

#[test]
fn a_saved_model_has_its_singular_vectors() {
    let folder = tempfile::tempdir().expect("a folder");
    for config in configs() {
        let vae = after_passes(&config, 2);
        vae.save(folder.path().join(WEIGHTS_FILE)).expect("saved");
        let loaded = Vae::load(folder.path(), Device::Cpu).expect("loaded");
        assert!(loaded.config().decoder_spectral_norm);
        let difference =
            max_difference(&elbo(&vae, Mode::Evaluate), &elbo(&loaded, Mode::Evaluate));
        assert_eq!(difference, 0.0);
    }
}
