//! Which codes are in use, and where in images.

use image::{DynamicImage, Rgb, RgbImage, imageops};
use plotters::prelude::*;
use tch::{Kind, Tensor};

use crate::ViewError;
use crate::chart::{Axes, Axis, FAINT_INK, INK, SCALE, SIZE, canvas, colors, draw_key, font, px};
use crate::picture::grid;
use crate::ticks::{tick_label, tick_step};

/// The codes of images: how often each occurs, and which code lies where.
#[derive(Debug)]
pub struct CodeChart<'a> {
    /// The title.
    pub title: &'a str,
    /// A line below it.
    pub subtitle: &'a str,
    /// How often each code of each codebook occurs, i64 `[n_books, n_codes]`.
    pub counts: &'a Tensor,
    /// Some of the images, as pictures `[N, 3 or 1, H, W]`.
    pub images: &'a Tensor,
    /// Their codes of each codebook, i64 `[N, h, w]`.
    pub maps: &'a [Tensor],
    /// Number of codes of a codebook.
    pub n_codes: i64,
}

/// Codebooks whose frequencies and maps are shown.
const MOST_BOOKS: i64 = 4;

/// Width of an image and of its map of codes in pixels.
const TILE: u32 = 160;
const GAP: u32 = 8;

impl CodeChart<'_> {
    /// The frequencies of the codes, the most frequent first, above the images with a color for each code.
    ///
    /// # Errors
    /// The plotter refuses.
    pub fn draw(&self) -> Result<DynamicImage, ViewError> {
        let above = self.frequencies()?.into_rgb8();
        let below = self.places()?;
        let height = above.height() + below.height() + 2 * GAP;
        let mut whole = RgbImage::from_pixel(SIZE.0, height, Rgb([255, 255, 255]));
        imageops::replace(&mut whole, &above, 0, 0);
        let left = SIZE.0.saturating_sub(below.width()) / 2;
        imageops::replace(
            &mut whole,
            &below,
            i64::from(left),
            i64::from(above.height() + GAP),
        );
        Ok(whole.into())
    }

    fn n_books(&self) -> i64 {
        self.counts.size()[0].min(MOST_BOOKS)
    }

    fn frequencies(&self) -> Result<DynamicImage, ViewError> {
        let shares = (0..self.n_books())
            .map(|book| {
                let counts = self.counts.get(book).to_kind(Kind::Double);
                let shares = &counts / counts.sum(Kind::Double).clamp_min(1.0) * 100.0;
                let (shares, _) = shares.sort(0, true);
                Ok(Vec::<f64>::try_from(shares)?)
            })
            .collect::<Result<Vec<_>, ViewError>>()?;
        let highest = shares.iter().flatten().copied().fold(1e-9, f64::max) * 1.05;
        let n_codes = self.n_codes as f64;
        let (x_step, y_step) = (tick_step(n_codes, 10), tick_step(highest, 6));
        let equal = 100.0 / n_codes;
        let plot = canvas(self.title, self.subtitle, |body| {
            let (legend, body) = body.split_vertically(px(30));
            let palette = colors(shares.len());
            let style = font(17, false, INK);
            if shares.len() > 1 {
                for (book, &color) in (0..shares.len()).zip(&palette) {
                    let place = (px(110) + book as i32 * px(160), px(2));
                    let name = format!("codebook {}", book + 1);
                    draw_key(&legend, place, &name, color, &style)?;
                }
            }
            let place = (px(110) + shares.len() as i32 * px(160), px(2));
            draw_key(&legend, place, "all equally frequent", FAINT_INK, &style)?;
            let axes = Axes {
                x: (
                    Axis::new(&(0.0..n_codes), x_step),
                    "codes, the most frequent first",
                ),
                y: (
                    Axis::new(&(0.0..highest.max(equal * 1.5)), y_step),
                    "% of all places",
                ),
                x_label: &|&value| tick_label(value, x_step),
                y_label: &|&value| tick_label(value, y_step),
                margin_top: 4,
                has_x_mesh: false,
            };
            let mut chart = axes.draw(&body)?;
            if let ([only], [color, ..]) = (&shares[..], &palette[..]) {
                let bars = only.iter().enumerate().map(|(i, &share)| {
                    let corners = [(i as f64, 0.0), (i as f64 + 1.0, share)];
                    Rectangle::new(corners, color.mix(0.6).filled())
                });
                chart.draw_series(bars)?;
            } else {
                for (of_book, color) in shares.iter().zip(&palette) {
                    let steps = of_book.iter().enumerate();
                    let line =
                        steps.flat_map(|(i, &share)| [(i as f64, share), (i as f64 + 1.0, share)]);
                    chart.draw_series([PathElement::new(
                        line.collect::<Vec<_>>(),
                        color.stroke_width(2 * SCALE),
                    )])?;
                }
            }
            let line = vec![(0.0, equal), (n_codes, equal)];
            chart.draw_series([PathElement::new(line, FAINT_INK.stroke_width(SCALE))])?;
            Ok(())
        })?;
        plot.image()
    }

    /// A column for each image: the image above its maps of codes.
    fn places(&self) -> Result<RgbImage, ViewError> {
        let n = self.images.size()[0];
        let maps = &self.maps[..self.maps.len().min(MOST_BOOKS as usize)];
        let n_rows = 1 + maps.len() as u32;
        let step = TILE + GAP;
        let mut whole = RgbImage::from_pixel(
            n as u32 * step + GAP,
            n_rows * step + GAP,
            Rgb([255, 255, 255]),
        );
        let mut place = |picture: &RgbImage, column: i64, row: u32| {
            let scaled = imageops::resize(picture, TILE, TILE, imageops::FilterType::Nearest);
            let (x, y) = (GAP + column as u32 * step, GAP + row * step);
            imageops::replace(&mut whole, &scaled, i64::from(x), i64::from(y));
        };
        for column in 0..n {
            let image = grid(&self.images.narrow(0, column, 1), 1, 0)?;
            place(&image.into_rgb8(), column, 0);
            for (row, map) in (1..).zip(maps) {
                let [height, width] = [map.size()[1], map.size()[2]];
                let codes = Vec::<i64>::try_from(map.get(column).flatten(0, -1))?;
                let map = RgbImage::from_fn(width as u32, height as u32, |x, y| {
                    color_of(codes[(i64::from(y) * width + i64::from(x)) as usize])
                });
                place(&map, column, row);
            }
        }
        Ok(whole)
    }
}

