//! `kernels.cpp`: in-place operations on lists of tensors (one kernel for all of a model's variables, if libtorch
//! has one), and autocast.
//!
//! Lists that belong together must have the same length, which is checked here. Tensors that belong together must
//! have the same shape, kind and device, be f32 or f64, and be dense in memory; the moments of a variable must have
//! its memory order. This is checked in `kernels.cpp`. A violation is an error that leaves everything unchanged.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

use crate::call::taken;

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
        previously_cached: *mut bool,
    ) -> *mut c_char;
    fn vae_autocast_leave(
        device_type: c_int,
        previously_enabled: bool,
        previous_scalar_type: c_int,
        previously_cached: bool,
    ) -> *mut c_char;
}

/// Each `Tensor` is a pointer to libtorch's own, valid as long as the borrow.
fn pointers(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}

/// Refuses lists that belong together and have another length than the variables'.
fn check_lengths<'a>(
    n: usize,
    lists: impl IntoIterator<Item = (&'a str, usize)>,
) -> Result<(), TchError> {
    match lists.into_iter().find(|&(_, found)| found != n) {
        None => Ok(()),
        Some((name, found)) => Err(TchError::Shape(format!(
            "{found} {name} of {n} variables: one of each is needed"
        ))),
    }
}

/// Drops the gradients. The next backward pass then stores its own instead of adding to zeros.
///
/// # Panics
/// If one is not a tensor.
pub fn forget_gradients(values: &[&Tensor]) {
    let values = pointers(values);
    // SAFETY: valid tensors, as many as stated; the message is ours.
    let dropped = unsafe { taken(vae_forget_gradients(values.as_ptr(), values.len())) };
    dropped.expect("every defined tensor has a place for a gradient");
}

/// Tensors that an optimizer updates, as parallel lists.
#[derive(Debug)]
pub struct Update<'a> {
    /// The variables, changed in place.
    pub values: Vec<&'a Tensor>,
    /// The gradient of each variable.
    pub gradients: Vec<&'a Tensor>,
    /// The lists of moments that the optimizer keeps.
    pub moments: Vec<Vec<&'a Tensor>>,
}

/// The hyperparameters of a step of Adam or AdamW.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// The step size.
    pub learning_rate: f64,
    /// β₁, the decay of the mean of gradients.
    pub beta1: f64,
    /// β₂, the decay of the mean of squared gradients.
    pub beta2: f64,
    /// ε, which keeps the division by a mean square of 0 finite.
    pub epsilon: f64,
    /// λ, the weight decay.
    pub weight_decay: f64,
    /// Whether weights are decayed directly, as in AdamW, instead of by adding to the gradients, as in Adam.
    pub decoupled: bool,
}

