//! Items as tiles of a grid: images unchanged, series as curves, vectors as bars.

use plotters::prelude::*;
use tch::{Device, Kind, Tensor};
use vae_model::{ItemKind, ItemSpec, Standardization};

use crate::ViewError;
use crate::chart::{COLORS, GRID, SCALE};
use crate::melody::piano_rolls;
use crate::sound::shown_spectrograms;

/// The height in pixels of a tile with curves.
const HEIGHT: i64 = 64;

/// The smallest and largest width in pixels of a tile with curves.
const WIDTHS: [i64; 2] = [96, 192];

/// The most channels that are drawn as curves; more become a color map.
const MOST_CURVES: i64 = 6;

/// The most values of a vector that are drawn as bars; more become a curve.
const MOST_BARS: i64 = 32;

/// The range of a tile, in standard deviations from the mean.
const REACH: f64 = 3.0;

/// The items of a data set's batches in the units of decoded items: images in `[0, 1]`, sound in `[-1, 1]`, arrays
/// unchanged. f32
/// `[N, C, H, W]` on the CPU.
pub fn as_decoded(item: &ItemSpec, items: &Tensor) -> Tensor {
    let items = items.to_device(Device::Cpu).to_kind(Kind::Float);
    match item.kind {
        ItemKind::Image => items / 255.0,
        ItemKind::Sound { .. } => items / 32_768.0,
        _ => items,
    }
}

/// Pictures of items `[N, C, H, W]` as a model decodes them ([`as_decoded`] converts those of a data set), in `[0, 1]` on the
/// CPU.
///
/// Images are unchanged. Sound and its spectrograms are color maps from quiet (black) to loud, the lowest frequency at the
/// bottom. Other arrays `[C, H, W]` are shown as images from dark (3 standard deviations below the training data's
/// mean) to light. Series `[C, T]` are curves, one color per channel, on axes of 3 standard deviations around the mean, which
/// is a gray line; with more than six channels they are a color map with a row for each. Vectors are bars, or a curve if they
/// have more than 32 values. Melodies are piano rolls. If the model has no statistics, those of these items are used. Missing values are gaps.
///
/// # Errors
/// Items of another shape, or tokens other than melodies, which have no picture; the plotter refuses.
pub fn tiles(item: &ItemSpec, items: &Tensor) -> Result<Tensor, ViewError> {
    if let Some(melody) = &item.melody {
        return piano_rolls(melody, items);
    }
    if item.is_tokens() {
        return Err(ViewError::Tokens);
    }
    let items = items.to_device(Device::Cpu).to_kind(Kind::Float);
    if item.is_image() {
        return Ok(items);
    }
    if let ItemKind::Sound { .. } = item.kind {
        let (maps, floor) = shown_spectrograms(item, &items)?;
        return Ok(heat(&maps, floor, LOUDEST));
    }
    if let Some(spectrogram) = &item.spectrogram {
        let loudest = match &item.standardization {
            Some(Standardization { mean, std }) => mean[0] + REACH * std[0],
            None => LOUDEST,
        };
        return Ok(heat(&items, spectrogram.floor, loudest));
    }
    let scaled = scaled(item, &items)?; // [N, C, H, W], −1 … 1 within the reach
    let (n, channels, height, width) = scaled.size4()?;
    let shades = || scaled.nan_to_num(-1.0, None, None).clamp(-1.0, 1.0) * 0.5 + 0.5;
    if height > 1 {
        return Ok(shades());
    }
    if channels > MOST_CURVES {
        let map = shades().view([n, 1, channels, width]);
        let [rows, columns] = [(channels, 48), (width, 96)].map(|(n, least)| (least / n).max(1));
        return Ok(map
            .repeat_interleave_self_int(rows, 2, None)
            .repeat_interleave_self_int(columns, 3, None));
    }
    let has_bars = item.shape.len() == 1 && width <= MOST_BARS;
    let n_columns = match has_bars {
        true => WIDTHS[0],
        false => width.clamp(WIDTHS[0], WIDTHS[1]),
    };
    let pictures: Vec<Tensor> = (0..n)
        .map(|i| {
            let values = Vec::<f32>::try_from(scaled.get(i).contiguous().view(-1))?;
            let channels: Vec<&[f32]> = values.chunks_exact(width.max(1) as usize).collect();
            let size = (n_columns as u32 * SCALE, HEIGHT as u32 * SCALE);
            let pixels = match has_bars {
                true => drawn(size, |area| bars(area, size, channels[0])),
                false => drawn(size, |area| curves(area, size, &channels)),
            }
            .map_err(|error| ViewError::Plot(error.to_string()))?;
            let scale = i64::from(SCALE);
            Ok(Tensor::from_slice(&pixels).view([scale * HEIGHT, scale * n_columns, 3]))
        })
        .collect::<Result<_, ViewError>>()?;
    if pictures.is_empty() {
        let options = (Kind::Float, Device::Cpu);
        return Ok(Tensor::zeros([0, 3, HEIGHT, n_columns], options));
    }
    let pixels = Tensor::stack(&pictures, 0).permute([0, 3, 1, 2]);
    let pixels = pixels.to_kind(Kind::Float) / 255.0;
    let scale = [i64::from(SCALE); 2];
    Ok(pixels.avg_pool2d(scale, scale, [0, 0], false, true, None))
}

