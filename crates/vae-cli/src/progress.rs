//! Progress on stderr: a bar with the time left on a terminal, a line for each epoch everywhere.

use std::io::{self, IsTerminal, Stderr, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::output::say;
use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use vae_base::{counted, one_line};
use vae_data::image_folder::PackProgress;
use vae_run::Record;
use vae_train::{Callback, Event, Fit, Flow, TrainError};

/// Writes warnings to stderr. On a terminal the bar's line is cleared first, and drawn again below.
pub(crate) fn above_the_bar() -> Stderr {
    let mut stderr = io::stderr();
    if stderr.is_terminal() && !is_dumb() {
        // A terminal that cannot be written to will not show the warning either.
        let _ = stderr.write_all(b"\r\x1b[2K");
    }
    stderr
}

/// Whether stderr is a terminal that shows colors and wants them (<https://no-color.org>).
pub(crate) fn takes_colors() -> bool {
    let is_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    io::stderr().is_terminal() && is_wanted && !is_dumb()
}

/// Whether the terminal says that it cannot move its cursor.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|kind| kind == "dumb")
}

/// Where bars are drawn: nowhere if the terminal cannot move its cursor.
fn target() -> ProgressDrawTarget {
    match is_dumb() {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    }
}

/// How often the running means are read; on a GPU reading them waits for the device.
const REFRESH: Duration = Duration::from_millis(250);

/// How long nothing is said where there is no terminal for a bar.
const SILENCE: Duration = Duration::from_secs(60);

/// Shows the progress of training.
pub(crate) struct Progress {
    bar: ProgressBar,
    last_refresh: Option<Instant>,
    table: EpochTable,
    /// When the fit began, and at which step.
    start: (Instant, u64),
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, target());
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} steps, {eta} left  {msg}")
        {
            bar.set_style(style);
        }
        Self {
            bar,
            last_refresh: None,
            table: EpochTable::default(),
            start: (Instant::now(), 0),
        }
    }

    fn is_due(&self) -> bool {
        let pause = match self.bar.is_hidden() {
            true => SILENCE,
            false => REFRESH,
        };
        self.last_refresh.is_none_or(|at| at.elapsed() > pause)
    }

    fn time_left(&self, steps: u64, n_steps: u64) -> HumanDuration {
        let (start, first) = self.start;
        let share =
            n_steps.saturating_sub(steps) as f64 / steps.saturating_sub(first).max(1) as f64;
        HumanDuration(start.elapsed().mul_f64(share))
    }
}

impl Callback for Progress {
    fn name(&self) -> &'static str {
        "progress"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let epochs = run.config.training.epochs;
        match event {
            Event::FitStart => {
                self.start = (Instant::now(), run.progress.position.steps);
                self.last_refresh = Some(Instant::now());
                self.bar
                    .set_length(run.config.n_steps(run.splits.train.len()));
                self.bar.set_prefix(format!("epoch 1/{epochs}"));
            }
            Event::StepEnd { totals, .. } if self.is_due() => {
                self.last_refresh = Some(Instant::now());
                let (means, steps) = (totals.means(), run.progress.position.steps);
                if self.bar.is_hidden() {
                    let n_steps = run.config.n_steps(run.splits.train.len());
                    let left = self.time_left(steps, n_steps);
                    say!("step {steps} of {n_steps}, about {left} left: train {means}");
                }
                self.bar.set_position(steps);
                self.bar.set_message(means.to_string());
            }
            Event::EpochEnd {
                train,
                validation,
                is_best,
                ..
            } => {
                if !self.bar.is_hidden() {
                    let is_best = validation.is_some() && *is_best;
                    for line in self.table.lines(train, *validation, epochs, is_best) {
                        self.bar.println(line);
                    }
                } else {
                    say!(
                        "epoch {}/{epochs}: {}train {}{}{}; {:.0} images/s, {:.0} s{}",
                        train.epoch,
                        validation.map_or(String::new(), |record| format!(
                            "validation {}, ",
                            record.means
                        )),
                        match train.means.elbo {
                            Some(elbo) => format!("elbo {elbo:.2}"),
                            None => train.means.to_string(),
                        },
                        match train.means.reconstruction {
                            Some(_) => format!(", loss {:.4}", train.means.loss),
                            None => String::new(), // Shown already.
                        },
                        named(validation.unwrap_or(train)),
                        train.images_per_s,
                        train.seconds + validation.map_or(0.0, |record| record.seconds),
                        if validation.is_some() && *is_best {
                            ", best"
                        } else {
                            ""
                        },
                    );
                }
                self.last_refresh = Some(Instant::now());
                self.bar.set_position(run.progress.position.steps);
                self.bar
                    .set_prefix(format!("epoch {}/{epochs}", (train.epoch + 1).min(epochs)));
            }
            Event::FitEnd { .. } => self.bar.finish_and_clear(),
            _ => {}
        }
        Ok(Flow::Continue)
    }
}

