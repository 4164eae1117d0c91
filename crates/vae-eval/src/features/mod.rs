//! Features of images, and how far apart two sets of them are.
//!
//! A set is f64 `[N, D]` on the CPU, one row for each image. Numbers of different extractors do not
//! compare, so each has a name, which goes into every measure's.

mod frechet;
mod kernel_distance;
mod mnist_classifier;
mod pixel_pca;
mod precision_recall;
mod torch_script;

use tch::{Device, Kind, Tensor};

pub use frechet::{Moments, frechet_distance};
pub use kernel_distance::{KernelDistance, kernel_distance, kernel_distance_of_subsets};
pub use mnist_classifier::{ClassifierFacts, MnistClassifier};
pub use pixel_pca::PixelPca;
pub use precision_recall::{PrecisionRecall, precision_recall};
pub use torch_script::TorchScript;

use crate::{EvalError, Extractor};

/// Makes features of images.
pub trait FeatureExtractor {
    /// In snake_case, as it is in a measure's name: `mnist_classifier`.
    fn name(&self) -> &str;

    /// What its features are, and whose, for a measure's protocol.
    fn about(&self) -> Extractor;

    /// Features f64 `[N, D]` on the CPU of images f32 `[N, C, H, W]` in `[0, 1]`, those of an image
    /// independent of the others.
    ///
    /// # Errors
    /// Images of a shape that it knows not.
    fn features(&self, images: &Tensor) -> Result<Tensor, EvalError>;

    /// The classes i64 `[N]` that it takes images for, where it is a classifier of the data set's classes.
    ///
    /// # Errors
    /// As [`Self::features`].
    fn classes(&self, images: &Tensor) -> Result<Option<Tensor>, EvalError> {
        let _ = images;
        Ok(None)
    }
}

/// Both are sets of features of the same D, or else the error says what they are.
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

/// f64 on the CPU, where sums of many features keep their digits.
fn on_cpu(features: &Tensor) -> Tensor {
    features.to_device(Device::Cpu).to_kind(Kind::Double)
}
