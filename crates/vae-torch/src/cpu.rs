//! `cpu/`: kernels of our own for CPUs with AVX-512 or AVX2.

use std::ffi::{CStr, c_char, c_int};

unsafe extern "C" {
    fn vae_use_kernels(which: c_int) -> bool;
    fn vae_kernels() -> *const c_char;
}

/// Who computes convolutions, norms and log-probabilities on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuKernels {
    /// libtorch.
    Libtorch,
    /// Kernels of our own where they are faster, for the best instructions that the processor has: the default.
    Own,
    /// The same for AVX2, as on a processor without AVX-512.
    OwnAvx2,
}

/// Chooses who computes [`convolution`](crate::convolution()), [`convolution_transpose`](crate::convolution_transpose()),
/// [`group_norm_silu`](crate::group_norm_silu()) and [`bernoulli_log_prob`](crate::bernoulli_log_prob()) from now on, in the
/// whole program. False if the processor does not have the instructions: then it is libtorch.
pub fn use_cpu_kernels(kernels: CpuKernels) -> bool {
    let which = match kernels {
        CpuKernels::Libtorch => 0,
        CpuKernels::Own => 1,
        CpuKernels::OwnAvx2 => 2,
    };
    // SAFETY: a plain switch.
    unsafe { vae_use_kernels(which) }
}

/// The instructions of our own kernels that are in use, if any are.
#[must_use]
pub fn own_kernels() -> Option<&'static str> {
    // SAFETY: null, or a C string that lives as long as the program.
    unsafe {
        let name = vae_kernels();
        (!name.is_null())
            .then(|| CStr::from_ptr(name).to_str().ok())
            .flatten()
    }
}