/// The epochs as a table above the bar, as wide as the terminal at most.
#[derive(Default)]
struct EpochTable {
    n_rows: usize,
}

impl EpochTable {
    /// The header comes again after this number of rows.
    const ROWS_TO_HEADER: usize = 20;

    /// The row of an epoch, with the header above it where it is due.
    fn lines(
        &mut self,
        train: &Record,
        validation: Option<&Record>,
        epochs: u64,
        is_best: bool,
    ) -> Vec<String> {
        let width = terminal_size::terminal_size_of(io::stderr());
        let width = width.map_or(80, |(width, _)| usize::from(width.0));
        let [header, row] = epoch_row(train, validation, epochs, is_best, width);
        let is_due = self.n_rows.is_multiple_of(Self::ROWS_TO_HEADER);
        self.n_rows += 1;
        match is_due {
            true => vec![header, row],
            false => vec![row],
        }
    }
}

/// The header and the row of an epoch. What has no room in `width` letters is left out, the least important first; all is in
/// metrics.jsonl.
fn epoch_row(
    train: &Record,
    validation: Option<&Record>,
    epochs: u64,
    is_best: bool,
    width: usize,
) -> [String; 2] {
    let shown = validation.unwrap_or(train);
    let of = if validation.is_some() {
        "val."
    } else {
        "train"
    };
    let nats = |value: Option<f64>| value.map(|value| format!("{value:.2}"));
    let seconds = train.seconds + validation.map_or(0.0, |record| record.seconds);
    // Each with its importance, the least first to go.
    let mut columns: Vec<(u8, String, Option<String>)> = vec![
        (
            9,
            "epoch".to_owned(),
            Some(format!("{}/{epochs}", train.epoch)),
        ),
        (8, format!("{of} elbo"), nats(shown.means.elbo)),
        (6, "reconstr.".to_owned(), nats(shown.means.reconstruction)),
        (5, "kl".to_owned(), nats(shown.means.kl)),
    ];
    if validation.is_some() {
        columns.push((4, "train elbo".to_owned(), nats(train.means.elbo)));
    }
    let loss = Some(format!("{:.4}", train.means.loss));
    let is_main = shown.means.reconstruction.is_none();
    columns.push((if is_main { 8 } else { 3 }, "train loss".to_owned(), loss));
    for (name, value) in &shown.named {
        columns.push((1, one_line(name), Some(format!("{value:.4}"))));
    }
    columns.push((
        2,
        "items/s".to_owned(),
        Some(format!("{:.0}", train.images_per_s)),
    ));
    columns.push((7, "s".to_owned(), Some(format!("{seconds:.0}"))));
    columns.retain(|(_, _, value)| value.is_some());
    let of_epoch = 2 * epochs.to_string().len() + 1;
    let size = |name: &str, value: &str| {
        let least = match name {
            "epoch" => of_epoch,
            "s" => 5,
            _ => 8,
        };
        name.chars().count().max(value.chars().count()).max(least)
    };
    let total = |columns: &[(u8, String, Option<String>)]| {
        let sizes = columns
            .iter()
            .map(|(_, name, value)| size(name, value.as_deref().unwrap_or_default()) + 2);
        sizes.sum::<usize>() + "best".len()
    };
    while total(&columns) > width && columns.len() > 2 {
        let least = columns.iter().map(|(importance, ..)| *importance).min();
        // Of equal ones the last.
        if let Some(i) = columns.iter().rposition(|(i, ..)| Some(*i) == least) {
            columns.remove(i);
        }
    }
    let (mut header, mut row) = (String::new(), String::new());
    for (_, name, value) in &columns {
        let value = value.as_deref().unwrap_or_default();
        let size = size(name, value);
        header += &format!("{name:>size$}  ");
        row += &format!("{value:>size$}  ");
    }
    if is_best {
        row += "best";
    }
    [header.trim_end().to_owned(), row.trim_end().to_owned()]
}

