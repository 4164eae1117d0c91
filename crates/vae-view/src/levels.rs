//! What each level of a hierarchy of latents decides: the levels above are kept, those from it on are drawn anew.

use image::imageops::FilterType;
use image::{DynamicImage, GenericImage, RgbImage, imageops};
use plotters::prelude::*;
use tch::Tensor;
use vae_base::derive_seed;
use vae_model::{Conditioned, Vae};

use crate::ViewError;
use crate::chart::{FAINT_INK, INK, SCALE, font, px, register_fonts};
use crate::picture::{Pixels, decoded_tiles, grid};

/// A row: how many groups of latents it keeps, and what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelRow {
    /// Groups from the top down that are those of the origin.
    pub n_kept: usize,
    /// What is kept, and what is drawn anew.
    pub lines: [String; 2],
}

/// A row for each level of the model, the first without anything kept; empty for a model that does not draw by group.
#[must_use]
pub fn level_rows(vae: &Vae) -> Vec<LevelRow> {
    if !vae.draws_by_group() {
        return Vec::new();
    }
    let levels = vae.config().latent_levels();
    levels
        .iter()
        .map(|(_, level)| level_row(vae, level.start))
        .collect()
}

/// The row that keeps the first `n_kept` groups.
///
/// # Panics
/// If the model has no group after those.
#[must_use]
pub fn level_row(vae: &Vae, n_kept: usize) -> LevelRow {
    let groups = vae.config().latent_groups();
    let levels = vae.config().latent_levels();
    let named = |range: &[(String, std::ops::Range<usize>)]| match range {
        [] => "nothing".to_owned(),
        [(only, _)] => only.clone(),
        [(first, _), .., (last, _)] => format!("{first} to {last}"),
    };
    let from = levels.iter().find(|(_, level)| level.contains(&n_kept));
    let from = from.map_or_else(String::new, |(name, _)| match name.contains('×') {
        true => format!(", from {name} on"),
        false => String::new(),
    });
    LevelRow {
        n_kept,
        lines: [
            format!("kept: {}", named(&groups[..n_kept])),
            format!("drawn anew: {}{from}", named(&groups[n_kept..])),
        ],
    }
}

/// The width of the titles in pixels.
const TITLES: u32 = 270;

/// The smallest height of an image in the picture; smaller ones are enlarged.
const SMALLEST: u32 = 56;

/// White pixels between images.
const GAP: u32 = 2;

/// For an origin `[Z]` a row of images each: the origin's first, then `n_drawn` with the groups that the row does not keep
/// drawn from the prior given the others. The noise of a column is the same in all rows. For a model with a condition, the
/// condition `[1, D]` comes with the origin. Several origins are blocks from left to right.
///
/// # Errors
/// libtorch refuses.
///
/// # Panics
/// If the model does not draw by group, or no origin is given.
pub fn levels<'a>(
    vae: &Vae,
    origins: impl Into<Conditioned<'a>>,
    rows: &[LevelRow],
    n_drawn: usize,
    seed: u64,
) -> Result<DynamicImage, ViewError> {
    let Conditioned { tensor, condition } = origins.into();
    let n_origins = tensor.size()[0];
    let mut blocks = Vec::new();
    for i in 0..n_origins {
        let origin = tensor.narrow(0, i, 1);
        let condition = condition.map(|condition| condition.narrow(0, i, 1));
        let mut latents = Vec::new();
        for row in rows {
            let repeated = origin.repeat([n_drawn as i64, 1]);
            let conditions = condition.as_ref().map(|c| c.repeat([n_drawn as i64, 1]));
            let seed = derive_seed(seed, 0, "levels picture");
            let drawn = vae.redraw_below(
                (&repeated, conditions.as_ref()),
                row.n_kept,
                &mut vae.generator(seed),
            )?;
            latents.push(origin.to_device(vae.device()));
            latents.push(drawn.expect("the model has groups"));
        }
        let latents = Tensor::cat(&latents, 0);
        let images = decoded_tiles(vae, (&latents, condition.as_ref()), Pixels::Mean)?;
        blocks.push(grid(&images, n_drawn + 1, GAP)?);
    }
    titled(&blocks, rows)
}

/// The blocks side by side, enlarged, with the titles of their rows.
fn titled(blocks: &[DynamicImage], rows: &[LevelRow]) -> Result<DynamicImage, ViewError> {
    let n_rows = rows.len() as u32;
    let height = blocks.iter().map(DynamicImage::height).max().unwrap_or(0);
    let tile = (height + GAP) / n_rows.max(1);
    let factor = SMALLEST.div_ceil(tile.max(1)).max(1);
    let blocks: Vec<DynamicImage> = blocks
        .iter()
        .map(|block| {
            let (width, height) = (block.width() * factor, block.height() * factor);
            block.resize_exact(width, height, FilterType::Nearest)
        })
        .collect();
    let height = height * factor;
    let row_height = f64::from(height + GAP * factor) / f64::from(n_rows.max(1));
    let titles = titles(rows, height, row_height)?;
    let between = 8 * GAP;
    let width = blocks
        .iter()
        .fold(TITLES, |width, block| width + block.width() + between);
    let mut picture = RgbImage::from_pixel(width, height, image::Rgb([255, 255, 255]));
    let mut x = 0;
    for (block, after) in std::iter::once((&titles, 0)).chain(blocks.iter().map(|b| (b, between))) {
        // Cannot fail: the picture was made to hold every block.
        let _ = picture.copy_from(&block.to_rgb8(), x, 0);
        x += block.width() + after;
    }
    Ok(picture.into())
}

/// The titles of rows, as a picture of their own.
fn titles(rows: &[LevelRow], height: u32, row_height: f64) -> Result<DynamicImage, ViewError> {
    register_fonts();
    let (large_width, large_height) = (TITLES * SCALE, height * SCALE);
    let mut bytes = vec![0_u8; (large_width * large_height * 3) as usize];
    {
        let size = (large_width, large_height);
        let root = BitMapBackend::with_buffer(&mut bytes, size).into_drawing_area();
        let plot = |error: String| ViewError::Plot(error);
        root.fill(&WHITE).map_err(|error| plot(error.to_string()))?;
        for (i, row) in rows.iter().enumerate() {
            let top = (row_height * i as f64 + row_height / 2.0) as u32;
            for (line, text) in row.lines.iter().enumerate() {
                let y = px(top) - px(20) + px(20) * line as i32;
                let ink = if line == 0 { INK } else { FAINT_INK };
                let text = Text::new(text.clone(), (px(6), y), font(15, line == 0, ink));
                root.draw(&text).map_err(|error| plot(error.to_string()))?;
            }
        }
        root.present().map_err(|error| plot(error.to_string()))?;
    }
    let large = RgbImage::from_raw(large_width, large_height, bytes)
        .ok_or_else(|| ViewError::Plot("a buffer of the wrong size".to_owned()))?;
    Ok(imageops::thumbnail(&large, TITLES, height).into())
}
