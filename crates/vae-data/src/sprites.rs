//! `[dataset.sprites]`: black-and-white shapes with known factors, in the layout of dSprites.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bits::BitImages;
use crate::factor_grid::FactorGrid;
use crate::factors::{FactorSpace, Factors};
use crate::limits::{Sizes, TEST_LIMIT, TRAIN_LIMIT, VALIDATION_LIMIT, n_within};
use crate::loader::shuffled_order;
use crate::npz::{Array, Npz};
use crate::{DataError, Dataset, HoldOut, ImageShape, Splits, derive_seed};

/// The columns of `latents_classes` in dSprites (Matthey et al. 2017).
const FACTORS: [&str; 6] = [
    "color",
    "shape",
    "scale",
    "orientation",
    "position_x",
    "position_y",
];

/// The factor whose values are the labels of the images.
const LABEL: usize = 1;

/// Sprites (`[dataset.sprites]`): those drawn by `cargo xtask fetch-data sprites`, or dSprites itself, whose file is
/// `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`.
///
/// The file holds `imgs`, bytes 0 or 1 `[N, H, W]`, and `latents_classes`, i64 `[N, 6]`: the index of the value of
/// color, shape, scale, orientation, position x and position y, with every combination once and the last factor
/// fastest. Pixels become bytes 0 and 255 (stored as one bit each), and the shape is the label.
///
/// Splits are drawn from all combinations in the order `shuffled_order(N, s, 0)`, where s is `derive_seed(split_seed,
/// 0, "sprites split")`: the first `test_fraction` are test images, the next ones validation images
/// (`dataset.validation`, by default a tenth of all) and the rest training images. Each split keeps that order, so
/// that a limited number of images (`train_limit`) is also spread over all combinations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpritesConfig {
    /// The `.npz` file, relative to the current folder.
    #[schemars(example = &"datasets/sprites/sprites.npz", extend("x-resume" = true))]
    pub file: PathBuf,

    /// Fraction of the images that are test images. Default 0.1.
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    #[serde(default = "default_test_fraction")]
    pub test_fraction: f64,

    /// Seed of the random division into training, validation and test images. Default 0.
    #[serde(default)]
    pub split_seed: u64,
}

fn default_test_fraction() -> f64 {
    0.1
}

impl SpritesConfig {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let found = self.test_fraction;
        if found > 0.0 && found < 1.0 {
            return Ok(());
        }
        Err(DataError::Config {
            key: "dataset.sprites.test_fraction",
            problem: format!("found {found}, expected more than 0 and less than 1"),
        })
    }

    pub(crate) fn load(&self, sizes: &Sizes) -> Result<Splits, DataError> {
        let mut npz = open(&self.file)?;
        let space = read_space(npz.array("latents_classes")?)?;
        let n = space.n_positions();
        let order = shuffled_order(n, derive_seed(self.split_seed, 0, "sprites split"), 0);
        let order: Vec<usize> = order
            .into_iter()
            .map(|position| position as usize)
            .collect();
        let images = npz.array("imgs")?;
        if n < 2 {
            return Err(images.wrong(format!("holds {n} image, expected at least 2")));
        }
        let n_test = (n as f64 * self.test_fraction).round() as usize;
        let (test, others) = order.split_at(n_test.clamp(1, n - 1));
        let n_validation = match sizes.validation {
            Some(HoldOut::Fraction(fraction)) => {
                HoldOut::Count((n as f64 * fraction).round() as usize).of(others.len())?
            }
            Some(count) => count.of(others.len())?,
            None => (n / 10).min(others.len() - 1),
        };
        let (validation, train) = others.split_at(n_validation);
        let limited = |positions: &[usize], limit, key| {
            positions[..n_within(limit, positions.len(), key, &self.file)].to_vec()
        };
        let limits = sizes.limits;
        let train = limited(train, limits.train, TRAIN_LIMIT);
        let validation = limited(validation, limits.validation, VALIDATION_LIMIT);
        let test = limited(test, limits.test, TEST_LIMIT);
        let ends = [train.len(), train.len() + validation.len()];
        let positions = [train, validation, test].concat();
        let images = read_images(images, &space, &positions)?;
        let all = Dataset::of_factors(images, Factors::new(space, positions), LABEL);
        let part = |range: std::ops::Range<usize>| all.subset(&range.collect::<Vec<_>>());
        let validation = (ends[0] < ends[1]).then(|| part(ends[0]..ends[1]));
        Ok(Splits::new(
            part(0..ends[0]),
            validation,
            part(ends[1]..all.len()),
        ))
    }

    /// Every image by its factors, from all splits: one bit per pixel, 377 MB for dSprites.
    ///
    /// # Errors
    /// A missing, unreadable or damaged file, or one with another layout.
    pub fn grid(&self) -> Result<FactorGrid, DataError> {
        let mut npz = open(&self.file)?;
        let space = read_space(npz.array("latents_classes")?)?;
        let positions: Vec<usize> = (0..space.n_positions()).collect();
        let images = read_images(npz.array("imgs")?, &space, &positions)?;
        let images = Dataset::of_factors(images, Factors::new(space.clone(), positions), LABEL);
        FactorGrid::new(space, images)
    }

    /// The shape from the header of the images.
    pub(crate) fn image_shape(&self) -> Result<ImageShape, DataError> {
        let mut npz = open(&self.file)?;
        let images = npz.array("imgs")?;
        shape(&images, None)
    }
}

