//! How images were prepared for a model. It is stored in the weights file, never guessed.

use serde::{Deserialize, Serialize};

use vae_base::{ConditionSpec, ItemSpec};

use crate::ImageShape;

/// How an item becomes the values that the network sees.
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
    /// Shape of the images, or of other items as maps.
    pub image: ImageShape,
    /// Kind and shape of items other than images, with the statistics that standardize them. Exported encoders take
    /// such items in the data's own unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemSpec>,
    /// Meaning of the channels; null unless there are one or three.
    pub channels: Option<ChannelOrder>,
    /// Crop and resize; null if unknown.
    pub framing: Option<Framing>,
    /// The values that byte 0 and byte 255 have in the network. Exported encoders take `[0, 1]` and scale it
    /// themselves.
    pub value_range: [f64; 2],
    /// The columns of a model's condition, which is a second input; left out for models without a condition.
    #[serde(default, skip_serializing_if = "ConditionSpec::is_empty")]
    pub condition: ConditionSpec,
}

/// The meaning of an image's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// One channel: brightness, 0.299 red + 0.587 green + 0.114 blue of a color image.
    Gray,
    /// Three channels: red, green, blue.
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

/// The preparation of a data set's images, in this order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framing {
    /// The part of the image that is kept; null for all of it.
    pub crop: Option<Crop>,
    /// How the image is resized; null if images have the right size already.
    pub resize: Option<Resize>,
    /// Whether each byte is set to 0 or 255.
    pub binarized: bool,
}

/// The factor by which latent diffusion multiplies latents after it has subtracted `shift`, so that they have a variance
/// of about 1. It is no part of encoding and decoding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentScaling {
    /// `scaling_factor` of diffusers' config.
    pub factor: f64,
    /// `shift_factor` of diffusers' config.
    #[serde(default)]
    pub shift: f64,
}

/// The part of an image that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Crop {
    /// The largest centered rectangle with the aspect ratio of the model's images.
    Center {
        /// Factor on its sides, at most 1.
        fraction: f64,
    },
    /// A fixed rectangle, in pixels of the upright image.
    Rectangle {
        /// Rows above it.
        top: u32,
        /// Columns to its left.
        left: u32,
        /// Its height in rows.
        height: u32,
        /// Its width in columns.
        width: u32,
    },
}

/// How images are resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The triangle filter with antialiasing, as in Pillow's `Image.resize(…, BILINEAR)`.
    BilinearAntialiased,
}
