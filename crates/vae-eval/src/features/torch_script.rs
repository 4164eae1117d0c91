//! Features of a network given by the user as TorchScript.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tch::{CModule, Device, Kind, Tensor, no_grad};
use vae_data::read_small;
use vae_run::RunError;

use super::{FeatureExtractor, on_cpu};
use crate::{EvalError, Extractor};

/// The largest number of features. More suggests an unfinished network; their covariance alone would fill the memory.
const MAX_FEATURES: i64 = 8192;

/// A TorchScript file: f32 `[N, 3, H, W]` in `[0, 1]` to features `[N, D]` or `[N, D, 1, 1]`. Resizing and rescaling for
/// its network are its own task. docs/features.md explains how to make one from Inception.
#[derive(Debug)]
pub struct TorchScript {
    path: PathBuf,
    /// Derived from the name of the file.
    name: String,
    /// SHA-256 of the file.
    sha256: String,
    module: CModule,
    device: Device,
}

/// The largest size of a module in bytes.
const LARGEST_MODULE: u64 = 1 << 34;

impl TorchScript {
    /// Reads a file. The extractor is named after the file, without its ending and in snake_case.
    ///
    /// # Errors
    /// The file does not exist or is not TorchScript.
    pub fn load(path: impl AsRef<Path>, device: Device) -> Result<Self, EvalError> {
        let path = path.as_ref();
        let bytes = read_small(path, LARGEST_MODULE).map_err(RunError::io(path))?;
        let problem = |problem: String| EvalError::File {
            path: path.to_owned(),
            problem,
        };
        let mut module = CModule::load_on_device(path, device).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default().to_owned();
            problem(format!(
                "is not a TorchScript file as written by `torch.jit.save` ({reason})"
            ))
        })?;
        module.f_set_eval()?;
        let digest = Sha256::digest(&bytes);
        Ok(Self {
            name: snake_case(path),
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            path: path.to_owned(),
            module,
            device,
        })
    }

    fn problem(&self, problem: String) -> EvalError {
        EvalError::File {
            path: self.path.clone(),
            problem,
        }
    }

    /// The module's features, or an error about them.
    fn checked(&self, features: &Tensor, n_images: i64) -> Result<Tensor, EvalError> {
        let (size, kind) = (features.size(), features.kind());
        let n_features = match size[..] {
            [n, d] | [n, d, 1, 1] if n == n_images && d > 0 => d,
            _ => {
                return Err(self.problem(format!(
                    "makes {size:?} of {n_images} images; [{n_images}, D] or [{n_images}, D, 1, 1] \
                     is needed"
                )));
            }
        };
        if n_features > MAX_FEATURES {
            return Err(self.problem(format!(
                "makes {n_features} features of an image, {MAX_FEATURES} at most are of use: is the \
                 pooling over pixels missing?"
            )));
        }
        if !matches!(kind, Kind::Float | Kind::Double | Kind::Half) {
            return Err(self.problem(format!("makes features of the kind {kind:?}, not floats")));
        }
        let features = on_cpu(features).view([n_images, n_features]);
        if i64::try_from(features.isfinite().all())? == 0 {
            return Err(
                self.problem("makes NaN or infinite features of images in [0, 1]".to_owned())
            );
        }
        Ok(features)
    }
}

impl FeatureExtractor for TorchScript {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> Extractor {
        let file = self.path.file_name().unwrap_or_default();
        Extractor::TorchScript {
            file: file.to_string_lossy().into_owned(),
            sha256: self.sha256.clone(),
        }
    }

    fn features(&self, images: &Tensor) -> Result<Tensor, EvalError> {
        let (n_images, channels, height, width) = images.size4()?;
        let images = match channels {
            1 => images.expand([n_images, 3, height, width], false),
            3 => images.shallow_clone(),
            n => {
                return Err(EvalError::Unmeasurable(format!(
                    "{} takes color images or gray ones, and these have {n} channels",
                    self.path.display()
                )));
            }
        };
        let images = images
            .to_device(self.device)
            .to_kind(Kind::Float)
            .contiguous();
        let features = no_grad(|| self.module.forward_ts(&[images])).map_err(|error| {
            // The reason is in the last line of libtorch's message.
            let account = error.to_string();
            let mut lines = account.lines().rev().map(str::trim);
            let reason = lines.find(|line| !line.is_empty()).unwrap_or_default();
            self.problem(format!(
                "fails on images f32 [{n_images}, 3, {height}, {width}]: {reason}"
            ))
        })?;
        self.checked(&features, n_images)
    }
}

/// The name in snake_case: `Inception v3.ts` gives `inception_v3`.
fn snake_case(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let letter = |c: char| match c.is_alphanumeric() {
        true => c.to_lowercase().to_string(),
        false => "_".to_owned(),
    };
    stem.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_for_measures_is_made_of_a_files() {
        assert_eq!(snake_case(Path::new("a/inception.ts")), "inception");
        assert_eq!(snake_case(Path::new("Inception v3.pt")), "inception_v3");
        assert_eq!(snake_case(Path::new("dino-s.v2.ts")), "dino_s_v2");
    }
}
