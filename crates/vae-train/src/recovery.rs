//! The states that a run rolls back to when a number is NaN or infinite.

use std::collections::BTreeMap;

use tch::Tensor;
use tracing::warn;
use vae_model::first_non_finite;
use vae_run::{
    Controls, Incident, OpenCheckpoint, Position, RunConfig, SavedGood, SavedRecovery, SavedStates,
    SavedTotals, StepControls,
};

use crate::learner::Snapshot;
use crate::steps::Steps;
use crate::{Fit, Totals, TrainError};

/// A state to roll back to.
#[derive(Debug)]
struct Good {
    /// Whether a run that rolled back to here failed again before the next finite check.
    failed: bool,
    position: Position,
    controls: Controls,
    totals: SavedTotals,
    learner: Snapshot,
}

/// The states at the last two finite checks, and the steps since.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// The older state first.
    good: Vec<Good>,
    /// The settings of every step since the older of them.
    history: BTreeMap<u64, StepControls>,
    /// Whether numbers are NaN or infinite and there is no state to roll back to.
    is_ruined: bool,
}

impl Recovery {
    /// Restores the states of a checkpoint, if this config keeps any.
    pub(crate) fn resume(
        &mut self,
        config: &RunConfig,
        checkpoint: &OpenCheckpoint,
    ) -> Result<(), TrainError> {
        if keeps_states(config)
            && let Some(saved) = checkpoint.rollback()?
        {
            *self = saved.into();
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.good.is_empty()
    }

    /// Whether the run is in a state that no checkpoint may hold.
    pub(crate) fn is_ruined(&self) -> bool {
        self.is_ruined
    }

    /// Records the settings of step number `step`.
    pub(crate) fn note(&mut self, step: u64, controls: StepControls) {
        self.history.insert(step, controls);
    }

    /// Stores this state, whose numbers were checked, as the one to roll back to. The previous one is kept too: the last update
    /// of the weights has not entered a loss yet, and may be harmful although it is finite.
    pub(crate) fn remember(&mut self, run: &Fit, steps: &Steps) {
        let position = run.progress.position;
        // The last check of an epoch may be at a step that was already checked.
        let is_there = self
            .good
            .last()
            .is_some_and(|good| good.position == position);
        if !keeps_states(run.config) || is_there {
            return;
        }
        self.good.push(Good {
            failed: false,
            position,
            controls: run.controls,
            totals: steps.totals.save(),
            learner: steps.learner.snapshot(),
        });
        if self.good.len() > 2 {
            self.good.remove(0);
        }
        self.history = self.history.split_off(&self.good[0].position.steps);
    }

    /// Rolls back to the last good state with a lower learning rate, or gives up. `problem` was detected after `step` steps.
    pub(crate) fn recover<'a>(
        &mut self,
        run: &mut Fit<'a>,
        steps: &mut Steps<'a>,
        problem: String,
        step: u64,
    ) -> Result<(), TrainError> {
        let safety = &run.config.safety;
        let Some(good) = self.take_newest(step) else {
            self.is_ruined = true;
            return Err(give_up(run, steps, problem, step, None));
        };
        good.restore(run, steps)?;
        run.last_checkpoint = None; // That was of steps which are undone now.
        let origin = match safety.find_layer {
            true => Some(self.find_origin(&good, run, steps, step)?),
            false => None,
        };
        let factor = good.controls.learning_rate_factor * run.progress.learning_rate_scale;
        steps.learner.set_learning_rate_factor(factor);
        if run.progress.incidents.len() >= safety.max_rollbacks {
            return Err(give_up(run, steps, problem, step, origin));
        }
        run.progress.learning_rate_scale *= safety.learning_rate_factor;
        let incident = Incident {
            problem,
            step,
            origin,
            returned_to_step: good.position.steps,
            learning_rate_scale: run.progress.learning_rate_scale,
        };
        warn!("{incident}");
        run.progress.incidents.push(incident);
        self.good.push(Good {
            failed: true,
            ..good
        });
        Ok(())
    }

