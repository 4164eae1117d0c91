//! `curves.png`: the learning curves so far.

use vae_run::{Metric, RunDir};
use vae_view::{curves, picture};

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Draws the run's `metrics.jsonl` into `curves.png` after every epoch, so it comes after
/// [`MetricsLog`](crate::MetricsLog) in the list of callbacks.
#[derive(Debug)]
pub struct Curves {
    run_dir: RunDir,
    metric: Metric,
}

impl Curves {
    /// Draws into a run's folder, and names the best epoch by this metric.
    #[must_use]
    pub fn new(run_dir: RunDir, metric: Metric) -> Self {
        Self { run_dir, metric }
    }
}

impl Callback for Curves {
    fn name(&self) -> &'static str {
        "curves"
    }

    fn on_event(&mut self, _: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if let Event::EpochEnd { .. } = event {
            let title = self.run_dir.path().display().to_string();
            let (records, terms) = (self.run_dir.records()?, self.run_dir.terms()?);
            let drawn = curves::learning_curves(&title, &records, &terms, &self.metric)?;
            picture::save(&drawn, &self.run_dir.curves_file())?;
        }
        Ok(Flow::Continue)
    }
}
