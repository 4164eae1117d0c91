//! Learning curves, as data and as pictures.

use std::ops::Range;

use plotters::prelude::*;

use vae_model::Term;
use vae_run::{Metric, Record};

use crate::ViewError;
use crate::chart::{
    Area, Axes, Axis, INK, PlotError, SCALE, canvas, colors, draw_key, font, px, split_color,
};
use crate::recorder::Plot;
use crate::ticks::{decimal, tick_label, tick_step};

/// Curves over one pair of axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// The name of the quantity, such as `total correlation`.
    pub title: String,
    /// Its unit; empty if it has none.
    pub unit: String,
    /// The curves.
    pub curves: Vec<Curve>,
}

/// A value by epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The split or run that the values belong to; empty for a single curve.
    pub name: String,
    /// (epoch, value). A value that is NaN or infinite makes a gap. Within an epoch its number is a fraction.
    pub points: Vec<(f64, f64)>,
}

/// The records that curves are drawn of.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    /// Of the ends of epochs.
    pub epochs: &'a [Record],
    /// Within epochs ([`Record::STEPS`]).
    pub steps: &'a [Record],
    /// Optimizer steps of an epoch. Without it, it is found from an epoch's record.
    pub steps_per_epoch: Option<u64>,
}

impl<'a> Records<'a> {
    /// Those of the ends of epochs alone.
    #[must_use]
    pub fn of_epochs(epochs: &'a [Record]) -> Self {
        Self {
            epochs,
            steps: &[],
            steps_per_epoch: None,
        }
    }

    /// The epochs done at a step, with a fraction.
    fn epoch_of(&self, record: &Record) -> f64 {
        if record.split != Record::STEPS {
            return record.epoch as f64;
        }
        let whole = self.epochs.iter().find(|record| record.epoch > 0);
        let of_epoch = whole.map(|record| record.step as f64 / record.epoch as f64);
        match self.steps_per_epoch.map(|n| n as f64).or(of_epoch) {
            Some(n) if n > 0.0 => record.step as f64 / n,
            _ => f64::NAN,
        }
    }

    fn curve(&self, name: &str, split: &str, value: &dyn Fn(&Record) -> Option<f64>) -> Curve {
        let records = match split {
            Record::STEPS => self.steps,
            _ => self.epochs,
        };
        let of_split = records.iter().filter(|record| record.split == split);
        let point = |record: &Record| (self.epoch_of(record), value(record).unwrap_or(f64::NAN));
        Curve {
            name: name.to_owned(),
            points: of_split
                .map(point)
                .filter(|(epoch, _)| epoch.is_finite())
                .collect(),
        }
    }
}

/// The panels of a run's learning curves, each with a curve for the training images, for the validation images, and for the
/// training images within epochs: elbo, reconstruction, kl, then the named terms of the objective, whose units `terms`
/// declares. A run with a deterministic posterior has neither elbo nor kl; one without an encoder has only the loss.
#[must_use]
pub fn panels(records: Records, terms: &[Term]) -> Vec<Panel> {
    let panel = |title: &str, unit: &str, value: &dyn Fn(&Record) -> Option<f64>| {
        let splits = [Record::TRAIN, Record::VALIDATION, Record::STEPS];
        let mut curves: Vec<Curve> = splits
            .map(|split| records.curve(split, split, value))
            .into();
        curves.retain(|curve| curve.name != Record::STEPS || !curve.points.is_empty());
        Panel {
            title: title.to_owned(),
            unit: unit.to_owned(),
            curves,
        }
    };
    let nats = |title, value: &dyn Fn(&Record) -> Option<f64>| panel(title, Term::NATS, value);
    let all = || records.epochs.iter().chain(records.steps);
    let has_elbo = all().next().is_some() && all().all(|r| r.means.elbo.is_some());
    let has_reconstruction = all().any(|r| r.means.reconstruction.is_some());
    let mut panels = match has_reconstruction {
        true => vec![nats("reconstruction", &|record| {
            record.means.reconstruction
        })],
        false => vec![panel("loss", "", &|record| Some(record.means.loss))],
    };
    if has_elbo {
        panels.insert(0, nats("elbo", &|record| record.means.elbo));
        panels.push(nats("kl", &|record| record.means.kl));
    }
    let named = match records.epochs {
        [] => Record::named_terms(records.steps, terms),
        epochs => Record::named_terms(epochs, terms),
    };
    panels.extend(named.iter().map(|term| {
        panel(&term.title(), &term.unit, &|record| {
            record.named.get(&*term.name).copied()
        })
    }));
    panels
}

