//! Callbacks: what happens around training.

pub(crate) mod checkpoints;
pub(crate) mod collapse_watch;
pub(crate) mod curves;
pub(crate) mod early_stopping;
pub(crate) mod kl_schedule;
pub(crate) mod learning_rate;
pub(crate) mod metrics_log;
pub(crate) mod pictures;
pub(crate) mod tensorboard;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use serde::de::DeserializeOwned;
use serde_json::Value;

use vae_run::{LatentUse, Record};

use crate::full_disk::while_disk_is_full;
use crate::{Fit, Outcome, Stop, Totals, TrainError};

/// Something that happens around training. Callbacks are called in the order of their list.
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
///     // What a resumed run has to know of the epochs before.
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
/// `crates/vae-train/examples/callback.rs` is a whole program around it.
pub trait Callback {
    /// The name of its state in checkpoints, different from that of every other in the list.
    fn name(&self) -> &'static str;

    /// Reacts to an event, and says whether training goes on.
    ///
    /// When a number is none the run returns to an earlier step (`[safety]` of the config): the steps
    /// since are told once more, and what the callback remembers of them is its own to mend.
    ///
    /// # Errors
    /// Whatever should end the run. A full disk only makes it pause: the event is given again, so
    /// what was written in part has to be taken back before the error is returned.
    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError>;

    /// What it has to know when the run is resumed; checkpoints keep it. By default nothing.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Takes up what [`Self::state`] gave; called before the first event.
    ///
    /// # Errors
    /// A state that it did not write.
    fn restore(&mut self, state: &Value) -> Result<(), TrainError> {
        let _ = state;
        Ok(())
    }
}

/// Whether training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It ends after this event.
    Stop,
}

/// What a callback is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Before the first step, also of a resumed run.
    FitStart,
    /// After an optimizer step.
    StepEnd {
        /// Sums over the epoch so far.
        totals: &'a Totals,
    },
    /// After an epoch's evaluation.
    EpochEnd {
        /// Means while training.
        train: &'a Record,
        /// Means on validation images, where there are any.
        validation: Option<&'a Record>,
        /// How much each latent dimension is used: on validation images, or without any on some training
        /// images.
        latent_use: &'a LatentUse,
        /// No earlier epoch is as good, by `checkpoints.metric` of the config; without validation images
        /// always.
        is_best: bool,
    },
    /// After the last step, whatever ended the run.
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

    /// Gives an event to all of them. The run stops if one asks for that. While a disk is full, the one
    /// that could not write is given the event again.
    ///
    /// After an error at the end of a step or of the run the others are still told: the step is done and in
    /// their states, and one that comes after may save what others could not. An epoch's end is taken back
    /// as a whole.
    pub(crate) fn tell(
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
                    Event::StepEnd { .. } | Event::FitEnd { .. } => asked = asked.and(Err(error)),
                    Event::FitStart | Event::EpochEnd { .. } => return Err(error),
                },
            }
        }
        asked
    }

    /// The states of those that have one, by their names.
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

/// A callback's state, which it wrote itself.
fn parse_state<T: DeserializeOwned>(name: &str, state: &Value) -> Result<T, TrainError> {
    T::deserialize(state).map_err(|error| TrainError::CallbackState {
        name: name.to_owned(),
        problem: error.to_string(),
    })
}
