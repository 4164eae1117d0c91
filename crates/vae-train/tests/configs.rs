//! Every config in `configs/` builds, and overfits 8 images.

use std::fs;
use std::path::PathBuf;

use tch::{Device, Kind, Tensor};
use vae_model::{ImageShape, Vae};
use vae_train::{Optimizer, RunConfig, train_step};

/// Eight images that differ: bright discs at different places, 28×28.
fn discs() -> Tensor {
    let bytes: Vec<u8> = (0..8 * 28 * 28)
        .map(|i| {
            let (image, y, x) = (i / 784, i / 28 % 28, i % 28);
            let (center_y, center_x) = (7 + image / 4 * 13, 5 + image % 4 * 6);
            let distance = (y - center_y) * (y - center_y) + (x - center_x) * (x - center_x);
            if distance < 20 { 255 } else { 0 }
        })
        .collect();
    Tensor::from_slice(&bytes).view([8, 1, 28, 28])
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

#[test]
fn every_config_builds_and_overfits_8_images() {
    let configs = configs();
    assert!(configs.len() >= 4, "configs/ holds the examples");
    let images = discs();
    let shape = ImageShape {
        channels: 1,
        height: 28,
        width: 28,
    };
    // Bits of a disc in its place are few; an image of the mean disc costs far more.
    for (path, config) in configs {
        config
            .check()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        tch::manual_seed(1);
        let vae = Vae::new(&config.model, shape, Device::Cpu).expect("a model");
        let mut optimizer = Optimizer::new(&config.optimizer, vae.trainable_variables());
        let reconstruction = |step| {
            tch::manual_seed(step);
            let terms = tch::no_grad(|| vae.elbo(&images)).expect("terms");
            terms.reconstruction.mean(Kind::Float).double_value(&[])
        };
        let first = reconstruction(0);
        for step in 0..200 {
            let step = train_step(&vae, &config.objective, &mut optimizer, &images, 1, step);
            assert!(step.is_ok(), "{}: {:?}", path.display(), step.err());
        }
        let last = reconstruction(0);
        assert!(
            last < 0.15 * first,
            "{}: the reconstruction went from {first:.1} to {last:.1} nats only",
            path.display()
        );
    }
}
