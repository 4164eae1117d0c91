//! `gaussians.cpp`: log p of points under Gaussians.

use std::ffi::c_char;
use std::ptr;

use tch::{TchError, Tensor};
use torch_sys::C_tensor;

use crate::call::taken;

unsafe extern "C" {
    fn vae_normal_log_prob(
        points: *const C_tensor,
        mean: *const C_tensor,
        log_var: *const C_tensor,
        log_prob: *mut *mut C_tensor,
    ) -> *mut c_char;
}

/// ln N(z; mean, diag(e^log_var)) in nats, f32, of points z, summed over the last dimension; the three broadcast. Where there
/// are kernels of our own for it ([`own_kernels`](crate::own_kernels())), points `[N, 1, Z]` are compared with Gaussians
/// `[C, Z]`, `[N, C]`, in one pass in each direction without a tensor `[N, C, Z]`, and the results differ from libtorch's by
/// rounding. Everywhere else it is libtorch's operations.
///
/// # Errors
/// Shapes that do not belong together.
pub fn normal_log_prob(
    points: &Tensor,
    mean: &Tensor,
    log_var: &Tensor,
) -> Result<Tensor, TchError> {
    let mut log_prob = ptr::null_mut();
    // SAFETY: valid tensors, and a place for the result, which is ours.
    unsafe {
        taken(vae_normal_log_prob(
            points.as_ptr(),
            mean.as_ptr(),
            log_var.as_ptr(),
            &mut log_prob,
        ))?;
        Ok(Tensor::from_ptr(log_prob))
    }
}
