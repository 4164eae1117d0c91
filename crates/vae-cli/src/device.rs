//! The device to compute on, and loading CUDA into a binary that was linked for the CPU.

use std::str::FromStr;

use crate::output::say;
use anyhow::{Context, Result, bail, ensure};
use tch::{Cuda, Device};

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// A GPU if there is a working one, else the CPU.
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

impl DeviceChoice {
    /// Must be called before the first tensor: libtorch caches that CUDA is missing.
    pub(crate) fn select(self) -> Result<Device> {
        self.select_for(0)
    }

    /// [`Self::select`] of the process with this rank on the machine, which gets a GPU of its own.
    ///
    /// # Errors
    /// As for [`Self::select`].
    pub(crate) fn select_for(self, index: usize) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(index) => cuda(index),
            Self::Auto if !nvidia_driver_is_there() => Ok(Device::Cpu),
            Self::Auto => Ok(cuda(index).unwrap_or_else(|error| {
                say!("using the CPU, although there seems to be a GPU: {error:#}");
                Device::Cpu
            })),
        }
    }
}

fn cuda(index: usize) -> Result<Device> {
    load_libtorch_cuda()?;
    ensure!(
        Cuda::is_available(),
        "libtorch_cuda is loaded, but it finds no usable GPU; does `nvidia-smi` list one, and is \
         the driver new enough for CUDA 13?"
    );
    let n_devices = Cuda::device_count();
    if i64::try_from(index).is_ok_and(|index| index < n_devices) {
        return Ok(Device::Cuda(index));
    }
    bail!(
        "cuda:{index} was requested, but the last GPU is cuda:{}",
        n_devices - 1
    )
}

pub(crate) fn nvidia_driver_is_there() -> bool {
    std::path::Path::new("/proc/driver/nvidia/version").exists()
}

/// Loads libtorch's CUDA library, which registers itself with the CPU library. So one binary serves both, and a run on the CPU
/// does not pay for CUDA (0.15 s and 235 MB).
#[cfg(target_os = "linux")]
fn load_libtorch_cuda() -> Result<()> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

    // SAFETY: the library's initializers are libtorch's own; no function of it is called from here.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) }
        .context(
            "CUDA needs libtorch_cuda.so of libtorch 2.11.0, which could not be loaded. Run \
             `cargo xtask libtorch --cuda`, or put the `lib` folder of a CUDA libtorch (or of \
             Python's torch) on LD_LIBRARY_PATH",
        )?;
    // The library stays loaded for the life of the process.
    std::mem::forget(library);
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn load_libtorch_cuda() -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
        assert!("gpu".parse::<DeviceChoice>().is_err());
    }
}