/// Draws a run's [`panels`] and its learning rate. The line below the title names the best epoch by `metric`.
///
/// # Errors
/// The plotter refuses.
pub fn learning_curves(
    title: &str,
    records: Records,
    terms: &[Term],
    metric: &Metric,
) -> Result<Plot, ViewError> {
    let mut panels = panels(records, terms);
    let rate = |record: &Record| record.learning_rate;
    let of_steps = records.curve("", Record::STEPS, &rate);
    let of_epochs = records.curve("", Record::TRAIN, &rate);
    let rates = match of_steps.points.is_empty() {
        true => of_epochs,
        false => of_steps,
    };
    panels.push(Panel {
        title: "learning rate".to_owned(),
        unit: "step size".to_owned(),
        curves: vec![rates],
    });
    let n_columns = match panels.len() {
        0..=4 => 2,
        5..=9 => 3,
        _ => 4,
    };
    let shape = (panels.len().div_ceil(n_columns), n_columns);
    let subtitle = best_epoch(records.epochs, terms, metric);
    draw(title, &subtitle, &panels, shape)
}

/// A text such as `best epoch 7, by validation loss 101.20; elbo −104.31 nats per image`.
fn best_epoch(records: &[Record], terms: &[Term], metric: &Metric) -> String {
    let best = metric.ranking(terms).best(records);
    let Some((best, value)) = best.and_then(|best| Some((best, metric.of(best)?))) else {
        return "no epoch yet".to_owned();
    };
    if *metric == Metric::Epoch {
        return format!("epoch {} is the newest, which is kept", best.epoch);
    }
    let title = metric.term(terms).title();
    let mut text = format!(
        "best epoch {}, by validation {title} {}",
        best.epoch,
        decimal(value, if value.abs() < 1.0 { 4 } else { 2 })
    );
    match (metric, best.means.elbo) {
        (Metric::Elbo, _) => text += &format!(" {}", Term::NATS),
        (_, Some(elbo)) => text += &format!("; elbo {} {}", decimal(elbo, 2), Term::NATS),
        (_, None) => {}
    }
    text
}

/// Draws a validation metric of several runs by epoch, each with its name. `terms` declare its unit and which
/// direction is better.
///
/// # Errors
/// The plotter refuses.
pub fn comparison(
    runs: &[(String, Vec<Record>)],
    metric: &Metric,
    terms: &[Term],
) -> Result<Plot, ViewError> {
    let term = metric.term(terms);
    let title = term.title();
    let unit = match &*term.unit {
        Term::NO_UNIT => format!("validation {title}"),
        unit => format!("validation {title}, {unit}"),
    };
    let value = |record: &Record| metric.of(record);
    let panel = Panel {
        title: String::new(),
        unit,
        curves: runs
            .iter()
            .map(|(name, records)| {
                Records::of_epochs(records).curve(name, Record::VALIDATION, &value)
            })
            .collect(),
    };
    let better = match metric.ranking(terms).higher_is_better() {
        true => "higher is better",
        false => "lower is better",
    };
    let title = format!("Validation {title} by epoch");
    draw(&title, better, &[panel], (1, 1))
}

fn draw(
    title: &str,
    subtitle: &str,
    panels: &[Panel],
    shape: (usize, usize),
) -> Result<Plot, ViewError> {
    canvas(title, subtitle, |body| {
        for (area, panel) in body.split_evenly(shape).iter().zip(panels) {
            draw_panel(area, panel)?;
        }
        Ok(())
    })
}

