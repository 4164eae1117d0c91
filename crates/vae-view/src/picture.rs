//! Pictures: grids of images, the latent plane, samples, reconstructions.

use image::{DynamicImage, GenericImage, GrayImage, RgbImage};
use tch::{Device, Kind, Tensor};
use vae_base::derive_seed;
use vae_model::{Conditioned, Generator, LatentSource, ModelError, NetworkConfig, Support, Vae};

pub use crate::file::{png, save};
use crate::ticks::decimal;
use crate::{ViewError, as_decoded, tiles};

/// The largest size in bytes of the f32 images that are decoded at once.
const LARGEST_IMAGES: u128 = 1 << 32;

/// The largest size of a picture in bytes.
const LARGEST_PICTURE: u128 = 1 << 31;

/// Arranges images `[N, C, H, W]` in `[0, 1]` in rows, `gap` white pixels apart. One channel gives a gray picture.
/// With more channels the first three are red, green and blue.
///
/// # Errors
/// [`ViewError::PictureSize`] if the picture would be larger than 2 GiB; libtorch refuses.
pub fn grid(images: &Tensor, columns: usize, gap: u32) -> Result<DynamicImage, ViewError> {
    let (n_images, channels, height, width) = images.size4()?;
    let n_images = n_images as usize;
    let (height, width) = (height as u32, width as u32);
    let columns = columns.clamp(1, n_images.max(1));
    let rows = n_images.div_ceil(columns);
    let depth = if channels >= 3 { 3 } else { 1 };
    let side = |n: usize, pixels: u32| {
        let side = (n as u128 * (u128::from(pixels) + u128::from(gap))).saturating_sub(gap.into());
        u64::try_from(side).unwrap_or(u64::MAX)
    };
    let (full_width, full_height) = (side(columns, width), side(rows, height));
    let n_bytes = u128::from(full_width) * u128::from(full_height) * depth as u128;
    let (Ok(full_width), Ok(full_height), true) = (
        u32::try_from(full_width),
        u32::try_from(full_height),
        n_bytes <= LARGEST_PICTURE,
    ) else {
        return Err(ViewError::PictureSize {
            width: full_width,
            height: full_height,
        });
    };

    let bytes = (images.narrow(1, 0, depth).clamp(0.0, 1.0) * 255.0)
        .round()
        .to_kind(Kind::Uint8)
        .to_device(Device::Cpu)
        .permute([0, 2, 3, 1]) // [N, H, W, depth]
        .contiguous()
        .flatten(1, -1);
    let white = |image: DynamicImage| {
        let mut image = image;
        image.invert();
        image
    };
    let mut picture = match depth {
        1 => white(DynamicImage::ImageLuma8(GrayImage::new(
            full_width,
            full_height,
        ))),
        _ => white(DynamicImage::ImageRgb8(RgbImage::new(
            full_width,
            full_height,
        ))),
    };
    for i in 0..n_images {
        let pixels = Vec::<u8>::try_from(bytes.get(i as i64))?;
        let tile = match depth {
            1 => GrayImage::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8),
            _ => RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8),
        };
        let x = (i % columns) as u32 * (width + gap);
        let y = (i / columns) as u32 * (height + gap);
        if let Some(tile) = tile {
            // Cannot fail: the picture was made to hold every tile.
            let _ = picture.copy_from(&tile, x, y);
        }
    }
    Ok(picture)
}

/// The latent space as one picture with `size` images on a side, along the most used latent dimensions (`usage` has
/// a score for each).
///
/// With two dimensions or more it is the plane of two, at the prior's quantiles from 0.05 to 0.95: the first grows to
/// the right and the second upward, and the other dimensions are at their medians. With one dimension it is a strip.
/// On a sphere it is a world map of three dimensions, longitude to the right and latitude upward; on a circle a
/// strip.
///
/// # Errors
/// libtorch refuses.
pub fn manifold(
    vae: &Vae,
    size: usize,
    usage: &[f64],
    condition: Option<&Tensor>,
) -> Result<DynamicImage, ViewError> {
    manifold_of(vae, size, &manifold_dims(vae, usage), condition)
}

