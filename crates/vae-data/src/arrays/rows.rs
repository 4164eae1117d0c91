//! Rows of an array as items, with checked values.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};
use tracing::warn;
use vae_base::ItemSpec;

use super::layout::ArrayLayout;
use crate::DataError;
use crate::array_file::ArrayReader;

/// The rows of an array as items.
#[derive(Debug)]
pub(crate) struct Rows {
    path: PathBuf,
    reader: ArrayReader,
    layout: ArrayLayout,
    item: ItemSpec,
    n_read: usize,
    infinite: Found,
    missing: Found,
    n_wholly_missing: usize,
}

/// The number of values of a kind, and the position of the first.
#[derive(Debug, Default)]
struct Found {
    n: usize,
    first: Option<(usize, usize)>,
}

impl Found {
    fn add(&mut self, row: usize, place: usize) {
        self.n += 1;
        self.first.get_or_insert((row, place));
    }
}

impl Rows {
    /// `item` describes the reader's rows in this layout.
    pub(crate) fn new(
        path: &Path,
        reader: ArrayReader,
        layout: ArrayLayout,
        item: ItemSpec,
    ) -> Rows {
        Rows {
            path: path.to_owned(),
            reader,
            layout,
            item,
            n_read: 0,
            infinite: Found::default(),
            missing: Found::default(),
            n_wholly_missing: 0,
        }
    }

    /// The items of the next `n` rows (fewer at the end): `[n, C, H, W]`. Invalid values are counted here and
    /// reported later.
    fn next(&mut self, n: usize) -> Result<Tensor, DataError> {
        let shape = self.reader.shape();
        let n = n.min(shape[0] - self.n_read);
        let sides = shape[1..].iter().map(|&side| side as i64);
        let size: Vec<i64> = std::iter::once(n as i64).chain(sides).collect();
        let bytes = self.reader.read(n)?;
        let rows = match self.item.is_image() {
            true => Tensor::from_data_size(&bytes, &size, Kind::Uint8),
            false => {
                let numbers = self.reader.number().to_f32(&bytes);
                self.check(&numbers);
                Tensor::from_slice(&numbers).view(&size[..])
            }
        };
        self.n_read += n;
        Ok(self.layout.maps(&rows).contiguous())
    }

    fn check(&mut self, numbers: &[f32]) {
        if numbers.iter().all(|number| number.is_finite()) {
            return;
        }
        let width = self.item.map().n_values() as usize;
        for (i, row) in numbers.chunks_exact(width).enumerate() {
            for (place, number) in row.iter().enumerate() {
                if number.is_infinite() {
                    self.infinite.add(self.n_read + i, place);
                } else if number.is_nan() {
                    self.missing.add(self.n_read + i, place);
                }
            }
            self.n_wholly_missing += usize::from(row.iter().all(|number| number.is_nan()));
        }
    }

    /// Fails if the values read so far include infinite or forbidden missing ones.
    fn refuse(&self) -> Result<(), DataError> {
        let refused = |problem: String| {
            Err(DataError::ArrayFile {
                path: self.path.clone(),
                problem,
            })
        };
        if let Some(first) = self.infinite.first {
            return refused(format!(
                "has {} values that are infinite or too large for f32, the first in {}",
                self.infinite.n,
                self.place(first)
            ));
        }
        match self.missing.first {
            Some(first) if !self.item.has_missing => refused(format!(
                "has {} missing values (NaN), the first in {}; dataset.arrays.missing = \"ignore\" leaves them out of \
                 the likelihood",
                self.missing.n,
                self.place(first)
            )),
            _ => Ok(()),
        }
    }

