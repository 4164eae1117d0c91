//! Named numbers of each image, in addition to its pixels.

/// Named numbers for each image of a [`crate::Dataset`], such as CelebA's 40 attributes (1: present, −1: absent).
#[derive(Clone, Debug, PartialEq)]
pub struct Attributes {
    names: Vec<String>,
    /// [N, A], image after image; NaN where an image has no row.
    values: Vec<f32>,
}

impl Attributes {
    /// `values` has one row per image and one number per name; NaN marks an unknown value.
    pub(crate) fn new(names: Vec<String>, values: Vec<f32>) -> Attributes {
        debug_assert!(!names.is_empty() && values.len().is_multiple_of(names.len()));
        Attributes { names, values }
    }

    /// The attributes' names, in the order of the file.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The value of the attribute `name` for every image, in the data set's order; an item is `None` for an image
    /// without a row. Returns `None` if there is no such attribute.
    pub fn column(&self, name: &str) -> Option<impl Iterator<Item = Option<f32>>> {
        let column = self.names.iter().position(|known| known == name)?;
        let rows = self.values.chunks_exact(self.names.len());
        Some(rows.map(move |row| Some(row[column]).filter(|value| !value.is_nan())))
    }

    /// The number of images without a row.
    pub fn n_missing(&self) -> usize {
        let rows = self.values.chunks_exact(self.names.len());
        rows.filter(|row| row.iter().all(|value| value.is_nan()))
            .count()
    }

    /// The attributes of the images at `rows`, in that order.
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