/// The top of the color map of sound, in dB.
const LOUDEST: f64 = 20.0;

/// The fewest pixels from the lowest to the highest band, and from the first to the last frame.
const LEAST_SIDE: i64 = 64;

/// Black, purple, red, yellow, near white, of about equal steps of lightness, as matplotlib's magma.
const HEAT: [[f32; 3]; 8] = [
    [0.001, 0.000, 0.014],
    [0.135, 0.068, 0.315],
    [0.372, 0.093, 0.499],
    [0.595, 0.177, 0.501],
    [0.829, 0.263, 0.431],
    [0.973, 0.462, 0.361],
    [0.997, 0.708, 0.484],
    [0.987, 0.991, 0.750],
];

/// Spectrograms `[N, C, bands, frames]` from `floor` to `top` dB as colors `[N, 3, …]`: the lowest band at the bottom, the
/// channels one above the other.
fn heat(maps: &Tensor, floor: f64, top: f64) -> Tensor {
    let (n, channels, bands, frames) = (
        maps.size()[0],
        maps.size()[1],
        maps.size()[2],
        maps.size()[3],
    );
    let rows = maps.flip([2]).reshape([n, channels * bands, frames]);
    let level: Tensor = (rows - floor) / (top - floor).max(1.0);
    let level = level.nan_to_num(0.0, None, None).clamp(0.0, 1.0) * (HEAT.len() - 1) as f64;
    let below = level.floor().clamp_max((HEAT.len() - 2) as f64);
    let share = (&level - &below).unsqueeze(1); // [N, 1, H, W]
    let colors = Tensor::from_slice(HEAT.as_flattened()).view([-1, 3]);
    let at = |index: Tensor| {
        let index = index.to_kind(Kind::Int64).view(-1);
        let sides = [n, channels * bands, frames, 3];
        colors
            .index_select(0, &index)
            .view(sides)
            .permute([0, 3, 1, 2])
    };
    let picture: Tensor = at(below.shallow_clone()) * (1.0 - &share) + at(below + 1.0) * share;
    let times = |side: i64| (LEAST_SIDE / side.max(1)).max(1);
    picture
        .repeat_interleave_self_int(times(channels * bands), 2, None)
        .repeat_interleave_self_int(times(frames), 3, None)
}

