//! Grids of pictures that say what they show: a title, names of rows and columns, and a caption below each picture.

use image::{DynamicImage, Rgb, RgbImage, imageops};
use plotters::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::ViewError;
use crate::chart::{FAINT_INK, INK, SCALE, font, px, register_fonts};

/// What stands around the pictures of a grid. Every part may be empty.
#[derive(Clone, Debug, Default)]
pub struct Labeled {
    /// The title.
    pub title: String,
    /// What is to be seen, below the title.
    pub subtitle: String,
    /// The name of each row, to its left. Further lines are remarks.
    pub rows: Vec<String>,
    /// The name of each column, above it. Further lines are remarks.
    pub columns: Vec<String>,
    /// Lines below each picture.
    pub captions: Vec<String>,
    /// White pixels between pictures, 2 by default.
    pub gap: Option<u32>,
}

/// The edge of a picture.
const MARGIN: u32 = 16;

/// The widest name of a row in pixels.
const WIDEST_ROW_NAME: u32 = 240;

/// The shorter side of a picture of the grid is at least this, and with names around it at least that.
const LEAST_SIDE: u32 = 64;
const LEAST_NAMED_SIDE: u32 = 84;

/// Pictures of a moving grid are enlarged until its rows fill so many pixels.
const HEIGHT_OF_FRAME: u32 = 256;

/// Up to this width small pictures are enlarged.
const WIDEST: u32 = 2200;

/// The largest size of a picture in bytes.
const LARGEST_PICTURE: u64 = 1 << 31;

/// A kind of text.
#[derive(Clone, Copy)]
struct Type {
    size: u32,
    is_bold: bool,
    ink: RGBColor,
}

const TITLE: Type = Type {
    size: 22,
    is_bold: true,
    ink: INK,
};
const SUBTITLE: Type = Type {
    size: 15,
    is_bold: false,
    ink: FAINT_INK,
};
const NAME: Type = Type {
    size: 15,
    is_bold: false,
    ink: INK,
};
const REMARK: Type = Type {
    size: 13,
    is_bold: false,
    ink: FAINT_INK,
};

impl Type {
    /// That of a line of a label.
    fn of_line(line: usize) -> Self {
        if line == 0 { NAME } else { REMARK }
    }

    fn line_height(self) -> u32 {
        self.size + self.size / 3
    }

    fn width(self, text: &str) -> Result<u32, ViewError> {
        let style = font(self.size, self.is_bold, self.ink);
        let layout = style.font.layout_box(text);
        let ((left, _), (right, _)) = layout.map_err(|error| ViewError::Plot(error.to_string()))?;
        Ok(((right - left).max(0) as u32).div_ceil(SCALE) + 2)
    }

    /// The text, without its middle if it is wider than `width` pixels.
    fn fitted(self, text: &str, width: u32) -> Result<String, ViewError> {
        if self.width(text)? <= width {
            return Ok(text.to_owned());
        }
        let letters: Vec<char> = text.chars().collect();
        let without = |n_left: usize| {
            let (start, end) = (n_left.div_ceil(2), n_left / 2);
            let start: String = letters[..start].iter().collect();
            let end: String = letters[letters.len() - end..].iter().collect();
            format!("{}…{}", start.trim_end(), end.trim_start())
        };
        // The longest that fits.
        let (mut low, mut high) = (0, letters.len().saturating_sub(1));
        while low < high {
            let middle = (low + high).div_ceil(2);
            match self.width(&without(middle))? <= width {
                true => low = middle,
                false => high = middle - 1,
            }
        }
        Ok(without(low))
    }

    /// The text in lines of at most `width` pixels, broken at spaces.
    fn wrapped(self, text: &str, width: u32) -> Result<Vec<String>, ViewError> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split(' ') {
            if let Some(line) = lines.last_mut() {
                let longer = format!("{line} {word}");
                if self.width(&longer)? <= width {
                    *line = longer;
                    continue;
                }
            }
            lines.push(word.to_owned());
        }
        Ok(lines)
    }

    /// A picture of the text.
    fn stamp(self, text: &str) -> Result<RgbImage, ViewError> {
        register_fonts();
        // The plotter draws above the place that it is given.
        let (width, height) = (self.width(text)? + 2, self.line_height() + 3);
        let size = (width * SCALE, height * SCALE);
        let mut bytes = vec![255_u8; (size.0 * size.1 * 3) as usize];
        {
            let plot = |error: &dyn std::fmt::Display| ViewError::Plot(error.to_string());
            let root = BitMapBackend::with_buffer(&mut bytes, size).into_drawing_area();
            let style = font(self.size, self.is_bold, self.ink);
            let text = Text::new(text.to_owned(), (px(1), px(4)), style);
            root.draw(&text).map_err(|error| plot(&error))?;
            root.present().map_err(|error| plot(&error))?;
        }
        let large = RgbImage::from_raw(size.0, size.1, bytes)
            .ok_or_else(|| ViewError::Plot("a buffer of the wrong size".to_owned()))?;
        Ok(imageops::thumbnail(&large, width, height))
    }
}

