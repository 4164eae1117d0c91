//! The parts that plots share: the canvas with its title, axes, colors, and embedded fonts, since a bare container
//! has none.

use std::convert::Infallible;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use vae_run::Record;

use crate::ViewError;
use crate::fonts::FAMILY;
pub(crate) use crate::fonts::{SCALE, register_fonts};
use crate::recorder::{Plot, Recorder};
use crate::ticks::ticks;

/// Size of a picture in pixels.
pub(crate) const SIZE: (u32, u32) = (1400, 900);

pub(crate) const INK: RGBColor = RGBColor(38, 43, 51);
pub(crate) const FAINT_INK: RGBColor = RGBColor(110, 118, 129);
pub(crate) const GRID: RGBColor = RGBColor(228, 231, 235);
/// Okabe & Ito's colors, which can be distinguished with every kind of color vision; without its yellow, which is
/// too light here.
pub(crate) const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// A plot with a title and a subtitle, whose body is drawn by `draw_body`.
pub(crate) fn canvas(
    title: &str,
    subtitle: &str,
    draw_body: impl FnOnce(&Area) -> Result<(), PlotError>,
) -> Result<Plot, ViewError> {
    Recorder::record((SIZE.0 * SCALE, SIZE.1 * SCALE), |root| {
        draw_all(root, title, subtitle, draw_body)
    })
}

pub(crate) type Area = DrawingArea<Recorder, Shift>;
pub(crate) type PlotError = DrawingAreaErrorKind<Infallible>;

/// The number of pixels by which the plotter centers small text too high.
pub(crate) const TOO_HIGH: i32 = px(3);

/// Pixels of the picture, as pixels of the larger drawing.
pub(crate) const fn px(pixels: u32) -> i32 {
    (pixels * SCALE) as i32
}

pub(crate) fn font(size: u32, bold: bool, color: RGBColor) -> TextStyle<'static> {
    register_fonts();
    let style = if bold {
        FontStyle::Bold
    } else {
        FontStyle::Normal
    };
    (FAMILY, px(size), style).into_font().color(&color)
}

fn draw_all(
    root: &Area,
    title: &str,
    subtitle: &str,
    draw_body: impl FnOnce(&Area) -> Result<(), PlotError>,
) -> Result<(), PlotError> {
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(px(84));
    head.draw(&Text::new(
        title.to_owned(),
        (px(28), px(22)),
        font(27, true, INK),
    ))?;
    head.draw(&Text::new(
        subtitle.to_owned(),
        (px(28), px(56)),
        font(19, false, FAINT_INK),
    ))?;
    draw_body(&body)?;
    root.present()
}

/// The axes of a chart.
pub(crate) struct Axes<'a> {
    pub(crate) x: (Axis, &'a str),
    pub(crate) y: (Axis, &'a str),
    /// Formats a number on the x-axis.
    pub(crate) x_label: &'a dyn Fn(&f64) -> String,
    pub(crate) y_label: &'a dyn Fn(&f64) -> String,
    pub(crate) margin_top: u32,
    /// Whether there are vertical lines at the ticks of the x-axis.
    pub(crate) has_x_mesh: bool,
}

pub(crate) type Chart<'a> = ChartContext<'a, Recorder, Cartesian2d<Axis, Axis>>;

impl Axes<'_> {
    /// Draws the axes and returns the chart to draw series on.
    pub(crate) fn draw(self, area: &Area) -> Result<Chart<'_>, PlotError> {
        let ((x_axis, x_name), (y_axis, y_name)) = (self.x, self.y);
        let mut chart = ChartBuilder::on(area)
            .margin_top(px(self.margin_top))
            .margin_left(px(14))
            .margin_right(px(30))
            .margin_bottom(px(8))
            .x_label_area_size(px(52))
            .y_label_area_size(px(88))
            .build_cartesian_2d(x_axis, y_axis)?;
        let mut mesh = chart.configure_mesh();
        if !self.has_x_mesh {
            mesh.disable_x_mesh();
        }
        mesh.light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(SCALE))
            .axis_style(GRID.stroke_width(SCALE))
            .x_label_style(font(17, false, FAINT_INK))
            .y_label_style(font(17, false, FAINT_INK))
            .y_label_offset(TOO_HIGH)
            .axis_desc_style(font(17, false, FAINT_INK))
            .x_desc(x_name)
            .y_desc(y_name)
            .x_label_formatter(&self.x_label)
            .y_label_formatter(&self.y_label)
            .draw()?;
        Ok(chart)
    }
}

