//! What is drawn, recorded: it becomes pixels or an SVG.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::rc::Rc;

use image::{DynamicImage, RgbImage, imageops};
use plotters::prelude::*;
use plotters::style::{FontDesc, FontFamily, FontTransform, TextStyle};
use plotters_backend::text_anchor::Pos;
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
};
use vae_base::write_whole;
use vae_run::RunError;

use crate::ViewError;
use crate::file;
use crate::fonts::{FAMILY, SCALE, register_fonts};
use crate::format::{Content, Format};

/// A plot: pixels or an SVG.
#[derive(Clone)]
pub struct Plot {
    /// Of the drawing, which is [`SCALE`] times larger than the picture.
    size: (u32, u32),
    marks: Vec<Mark>,
}

impl fmt::Debug for Plot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plot")
            .field("size", &self.size)
            .field("n_marks", &self.marks.len())
            .finish()
    }
}

impl Plot {
    /// Its pixels.
    ///
    /// # Errors
    /// The plotter refuses.
    pub fn image(&self) -> Result<DynamicImage, ViewError> {
        register_fonts();
        let (width, height) = self.size;
        let mut bytes = vec![255_u8; (width * height * 3) as usize];
        {
            let mut backend = BitMapBackend::with_buffer(&mut bytes, self.size);
            self.replay(&mut backend).map_err(plot_error)?;
        }
        let large = RgbImage::from_raw(width, height, bytes)
            .ok_or_else(|| ViewError::Plot("a buffer of the wrong size".to_owned()))?;
        // The plotter does not antialias thick lines.
        Ok(imageops::thumbnail(&large, width / SCALE, height / SCALE).into())
    }

    /// An SVG, whose texts are texts.
    ///
    /// # Errors
    /// The plotter refuses.
    pub fn svg(&self) -> Result<String, ViewError> {
        let mut text = String::new();
        {
            let mut backend = SVGBackend::with_string(&mut text, self.size);
            self.replay(&mut backend).map_err(plot_error)?;
        }
        let (width, height) = self.size;
        let drawn = format!("width=\"{width}\" height=\"{height}\"");
        let shown = format!("width=\"{}\" height=\"{}\"", width / SCALE, height / SCALE);
        let fonts = format!("font-family=\"{FAMILY}, Helvetica, Arial, sans-serif\"");
        Ok(text
            .replacen(&drawn, &shown, 1)
            .replace(&format!("font-family=\"{FAMILY}\""), &fonts))
    }

    /// Writes the plot in the format that the name ends in; it appears under its name only when it is whole.
    ///
    /// # Errors
    /// An ending of no format of plots ([`crate::format::check_name`]); the file system refuses.
    pub fn save(&self, path: &Path) -> Result<(), ViewError> {
        match Format::of(path, Content::Plot)? {
            Format::Svg => {
                Ok(write_whole(path, self.svg()?.as_bytes()).map_err(RunError::io(path))?)
            }
            _ => file::save(&self.image()?, path),
        }
    }

    fn replay<B: DrawingBackend>(
        &self,
        backend: &mut B,
    ) -> Result<(), DrawingErrorKind<B::ErrorType>> {
        backend.ensure_prepared()?;
        let background = Stroke::filled(WHITE.to_backend_color());
        let corner = (self.size.0 as i32, self.size.1 as i32);
        backend.draw_rect((0, 0), corner, &background, true)?;
        for mark in &self.marks {
            match mark {
                Mark::Pixel(place, color) => backend.draw_pixel(*place, *color)?,
                Mark::Line(from, to, stroke) => backend.draw_line(*from, *to, stroke)?,
                Mark::Rectangle(from, to, stroke, is_filled) => {
                    backend.draw_rect(*from, *to, stroke, *is_filled)?;
                }
                Mark::Path(points, stroke) => backend.draw_path(points.clone(), stroke)?,
                Mark::Circle(center, radius, stroke, is_filled) => {
                    backend.draw_circle(*center, *radius, stroke, *is_filled)?;
                }
                Mark::Polygon(points, stroke) => backend.fill_polygon(points.clone(), stroke)?,
                Mark::Text(text, place, words) => {
                    backend.draw_text(text, &words.style(), *place)?;
                }
            }
        }
        backend.present()
    }
}

fn plot_error(error: impl fmt::Display) -> ViewError {
    ViewError::Plot(error.to_string())
}

