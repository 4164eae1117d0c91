//! What was done to images before a model saw them: written into its weights file, never guessed.

use serde::{Deserialize, Serialize};

use vae_base::{ConditionSpec, ItemSpec};

use crate::ImageShape;

/// How a picture becomes the numbers that the network sees.
///
/// ```
/// use tch::Device;
/// use vae_model::{ImageShape, ModelConfig, Vae};
///
/// # fn main() -> Result<(), vae_model::ModelError> {
/// let shape = ImageShape { channels: 1, height: 28, width: 28 };
/// let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?;
/// let preprocessing = vae.preprocessing();
/// assert_eq!(preprocessing.image, shape);
/// assert_eq!(preprocessing.value_range, [0.0, 1.0]);
/// assert_eq!(preprocessing.framing, None); // Nobody has said what its images were before.
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Shape of the images, of other items as maps.
    pub image: ImageShape,
    /// Kind and shape of items that are no images, with the statistics that standardize them. Exported encoders
    /// take them in their own unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemSpec>,
    /// What the channels are; null where they are neither one nor three.
    pub channels: Option<ChannelOrder>,
    /// Crop and resize; null where they are not known.
    pub framing: Option<Framing>,
    /// What byte 0 and byte 255 are to the network. Exported encoders take `[0, 1]` and scale it
    /// themselves.
    pub value_range: [f64; 2],
    /// The columns of a model's condition, an input of its own; left out where there is none.
    #[serde(default, skip_serializing_if = "ConditionSpec::is_empty")]
    pub condition: ConditionSpec,
}

/// What the channels of an image are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// One: brightness, 0.299 red + 0.587 green + 0.114 blue of a color image.
    Gray,
    /// Three: red, green, blue.
    Rgb,
}

impl ChannelOrder {
    pub(crate) fn of(image: ImageShape) -> Option<Self> {
        match image.channels {
            1 => Some(Self::Gray),
            3 => Some(Self::Rgb),
            _ => None,
        }
    }
}

/// What was done to the images of a data set, in this order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framing {
    /// The part that is seen; null: all of it.
    pub crop: Option<Crop>,
    /// How it is resized; null: images have their size already.
    pub resize: Option<Resize>,
    /// Whether bytes are made 0 or 255.
    pub binarized: bool,
}

/// The part of an image that is seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Crop {
    /// The largest centered rectangle with the proportions of the model's images.
    Center {
        /// Factor on its sides, at most 1.
        fraction: f64,
    },
    /// Always this rectangle, in pixels of the upright image.
    Rectangle {
        /// Rows above it.
        top: u32,
        /// Columns to its left.
        left: u32,
        /// Its rows.
        height: u32,
        /// Its columns.
        width: u32,
    },
}

/// How images are resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The triangle filter, antialiased: `Image.resize(…, BILINEAR)` of Pillow.
    BilinearAntialiased,
}
