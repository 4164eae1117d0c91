//! Plots of latents.

use std::ops::Range;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use tch::{Kind, Tensor};

use crate::ViewError;
use crate::chart::{
    Area, Axes, Axis, Chart, FAINT_INK, GRID, INK, PlotError, SCALE, Shape, TOO_HIGH, canvas,
    colors, draw_key, font, px,
};
use crate::recorder::Plot;
use crate::ticks::{decimal, tick_label, tick_step};

/// A scatter plot with classes.
#[derive(Debug)]
pub struct Scatter<'a> {
    /// The title.
    pub title: &'a str,
    /// A line below it.
    pub subtitle: &'a str,
    /// The names of the axes.
    pub axes: [String; 2],
    /// The coordinates of the points.
    pub points: &'a [(f64, f64)],
    /// The class of each point, an index into `classes`.
    pub class_of: &'a [usize],
    /// The names of the classes, for the legend; a single class has no legend.
    pub classes: &'a [String],
}

/// The most classes whose names are written into a plot.
const MOST_NAMED: usize = 40;

/// Places of names moved so far that none is nearer than `least` pixels to another.
fn apart(places: &[(i32, i32)], least: i32) -> Vec<(i32, i32)> {
    let mut moved = places.to_vec();
    for _ in 0..60 {
        let mut is_done = true;
        for i in 0..moved.len() {
            for j in 0..i {
                let (dx, dy) = (moved[i].0 - moved[j].0, moved[i].1 - moved[j].1);
                if dx.pow(2) + dy.pow(2) < least.pow(2) {
                    is_done = false;
                    let step = px(2);
                    let side = |difference: i32| if difference < 0 { -step } else { step };
                    moved[i].0 += side(dx);
                    moved[i].1 += side(dy);
                    moved[j].0 -= side(dx);
                    moved[j].1 -= side(dy);
                }
            }
        }
        if is_done {
            break;
        }
    }
    moved
}

/// Width of the legend beside a plot.
const LEGEND: u32 = 190;

