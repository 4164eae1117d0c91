//! Exports a small model of each kind into a folder, with inputs and expected outputs. `cargo xtask export-check` runs
//! the exports in Python.
//!
//! ```sh
//! cargo run --release -p vae-model --example export_kinds -- FOLDER
//! ```

use std::error::Error;
use std::fs;
use std::path::Path;

use tch::{Device, Kind, no_grad};
use vae_model::{
    ImageShape, ItemKind, ItemSpec, Mode, ModelConfig, Part, Standardization, Vae, write_tensors,
};

/// Odd sizes, which show every rounding of sizes.
const SHAPE: ImageShape = ImageShape {
    channels: 3,
    height: 13,
    width: 10,
};

const NETWORKS: [(&str, &str); 5] = [
    ("mlp", "network.mlp.hidden = [20]"),
    (
        "conv",
        "network.conv = { channels = [4, 6], strides = [1, 2], hidden = 8, \
         decoder_channels = [5], decoder_strides = [2] }",
    ),
    (
        "conv_batch_norm",
        "network.conv_batch_norm.channels = [4, 6]",
    ),
    ("dcgan", "network.dcgan.channels = [4, 6]"),
    (
        "residual",
        "network.residual = { channels = [8, 12], blocks = 2, group_size = 4 }",
    ),
];

const PARTS: [(&str, &str); 16] = [
    ("bernoulli", ""),
    (
        "continuous_bernoulli",
        "likelihood = 'continuous_bernoulli'",
    ),
    ("gaussian", "likelihood.gaussian = {}"),
    ("gaussian_tanh", "likelihood.gaussian.mean = 'tanh'"),
    ("laplace_sigmoid", "likelihood.laplace.mean = 'sigmoid'"),
    ("logistic", "likelihood.discretized_logistic = {}"),
    (
        "logistic_per_value",
        "likelihood.discretized_logistic.scale = 'per_value'",
    ),
    (
        "logistic_mixture",
        "likelihood.logistic_mixture.components = 3",
    ),
    (
        "variance",
        "posterior.diagonal_gaussian.noise_scale = 'variance'",
    ),
    ("deterministic", "posterior = 'deterministic'"),
    ("full_covariance", "posterior = 'full_covariance'"),
    ("planar", "posterior.planar.flows = 2"),
    ("iaf", "posterior.iaf = {}"),
    (
        "von_mises_fisher",
        "posterior = 'von_mises_fisher'\nprior = 'hyperspherical_uniform'",
    ),
    ("spectral_norm", "decoder_spectral_norm = true"),
    (
        "ladder",
        "topology.ladder = { levels = [1, 2], hidden = 5 }",
    ),
];

/// Posteriors of codes, with a map of 7×5 places.
const CODES: [(&str, &str); 6] = [
    (
        "finite_scalar",
        "posterior.finite_scalar.levels = [5, 4, 3, 3]",
    ),
    ("lookup_free", "posterior.lookup_free = {}"),
    ("vector_quantized", "posterior.vector_quantized.codes = 20"),
    (
        "residual_vq",
        "posterior.vector_quantized = { codes = 20, heads = 2, depth = 2 }",
    ),
    (
        "cosine_vq",
        "posterior.vector_quantized = { codes = 20, distance = 'cosine' }",
    ),
    (
        "pyramid",
        "topology = 'pyramid'\nposterior.vector_quantized.codes = 20",
    ),
];

/// Autoencoders of latent diffusion, with 4 or 16 channels of latents of a quarter of the image's sides.
const AUTOENCODERS: [(&str, i64, &str); 5] = [
    ("usual", 4, "channels = [8, 16, 16], groups = 4"),
    (
        "without_quant",
        16,
        "channels = [8, 8, 16], groups = 8, quant_conv = false, post_quant_conv = false",
    ),
    (
        "without_attention",
        4,
        "channels = [8, 16, 16], groups = 4, attention = false",
    ),
    (
        "one_block",
        4,
        "channels = [12, 12, 24], groups = 3, blocks = 1",
    ),
    (
        "quant_after",
        16,
        "channels = [16, 16, 16], groups = 2, post_quant_conv = false",
    ),
];