    /// Removes and returns the state to roll back to after a failure that was detected after `step` steps.
    fn take_newest(&mut self, step: u64) -> Option<Good> {
        // A state from which the run failed at once, or failed twice, is not good.
        if self.good.len() > 1
            && let Some(newest) = self.good.last()
            && (newest.failed || newest.position.steps == step)
        {
            self.good.pop();
        }
        self.good.pop()
    }

    /// Repeats the steps since the good state and then rolls back again, to find the first layer, or else the first gradient,
    /// that is not finite.
    fn find_origin<'a>(
        &self,
        good: &Good,
        run: &mut Fit<'a>,
        steps: &mut Steps<'a>,
        until: u64,
    ) -> Result<String, TrainError> {
        let mut origin = None;
        let batches = steps.batches(run);
        for (batch, step) in batches.zip(good.position.steps..until) {
            let Some(&controls) = self.history.get(&step) else {
                break;
            };
            let batch = batch?;
            let (result, layer) = first_non_finite(|| steps.step(&batch, step, controls));
            result?;
            let number = step + 1;
            origin = layer
                .map(|layer| format!("first in the output of {layer}, step {number}"))
                .or_else(|| {
                    let name = steps.learner.non_finite_gradient()?;
                    Some(format!("first in the gradient of {name}, step {number}"))
                });
            if origin.is_some() {
                break;
            }
        }
        good.restore(run, steps)?;
        Ok(origin.unwrap_or_else(|| {
            "in these steps the outputs of all layers and all gradients are finite".to_owned()
        }))
    }

    /// The states for a checkpoint at this position; none if a run that is resumed there has the same states anyway.
    pub(crate) fn saved(&self, present: Position) -> Option<SavedRecovery> {
        match &self.good[..] {
            [] => return None,
            [only] if only.position == present && !only.failed => return None,
            _ => {}
        }
        let mut tensors = Vec::new();
        let mut good = Vec::new();
        for (i, state) in self.good.iter().enumerate() {
            tensors.extend(state.learner.named_tensors(&format!("{i}/")));
            good.push(SavedGood {
                failed: state.failed,
                position: state.position,
                controls: state.controls,
                totals: state.totals.clone(),
                optimizer_steps: state.learner.optimizer_steps(),
                players: state.learner.player_steps(),
            });
        }
        let history = self.history.clone();
        Some(SavedRecovery {
            states: SavedStates { good, history },
            tensors,
        })
    }
}

impl Good {
    /// Restores this state of the run.
    fn restore(&self, run: &mut Fit, steps: &mut Steps) -> Result<(), TrainError> {
        steps.learner.restore(&self.learner)?;
        run.progress.position = self.position;
        run.controls = self.controls;
        steps.totals = Totals::restore(self.totals.clone(), run.vae.device());
        Ok(())
    }
}

/// Whether a state is needed: to roll back after a failure, or to find where it began.
fn keeps_states(config: &RunConfig) -> bool {
    config.safety.max_rollbacks > 0 || config.safety.find_layer
}

fn give_up(
    run: &Fit,
    steps: &Steps,
    problem: String,
    step: u64,
    origin: Option<String>,
) -> TrainError {
    TrainError::GaveUp {
        problem,
        step,
        origin: origin.map_or_else(
            || " (safety.find_layer = true would find where it begins)".to_owned(),
            |origin| format!(" ({origin})"),
        ),
        n_rollbacks: run.progress.incidents.len(),
        learning_rate: steps.learner.learning_rate(),
    }
}

impl From<SavedRecovery> for Recovery {
    fn from(saved: SavedRecovery) -> Self {
        let SavedStates { good, history } = saved.states;
        let mut tensors: BTreeMap<String, Tensor> = saved.tensors.into_iter().collect();
        let good = good
            .into_iter()
            .enumerate()
            .map(|(i, state)| Good {
                failed: state.failed,
                position: state.position,
                controls: state.controls,
                totals: state.totals,
                learner: Snapshot::from_named_tensors(
                    &mut tensors,
                    &format!("{i}/"),
                    state.optimizer_steps,
                    &state.players,
                ),
            })
            .collect();
        Self {
            good,
            history,
            is_ruined: false,
        }
    }
}