fn draw_panel(area: &Area, panel: &Panel) -> Result<(), PlotError> {
    let epochs = panel.curves.iter().flat_map(|curve| &curve.points);
    let last_epoch = epochs.fold(1.0, |last: f64, &(epoch, _)| last.max(epoch));
    let has_steps = panel.curves.iter().any(|curve| {
        let fractions = curve.points.iter().map(|(epoch, _)| epoch.fract());
        fractions.into_iter().any(|fraction| fraction > 0.0)
    });
    let x_range = match (has_steps, last_epoch) {
        (true, last) => 0.0..last,
        (false, 1.0) => 0.0..2.0,
        (false, last) => 1.0..last,
    };
    let y_range = value_range(&panel.curves);
    let x_step = tick_step(x_range.end - x_range.start, 8).max(1.0);
    let y_step = tick_step(y_range.end - y_range.start, 6);
    let is_below = legend_is_below_title(area, panel)?;

    let axes = Axes {
        x: (Axis::new(&x_range, x_step), "epoch"),
        y: (Axis::new(&y_range, y_step), &panel.unit),
        x_label: &|&epoch| tick_label(epoch, x_step),
        y_label: &|&value| tick_label(value, y_step),
        margin_top: match (panel.title.is_empty(), is_below) {
            (true, _) => 4,
            (false, false) => 40,
            (false, true) => 66,
        },
        has_x_mesh: true,
    };
    let mut chart = axes.draw(area)?;
    // The finest curve is the lowest.
    let mut layers: Vec<(&Curve, RGBColor)> = colored(panel).collect();
    layers.sort_by_key(|(curve, _)| curve.name != Record::STEPS);
    for (curve, color) in layers {
        let is_fine = curve.name == Record::STEPS;
        let style = match is_fine {
            true => color.mix(0.4).stroke_width(3 * SCALE / 2),
            false => color.stroke_width(5 * SCALE / 2),
        };
        // Segment by segment, since the plotter's joints overshoot at sharp corners.
        let segments = curve
            .points
            .windows(2)
            .filter_map(|pair| clip(pair[0], pair[1], &y_range));
        chart.draw_series(segments.map(|segment| PathElement::new(segment, style)))?;
        // Isolated epochs, and all epochs while there are few, are drawn as points.
        let marks = marked(&curve.points)
            .into_iter()
            .filter(|_| !is_fine || curve.points.len() == 1)
            .filter(|(_, value)| y_range.contains(value))
            .map(|point| Circle::new(point, px(4), color.filled()));
        chart.draw_series(marks)?;
    }

    if !panel.title.is_empty() {
        let style = font(20, true, INK);
        area.draw(&Text::new(
            panel.title.clone(),
            (px(TITLE_LEFT), px(12)),
            style,
        ))?;
    }
    let top = if is_below { px(38) } else { px(14) };
    let corner = free_corner(&panel.curves, &x_range, &y_range);
    draw_legend(area, panel, top, corner)
}

/// A corner of a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Corner {
    LowerRight,
    UpperRight,
    UpperLeft,
    LowerLeft,
}

/// The corner where the fewest curves pass; of equal ones the first.
fn free_corner(curves: &[Curve], x_range: &Range<f64>, y_range: &Range<f64>) -> Corner {
    /// Of the width and the height.
    const SHARE: f64 = 0.25;
    const N_OF_SEGMENT: usize = 8;
    let place = |value: f64, range: &Range<f64>| (value - range.start) / (range.end - range.start);
    let places: Vec<(f64, f64)> = curves
        .iter()
        .flat_map(|curve| curve.points.windows(2))
        .flat_map(|ends| {
            (0..=N_OF_SEGMENT).map(|i| {
                let share = i as f64 / N_OF_SEGMENT as f64;
                let between = |a: f64, b: f64| a + (b - a) * share;
                (between(ends[0].0, ends[1].0), between(ends[0].1, ends[1].1))
            })
        })
        .map(|(x, y)| (place(x, x_range), place(y, y_range)))
        .collect();
    let corners = [
        (Corner::LowerRight, [true, false]),
        (Corner::UpperRight, [true, true]),
        (Corner::UpperLeft, [false, true]),
        (Corner::LowerLeft, [false, false]),
    ];
    let n_in = |[is_right, is_upper]: [bool; 2]| {
        let is_near = |value: f64, is_end| match is_end {
            true => value > 1.0 - SHARE,
            false => value < SHARE,
        };
        let near = |&&(x, y): &&(f64, f64)| is_near(x, is_right) && is_near(y, is_upper);
        places.iter().filter(near).count()
    };
    corners
        .into_iter()
        .min_by_key(|&(_, sides)| n_in(sides))
        .map_or(Corner::LowerRight, |(corner, _)| corner)
}