impl Scatter<'_> {
    /// A point for each image, colored by class.
    ///
    /// # Errors
    /// The plotter refuses.
    pub fn draw(&self) -> Result<Plot, ViewError> {
        let palette = colors(self.classes.len());
        // If there are many points, they are small and translucent.
        let (radius, opacity) = match self.points.len() {
            0..=1000 => (px(4), 0.8),
            1001..=4000 => (px(3), 0.65),
            _ => (px(2), 0.5),
        };
        canvas(self.title, self.subtitle, |body| {
            let plane = self.beside_legend(body, &palette)?;
            let mut chart = plane_chart(&plane, self.ranges(), &self.axes)?;
            let marks = self
                .points
                .iter()
                .zip(self.class_of)
                .map(|(&point, &class)| {
                    let color = palette[class % palette.len()].mix(opacity);
                    let outline = Shape::of(class).outline(radius + px(1));
                    EmptyElement::at(point)
                        + Circle::new(
                            (0, 0),
                            if outline.is_empty() { radius } else { 0 },
                            color.filled(),
                        )
                        + Polygon::new(outline, color)
                });
            chart.draw_series(marks)?;
            self.draw_names(&mut chart)
        })
    }

    /// The density of the points of all classes: the darker the denser, on a square-root scale.
    ///
    /// # Errors
    /// The plotter refuses.
    pub fn draw_density(&self) -> Result<Plot, ViewError> {
        const CELLS: [usize; 2] = [160, 96];
        let ranges = self.ranges();
        let density = smoothed_histogram(self.points, &ranges, CELLS);
        let highest = density.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        canvas(self.title, self.subtitle, |body| {
            let mut chart = plane_chart(body, ranges.clone(), &self.axes)?;
            let side = |axis: usize| (ranges[axis].end - ranges[axis].start) / CELLS[axis] as f64;
            let cells = density.iter().enumerate().filter_map(|(i, density)| {
                let shade = (density / highest).sqrt();
                let corner =
                    |axis: usize, cell: usize| ranges[axis].start + cell as f64 * side(axis);
                let (x, y) = (i % CELLS[0], i / CELLS[0]);
                let corners = [
                    (corner(0, x), corner(1, y)),
                    (corner(0, x + 1), corner(1, y + 1)),
                ];
                (shade > 0.02).then(|| Rectangle::new(corners, colors(1)[0].mix(shade).filled()))
            });
            chart.draw_series(cells)?;
            self.draw_names(&mut chart)
        })
    }

    /// The name of each class at its center, the median of its points, so that no color has to be looked up.
    fn draw_names(&self, chart: &mut Chart) -> Result<(), PlotError> {
        if !(2..=MOST_NAMED).contains(&self.classes.len()) {
            return Ok(());
        }
        let centers = self.centers();
        let places: Vec<(i32, i32)> = centers
            .iter()
            .map(|(_, center)| chart.backend_coord(center))
            .collect();
        let bold = font(22, true, INK);
        let anchor = Pos::new(HPos::Center, VPos::Center);
        for ((class, center), (place, apart)) in centers
            .iter()
            .zip(places.iter().zip(apart(&places, px(24))))
        {
            let name = &self.classes[*class];
            let (dx, dy) = (apart.0 - place.0, apart.1 - place.1 + TOO_HIGH);
            // A white edge, so that it can be read on points of any color.
            let edge = [-2, 0, 2].map(|x| [-2, 0, 2].map(|y| (px(1) * x, px(1) * y)));
            let halo = bold.color(&WHITE).pos(anchor);
            let strokes = edge.as_flattened().iter().map(|&(x, y)| (x, y, &halo));
            let ink = bold.pos(anchor);
            for (x, y, style) in strokes.chain([(0, 0, &ink)]) {
                let text = Text::new(name.clone(), (dx + x, dy + y), style.clone());
                chart.draw_series([EmptyElement::at(*center) + text])?;
            }
        }
        Ok(())
    }

    /// The median of the points of each class that has some.
    fn centers(&self) -> Vec<(usize, (f64, f64))> {
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        let of_class = |class: usize| {
            let pairs = self.points.iter().zip(self.class_of);
            let own = pairs.filter(|((x, y), of)| **of == class && x.is_finite() && y.is_finite());
            let (x, y): (Vec<f64>, Vec<f64>) = own.map(|(point, _)| *point).unzip();
            Some((class, (median(x)?, median(y)?)))
        };
        (0..self.classes.len()).filter_map(of_class).collect()
    }

    /// Draws the legend at the right if there is more than one class, and returns the remaining area.
    fn beside_legend(&self, body: &Area, palette: &[RGBColor]) -> Result<Area, PlotError> {
        if self.classes.len() < 2 {
            return Ok(body.clone());
        }
        let (width, height) = body.dim_in_pixel();
        let (plane, legend) = body.split_horizontally(width as i32 - px(LEGEND));
        let style = font(17, false, INK);
        let n_shown = (height as i32 - px(60)) / px(26);
        for (i, (name, color)) in (0..n_shown).zip(self.classes.iter().zip(palette)) {
            let (x, y) = (px(10), px(24) + i * px(26));
            let outline = Shape::of(i as usize).outline(px(7));
            let moved: Vec<(i32, i32)> = outline.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
            match moved.is_empty() {
                true => legend.draw(&Circle::new((x, y), px(7), color.filled()))?,
                false => legend.draw(&Polygon::new(moved, *color))?,
            }
            let anchored = style.pos(Pos::new(HPos::Left, VPos::Center));
            let place = (x + px(16), y + TOO_HIGH);
            legend.draw(&Text::new(name.clone(), place, anchored))?;
        }
        Ok(plane)
    }

    fn ranges(&self) -> [Range<f64>; 2] {
        let x = self.points.iter().map(|point| point.0);
        let y = self.points.iter().map(|point| point.1);
        [padded_range(x), padded_range(y)]
    }
}

/// The range of the finite values, with a margin.
fn padded_range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low > high {
        return -1.0..1.0;
    }
    let room = match (high - low) * 0.04 {
        room if room > 0.0 => room,
        _ => low.abs().max(1.0) * 0.1,
    };
    low - room..high + room
}

