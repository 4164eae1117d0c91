//! `generator.cpp`: random numbers from a generator that the caller owns.

use std::ffi::{c_char, c_int};
use std::fmt;
use std::ptr::NonNull;

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

use crate::call::taken;

/// libtorch's `at::Generator`, used only behind a pointer.
#[repr(C)]
struct CGenerator {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn vae_generator_new(
        device_type: c_int,
        device_index: c_int,
        seed: u64,
        generator: *mut *mut CGenerator,
    ) -> *mut c_char;
    fn vae_generator_delete(generator: *mut CGenerator);
    fn vae_normal(values: *const C_tensor, generator: *const CGenerator) -> *mut c_char;
    fn vae_uniform(
        values: *const C_tensor,
        low: f64,
        high: f64,
        generator: *const CGenerator,
    ) -> *mut c_char;
    fn vae_exponential(values: *const C_tensor, generator: *const CGenerator) -> *mut c_char;
    fn vae_randint(values: *const C_tensor, high: i64, generator: *const CGenerator)
    -> *mut c_char;
    fn vae_multinomial(
        weights: *const C_tensor,
        n: i64,
        generator: *const CGenerator,
        drawn: *mut C_tensor,
    ) -> *mut c_char;
    fn vae_standard_gamma(
        concentration: *const C_tensor,
        generator: *const CGenerator,
        drawn: *mut C_tensor,
    ) -> *mut c_char;
}

/// A stream of random numbers that is passed to whatever draws (`torch.Generator` in Python).
///
/// From one seed it gives the numbers of libtorch's global generator after `tch::manual_seed`, without using or
/// changing that one. Sessions on several threads, each with its own generators, do not affect each other. Like
/// the global generator, one on a CPU uses the low 32 bits of the seed.
///
/// Numbers are drawn on the generator's device and moved to the requested one, which costs nothing if it is the
/// same. A CPU generator gives a model on a GPU the same noise as one on the CPU.
///
/// The functions that draw panic where libtorch refuses (no memory, negative sizes), like tch's functions of the
/// same names.
///
/// ```
/// use tch::Device;
/// use vae_torch::Generator;
///
/// let mut noise = Generator::cpu(7);
/// let first = noise.normal([2, 3], Device::Cpu);
/// assert_ne!(noise.normal([2, 3], Device::Cpu), first);
/// assert_eq!(Generator::cpu(7).normal([2, 3], Device::Cpu), first);
/// ```
pub struct Generator {
    pointer: NonNull<CGenerator>,
    device: Device,
}

// SAFETY: the only pointer to an object of libtorch that is not bound to a thread.
unsafe impl Send for Generator {}

impl fmt::Debug for Generator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut generator = formatter.debug_struct("Generator");
        generator.field("device", &self.device).finish()
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // SAFETY: made by `vae_generator_new`, and there is no other pointer to it.
        unsafe { vae_generator_delete(self.pointer.as_ptr()) }
    }
}

impl Generator {
    /// A generator that draws on this device.
    ///
    /// # Errors
    /// A device that does not exist, or whose libtorch library is not loaded.
    pub fn new(seed: u64, device: Device) -> Result<Self, TchError> {
        // As in c10/core/DeviceType.h.
        let (device_type, index) = match device {
            Device::Cpu => (0, 0),
            Device::Cuda(index) => (1, index),
            Device::Mps => (13, 0),
            other @ Device::Vulkan => {
                let problem = format!("{other:?} has no random number generator");
                return Err(TchError::Torch(problem));
            }
        };
        let index = c_int::try_from(index)
            .map_err(|_| TchError::Torch(format!("no device has the index {index}")))?;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: a place to write the pointer to; the message is ours.
        unsafe {
            taken(vae_generator_new(
                device_type,
                index,
                seed,
                &raw mut pointer,
            ))?;
        }
        let pointer = NonNull::new(pointer).expect("a call without a message made a generator");
        Ok(Self { pointer, device })
    }

    /// A generator that draws on the CPU.
    #[must_use]
    pub fn cpu(seed: u64) -> Self {
        Self::new(seed, Device::Cpu).expect("a CPU has generators")
    }

    /// The device that it draws on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Standard normal numbers, f32.
    pub fn normal(&mut self, size: impl AsRef<[i64]>, device: Device) -> Tensor {
        let values = self.filled(self.empty(size, Kind::Float), fill_normal);
        values.to_device(device)
    }

    /// Standard normal numbers of the size, kind, memory order and device of another tensor.
    pub fn normal_like(&mut self, other: &Tensor) -> Tensor {
        let values = self.filled(self.empty_like(other), fill_normal);
        values.to_device(other.device())
    }

    /// Uniform numbers between the bounds, f32.
    pub fn uniform(&mut self, bounds: [f64; 2], size: impl AsRef<[i64]>, device: Device) -> Tensor {
        let values = self.filled(self.empty(size, Kind::Float), fill_uniform(bounds));
        values.to_device(device)
    }