/// The left end of a panel's title.
const TITLE_LEFT: u32 = 102;

/// The curves with their colors: each split has one of its own, several runs one each.
fn colored(panel: &Panel) -> impl Iterator<Item = (&Curve, RGBColor)> {
    let palette = colors(panel.curves.len());
    panel
        .curves
        .iter()
        .zip(palette)
        .map(|(curve, color)| (curve, split_color(&curve.name).unwrap_or(color)))
}

/// The curves in a panel's legend: those with a name and a value.
fn named(panel: &Panel) -> Vec<(&Curve, RGBColor)> {
    let has_value = |curve: &Curve| curve.points.iter().any(|(_, value)| value.is_finite());
    let is_named = |curve: &Curve| !curve.name.is_empty() && curve.name != Record::STEPS;
    colored(panel)
        .filter(|(curve, _)| is_named(curve) && has_value(curve))
        .collect()
}

/// Whether the title leaves no room beside it for the legend.
fn legend_is_below_title(area: &Area, panel: &Panel) -> Result<bool, PlotError> {
    let title = area
        .estimate_text_size(&panel.title, &font(20, true, INK))?
        .0 as i32;
    let mut legend = px(30);
    for (curve, _) in named(panel) {
        let name = area.estimate_text_size(&curve.name, &font(17, false, INK))?;
        legend += name.0 as i32 + px(52);
    }
    let width = area.dim_in_pixel().0 as i32;
    Ok(!panel.title.is_empty() && px(TITLE_LEFT) + title + px(8) > width - legend)
}

/// The names of the curves: at the top if there is a title, else in a corner.
fn draw_legend(area: &Area, panel: &Panel, top: i32, corner: Corner) -> Result<(), PlotError> {
    let names = named(panel);
    let (width, height) = area.dim_in_pixel();
    let (width, height) = (width as i32, height as i32);
    let style = font(17, false, INK);
    if panel.title.is_empty() {
        let mut y = match corner {
            Corner::LowerRight | Corner::LowerLeft => {
                height - px(60 + 12) - px(26) * names.len() as i32
            }
            Corner::UpperRight | Corner::UpperLeft => px(4 + 20),
        };
        let text_width = |name: &str| area.estimate_text_size(name, &style).map(|size| size.0);
        let widths = names
            .iter()
            .map(|(curve, _)| text_width(&curve.name))
            .collect::<Result<Vec<_>, _>>()?;
        let widest = widths.into_iter().max().unwrap_or(0) as i32;
        let x = match corner {
            Corner::LowerRight | Corner::UpperRight => width - px(30 + 50) - widest,
            Corner::LowerLeft | Corner::UpperLeft => px(TITLE_LEFT + 26),
        };
        let frame = [
            (x - px(14), y - px(8)),
            (x + px(38) + widest, y + px(2) + px(26) * names.len() as i32),
        ];
        area.draw(&Rectangle::new(frame, WHITE.mix(0.85).filled()))?;
        for (curve, color) in names {
            draw_key(area, (x, y), &curve.name, color, &style)?;
            y += px(26);
        }
    } else {
        let mut x = width - px(30);
        for (curve, color) in names.into_iter().rev() {
            x -= area.estimate_text_size(&curve.name, &style)?.0 as i32 + px(30);
            draw_key(area, (x, top), &curve.name, color, &style)?;
            x -= px(22);
        }
    }
    Ok(())
}

/// The range of values that the axis of these curves shows.
///
/// A run is judged by the later half of its epochs. Earlier values and outliers are shown as far as they
/// leave that half about a fifth of the height.
#[must_use]
pub fn value_range(curves: &[Curve]) -> Range<f64> {
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
    // Room at the edges, also for a constant.
    let room = match (high - low) * 0.06 {
        0.0 if low == 0.0 => 1.0,
        0.0 => low.abs() * 0.1,
        room => room,
    };
    low - room..high + room
}

/// The part of a line segment inside a range of values; none if an end is not finite.
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
        // Halved, so that the difference of two huge values stays finite.
        let along = (value / 2.0 - start.1 / 2.0) / (end.1 / 2.0 - start.1 / 2.0);
        (start.0 + along * (end.0 - start.0), value)
    };
    Some([cut(start), cut(end)])
}

