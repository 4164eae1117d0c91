//! `norm_silu.cpp`: group norm and SiLU in one.

use std::ffi::c_char;
use std::ptr;

use tch::{TchError, Tensor};
use torch_sys::C_tensor;

use crate::call::taken;

unsafe extern "C" {
    fn vae_group_norm_silu(
        maps: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        groups: i64,
        epsilon: f64,
        output: *mut *mut C_tensor,
    ) -> *mut c_char;
}

/// silu(group norm) of maps `[N, C, H, W]`, with a weight and a bias `[C]`. Where there are kernels of our own for it
/// ([`own_kernels`](crate::own_kernels())), an image goes through the cache once in each direction, and what lies between norm
/// and SiLU is not kept; the results differ from libtorch's by rounding. Everywhere else it is libtorch's.
///
/// # Errors
/// Shapes that do not belong together.
pub fn group_norm_silu(
    maps: &Tensor,
    groups: i64,
    weight: &Tensor,
    bias: &Tensor,
    epsilon: f64,
) -> Result<Tensor, TchError> {
    let mut output = ptr::null_mut();
    // SAFETY: valid tensors, and a place for the result, which is ours.
    unsafe {
        taken(vae_group_norm_silu(
            maps.as_ptr(),
            weight.as_ptr(),
            bias.as_ptr(),
            groups,
            epsilon,
            &mut output,
        ))?;
        Ok(Tensor::from_ptr(output))
    }
}
