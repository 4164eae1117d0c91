//! The number format that the networks compute in.

use tch::{Device, Kind};
use vae_run::{Precision, RunError};

use vae_torch::Autocast;

/// Refuses a precision that the device does not support, or only more slowly than f32.
///
/// # Errors
/// bf16 on a device without instructions for it.
pub fn check_precision(precision: Precision, device: Device) -> Result<(), RunError> {
    let refused = |problem: String| {
        let problem = format!("found \"bf16\", but {problem}; \"f32\" works everywhere");
        Err(RunError::config("training.precision", problem))
    };
    if precision == Precision::F32 {
        return Ok(());
    }
    match device {
        Device::Cpu if cpu_has_bf16() => Ok(()),
        Device::Cpu => {
            refused("this processor has no instructions for it (avx512_bf16, bf16)".to_owned())
        }
        Device::Cuda(index) => match vae_torch::cuda_capability(index) {
            Some(capability) if capability < 8 => refused(format!(
                "GPU {index} is of compute capability {capability}.x, 8.0 is needed (Ampere)"
            )),
            _ => Ok(()),
        },
        device => refused(format!("it is not supported on {device:?}")),
    }
}

/// Runs `body`, a forward pass, with the networks' operations on `device` in this precision. Their outputs are then bf16 and
/// must be cast before sums and logarithms. The backward pass needs no autocast, since it follows the forward pass.
///
/// # Panics
/// With bf16 on a device type that [`check_precision`] refuses.
pub fn autocast<R>(precision: Precision, device: Device, body: impl FnOnce() -> R) -> R {
    let _restored_on_drop =
        (precision != Precision::F32).then(|| Autocast::enter(device, Kind::BFloat16));
    body()
}

/// Every x86 processor with AMX for bf16 has `avx512_bf16` too.
fn cpu_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("bf16")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}
