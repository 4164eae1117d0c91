//! Features of images, and distances between sets of features.
//!
//! A set is f64 `[N, D]` on the CPU, one row for each image. Results of different extractors are not comparable, so each
//! extractor has a name, which is part of the names of its measures.

mod attribute_classifier;
mod frechet;
mod kernel_distance;
mod mnist_classifier;
mod pixel_pca;
mod precision_recall;
mod torch_script;

use tch::{Device, Kind, Tensor};

pub use attribute_classifier::{AttributeClassifier, Recognition};
pub use frechet::{Moments, frechet_distance};
pub use kernel_distance::{KernelDistance, kernel_distance, kernel_distance_of_subsets};
pub use mnist_classifier::{ClassifierFacts, MnistClassifier};
pub use pixel_pca::PixelPca;
pub use precision_recall::{PrecisionRecall, precision_recall};
pub use torch_script::TorchScript;

use crate::{EvalError, Extractor};

/// Extracts features of images.
pub trait FeatureExtractor {
    /// The name in snake_case, as in a measure's name: `mnist_classifier`.
    fn name(&self) -> &str;

    /// The description of the extractor in a measure's protocol.
    fn about(&self) -> Extractor;

    /// Features f64 `[N, D]` on the CPU of images f32 `[N, C, H, W]` in `[0, 1]`. Those of an image do not depend on the
    /// other images.
    ///
    /// # Errors
    /// Images of a shape that it does not support.
    fn features(&self, images: &Tensor) -> Result<Tensor, EvalError>;

    /// The predicted classes i64 `[N]`, if it is a classifier of the data set's classes.
    ///
    /// # Errors
    /// As [`Self::features`].
    fn classes(&self, images: &Tensor) -> Result<Option<Tensor>, EvalError> {
        let _ = images;
        Ok(None)
    }
}

/// Checks that both are sets of features with the same D.
fn check_pair(a: &Tensor, b: &Tensor) -> Result<(), EvalError> {
    let (found, wanted) = (a.size(), b.size());
    let fits = |size: &[i64]| size.len() == 2;
    if fits(&found) && fits(&wanted) && found[1] == wanted[1] {
        return Ok(());
    }
    Err(EvalError::Unmeasurable(format!(
        "features {found:?} and {wanted:?} cannot be compared: both have to be [N, D]"
    )))
}

/// The bound of weights uniform in ±√(6/fan_in).
fn kaiming_bound(fan_in: i64) -> f64 {
    // Computed as in tch, to the last bit.
    3_f64.sqrt() * (2_f64.sqrt() / (fan_in as f64).sqrt())
}

/// f64 on the CPU, in which sums over many features are precise.
fn on_cpu(features: &Tensor) -> Tensor {
    features.to_device(Device::Cpu).to_kind(Kind::Double)
}