/// An axis with a tick at every multiple of a step.
pub(crate) struct Axis {
    scale: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Axis {
    pub(crate) fn new(range: &Range<f64>, step: f64) -> Self {
        Self {
            scale: range.clone().into(),
            ticks: ticks(range, step),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.scale.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.scale.range()
    }
}

/// Petroff's ten colors (2021, <https://arxiv.org/abs/2107.02270>), found by a search for colors that are told apart with
/// every kind of color vision.
const TEN_COLORS: [RGBColor; 10] = [
    RGBColor(63, 144, 218),
    RGBColor(255, 169, 14),
    RGBColor(189, 31, 1),
    RGBColor(148, 164, 162),
    RGBColor(131, 45, 182),
    RGBColor(169, 107, 89),
    RGBColor(231, 99, 0),
    RGBColor(185, 172, 112),
    RGBColor(113, 117, 129),
    RGBColor(146, 218, 221),
];

/// Colors for `n` kinds: of more than ten, several share one, and their marks differ ([`Shape::of`]).
pub(crate) fn colors(n: usize) -> Vec<RGBColor> {
    match n {
        ..=7 => COLORS.to_vec(),
        _ => TEN_COLORS.iter().copied().cycle().take(n.max(10)).collect(),
    }
}

/// The color of a split in curves, as in a report and in `vae explore`.
pub(crate) fn split_color(name: &str) -> Option<RGBColor> {
    match name {
        Record::TRAIN | Record::STEPS => Some(COLORS[1]),
        Record::VALIDATION => Some(COLORS[0]),
        _ => None,
    }
}

/// The shape of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Circle,
    Square,
    Triangle,
    Cross,
}

impl Shape {
    /// That of a class: the first ten classes are circles, the next ten squares, and so on.
    pub(crate) fn of(class: usize) -> Self {
        let shapes = [Self::Circle, Self::Square, Self::Triangle, Self::Cross];
        shapes[class / TEN_COLORS.len() % shapes.len()]
    }

    /// The outline of a mark of this radius around a point of the canvas; none of a circle.
    pub(crate) fn outline(self, radius: i32) -> Vec<(i32, i32)> {
        let (r, arm) = (radius, radius / 3 + 1);
        match self {
            Self::Circle => Vec::new(),
            Self::Square => vec![(-r, -r), (r, -r), (r, r), (-r, r)],
            Self::Triangle => vec![(0, -r - r / 3), (r + r / 6, r), (-r - r / 6, r)],
            Self::Cross => vec![
                (-arm, -r),
                (arm, -r),
                (arm, -arm),
                (r, -arm),
                (r, arm),
                (arm, arm),
                (arm, r),
                (-arm, r),
                (-arm, arm),
                (-r, arm),
                (-r, -arm),
                (-arm, -arm),
            ],
        }
    }
}

pub(crate) fn draw_key(
    area: &Area,
    (x, y): (i32, i32),
    name: &str,
    color: RGBColor,
    style: &TextStyle,
) -> Result<(), PlotError> {
    let middle = y + px(8);
    let bar = [(x, middle - px(2)), (x + px(22), middle + px(2))];
    area.draw(&Rectangle::new(bar, color.filled()))?;
    let anchored = style.pos(Pos::new(HPos::Left, VPos::Center));
    let place = (x + px(30), middle + TOO_HIGH);
    area.draw(&Text::new(name.to_owned(), place, anchored))
}
