//! What is known of each image beside its pixels: named numbers.

/// Named numbers for each image of a [`crate::Dataset`], as CelebA's 40 attributes (1: it has it, −1:
/// it has it not).
#[derive(Clone, Debug, PartialEq)]
pub struct Attributes {
    names: Vec<String>,
    /// [N, A], image after image; NaN where an image has no row.
    values: Vec<f32>,
}

impl Attributes {
    /// `values` has a row for each image and in it a number for each name; NaN is an unknown one.
    pub(crate) fn new(names: Vec<String>, values: Vec<f32>) -> Attributes {
        debug_assert!(!names.is_empty() && values.len().is_multiple_of(names.len()));
        Attributes { names, values }
    }

    /// The attributes' names, in the order of the file.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The value of the attribute `name` for every image, in the data set's order: `None` for an
    /// image without a row. `None` instead of the iterator where there is no such attribute.
    pub fn column(&self, name: &str) -> Option<impl Iterator<Item = Option<f32>>> {
        let column = self.names.iter().position(|known| known == name)?;
        let rows = self.values.chunks_exact(self.names.len());
        Some(rows.map(move |row| Some(row[column]).filter(|value| !value.is_nan())))
    }

    /// How many images have no row.
    pub fn n_missing(&self) -> usize {
        let rows = self.values.chunks_exact(self.names.len());
        rows.filter(|row| row.iter().all(|value| value.is_nan()))
            .count()
    }

    /// Those of the images at `rows`, in that order.
    pub(crate) fn select(&self, rows: &[usize]) -> Attributes {
        let n = self.names.len();
        let values = rows
            .iter()
            .flat_map(|row| self.values[row * n..][..n].iter().copied());
        Attributes {
            names: self.names.clone(),
            values: values.collect(),
        }
    }
}
