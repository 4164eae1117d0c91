//! `--shape`: the shape of an image, or of another item.

use std::str::FromStr;

use anyhow::{Context, Result};
use vae_base::{ImageShape, ItemSpec};
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

/// Images of the requested shape, or the config's items.
pub(super) fn of(config: &RunConfig, asked: Option<Shape>) -> Result<ItemSpec> {
    if let Some(Shape(shape)) = asked {
        return Ok(shape.into());
    }
    let item = config.dataset.item_spec();
    item.context("the shape of the items is not known; give that of images with --shape CxHxW")
}
