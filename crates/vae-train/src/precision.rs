//! In which kind of numbers the networks compute.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::TrainError;
use crate::kernels::{self, Autocast};

/// The number format that the networks compute in. Weights, gradients, losses and optimizer are f32 with
/// both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// Convolutions and matrix products in bfloat16, 16 bits with the range of f32 and 8 bits of precision
    /// (Kalamkar et al. 2019, <https://arxiv.org/abs/1905.12322>). Faster where the processor has
    /// instructions for it, and half the memory for the networks' outputs.
    Bf16,
}

impl Precision {
    /// Refuses what the device cannot compute, or only slower than f32.
    ///
    /// # Errors
    /// bf16 on a device without instructions for it.
    pub fn check(self, device: Device) -> Result<(), TrainError> {
        let refused = |problem: String| {
            Err(TrainError::Config {
                key: "training.precision",
                problem: format!("found \"bf16\", but {problem}; \"f32\" works everywhere"),
            })
        };
        match (self, device) {
            (Self::F32, _) => Ok(()),
            (Self::Bf16, Device::Cpu) if cpu_has_bf16() => Ok(()),
            (Self::Bf16, Device::Cpu) => {
                refused("this processor has no instructions for it (avx512_bf16, bf16)".to_owned())
            }
            (Self::Bf16, Device::Cuda(index)) => match kernels::cuda_capability(index) {
                Some(capability) if capability < 8 => refused(format!(
                    "GPU {index} is of compute capability {capability}.x, 8.0 is needed (Ampere)"
                )),
                _ => Ok(()),
            },
            (Self::Bf16, device) => refused(format!("it is not supported on {device:?}")),
        }
    }

    /// Runs `body`, a forward pass, with the networks' operations on `device` in this precision. What
    /// comes out of them is bf16 then: cast it before sums and logarithms. The backward pass needs no
    /// autocast, it follows the forward one. The weights' bf16 copies are kept to the end of the
    /// `body`: neither may the weights change within, nor a pass without gradients come first.
    ///
    /// # Panics
    /// bf16 on a device that [`check`](Self::check) refuses for its kind.
    pub fn autocast<R>(self, device: Device, body: impl FnOnce() -> R) -> R {
        let _restored_on_drop = match self {
            Self::F32 => None,
            Self::Bf16 => Some(Autocast::enter(device, Kind::BFloat16)),
        };
        body()
    }
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