fn plane_chart<'a>(
    area: &'a Area,
    [x_range, y_range]: [Range<f64>; 2],
    [x_name, y_name]: &[String; 2],
) -> Result<Chart<'a>, PlotError> {
    let step = |range: &Range<f64>, n| tick_step(range.end - range.start, n);
    let (x_step, y_step) = (step(&x_range, 10), step(&y_range, 8));
    let axes = Axes {
        x: (Axis::new(&x_range, x_step), x_name),
        y: (Axis::new(&y_range, y_step), y_name),
        x_label: &|&value| tick_label(value, x_step),
        y_label: &|&value| tick_label(value, y_step),
        margin_top: 4,
        has_x_mesh: true,
    };
    axes.draw(area)
}

/// The number of points in each of `cells` (across, up), row by row from the bottom, blurred over a few cells.
fn smoothed_histogram(
    points: &[(f64, f64)],
    ranges: &[Range<f64>; 2],
    [across, up]: [usize; 2],
) -> Vec<f64> {
    let mut counts = vec![0.0; across * up];
    let cell = |value: f64, range: &Range<f64>, n: usize| {
        let share = (value - range.start) / (range.end - range.start);
        ((share * n as f64) as usize).min(n - 1)
    };
    for &(x, y) in points
        .iter()
        .filter(|(x, y)| x.is_finite() && y.is_finite())
    {
        counts[cell(y, &ranges[1], up) * across + cell(x, &ranges[0], across)] += 1.0;
    }
    // With few points the blur is wider.
    let deviation = (8.0 / (points.len().max(1) as f64).powf(1.0 / 6.0)).clamp(1.2, 4.0);
    let reach = (3.0 * deviation).ceil() as isize;
    let kernel: Vec<f64> = (-reach..=reach)
        .map(|i| (-0.5 * (i as f64 / deviation).powi(2)).exp())
        .collect();
    let blurred = |counts: &[f64], n: usize, stride: usize| -> Vec<f64> {
        (0..counts.len())
            .map(|i| {
                let place = (i / stride % n) as isize;
                let inside = |k: &isize| (0..n as isize).contains(&(place + k));
                (-reach..=reach)
                    .filter(inside)
                    .map(|k| {
                        let neighbor = i as isize + k * stride as isize;
                        counts[neighbor as usize] * kernel[(k + reach) as usize]
                    })
                    .sum()
            })
            .collect()
    };
    blurred(&blurred(&counts, across, 1), up, across)
}

/// A bar chart of the usage of the latent dimensions, the largest first.
///
/// # Errors
/// The plotter refuses.
pub fn bars(title: &str, subtitle: &str, unit: &str, values: &[f64]) -> Result<Plot, ViewError> {
    let mut dims: Vec<usize> = (0..values.len()).collect();
    dims.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let n = dims.len() as f64;
    let highest = values.iter().copied().fold(0.0, f64::max).max(1e-9) * 1.05;
    let lowest = values.iter().copied().fold(0.0, f64::min) * 1.05;
    let step = tick_step(highest - lowest, 8);
    // Every dimension is labeled while there is room.
    let every = (dims.len().div_ceil(40)).max(1);
    let x_axis = Axis::new(&(-0.5..n - 0.5), every as f64);
    canvas(title, subtitle, |body| {
        let name = |place: &f64| {
            let dim = dims.get(place.round() as usize);
            dim.map_or_else(String::new, usize::to_string)
        };
        let axes = Axes {
            x: (x_axis, "latent dimension"),
            y: (Axis::new(&(lowest..highest), step), unit),
            x_label: &name,
            y_label: &|&value| tick_label(value, step),
            margin_top: 4,
            has_x_mesh: false,
        };
        let mut chart = axes.draw(body)?;
        let color = colors(1)[0];
        let bars = dims.iter().enumerate().map(|(place, &dim)| {
            let place = place as f64;
            let corners = [(place - 0.38, 0.0), (place + 0.38, values[dim])];
            Rectangle::new(corners, color.filled())
        });
        chart.draw_series(bars)?;
        Ok(())
    })
}

/// The aggregate posterior of some latent dimensions against the prior.
#[derive(Debug)]
pub struct Dimensions<'a> {
    /// The title.
    pub title: &'a str,
    /// A line below it.
    pub subtitle: &'a str,
    /// Which dimensions, at least one.
    pub dims: &'a [usize],
    /// Latents drawn from the posteriors of images, `[N, Z]`.
    pub aggregate: &'a Tensor,
    /// Latents drawn from the prior, `[M, Z]`.
    pub prior: &'a Tensor,
}

