//! What the tests of training share. Each of them uses a part of it.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::Tensor;
use vae_data::Dataset;
use vae_model::ImageShape;

pub const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 6,
    width: 5,
};

/// Images of a pattern that differs from image to image.
pub fn dataset(n: i64) -> Dataset {
    let bytes: Vec<u8> = (0..n * SHAPE.n_values())
        .map(|i| if (i * i) % 11 < 4 { 220 } else { 10 })
        .collect();
    let images = Tensor::from_slice(&bytes).view([n, 1, SHAPE.height, SHAPE.width]);
    Dataset::new(images, None).expect("a data set")
}

/// libtorch has one generator for all threads, tests run side by side, and a new model draws from it.
pub fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}
