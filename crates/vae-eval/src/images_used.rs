//! The images that results were measured on.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vae_data::{DatasetIdentity, KnownDataset};
use vae_model::Crop;

/// The images that a section was measured on. They must agree for two results to be comparable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImagesUsed {
    /// The data set.
    pub dataset: DatasetIdentity,
    /// [`vae_data::Dataset::fingerprint`] of the split, which distinguishes unknown data sets.
    pub fingerprint: u32,
    /// The split.
    pub split: SplitUsed,
    /// The number of images measured, from the start of the split.
    pub n_images: usize,
    /// The number of images in the split.
    pub n_available: usize,
    /// Channels, height, width.
    pub shape: [i64; 3],
    /// What they are and how large, if they are no images: `texts of 33 tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<String>,
    /// The kind of their pixels.
    pub pixels: Pixels,
    /// The crop of a photo before it was resized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// The images that the model was trained on; unknown for weights that belong to no run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<TrainedOn>,
}

/// The images that a model was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainedOn {
    /// The data set.
    pub dataset: DatasetIdentity,
    /// The number of images.
    pub n_images: usize,
    /// The kind of their pixels.
    pub pixels: Pixels,
}

/// The split of a data set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitUsed {
    /// The validation images, by which checkpoints and settings are chosen.
    Validation,
    /// The test images, by which nothing is chosen.
    #[default]
    Test,
    /// All images, including those of training.
    All,
}

/// As in `10000 test images`.
impl fmt::Display for SplitUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Validation => "validation",
            Self::Test => "test",
            Self::All => "all",
        })
    }
}

/// The kind of an image's pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pixels {
    /// Gray bytes.
    Gray,
    /// Color bytes.
    Color,
    /// Bytes that are all 0 or 255.
    BlackAndWhite,
    /// Black and white, drawn anew at every visit; for evaluation by one fixed draw.
    Dynamic,
    /// Black and white, drawn once by this program.
    Static,
    /// Black and white, drawn once by Larochelle & Murray (2011).
    Larochelle,
}

impl Pixels {
    /// Whether all pixels are black or white.
    #[must_use]
    pub fn are_binary(self) -> bool {
        !matches!(self, Self::Gray | Self::Color)
    }

    /// A description for a sentence: `dynamic binarization`.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Gray => "gray pixels",
            Self::Color => "color pixels",
            Self::BlackAndWhite => "black and white pixels",
            Self::Dynamic => "dynamic binarization",
            Self::Static => "static binarization",
            Self::Larochelle => "Larochelle's static binarization",
        }
    }
}

/// A short description for a list: `dynamic`.
impl fmt::Display for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gray => "gray",
            Self::Color => "color",
            Self::BlackAndWhite => "black and white",
            Self::Dynamic => "dynamic",
            Self::Static => "static",
            Self::Larochelle => "Larochelle's",
        })
    }
}

/// A crop as text.
pub(crate) fn crop_in_words(crop: &Crop) -> String {
    match crop {
        Crop::Center { fraction } => format!("center, {fraction} of the shorter side"),
        Crop::Rectangle {
            top,
            left,
            height,
            width,
        } => format!("{height}×{width} pixels at row {top}, column {left}"),
    }
}

impl ImagesUsed {
    /// The fields that identify the images, without those about training. For a known data set, how it was recognized and
    /// the name of its folder are left out.
    pub(crate) fn identifying(&self) -> Value {
        let mut fields = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = fields.as_object_mut() {
            fields.remove("trained_on");
            fields.remove("items"); // Shape and fingerprint say the same.
            if let Some(dataset) = fields.get_mut("dataset").and_then(Value::as_object_mut) {
                dataset.remove("recognized_by");
                if self.dataset.name != KnownDataset::Unknown {
                    dataset.remove("source");
                }
            }
        }
        fields
    }
}

/// One line, such as `verses, 1489 test texts of 33 tokens` or `MNIST, first 1000 of 10000 test images of 1×28×28, dynamic (trained on gray)`.
impl fmt::Display for ImagesUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            dataset,
            fingerprint: _,
            split,
            n_images,
            n_available,
            shape: [channels, height, width],
            items,
            pixels,
            crop,
            trained_on,
        } = self;
        write!(f, "{dataset}, ")?;
        if n_images < n_available {
            write!(f, "first {n_images} of ")?;
        }
        if let Some(items) = items {
            write!(f, "{n_available} {split} {items}")?;
            return match trained_on {
                Some(other) if other.dataset.to_string() != dataset.to_string() => {
                    write!(f, " (trained on {})", other.dataset)
                }
                _ => Ok(()),
            };
        }
        write!(
            f,
            "{n_available} {split} images of {channels}×{height}×{width}, {pixels}"
        )?;
        if let Some(trained_on) = trained_on {
            let others = trained_on.dataset.to_string() != dataset.to_string();
            match (others, trained_on.pixels != *pixels) {
                (false, false) => {}
                (false, true) => write!(f, " (trained on {})", trained_on.pixels)?,
                (true, _) => write!(
                    f,
                    " (trained on {}, {})",
                    trained_on.dataset, trained_on.pixels
                )?,
            }
        }
        match crop {
            Some(crop) => write!(f, ", crop: {}", crop_in_words(crop)),
            None => Ok(()),
        }
    }
}
