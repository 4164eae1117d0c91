//! Calls into libtorch that tch does not bind (`kernels.cpp`): operations on lists of tensors in
//! place, a single kernel for all of a model's variables where there is one, and autocast.
//!
//! Lists that belong together have the same length, and tensors that belong together the same
//! shape, memory order, kind and device; a breach is an error of libtorch's, or a panic here.

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

unsafe extern "C" {
    fn vae_show_config() -> *mut c_char;
    fn vae_forget_gradients(values: *const *const C_tensor, n: usize) -> *mut c_char;
    fn vae_fused_adam(
        values: *const *const C_tensor,
        gradients: *const *const C_tensor,
        means: *const *const C_tensor,
        mean_squares: *const *const C_tensor,
        n: usize,
        n_steps: *const *const C_tensor,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
        decoupled: bool,
    ) -> *mut c_char;
    fn vae_fused_sgd(
        values: *const *const C_tensor,
        gradients: *const *const C_tensor,
        momenta: *const *const C_tensor,
        n: usize,
        learning_rate: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
    ) -> *mut c_char;
    fn vae_norm(tensors: *const *const C_tensor, n: usize, norm: *mut C_tensor) -> *mut c_char;
    fn vae_scale(tensors: *const *const C_tensor, n: usize, factor: *const C_tensor)
    -> *mut c_char;
    fn vae_clamp(tensors: *const *const C_tensor, n: usize, bound: f64) -> *mut c_char;
    fn vae_lerp(
        tensors: *const *const C_tensor,
        ends: *const *const C_tensor,
        n: usize,
        weight: f64,
    ) -> *mut c_char;
    fn vae_autocast_enter(
        device_type: c_int,
        scalar_type: c_int,
        previously_enabled: *mut bool,
        previous_scalar_type: *mut c_int,
    ) -> *mut c_char;
    fn vae_autocast_leave(
        device_type: c_int,
        previously_enabled: bool,
        previous_scalar_type: c_int,
    ) -> *mut c_char;
}

/// Takes the message that a call gave, if it gave one.
///
/// # Safety
/// `message` is null, or a C string from malloc that nobody else frees.
unsafe fn taken(message: *mut c_char) -> Result<(), TchError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so a C string from malloc, and ours to free.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        libc::free(message.cast::<c_void>());
        text
    };
    Err(TchError::Torch(text))
}

/// Every `Tensor` is a pointer to libtorch's own, valid as long as the borrow.
fn pointers(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}

/// Drops the gradients: the next backward pass then stores its own instead of adding to zeros.
pub(crate) fn forget_gradients(values: &[&Tensor]) {
    let values = pointers(values);
    // SAFETY: valid tensors, as many as said; the message is ours.
    let dropped = unsafe { taken(vae_forget_gradients(values.as_ptr(), values.len())) };
    dropped.expect("every defined tensor has a place for a gradient");
}

/// Tensors that an optimizer works on, parallel lists.
pub(crate) struct Update<'a> {
    pub(crate) values: Vec<&'a Tensor>,
    pub(crate) gradients: Vec<&'a Tensor>,
    /// Lists of what the optimizer remembers.
    pub(crate) moments: Vec<Vec<&'a Tensor>>,
}

/// The numbers of a step of Adam or AdamW.
pub(crate) struct AdamStep {
    pub(crate) learning_rate: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) epsilon: f64,
    pub(crate) weight_decay: f64,
    /// AdamW's decay of the weights themselves, instead of Adam's addition to the gradients.
    pub(crate) decoupled: bool,
}

/// A step of Adam, on `moments` mean and mean square. `n_steps` of each variable, scalars of f32 on its
/// device, count those before this one and then this one too.
pub(crate) fn fused_adam(
    update: &Update,
    n_steps: &[&Tensor],
    step: &AdamStep,
) -> Result<(), TchError> {
    let (values, gradients) = (pointers(&update.values), pointers(&update.gradients));
    let moments: Vec<_> = update.moments.iter().map(|list| pointers(list)).collect();
    let n_steps = pointers(n_steps);
    assert_eq!(moments.len(), 2, "Adam has two moments");
    assert!(
        moments
            .iter()
            .chain([&gradients, &n_steps])
            .all(|list| list.len() == values.len())
    );
    // SAFETY: five lists of valid tensors, each as long as said; the message is ours.
    unsafe {
        taken(vae_fused_adam(
            values.as_ptr(),
            gradients.as_ptr(),
            moments[0].as_ptr(),
            moments[1].as_ptr(),
            values.len(),
            n_steps.as_ptr(),
            step.learning_rate,
            step.beta1,
            step.beta2,
            step.weight_decay,
            step.epsilon,
            step.decoupled,
        ))
    }
}

/// A step of stochastic gradient descent, on `moments` momentum or none.
pub(crate) fn fused_sgd(
    update: &Update,
    learning_rate: f64,
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
) -> Result<(), TchError> {
    let (values, gradients) = (pointers(&update.values), pointers(&update.gradients));
    let momenta = update.moments.first().map(|list| pointers(list));
    assert!(
        momenta
            .iter()
            .chain([&gradients])
            .all(|list| list.len() == values.len())
    );
    // SAFETY: lists of valid tensors, each as long as said; null stands for no momenta; the
    // message is ours.
    unsafe {
        taken(vae_fused_sgd(
            values.as_ptr(),
            gradients.as_ptr(),
            momenta.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
            values.len(),
            learning_rate,
            momentum,
            weight_decay,
            nesterov,
        ))
    }
}

