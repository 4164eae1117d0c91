//! `--shape`: the shape of an image.

use std::str::FromStr;

use anyhow::{Context, Result};
use vae_base::ImageShape;
use vae_run::RunConfig;

#[derive(Clone, Copy, Debug)]
pub(super) struct Shape(pub(super) ImageShape);

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides: Result<Vec<i64>, _> = text.split(['x', '×']).map(str::parse).collect();
        match sides.as_deref() {
            Ok(&[channels, height, width]) => Ok(Self(ImageShape {
                channels,
                height,
                width,
            })),
            _ => Err("expected three numbers, as in 1x28x28".to_owned()),
        }
    }
}

/// The requested shape, or that of the config's images.
pub(super) fn of(config: &RunConfig, asked: Option<Shape>) -> Result<ImageShape> {
    if let Some(Shape(shape)) = asked {
        return Ok(shape);
    }
    let shape = config.dataset.image_shape();
    shape.context("the shape of the images is not known; give it with --shape CxHxW")
}
