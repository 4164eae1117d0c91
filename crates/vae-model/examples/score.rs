//! Scores images in batches, the least likely first: the elbo of each, in nats.
//!
//! ```sh
//! cargo run --release -p vae-model --example score -- runs/mnist
//! ```

use tch::{Device, Kind, no_grad};
use vae_model::{ImageShape, ModelConfig, ModelError, Vae};

const N_IMAGES: i64 = 100;
const BATCH: i64 = 32;

fn main() -> Result<(), ModelError> {
    let vae = model()?;
    // Your images: bytes [B, C, H, W], prepared as `vae.preprocessing()` says.
    let ImageShape {
        channels,
        height,
        width,
    } = vae.image_shape();
    let size = [N_IMAGES, channels, height, width];
    let mut generator = vae.generator(7); // The same scores each time.
    let images = generator.randint(256, size, (Kind::Uint8, Device::Cpu));

    let mut scores = Vec::new();
    for batch in images.split(BATCH, 0) {
        let elbo = no_grad(|| vae.elbo(&batch, &mut generator))?; // [B]
        scores.extend(Vec::<f32>::try_from(elbo)?);
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    for i in order.into_iter().take(10) {
        println!("image {i}: {:.1} nats", scores[i]);
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
