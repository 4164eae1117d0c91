//! The steps of a run, and the sums over the epoch in progress.

use std::ops::Range;
use std::time::Duration;

use vae_data::DataError;
use vae_data::loader::{Batch, Batches, n_batches};
use vae_model::Share;
use vae_run::{Means, StepControls};

use crate::learner::StepOutput;
use crate::{Fit, Learner, Totals, TrainError};

/// Runs the steps, and keeps the sums over the epoch in progress.
pub(crate) struct Steps<'a> {
    pub(crate) learner: Learner<'a>,
    pub(crate) totals: Totals,
}

impl<'a> Steps<'a> {
    /// The remaining batches of the epoch in progress.
    pub(crate) fn batches(&self, run: &Fit<'a>) -> EpochBatches<'a> {
        let Fit {
            vae,
            splits,
            config,
            ..
        } = *run;
        let (train, batch_size) = (&splits.train, config.training.batch_size);
        let n_passes = config.passes_per_epoch(train.len());
        let n_per_pass = n_batches(train.len(), batch_size).max(1) as u64;
        let n_done = run.steps_of_epoch();
        let first = run.progress.position.epochs * n_passes + 1;
        let portion = Share::portion(self.learner.group());
        let part = config.training.micro_batch_size.unwrap_or(batch_size);
        let pass = move |number| {
            Batches::shuffled(train, batch_size, vae.device(), config.seed, number)
                .portion(portion, part)
        };
        // After its last step, which may be saved before the epoch is ended, nothing of the last pass is left.
        let n_whole = (n_done / n_per_pass).min(n_passes - 1);
        let within = n_done - n_whole * n_per_pass;
        EpochBatches {
            pass: Box::new(pass),
            later: first + n_whole + 1..first + n_passes,
            current: pass(first + n_whole).starting_at(within as usize),
            waited: Duration::ZERO,
        }
    }

    pub(crate) fn step(
        &mut self,
        batch: &Batch,
        step: u64,
        controls: StepControls,
    ) -> Result<StepOutput, TrainError> {
        self.learner
            .set_learning_rate_factor(controls.learning_rate_factor);
        self.learner
            .set_learning_rate_scale(controls.learning_rate_scale);
        let items = (&batch.items, batch.condition.as_ref()).into();
        let n_items = batch.n_items as i64;
        self.learner
            .step_share(items, n_items, step, controls.objective_step)
    }

    /// Fails if a sum of the epoch so far or a weight is NaN or infinite.
    pub(crate) fn check_numbers(&self, step: u64) -> Result<(), TrainError> {
        check_means(
            &self.totals.means(),
            Some(self.totals.gradient_norm()),
            "training",
            step,
        )?;
        self.check_weights(step)
    }

    pub(crate) fn check_weights(&self, step: u64) -> Result<(), TrainError> {
        if self.learner.is_finite() {
            return Ok(());
        }
        Err(TrainError::NonFinite {
            problem: "a weight is not finite".to_owned(),
            step,
        })
    }
}

/// The batches of an epoch: of one pass over the data or of several.
pub(crate) struct EpochBatches<'a> {
    /// A pass by its number in the run, from 1.
    pass: Box<dyn Fn(u64) -> Batches<'a> + 'a>,
    /// The passes that follow the current one.
    later: Range<u64>,
    current: Batches<'a>,
    /// In the passes before the current one.
    waited: Duration,
}

impl EpochBatches<'_> {
    /// The time in which training waited for data.
    pub(crate) fn waited(&self) -> Duration {
        self.waited + self.current.waited()
    }
}

impl Iterator for EpochBatches<'_> {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.current.next() {
                return Some(batch);
            }
            let next = self.later.next()?;
            self.waited += self.current.waited();
            self.current = (self.pass)(next);
        }
    }
}

/// Fails if a mean is NaN or infinite.
pub(crate) fn check_means(
    means: &Means,
    gradient_norm: Option<f64>,
    split: &str,
    step: u64,
) -> Result<(), TrainError> {
    let found = [
        ("loss", means.loss),
        ("elbo", means.elbo.unwrap_or(0.0)),
        ("gradient norm", gradient_norm.unwrap_or(0.0)),
    ];
    match found.into_iter().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((name, value)) => Err(TrainError::NonFinite {
            problem: format!("the {split} {name} became {value}"),
            step,
        }),
    }
}