    /// Uniform numbers in `[0, 1)` of the size, kind, memory order and device of another tensor.
    pub fn uniform_like(&mut self, other: &Tensor) -> Tensor {
        let values = self.filled(self.empty_like(other), fill_uniform([0.0, 1.0]));
        values.to_device(other.device())
    }

    /// Exponentially distributed numbers of mean 1, of the size, kind, memory order and device of another
    /// tensor.
    pub fn exponential_like(&mut self, other: &Tensor) -> Tensor {
        let fill: Fill = |values, generator| {
            // SAFETY: as `filled` says.
            unsafe { vae_exponential(values, generator) }
        };
        let values = self.filled(self.empty_like(other), fill);
        values.to_device(other.device())
    }

    /// Uniform integers in 0 … `high` − 1, of this kind.
    pub fn randint(
        &mut self,
        high: i64,
        size: impl AsRef<[i64]>,
        (kind, device): (Kind, Device),
    ) -> Tensor {
        let values = self.filled(self.empty(size, kind), |values, generator| {
            // SAFETY: as `filled` says.
            unsafe { vae_randint(values, high, generator) }
        });
        values.to_device(device)
    }

    /// `n` indices drawn with replacement, with probabilities proportional to the weights `[C]`: i64 `[n]` on their
    /// device.
    pub fn multinomial(&mut self, weights: &Tensor, n: i64) -> Tensor {
        let on_device = weights.to_device(self.device);
        let mut drawn = Tensor::new();
        // SAFETY: a valid tensor, the generator and a tensor to assign to; the message is ours.
        let done = unsafe {
            taken(vae_multinomial(
                on_device.as_ptr(),
                n,
                self.pointer.as_ptr(),
                drawn.as_mut_ptr(),
            ))
        };
        expect(done);
        drawn.to_device(weights.device())
    }

    /// A draw from Gamma(α, 1) for each α of the tensor, differentiable in α.
    pub fn standard_gamma(&mut self, concentration: &Tensor) -> Tensor {
        let on_device = concentration.to_device(self.device);
        let mut drawn = Tensor::new();
        // SAFETY: a valid tensor, the generator and a tensor to assign to; the message is ours.
        let done = unsafe {
            taken(vae_standard_gamma(
                on_device.as_ptr(),
                self.pointer.as_ptr(),
                drawn.as_mut_ptr(),
            ))
        };
        expect(done);
        drawn.to_device(concentration.device())
    }

    fn empty(&self, size: impl AsRef<[i64]>, kind: Kind) -> Tensor {
        Tensor::empty(size.as_ref(), (kind, self.device))
    }

    fn empty_like(&self, other: &Tensor) -> Tensor {
        // In the same memory order even on another device: numbers are filled in in that order.
        other.empty_like().to_device(self.device)
    }

    /// `fill` is given a valid tensor and this generator.
    fn filled(
        &mut self,
        values: Tensor,
        fill: impl FnOnce(*const C_tensor, *const CGenerator) -> *mut c_char,
    ) -> Tensor {
        // SAFETY: the message of one of the calls above, which is ours.
        expect(unsafe { taken(fill(values.as_ptr(), self.pointer.as_ptr())) });
        values
    }
}

/// Returns the message of a call.
type Fill = fn(*const C_tensor, *const CGenerator) -> *mut c_char;

fn fill_normal(values: *const C_tensor, generator: *const CGenerator) -> *mut c_char {
    // SAFETY: as `filled` says.
    unsafe { vae_normal(values, generator) }
}

fn fill_uniform(
    [low, high]: [f64; 2],
) -> impl FnOnce(*const C_tensor, *const CGenerator) -> *mut c_char {
    move |values, generator| {
        // SAFETY: as `filled` says.
        unsafe { vae_uniform(values, low, high, generator) }
    }
}

