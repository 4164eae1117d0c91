//! Learning curves as pictures, drawn with fonts of our own: a bare container has none.

use std::ops::Range;
use std::sync::Once;

use image::{DynamicImage, RgbImage, imageops};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use vae_model::Term;
use vae_run::Record;

use crate::ViewError;

/// Size of a picture in pixels.
pub(crate) const SIZE: (u32, u32) = (1400, 900);
/// Drawn so many times larger, then averaged: the plotter's thick lines have no smooth edges.
pub(crate) const SCALE: u32 = 2;

pub(crate) const INK: RGBColor = RGBColor(38, 43, 51);
pub(crate) const FAINT_INK: RGBColor = RGBColor(110, 118, 129);
pub(crate) const GRID: RGBColor = RGBColor(228, 231, 235);
/// Okabe & Ito's colors, told apart with every kind of color vision; its yellow is too light here.
pub(crate) const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

const FAMILY: &str = "Inter";

/// Curves over one pair of axes.
struct Panel {
    title: String,
    unit: String,
    curves: Vec<Curve>,
}

struct Curve {
    name: String,
    /// (epoch, value); a value that is no number makes a gap.
    points: Vec<(f64, f64)>,
}

/// The learning curves of a run by epoch: elbo, reconstruction and kl on both splits (nats per image), the
/// terms that its objective has beside them, of which `terms` say the units, and the learning rate.
///
/// # Errors
/// The plotter refuses.
pub fn learning_curves(
    title: &str,
    records: &[Record],
    terms: &[Term],
) -> Result<DynamicImage, ViewError> {
    let curve = |split: &str, value: &dyn Fn(&Record) -> f64| Curve {
        name: split.to_owned(),
        points: points(records, split, value),
    };
    let panel = |title: &str, unit: &str, value: &dyn Fn(&Record) -> f64| Panel {
        title: title.to_owned(),
        unit: unit.to_owned(),
        curves: vec![
            curve(Record::TRAIN, value),
            curve(Record::VALIDATION, value),
        ],
    };
    let mut rate = curve(Record::TRAIN, &|record| {
        record.learning_rate.unwrap_or(f64::NAN)
    });
    rate.name.clear();
    let nats = |title, value: &dyn Fn(&Record) -> f64| panel(title, Term::NATS, value);
    let reconstruction = nats("reconstruction", &|record| record.means.reconstruction);
    let rate = Panel {
        title: "learning rate".to_owned(),
        unit: "step size".to_owned(),
        curves: vec![rate],
    };
    let has_elbo = records.iter().all(|record| record.means.elbo.is_some());
    let mut panels = match has_elbo {
        true => vec![
            nats("elbo", &|record| record.means.elbo.unwrap_or(f64::NAN)),
            reconstruction,
            nats("kl", &|record| record.means.kl.unwrap_or(f64::NAN)),
        ],
        // A deterministic posterior has none.
        false => vec![reconstruction],
    };
    panels.extend(Record::named_terms(records, terms).iter().map(|term| {
        let value = |record: &Record| record.named.get(&*term.name).copied();
        panel(&term.title(), &term.unit, &|record| {
            value(record).unwrap_or(f64::NAN)
        })
    }));
    panels.push(rate);
    let subtitle = Record::best(records).map_or_else(
        || "no epoch yet".to_owned(),
        |record| {
            let (name, value) = match record.means.elbo {
                Some(elbo) => ("elbo", elbo),
                None => ("reconstruction", record.means.reconstruction),
            };
            format!(
                "best validation {name} {} nats per image, epoch {}",
                decimal(value, 2),
                record.epoch
            )
        },
    );
    let n_columns = match panels.len() {
        0..=4 => 2,
        5..=9 => 3,
        _ => 4,
    };
    let shape = (panels.len().div_ceil(n_columns), n_columns);
    draw(title, &subtitle, &panels, shape)
}

