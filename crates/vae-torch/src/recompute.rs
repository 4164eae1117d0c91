//! `recompute.cpp`: computations that are repeated in the backward pass instead of keeping their intermediate values.

use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use tch::{TchError, Tensor};
use torch_sys::C_tensor;

use crate::call::taken;

type Compute = Box<dyn Fn(&Tensor) -> Tensor>;

unsafe extern "C" {
    fn vae_recomputed(
        input: *const C_tensor,
        data: *mut c_void,
        call: unsafe extern "C" fn(*const c_void, *const C_tensor) -> *mut C_tensor,
        drop: unsafe extern "C" fn(*mut c_void),
        output: *mut *mut C_tensor,
    ) -> *mut c_char;
}

/// `compute(input)`, of which the graph keeps only the input: in the backward pass it is computed once more (Chen et al.
/// 2016, <https://arxiv.org/abs/1604.06174>). The gradients of weights that it uses are added to those that they have, so
/// that only `backward` on a loss reaches them, not gradients with respect to given tensors; gradients of gradients are
/// refused. Autocast is in the second computation as it is in the first. Without a gradient of `input` nothing is
/// recomputed.
///
/// `compute` must give the same values whenever it is called, and its output must be a tensor of its own. It may run on
/// another thread while this one waits for `backward`.
///
/// # Errors
/// libtorch refuses; `compute` panics.
pub fn recomputed(
    input: &Tensor,
    compute: impl Fn(&Tensor) -> Tensor + Send + 'static,
) -> Result<Tensor, TchError> {
    let compute: Compute = Box::new(compute);
    let data = Box::into_raw(Box::new(compute)).cast::<c_void>();
    let mut output = ptr::null_mut();
    // SAFETY: the input outlives the call; `data` is what `call` and `dropped` expect, and theirs from here on.
    unsafe {
        taken(vae_recomputed(
            input.as_ptr(),
            data,
            call,
            dropped,
            &mut output,
        ))?;
        Ok(Tensor::from_ptr(output))
    }
}

/// # Safety
/// `data` is a `Box<Compute>` that is not dropped yet, `input` a tensor.
unsafe extern "C" fn call(data: *const c_void, input: *const C_tensor) -> *mut C_tensor {
    // SAFETY: as above. The clone is a handle of its own.
    let (compute, input) = unsafe {
        (
            &*data.cast::<Compute>(),
            Tensor::clone_from_ptr(input.cast_mut()),
        )
    };
    // A panic must not unwind into C++. Its message was printed where it began.
    match catch_unwind(AssertUnwindSafe(|| compute(&input))) {
        Ok(mut output) => {
            let pointer = output.as_mut_ptr();
            std::mem::forget(output); // The caller owns it.
            pointer
        }
        Err(_) => ptr::null_mut(),
    }
}

/// # Safety
/// `data` is a `Box<Compute>` that is not dropped yet.
unsafe extern "C" fn dropped(data: *mut c_void) {
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(data.cast::<Compute>()) });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn gradients_are_those_of_what_is_kept() {
        let options = (Kind::Float, Device::Cpu);
        let weight = Tensor::from_slice(&[0.5_f32, -1.5]).set_requires_grad(true);
        let input = Tensor::from_slice(&[2.0_f32, 3.0]).set_requires_grad(true);
        let gradients = |loss: Tensor| {
            loss.backward();
            [&weight, &input].map(|tensor| {
                let gradient = tensor.grad().copy();
                let _ = tensor.grad().zero_();
                gradient
            })
        };
        let kept = gradients(((&input * 2.0 * &weight).sin() * &weight).sum(Kind::Float));
        let n_calls = Arc::new(AtomicUsize::new(0));
        let (own, counted) = (weight.shallow_clone(), Arc::clone(&n_calls));
        let output = recomputed(&(&input * 2.0), move |input| {
            counted.fetch_add(1, Ordering::Relaxed);
            (input * &own).sin() * &own
        });
        let output = output.unwrap();
        assert_eq!(n_calls.load(Ordering::Relaxed), 1);
        let found = gradients(output.sum(Kind::Float));
        assert_eq!(n_calls.load(Ordering::Relaxed), 2);
        assert_eq!(found, kept);
        assert_eq!(Arc::strong_count(&n_calls), 1, "the graph is freed");

        // Without gradients it is computed once, and nothing is kept.
        let counted = Arc::clone(&n_calls);
        let compute = move |input: &Tensor| {
            counted.fetch_add(1, Ordering::Relaxed);
            input * 1.0
        };
        let output = recomputed(&Tensor::ones([2], options), compute).unwrap();
        assert!(!output.requires_grad());
        assert_eq!(Arc::strong_count(&n_calls), 1);
    }

    #[test]
    fn a_panic_is_an_error() {
        let input = Tensor::from(1.0);
        let error = recomputed(&input, |_| panic!("as the test wants")).unwrap_err();
        assert!(error.to_string().contains("computation failed"), "{error}");
    }
}