    /// `row 3, column height`, both counted from 0; for more than two dimensions `row 3, at [0, 5]`.
    fn place(&self, (row, place): (usize, usize)) -> String {
        if let Some(names) = self.reader.column_names() {
            return format!("row {row}, column {}", names[place]);
        }
        let sides = &self.reader.shape()[1..];
        if sides.len() == 1 {
            return format!("row {row}, column {place}");
        }
        let (mut rest, mut indices) = (place, Vec::new());
        for &side in sides.iter().rev() {
            indices.push(rest % side);
            rest /= side;
        }
        indices.reverse();
        format!("row {row}, at {indices:?}")
    }

    /// Reads all rows and collects those of each split in a tensor `[n, C, H, W]`.
    ///
    /// # Errors
    /// A damaged file; infinite values; missing values, unless the items allow them; not enough memory.
    pub(crate) fn read_splits<const N: usize>(
        mut self,
        splits: [&[usize]; N],
    ) -> Result<[Tensor; N], DataError> {
        const NONE: u32 = u32::MAX;
        let n = self.reader.shape()[0];
        let kind = match self.item.is_image() {
            true => Kind::Uint8,
            false => Kind::Float,
        };
        let [channels, height, width] = self.item.map().sides();
        let mut tensors = splits.map(|_| Tensor::new());
        // For each row its split and its position there.
        let mut places = vec![(NONE, 0_u32); n];
        for (split, (rows, tensor)) in splits.iter().zip(&mut tensors).enumerate() {
            let size = [rows.len() as i64, channels, height, width];
            let empty = Tensor::f_empty(size, (kind, Device::Cpu));
            *tensor = empty.map_err(|error| DataError::ArrayFile {
                path: self.path.clone(),
                problem: format!("not enough memory for {size:?} of {kind:?}: {error}"),
            })?;
            for (place, &row) in rows.iter().enumerate() {
                places[row] = (split as u32, place as u32);
            }
        }
        let n_chunk = self.reader.chunk_rows();
        while self.n_read < n {
            let start = self.n_read;
            let chunk = self.next(n_chunk)?;
            for (split, tensor) in tensors.iter_mut().enumerate() {
                let of_split = places[start..self.n_read].iter().enumerate();
                let (from, to): (Vec<i64>, Vec<i64>) = of_split
                    .filter(|(_, (other, _))| *other == split as u32)
                    .map(|(i, &(_, place))| (i as i64, i64::from(place)))
                    .unzip();
                if !from.is_empty() {
                    let rows = chunk.index_select(0, &Tensor::from_slice(&from));
                    let _ = tensor.index_copy_(0, &Tensor::from_slice(&to), &rows);
                }
            }
        }
        self.refuse()?;
        if self.n_wholly_missing > 0 {
            let n_missing = self.n_wholly_missing;
            warn!(
                "{}: {n_missing} of {n} items have only missing values",
                self.path.display()
            );
        }
        Ok(tensors)
    }

    /// The next `n` items (fewer at the end), with checked values.
    ///
    /// # Errors
    /// A damaged file; infinite values; missing values, unless the items allow them.
    pub(crate) fn read(&mut self, n: usize) -> Result<Tensor, DataError> {
        let items = self.next(n)?;
        self.refuse()?;
        Ok(items)
    }

    /// Skips rows.
    pub(crate) fn skip(&mut self, n: usize) -> Result<(), DataError> {
        self.reader.skip(n)?;
        self.n_read += n;
        Ok(())
    }
}

/// Fails if the kind or shape of the items differs from that of `whom`.
pub(crate) fn check_item(
    path: &Path,
    found: &ItemSpec,
    wanted: &ItemSpec,
    whom: &str,
) -> Result<(), DataError> {
    if (found.kind, &found.shape) == (wanted.kind, &wanted.shape) {
        return Ok(());
    }
    let shown = |item: &ItemSpec| format!("{} {:?}", item.kind.element(), item.shape);
    Err(DataError::ArrayFile {
        path: path.to_owned(),
        problem: format!(
            "its items are {}, expected {} as {whom} are",
            shown(found),
            shown(wanted)
        ),
    })
}