/// The Euclidean norm of all numbers of all tensors: a scalar on their device. At least one tensor.
pub(crate) fn norm(tensors: &[&Tensor]) -> Result<Tensor, TchError> {
    let tensors = pointers(tensors);
    let mut norm = Tensor::new();
    // SAFETY: valid tensors, as many as said; `norm` is a tensor to assign to; the message is ours.
    unsafe {
        taken(vae_norm(tensors.as_ptr(), tensors.len(), norm.as_mut_ptr()))?;
    }
    Ok(norm)
}

/// Multiplies all by a scalar tensor.
pub(crate) fn scale(tensors: &[&Tensor], factor: &Tensor) -> Result<(), TchError> {
    let tensors = pointers(tensors);
    // SAFETY: valid tensors, as many as said; the message is ours.
    unsafe { taken(vae_scale(tensors.as_ptr(), tensors.len(), factor.as_ptr())) }
}

/// Clamps every number of all tensors to [−bound, bound].
pub(crate) fn clamp(tensors: &[&Tensor], bound: f64) -> Result<(), TchError> {
    let tensors = pointers(tensors);
    // SAFETY: valid tensors, as many as said; the message is ours.
    unsafe { taken(vae_clamp(tensors.as_ptr(), tensors.len(), bound)) }
}

/// tensors ← tensors + weight · (ends − tensors).
pub(crate) fn lerp(tensors: &[&Tensor], ends: &[&Tensor], weight: f64) -> Result<(), TchError> {
    assert_eq!(tensors.len(), ends.len());
    let (tensors, ends) = (pointers(tensors), pointers(ends));
    // SAFETY: two lists of valid tensors, each as long as said; the message is ours.
    unsafe {
        taken(vae_lerp(
            tensors.as_ptr(),
            ends.as_ptr(),
            tensors.len(),
            weight,
        ))
    }
}

/// Autocast on this thread while this lives; what was in force before comes back with its end.
pub(crate) struct Autocast {
    device_type: c_int,
    previously_enabled: bool,
    previous_scalar_type: c_int,
}

impl Autocast {
    pub(crate) fn enter(device: Device, kind: Kind) -> Self {
        // As in c10/core/DeviceType.h and c10/core/ScalarType.h.
        let device_type = match device {
            Device::Cpu => 0,
            Device::Cuda(_) => 1,
            other => panic!("no autocast on {other:?}"),
        };
        let scalar_type = match kind {
            Kind::BFloat16 => 15,
            other => panic!("no autocast to {other:?}"),
        };
        let mut autocast = Self {
            device_type,
            previously_enabled: false,
            previous_scalar_type: 0,
        };
        // SAFETY: two places to write to; the message is ours.
        let entered = unsafe {
            taken(vae_autocast_enter(
                device_type,
                scalar_type,
                &raw mut autocast.previously_enabled,
                &raw mut autocast.previous_scalar_type,
            ))
        };
        entered.expect("libtorch knows autocast on CPU and CUDA");
        autocast
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: plain numbers, which the matching call gave; the message is ours.
        let left = unsafe {
            taken(vae_autocast_leave(
                self.device_type,
                self.previously_enabled,
                self.previous_scalar_type,
            ))
        };
        // No panic in a drop, which may be part of one: and what was in force before is valid.
        debug_assert!(left.is_ok());
    }
}

/// What libtorch says of itself: its version, what it was built with, which instructions of the
/// processor it uses.
#[must_use]
pub fn libtorch_config() -> String {
    // SAFETY: a C string from malloc that is ours to free, or null.
    unsafe {
        let config = vae_show_config();
        if config.is_null() {
            return String::new();
        }
        let text = CStr::from_ptr(config).to_string_lossy().into_owned();
        libc::free(config.cast::<c_void>());
        text
    }
}

/// The major compute capability of a GPU, if the CUDA runtime is loaded and tells it.
pub(crate) fn cuda_capability(index: usize) -> Option<i32> {
    #[cfg(unix)]
    {
        type GetAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
        const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
        let index = c_int::try_from(index).ok()?;
        // SAFETY: looks for a name in the libraries that are loaded.
        let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"cudaDeviceGetAttribute".as_ptr()) };
        if symbol.is_null() {
            return None;
        }
        // SAFETY: the CUDA runtime's function of this name has had this signature in every version;
        // it writes the value, and refuses a device that does not exist.
        unsafe {
            let get_attribute = std::mem::transmute::<*mut c_void, GetAttribute>(symbol);
            let mut capability = 0;
            let refused = get_attribute(&raw mut capability, COMPUTE_CAPABILITY_MAJOR, index);
            (refused == 0).then_some(capability)
        }
    }
    #[cfg(not(unix))]
    {
        let _ = index;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libtorch_throws_is_an_error() {
        let message = norm(&[]).expect_err("no tensors").to_string();
        assert!(message.contains("at least one tensor"), "{message}");
        let (two, three) = (
            Tensor::from_slice(&[1_f32; 2]),
            Tensor::from_slice(&[1_f32; 3]),
        );
        let message = lerp(&[&two], &[&three], 0.5)
            .expect_err("shapes")
            .to_string();
        assert!(message.contains("size"), "{message}");
    }
}