/// (x − mean) / 3 standard deviations, NaN for missing values.
fn scaled(item: &ItemSpec, items: &Tensor) -> Result<Tensor, ViewError> {
    let shape = item.statistics_shape();
    let (mean, std) = match &item.standardization {
        Some(Standardization { mean, std }) => {
            let tensor = |values: &[f64]| Tensor::from_slice(values).view(shape);
            (tensor(mean), tensor(std))
        }
        None => {
            // Over the items and everything else that shares a statistic, without missing values.
            let mut dims = vec![0];
            dims.extend((0..3).filter(|&i| shape[i] == 1).map(|i| i as i64 + 1));
            let values = items.to_kind(Kind::Double);
            let mean = values.nanmean(dims.as_slice(), true, Kind::Double);
            let variance = (&values - &mean)
                .square()
                .nanmean(dims.as_slice(), true, Kind::Double);
            (mean.view(shape), variance.sqrt().view(shape))
        }
    };
    let reach = (std * REACH).clamp_min(f64::MIN_POSITIVE);
    Ok(((items.f_sub(&mean)?) / reach).to_kind(Kind::Float))
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// The RGB bytes of a white tile.
fn drawn(
    (width, height): (u32, u32),
    draw: impl FnOnce(&Area) -> Drawn,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut pixels = vec![255; (width * height * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        draw(&area)?;
        area.present()?;
    }
    Ok(pixels)
}

/// The row of pixels for a value in −1 … 1; values outside are drawn at the edge.
fn row(value: f32, height: u32) -> i32 {
    let last = (height - 1) as f32;
    ((0.5 - 0.5 * value.clamp(-1.0, 1.0)) * last).round() as i32
}

fn curves(area: &Area, (width, height): (u32, u32), channels: &[&[f32]]) -> Drawn {
    let middle = row(0.0, height);
    let zero = vec![(0, middle), (width as i32 - 1, middle)];
    area.draw(&PathElement::new(zero, GRID.stroke_width(SCALE)))?;
    for (values, color) in channels.iter().zip(COLORS) {
        let last = (values.len().max(2) - 1) as f32;
        let place = |step: usize, value: f32| {
            let column = step as f32 / last * (width - 1) as f32;
            (column.round() as i32, row(value, height))
        };
        // A missing value ends one part of the curve, and another begins after it.
        let mut part = Vec::new();
        for (step, &value) in values.iter().enumerate() {
            match value.is_nan() {
                false => part.push(place(step, value)),
                true => line(area, std::mem::take(&mut part), color)?,
            }
        }
        line(area, part, color)?;
    }
    Ok(())
}

fn line(area: &Area, points: Vec<(i32, i32)>, color: RGBColor) -> Drawn {
    match points[..] {
        [] => {}
        [point] => area.draw(&Circle::new(point, SCALE, color.filled()))?,
        _ => area.draw(&PathElement::new(points, color.stroke_width(SCALE)))?,
    }
    Ok(())
}

fn bars(area: &Area, (width, height): (u32, u32), values: &[f32]) -> Drawn {
    let middle = row(0.0, height);
    let edge = |i: usize| (i as f32 / values.len() as f32 * width as f32).round() as i32;
    for (i, &value) in values
        .iter()
        .enumerate()
        .filter(|(_, value)| !value.is_nan())
    {
        let [left, right] = [edge(i), edge(i + 1)];
        // One pixel between bars, if there is room.
        let gap = if right - left > 3 * SCALE as i32 {
            SCALE as i32
        } else {
            0
        };
        let right = right - 1 - gap;
        let corners = [(left, row(value, height)), (right, middle)];
        area.draw(&Rectangle::new(corners, COLORS[0].filled()))?;
    }
    let zero = vec![(0, middle), (width as i32 - 1, middle)];
    area.draw(&PathElement::new(zero, GRID.stroke_width(SCALE)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use vae_model::{ImageShape, ItemKind, Spectrogram};

    #[test]
    fn a_spectrogram_has_its_lowest_band_at_the_bottom() {
        let spectrogram = Spectrogram {
            rate: 8000,
            window: 512,
            hop: 128,
            low: 0.0,
            high: 4000.0,
            floor: -50.0,
        };
        let item = ItemSpec {
            spectrogram: Some(spectrogram),
            ..ItemSpec::new(ItemKind::Array, vec![1, 2, 3])
        };
        let items =
            Tensor::from_slice(&[20_f32, -50.0, -50.0, -50.0, -50.0, -80.0]).view([1, 1, 2, 3]);
        let picture = tiles(&item, &items).unwrap();
        assert_eq!(picture.size(), [1, 3, 64, 63]);
        let at = |row: i64, column: i64| picture.double_value(&[0, 0, row, column]);
        assert!(at(63, 0) > 0.9 && at(0, 0) < 0.01 && at(63, 30) < 0.01 && at(0, 60) < 0.01);
        let sound = ItemSpec::new(ItemKind::Sound { rate: 8000 }, vec![1, 4000]);
        let picture = tiles(
            &sound,
            &Tensor::zeros([2, 1, 1, 4000], (Kind::Float, Device::Cpu)),
        );
        assert_eq!(picture.unwrap().size()[..3], [2, 3, 64]);
    }

    use super::*;

    fn item(shape: &[i64], n: usize) -> ItemSpec {
        ItemSpec {
            standardization: Some(Standardization {
                mean: vec![1.0; n],
                std: vec![2.0; n],
            }),
            ..ItemSpec::new(ItemKind::Array, shape.to_vec())
        }
    }

    /// Whether a pixel of the first tile is not gray.
    fn is_colored(tiles: &Tensor, y: i64, x: i64) -> bool {
        let pixel = tiles.get(0).select(1, y).select(1, x);
        (pixel.max() - pixel.min()).double_value(&[]) > 0.2
    }

    #[test]
    fn an_image_is_its_own_picture() {
        let image = ItemSpec::from(ImageShape {
            channels: 1,
            height: 2,
            width: 2,
        });
        let bytes = Tensor::from_slice(&[0_u8, 51, 102, 255]).view([1, 1, 2, 2]);
        let shown = tiles(&image, &as_decoded(&image, &bytes)).expect("a picture");
        let wanted = Tensor::from_slice(&[0_f32, 0.2, 0.4, 1.0]).view([1, 1, 2, 2]);
        assert!((shown - wanted).abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn a_series_is_a_curve_around_its_mean_with_gaps() {
        // At the mean, then above the upper edge, 1 + 3·2.
        let mut values = vec![1_f32; 96];
        values[48..].fill(8.0);
        values[20..30].fill(f32::NAN);
        let series = Tensor::from_slice(&values).view([1, 1, 1, 96]);
        let shown = tiles(&item(&[1, 96], 1), &series).expect("a picture");
        assert_eq!(shown.size(), [1, 3, HEIGHT, 96]);
        let middle = i64::from(row(0.0, HEIGHT as u32));
        assert!(is_colored(&shown, middle, 10) && !is_colored(&shown, 0, 10));
        assert!(!is_colored(&shown, middle, 25), "a gap");
        assert!(is_colored(&shown, 0, 80) && !is_colored(&shown, middle, 80));
    }

    #[test]
    fn a_vector_is_bars_and_many_channels_are_a_map() {
        let vector = Tensor::from_slice(&[8_f32, -6.0]).view([1, 1, 1, 2]);
        let shown = tiles(&item(&[2], 2), &vector).expect("a picture");
        let middle = i64::from(row(0.0, HEIGHT as u32));
        assert!(is_colored(&shown, 10, 20) && !is_colored(&shown, middle + 10, 20));
        assert!(is_colored(&shown, middle + 10, 70) && !is_colored(&shown, 10, 70));
        let many = Tensor::full([2, 12, 1, 100], 8.0, (Kind::Float, Device::Cpu));
        let shown = tiles(&item(&[12, 100], 12), &many).expect("a picture");
        assert_eq!(shown.size(), [2, 1, 48, 100]);
        assert_eq!(shown.min().double_value(&[]), 1.0);
        // If the model has no statistics, those of the items.
        let bare = ItemSpec::new(ItemKind::Array, vec![3, 5, 5]);
        let random = Tensor::arange(75, (Kind::Float, Device::Cpu)).view([1, 3, 5, 5]);
        let shown = tiles(&bare, &random).expect("a picture");
        assert_eq!(shown.size(), [1, 3, 5, 5]);
        assert!((shown.mean(Kind::Float).double_value(&[]) - 0.5).abs() < 1e-5);
    }
}
