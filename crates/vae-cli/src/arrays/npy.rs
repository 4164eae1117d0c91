//! NumPy's npy, version 1.0: one array, here of float32. What else is known of the images is left out.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result, bail, ensure};
use vae_base::NpyHeader;

use super::{Field, FieldKind, Latents, Number, Values, write_reals};

/// Bytes before the numbers: room for any number of rows, and a multiple of 64.
const N_HEADER: usize = 128;

#[derive(Debug)]
pub(super) struct Writer {
    file: BufWriter<File>,
    /// Which of the fields is written: the first of numbers.
    field: usize,
    /// None of a field of one number.
    width: Option<usize>,
}

fn header(n_rows: usize, width: Option<usize>) -> Vec<u8> {
    let header = NpyHeader {
        descr: "<f4".to_owned(),
        fortran_order: false,
        shape: [Some(n_rows), width].into_iter().flatten().collect(),
    };
    header.to_bytes(N_HEADER)
}

impl Writer {
    pub(super) fn new(mut file: BufWriter<File>, fields: &[Field]) -> Result<Writer> {
        let is_real = |field: &Field| matches!(field.kind, FieldKind::Reals(_));
        let field = fields.iter().position(is_real).context("no numbers")?;
        let width = match &fields[field].kind {
            FieldKind::Reals(columns) if !fields[field].is_scalar() => Some(columns.len()),
            _ => None,
        };
        file.write_all(&header(0, width))?;
        Ok(Writer { file, field, width })
    }

    pub(super) fn write(&mut self, _: &[Field], values: &[Values]) -> Result<()> {
        if let Values::Reals(reals) = &values[self.field] {
            write_reals(&mut self.file, reals)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self, n_rows: usize) -> Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header(n_rows, self.width))?;
        Ok(self.file.flush()?)
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    file: BufReader<File>,
    number: Number,
    is_big_endian: bool,
    /// Where the numbers begin, of an array in Fortran's order: column after column, as pandas gives
    /// them.
    columns_from: Option<u64>,
    n_rows: usize,
    pub(super) width: usize,
    pub(super) n_left: usize,
}

impl Reader {
    pub(super) fn new(file: File) -> Result<Reader> {
        let n_bytes = file.metadata()?.len();
        let mut file = BufReader::new(file);
        let NpyHeader {
            descr: kind,
            fortran_order: by_columns,
            shape,
        } = NpyHeader::read(&mut file).context("no npy file")?;
        let number = match kind.trim_start_matches(['<', '>']) {
            "f2" => Number::F16,
            "f4" => Number::F32,
            "f8" => Number::F64,
            _ => bail!(
                "an array of {kind}, expected float32 (<f4), <f2 or <f8; in numpy: \
                 array.astype('float32')"
            ),
        };
        let (n_left, width) = match shape[..] {
            [n_rows, width] => (n_rows, width),
            // One latent by itself.
            [width] => (1, width),
            _ => bail!("an array of shape {shape:?}, expected a row for each latent"),
        };
        let wanted = n_left as u128 * width as u128 * number.n_bytes() as u128;
        let start = file.stream_position()?;
        let found = n_bytes.saturating_sub(start);
        ensure!(
            u128::from(found) == wanted,
            "{found} bytes of numbers, expected {wanted} by its header"
        );
        Ok(Reader {
            file,
            number,
            is_big_endian: kind.starts_with('>'),
            columns_from: by_columns.then_some(start),
            n_rows: n_left,
            width,
            n_left,
        })
    }

    pub(super) fn read(&mut self, n: usize) -> Result<Latents> {
        let n_rows = n.min(self.n_left);
        let values = match self.columns_from {
            None => self.numbers(n_rows * self.width)?,
            Some(start) => {
                let mut values = vec![0.0; n_rows * self.width];
                let first = self.n_rows - self.n_left;
                for column in 0..self.width {
                    let place = (column * self.n_rows + first) * self.number.n_bytes();
                    self.file.seek(SeekFrom::Start(start + place as u64))?;
                    let numbers = self.numbers(n_rows)?;
                    let places = values.iter_mut().skip(column).step_by(self.width);
                    for (place, number) in places.zip(numbers) {
                        *place = number;
                    }
                }
                values
            }
        };
        self.n_left -= n_rows;
        Ok(Latents {
            names: None,
            values,
            n_rows,
        })
    }

    fn numbers(&mut self, n: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; n * self.number.n_bytes()];
        self.file.read_exact(&mut bytes)?;
        if self.is_big_endian {
            for number in bytes.chunks_exact_mut(self.number.n_bytes()) {
                number.reverse();
            }
        }
        Ok(self.number.read(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_read_as_rows_however_many_at_a_time() {
        // numpy.save of numpy.asfortranarray([[1, 2], [3, 4], [5, 6]]) as float64.
        let dict = "{'descr': '<f8', 'fortran_order': True, 'shape': (3, 2), }";
        let mut bytes = [&b"\x93NUMPY"[..], &[1, 0, 118, 0], dict.as_bytes()].concat();
        bytes.resize(127, b' ');
        bytes.push(b'\n');
        bytes.extend(
            [1_f64, 3.0, 5.0, 2.0, 4.0, 6.0]
                .iter()
                .flat_map(|x| x.to_le_bytes()),
        );
        for n in [1, 2, 3, 10] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            file.rewind().unwrap();
            let mut reader = Reader::new(file).unwrap();
            let mut values = Vec::new();
            while reader.n_left > 0 {
                values.extend(reader.read(n).unwrap().values);
            }
            assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        }
    }

    #[test]
    fn a_header_has_its_length_whatever_the_number_of_rows() {
        for (n_rows, width) in [(0, None), (usize::MAX, Some(usize::MAX)), (7, Some(2))] {
            let bytes = header(n_rows, width);
            assert_eq!(bytes.len(), N_HEADER);
            assert_eq!(bytes.last(), Some(&b'\n'));
        }
    }
}
