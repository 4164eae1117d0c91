//! Calls into libtorch that tch does not bind: random number [`Generator`]s that are passed as arguments instead
//! of libtorch's global one, operations on lists of tensors for optimizers, autocast,
//! computations that the backward pass repeats, and groups of processes.
//!
//! The C++ (`*.cpp`) catches every exception. The unsafe code that calls it is in the modules here, behind
//! functions that are safe to call with any arguments.

mod call;
mod generator;
mod group;
mod kernels;
mod recompute;

pub use generator::Generator;
pub use group::{Group, Network, Reduction, Store, among};
pub use kernels::{
    AdamStep, Autocast, Update, clamp, cuda_capability, forget_gradients, fused_adam, fused_sgd,
    lerp, libtorch_config, norm, scale,
};
pub use recompute::recomputed;