/// [`manifold`] along these latent dimensions, at least one and at most [`n_manifold_dims`].
///
/// # Errors
/// libtorch refuses.
///
/// # Panics
/// If there are none, or one that the model does not have.
pub fn manifold_of(
    vae: &Vae,
    size: usize,
    dims: &[usize],
    condition: Option<&Tensor>,
) -> Result<DynamicImage, ViewError> {
    // Tiles of curves are white at their edges.
    let gap = u32::from(!vae.item().is_image());
    grid(
        &manifold_tiles(vae, size, dims, condition)?.tiles,
        size,
        gap,
    )
}

/// The tiles of [`manifold_of`] with the names of its axes.
#[derive(Debug)]
pub struct Manifold {
    /// Row by row from the top left.
    pub tiles: Tensor,
    /// What the columns and the rows are, such as `z0`; the second is empty of a strip.
    pub axes: [String; 2],
    /// The values of the columns, from left to right.
    pub columns: Vec<String>,
    /// The values of the rows, from the top down.
    pub rows: Vec<String>,
}

/// As [`manifold_of`], not yet a picture.
///
/// # Errors
/// libtorch refuses.
///
/// # Panics
/// As [`manifold_of`].
pub fn manifold_tiles(
    vae: &Vae,
    size: usize,
    dims: &[usize],
    condition: Option<&Tensor>,
) -> Result<Manifold, ViewError> {
    let latent_dims = vae.config().n_latents() as usize;
    let latents = match vae.support() {
        Support::Sphere => globe_latents(size, latent_dims, dims),
        Support::Euclidean => plane_latents(&prior_quantiles(vae, size)?, dims),
        Support::Codes => {
            let latents = plane_latents(&prior_quantiles(vae, size)?, dims);
            vae.nearest_codes(&latents)?
        }
    };
    let tiles = decoded_tiles(vae, (&latents, condition), Pixels::Mean)?;
    let is_sphere = vae.support() == Support::Sphere;
    let has_rows = match is_sphere {
        true => dims.len() > 2,
        false => dims.len() > 1,
    };
    let share = |i: usize| i as f64 / (size.max(2) - 1) as f64;
    let by_latent = latents.view([-1, size as i64, latent_dims as i64]);
    let value = |row: usize, column: usize, dim: usize| {
        decimal(
            by_latent.double_value(&[row as i64, column as i64, dim as i64]),
            2,
        )
    };
    let degrees = |angle: f64| format!("{}°", decimal(angle.round(), 0));
    let n_rows = if has_rows { size } else { 1 };
    let (columns, rows): (Vec<String>, Vec<String>) = match is_sphere {
        true => (
            (0..size)
                .map(|i| degrees(360.0 * (i as f64 / size as f64 - 0.5)))
                .collect(),
            (0..n_rows)
                .map(|i| degrees(80.0 - 160.0 * share(i)))
                .collect(),
        ),
        false => (
            (0..size).map(|i| value(0, i, dims[0])).collect(),
            (0..n_rows)
                .filter_map(|i| Some(value(i, 0, *dims.get(1)?)))
                .collect(),
        ),
    };
    let axes = match (is_sphere, has_rows) {
        (true, true) => ["longitude".to_owned(), "latitude".to_owned()],
        (true, false) => ["angle".to_owned(), String::new()],
        (false, true) => [format!("z{}", dims[0]), format!("z{}", dims[1])],
        (false, false) => [format!("z{}", dims[0]), String::new()],
    };
    Ok(Manifold {
        tiles,
        axes,
        columns,
        rows: if has_rows { rows } else { Vec::new() },
    })
}

/// The latent dimensions that [`manifold`] shows.
#[must_use]
pub fn manifold_dims(vae: &Vae, usage: &[f64]) -> Vec<usize> {
    let latent_dims = vae.config().n_latents() as usize;
    most_used(n_manifold_dims(vae), latent_dims, usage)
}

