//! Exports a small model of each kind into a folder, with inputs and outputs to compare with: what
//! `cargo xtask export-check` runs in Python.
//!
//! ```sh
//! cargo run --release -p vae-model --example export_kinds -- FOLDER
//! ```

use std::error::Error;
use std::fs;
use std::path::Path;

use tch::{Device, Kind, no_grad};
use vae_model::{ImageShape, Mode, ModelConfig, Part, Vae, write_tensors};

/// Odd sizes, in which every rounding shows.
const SHAPE: ImageShape = ImageShape {
    channels: 3,
    height: 13,
    width: 10,
};

const NETWORKS: [(&str, &str); 4] = [
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

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("a folder is wanted")?;
    for (network_name, network) in NETWORKS {
        for (name, parts) in PARTS {
            // Every network with the usual parts, every part with one network.
            if network_name != "conv" && !["bernoulli", "spectral_norm"].contains(&name) {
                continue;
            }
            let text = format!("latent_dims = 3\n{parts}\n{network}");
            let config: ModelConfig = toml::from_str(&text)?;
            let folder = Path::new(&folder).join(format!("{network_name}-{name}"));
            export(&config, &folder)?;
        }
    }
    Ok(())
}

fn export(config: &ModelConfig, folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let vae = Vae::new(config, SHAPE, Device::Cpu, 1)?;
    let mut generator = vae.generator(2);
    for (_, mut variable) in vae.trainable_variables() {
        let noise = generator.normal_like(&variable) * 0.1;
        let _ = no_grad(|| variable.g_add_(&noise)); // Norms and biases that are not 1 and 0.
    }
    let size = [16, SHAPE.channels, SHAPE.height, SHAPE.width];
    let bytes = generator.randint(256, size, (Kind::Uint8, Device::Cpu));
    no_grad(|| vae.draw(&bytes, 1, Mode::Train, &mut generator))?; // Running averages that are not 0 and 1.

    let images = bytes.narrow(0, 0, 5).to_kind(Kind::Float) / 255.0;
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
    Ok(())
}
