//! Where processes that train one model together meet.

use std::fmt::Debug;

use tch::Tensor;

use crate::TrainError;

/// A group of processes that train one model, each on its own share of every batch. Every player's gradients
/// pass through it between the backward pass and clipping, so that all processes take the same step.
pub trait Collective: Debug {
    /// Which of the processes this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Replaces each tensor, in place, by its mean over the processes. All of them call it with tensors of the
    /// same shapes in the same order.
    ///
    /// # Errors
    /// Another process cannot be reached.
    fn all_reduce(&self, gradients: &[Tensor]) -> Result<(), TrainError>;
}

/// One process.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: &[Tensor]) -> Result<(), TrainError> {
        Ok(())
    }
}