/// What was drawn, in the order of drawing.
#[derive(Clone)]
enum Mark {
    Pixel(BackendCoord, BackendColor),
    Line(BackendCoord, BackendCoord, Stroke),
    Rectangle(BackendCoord, BackendCoord, Stroke, bool),
    Path(Vec<BackendCoord>, Stroke),
    Circle(BackendCoord, u32, Stroke, bool),
    Polygon(Vec<BackendCoord>, Stroke),
    Text(String, BackendCoord, Words),
}

#[derive(Clone, Copy)]
struct Stroke {
    color: BackendColor,
    width: u32,
}

impl Stroke {
    fn of(style: &impl BackendStyle) -> Self {
        Self {
            color: style.color(),
            width: style.stroke_width(),
        }
    }

    fn filled(color: BackendColor) -> Self {
        Self { color, width: 1 }
    }
}

impl BackendStyle for Stroke {
    fn color(&self) -> BackendColor {
        self.color
    }

    fn stroke_width(&self) -> u32 {
        self.width
    }
}

/// How a text is written.
#[derive(Clone)]
struct Words {
    size: f64,
    weight: FontStyle,
    transform: FontTransform,
    color: BackendColor,
    anchor: Pos,
}

impl Words {
    fn style(&self) -> TextStyle<'static> {
        let font = FontDesc::new(FontFamily::Name(FAMILY), self.size, self.weight)
            .transform(self.transform.clone());
        TextStyle {
            font,
            color: self.color,
            pos: self.anchor,
        }
    }
}

/// A canvas that remembers what is drawn on it.
pub(crate) struct Recorder {
    size: (u32, u32),
    marks: Rc<RefCell<Vec<Mark>>>,
}

impl Recorder {
    /// The plot that `draw` draws on a canvas of this size.
    pub(crate) fn record<E: fmt::Display>(
        size: (u32, u32),
        draw: impl FnOnce(&DrawingArea<Self, plotters::coord::Shift>) -> Result<(), E>,
    ) -> Result<Plot, ViewError> {
        register_fonts();
        let marks = Rc::new(RefCell::new(Vec::new()));
        let recorder = Self {
            size,
            marks: Rc::clone(&marks),
        };
        draw(&recorder.into_drawing_area()).map_err(plot_error)?;
        let marks = marks.take();
        Ok(Plot { size, marks })
    }

    fn add(&mut self, mark: Mark) -> Result<(), DrawingErrorKind<Infallible>> {
        self.marks.borrow_mut().push(mark);
        Ok(())
    }
}

impl DrawingBackend for Recorder {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn draw_pixel(
        &mut self,
        point: BackendCoord,
        color: BackendColor,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        self.add(Mark::Pixel(point, color))
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        self.add(Mark::Line(from, to, Stroke::of(style)))
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
        is_filled: bool,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        self.add(Mark::Rectangle(from, to, Stroke::of(style), is_filled))
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        self.add(Mark::Path(path.into_iter().collect(), Stroke::of(style)))
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        center: BackendCoord,
        radius: u32,
        style: &S,
        is_filled: bool,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        self.add(Mark::Circle(center, radius, Stroke::of(style), is_filled))
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        points: I,
        style: &S,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        self.add(Mark::Polygon(
            points.into_iter().collect(),
            Stroke::of(style),
        ))
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        place: BackendCoord,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let words = Words {
            size: style.size(),
            weight: style.style(),
            transform: style.transform(),
            color: style.color(),
            anchor: style.anchor(),
        };
        self.add(Mark::Text(text.to_owned(), place, words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_the_same_marks_as_pixels_and_as_svg() {
        let plot = Recorder::record((80, 40), |area| {
            area.draw(&Circle::new((20, 20), 12, RED.filled()))?;
            area.draw(&Text::new("z0 < 1", (30, 4), (FAMILY, 16)))
        })
        .expect("a plot");
        let picture = plot.image().expect("pixels").into_rgb8();
        assert_eq!(picture.dimensions(), (40, 20));
        assert_eq!(picture.get_pixel(10, 10).0, [255, 0, 0]);
        assert_eq!(picture.get_pixel(39, 19).0, [255, 255, 255]);
        let svg = plot.svg().expect("an SVG");
        assert!(svg.starts_with("<svg width=\"40\" height=\"20\" viewBox=\"0 0 80 40\""));
        assert!(
            svg.contains("<circle") && svg.contains("z0 &lt; 1"),
            "{svg}"
        );
        assert!(svg.trim_end().ends_with("</svg>"));
    }
}
