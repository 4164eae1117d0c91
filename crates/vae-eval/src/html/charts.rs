//! Charts as inline SVG, colored by the page's style.

use std::fmt::{self, Write};
use std::ops::Range;

use vae_model::Term;
use vae_view::curves::{self, Panel, Records, value_range};
use vae_view::ticks::{tick_step, ticks};

use super::text::{Escaped, words};
use crate::Figures;
use crate::number::{number, with_decimals};

/// elbo, reconstruction, kl and the objective's named terms by epoch on both splits, with a mark at the measured epoch.
/// Nothing if there are fewer than two epochs.
pub(super) fn learning_curves(page: &mut impl Write, figures: &Figures, epoch: u64) -> fmt::Result {
    let panels = panels(figures);
    if panels.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<section id=\"curves\">\n<h2>Learning curves</h2>\n<p class=\"key\">\
         <span class=\"of\"><span class=\"line train\"></span> training images, as the weights moved\
         </span> <span class=\"of\"><span class=\"line validation\"></span> validation images</span><br>\
         The fine line is of single steps. Nats per image where no other unit is named, by epoch. The mark is epoch {epoch}, which was measured.</p>"
    )?;
    page.write_str("<div class=\"panels\">\n")?;
    for panel in &panels {
        draw_panel(page, panel, epoch as f64)?;
    }
    page.write_str("</div>\n</section>\n")
}

/// Whether there are [`learning_curves`] to draw.
pub(super) fn has_curves(figures: &Figures) -> bool {
    !panels(figures).is_empty()
}

/// The panels that have a curve with at least two points, without gaps.
fn panels(figures: &Figures) -> Vec<Panel> {
    let records = Records {
        epochs: &figures.records,
        steps: &figures.steps,
        steps_per_epoch: None,
    };
    let mut panels = curves::panels(records, &figures.terms);
    for curve in panels.iter_mut().flat_map(|panel| &mut panel.curves) {
        curve.points.retain(|(_, value)| value.is_finite());
    }
    panels.retain(|panel| panel.curves.iter().any(|curve| curve.points.len() > 1));
    panels
}

/// The title with the unit, except nats per image, which the key names.
fn title(panel: &Panel) -> String {
    match panel.unit.as_str() {
        Term::NATS => panel.title.clone(),
        Term::NO_UNIT => format!("{}, no unit", panel.title),
        unit => format!("{}, {unit}", panel.title),
    }
}

/// A coordinate system in the units of the SVG.
struct Frame {
    width: f64,
    height: f64,
    left: f64,
    bottom: f64,
    x: Range<f64>,
    y: Range<f64>,
}

impl Frame {
    const TOP: f64 = 8.0;
    const RIGHT: f64 = 10.0;

    fn x(&self, value: f64) -> f64 {
        let share = (value - self.x.start) / (self.x.end - self.x.start);
        self.left + share * (self.width - self.left - Self::RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value - self.y.start) / (self.y.end - self.y.start);
        self.height - self.bottom - share * (self.height - self.bottom - Self::TOP)
    }

    /// Lines across, with their numbers to the left.
    fn draw_grid(&self, page: &mut impl Write, n_ticks: usize) -> fmt::Result {
        let step = tick_step(self.y.end - self.y.start, n_ticks);
        let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let right = self.width - Self::RIGHT;
        for tick in ticks(&self.y, step) {
            let y = self.y(tick);
            let left = self.left;
            write!(
                page,
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 6.0,
                y + 4.0,
                with_decimals(tick, decimals),
            )?;
        }
        Ok(())
    }
}

