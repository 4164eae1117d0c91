//! An image for every combination of factors.

use tch::Tensor;

use crate::factors::FactorSpace;
use crate::{DataError, Dataset};

/// An image for every combination of factors, for metrics of disentanglement.
#[derive(Debug)]
pub struct FactorGrid {
    space: FactorSpace,
    images: Dataset,
}

impl FactorGrid {
    /// The images of all combinations, ordered by position.
    ///
    /// # Errors
    /// [`DataError::Layout`] if the numbers of images and combinations differ.
    pub fn new(space: FactorSpace, images: Dataset) -> Result<FactorGrid, DataError> {
        if images.len() != space.n_positions() {
            return Err(DataError::Layout {
                name: "images",
                found: images.len().to_string(),
                wanted: format!(
                    "one for each of the {} combinations of factors",
                    space.n_positions()
                ),
            });
        }
        Ok(FactorGrid { space, images })
    }

    /// The factors.
    pub fn space(&self) -> &FactorSpace {
        &self.space
    }

    /// The images at these positions, in this order: u8 `[n, C, H, W]` on the CPU, with 0 for black.
    ///
    /// # Errors
    /// As [`Dataset::select`].
    ///
    /// # Panics
    /// If a position is [`FactorSpace::n_positions`] or more.
    pub fn images(&self, positions: &[usize]) -> Result<Tensor, DataError> {
        self.images.select(positions)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn a_grid_has_an_image_for_each_combination() {
        let images = |n| {
            let bytes: Vec<u8> = (0..n).collect();
            let images = Tensor::from_slice(&bytes).view([i64::from(n), 1, 1, 1]);
            Dataset::new(images, None).unwrap()
        };
        let space = FactorSpace::new([("a", 2), ("b", 3)]);
        let error = FactorGrid::new(space.clone(), images(5)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "images are 5, expected one for each of the 6 combinations of factors"
        );
        let grid = FactorGrid::new(space, images(6)).unwrap();
        let wanted = Tensor::from_slice(&[4_u8, 0, 4]).view([3, 1, 1, 1]);
        assert_eq!(grid.images(&[4, 0, 4]).unwrap(), wanted);
        assert_eq!(grid.images(&[1]).unwrap().kind(), Kind::Uint8);
        assert_eq!(grid.images(&[1]).unwrap().device(), Device::Cpu);
    }
}