/// Where a text stands in its place.
#[derive(Clone, Copy)]
enum Align {
    Left,
    Center,
}

/// A picture that texts and tiles are put on.
struct Sheet(RgbImage);

impl Sheet {
    /// Writes a line at (x, y), within `width` pixels.
    fn write(
        &mut self,
        text: &str,
        kind: Type,
        (x, y): (u32, u32),
        width: u32,
        align: Align,
    ) -> Result<(), ViewError> {
        if text.is_empty() {
            return Ok(());
        }
        let stamp = kind.stamp(&kind.fitted(text, width)?)?;
        let free = width.saturating_sub(stamp.width());
        let x = match align {
            Align::Left => x,
            Align::Center => x + free / 2,
        };
        imageops::replace(&mut self.0, &stamp, x.into(), y.into());
        Ok(())
    }

    /// Writes the lines of a label from y on.
    fn label(
        &mut self,
        text: &str,
        (x, mut y): (u32, u32),
        width: u32,
        align: Align,
    ) -> Result<(), ViewError> {
        for (i, line) in text.lines().enumerate() {
            let kind = Type::of_line(i);
            self.write(line, kind, (x, y), width, align)?;
            y += kind.line_height();
        }
        Ok(())
    }
}

/// The height of the highest of some labels.
fn height_of(labels: &[String]) -> u32 {
    let height = |label: &String| {
        let lines = 0..label.lines().count();
        lines.map(|line| Type::of_line(line).line_height()).sum()
    };
    labels.iter().map(height).max().unwrap_or(0)
}

/// The whole factor by which pictures are enlarged: small ones to a size at which they can be seen, as long as a row of them
/// fits.
#[must_use]
pub fn enlargement(width: u32, height: u32, columns: usize, least_side: u32) -> u32 {
    let wanted = least_side.div_ceil(width.min(height).max(1)).max(1);
    let room = WIDEST / (width * columns as u32).max(1);
    wanted.min(room.max(1))
}

impl Labeled {
    /// The pictures `[N, C, H, W]` in `[0, 1]` in rows of `columns`, with what is known of them around. Small ones are enlarged
    /// by a whole factor.
    ///
    /// # Errors
    /// [`ViewError::PictureSize`] if the picture would be larger than 2 GiB; the plotter or libtorch refuses.
    pub fn draw(&self, images: &Tensor, columns: usize) -> Result<DynamicImage, ViewError> {
        let is_named = [&self.rows, &self.columns, &self.captions];
        let least_side = match is_named.iter().all(|labels| labels.is_empty()) {
            true => LEAST_SIDE,
            false => LEAST_NAMED_SIDE,
        };
        self.draw_enlarged(images, columns, least_side)
    }