fn open(path: &Path) -> Result<Npz<'_>, DataError> {
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DataError::MissingSprites {
            path: path.to_owned(),
        },
        _ => DataError::Io {
            path: path.to_owned(),
            source,
        },
    })?;
    if file.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(DataError::NotAFile {
            path: path.to_owned(),
        });
    }
    Npz::new(path, file, |path, problem| DataError::Npz {
        path: path.to_owned(),
        problem,
    })
}

/// Checks the layout of the images; `n` is their number, if known.
fn shape(images: &Array, n: Option<usize>) -> Result<ImageShape, DataError> {
    /// 8 GiB in memory.
    const MOST_PIXELS: usize = 1 << 36;
    images.expect("|u1", &[n, None, None])?;
    let [height, width] = [images.shape()[1], images.shape()[2]];
    let n_pixels = images
        .shape()
        .iter()
        .try_fold(1_usize, |product, &length| product.checked_mul(length));
    if n_pixels.is_none_or(|n_pixels| !(1..=MOST_PIXELS).contains(&n_pixels)) {
        return Err(images.wrong(format!(
            "is {:?}, expected 1 to {MOST_PIXELS} pixels together",
            images.shape()
        )));
    }
    Ok(ImageShape {
        channels: 1,
        height: height as i64,
        width: width as i64,
    })
}

/// The factors, if `classes` has every combination once and in order.
fn read_space(mut classes: Array) -> Result<FactorSpace, DataError> {
    /// The file of `fetch-data sprites` and dSprites have 737,280 rows.
    const MOST: usize = 1 << 23;
    classes.expect("<i8", &[None, Some(FACTORS.len())])?;
    let n = classes.shape()[0];
    if !(1..=MOST).contains(&n) {
        return Err(classes.wrong(format!("has {n} rows, expected 1 to {MOST}")));
    }
    let mut bytes = vec![0; n * FACTORS.len() * 8];
    classes.read(&mut bytes)?;
    let mut rows = Vec::with_capacity(n * FACTORS.len());
    for number in bytes.as_chunks().0 {
        let found = i64::from_le_bytes(*number);
        let class = usize::try_from(found).ok().filter(|&class| class < n);
        let Some(class) = class else {
            return Err(classes.wrong(format!("has {found}, expected 0 to {}", n - 1)));
        };
        rows.push(class);
    }
    // The last row holds the last value of each factor.
    let sizes = rows[rows.len() - FACTORS.len()..]
        .iter()
        .map(|&last| last + 1);
    let space = FactorSpace::new(FACTORS.into_iter().zip(sizes));
    let n_combinations = space
        .sizes()
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size));
    if n_combinations != Some(n) {
        return Err(classes.wrong(format!(
            "has {n} rows and ends with {:?}, expected every combination of factors once, the last \
             factor fastest",
            &rows[rows.len() - FACTORS.len()..]
        )));
    }
    for (position, row) in rows.chunks_exact(FACTORS.len()).enumerate() {
        let wanted = space.classes(position);
        if row != wanted {
            return Err(classes.wrong(format!(
                "has {row:?} in row {position}, expected {wanted:?}: every combination of factors \
                 once, the last factor fastest"
            )));
        }
    }
    classes.finish()?;
    Ok(space)
}

/// The images at these positions, in this order.
fn read_images(
    mut images: Array,
    space: &FactorSpace,
    positions: &[usize],
) -> Result<BitImages, DataError> {
    let n = space.n_positions();
    let shape = shape(&images, Some(n))?;
    let mut rows = vec![None; n];
    for (row, &position) in positions.iter().enumerate() {
        rows[position] = Some(row);
    }
    let mut bits = BitImages::black(shape, positions.len());
    let mut pixels = vec![0; (shape.height * shape.width) as usize];
    for (position, row) in rows.into_iter().enumerate() {
        images.read(&mut pixels)?;
        if let Some(&other) = pixels.iter().find(|&&pixel| pixel > 1) {
            return Err(images.wrong(format!(
                "has a pixel of {other} in image {position}, expected 0 or 1"
            )));
        }
        if let Some(row) = row {
            bits.set(row, &pixels);
        }
    }
    images.finish()?;
    Ok(bits)
}