/// The number of bins of a histogram.
const N_BINS: usize = 60;

impl Dimensions<'_> {
    /// A panel for each dimension: a histogram of the latents of images, and the prior's as a line. Where the two differ,
    /// samples from the prior decode to images unlike any in training, or images lie where the prior never draws.
    ///
    /// # Errors
    /// The plotter refuses.
    pub fn draw(&self) -> Result<Plot, ViewError> {
        let panels = self
            .dims
            .iter()
            .map(|&dim| {
                let column = |latents: &Tensor| -> Result<Vec<f64>, ViewError> {
                    let column = latents.f_select(1, dim as i64)?.to_kind(Kind::Double);
                    Ok(Vec::<f64>::try_from(column)?)
                };
                let (aggregate, prior) = (column(self.aggregate)?, column(self.prior)?);
                let range = padded_range(
                    [quantiles(&aggregate), quantiles(&prior)]
                        .concat()
                        .into_iter(),
                );
                let densities = [&aggregate, &prior].map(|values| histogram(values, &range));
                Ok((dim, range, densities))
            })
            .collect::<Result<Vec<_>, ViewError>>()?;
        let columns = (panels.len() as f64).sqrt().ceil() as usize;
        let rows = panels.len().div_ceil(columns.max(1));
        let palette = colors(2);
        canvas(self.title, self.subtitle, |body| {
            let (legend, grid) = body.split_vertically(px(30));
            let style = font(17, false, INK);
            draw_key(&legend, (px(28), px(2)), "images", palette[0], &style)?;
            draw_key(&legend, (px(150), px(2)), "prior", palette[1], &style)?;
            let note = Text::new("density", (px(270), px(2)), font(17, false, FAINT_INK));
            legend.draw(&note)?;
            let areas = grid
                .margin(0, px(12), px(10), px(20))
                .split_evenly((rows, columns));
            for (area, (dim, range, [aggregate, prior])) in areas.iter().zip(&panels) {
                let highest = aggregate.iter().chain(prior).copied().fold(1e-9, f64::max);
                let step = tick_step(range.end - range.start, 5);
                let y_step = tick_step(highest * 1.08, 3);
                let mut chart = ChartBuilder::on(area)
                    .margin(px(8))
                    .margin_top(px(26))
                    .x_label_area_size(px(22))
                    .y_label_area_size(px(40))
                    .build_cartesian_2d(
                        Axis::new(range, step),
                        Axis::new(&(0.0..highest * 1.08), y_step),
                    )?;
                chart
                    .configure_mesh()
                    .light_line_style(TRANSPARENT)
                    .bold_line_style(GRID.stroke_width(SCALE))
                    .axis_style(GRID.stroke_width(SCALE))
                    .x_label_style(font(13, false, FAINT_INK))
                    .y_label_style(font(13, false, FAINT_INK))
                    .y_label_offset(TOO_HIGH)
                    .x_label_formatter(&|&value| tick_label(value, step))
                    .y_label_formatter(&|&value| tick_label(value, y_step))
                    .draw()?;
                let width = (range.end - range.start) / N_BINS as f64;
                let place = |bin: usize| range.start + bin as f64 * width;
                let bars = aggregate.iter().enumerate().map(|(bin, &density)| {
                    let corners = [(place(bin), 0.0), (place(bin + 1), density)];
                    Rectangle::new(corners, palette[0].mix(0.55).filled())
                });
                chart.draw_series(bars)?;
                let line = (0..N_BINS).map(|bin| (place(bin) + width / 2.0, prior[bin]));
                let line: Vec<_> = line.collect();
                let style = palette[1].stroke_width(2 * SCALE);
                let segments = line.windows(2);
                chart.draw_series(segments.map(|ends| PathElement::new(ends.to_vec(), style)))?;
                let name = format!("z{dim}");
                area.draw(&Text::new(name, (px(10), px(4)), font(15, true, INK)))?;
            }
            Ok(())
        })
    }
}

/// The quantiles 0.002 and 0.998.
fn quantiles(values: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get((share * (values.len() as f64 - 1.0)).round() as usize);
    [at(0.002), at(0.998)]
        .into_iter()
        .flatten()
        .copied()
        .collect()
}