    /// [`Self::draw`], with pictures enlarged to this side at least.
    fn draw_enlarged(
        &self,
        images: &Tensor,
        columns: usize,
        least_side: u32,
    ) -> Result<DynamicImage, ViewError> {
        let (n_images, channels, height, width) = images.size4()?;
        let n_images = n_images as usize;
        let columns = columns.clamp(1, n_images.max(1));
        let n_rows = n_images.div_ceil(columns);
        let factor = enlargement(width as u32, height as u32, columns, least_side);
        let gap = self.gap.unwrap_or(2 * factor.min(2));
        let (tile_width, tile_height) = (width as u32 * factor, height as u32 * factor);

        let mut row_names = 0;
        for name in self.rows.iter().flat_map(|name| name.lines().enumerate()) {
            row_names = row_names.max(Type::of_line(name.0).width(name.1)?);
        }
        let left = MARGIN + row_names.min(WIDEST_ROW_NAME) + if row_names > 0 { 12 } else { 0 };
        let grid_width = columns as u32 * (tile_width + gap) - gap;
        let title_width = TITLE.width(&self.title)?.min(WIDEST / 2);
        let width_of_all = (left + grid_width).max(MARGIN + title_width.max(300)) + MARGIN;
        let text_width = width_of_all - 2 * MARGIN;
        let subtitle = match self.subtitle.is_empty() {
            true => Vec::new(),
            false => SUBTITLE.wrapped(&self.subtitle, text_width)?,
        };
        let mut top = MARGIN;
        if !self.title.is_empty() {
            top += TITLE.line_height() + 4;
        }
        top += subtitle.len() as u32 * SUBTITLE.line_height();
        if top > MARGIN {
            top += 10;
        }
        let head = top;
        let column_names = height_of(&self.columns);
        top += column_names + if column_names > 0 { 4 } else { 0 };
        let below = height_of(&self.captions);
        let below = below + if below > 0 { 9 } else { 0 };
        let row_height = tile_height + below + gap;
        let height_of_all =
            u64::from(top) + u64::from(row_height) * n_rows as u64 + u64::from(MARGIN);
        let n_bytes = height_of_all * u64::from(width_of_all) * 3;
        let Some(height_of_all) = u32::try_from(height_of_all)
            .ok()
            .filter(|_| n_bytes <= LARGEST_PICTURE)
        else {
            return Err(ViewError::PictureSize {
                width: width_of_all.into(),
                height: height_of_all,
            });
        };

        let white = Rgb([255, 255, 255]);
        let mut sheet = Sheet(RgbImage::from_pixel(width_of_all, height_of_all, white));
        let start = (MARGIN, MARGIN);
        sheet.write(&self.title, TITLE, start, text_width, Align::Left)?;
        for (line, i) in subtitle.iter().rev().zip(1..) {
            let place = (MARGIN, head - 10 - i * SUBTITLE.line_height());
            sheet.write(line, SUBTITLE, place, text_width, Align::Left)?;
        }
        for (i, name) in self.columns.iter().take(columns).enumerate() {
            let place = (left + i as u32 * (tile_width + gap), head);
            sheet.label(name, place, tile_width, Align::Center)?;
        }
        for (i, name) in self.rows.iter().take(n_rows).enumerate() {
            let height = height_of(std::slice::from_ref(name));
            let middle = top + i as u32 * row_height + tile_height / 2;
            let place = (MARGIN, middle.saturating_sub(height / 2));
            sheet.label(name, place, left - MARGIN - 12, Align::Left)?;
        }
        let depth = if channels >= 3 { 3 } else { 1 };
        let bytes = (images.narrow(1, 0, depth).clamp(0.0, 1.0) * 255.0)
            .round()
            .to_kind(Kind::Uint8)
            .to_device(Device::Cpu)
            .expand([-1, 3, -1, -1], false)
            .permute([0, 2, 3, 1]) // [N, H, W, 3]
            .contiguous()
            .flatten(1, -1);
        for i in 0..n_images {
            let pixels = Vec::<u8>::try_from(bytes.get(i as i64))?;
            let x = left + (i % columns) as u32 * (tile_width + gap);
            let y = top + (i / columns) as u32 * row_height;
            if let Some(tile) = RgbImage::from_raw(width as u32, height as u32, pixels) {
                let kind = imageops::FilterType::Nearest;
                let tile = imageops::resize(&tile, tile_width, tile_height, kind);
                imageops::replace(&mut sheet.0, &tile, x.into(), y.into());
            }
            if let Some(caption) = self.captions.get(i) {
                sheet.label(caption, (x, y + tile_height + 1), tile_width, Align::Center)?;
            }
        }
        Ok(sheet.0.into())
    }

    /// The columns of [`Self::draw`] one after another, as frames of one size.
    ///
    /// # Errors
    /// Those of [`Self::draw`].
    pub fn frames(&self, images: &Tensor, columns: usize) -> Result<Vec<DynamicImage>, ViewError> {
        let (n_images, channels, height, width) = images.size4()?;
        let columns = columns.max(1) as i64;
        let n_rows = n_images / columns;
        let by_column = images.f_view([n_rows, columns, channels, height, width])?;
        let least_side = (HEIGHT_OF_FRAME / n_rows.max(1) as u32).max(LEAST_NAMED_SIDE);
        let frame = |i: i64| {
            let of_frame = Self {
                columns: Vec::new(),
                // A title is of one size, whatever the column.
                subtitle: match self.columns.get(i as usize) {
                    Some(name) => name.replace('\n', ", "),
                    None => String::new(),
                },
                captions: Vec::new(),
                ..self.clone()
            };
            of_frame.draw_enlarged(&by_column.select(1, i), 1, least_side)
        };
        (0..columns).map(frame).collect()
    }
}

