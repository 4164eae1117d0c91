//! Distributed training: averaging gradients over processes.

use std::fmt::Debug;

use tch::Tensor;

use crate::TrainError;

/// A group of processes that train one model, each on its share of every batch. The gradients of every player pass through
/// it between the backward pass and clipping, so that all processes take the same step.
pub trait Collective: Debug {
    /// The rank of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn size(&self) -> usize;

    /// Replaces each tensor, in place, by its mean over the processes. All processes call it with tensors of the same shapes in
    /// the same order.
    ///
    /// # Errors
    /// Another process cannot be reached.
    fn all_reduce(&self, gradients: &[Tensor]) -> Result<(), TrainError>;
}

/// A single process.
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