/// A hierarchy for square images.
const HIERARCHY: &str = "network.top_down = { sizes = [1, 4, 8, 16], widths = [8, 8, 8, 8], \
                         blocks = [1, 2, 1, 0], latents = [3, 2, 1, 0], encoder_blocks = [1, 1, 1, 0] }";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("expected a folder")?;
    for (network_name, network) in NETWORKS {
        for (name, parts) in PARTS {
            // Every network with the usual parts, and every part with one network.
            if network_name != "conv" && !["bernoulli", "spectral_norm"].contains(&name) {
                continue;
            }
            let text = format!("latent_dims = 3\n{parts}\n{network}");
            let config: ModelConfig = toml::from_str(&text)?;
            let folder = Path::new(&folder).join(format!("{network_name}-{name}"));
            export(&config, SHAPE.into(), &folder)?;
        }
    }
    for (name, parts) in CODES {
        let (_, network) = NETWORKS[1];
        let text = format!("latent_shape = [4, 7, 5]\nprior = 'uniform_codes'\n{parts}\n{network}");
        let folder = Path::new(&folder).join(format!("conv-{name}"));
        export(&toml::from_str(&text)?, SHAPE.into(), &folder)?;
    }
    let wide = ImageShape {
        channels: 3,
        height: 16,
        width: 24,
    };
    for (name, channels, network) in AUTOENCODERS {
        let text = format!(
            "latent_shape = [{channels}, 4, 6]\nlikelihood.gaussian.sigma = 1.0\nnetwork.autoencoder_kl = {{ {network} }}"
        );
        let folder = Path::new(&folder).join(format!("autoencoder_kl-{name}"));
        let vae = export(&toml::from_str(&text)?, wide.into(), &folder)?;
        vae.save_diffusers(&folder.join("diffusers"), None)?;
        export_any_size(&vae, &folder.join("any_size"))?;
    }
    let tiny = "latent_shape = [4, 4, 6]\nposterior = 'deterministic'\nlikelihood.gaussian.sigma = 1.0\n\
                network.autoencoder_tiny = { channels = 6, encoder_blocks = [1, 2, 1], decoder_blocks = [2, 1, 1] }";
    let codes = "latent_shape = [3, 4, 6]\nprior = 'uniform_codes'\nposterior.vector_quantized.codes = 20\n\
                 likelihood.gaussian.sigma = 1.0\n\
                 network.autoencoder_kl = { channels = [8, 16, 16], blocks = 1, groups = 4 }";
    let folder_of_codes = Path::new(&folder).join("autoencoder_kl-codes");
    let vae = export(&toml::from_str(codes)?, wide.into(), &folder_of_codes)?;
    vae.save_diffusers(&folder_of_codes.join("diffusers"), None)?;
    let folder_of_tiny = Path::new(&folder).join("autoencoder_tiny");
    let vae = export(&toml::from_str(tiny)?, wide.into(), &folder_of_tiny)?;
    vae.save_diffusers(&folder_of_tiny.join("diffusers"), None)?;
    export_any_size(&vae, &folder_of_tiny.join("any_size"))?;
    let square = ImageShape {
        channels: 3,
        height: 16,
        width: 16,
    };
    let folder_of_hierarchy = Path::new(&folder).join("top_down");
    export(
        &toml::from_str(HIERARCHY)?,
        square.into(),
        &folder_of_hierarchy,
    )?;
    for (name, network) in [
        (
            "conv1d",
            "network.conv1d = { channels = [4, 6], strides = [2, 3], kernel = 3, hidden = 8 }",
        ),
        ("mlp", "network.mlp.hidden = [9]"),
    ] {
        for has_missing in [false, true] {
            let text = format!("latent_dims = 3\nlikelihood.student_t = {{}}\n{network}");
            let missing = if has_missing { "-missing" } else { "" };
            let folder = Path::new(&folder).join(format!("{name}-array{missing}"));
            export(&toml::from_str(&text)?, series(has_missing), &folder)?;
        }
    }
    Ok(())
}

