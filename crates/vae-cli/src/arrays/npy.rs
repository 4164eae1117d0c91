//! NumPy's npy, version 1.0: one array, written as float32, without anything else that is known of the images.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};

use anyhow::{Context, Result, bail};
use vae_base::NpyHeader;
use vae_data::array_file::ArrayReader;

use super::{Field, FieldKind, Latents, Values, write_integers, write_reals};

/// The length of the header: a multiple of 64 with room for any number of rows.
const N_HEADER: usize = 128;

#[derive(Debug)]
pub(super) struct Writer {
    file: BufWriter<File>,
    /// The index of the field that is written: the first one with numbers.
    field: usize,
    /// None for a field with a single number.
    width: Option<usize>,
    /// The kind of its numbers, as NumPy writes it.
    descr: &'static str,
}

fn header(descr: &str, n_rows: usize, width: Option<usize>) -> Vec<u8> {
    let header = NpyHeader {
        descr: descr.to_owned(),
        fortran_order: false,
        shape: [Some(n_rows), width].into_iter().flatten().collect(),
    };
    header.to_bytes(N_HEADER)
}

impl Writer {
    pub(super) fn new(mut file: BufWriter<File>, fields: &[Field]) -> Result<Writer> {
        let has_numbers =
            |field: &Field| matches!(field.kind, FieldKind::Reals(_) | FieldKind::Codes(_));
        let field = fields.iter().position(has_numbers).context("no numbers")?;
        let (width, descr) = match &fields[field].kind {
            FieldKind::Codes(columns) => (Some(columns.len()), "<i8"),
            FieldKind::Reals(columns) if !fields[field].is_scalar() => (Some(columns.len()), "<f4"),
            _ => (None, "<f4"),
        };
        file.write_all(&header(descr, 0, width))?;
        Ok(Writer {
            file,
            field,
            width,
            descr,
        })
    }

    pub(super) fn write(&mut self, _: &[Field], values: &[Values]) -> Result<()> {
        match &values[self.field] {
            Values::Reals(reals) => write_reals(&mut self.file, reals)?,
            Values::Codes(codes) => write_integers(&mut self.file, codes)?,
            Values::Text(_) | Values::Integers(_) => {}
        }
        Ok(())
    }

    pub(super) fn finish(mut self, n_rows: usize) -> Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file
            .write_all(&header(self.descr, n_rows, self.width))?;
        Ok(self.file.flush()?)
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    array: ArrayReader,
    /// The number of rows of the array that make one latent: all rows if the array has one axis, which is then a single latent.
    rows_of_latent: usize,
    pub(super) width: usize,
    pub(super) n_left: usize,
}

impl Reader {
    /// Reads the array with the latents, one in each row.
    pub(super) fn new(array: ArrayReader) -> Result<Reader> {
        let (n_left, width, rows_of_latent) = match *array.shape() {
            [n_rows, width] => (n_rows, width, 1),
            [width] => (1, width, width),
            ref shape => bail!("an array of shape {shape:?}, expected a row for each latent"),
        };
        Ok(Reader {
            array,
            rows_of_latent,
            width,
            n_left,
        })
    }

    pub(super) fn read(&mut self, n: usize) -> Result<Latents> {
        let n_rows = n.min(self.n_left);
        let bytes = self.array.read(n_rows * self.rows_of_latent)?;
        self.n_left -= n_rows;
        Ok(Latents {
            names: None,
            values: self.array.number().to_f32(&bytes),
            n_rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_its_length_whatever_the_number_of_rows() {
        for (n_rows, width) in [(0, None), (usize::MAX, Some(usize::MAX)), (7, Some(2))] {
            let bytes = header("<f4", n_rows, width);
            assert_eq!(bytes.len(), N_HEADER);
            assert_eq!(bytes.last(), Some(&b'\n'));
        }
    }
}
