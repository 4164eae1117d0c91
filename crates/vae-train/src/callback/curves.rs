//! `curves.png`: the learning curves so far.

use std::time::{Duration, Instant};

use vae_run::{Metric, RunDir};
use vae_view::curves::{self, Records};

use crate::{Callback, Event, Fit, Flow, TrainError};

/// How often the curves are drawn within an epoch.
const REFRESH: Duration = Duration::from_secs(30);

/// Draws the run's `metrics.jsonl` into `curves.png` after every epoch, and within epochs every half minute, so it comes after
/// [`MetricsLog`](crate::MetricsLog) in the list of callbacks.
#[derive(Debug)]
pub struct Curves {
    run_dir: RunDir,
    metric: Metric,
    drawn: Option<Instant>,
}

impl Curves {
    /// Draws into a run's folder, and names the best epoch by this metric.
    #[must_use]
    pub fn new(run_dir: RunDir, metric: Metric) -> Self {
        Self {
            run_dir,
            metric,
            drawn: None,
        }
    }

    fn draw(&mut self, run: &Fit) -> Result<(), TrainError> {
        self.drawn = Some(Instant::now());
        let title = self.run_dir.path().display().to_string();
        let (epochs, steps) = (self.run_dir.records()?, self.run_dir.step_records()?);
        let records = Records {
            epochs: &epochs,
            steps: &steps,
            steps_per_epoch: Some(run.config.steps_per_epoch(run.splits.train.len())),
        };
        let terms = self.run_dir.terms()?;
        let drawn = curves::learning_curves(&title, records, &terms, &self.metric)?;
        Ok(drawn.save(&self.run_dir.curves_file())?)
    }
}

impl Callback for Curves {
    fn name(&self) -> &'static str {
        "curves"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        match event {
            Event::FitStart => self.drawn = Some(Instant::now()),
            Event::StepsEnd { .. } if self.drawn.is_none_or(|at| at.elapsed() > REFRESH) => {
                self.draw(run)?;
            }
            Event::EpochEnd { .. } => self.draw(run)?,
            _ => {}
        }
        Ok(Flow::Continue)
    }
}