/// The validation elbo of several runs by epoch, each with its name.
///
/// # Errors
/// The plotter refuses.
pub fn comparison(runs: &[(String, Vec<Record>)]) -> Result<DynamicImage, ViewError> {
    let panel = Panel {
        title: String::new(),
        unit: "validation elbo, nats per image".to_owned(),
        curves: runs
            .iter()
            .map(|(name, records)| Curve {
                name: name.clone(),
                points: points(records, Record::VALIDATION, &|record| {
                    record.means.elbo.unwrap_or(f64::NAN)
                }),
            })
            .collect(),
    };
    draw(
        "Validation elbo by epoch",
        "higher is better",
        &[panel],
        (1, 1),
    )
}

fn points(records: &[Record], split: &str, value: &dyn Fn(&Record) -> f64) -> Vec<(f64, f64)> {
    records
        .iter()
        .filter(|record| record.split == split)
        .map(|record| (record.epoch as f64, value(record)))
        .collect()
}

fn draw(
    title: &str,
    subtitle: &str,
    panels: &[Panel],
    shape: (usize, usize),
) -> Result<DynamicImage, ViewError> {
    canvas(title, subtitle, |body| {
        for (area, panel) in body.split_evenly(shape).iter().zip(panels) {
            draw_panel(area, panel)?;
        }
        Ok(())
    })
}

/// A picture with a title and a line below it, and the rest of it drawn by `draw_body`.
pub(crate) fn canvas(
    title: &str,
    subtitle: &str,
    draw_body: impl for<'a> FnOnce(&Area<'a>) -> Result<(), PlotError<'a>>,
) -> Result<DynamicImage, ViewError> {
    register_fonts();
    let (width, height) = (SIZE.0 * SCALE, SIZE.1 * SCALE);
    let mut bytes = vec![0_u8; (width * height * 3) as usize];
    {
        let root = BitMapBackend::with_buffer(&mut bytes, (width, height)).into_drawing_area();
        draw_all(&root, title, subtitle, draw_body)
            .map_err(|error| ViewError::Plot(error.to_string()))?;
    }
    let large = RgbImage::from_raw(width, height, bytes)
        .ok_or_else(|| ViewError::Plot("a buffer of the wrong size".to_owned()))?;
    Ok(imageops::thumbnail(&large, SIZE.0, SIZE.1).into())
}

fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A font that cannot be read shows as an error of the first text drawn with it.
        let _ = register_font(
            FAMILY,
            FontStyle::Normal,
            include_bytes!("../fonts/Inter-Regular.ttf"),
        );
        let _ = register_font(
            FAMILY,
            FontStyle::Bold,
            include_bytes!("../fonts/Inter-SemiBold.ttf"),
        );
    });
}

pub(crate) type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
pub(crate) type PlotError<'a> =
    DrawingAreaErrorKind<<BitMapBackend<'a> as DrawingBackend>::ErrorType>;

/// The plotter centers the small text that much too high.
pub(crate) const TOO_HIGH: i32 = px(3);

/// Pixels of the picture, in those of the drawing.
pub(crate) const fn px(pixels: u32) -> i32 {
    (pixels * SCALE) as i32
}

pub(crate) fn font(size: u32, bold: bool, color: RGBColor) -> TextStyle<'static> {
    let style = if bold {
        FontStyle::Bold
    } else {
        FontStyle::Normal
    };
    (FAMILY, px(size), style).into_font().color(&color)
}

fn draw_all<'a>(
    root: &Area<'a>,
    title: &str,
    subtitle: &str,
    draw_body: impl FnOnce(&Area<'a>) -> Result<(), PlotError<'a>>,
) -> Result<(), PlotError<'a>> {
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