/// The number of latent dimensions that [`manifold`] shows.
#[must_use]
pub fn n_manifold_dims(vae: &Vae) -> usize {
    match vae.support() {
        Support::Euclidean | Support::Codes => 2,
        Support::Sphere => 3,
    }
}

/// Whether [`manifold`] shows the whole latent space.
#[must_use]
pub fn has_whole_manifold(vae: &Vae) -> bool {
    vae.config().n_latents() as usize <= n_manifold_dims(vae)
}

/// The (at most) `n` most used dimensions in ascending order; the first ones if no usage is known.
fn most_used(n: usize, latent_dims: usize, usage: &[f64]) -> Vec<usize> {
    let mut dims = by_use(latent_dims, usage);
    dims.truncate(n);
    dims.sort_unstable();
    dims
}

/// All dimensions, the most used first; in ascending order if no usage is known.
#[must_use]
pub fn by_use(latent_dims: usize, usage: &[f64]) -> Vec<usize> {
    let mut dims: Vec<usize> = (0..latent_dims).collect();
    let usage = |dim: usize| usage.get(dim).copied().unwrap_or(0.0);
    dims.sort_by(|&a, &b| usage(b).total_cmp(&usage(a)));
    dims
}

/// The number of latents from which a prior's quantiles and moments are estimated if they have no closed form.
const N_PRIOR_LATENTS: i64 = 10_000;

/// The same for a hierarchy of maps, whose prior is as large a network as its decoder.
const N_LATENTS_OF_HIERARCHY: i64 = 1000;

/// A sample of latents from the prior, the same at every call, f32 `[N, Z]` on the CPU.
pub fn prior_latents(vae: &Vae) -> Tensor {
    let seed = derive_seed(0, 0, "latents that stand for the prior");
    let n = match vae.config().network {
        NetworkConfig::TopDown(_) => N_LATENTS_OF_HIERARCHY,
        _ => N_PRIOR_LATENTS,
    };
    let latents = vae.sample_latents(n, &mut vae.generator(seed));
    latents.to_device(Device::Cpu)
}

/// The quantiles of a prior by which a plane is drawn.
struct Quantiles {
    /// `size` quantiles of each dimension from 0.05 to 0.95, `[size, Z]`.
    lines: Tensor,
    /// Medians, `[Z]`.
    medians: Tensor,
}

fn prior_quantiles(vae: &Vae, size: usize) -> Result<Quantiles, ViewError> {
    let levels = Tensor::linspace(0.05, 0.95, size as i64, (Kind::Double, Device::Cpu));
    if vae.has_standard_normal_prior() {
        let latent_dims = vae.config().n_latents();
        let line = levels.special_ndtri().to_kind(Kind::Float); // [size]
        return Ok(Quantiles {
            lines: line.unsqueeze(1).expand([size as i64, latent_dims], false),
            medians: Tensor::zeros([latent_dims], (Kind::Float, Device::Cpu)),
        });
    }
    let latents = prior_latents(vae).to_kind(Kind::Double);
    let at = |levels: &Tensor| latents.f_quantile(levels, 0, false, "linear");
    let half = Tensor::from_slice(&[0.5_f64]);
    Ok(Quantiles {
        lines: at(&levels)?.to_kind(Kind::Float),
        medians: at(&half)?.squeeze_dim(0).to_kind(Kind::Float),
    })
}

/// The latents `[N, Z]` of the plane's images, row by row from the top left.
fn plane_latents(quantiles: &Quantiles, dims: &[usize]) -> Tensor {
    let line = |dim: usize| quantiles.lines.select(1, dim as i64); // [size]
    let across = line(dims[0]);
    let up = dims.get(1).map(|&dim| (dim, line(dim).flip([0])));
    let columns = across.size()[0];
    let rows = up.as_ref().map_or(1, |(_, up)| up.size()[0]);
    let latent_dims = quantiles.medians.size()[0];
    let latents = quantiles
        .medians
        .expand([rows, columns, latent_dims], false)
        .copy();
    latents
        .select(2, dims[0] as i64)
        .copy_(&across.unsqueeze(0).expand([rows, columns], false));
    if let Some((dim, up)) = up {
        latents
            .select(2, dim as i64)
            .copy_(&up.unsqueeze(1).expand([rows, columns], false));
    }
    latents.flatten(0, 1)
}

