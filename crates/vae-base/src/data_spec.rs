//! What a model has to know of the data that it is for.

use crate::{ConditionSpec, ImageShape, ItemSpec};

/// What a model has to know of the data that it is for: what an item is, and the condition that comes with it.
///
/// ```
/// use vae_base::{DataSpec, ImageShape};
///
/// let shape = ImageShape { channels: 1, height: 28, width: 28 };
/// let spec = DataSpec::from(shape); // Images without a condition.
/// assert!(spec.item.is_image() && spec.condition.is_empty());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DataSpec {
    /// Kind and shape of an item.
    pub item: ItemSpec,
    /// What the model gets of each item besides the item itself; empty in an unconditional model.
    pub condition: ConditionSpec,
}

impl From<ItemSpec> for DataSpec {
    fn from(item: ItemSpec) -> Self {
        Self {
            item,
            condition: ConditionSpec::default(),
        }
    }
}

impl From<ImageShape> for DataSpec {
    fn from(image: ImageShape) -> Self {
        ItemSpec::from(image).into()
    }
}
