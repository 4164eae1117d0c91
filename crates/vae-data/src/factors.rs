//! Images with known factors: one image for every combination of their values.

/// Factors with their numbers of values. The combinations are numbered with the last factor fastest; the number of a
/// combination is its position.
///
/// ```
/// use vae_data::FactorSpace;
///
/// let space = FactorSpace::new([("shape", 3), ("scale", 6)]);
/// assert_eq!(space.n_positions(), 18);
/// assert_eq!(space.classes(7), [1, 1]);
/// assert_eq!(space.position(&[1, 1]), 7);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactorSpace {
    names: Vec<String>,
    sizes: Vec<usize>,
}

impl FactorSpace {
    /// Creates a space from each factor's name and number of values.
    ///
    /// # Panics
    /// If a factor has no value.
    pub fn new<N: Into<String>>(factors: impl IntoIterator<Item = (N, usize)>) -> FactorSpace {
        let pairs = factors.into_iter().map(|(name, size)| (name.into(), size));
        let (names, sizes): (Vec<String>, Vec<usize>) = pairs.unzip();
        assert!(
            !sizes.contains(&0),
            "a factor without a value, expected at least 1"
        );
        FactorSpace { names, sizes }
    }

    /// The factors' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of values of each factor.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// The number of combinations.
    pub fn n_positions(&self) -> usize {
        self.sizes.iter().product()
    }

    /// The index of each factor's value at a position.
    pub fn classes(&self, position: usize) -> Vec<usize> {
        let mut rest = position;
        let mut classes = vec![0; self.sizes.len()];
        for (class, size) in classes.iter_mut().zip(&self.sizes).rev() {
            *class = rest % size;
            rest /= size;
        }
        classes
    }

    /// The position of the image with these factor values.
    pub fn position(&self, classes: &[usize]) -> usize {
        let digits = classes.iter().zip(&self.sizes);
        digits.fold(0, |position, (class, size)| position * size + class)
    }
}

/// The factors of each image of a [`Dataset`](crate::Dataset).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Factors {
    space: FactorSpace,
    /// The position of each image among all combinations.
    positions: Vec<usize>,
}

impl Factors {
    pub(crate) fn new(space: FactorSpace, positions: Vec<usize>) -> Factors {
        Factors { space, positions }
    }

    /// The factors and their numbers of values.
    pub fn space(&self) -> &FactorSpace {
        &self.space
    }

    /// The position of each image among all combinations.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// The factors of the images at `rows`, in that order.
    pub(crate) fn select(&self, rows: &[usize]) -> Factors {
        Factors {
            space: self.space.clone(),
            positions: rows.iter().map(|&row| self.positions[row]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_classes_are_each_other_s_inverse() {
        let space = FactorSpace::new([("a", 2), ("b", 1), ("c", 3), ("d", 4)]);
        assert_eq!(space.n_positions(), 24);
        for position in 0..24 {
            assert_eq!(space.position(&space.classes(position)), position);
        }
        assert_eq!(space.classes(23), [1, 0, 2, 3]);
        assert_eq!(space.classes(4), [0, 0, 1, 0]);
    }
}
