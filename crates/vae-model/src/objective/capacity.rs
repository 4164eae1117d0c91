//! `objective.regularizer.capacity`: keeps the kl near a capacity that rises.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::checks::{at_least_0, share_or_steps, some_steps, steps_of};
use super::kl_of;
use crate::{Direction, Draws, ModelError, Term, Terms};

/// γ·|kl − C| with the kl's mean over the batch and a C that rises linearly from 0 (Burgess et al. 2018,
/// <https://arxiv.org/abs/1804.03599>, eq. 8): as the capacity grows, the latents encode one factor of the images after
/// the other. The defaults are the paper's for dSprites.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CapacityConfig {
    /// γ, the weight of the difference between kl and capacity. Default 1000.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub gamma: f64,
    /// The final capacity, in nats per image. Default 25.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub final_capacity: f64,
    /// Optimizer steps over which the capacity rises from 0. Default 100,000.
    #[schemars(range(min = 1))]
    pub over_steps: u64,
    /// The same as a share of the run, which fits a run of any length; 0 for `over_steps`. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub over_share: f64,
}

impl Default for CapacityConfig {
    fn default() -> Self {
        Self {
            gamma: 1000.0,
            final_capacity: 25.0,
            over_steps: 100_000,
            over_share: 0.0,
        }
    }
}

/// |kl − C|.
pub(super) const CAPACITY_GAP: Term = Term::new("capacity_gap", Term::NATS, Direction::Lower);

impl CapacityConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        at_least_0("objective.regularizer.capacity.gamma", self.gamma)?;
        let key = "objective.regularizer.capacity.final_capacity";
        at_least_0(key, self.final_capacity)?;
        some_steps("objective.regularizer.capacity.over_steps", self.over_steps)?;
        let key = "objective.regularizer.capacity.over_share";
        let steps = [self.over_steps, Self::default().over_steps];
        share_or_steps(key, self.over_share, "over_steps", steps)
    }

    /// With steps in place of a share of a run of `n_steps`.
    pub(super) fn in_run_of(&mut self, n_steps: u64) {
        self.over_steps = steps_of(self.over_share, self.over_steps, n_steps);
        self.over_share = 0.0;
    }

    pub(super) fn penalty(
        &self,
        draws: &Draws,
        step: u64,
        terms: &mut Terms,
    ) -> Result<Tensor, ModelError> {
        let kl = kl_of(draws, "capacity")?.mean(Kind::Float);
        let gap = (kl - self.capacity_at(step)).abs();
        terms.push(CAPACITY_GAP, &gap);
        Ok(gap * self.gamma)
    }

    /// The first step at which C has its final value.
    pub(super) fn settled_step(&self) -> u64 {
        self.over_steps
    }

    /// C at a step, in nats per image.
    pub(super) fn capacity_at(&self, step: u64) -> f64 {
        self.final_capacity * (step as f64 / self.over_steps as f64).min(1.0)
    }
}
