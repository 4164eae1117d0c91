//! Every config in `configs/` builds, and overfits 8 images.

use std::fs;
use std::path::PathBuf;

use tch::{Device, Kind, Tensor};
use vae_model::{ImageShape, Vae};
use vae_train::{Learner, RunConfig};

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

/// Nats of the best that a model can say which ignores its latents: the entropy of each pixel's mean.
fn mean_image_nats(images: &Tensor) -> f64 {
    let p = (images.to_kind(Kind::Double) / 255.0).mean_dim(0, false, Kind::Double);
    let q: Tensor = 1.0 - &p;
    let entropy = -(p.xlogy(&p) + q.xlogy(&q));
    entropy.sum(Kind::Double).double_value(&[])
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
    let baseline = mean_image_nats(&images);
    for (path, config) in configs {
        let name = path.display();
        config.check().unwrap_or_else(|e| panic!("{name}: {e}"));
        // Seeds hold here because this is the only test of its process.
        tch::manual_seed(1);
        let vae = Vae::new(&config.model, shape, Device::Cpu).expect("a model");
        let mut learner = Learner::new(&vae, &config).expect("a learner");
        let mut reconstruction = f64::INFINITY;
        for step in 0..1500 {
            let output = learner
                .step(&images, step, step)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            reconstruction = output
                .terms
                .reconstruction
                .mean(Kind::Double)
                .double_value(&[]);
            if reconstruction < 0.3 * baseline {
                break;
            }
        }
        assert!(
            reconstruction < 0.3 * baseline,
            "{name}: {reconstruction:.1} nats, the mean image alone gets {baseline:.1}"
        );
    }
}
