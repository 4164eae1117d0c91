//! `convolution.cpp`: convolutions of maps in f32 on the CPU.

use std::ffi::c_char;
use std::ptr;

use tch::{TchError, Tensor};
use torch_sys::C_tensor;

use crate::call::taken;

unsafe extern "C" {
    fn vae_convolution(
        input: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        stride: i64,
        padding: *const i64,
        output_padding: *const i64,
        output: *mut *mut C_tensor,
    ) -> *mut c_char;
}

/// `conv2d` of maps `[N, C, H, W]` with a weight `[C', C, h, w]`, the same stride along both sides and zeros around the maps
/// (above and below, left and right). In f32 on the CPU of an x86-64 with AVX-512 or AVX2, this is computed by kernels of
/// our own where they are faster: 3×3 kernels of stride 1 by Winograd's minimal filtering (Lavin & Gray 2016,
/// <https://arxiv.org/abs/1509.09308>), larger strides, and gradients of weights. The results differ from libtorch's by
/// rounding. Everywhere else it is libtorch's, so also under autocast and in a trace.
///
/// # Errors
/// Shapes that do not belong together.
pub fn convolution(
    maps: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: i64,
    padding: [i64; 2],
) -> Result<Tensor, TchError> {
    call(maps, weight, bias, stride, padding, None)
}

/// `conv_transpose2d` of maps `[N, C, H, W]` with a weight `[C, C', h, w]`, otherwise like [`convolution`].
///
/// # Errors
/// Shapes that do not belong together.
pub fn convolution_transpose(
    maps: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: i64,
    padding: [i64; 2],
    output_padding: [i64; 2],
) -> Result<Tensor, TchError> {
    call(maps, weight, bias, stride, padding, Some(output_padding))
}

fn call(
    maps: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: i64,
    padding: [i64; 2],
    output_padding: Option<[i64; 2]>,
) -> Result<Tensor, TchError> {
    let mut output = ptr::null_mut();
    // SAFETY: valid tensors, or null for none; two numbers behind each pointer to numbers; a place for the result, which is ours.
    unsafe {
        taken(vae_convolution(
            maps.as_ptr(),
            weight.as_ptr(),
            bias.map_or(ptr::null(), Tensor::as_ptr),
            stride,
            padding.as_ptr(),
            output_padding
                .as_ref()
                .map_or(ptr::null(), |padding| padding.as_ptr()),
            &mut output,
        ))?;
        Ok(Tensor::from_ptr(output))
    }
}
