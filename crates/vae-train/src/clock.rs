//! The training time of a run in seconds, including the time before a resume.

use std::time::{Duration, Instant};

/// The clock of a run and of its epoch in progress.
pub(crate) struct Clock {
    since: Instant,
    before: f64,
    epoch_since: Instant,
    epoch_before: f64,
    logged: Instant,
    /// Seconds that training waited for images.
    pub(crate) epoch_waited: Duration,
}

impl Clock {
    /// `before` and `epoch_before` are the seconds of earlier processes.
    pub(crate) fn start(before: f64, epoch_before: f64) -> Self {
        let now = Instant::now();
        Self {
            since: now,
            before,
            epoch_since: now,
            epoch_before,
            logged: now,
            epoch_waited: Duration::ZERO,
        }
    }

    /// The same seconds of earlier processes, counted from now on.
    pub(crate) fn restart(&mut self) {
        *self = Self::start(self.before, self.epoch_before);
    }

    pub(crate) fn start_epoch(&mut self) {
        self.resume_epoch(0.0);
    }

    pub(crate) fn resume_epoch(&mut self, seconds: f64) {
        self.epoch_since = Instant::now();
        self.logged = self.epoch_since;
        self.epoch_before = seconds;
    }

    /// Seconds since the last call in this process, or since the start of the epoch.
    pub(crate) fn since_logged(&mut self) -> f64 {
        let seconds = self.logged.elapsed().as_secs_f64();
        self.logged = Instant::now();
        seconds.max(1e-9)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.before + self.since.elapsed().as_secs_f64()
    }

    pub(crate) fn epoch_seconds(&self) -> f64 {
        self.epoch_before + self.epoch_since.elapsed().as_secs_f64()
    }
}