/// Series of two channels with different units.
fn series(has_missing: bool) -> ItemSpec {
    ItemSpec {
        standardization: Some(Standardization {
            mean: vec![100.0, -3.0],
            std: vec![20.0, 0.5],
        }),
        has_missing,
        ..ItemSpec::new(ItemKind::Array, vec![2, 13])
    }
}

/// The files for any size, and what the same weights compute of images twice as high.
fn export_any_size(vae: &Vae, folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let Some([channels, height, width]) = vae.config().latent_shape else {
        return Err("latents that are a map are wanted".into());
    };
    let own = vae.image_shape();
    let config = ModelConfig {
        latent_shape: Some([channels, 2 * height, width]),
        ..vae.config().clone()
    };
    let shape = ImageShape {
        height: 2 * own.height,
        ..own
    };
    let taller = Vae::new(&config, shape, Device::Cpu, 1)?;
    for ((_, mut to), (_, from)) in taller
        .named_variables()
        .into_iter()
        .zip(vae.named_variables())
    {
        no_grad(|| to.copy_(&from));
    }
    let mut generator = vae.generator(3);
    let size = [3, shape.channels, shape.height, shape.width];
    let images = generator.uniform([0.0, 1.0], size, Device::Cpu);
    let latents = generator.normal([3, channels, 2 * height, width], Device::Cpu);
    let mut references = Vec::new();
    for (part, input) in [(Part::Encoder, images), (Part::Decoder, latents)] {
        let name = part.name();
        let flat = match part {
            Part::Encoder => input.shallow_clone(),
            Part::Decoder => input.flatten(1, -1),
        };
        for (i, output) in no_grad(|| taller.run_part(part, &flat))?
            .into_iter()
            .enumerate()
        {
            let output = match part {
                Part::Encoder => output.view([3, channels, 2 * height, width]),
                Part::Decoder => output,
            };
            references.push((format!("{name}.output.{i}"), output));
        }
        references.push((format!("{name}.input"), input));
        fs::write(
            folder.join(format!("{name}.onnx")),
            vae.to_onnx_of_any_size(part)?,
        )?;
    }
    write_tensors(&folder.join("references.safetensors"), &references, &[])?;
    Ok(())
}

fn export(config: &ModelConfig, item: ItemSpec, folder: &Path) -> Result<Vae, Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let shape = item.map();
    let vae = Vae::new(config, item, Device::Cpu, 1)?;
    let mut generator = vae.generator(2);
    for (_, mut variable) in vae.trainable_variables() {
        let noise = generator.normal_like(&variable) * 0.1;
        let _ = no_grad(|| variable.g_add_(&noise)); // So that norms and biases are not 1 and 0.
    }
    let size = [16, shape.channels, shape.height, shape.width];
    let items = match vae.item().is_image() {
        true => generator.randint(256, size, (Kind::Uint8, Device::Cpu)),
        false => generator.normal(size, Device::Cpu) * 30.0,
    };
    if vae.item().has_missing {
        let _ = items.select(3, 4).fill_(f64::NAN);
    }
    no_grad(|| vae.draw(&items, 1, Mode::Train, &mut generator))?; // So that running averages are not 0 and 1.

    let first = items.narrow(0, 0, 5).to_kind(Kind::Float);
    let images = match vae.item().is_image() {
        true => first / 255.0,
        false => first,
    };
    let latents = generator.normal([7, config.n_latents()], Device::Cpu);
    let mut references = Vec::new();
    for (part, input) in [(Part::Encoder, images), (Part::Decoder, latents)] {
        let name = part.name();
        for (i, output) in no_grad(|| vae.run_part(part, &input))?
            .into_iter()
            .enumerate()
        {
            references.push((format!("{name}.output.{i}"), output));
        }
        references.push((format!("{name}.input"), input));
        fs::write(folder.join(format!("{name}.pt")), vae.to_torchscript(part)?)?;
        match vae.to_onnx(part) {
            Ok(file) => fs::write(folder.join(format!("{name}.onnx")), file)?,
            Err(error) => println!("{}: {error}", folder.display()),
        }
    }
    write_tensors(&folder.join("references.safetensors"), &references, &[])?;
    Ok(vae)
}
