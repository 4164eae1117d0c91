//! The states that a run returns to when a number is NaN or infinite.

use std::collections::BTreeMap;

use tch::Tensor;
use vae_run::{
    Controls, Position, SavedGood, SavedRecovery, SavedStates, SavedTotals, StepControls,
};

use crate::learner::Snapshot;

/// A state to return to.
#[derive(Debug)]
pub(crate) struct Good {
    /// A run that returned here failed again before the next finite check.
    pub(crate) failed: bool,
    pub(crate) position: Position,
    pub(crate) controls: Controls,
    pub(crate) totals: SavedTotals,
    pub(crate) learner: Snapshot,
}

/// The states at the last two finite checks, and the steps since.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// The older one first.
    good: Vec<Good>,
    /// What every step since the older of them was done with.
    history: BTreeMap<u64, StepControls>,
}

impl Recovery {
    pub(crate) fn is_empty(&self) -> bool {
        self.good.is_empty()
    }

    /// Whether this is where the newest of the states is.
    pub(crate) fn is_at(&self, position: Position) -> bool {
        self.good
            .last()
            .is_some_and(|good| good.position == position)
    }

    /// Keeps a state and the one before: the last update of the weights is not in any loss yet, and may be
    /// a ruin that is still finite.
    pub(crate) fn remember(&mut self, state: Good) {
        self.good.push(state);
        if self.good.len() > 2 {
            self.good.remove(0);
        }
        self.history = self.history.split_off(&self.good[0].position.steps);
    }

    /// Notes what step number `step` is done with.
    pub(crate) fn note(&mut self, step: u64, controls: StepControls) {
        self.history.insert(step, controls);
    }

    pub(crate) fn controls_of(&self, step: u64) -> Option<StepControls> {
        self.history.get(&step).copied()
    }

    /// Takes out the state to return to after a failure that was noticed after `step` steps.
    pub(crate) fn take_newest(&mut self, step: u64) -> Option<Good> {
        // A state from which the run failed at once, or failed twice, is no good one.
        if self.good.len() > 1
            && let Some(newest) = self.good.last()
            && (newest.failed || newest.position.steps == step)
        {
            self.good.pop();
        }
        self.good.pop()
    }

    /// Puts back the state that the run has returned to.
    pub(crate) fn put_back(&mut self, state: Good) {
        self.good.push(Good {
            failed: true,
            ..state
        });
    }

    /// For a checkpoint at this position; none where a run that is resumed there has the same states anyway.
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
        Self { good, history }
    }
}
