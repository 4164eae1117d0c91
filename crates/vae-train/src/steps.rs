//! The steps of a run, and the sums over the epoch in progress.

use vae_data::loader::{Batch, Batches};
use vae_run::{Means, StepControls};

use crate::learner::StepOutput;
use crate::{Fit, Learner, Totals, TrainError};

/// Runs the steps, and keeps the sums over the epoch in progress.
pub(crate) struct Steps<'a> {
    pub(crate) learner: Learner<'a>,
    pub(crate) totals: Totals,
}

impl<'a> Steps<'a> {
    /// The sums of the epoch in progress, from its first step on.
    pub(crate) fn batches(run: &Fit<'a>) -> Batches<'a> {
        let Fit {
            vae,
            splits,
            config,
            ..
        } = *run;
        Batches::shuffled(
            &splits.train,
            config.training.batch_size,
            vae.device(),
            config.seed,
            run.progress.position.epochs + 1,
        )
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
        let items = (&batch.items, batch.condition.as_ref());
        self.learner.step(items, step, controls.objective_step)
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