/// The latents `[N, Z]` of the world map of a sphere, row by row from the top left: longitudes from −180° on,
/// latitudes from 80° to −80°.
fn globe_latents(size: usize, latent_dims: usize, dims: &[usize]) -> Tensor {
    let (n_columns, n_rows) = (size, if dims.len() < 3 { 1 } else { size });
    let mut latents = Vec::with_capacity(n_rows * n_columns * latent_dims);
    for row in 0..n_rows {
        let latitude = match n_rows {
            1 => 0.0,
            n => 80.0 - 160.0 * row as f64 / (n - 1) as f64,
        };
        let (sin_latitude, cos_latitude) = f64::to_radians(latitude).sin_cos();
        for column in 0..n_columns {
            let longitude = 360.0 * (column as f64 / n_columns as f64 - 0.5);
            let (sin, cos) = longitude.to_radians().sin_cos();
            let place = [cos_latitude * cos, cos_latitude * sin, sin_latitude];
            let mut latent = vec![0_f32; latent_dims];
            for (&dim, value) in dims.iter().zip(place) {
                latent[dim] = value as f32;
            }
            latents.extend(latent);
        }
    }
    Tensor::from_slice(&latents).view([-1, latent_dims as i64])
}

/// [`traversal_latents`], decoded: a row for each of some latent dimensions.
///
/// # Errors
/// libtorch refuses.
///
/// # Panics
/// As [`traversal_latents`].
pub fn traversals<'a>(
    vae: &Vae,
    origin: impl Into<Conditioned<'a>>,
    dims: &[usize],
    n_steps: usize,
    reach: f64,
) -> Result<DynamicImage, ViewError> {
    let origin = origin.into();
    let latents = traversal_latents(vae, origin.tensor, dims, n_steps, reach)?;
    let images = decoded_tiles(vae, (&latents, origin.condition), Pixels::Mean)?;
    grid(&images, n_steps, 2)
}

/// A row for each of some latent dimensions, with `n_steps` latents from −3 to 3 standard deviations of the prior
/// around its mean in that dimension (times `reach`/3). The other dimensions stay as in `origin` `[Z]`. On a sphere the
/// dimension goes from −0.9 to 0.9 and the others are scaled. The latent of an image is a good origin: in many
/// dimensions the point 0 is far from everything the decoder was trained on. `[rows·n_steps, Z]`.
///
/// # Errors
/// libtorch refuses.
///
/// # Panics
/// If there is no dimension, or one that the model does not have.
pub fn traversal_latents(
    vae: &Vae,
    origin: &Tensor,
    dims: &[usize],
    n_steps: usize,
    reach: f64,
) -> Result<Tensor, ViewError> {
    let latent_dims = vae.config().n_latents();
    let n_steps = n_steps as i64;
    let line = Tensor::linspace(-reach, reach, n_steps, (Kind::Float, Device::Cpu));
    let is_sphere = vae.support() == Support::Sphere;
    let moments = match is_sphere || vae.has_standard_normal_prior() {
        true => None,
        false => {
            let latents = prior_latents(vae);
            Some((
                latents.mean_dim(0, false, Kind::Float),
                latents.std_dim([0_i64].as_slice(), false, false),
            ))
        }
    };
    let origin = origin.to_device(Device::Cpu).to_kind(Kind::Float);
    let row = |dim: usize| -> Tensor {
        let dim = dim as i64;
        let latents = origin.expand([n_steps, latent_dims], false).copy();
        let mut column = latents.select(1, dim);
        if is_sphere {
            let _ = column.zero_();
            let line = &line * 0.3; // [columns]
            let rest = latents.norm_scalaropt_dim(2.0, [1_i64].as_slice(), true);
            let left: Tensor = 1.0 - line.square();
            let scale = left.sqrt().unsqueeze(1) / rest.clamp_min(1e-6);
            let moved = latents * scale;
            moved.select(1, dim).copy_(&line);
            return moved;
        }
        match &moments {
            None => column.copy_(&line),
            Some((mean, std)) => column.copy_(&(&line * std.get(dim) + mean.get(dim))),
        }
        latents
    };
    let rows: Vec<Tensor> = dims.iter().map(|&dim| row(dim)).collect();
    let latents = Tensor::cat(&rows, 0); // [rows · columns, Z]
    Ok(vae.nearest_codes(&latents)?)
}

