//! What the tests of this crate share. Each of them uses a part of it.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::path::Path;

use tch::Device;
use vae_data::config::IdxConfig;
use vae_data::loader::Batches;
use vae_data::{Binarization, DatasetConfig, Splits};
use vae_model::{ImageShape, Vae};
use vae_train::{Learner, RunConfig};

/// The first 256 training and 64 test digits of MNIST.
pub fn digits(binarization: Option<Binarization>) -> Splits {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vae-train/tests/data/mnist");
    let dataset = DatasetConfig {
        binarization,
        idx: Some(IdxConfig { folder }),
        ..Default::default()
    };
    dataset.load().expect("the fixture")
}

pub const MNIST: ImageShape = ImageShape {
    channels: 1,
    height: 28,
    width: 28,
};

/// A config of a run on MNIST with this model and so on; its data set is not looked at.
pub fn config(tables: &str) -> RunConfig {
    let text = format!("[dataset.idx]\nfolder = 'nowhere'\n{tables}");
    let config: RunConfig = toml::from_str(&text).expect("a config");
    config.check().expect("a config that makes sense");
    config
}

/// A model that made so many steps on the digits' training images.
pub fn trained(config: &RunConfig, splits: &Splits, n_steps: u64) -> Vae {
    let vae = Vae::new(&config.model, MNIST, Device::Cpu, 1).expect("a model");
    let n_images = splits.train.len();
    let mut learner = Learner::new(&vae, config, n_images).expect("a learner");
    let batch_size = config.training.batch_size;
    let epochs =
        (0..).flat_map(|epoch| Batches::shuffled(&splits.train, batch_size, Device::Cpu, 0, epoch));
    for (step, images) in (0..n_steps).zip(epochs) {
        learner
            .step(&images.expect("images").items, step, step)
            .expect("a step");
    }
    drop(learner);
    vae
}