/// The points that are drawn as marks: all if there are few, else those without a line.
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

#[cfg(test)]
mod tests {
    use image::imageops;
    use vae_run::{Means, Position};

    use super::*;
    use crate::chart::{COLORS, SIZE};

    fn record(epoch: u64, split: &str, elbo: f64) -> Record {
        let position = Position {
            epochs: epoch,
            steps: 10 * epoch,
        };
        let means = Means {
            elbo: Some(elbo),
            reconstruction: Some(-elbo),
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

    #[test]
    fn names_stand_where_no_curve_passes() {
        let of = |values: &[f64]| free_corner(&[curve(values)], &(1.0..4.0), &(0.0..1.0));
        assert_eq!(of(&[0.1, 0.5, 0.7, 0.9]), Corner::LowerRight);
        assert_eq!(of(&[0.9, 0.5, 0.3, 0.1]), Corner::UpperRight);
        let both = [curve(&[0.9, 0.5, 0.3, 0.1]), curve(&[0.5, 0.5, 0.7, 0.9])];
        assert_eq!(
            free_corner(&both, &(1.0..4.0), &(0.0..1.0)),
            Corner::LowerLeft
        );
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
        // The full range if the values are close, and while there are few.
        close(
            &value_range(&[curve(&[0.0, 0.5, 1.0, 0.6, 0.9, 0.8])]),
            -0.06,
            1.06,
        );
        close(&value_range(&[curve(&[-100.0, 0.0])]), -106.0, 6.0);
        // An outlier late in the run, if there are enough other values.
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
        let picture = learning_curves("a run", Records::of_epochs(&records), &[], &Metric::Loss)
            .unwrap()
            .image()
            .unwrap()
            .into_rgb8();
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
            let picture = learning_curves("a run", Records::of_epochs(records), &[], &Metric::Elbo)
                .unwrap()
                .image()
                .unwrap()
                .into_rgb8();
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
    fn the_best_epoch_is_the_one_of_the_chosen_metric() {
        let mut records = [record(1, "validation", -8.0), record(2, "validation", -9.0)];
        let best = |records: &[Record], metric: Metric| best_epoch(records, &[], &metric);
        assert_eq!(
            best(&records, Metric::Elbo),
            "best epoch 1, by validation elbo \u{2212}8.00 nats per image"
        );
        records[1].mse = Some(0.0123);
        assert_eq!(
            best(&records, Metric::Mse),
            "best epoch 2, by validation mse 0.0123; elbo \u{2212}9.00 nats per image"
        );
        records[1].means.elbo = None;
        assert_eq!(
            best(&records, Metric::Mse),
            "best epoch 2, by validation mse 0.0123"
        );
        assert_eq!(best(&records[..1], Metric::Mse), "no epoch yet");
    }

    #[test]
    fn steps_lie_between_the_epochs_and_have_the_color_of_training() {
        let epochs = [
            record(1, "train", -3.0),
            record(1, "validation", -2.0),
            record(2, "train", -2.0),
        ];
        let steps: Vec<Record> = [5, 15]
            .map(|step| Record {
                step,
                ..record(1 + step / 10, Record::STEPS, -(step as f64))
            })
            .into();
        let records = Records {
            steps: &steps,
            ..Records::of_epochs(&epochs)
        };
        let panels = panels(records, &[]);
        assert_eq!(panels[0].curves[2].points, [(0.5, -5.0), (1.5, -15.0)]);
        // In the first epoch nothing but the steps is there.
        let first = Records {
            epochs: &[],
            steps: &steps,
            steps_per_epoch: Some(20),
        };
        let curves = &super::panels(first, &[])[0].curves;
        assert_eq!(curves[2].points, [(0.25, -5.0), (0.75, -15.0)]);
        assert_eq!(split_color(Record::STEPS), split_color(Record::TRAIN));
        learning_curves("", first, &[], &Metric::Loss).unwrap();
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
            learning_curves("wild", Records::of_epochs(&records), &[], &Metric::Loss).unwrap();
            comparison(&[("wild".to_owned(), records)], &Metric::Mse, &[]).unwrap();
        }
    }
}