/// How p(x|z) is shown.
#[derive(Debug)]
pub enum Pixels<'a> {
    /// Its mean image.
    Mean,
    /// An image drawn from it.
    Drawn(&'a mut Generator),
}

/// `n` new images of latents from `source`. The same seed gives the same latents for every model with the same number of
/// dimensions. A model with a condition gets a row for each class, or for each value of each attribute.
///
/// # Errors
/// libtorch refuses.
pub fn samples(
    vae: &Vae,
    source: LatentSource,
    n: usize,
    seed: u64,
) -> Result<DynamicImage, ViewError> {
    let mut rows = vae.condition().examples();
    if rows.is_empty() {
        let columns = (n as f64).sqrt().ceil() as usize;
        let mut generator = sample_generator(vae, seed);
        let latents = vae.latents_from(source, n as i64, None, &mut generator)?;
        return grid(&decoded_tiles(vae, &latents, Pixels::Mean)?, columns, 2);
    }
    rows.truncate(MOST_EXAMPLES);
    let n_columns = n.div_ceil(rows.len()).clamp(1, 16);
    let conditions: Vec<Vec<f32>> = rows.into_iter().map(|(_, row)| row).collect();
    let (latents, conditions) = latents_of_rows(vae, source, &conditions, n_columns, seed)?;
    let images = decoded_tiles(vae, (&latents, &conditions), Pixels::Mean)?;
    grid(&images, n_columns, 2)
}

/// The most rows of a picture of samples, one for each condition.
const MOST_EXAMPLES: usize = 16;

/// A row of `n` latents from `source` for each condition, and their conditions: `[rows·n, Z]` and `[rows·n, D]`. The
/// latents of a column are drawn with the same noise, so that their images differ by the condition alone.
///
/// # Errors
/// A condition that is not the model's.
pub fn latents_of_rows(
    vae: &Vae,
    source: LatentSource,
    conditions: &[Vec<f32>],
    n: usize,
    seed: u64,
) -> Result<(Tensor, Tensor), ViewError> {
    let row = |condition: &Vec<f32>| {
        let condition = Tensor::from_slice(condition).unsqueeze(0);
        let condition = condition.repeat([n as i64, 1]); // [n, D]
        let mut generator = sample_generator(vae, seed);
        let latents = vae.latents_from(source, n as i64, Some(&condition), &mut generator)?;
        Ok((latents, condition))
    };
    let rows = conditions
        .iter()
        .map(row)
        .collect::<Result<Vec<_>, ModelError>>()?;
    let (latents, conditions): (Vec<Tensor>, Vec<Tensor>) = rows.into_iter().unzip();
    Ok((Tensor::cat(&latents, 0), Tensor::cat(&conditions, 0)))
}

/// The generator for new images: first their latents are drawn from it, then their pixels.
#[must_use]
pub fn sample_generator(vae: &Vae, seed: u64) -> Generator {
    vae.generator(derive_seed(seed, 0, "sample picture"))
}

