//! Latents of images, nearest neighbors by them, and what the model makes of the place between two.
//!
//! ```sh
//! cargo run --release -- RUN        # the folder of a run, or none for a fresh model
//! ```

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{ImageShape, ModelConfig, ModelError, Vae};

fn main() -> Result<(), ModelError> {
    let vae = match std::env::args().nth(1) {
        Some(run) => Vae::load(run, Device::Cpu)?,
        None => {
            let shape = ImageShape {
                channels: 1,
                height: 28,
                width: 28,
            };
            Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?
        }
    };
    let preprocessing = vae.preprocessing();
    println!(
        "images {}, framing {:?}",
        preprocessing.image, preprocessing.framing
    );

    let ImageShape {
        channels,
        height,
        width,
    } = vae.image_shape();
    let images = vae.generator(7).randint(
        256,
        [6, channels, height, width],
        (Kind::Uint8, Device::Cpu),
    );
    let latents = no_grad(|| vae.encode(&images))?.center(); // [6, Z]

    let distances = Tensor::cdist(&latents, &latents, 2.0, None::<i64>); // [6, 6]
    let nearest = distances.argsort(1, false).select(1, 1); // The first is the image itself.
    println!("nearest neighbors: {:?}", Vec::<i64>::try_from(nearest)?);

    let between = (latents.get(0) + latents.get(1)) * 0.5;
    let image = no_grad(|| vae.decode(&between.unsqueeze(0)))?; // [1, C, H, W] in [0, 1]
    println!(
        "mean brightness between the first two: {:.3}",
        image.mean(Kind::Float).double_value(&[])
    );
    Ok(())
}