/// The density in each bin.
fn histogram(values: &[f64], range: &Range<f64>) -> Vec<f64> {
    let width = (range.end - range.start) / N_BINS as f64;
    let mut density = vec![0.0; N_BINS];
    for value in values.iter().filter(|value| range.contains(*value)) {
        let bin = ((value - range.start) / width) as usize;
        density[bin.min(N_BINS - 1)] += 1.0 / (width * values.len() as f64);
    }
    density
}

/// A share as a percentage, for titles.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{} %", decimal(100.0 * share, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_a_density() {
        let density = histogram(&[0.0, 0.1, 0.9, 5.0], &(0.0..1.0));
        let width = 1.0 / N_BINS as f64;
        assert!((density.iter().sum::<f64>() * width - 0.75).abs() < 1e-12);
        assert!((density[0] - 0.25 / width).abs() < 1e-9);
        let points = [(0.1, 0.1), (0.1, 0.1), (0.9, 0.9), (f64::NAN, 0.0)];
        let blurred = smoothed_histogram(&points, &[0.0..1.0, 0.0..1.0], [40, 20]);
        let at = |x: usize, y: usize| blurred[y * 40 + x];
        assert!(at(4, 2) > at(36, 18) && at(36, 18) > at(20, 10));
        assert_eq!(padded_range([f64::NAN].into_iter()), -1.0..1.0);
    }

    #[test]
    fn the_name_of_a_class_stands_at_the_median_of_its_points() {
        let points = [
            (0.0, 0.0),
            (1.0, 5.0),
            (90.0, 1.0),
            (7.0, 7.0),
            (f64::NAN, 9.0),
        ];
        let names = ["a", "b", "none"].map(str::to_owned);
        let scatter = Scatter {
            title: "",
            subtitle: "",
            axes: [String::new(), String::new()],
            points: &points,
            class_of: &[0, 0, 0, 1, 1],
            classes: &names,
        };
        assert_eq!(scatter.centers(), [(0, (1.0, 1.0)), (1, (7.0, 7.0))]);
        let svg = scatter.draw().expect("a plot").svg().expect("an SVG");
        assert!(svg.contains("\na\n") && svg.contains("\nb\n"), "{svg}");
        // Names on one place move apart.
        let moved = apart(&[(50, 50), (50, 50), (400, 50)], 40);
        let (dx, dy) = (moved[0].0 - moved[1].0, moved[0].1 - moved[1].1);
        assert!(
            dx.pow(2) + dy.pow(2) >= 1600 && moved[2] == (400, 50),
            "{moved:?}"
        );
    }

    #[test]
    fn more_than_ten_classes_differ_by_color_or_shape() {
        let kinds = colors(40);
        let kinds: Vec<_> = (0..40)
            .map(|class| (kinds[class], Shape::of(class)))
            .map(|(color, shape)| format!("{color:?} {shape:?}"))
            .collect();
        let distinct: std::collections::BTreeSet<_> = kinds.iter().collect();
        assert_eq!(distinct.len(), 40);
        assert_eq!(Shape::of(0), Shape::Circle);
    }

    #[test]
    fn plots_are_drawn_of_anything() {
        let classes = ["a".to_owned(), "b".to_owned()];
        let axes = ["x".to_owned(), "y".to_owned()];
        for points in [&[][..], &[(0.0, 0.0)], &[(0.0, f64::NAN), (1.0, 2.0)]] {
            let class_of = vec![1; points.len()];
            let scatter = Scatter {
                title: "latents",
                subtitle: "",
                axes: axes.clone(),
                points,
                class_of: &class_of,
                classes: &classes,
            };
            let drawn = [scatter.draw(), scatter.draw_density()];
            for plot in drawn {
                let picture = plot.expect("a plot").image().expect("pixels");
                assert_eq!((picture.width(), picture.height()), (1400, 900));
            }
        }
        for values in [&[][..], &[0.0], &[1.0, 3.0, -0.1], &[0.5; 200]] {
            assert!(bars("kl", "", "nats", values).is_ok(), "{values:?}");
        }
        let latents = Tensor::from_slice2(&[[0.0, 1.0], [2.0, 1.0]]);
        let dimensions = Dimensions {
            title: "",
            subtitle: "",
            dims: &[1, 0],
            aggregate: &latents,
            prior: &latents,
        };
        assert!(dimensions.draw().is_ok());
    }
}