/// Items `[N, C, H, W]` on the CPU (images in `[0, 1]`, arrays in their own unit) for any number of latents `[N, Z]`. Apart from
/// the items themselves the memory is bounded. For a model with a condition, the latents come with one each, `[N, D]`, or with
/// one for all, `[1, D]`.
///
/// # Errors
/// Latents of another shape; [`ViewError::TooManyImages`] if the images need more than 4 GiB; libtorch refuses.
pub fn decoded<'a>(
    vae: &Vae,
    latents: impl Into<Conditioned<'a>>,
    mut pixels: Pixels,
) -> Result<Tensor, ViewError> {
    let Conditioned {
        tensor: latents,
        condition,
    } = latents.into();
    let (n_images, shape) = (
        latents.size().first().copied().unwrap_or(0),
        vae.image_shape(),
    );
    let numbers = [n_images, shape.channels, shape.height, shape.width];
    if numbers.iter().map(|&n| n as u128).product::<u128>() > LARGEST_IMAGES / 4 {
        return Err(ViewError::TooManyImages { n_images, shape });
    }
    // One condition for all.
    let condition = condition.map(|condition| match condition.size().as_slice() {
        [1, n_columns] => condition.expand([n_images, *n_columns], false),
        _ => condition.shallow_clone(),
    });
    let latents = (latents, condition.as_ref()).into();
    Ok(in_chunks(latents, |chunk| match &mut pixels {
        Pixels::Mean => vae.decode(chunk),
        Pixels::Drawn(generator) => vae.decode_sampled(chunk, generator),
    })?)
}

/// Pictures of the items decoded from latents `[N, Z]`, `[N, c, h, w]` in `[0, 1]` on the CPU ([`tiles`] of [`decoded`]).
///
/// # Errors
/// Those of [`decoded`] and [`tiles`].
pub fn decoded_tiles<'a>(
    vae: &Vae,
    latents: impl Into<Conditioned<'a>>,
    pixels: Pixels,
) -> Result<Tensor, ViewError> {
    tiles(vae.item(), &decoded(vae, latents, pixels)?)
}

/// Originals `[N, C, H, W]` of a data set, each above its reconstruction, at most 16 in a row.
///
/// # Errors
/// Images of another shape than the model's.
pub fn reconstructions<'a>(
    vae: &Vae,
    originals: impl Into<Conditioned<'a>>,
) -> Result<DynamicImage, ViewError> {
    let images = originals.into();
    let originals = images.tensor;
    let reconstructed = reconstructed(vae, images)?;
    let shown = |items: &Tensor| tiles(vae.item(), items);
    let originals = as_decoded(vae.item(), originals);
    stacked(&shown(&originals)?, &[&shown(&reconstructed)?])
}

/// What the model makes of items `[N, C, H, W]` of a data set, in bounded memory but for the items themselves: images
/// in `[0, 1]`, arrays in their own unit, on the CPU.
///
/// # Errors
/// Items of another shape than the model's.
pub fn reconstructed<'a>(
    vae: &Vae,
    items: impl Into<Conditioned<'a>>,
) -> Result<Tensor, ViewError> {
    Ok(in_chunks(items.into(), |chunk| vae.reconstruct(chunk))?)
}

/// Each image of `above` over the corresponding ones of `below`, all `[N, C, H, W]` in `[0, 1]` on the CPU, at most 16 in
/// a row.
///
/// # Errors
/// libtorch refuses, as it does if they differ in shape.
pub fn stacked(above: &Tensor, below: &[&Tensor]) -> Result<DynamicImage, ViewError> {
    let (tiles, columns) = stacked_tiles(above, below)?;
    grid(&tiles, columns, 2)
}

/// The tiles of [`stacked`] and the number of its columns.
///
/// # Errors
/// As [`stacked`].
pub fn stacked_tiles(above: &Tensor, below: &[&Tensor]) -> Result<(Tensor, usize), ViewError> {
    let n_images = above.size4()?.0;
    let columns = n_images.clamp(1, 16);
    let mut rows = Vec::new();
    for start in (0..n_images).step_by(columns as usize) {
        let length = columns.min(n_images - start);
        let blank = || {
            let mut shape = above.size();
            shape[0] = columns - length;
            Tensor::ones(shape, (Kind::Float, Device::Cpu))
        };
        for &images in [above].iter().chain(below) {
            rows.push(images.narrow(0, start, length));
            rows.push(blank());
        }
    }
    Ok((Tensor::f_cat(&rows, 0)?, columns as usize))
}

