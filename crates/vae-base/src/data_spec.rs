//! What a model has to know of the data that it is for.

use crate::{ConditionSpec, ImageShape};

/// What a model has to know of the data that it is for: the shape of an item, and what it is told of each.
///
/// ```
/// use vae_base::{DataSpec, ImageShape};
///
/// let shape = ImageShape { channels: 1, height: 28, width: 28 };
/// let spec = DataSpec::from(shape); // Nothing but the images.
/// assert!(spec.condition.is_empty());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DataSpec {
    /// The shape of an image.
    pub image: ImageShape,
    /// What the model is told of an image beside its pixels; empty where it is told nothing.
    pub condition: ConditionSpec,
}

impl From<ImageShape> for DataSpec {
    fn from(image: ImageShape) -> Self {
        Self {
            image,
            condition: ConditionSpec::default(),
        }
    }
}