fn draw_panel<'a>(area: &Area<'a>, panel: &Panel) -> Result<(), PlotError<'a>> {
    let epochs = panel.curves.iter().flat_map(|curve| &curve.points);
    let last_epoch = epochs.fold(1.0, |last: f64, &(epoch, _)| last.max(epoch));
    let x_range = match last_epoch {
        1.0 => 0.0..2.0,
        last => 1.0..last,
    };
    let y_range = value_range(&panel.curves);
    let x_step = tick_step(x_range.end - x_range.start, 8).max(1.0);
    let y_step = tick_step(y_range.end - y_range.start, 6);

    let mut chart = ChartBuilder::on(area)
        .margin_top(px(if panel.title.is_empty() { 4 } else { 40 }))
        .margin_left(px(14))
        .margin_right(px(30))
        .margin_bottom(px(8))
        .x_label_area_size(px(52))
        .y_label_area_size(px(88))
        .build_cartesian_2d(Axis::new(&x_range, x_step), Axis::new(&y_range, y_step))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.stroke_width(SCALE))
        .axis_style(GRID.stroke_width(SCALE))
        .x_label_style(font(17, false, FAINT_INK))
        .y_label_style(font(17, false, FAINT_INK))
        .y_label_offset(TOO_HIGH)
        .axis_desc_style(font(17, false, FAINT_INK))
        .x_desc("epoch")
        .y_desc(panel.unit.as_str())
        .x_label_formatter(&|&epoch| tick_label(epoch, x_step))
        .y_label_formatter(&|&value| tick_label(value, y_step))
        .draw()?;

    for (curve, color) in panel.curves.iter().zip(colors(panel.curves.len())) {
        let style = color.stroke_width(5 * SCALE / 2);
        // Segment by segment: the plotter's joints shoot out of sharp corners.
        let segments = curve
            .points
            .windows(2)
            .filter_map(|pair| clip(pair[0], pair[1], &y_range));
        chart.draw_series(segments.map(|segment| PathElement::new(segment, style)))?;
        // Between gaps, and while there are few, epochs are points.
        let marks = marked(&curve.points)
            .into_iter()
            .filter(|(_, value)| y_range.contains(value))
            .map(|point| Circle::new(point, px(4), color.filled()));
        chart.draw_series(marks)?;
    }

    let (left, top) = (px(102), px(12));
    if !panel.title.is_empty() {
        let style = font(20, true, INK);
        area.draw(&Text::new(panel.title.clone(), (left, top), style))?;
    }
    draw_legend(area, panel)
}

/// An axis with a line at every multiple of a step.
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

/// Different colors, evenly around the wheel where the palette has too few.
pub(crate) fn colors(n: usize) -> Vec<RGBColor> {
    if n <= COLORS.len() {
        return COLORS.to_vec();
    }
    let hue = |i| HSLColor(f64::from(i) / n as f64, 0.75, 0.42).rgb();
    (0..n as u32)
        .map(hue)
        .map(|(r, g, b)| RGBColor(r, g, b))
        .collect()
}

/// The curves' names: beside the title where there is one, else in the lower right corner.
fn draw_legend<'a>(area: &Area<'a>, panel: &Panel) -> Result<(), PlotError<'a>> {
    let names: Vec<_> = panel
        .curves
        .iter()
        .zip(colors(panel.curves.len()))
        .filter(|(curve, _)| !curve.name.is_empty())
        .collect();
    let (width, height) = area.dim_in_pixel();
    let (width, height) = (width as i32, height as i32);
    let style = font(17, false, INK);
    if panel.title.is_empty() {
        let mut y = height - px(60 + 12) - px(26) * names.len() as i32;
        let text_width = |name: &str| area.estimate_text_size(name, &style).map(|size| size.0);
        let widths = names
            .iter()
            .map(|(curve, _)| text_width(&curve.name))
            .collect::<Result<Vec<_>, _>>()?;
        let x = width - px(30 + 50) - widths.into_iter().max().unwrap_or(0) as i32;
        let frame = [(x - px(14), y - px(8)), (width - px(42), height - px(70))];
        area.draw(&Rectangle::new(frame, WHITE.mix(0.85).filled()))?;
        for (curve, color) in names {
            draw_key(area, (x, y), &curve.name, color, &style)?;
            y += px(26);
        }
    } else {
        let mut x = width - px(30);
        for (curve, color) in names.into_iter().rev() {
            x -= area.estimate_text_size(&curve.name, &style)?.0 as i32 + px(30);
            draw_key(area, (x, px(14)), &curve.name, color, &style)?;
            x -= px(22);
        }
    }
    Ok(())
}

