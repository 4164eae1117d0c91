//! Progress on stderr: a bar with the time left on a terminal, a line for each epoch everywhere.

use std::io::{self, IsTerminal, Stderr, Write};
use std::time::{Duration, Instant};

use crate::output::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vae_data::one_line;
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

/// Shows the progress of training.
pub(crate) struct Progress {
    bar: ProgressBar,
    last_refresh: Option<Instant>,
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
        }
    }

    /// A line above the bar, or a plain line without a terminal.
    fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            say!("{text}");
        } else {
            self.bar.println(text);
        }
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
                let batch_size = run.config.training.batch_size;
                let steps_per_epoch =
                    vae_data::loader::n_batches(run.splits.train.len(), batch_size);
                self.bar
                    .set_length((steps_per_epoch as u64).saturating_mul(epochs));
                self.bar.set_prefix(format!("epoch 1/{epochs}"));
            }
            Event::StepEnd { totals, .. }
                if !self.bar.is_hidden()
                    && self.last_refresh.is_none_or(|at| at.elapsed() > REFRESH) =>
            {
                self.last_refresh = Some(Instant::now());
                let means = totals.means();
                self.bar.set_position(run.progress.position.steps);
                self.bar.set_message(means.to_string());
            }
            Event::EpochEnd {
                train,
                validation,
                is_best,
                ..
            } => {
                self.line(&format!(
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
                ));
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
            "{} images in {seconds:.1} s: {rate:.0} images/s",
            self.n_done
        );
        rate
    }
}
