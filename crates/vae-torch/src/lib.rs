//! Calls into libtorch that tch does not bind: [`Generator`]s of random numbers that are passed instead
//! of libtorch's global one, operations on lists of tensors for optimizers, autocast.
//!
//! The C++ (`*.cpp`) catches every exception; the unsafe code that calls it is in the modules here, behind
//! functions that no safe caller can break.

mod call;
mod generator;
mod kernels;

pub use generator::Generator;
pub use kernels::{
    AdamStep, Autocast, Update, clamp, cuda_capability, forget_gradients, fused_adam, fused_sgd,
    lerp, libtorch_config, norm, scale,
};