pub(crate) fn draw_key<'a>(
    area: &Area<'a>,
    (x, y): (i32, i32),
    name: &str,
    color: RGBColor,
    style: &TextStyle,
) -> Result<(), PlotError<'a>> {
    let middle = y + px(8);
    let bar = [(x, middle - px(2)), (x + px(22), middle + px(2))];
    area.draw(&Rectangle::new(bar, color.filled()))?;
    let anchored = style.pos(Pos::new(HPos::Left, VPos::Center));
    let place = (x + px(30), middle + TOO_HIGH);
    area.draw(&Text::new(name.to_owned(), place, anchored))
}

/// Values that an axis shows.
///
/// A run is judged by the later half of its epochs. What came before, or a stray value, is shown
/// as far as it leaves that half about a fifth of the height.
fn value_range(curves: &[Curve]) -> Range<f64> {
    let mut all = Vec::new();
    let mut late = Vec::new();
    for curve in curves {
        let finite = curve.points.iter().filter(|(_, value)| value.is_finite());
        let last_epoch = finite.clone().fold(0.0, |last: f64, p| last.max(p.0));
        for &(epoch, value) in finite {
            all.push(value);
            if last_epoch < 5.0 || epoch > last_epoch / 2.0 {
                late.push(value);
            }
        }
    }
    all.sort_by(f64::total_cmp);
    late.sort_by(f64::total_cmp);
    let (Some(&lowest), Some(&highest)) = (all.first(), all.last()) else {
        return 0.0..1.0;
    };
    let trimmed = late.len() / 5;
    let (low, high) = (late[trimmed], late[late.len() - 1 - trimmed]);
    let reach = 4.0 * (high - low).max(low.abs().max(high.abs()) * 1e-6);
    let (low, high) = (lowest.max(low - reach), highest.min(high + reach));
    // Room at the edges; a constant gets some too.
    let room = match (high - low) * 0.06 {
        0.0 if low == 0.0 => 1.0,
        0.0 => low.abs() * 0.1,
        room => room,
    };
    low - room..high + room
}

/// The part of a line inside a range of values; none where an end is no number.
fn clip(start: (f64, f64), end: (f64, f64), range: &Range<f64>) -> Option<[(f64, f64); 2]> {
    if !start.1.is_finite() || !end.1.is_finite() {
        return None;
    }
    let (low, high) = (range.start, range.end);
    if start.1.max(end.1) < low || start.1.min(end.1) > high {
        return None;
    }
    let cut = |point: (f64, f64)| {
        let value = point.1.clamp(low, high);
        if value == point.1 {
            return point;
        }
        // Halves, so that the difference of two huge values stays finite.
        let along = (value / 2.0 - start.1 / 2.0) / (end.1 / 2.0 - start.1 / 2.0);
        (start.0 + along * (end.0 - start.0), value)
    };
    Some([cut(start), cut(end)])
}

/// Points that get a mark: all while there are few, later those that no line touches.
fn marked(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite = |i: usize| points.get(i).is_some_and(|(_, value)| value.is_finite());
    (0..points.len())
        .filter(|&i| {
            let joined = finite(i + 1) || (i > 0 && finite(i - 1));
            finite(i) && (points.len() <= 25 || !joined)
        })
        .map(|i| points[i])
        .collect()
}

/// 1, 2 or 5 times a power of ten, so that a range of this length has at most `n` steps.
pub(crate) fn tick_step(length: f64, n: usize) -> f64 {
    let wanted = length / n as f64;
    let power = 10_f64.powf(wanted.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|&f| f * power >= wanted * 0.999);
    factor.unwrap_or(10.0) * power
}

