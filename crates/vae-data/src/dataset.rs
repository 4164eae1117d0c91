//! Images in memory, with their labels where there are any.

use std::fmt;

use tch::{Device, Kind, Tensor};

use crate::DataError;

/// Channels, height and width of one image. `vae-model` has its own: the two crates never see each
/// other, so that each can be imported without the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// C: 1 for gray, 3 for color.
    pub channels: i64,
    /// H, in pixels.
    pub height: i64,
    /// W, in pixels.
    pub width: i64,
}

/// `1×28×28`: channels, height, width.
impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}×{}", self.channels, self.height, self.width)
    }
}

/// N images as bytes on the CPU, and optionally a class label for each.
#[derive(Debug)]
pub struct Dataset {
    images: Tensor,
    labels: Option<Tensor>,
}

impl Dataset {
    /// A data set of tensors: images u8 `[N, C, H, W]` and labels i64 `[N]`, both on the CPU.
    ///
    /// # Errors
    /// [`DataError::Layout`] where kind, number of dimensions, device or N is another.
    pub fn new(images: Tensor, labels: Option<Tensor>) -> Result<Dataset, DataError> {
        let size = images.size();
        let is_u8_nchw = images.kind() == Kind::Uint8
            && size.len() == 4
            && size[1..].iter().all(|&side| side > 0)
            && images.device() == Device::Cpu;
        if !is_u8_nchw {
            return Err(DataError::Layout {
                name: "images",
                found: layout(&images),
                wanted: "Uint8 [N, C, H, W] on Cpu, none of C, H, W 0".into(),
            });
        }
        if let Some(labels) = &labels {
            let is_i64_n = labels.kind() == Kind::Int64
                && labels.size() == size[..1]
                && labels.device() == Device::Cpu;
            if !is_i64_n {
                return Err(DataError::Layout {
                    name: "labels",
                    found: layout(labels),
                    wanted: format!("Int64 [{}] on Cpu", size[0]),
                });
            }
        }
        Ok(Dataset { images, labels })
    }

    /// Every image: u8 `[N, C, H, W]` on the CPU, 0 is black.
    pub fn images(&self) -> &Tensor {
        &self.images
    }

    /// The class of every image: i64 `[N]` on the CPU.
    pub fn labels(&self) -> Option<&Tensor> {
        self.labels.as_ref()
    }

    /// N, the number of images.
    pub fn len(&self) -> usize {
        // A size is never negative.
        self.images.size()[0] as usize
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape that all images share.
    pub fn shape(&self) -> ImageShape {
        let size = self.images.size();
        ImageShape {
            channels: size[1],
            height: size[2],
            width: size[3],
        }
    }
}

/// The images that the model learns from, and those it is measured on.
#[derive(Debug)]
pub struct Splits {
    /// Training images.
    pub train: Dataset,
    /// Held-out images, never trained on; same shape as the training images.
    pub test: Dataset,
}

fn layout(tensor: &Tensor) -> String {
    format!(
        "{:?} {:?} on {:?}",
        tensor.kind(),
        tensor.size(),
        tensor.device()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(size: &[i64]) -> Tensor {
        Tensor::zeros(size, (Kind::Uint8, Device::Cpu))
    }

    #[test]
    fn a_data_set_tells_its_size_and_shape() {
        let dataset = Dataset::new(bytes(&[5, 3, 2, 4]), None).unwrap();
        assert_eq!(dataset.len(), 5);
        assert!(!dataset.is_empty());
        assert_eq!(dataset.shape().to_string(), "3×2×4");
    }

    #[test]
    fn tensors_of_another_layout_are_refused() {
        let floats = Tensor::zeros([5, 1, 2, 2], (Kind::Float, Device::Cpu));
        let error = Dataset::new(floats, None).unwrap_err().to_string();
        assert_eq!(
            error,
            "images are Float [5, 1, 2, 2] on Cpu, expected Uint8 [N, C, H, W] on Cpu, none of C, H, W 0"
        );
        assert!(Dataset::new(bytes(&[5, 2, 2]), None).is_err());
        assert!(Dataset::new(bytes(&[5, 1, 0, 2]), None).is_err());

        let four_labels = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
        let error = Dataset::new(bytes(&[5, 1, 2, 2]), Some(four_labels)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "labels are Int64 [4] on Cpu, expected Int64 [5] on Cpu"
        );
        let byte_labels = Some(bytes(&[5]));
        assert!(Dataset::new(bytes(&[5, 1, 2, 2]), byte_labels).is_err());
    }
}