/// A step of Adam; `moments` are the mean and the mean square. `n_steps` are scalars of f32 on each variable's
/// device, which count its steps before this one and are incremented.
///
/// # Errors
/// Lists or tensors that do not belong together.
pub fn fused_adam(update: &Update, n_steps: &[&Tensor], step: &AdamStep) -> Result<(), TchError> {
    let (values, gradients) = (pointers(&update.values), pointers(&update.gradients));
    let moments: Vec<_> = update.moments.iter().map(|list| pointers(list)).collect();
    let n_steps = pointers(n_steps);
    let [means, mean_squares] = moments.as_slice() else {
        let n = moments.len();
        return Err(TchError::Shape(format!("{n} moments, Adam has two")));
    };
    check_lengths(
        values.len(),
        [
            ("gradients", gradients.len()),
            ("means", means.len()),
            ("mean squares", mean_squares.len()),
            ("counts of steps", n_steps.len()),
        ],
    )?;
    // SAFETY: five lists of valid tensors, each as long as said; the message is ours.
    unsafe {
        taken(vae_fused_adam(
            values.as_ptr(),
            gradients.as_ptr(),
            means.as_ptr(),
            mean_squares.as_ptr(),
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

/// A step of stochastic gradient descent; `moments` are the momenta, or empty.
///
/// # Errors
/// Lists or tensors that do not belong together.
pub fn fused_sgd(
    update: &Update,
    learning_rate: f64,
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
) -> Result<(), TchError> {
    let (values, gradients) = (pointers(&update.values), pointers(&update.gradients));
    let momenta = update.moments.first().map(|list| pointers(list));
    let n_momenta = momenta.as_ref().map_or(values.len(), Vec::len);
    check_lengths(
        values.len(),
        [("gradients", gradients.len()), ("momenta", n_momenta)],
    )?;
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

/// The Euclidean norm of all values of all tensors, a scalar on their device. At least one tensor is needed.
///
/// # Errors
/// No tensor, or tensors that do not belong together.
pub fn norm(tensors: &[&Tensor]) -> Result<Tensor, TchError> {
    let tensors = pointers(tensors);
    let mut norm = Tensor::new();
    // SAFETY: valid tensors, as many as stated; `norm` is a tensor to assign to; the message is ours.
    unsafe {
        taken(vae_norm(tensors.as_ptr(), tensors.len(), norm.as_mut_ptr()))?;
    }
    Ok(norm)
}

/// Multiplies all tensors by a scalar tensor.
///
/// # Errors
/// A factor that is not a single number.
pub fn scale(tensors: &[&Tensor], factor: &Tensor) -> Result<(), TchError> {
    let tensors = pointers(tensors);
    // SAFETY: valid tensors, as many as stated; the message is ours.
    unsafe { taken(vae_scale(tensors.as_ptr(), tensors.len(), factor.as_ptr())) }
}

/// Clamps every value of all tensors to \[−bound, bound\].
///
/// # Errors
/// An undefined tensor.
pub fn clamp(tensors: &[&Tensor], bound: f64) -> Result<(), TchError> {
    let tensors = pointers(tensors);
    // SAFETY: valid tensors, as many as stated; the message is ours.
    unsafe { taken(vae_clamp(tensors.as_ptr(), tensors.len(), bound)) }
}

/// tensors ← tensors + weight · (ends − tensors).
///
/// # Errors
/// Lists or tensors that do not belong together.
pub fn lerp(tensors: &[&Tensor], ends: &[&Tensor], weight: f64) -> Result<(), TchError> {
    let (tensors, ends) = (pointers(tensors), pointers(ends));
    check_lengths(tensors.len(), [("ends", ends.len())])?;
    // SAFETY: two lists of valid tensors, each as long as stated; the message is ours.
    unsafe {
        taken(vae_lerp(
            tensors.as_ptr(),
            ends.as_ptr(),
            tensors.len(),
            weight,
        ))
    }
}

/// Autocast on this thread until this is dropped, which restores the state before. The state belongs to the thread, so
/// this must be dropped on the thread that made it: it is not [`Send`]. Each use of a weight has its own
/// half-precision copy, and the copies' gradients are added in f32.
#[derive(Debug)]
pub struct Autocast {
    device_type: c_int,
    previously_enabled: bool,
    previous_scalar_type: c_int,
    previously_cached: bool,
    _of_this_thread: PhantomData<*const ()>,
}

impl Autocast {
    /// Enters autocast to this kind for operations on this device.
    ///
    /// # Panics
    /// If the device is neither a CPU nor CUDA, or the kind is not bf16.
    pub fn enter(device: Device, kind: Kind) -> Self {
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
            previously_cached: true,
            _of_this_thread: PhantomData,
        };
        // SAFETY: three places to write to; the message is ours.
        let entered = unsafe {
            taken(vae_autocast_enter(
                device_type,
                scalar_type,
                &raw mut autocast.previously_enabled,
                &raw mut autocast.previous_scalar_type,
                &raw mut autocast.previously_cached,
            ))
        };
        entered.expect("libtorch supports autocast on CPU and CUDA");
        autocast
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: plain numbers, which the matching call returned; the message is ours.
        let left = unsafe {
            taken(vae_autocast_leave(
                self.device_type,
                self.previously_enabled,
                self.previous_scalar_type,
                self.previously_cached,
            ))
        };
        // A drop must not panic, since it may be part of unwinding. The state to restore is a valid one.
        debug_assert!(left.is_ok());
    }
}

/// libtorch's description of itself: its version, how it was built, which processor instructions it uses.
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

/// The major compute capability of a GPU, if the CUDA runtime is loaded and reports it.
#[must_use]
pub fn cuda_capability(index: usize) -> Option<i32> {
    #[cfg(unix)]
    {
        type GetAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
        const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
        let index = c_int::try_from(index).ok()?;
        // SAFETY: looks up a name in the libraries that are loaded.
        let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"cudaDeviceGetAttribute".as_ptr()) };
        if symbol.is_null() {
            return None;
        }
        // SAFETY: the CUDA runtime's function of this name has had this signature in every version. It writes the value,
        // and refuses a device that does not exist.
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
        assert!(
            message.contains("[3]") && message.contains("[2]"),
            "{message}"
        );
    }

    const ADAM: AdamStep = AdamStep {
        learning_rate: 1.0,
        beta1: 0.5,
        beta2: 0.5,
        epsilon: 1e-8,
        weight_decay: 0.0,
        decoupled: false,
    };

    fn zeros(shape: &[i64]) -> Tensor {
        Tensor::zeros(shape, (Kind::Float, Device::Cpu))
    }

    /// A 3×2 matrix with the memory layout of its transpose.
    fn transposed() -> Tensor {
        zeros(&[2, 3]).transpose(0, 1)
    }

    /// The errors of steps with this variable, gradient and moment (means and mean squares of Adam, momenta of SGD).
    /// Checks that the variable is unchanged.
    fn refusals(value: &Tensor, gradient: &Tensor, moment: &Tensor) -> Vec<String> {
        let before = value.defined().then(|| value.copy());
        let n_steps = Tensor::from(0_f32);
        let good = if value.defined() {
            value.zeros_like()
        } else {
            zeros(&[3, 2])
        };
        let update = |moments: Vec<Vec<&Tensor>>| {
            let update = Update {
                values: vec![value],
                gradients: vec![gradient],
                moments: moments
                    .into_iter()
                    .map(|list| list.into_iter().collect())
                    .collect(),
            };
            match update.moments.len() {
                2 => fused_adam(&update, &[&n_steps], &ADAM),
                _ => fused_sgd(&update, 1.0, 0.5, 0.0, false),
            }
        };
        let refusals = [
            update(vec![vec![moment], vec![&good]]),
            update(vec![vec![&good], vec![moment]]),
            update(vec![vec![moment]]),
        ]
        .map(|result| result.expect_err("refused").to_string());
        if let Some(before) = before {
            assert!(before.equal(value));
        }
        assert_eq!(n_steps.double_value(&[]), 0.0);
        refusals.into()
    }

    #[test]
    fn tensors_that_the_fused_kernels_would_run_out_of_are_refused() {
        let (value, gradient) = (
            zeros(&[3, 2]),
            Tensor::ones([3, 2], (Kind::Float, Device::Cpu)),
        );
        let said = |wanted: &str, refusals: Vec<String>| {
            for refusal in refusals {
                assert!(refusal.contains(wanted), "{refusal}, wanted: {wanted}");
            }
        };
        let double = |tensor: &Tensor| tensor.to_kind(Kind::Double);
        let half = value.to_kind(Kind::Half);
        let all_one = zeros(&[1, 1]).expand([3, 2], false);
        let every_second = zeros(&[3, 4]).slice(1, 0, 4, 2);

        // Moments, as a damaged checkpoint might have them.
        said("its variable", refusals(&value, &gradient, &zeros(&[2, 2])));
        said("its variable", refusals(&value, &gradient, &zeros(&[6])));
        said("its variable", refusals(&value, &gradient, &zeros(&[0])));
        said("its variable", refusals(&value, &gradient, &double(&value)));
        said("Half", refusals(&value, &gradient, &half));
        said("not dense", refusals(&value, &gradient, &all_one));
        said("not dense", refusals(&value, &gradient, &every_second));
        said("has strides", refusals(&value, &gradient, &transposed()));
        said("no tensor", refusals(&value, &gradient, &Tensor::new()));
        // Gradients.
        said(
            "gradients[0]",
            refusals(&value, &zeros(&[2, 3]), &value.zeros_like()),
        );
        said(
            "gradients[0]",
            refusals(&value, &double(&value), &value.zeros_like()),
        );
        said(
            "gradients[0]",
            refusals(&value, &Tensor::new(), &value.zeros_like()),
        );
        // Variables.
        said(
            "not dense",
            refusals(&all_one, &gradient, &value.zeros_like()),
        );
        said(
            "not dense",
            refusals(&every_second, &gradient, &value.zeros_like()),
        );
        said("Half", refusals(&half, &half, &half.zeros_like()));
        said(
            "no tensor",
            refusals(&Tensor::new(), &gradient, &value.zeros_like()),
        );
    }

    #[test]
    fn lists_of_another_length_are_refused() {
        let tensor = zeros(&[2]);
        let one = vec![&tensor];
        let n_steps = Tensor::from(0_f32);
        let update = |gradients: Vec<_>, moments| Update {
            values: vec![&tensor],
            gradients,
            moments,
        };
        for (gradients, moments) in [
            (vec![], vec![one.clone(), one.clone()]),
            (one.clone(), vec![one.clone(), vec![]]),
            (one.clone(), vec![vec![&tensor, &tensor], one.clone()]),
            (one.clone(), vec![one.clone()]),
            (one.clone(), vec![]),
        ] {
            let update = update(gradients, moments);
            assert!(fused_adam(&update, &[&n_steps], &ADAM).is_err());
        }
        for (gradients, moments) in [
            (vec![], vec![one.clone()]),
            (one.clone(), vec![vec![]]),
            // A momentum without a buffer for it.
            (one.clone(), vec![]),
        ] {
            assert!(fused_sgd(&update(gradients, moments), 1.0, 0.5, 0.0, false).is_err());
        }
        assert!(lerp(&[&tensor], &[], 0.5).is_err());
        let update = update(one.clone(), vec![one.clone(), one.clone()]);
        for n_steps in [zeros(&[2]), Tensor::new(), Tensor::from(1_f64)] {
            assert!(fused_adam(&update, &[&n_steps], &ADAM).is_err());
        }
        assert!(fused_adam(&update, &[], &ADAM).is_err());
        assert!(fused_adam(&update, &[&n_steps, &n_steps], &ADAM).is_err());
        assert!(norm(&[&Tensor::new()]).is_err());
        assert!(clamp(&[&Tensor::new()], 1.0).is_err());
        assert!(scale(&[&tensor], &zeros(&[2])).is_err());
        assert!(scale(&[&Tensor::new()], &zeros(&[])).is_err());
        assert!(lerp(&[&tensor], &[&Tensor::new()], 0.5).is_err());
    }

    #[test]
    fn gradients_in_another_memory_order_are_put_in_order() {
        let value = zeros(&[3, 2]);
        // 0 … 5 row by row, whatever the memory order.
        let numbers = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([3, 2]);
        let gradient = transposed();
        gradient.shallow_clone().copy_(&numbers);
        let update = Update {
            values: vec![&value],
            gradients: vec![&gradient],
            moments: vec![],
        };
        fused_sgd(&update, 1.0, 0.0, 0.0, false).expect("a step");
        assert!(value.equal(&-numbers));
    }
}