/// The frames there and back again, without repeating both ends.
#[must_use]
pub fn there_and_back(frames: Vec<DynamicImage>) -> Vec<DynamicImage> {
    let n = frames.len();
    let back: Vec<DynamicImage> = frames[..n.saturating_sub(1)]
        .iter()
        .skip(1)
        .rev()
        .cloned()
        .collect();
    frames.into_iter().chain(back).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(n: i64, side: i64) -> Tensor {
        Tensor::zeros([n, 1, side, side], (Kind::Float, Device::Cpu))
    }

    fn dark(picture: &RgbImage, x: u32, y: u32, width: u32, height: u32) -> usize {
        let part = imageops::crop_imm(picture, x, y, width, height).to_image();
        part.pixels().filter(|pixel| pixel.0[0] < 150).count()
    }

    #[test]
    fn small_pictures_are_enlarged_by_whole_factors_as_far_as_a_row_fits() {
        assert_eq!(enlargement(28, 28, 10, 84), 3);
        assert_eq!(enlargement(64, 64, 10, 84), 2);
        assert_eq!(enlargement(128, 96, 4, 84), 1);
        assert_eq!(enlargement(28, 28, 60, 84), 1);
        assert_eq!(enlargement(1, 1, 1, 64), 64);
    }

    #[test]
    fn names_stand_beside_their_rows_and_captions_below_their_pictures() {
        let labeled = Labeled {
            title: "A title".to_owned(),
            subtitle: "what is to be seen".to_owned(),
            rows: vec!["z7\n1.2 nats".to_owned(), String::new()],
            columns: vec!["first".to_owned(), String::new(), "third".to_owned()],
            ..Labeled::default()
        };
        let picture = labeled
            .draw(&images(6, 28), 3)
            .expect("a picture")
            .into_rgb8();
        // Rows of three pictures of 84 pixels, 4 apart, to the right of their names.
        let (width, height) = picture.dimensions();
        let left = width - 16 - (3 * 84 + 2 * 4);
        let top = height - 16 - 2 * 88;
        let black = |x: u32, y: u32| picture.get_pixel(x, y).0 == [0; 3];
        let of_grid = (16..width).find(|&x| black(x, top + 1)).expect("a picture");
        assert!(of_grid <= left && black(of_grid + 83, top + 83));
        assert!(!black(of_grid + 85, top + 1) && black(of_grid + 89, top + 1));
        assert!(dark(&picture, 16, 10, 100, 30) > 50, "the title");
        let names = dark(&picture, 0, top, 60, 84);
        assert!(
            names > 20 && dark(&picture, 0, top + 88, 60, 80) == 0,
            "{names}"
        );
        let plain = Labeled::default().draw(&images(6, 28), 3).expect("one");
        assert_eq!(plain.width(), 332);
    }

    #[test]
    fn a_long_name_loses_its_middle_and_a_long_sentence_is_broken() {
        let name = "holidays/2024/a-very-long-name-of-a-file-0001.jpg";
        let short = NAME.fitted(name, 100).expect("a name");
        assert!(short.starts_with("hol") && short.ends_with("g") && short.contains('…'));
        assert!(NAME.width(&short).expect("a width") <= 100);
        assert_eq!(NAME.fitted("a.jpg", 100).expect("a name"), "a.jpg");
        let lines = NAME
            .wrapped("one two three four five six", 80)
            .expect("lines");
        assert!(lines.len() > 1 && lines.join(" ") == "one two three four five six");
    }

    #[test]
    fn frames_are_the_columns_and_all_of_one_size() {
        let labeled = Labeled {
            title: "moving".to_owned(),
            columns: vec!["−3".to_owned(), "0".to_owned(), "a longer one".to_owned()],
            ..Labeled::default()
        };
        let shades = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([6, 1, 1, 1]) / 10.0;
        let images = shades.expand([6, 1, 28, 28], false);
        let frames = labeled.frames(&images, 3).expect("frames");
        assert_eq!(frames.len(), 3);
        let sizes: Vec<_> = frames.iter().map(|f| (f.width(), f.height())).collect();
        assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
        // The third column has pictures 2 and 5, of shades 0.2 and 0.5.
        let last = frames[2].to_rgb8();
        let shades = [(51, 51), (128, 127)];
        for (shade, near) in shades {
            let there = |p: &Rgb<u8>| p.0 == [shade; 3] || p.0 == [near; 3];
            assert!(last.pixels().filter(|p| there(p)).count() >= 84 * 84);
        }
        assert_eq!(there_and_back(frames).len(), 4);
    }
}