/// A color of each code: hues a golden section apart, so that codes near each other in the list differ most.
fn color_of(code: i64) -> Rgb<u8> {
    let hue = (code as f64 * 0.618_033_988_749_895).fract();
    let lightness = 0.35 + 0.35 * (code as f64 * 0.381_966).fract();
    let (r, g, b) = HSLColor(hue, 0.65, lightness).rgb();
    Rgb([r, g, b])
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn a_place_has_the_color_of_its_code() {
        let maps = Tensor::arange(2 * 2 * 3 * 3, (Kind::Int64, Device::Cpu)).view([2, 2, 3, 3]);
        let maps = [0, 1].map(|book| maps.select(1, book));
        let chart = CodeChart {
            title: "codes",
            subtitle: "",
            counts: &Tensor::ones([2, 40], (Kind::Int64, Device::Cpu)),
            images: &Tensor::zeros([2, 1, 8, 8], (Kind::Float, Device::Cpu)),
            maps: &maps,
            n_codes: 40,
        };
        let places = chart.places().expect("a picture");
        assert_eq!(places.dimensions(), (2 * 168 + 8, 3 * 168 + 8));
        // The second image's second map, its last place.
        let (x, y) = (8 + 168 + 159, 8 + 2 * 168 + 159);
        assert_eq!(*places.get_pixel(x, y), color_of(35));
        assert_eq!(chart.draw().expect("a picture").width(), SIZE.0);
    }
}
