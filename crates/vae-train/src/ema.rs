//! An average of the weights over the steps, which is often a better model than the last weights.

use std::collections::BTreeMap;

use tch::{Tensor, no_grad};

use crate::TrainError;
use crate::optimizer::assign_state;

/// The exponential moving average of a model's weights (Polyak & Juditsky 1992; in this form
/// Tarvainen & Valpola 2017, <https://arxiv.org/abs/1703.01780>).
///
/// After step n: average ← d·average + (1 − d)·weight, with d = min(decay, (1 + n)/(10 + n)), so that the random initial
/// weights are soon forgotten.
///
/// Only trained variables are averaged. The statistics of batch normalization are running averages themselves, and are shared
/// by both sets of weights.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    variables: Vec<Averaged>,
    is_swapped: bool,
}

#[derive(Debug)]
struct Averaged {
    name: String,
    /// Shares memory with the model's.
    value: Tensor,
    average: Tensor,
}

impl Ema {
    /// An average that starts at these variables, which share memory with the model's. `decay` is in [0, 1).
    #[must_use]
    pub fn new(decay: f64, variables: Vec<(String, Tensor)>) -> Self {
        let variables = variables
            .into_iter()
            .filter(|(_, value)| value.requires_grad())
            .map(|(name, value)| Averaged {
                name,
                average: no_grad(|| value.copy()),
                value,
            })
            .collect();
        Self {
            decay,
            variables,
            is_swapped: false,
        }
    }

    /// Updates the average after a step; `n_steps` is the number of steps done.
    ///
    /// # Errors
    /// libtorch refuses.
    ///
    /// # Panics
    /// Between two [`swap`](Self::swap)s, when the model's weights are the average.
    pub fn update(&mut self, n_steps: u64) -> Result<(), TrainError> {
        assert!(!self.is_swapped, "the model has the averaged weights");
        let warm_up = (1.0 + n_steps as f64) / (10.0 + n_steps as f64);
        let averages: Vec<_> = self.variables.iter().map(|v| &v.average).collect();
        let values: Vec<_> = self.variables.iter().map(|v| &v.value).collect();
        Ok(no_grad(|| {
            vae_torch::lerp(&averages, &values, 1.0 - self.decay.min(warm_up))
        })?)
    }

    /// Exchanges the model's weights and the averaged ones in place, bit for bit. A second call undoes the first.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn swap(&mut self) -> Result<(), TrainError> {
        no_grad(|| {
            for Averaged { value, average, .. } in &mut self.variables {
                let before = value.copy();
                value.f_copy_(average)?;
                average.f_copy_(&before)?;
            }
            self.is_swapped = !self.is_swapped;
            Ok(())
        })
    }

    /// Whether the model currently has the averaged weights.
    #[must_use]
    pub fn is_swapped(&self) -> bool {
        self.is_swapped
    }

    /// The weights that the model does not currently have, by the names of their variables: the averages or, between two
    /// [`swap`](Self::swap)s, those that the optimizer updates. Shares memory.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.variables
            .iter()
            .map(|variable| (variable.name.clone(), variable.average.shallow_clone()))
            .collect()
    }

    /// Restores a `state` that was taken after the same number of swaps.
    ///
    /// # Errors
    /// A name, shape or kind that does not match; nothing is changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
        assign_state("averaged weights", self.state(), state)
    }
}