/// As tch's functions of the same names without `f_`.
fn expect(done: Result<(), TchError>) {
    if let Err(error) = done {
        panic!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Channels innermost in memory, as convolutions keep their maps.
    fn maps() -> Tensor {
        Tensor::zeros([2, 5, 4, 3], CPU).permute([0, 3, 1, 2])
    }

    /// The only test in this crate that uses libtorch's global generator.
    #[test]
    #[allow(clippy::disallowed_methods)]
    fn every_draw_is_the_global_generators_and_leaves_it_alone() {
        type Draw = (&'static str, fn(&mut Generator) -> Tensor, fn() -> Tensor);
        // libtorch uses another algorithm for 16 or more normal numbers than for fewer, and for non-contiguous tensors than
        // for contiguous ones.
        let draws: [Draw; 15] = [
            (
                "few normal",
                |own| own.normal([5, 3], Device::Cpu),
                || Tensor::randn([5, 3], CPU),
            ),
            (
                "16 normal",
                |own| own.normal([16], Device::Cpu),
                || Tensor::randn([16], CPU),
            ),
            (
                "many normal",
                |own| own.normal([33, 7], Device::Cpu),
                || Tensor::randn([33, 7], CPU),
            ),
            (
                "normal like few",
                |own| own.normal_like(&Tensor::zeros([7], CPU)),
                || Tensor::zeros([7], CPU).randn_like(),
            ),
            (
                "normal like maps",
                |own| own.normal_like(&maps()),
                || maps().randn_like(),
            ),
            (
                "normal like an expanded one",
                |own| own.normal_like(&Tensor::zeros([1, 9], CPU).expand([8, 9], false)),
                || {
                    Tensor::zeros([1, 9], CPU)
                        .expand([8, 9], false)
                        .randn_like()
                },
            ),
            (
                "f64 normal",
                |own| own.normal_like(&Tensor::zeros([40], (Kind::Double, Device::Cpu))),
                || Tensor::zeros([40], (Kind::Double, Device::Cpu)).randn_like(),
            ),
            (
                "few uniform",
                |own| own.uniform([-0.3, 0.3], [3], Device::Cpu),
                || Tensor::zeros([3], CPU).uniform_(-0.3, 0.3),
            ),
            (
                "many uniform",
                |own| own.uniform([-2.0, 0.5], [50, 9], Device::Cpu),
                || Tensor::zeros([50, 9], CPU).uniform_(-2.0, 0.5),
            ),
            (
                "uniform like maps",
                |own| own.uniform_like(&maps()),
                || maps().rand_like(),
            ),
            (
                "few exponential",
                |own| own.exponential_like(&Tensor::zeros([6], CPU)),
                || Tensor::zeros([6], CPU).exponential_(1.0),
            ),
            (
                "exponential like maps",
                |own| own.exponential_like(&maps()),
                || maps().empty_like().exponential_(1.0),
            ),
            (
                "bytes",
                |own| own.randint(256, [300], (Kind::Uint8, Device::Cpu)),
                || Tensor::randint(256, [300], (Kind::Uint8, Device::Cpu)),
            ),
            (
                "components",
                |own| own.multinomial(&Tensor::from_slice(&[0.2_f32, 0.5, 0.3]), 40),
                || Tensor::from_slice(&[0.2_f32, 0.5, 0.3]).multinomial(40, true),
            ),
            (
                "gamma",
                |own| own.standard_gamma(&Tensor::full([40], 2.5, CPU)),
                || Tensor::full([40], 2.5, CPU).internal_standard_gamma(),
            ),
        ];
        for seed in [0, 1, 7 << 40 | 5, u64::MAX] {
            let mut own = Generator::cpu(seed);
            tch::manual_seed(seed as i64);
            // One after the other: each continues where the one before ended.
            for (name, of_own, of_global) in draws {
                let drawn = of_own(&mut own);
                let wanted = of_global();
                assert_eq!(drawn.kind(), wanted.kind(), "{name}");
                assert_eq!(drawn.stride(), wanted.stride(), "{name}");
                assert!(drawn.equal(&wanted), "{name} of seed {seed}");
            }
        }
        tch::manual_seed(3);
        let wanted = Tensor::randn([20], CPU);
        tch::manual_seed(3);
        for (_, of_own, _) in draws {
            let _ = of_own(&mut Generator::cpu(8));
        }
        assert!(Tensor::randn([20], CPU).equal(&wanted));
    }

    #[test]
    fn two_threads_draw_what_one_draws() {
        let draw = |seed: u64| {
            let mut generator = Generator::cpu(seed);
            let drawn: Vec<Tensor> = (1..200)
                .map(|n| generator.normal([n], Device::Cpu))
                .collect();
            Tensor::cat(&drawn, 0)
        };
        let alone = [1, 2].map(draw);
        let together = std::thread::scope(|scope| {
            [1, 2]
                .map(|seed| scope.spawn(move || draw(seed)))
                .map(|thread| thread.join().expect("no panic"))
        });
        assert!(alone[0].equal(&together[0]) && alone[1].equal(&together[1]));
        assert!(!alone[0].equal(&alone[1]));
    }

    #[test]
    fn a_generator_may_go_to_another_thread() {
        let mut generator = Generator::cpu(4);
        let first = generator.normal([3], Device::Cpu);
        let second = std::thread::spawn(move || generator.normal([3], Device::Cpu));
        let second = second.join().expect("no panic");
        let mut again = Generator::cpu(4);
        assert!(again.normal([3], Device::Cpu).equal(&first));
        assert!(again.normal([3], Device::Cpu).equal(&second));
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let error = Generator::new(1, Device::Vulkan).expect_err("no generators");
        assert!(error.to_string().contains("Vulkan"), "{error}");
        let error = Generator::new(1, Device::Cuda(usize::MAX)).expect_err("no such device");
        assert!(
            error.to_string().contains(&usize::MAX.to_string()),
            "{error}"
        );
        if !tch::Cuda::is_available() {
            let error = Generator::new(1, Device::Cuda(0)).expect_err("no CUDA");
            assert!(error.to_string().contains("CUDA"), "{error}");
        }
    }

    #[test]
    #[should_panic(expected = "from")]
    fn what_libtorch_refuses_panics_with_its_words() {
        let _ = Generator::cpu(1).randint(0, [2], (Kind::Int64, Device::Cpu));
    }
}
