//! Calls into libtorch that tch does not bind: random number [`Generator`]s that are passed as arguments instead
//! of libtorch's global one, operations on lists of tensors for optimizers, autocast,
//! computations that the backward pass repeats, and groups of processes. And convolutions, norms and
//! log-probabilities by kernels of our own, on CPUs where they are faster than libtorch's.
//!
//! The C++ (`*.cpp`) catches every exception. The unsafe code that calls it is in the modules here, behind
//! functions that are safe to call with any arguments.

mod bernoulli;
mod call;
mod convolution;
mod cpu;
mod gaussians;
mod generator;
mod group;
mod kernels;
mod norm_silu;
mod recompute;

pub use bernoulli::bernoulli_log_prob;
pub use convolution::{convolution, convolution_transpose};
pub use cpu::{CpuKernels, own_kernels, use_cpu_kernels};
pub use gaussians::normal_log_prob;
pub use generator::Generator;
pub use group::{Group, Network, Reduction, Store, among};
pub use kernels::{
    AdamStep, Autocast, Update, clamp, cuda_capability, forget_gradients, fused_adam, fused_sgd,
    lerp, libtorch_config, norm, scale,
};
pub use norm_silu::group_norm_silu;
pub use recompute::recomputed;