/// Applies a model to the rows of `input` in chunks that need little memory. The result is on the CPU.
fn in_chunks(
    input: Conditioned,
    mut model: impl FnMut(Conditioned) -> Result<Tensor, ModelError>,
) -> Result<Tensor, ModelError> {
    const N_AT_A_TIME: i64 = 500;
    let conditions = input.condition.map(|known| known.split(N_AT_A_TIME, 0));
    let mut conditions = conditions.into_iter().flatten();
    let parts = input
        .tensor
        .split(N_AT_A_TIME, 0)
        .iter()
        .map(|chunk| {
            let condition = conditions.next();
            Ok(model((chunk, condition.as_ref()).into())?.to_device(Device::Cpu))
        })
        .collect::<Result<Vec<_>, ModelError>>()?;
    Ok(Tensor::cat(&parts, 0))
}

#[cfg(test)]
mod tests {
    use vae_model::{ImageShape, ModelConfig};

    use super::*;

    #[test]
    fn a_picture_beyond_all_memory_is_an_error() {
        // 2^20 images of 2^20 × 1 pixels, all of them views of one value.
        let pixel = Tensor::zeros([1, 1, 1, 1], (Kind::Float, Device::Cpu));
        let images = pixel.expand([1 << 20, 1, 1, 1 << 20], false);
        let error = grid(&images, 1 << 20, 2).unwrap_err();
        let ViewError::PictureSize { width, height } = error else {
            panic!("{error}");
        };
        assert_eq!((width, height), ((1 << 40) + (1 << 21) - 2, 1));
    }

    #[test]
    fn a_traversal_changes_one_dimension_in_a_row_and_the_most_used_first() {
        let vae = Vae::new(&linear(3, ""), DOT, Device::Cpu, 1).expect("a model");
        let origin = Tensor::from_slice(&[0.5_f32, -1.0, 2.0]);
        let dims = &by_use(3, &[0.1, 0.0, 0.7])[..2];
        let picture = traversals(&vae, &origin, dims, 11, 3.0).unwrap();
        let picture = picture.into_luma8();
        // Eleven images of one pixel, two pixels between them.
        assert_eq!(picture.dimensions(), (31, 4));
        for (row, dim) in [(0, 2), (1, 0)] {
            for column in 0..11 {
                let latent = origin.copy();
                let value = -3.0 + 0.6 * f64::from(column);
                let _ = latent.get(dim).fill_(value);
                let pixel = vae.decode(&latent.view([1, 3])).unwrap() * 255.0;
                let wanted = pixel.double_value(&[0, 0, 0, 0]).round() as u8;
                let found = picture.get_pixel(3 * column, 3 * row).0[0];
                assert!(found.abs_diff(wanted) <= 1, "{row}, {column}");
            }
        }
    }

    #[test]
    fn grid_puts_images_row_by_row_with_a_white_gap() {
        let images = Tensor::from_slice(&[0_f32, 0.2, 0.4]).view([3, 1, 1, 1]);
        let picture = grid(&images, 2, 1).unwrap().into_luma8();
        assert_eq!(picture.dimensions(), (3, 3));
        assert_eq!(
            picture.into_raw(),
            [0, 255, 51, 255, 255, 255, 102, 255, 255]
        );
    }

    #[test]
    fn grid_keeps_colors() {
        let image = Tensor::from_slice(&[1_f32, 0.0, 0.2]).view([1, 3, 1, 1]);
        let picture = grid(&image, 1, 2).unwrap().into_rgb8();
        assert_eq!(picture.into_raw(), [255, 0, 51]);
    }

