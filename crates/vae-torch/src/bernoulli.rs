//! `bernoulli.cpp`: log p of values under Bernoulli distributions.

use std::ffi::c_char;
use std::ptr;

use tch::{TchError, Tensor};
use torch_sys::C_tensor;

use crate::call::taken;

unsafe extern "C" {
    fn vae_bernoulli_log_prob(
        logits: *const C_tensor,
        targets: *const C_tensor,
        log_prob: *mut *mut C_tensor,
    ) -> *mut c_char;
}

/// log p in nats, f32 `[K, B]`, of items `[B, C, H, W]` (or those that are broadcast to them) whose values are from 0 to 1,
/// under independent Bernoulli distributions with the logits `[K, B, C, H, W]`. Where there are kernels of our own for it
/// ([`own_kernels`](crate::own_kernels())), it is one pass over the logits in each direction, and the results differ from
/// libtorch's by rounding. Everywhere else it is libtorch's cross-entropy, summed.
///
/// # Errors
/// Shapes that do not belong together.
pub fn bernoulli_log_prob(logits: &Tensor, targets: &Tensor) -> Result<Tensor, TchError> {
    let mut log_prob = ptr::null_mut();
    // SAFETY: valid tensors, and a place for the result, which is ours.
    unsafe {
        taken(vae_bernoulli_log_prob(
            logits.as_ptr(),
            targets.as_ptr(),
            &mut log_prob,
        ))?;
        Ok(Tensor::from_ptr(log_prob))
    }
}
