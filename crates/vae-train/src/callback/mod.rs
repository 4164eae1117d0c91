//! Callbacks, which react to the events of training.

pub(crate) mod adversarial_watch;
pub(crate) mod checkpoints;
pub(crate) mod collapse_watch;
pub(crate) mod curves;
pub(crate) mod early_stopping;
pub(crate) mod kl_schedule;
pub(crate) mod learning_rate;
pub(crate) mod metrics_log;
pub(crate) mod pictures;
pub(crate) mod sounds;
pub(crate) mod tensorboard;
pub(crate) mod texts;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use serde::de::DeserializeOwned;
use serde_json::Value;

use vae_run::{LatentUse, Record};

use crate::full_disk::while_disk_is_full;
use crate::{Fit, Outcome, Stop, Totals, TrainError};

/// Reacts to the events of training. Callbacks are called in the order of their list.
///
/// ```
/// use serde_json::{Value, json};
/// use vae_train::{Callback, Event, Fit, Flow, TrainError};
///
/// /// Stops when the validation elbo has passed a goal, and counts the epochs that it took.
/// struct Goal {
///     elbo: f64,
///     epochs: u64,
/// }
///
/// impl Callback for Goal {
///     fn name(&self) -> &'static str {
///         "goal"
///     }
///
///     fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
///         let Event::EpochEnd { validation: Some(means), .. } = event else {
///             return Ok(Flow::Continue);
///         };
///         self.epochs += 1;
///         if means.means.elbo.is_none_or(|elbo| elbo < self.elbo) {
///             return Ok(Flow::Continue);
///         }
///         run.request_checkpoint();
///         Ok(Flow::Stop)
///     }
///
///     // What a resumed run needs to know about earlier epochs.
///     fn state(&self) -> Value {
///         json!(self.epochs)
///     }
///
///     fn restore(&mut self, state: &Value) -> Result<(), TrainError> {
///         self.epochs = state.as_u64().unwrap_or(0);
///         Ok(())
///     }
/// }
///
/// let mut goal = Goal { elbo: -160.0, epochs: 0 };
/// goal.restore(&json!(7))?;
/// assert_eq!(goal.state(), json!(7));
/// # Ok::<(), TrainError>(())
/// ```
///
/// `crates/vae-train/examples/callback.rs` is a complete program.
pub trait Callback {
    /// The name of its state in checkpoints, unique in the list.
    fn name(&self) -> &'static str;

    /// Handles an event, and returns whether training continues.
    ///
    /// When a number is NaN or infinite, the run rolls back to an earlier step (`[safety]` of the config). The steps since are then
    /// repeated, and the callback must correct what it has recorded of them.
    ///
    /// # Errors
    /// Any error ends the run, except a full disk, which only pauses it: the event is repeated, so that a partial write must be
    /// undone before the error is returned.
    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError>;

    /// The state to be saved in checkpoints for resuming the run. By default none.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Restores the result of [`Self::state`]; called before the first event.
    ///
    /// # Errors
    /// A state that this callback did not write.
    fn restore(&mut self, state: &Value) -> Result<(), TrainError> {
        let _ = state;
        Ok(())
    }
}

/// Whether training continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It continues.
    Continue,
    /// It ends after this event.
    Stop,
}

/// An event of training.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Before the first step of a new or resumed run.
    FitStart,
    /// After an optimizer step.
    StepEnd {
        /// Sums over the epoch so far.
        totals: &'a Totals,
    },
    /// Every `training.log_every` steps, before the [`Event::StepEnd`] of the last of them.
    StepsEnd {
        /// Means over the images since the last such event of the epoch, or since its start.
        record: &'a Record,
    },
    /// After an epoch's evaluation.
    EpochEnd {
        /// Means during training.
        train: &'a Record,
        /// Means on the validation images, if there are any.
        validation: Option<&'a Record>,
        /// How much each latent dimension is used on the validation images or, without any, on some training images.
        latent_use: &'a LatentUse,
        /// Whether this is the best epoch so far by `checkpoints.metric` of the config; always true without validation images.
        is_best: bool,
    },
    /// After the last step, however the run ended.
    FitEnd {
        /// How it ended.
        outcome: &'a Outcome,
    },
}

/// The callbacks of a run, in the order in which they are called.
#[derive(Default)]
pub(crate) struct Callbacks<'a>(Vec<Box<dyn Callback + 'a>>);

impl<'a> Callbacks<'a> {
    pub(crate) fn add(&mut self, callback: impl Callback + 'a) {
        self.0.push(Box::new(callback));
    }

    /// Notifies all callbacks of an event. The run stops if one asks for it. If a callback cannot write because the disk is full, the
    /// event is repeated for it.
    ///
    /// After an error at the end of a step or of the run, the other callbacks are still notified: the step is done and part of their
    /// states, and a later callback may save what others could not. The end of an epoch is undone as a whole.
    pub(crate) fn notify(
        &mut self,
        run: &mut Fit,
        event: &Event,
        stop: &AtomicBool,
    ) -> Result<Option<Stop>, TrainError> {
        let mut asked = Ok(None);
        for callback in &mut self.0 {
            match while_disk_is_full(stop, || callback.on_event(run, event)) {
                Ok(Flow::Continue) => {}
                Ok(Flow::Stop) => asked = asked.map(|_| Some(Stop::Callback)),
                Err(error) => match event {
                    Event::StepEnd { .. } | Event::StepsEnd { .. } | Event::FitEnd { .. } => {
                        asked = asked.and(Err(error));
                    }
                    Event::FitStart | Event::EpochEnd { .. } => return Err(error),
                },
            }
        }
        asked
    }

    /// The states of the callbacks that have one, by name.
    pub(crate) fn states(&self) -> BTreeMap<String, Value> {
        self.0
            .iter()
            .map(|callback| (callback.name().to_owned(), callback.state()))
            .filter(|(_, state)| !state.is_null())
            .collect()
    }

    pub(crate) fn restore(&mut self, states: &BTreeMap<String, Value>) -> Result<(), TrainError> {
        for callback in &mut self.0 {
            if let Some(state) = states.get(callback.name()) {
                callback.restore(state)?;
            }
        }
        Ok(())
    }
}

/// Parses a callback's own state.
fn parse_state<T: DeserializeOwned>(name: &str, state: &Value) -> Result<T, TrainError> {
    T::deserialize(state).map_err(|error| TrainError::CallbackState {
        name: name.to_owned(),
        problem: error.to_string(),
    })
}