    #[test]
    fn the_plane_spans_the_quantiles_right_and_up() {
        // Φ⁻¹(0.05) = −1.6448536, Φ⁻¹(0.5) = 0 (any table of the normal distribution).
        let vae = Vae::new(&linear(4, ""), DOT, Device::Cpu, 1).expect("a model");
        let quantiles = prior_quantiles(&vae, 3).expect("quantiles");
        let latents = plane_latents(&quantiles, &[1, 3]).view([3, 3, 4]);
        let corner = |row, column| Vec::<f32>::try_from(latents.get(row).get(column)).unwrap();
        let close = |found: Vec<f32>, wanted: [f32; 4]| {
            found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5)
        };
        assert!(close(corner(0, 0), [0.0, -1.644_853_6, 0.0, 1.644_853_6]));
        assert!(close(corner(1, 1), [0.0; 4]));
        assert!(close(corner(2, 2), [0.0, 1.644_853_6, 0.0, -1.644_853_6]));
    }

    #[test]
    fn the_most_used_dimensions_are_those_of_largest_kl() {
        assert_eq!(most_used(2, 4, &[0.1, 3.0, 0.0, 2.0]), [1, 3]);
        assert_eq!(most_used(2, 4, &[2.0, 0.0, 3.0, 0.1]), [0, 2]);
        assert_eq!(most_used(2, 3, &[]), [0, 1]);
        assert_eq!(most_used(2, 1, &[1.0]), [0]);
    }

    #[test]
    fn a_learned_prior_is_shown_at_its_own_quantiles() {
        // One untrained component is the standard normal: its quantiles, up to chance.
        let prior = "prior.gaussian_mixture = { components = 1, initial_spread = 0.0 }";
        let vae = Vae::new(&linear(2, prior), DOT, Device::Cpu, 1).expect("a model");
        let found = prior_quantiles(&vae, 3).expect("quantiles");
        let again = prior_quantiles(&vae, 3).expect("quantiles");
        assert_eq!(found.lines, again.lines);
        let plain = Vae::new(&linear(2, ""), DOT, Device::Cpu, 1).expect("a model");
        let wanted = prior_quantiles(&plain, 3).expect("quantiles");
        // Five standard errors of the 5 % quantile: √(0.05·0.95/10⁴) over a density of 0.103.
        let difference = (found.lines - wanted.lines).abs().max();
        assert!(difference.double_value(&[]) < 5.0 * 0.0212);
        assert!(found.medians.abs().max().double_value(&[]) < 5.0 * 0.0126);
    }

    #[test]
    fn a_sphere_is_a_map_and_its_traversals_stay_on_it() {
        let latents = globe_latents(4, 5, &[0, 2, 4]).view([4, 4, 5]);
        let norms = latents.square().sum_dim_intlist(-1, false, Kind::Float);
        assert!((norms - 1.0).abs().max().double_value(&[]) < 1e-5);
        // Up is the third dimension; half way to the right, in the second column of four, −90°.
        let place = |row, column| Vec::<f32>::try_from(latents.get(row).get(column)).unwrap();
        assert!((place(0, 0)[4] - 80_f32.to_radians().sin()).abs() < 1e-6);
        assert!(place(1, 1)[0].abs() < 1e-6 && place(1, 1)[2] < 0.0);
        assert_eq!(globe_latents(4, 2, &[0, 1]).size(), [4, 2]);

        let parts = "posterior = \"von_mises_fisher\"\nprior = \"hyperspherical_uniform\"";
        let vae = Vae::new(&linear(3, parts), DOT, Device::Cpu, 1).expect("a model");
        let origin = Tensor::from_slice(&[0.6_f32, 0.8, 0.0]);
        assert!(traversals(&vae, &origin, &[0, 1, 2], 11, 3.0).is_ok());
        assert!(manifold(&vae, 4, &[], None).is_ok());
    }

    const DOT: ImageShape = ImageShape {
        channels: 1,
        height: 1,
        width: 1,
    };

    /// A linear model with these parts.
    fn linear(latent_dims: i64, parts: &str) -> ModelConfig {
        let text = format!("latent_dims = {latent_dims}\nnetwork.mlp.hidden = []\n{parts}");
        toml::from_str(&text).expect("a model")
    }
}
