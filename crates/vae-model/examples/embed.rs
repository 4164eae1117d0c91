//! Embeds images: one line of latents for each.
//!
//! ```sh
//! cargo run --release -p vae-model --example embed -- runs/mnist
//! ```

use tch::{Device, Kind, no_grad};
use vae_model::{ImageShape, ModelConfig, ModelError, Vae};

const N_IMAGES: i64 = 10;

fn main() -> Result<(), ModelError> {
    let vae = model()?;
    // Your images: bytes [B, C, H, W], prepared as `vae.preprocessing()` says.
    let ImageShape {
        channels,
        height,
        width,
    } = vae.image_shape();
    let size = [N_IMAGES, channels, height, width];
    let images = vae
        .generator(7)
        .randint(256, size, (Kind::Uint8, Device::Cpu));

    let latents = no_grad(|| vae.encode(&images))?.center();
    for i in 0..N_IMAGES {
        let latent = Vec::<f32>::try_from(latents.get(i))?;
        println!("{latent:?}");
    }
    Ok(())
}

/// The model of the run, checkpoint or weights file in the first argument; without one, an untrained model.
fn model() -> Result<Vae, ModelError> {
    match std::env::args().nth(1) {
        Some(path) => Vae::load(path, Device::Cpu),
        None => {
            let shape = ImageShape {
                channels: 1,
                height: 28,
                width: 28,
            };
            Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)
        }
    }
}
