//! Pictures: grids of images, the latent plane, samples, reconstructions.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, GenericImage, GrayImage, ImageFormat, RgbImage};
use tch::{Device, Kind, Tensor};
use vae_data::derive_seed;
use vae_model::{ModelError, Vae, write_whole};

use crate::TrainError;

/// Puts images `[N, C, H, W]` in `[0, 1]` side by side, row by row, `gap` white pixels between
/// them. One channel gives a gray picture; of more, the first three are red, green and blue.
///
/// # Errors
/// libtorch refuses.
pub fn grid(images: &Tensor, columns: usize, gap: u32) -> Result<DynamicImage, TrainError> {
    let (n_images, channels, height, width) = images.size4()?;
    let n_images = n_images as usize;
    let (height, width) = (height as u32, width as u32);
    let columns = columns.clamp(1, n_images.max(1));
    let rows = n_images.div_ceil(columns);
    let side = |n: usize, pixels: u32| (n as u32 * (pixels + gap)).saturating_sub(gap);
    let (full_width, full_height) = (side(columns, width), side(rows, height));

    let depth = if channels >= 3 { 3 } else { 1 };
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

/// The plane of the two most used latent dimensions, decoded at `size`×`size` standard-normal
/// quantiles from 0.05 to 0.95 (the others at 0): to the right the first of the two grows, upward
/// the second. With one latent dimension, a strip.
///
/// # Errors
/// libtorch refuses.
pub fn manifold(
    vae: &Vae,
    size: usize,
    kl_per_dimension: &[f64],
) -> Result<DynamicImage, TrainError> {
    let latent_dims = vae.config().latent_dims as usize;
    let latents = manifold_latents(size, latent_dims, &most_used(latent_dims, kl_per_dimension));
    grid(&in_chunks(&latents, |chunk| vae.decode(chunk))?, size, 0)
}

/// The (at most) two dimensions of largest kl, in ascending order; the first two where none is
/// known.
fn most_used(latent_dims: usize, kl_per_dimension: &[f64]) -> Vec<usize> {
    let mut dims = by_use(latent_dims, kl_per_dimension);
    dims.truncate(2);
    dims.sort_unstable();
    dims
}

/// All dimensions, that of largest kl first; in their own order where none is known.
fn by_use(latent_dims: usize, kl_per_dimension: &[f64]) -> Vec<usize> {
    let mut dims: Vec<usize> = (0..latent_dims).collect();
    let kl = |dim: usize| kl_per_dimension.get(dim).copied().unwrap_or(0.0);
    dims.sort_by(|&a, &b| kl(b).total_cmp(&kl(a)));
    dims
}

/// Latents `[N, Z]` of the plane's images, row by row from the top left.
fn manifold_latents(size: usize, latent_dims: usize, dims: &[usize]) -> Tensor {
    let quantiles = Tensor::linspace(0.05, 0.95, size as i64, (Kind::Double, Device::Cpu));
    let line = quantiles.special_ndtri().to_kind(Kind::Float); // [size]
    let [across, up] = match dims {
        [_] => [
            line.shallow_clone(),
            Tensor::zeros([1], (Kind::Float, Device::Cpu)),
        ],
        _ => [line.shallow_clone(), line.flip([0])],
    };
    let (rows, columns) = (up.size()[0], across.size()[0]);
    let latents = Tensor::zeros(
        [rows, columns, latent_dims as i64],
        (Kind::Float, Device::Cpu),
    );
    latents
        .select(2, dims[0] as i64)
        .copy_(&across.unsqueeze(0).expand([rows, columns], false));
    if let Some(&second) = dims.get(1) {
        latents
            .select(2, second as i64)
            .copy_(&up.unsqueeze(1).expand([rows, columns], false));
    }
    latents.flatten(0, 1)
}

/// Images in a row of [`traversals`], for −3 to 3 standard deviations of the prior.
const N_IN_TRAVERSAL: i64 = 11;

/// A row for each of the `n` most used latent dimensions, the most used one first: the images of −3
/// to 3 in that dimension, the others as in `origin` `[Z]`. A latent of an image is a good origin: of
/// many dimensions the point 0 is far from all that the decoder was trained on.
///
/// # Errors
/// libtorch refuses.
pub fn traversals(
    vae: &Vae,
    origin: &Tensor,
    n: usize,
    kl_per_dimension: &[f64],
) -> Result<DynamicImage, TrainError> {
    let latent_dims = vae.config().latent_dims;
    let mut dims = by_use(latent_dims as usize, kl_per_dimension);
    dims.truncate(n);
    let line = Tensor::linspace(-3.0, 3.0, N_IN_TRAVERSAL, (Kind::Float, Device::Cpu));
    let n_rows = dims.len() as i64;
    let latents = origin
        .to_device(Device::Cpu)
        .expand([n_rows, N_IN_TRAVERSAL, latent_dims], false)
        .copy();
    for (row, &dim) in (0..).zip(&dims) {
        latents.get(row).select(1, dim as i64).copy_(&line);
    }
    let latents = latents.flatten(0, 1); // [rows · columns, Z]
    let images = in_chunks(&latents, |chunk| vae.decode(chunk))?;
    grid(&images, N_IN_TRAVERSAL as usize, 2)
}

/// `n` new images from the prior; the same seed gives the same latents for every model of as many
/// dimensions.
///
/// # Errors
/// libtorch refuses.
pub fn samples(vae: &Vae, n: usize, seed: u64) -> Result<DynamicImage, TrainError> {
    tch::manual_seed(derive_seed(seed, 0, "sample picture") as i64);
    let columns = (n as f64).sqrt().ceil() as usize;
    let latents = vae.sample_latents(n as i64);
    grid(&in_chunks(&latents, |chunk| vae.decode(chunk))?, columns, 2)
}

/// Originals `[N, C, H, W]` (bytes), each above its reconstruction, at most 16 in a row.
///
/// # Errors
/// Images of another shape than the model's.
pub fn reconstructions(vae: &Vae, originals: &Tensor) -> Result<DynamicImage, TrainError> {
    let n_images = originals.size()[0];
    let columns = n_images.clamp(1, 16);
    let reconstructed = in_chunks(originals, |chunk| vae.reconstruct(chunk))?;
    let originals = originals.to_device(Device::Cpu).to_kind(Kind::Float) / 255.0;
    let mut rows = Vec::new();
    for start in (0..n_images).step_by(columns as usize) {
        let length = columns.min(n_images - start);
        let blank = || {
            let mut shape = originals.size();
            shape[0] = columns - length;
            Tensor::ones(shape, (Kind::Float, Device::Cpu))
        };
        for images in [&originals, &reconstructed] {
            rows.push(images.narrow(0, start, length));
            rows.push(blank());
        }
    }
    grid(&Tensor::cat(&rows, 0), columns as usize, 2)
}

/// Applies a model to the rows of `input`, so many at a time that the memory for it stays small. The
/// result is on the CPU.
fn in_chunks(
    input: &Tensor,
    model: impl Fn(&Tensor) -> Result<Tensor, ModelError>,
) -> Result<Tensor, ModelError> {
    let parts = input
        .split(500, 0)
        .iter()
        .map(|chunk| Ok(model(chunk)?.to_device(Device::Cpu)))
        .collect::<Result<Vec<_>, ModelError>>()?;
    Ok(Tensor::cat(&parts, 0))
}

/// Writes a picture as PNG; it appears under its name only when it is whole.
///
/// # Errors
/// The file system refuses.
pub fn save(picture: &DynamicImage, path: &Path) -> Result<(), TrainError> {
    let mut bytes = Vec::new();
    picture
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .map_err(|source| TrainError::Picture {
            path: path.to_owned(),
            source,
        })?;
    write_whole(path, &bytes).map_err(TrainError::io(path))
}

#[cfg(test)]
mod tests {
    use vae_model::{ImageShape, MlpConfig, ModelConfig, NetworkConfig};

    use super::*;

    #[test]
    fn a_traversal_changes_one_dimension_in_a_row_and_the_most_used_first() {
        let config = ModelConfig {
            latent_dims: 3,
            network: NetworkConfig::Mlp(MlpConfig { hidden: vec![] }),
            ..Default::default()
        };
        let shape = ImageShape {
            channels: 1,
            height: 1,
            width: 1,
        };
        let vae = Vae::new(&config, shape, Device::Cpu).expect("a model");
        let origin = Tensor::from_slice(&[0.5_f32, -1.0, 2.0]);
        let picture = traversals(&vae, &origin, 2, &[0.1, 0.0, 0.7]).unwrap();
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
        let latents = manifold_latents(3, 4, &[1, 3]).view([3, 3, 4]);
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
        assert_eq!(most_used(4, &[0.1, 3.0, 0.0, 2.0]), [1, 3]);
        assert_eq!(most_used(4, &[2.0, 0.0, 3.0, 0.1]), [0, 2]);
        assert_eq!(most_used(3, &[]), [0, 1]);
        assert_eq!(most_used(1, &[1.0]), [0]);
    }
}