/// The multiples of a step in a range.
pub(crate) fn ticks(range: &Range<f64>, step: f64) -> Vec<f64> {
    let (first, last) = ((range.start / step).ceil(), (range.end / step).floor());
    let n = (last - first).clamp(0.0, 100.0) as usize;
    (0..=n)
        .map(|i| (first + i as f64) * step)
        .filter(|tick| range.contains(tick) || *tick == range.end)
        .collect()
}

/// As many digits as tell neighbors apart.
pub(crate) fn tick_label(value: f64, step: f64) -> String {
    let large = value.abs().max(step);
    if value == 0.0 {
        "0".to_owned()
    } else if large >= 1e6 || step < 1e-3 {
        let digits = (large.log10().floor() - step.log10().floor()).clamp(0.0, 6.0);
        format!("{value:.*e}", digits as usize).replace('-', "\u{2212}")
    } else {
        decimal(value, (-step.log10().floor()).max(0.0) as usize)
    }
}

/// With a real minus sign; scientific where it would be long.
pub(crate) fn decimal(value: f64, decimals: usize) -> String {
    let text = if value.abs() >= 1e7 {
        format!("{value:.3e}")
    } else {
        format!("{value:.decimals$}")
    };
    text.replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use vae_run::{Means, Position};

    use super::*;

    fn record(epoch: u64, split: &str, elbo: f64) -> Record {
        let position = Position {
            epochs: epoch,
            steps: 10 * epoch,
        };
        let means = Means {
            elbo: Some(elbo),
            reconstruction: -elbo,
            kl: Some(0.0),
            loss: -elbo,
        };
        Record {
            learning_rate: Some(1e-3),
            ..Record::new(position, split, means)
        }
    }

    fn curve(values: &[f64]) -> Curve {
        let epochs = 1..=values.len();
        Curve {
            name: String::new(),
            points: epochs
                .map(|e| e as f64)
                .zip(values.iter().copied())
                .collect(),
        }
    }

    fn close(found: &Range<f64>, low: f64, high: f64) {
        let error = (found.start - low).abs().max((found.end - high).abs());
        assert!(error < 1e-9, "{found:?}, {low}..{high}");
    }

    #[test]
    fn the_first_epochs_and_strays_do_not_squeeze_the_later_half() {
        // Later half: -3 and -2, so 4 nats below it; with 6 % of 5 nats as room.
        let values = [-1e6, -90.0, -3.5, -3.0, -2.0, -2.0];
        close(&value_range(&[curve(&values)]), -7.3, -1.7);
        // All of them where they are near, and while there are few.
        close(
            &value_range(&[curve(&[0.0, 0.5, 1.0, 0.6, 0.9, 0.8])]),
            -0.06,
            1.06,
        );
        close(&value_range(&[curve(&[-100.0, 0.0])]), -106.0, 6.0);
        // A stray value late in the run, as long as it is one of many.
        let stray = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1e30, 1.0, 0.0, 1.0];
        close(&value_range(&[curve(&stray)]), -0.3, 5.3);
    }

    #[test]
    fn a_range_is_never_empty() {
        close(&value_range(&[]), 0.0, 1.0);
        close(&value_range(&[curve(&[f64::NAN, f64::INFINITY])]), 0.0, 1.0);
        close(&value_range(&[curve(&[0.0])]), -1.0, 1.0);
        close(&value_range(&[curve(&[-100.0, -100.0])]), -110.0, -90.0);
    }

    #[test]
    fn lines_are_cut_at_the_edges() {
        let range = 0.0..2.0;
        assert_eq!(
            clip((1.0, -2.0), (2.0, 2.0), &range),
            Some([(1.5, 0.0), (2.0, 2.0)])
        );
        assert_eq!(
            clip((0.0, 4.0), (4.0, -4.0), &range),
            Some([(1.0, 2.0), (2.0, 0.0)])
        );
        assert_eq!(clip((0.0, 3.0), (1.0, 5.0), &range), None);
        assert_eq!(clip((0.0, f64::NAN), (1.0, 1.0), &range), None);
        let [_, end] = clip((0.0, -f64::MAX), (2.0, f64::MAX), &range).unwrap();
        assert_eq!(end, (1.0, 2.0));
    }

    #[test]
    fn ticks_are_round_numbers_with_digits_that_differ() {
        let labels = |range: Range<f64>, n| {
            let step = tick_step(range.end - range.start, n);
            let labels = ticks(&range, step).into_iter();
            labels
                .map(|tick| tick_label(tick, step))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            labels(-1.1..1.1, 6),
            ["\u{2212}1.0", "\u{2212}0.5", "0", "0.5", "1.0"]
        );
        assert_eq!(
            labels(1.0..9.0, 8),
            ["1", "2", "3", "4", "5", "6", "7", "8", "9"]
        );
        assert_eq!(
            labels(0.0..3.1e-4, 4),
            ["0", "1e\u{2212}4", "2e\u{2212}4", "3e\u{2212}4"]
        );
        assert_eq!(labels(0.0..3.1e30, 4), ["0", "1e30", "2e30", "3e30"]);
    }

    #[test]
    fn a_picture_has_text_and_both_splits_in_their_colors() {
        let epochs = 1..=6_u64;
        let records: Vec<Record> = epochs
            .flat_map(|e| {
                [
                    record(e, "train", e as f64),
                    record(e, "validation", -(e as f64)),
                ]
            })
            .collect();
        let picture = learning_curves("a run", &records, &[]).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), SIZE);
        let count = |color: RGBColor| {
            let wanted = image::Rgb([color.0, color.1, color.2]);
            picture.pixels().filter(|&&pixel| pixel == wanted).count()
        };
        let all = (SIZE.0 * SIZE.1) as usize;
        assert!(count(WHITE) > all * 9 / 10);
        assert!(count(COLORS[0]) > 1000 && count(COLORS[1]) > 1000);
        assert!(count(COLORS[2]) == 0);
        let head = imageops::crop_imm(&picture, 0, 0, SIZE.0, 84).to_image();
        let ink = head.pixels().filter(|pixel| pixel.0[0] < 100).count();
        assert!(ink > 200, "{ink} dark pixels in the title");
    }

    #[test]
    fn a_named_term_has_a_panel_of_its_own() {
        let mut records: Vec<Record> = (1..=6).map(|e| record(e, "train", e as f64)).collect();
        let blue = |records: &[Record]| {
            let picture = learning_curves("a run", records, &[]).unwrap().into_rgb8();
            // The last of two rows of three.
            let corner = imageops::crop_imm(&picture, SIZE.0 * 2 / 3, 500, SIZE.0 / 3, 400);
            let wanted = image::Rgb([COLORS[0].0, COLORS[0].1, COLORS[0].2]);
            let corner = corner.to_image();
            corner.pixels().filter(|&&pixel| pixel == wanted).count()
        };
        for record in &mut records {
            record.named.insert("a".to_owned(), record.epoch as f64);
        }
        // elbo, reconstruction, kl; a, learning rate, nothing.
        assert_eq!(blue(&records), 0);
        for record in &mut records {
            record.named.insert("b".to_owned(), record.epoch as f64);
        }
        // elbo, reconstruction, kl; a, b, learning rate.
        assert!(blue(&records) > 100);
    }

    #[test]
    fn any_records_make_a_picture() {
        let wild = [
            f64::NAN,
            f64::MAX,
            -f64::MAX,
            f64::INFINITY,
            0.0,
            1e-300,
            -1e30,
        ];
        for n in 0..=wild.len() {
            let records: Vec<Record> = (1..)
                .zip(&wild[..n])
                .map(|(e, &v)| record(e, "validation", v))
                .collect();
            learning_curves("wild", &records, &[]).unwrap();
            comparison(&[("wild".to_owned(), records)]).unwrap();
        }
    }
}
