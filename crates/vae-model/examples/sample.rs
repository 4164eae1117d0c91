//! Draws new images, as text on the terminal.
//!
//! ```sh
//! cargo run --release -p vae-model --example sample -- runs/mnist
//! ```

use tch::{Device, Kind, no_grad};
use vae_model::{ImageShape, ModelConfig, ModelError, Vae};

const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

fn main() -> Result<(), ModelError> {
    let vae = model()?;
    let mut generator = vae.generator(7); // The same images each time.
    let images = no_grad(|| vae.sample(3, &mut generator))?; // [3, C, H, W] in [0, 1]
    let brightness = images.mean_dim(1, false, Kind::Float); // [3, H, W]
    let width = vae.image_shape().width as usize;
    for i in 0..3 {
        let pixels = Vec::<f32>::try_from(brightness.get(i).flatten(0, -1))?;
        for row in pixels.chunks(width) {
            let shade = |&pixel: &f32| SHADES[(pixel * 4.99) as usize];
            println!("{}", row.iter().map(shade).collect::<String>());
        }
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
