//! Every config in `configs/` builds, and overfits 8 images.

use std::fs;
use std::path::PathBuf;

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{ImageShape, LikelihoodConfig, MeanActivation, Vae};
use vae_train::{Learner, RunConfig};

/// Eight images that differ: white discs at different places on a background.
fn discs(shape: ImageShape, background: u8) -> Tensor {
    let ImageShape {
        channels,
        height,
        width,
    } = shape;
    let bytes: Vec<u8> = (0..8 * channels * height * width)
        .map(|i| {
            let image = i / (channels * height * width);
            let (y, x) = (i / width % height, i % width);
            let (center_y, center_x) = (
                height / 4 + image / 4 * (height / 2),
                width / 6 + image % 4 * (width / 5),
            );
            let distance = (y - center_y) * (y - center_y) + (x - center_x) * (x - center_x);
            if distance < 20 { 255 } else { background }
        })
        .collect();
    Tensor::from_slice(&bytes).view([8, channels, height, width])
}

/// Black, but for the tutorial's sigmoid, which knows nothing darker than the middle gray.
fn background(config: &RunConfig) -> u8 {
    match &config.model.likelihood {
        LikelihoodConfig::Gaussian(gaussian) if gaussian.mean == MeanActivation::Sigmoid => 140,
        _ => 0,
    }
}

/// The shape of a config's images.
fn shape(config: &RunConfig) -> ImageShape {
    match &config.dataset.image_folder {
        Some(photos) => ImageShape {
            channels: if photos.grayscale { 1 } else { 3 },
            height: photos.image_size.height as i64,
            width: photos.image_size.width as i64,
        },
        None => ImageShape {
            channels: 1,
            height: 28,
            width: 28,
        },
    }
}

/// A fraction of it with sides of at most 32 pixels: the networks work at any size, and this is fast.
fn small(shape: ImageShape) -> ImageShape {
    let small = |side: i64| side / ((side + 31) / 32);
    ImageShape {
        height: small(shape.height),
        width: small(shape.width),
        ..shape
    }
}

fn configs() -> Vec<(PathBuf, RunConfig)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
    let mut configs: Vec<_> = fs::read_dir(folder)
        .expect("configs/")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .map(|path| {
            let text = fs::read_to_string(&path).expect("text");
            let config =
                toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path, config)
        })
        .collect();
    configs.sort_by(|a, b| a.0.cmp(&b.0));
    configs
}

fn mean_square(errors: &Tensor) -> f64 {
    errors.square().mean(Kind::Double).double_value(&[])
}

#[test]
fn every_config_builds_and_overfits_8_images() {
    let configs = configs();
    assert!(configs.len() >= 10, "configs/ holds the examples");
    for (path, config) in configs {
        let name = path.display();
        config.check().unwrap_or_else(|e| panic!("{name}: {e}"));
        // Seeds hold here because this is the only test of its process.
        tch::manual_seed(1);
        let (whole, background) = (shape(&config), background(&config));
        let vae = Vae::new(&config.model, whole, Device::Cpu).expect("a model");
        let elbo =
            no_grad(|| vae.elbo(&discs(whole, background).narrow(0, 0, 2))).expect("an elbo");
        let elbo = elbo.sum(Kind::Double).double_value(&[]);
        assert!(elbo.is_finite(), "{name}: {elbo}");

        let images = discs(small(whole), background);
        let targets = images.to_kind(Kind::Float) / 255.0;
        // What a model does that ignores its latents: the mean image.
        let baseline = mean_square(&(&targets - targets.mean_dim(0, true, Kind::Float)));
        let vae = Vae::new(&config.model, small(whole), Device::Cpu).expect("a model");
        let mut learner = Learner::new(&vae, &config, 8).expect("a learner");
        let mut mse = f64::INFINITY;
        for step in 0..1500 {
            learner
                .step(&images, step, step)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            if step % 10 == 9 {
                let images = no_grad(|| vae.reconstruct(&images)).expect("images");
                mse = mean_square(&(images - &targets));
                if mse < 0.3 * baseline {
                    println!("{name}: {step} steps");
                    break;
                }
            }
        }
        assert!(
            mse < 0.3 * baseline,
            "{name}: mean squared error {mse:.5}, the mean image alone has {baseline:.5}"
        );
    }
}