/// Says that a pack is being written, with a bar on a terminal. For [`vae_data::image_folder::watch_packs`].
pub(crate) fn show_pack(progress: PackProgress) {
    /// Smaller ones are written before anyone wonders.
    const LEAST: u64 = 32 << 20;
    static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);
    let PackProgress {
        path,
        n_done,
        n_files,
        n_bytes,
    } = progress;
    let Ok(mut bar) = BAR.lock() else {
        return;
    };
    if n_done == 0 && n_bytes >= LEAST {
        say!(
            "{}: writing {} of {n_files} files, once; later runs read it",
            path.display(),
            BinaryBytes(n_bytes)
        );
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} files, {eta} left");
        let new = ProgressBar::with_draw_target(Some(n_files as u64), target());
        if let Ok(style) = style {
            new.set_style(style);
        }
        *bar = Some(new);
    }
    if let Some(shown) = bar.as_ref() {
        shown.set_position(n_done as u64);
    }
    if n_done >= n_files
        && let Some(done) = bar.take()
    {
        done.finish_and_clear();
    }
}

/// `, total_correlation 1.2345` for each named term.
fn named(record: &Record) -> String {
    let named = record.named.iter();
    named
        .map(|(name, value)| format!(", {} {value:.4}", one_line(name)))
        .collect()
}

/// A bar on a terminal for work of `n` steps, as `template` says.
pub(crate) fn bar(n: u64, template: &str) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template(template)?;
    Ok(ProgressBar::with_draw_target(Some(n), target()).with_style(style))
}

/// A bar with the time left on a terminal, for work of `n` equal steps.
pub(crate) fn share_bar(n: u64, work: String) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(n), target());
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent} % of {msg}, {eta} left") {
        bar.set_style(style);
    }
    bar.with_message(work)
}

/// Counts images as they are processed: a bar with the time left on a terminal, their rate at the end.
pub(crate) struct ImageCount {
    bar: ProgressBar,
    start: Instant,
    n_done: usize,
}

impl ImageCount {
    /// Expects `n_images`, if the number is known.
    pub(crate) fn new(n_images: Option<usize>) -> Self {
        let draw_target = target();
        let bar = ProgressBar::with_draw_target(n_images.map(|n| n as u64), draw_target);
        let template = match n_images {
            Some(_) => "{bar:24} {pos}/{len} images, {eta} left, {per_sec}",
            None => "{spinner} {pos} images, {per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            bar,
            start: Instant::now(),
            n_done: 0,
        }
    }

    /// Counts without a bar, where another one is shown.
    pub(crate) fn without_bar() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            start: Instant::now(),
            n_done: 0,
        }
    }

    pub(crate) fn add(&mut self, n: usize) {
        self.n_done += n;
        self.bar.set_position(self.n_done as u64);
    }

    /// Prints the number of images, and returns the rate per second.
    pub(crate) fn finish(self) -> f64 {
        self.bar.finish_and_clear();
        let seconds = self.start.elapsed().as_secs_f64();
        let rate = self.n_done as f64 / seconds.max(1e-9);
        say!(
            "{} in {seconds:.1} s: {rate:.0} images/s",
            counted(self.n_done, "image")
        );
        rate
    }
}

#[cfg(test)]
mod tests {
    use vae_run::{Means, Position};

    use super::*;

    #[test]
    fn the_row_of_an_epoch_fits_the_terminal_and_keeps_what_matters_most() {
        let record = |split: &str| {
            let means = Means {
                elbo: Some(-104.316),
                reconstruction: Some(80.0),
                kl: Some(24.3),
                loss: 104.3,
            };
            let position = Position {
                epochs: 3,
                steps: 30,
            };
            let mut record = Record::new(position, split, means);
            record.named.insert("total_correlation".to_owned(), 1.5);
            record
        };
        let (train, validation) = (record("train"), record("validation"));
        for width in [40, 60, 80, 120, 200] {
            let lines = epoch_row(&train, Some(&validation), 100, true, width);
            for line in &lines {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
            let [header, row] = lines;
            assert!(
                header.contains("val. elbo") && row.contains("3/100  "),
                "{row}"
            );
            assert!(row.contains("-104.32") && row.ends_with("best"), "{row}");
            assert_eq!(
                header.contains("total_correlation"),
                width >= 120,
                "{header}"
            );
        }
        let [header, row] = epoch_row(&train, None, 9, false, 80);
        assert!(header.contains("train elbo") && !row.contains("best"));
    }
}