fn draw_panel(page: &mut impl Write, panel: &Panel, epoch: f64) -> fmt::Result {
    let all = || panel.curves.iter().flat_map(|curve| &curve.points);
    let (first, last) = range(all().map(|point| point.0));
    let first = if all().any(|point| point.0.fract() > 0.0) {
        0.0
    } else {
        first
    };
    let frame = Frame {
        width: 360.0,
        height: 220.0,
        left: 52.0,
        bottom: 38.0,
        x: first..last.max(first + 1.0),
        y: value_range(&panel.curves),
    };
    let title = title(panel);
    let title = Escaped(&title);
    writeln!(
        page,
        "<figure class=\"panel\"><figcaption>{title}</figcaption>\
         <svg viewBox=\"0 0 360 220\" role=\"img\" aria-label=\"{title} by epoch on both splits\">"
    )?;
    frame.draw_grid(page, 5)?;
    let step = tick_step(frame.x.end - frame.x.start, 6).max(1.0);
    for tick in ticks(&frame.x, step) {
        let (x, y) = (frame.x(tick), frame.height - 22.0);
        write!(
            page,
            "<text class=\"middle\" x=\"{x:.1}\" y=\"{y}\">{}</text>",
            number(tick)
        )?;
    }
    let middle = f64::midpoint(frame.left, frame.width - Frame::RIGHT);
    write!(
        page,
        "<text class=\"middle\" x=\"{middle:.1}\" y=\"{:.1}\">epoch</text>",
        frame.height - 5.0
    )?;
    if (frame.x.start..=frame.x.end).contains(&epoch) {
        let x = frame.x(epoch);
        let (top, bottom) = (Frame::TOP, frame.height - frame.bottom);
        write!(
            page,
            "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>"
        )?;
    }
    // A nested SVG clips whatever lies outside of the plot.
    let (top, width) = (Frame::TOP, frame.width);
    let height = frame.height - frame.bottom - top;
    write!(
        page,
        "<svg class=\"inside\" y=\"{top}\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 {top} {width} {height}\">"
    )?;
    // The finest is the lowest, and it is the last of the list.
    for curve in panel.curves.iter().rev() {
        write!(page, "<polyline class=\"{}\" points=\"", curve.name)?;
        for &(epoch, value) in &curve.points {
            write!(page, "{:.1},{:.1} ", frame.x(epoch), frame.y(value))?;
        }
        page.write_str("\"/>")?;
    }
    page.write_str("</svg>\n</svg></figure>\n")
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

/// The largest number of values that are drawn as bars.
const MOST_BARS: usize = 512;

/// A bar chart of a list: latent dimensions in descending order, others in their own order.
pub(super) fn bars(page: &mut impl Write, name: &str, values: &[f64]) -> fmt::Result {
    let title = words(name);
    let finite: Vec<(usize, f64)> = values
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, value)| value.is_finite())
        .collect();
    let n = finite.len();
    if n == 0 {
        return Ok(());
    }
    let (low, high) = range(finite.iter().map(|bar| bar.1));
    let summary = format!(
        "{n} values from {} to {}, {} in all",
        number(low),
        number(high),
        number(finite.iter().map(|bar| bar.1).sum())
    );
    writeln!(
        page,
        "<figure class=\"chart\"><figcaption><strong>{}</strong> {}</figcaption>",
        Escaped(&title),
        Escaped(&summary)
    )?;
    if n <= MOST_BARS {
        let mut bars = finite;
        let is_of_dimensions = name.ends_with("_per_dimension") || name == "center_variance";
        if is_of_dimensions {
            bars.sort_by(|a, b| b.1.total_cmp(&a.1));
        }
        let axis = if is_of_dimensions {
            "latent dimension, most first"
        } else {
            "position"
        };
        draw_bars(page, &title, axis, &bars, (low.min(0.0), high.max(0.0)))?;
    }
    page.write_str("</figure>\n")
}

fn draw_bars(
    page: &mut impl Write,
    title: &str,
    axis: &str,
    bars: &[(usize, f64)],
    (low, high): (f64, f64),
) -> fmt::Result {
    let n = bars.len() as f64;
    let frame = Frame {
        width: 760.0,
        height: 220.0,
        left: 52.0,
        bottom: 40.0,
        x: 0.0..n,
        y: low * 1.05..(high * 1.05).max(low + 1e-9),
    };
    writeln!(
        page,
        "<div class=\"wide\"><svg viewBox=\"0 0 760 220\" role=\"img\" aria-label=\"bar chart of {}\">",
        Escaped(title)
    )?;
    frame.draw_grid(page, 5)?;
    // Labels while there is room; those of three digits are wide.
    let every = bars.len().div_ceil(if bars.len() > 100 { 22 } else { 32 });
    // Few bars stay narrow.
    let slot = frame.x(1.0) - frame.x(0.0);
    let width = (slot * 0.78).min(48.0);
    for (place, (i, value)) in bars.iter().enumerate() {
        let middle = frame.x(place as f64 + 0.5);
        let (top, zero) = (frame.y(value.max(0.0)), frame.y(value.min(0.0)));
        write!(
            page,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\">\
             <title>{i}: {}</title></rect>",
            middle - width / 2.0,
            (zero - top).max(0.5),
            number(*value),
        )?;
        if place % every == 0 {
            let y = frame.height - frame.bottom + 15.0;
            write!(
                page,
                "<text class=\"middle\" x=\"{middle:.1}\" y=\"{y}\">{i}</text>"
            )?;
        }
    }
    let x = f64::midpoint(frame.left, frame.width - Frame::RIGHT);
    let y = frame.height - 5.0;
    writeln!(
        page,
        "<text class=\"middle\" x=\"{x}\" y=\"{y}\">{axis}</text></svg></div>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_list_makes_bars_inside_the_picture() {
        let lists = [
            vec![],
            vec![f64::NAN],
            vec![0.0; 3],
            vec![1e-12, -4.0, 7.0],
            (0..400).map(f64::from).collect(),
        ];
        for list in &lists {
            let mut page = String::new();
            bars(&mut page, "kl_per_dimension", list).unwrap();
            let n_finite = list.iter().filter(|value| value.is_finite()).count();
            assert_eq!(page.matches("<rect").count(), n_finite);
            assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
            assert!(!page.contains("height=\"-"), "{page}");
        }
    }
}
