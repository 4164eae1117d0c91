//! The numbers of one array in a file, in C or Fortran order.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};

use flate2::read::DeflateDecoder;
use vae_base::NpyHeader;

use super::number::Number;
use crate::npz::Place;

/// The largest compression ratio of deflate: 258 bytes from two bits.
const MAX_RATIO: u64 = 1032;

trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// An array whose header has been read, but not its numbers.
pub(super) struct Numbers {
    pub(super) number: Number,
    pub(super) shape: Vec<usize>,
    is_big_endian: bool,
    place: Storage,
}

enum Storage {
    /// C order: the reader is at the next row.
    COrder(Box<dyn Read + Send>),
    /// Fortran order, which pandas and transposed arrays have: the first index varies fastest.
    FortranOrder {
        file: Box<dyn ReadSeek>,
        /// Where the numbers begin.
        start: u64,
        next_row: usize,
    },
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbers")
            .field("number", &self.number)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl Numbers {
    /// Little-endian numbers, row after row.
    pub(super) fn in_rows(
        number: Number,
        shape: Vec<usize>,
        from: impl Read + Send + 'static,
    ) -> Numbers {
        Numbers {
            number,
            shape,
            is_big_endian: false,
            place: Storage::COrder(Box::new(from)),
        }
    }

    /// The numbers of a `.npy` file of `n_bytes`.
    pub(super) fn of_npy(mut file: BufReader<File>, n_bytes: u64) -> Result<Numbers, String> {
        let (number, is_big_endian, header) = header(&mut file)?;
        let start = file.stream_position().map_err(unreadable)?;
        check_length(&header, number, n_bytes.saturating_sub(start))?;
        Ok(Numbers {
            number,
            is_big_endian,
            place: match header.fortran_order {
                false => Storage::COrder(Box::new(file)),
                true => Storage::FortranOrder {
                    file: Box::new(file),
                    start,
                    next_row: 0,
                },
            },
            shape: header.shape,
        })
    }

    /// The numbers of a member of a `.npz` file.
    pub(super) fn of_member(mut file: File, place: &Place) -> Result<Numbers, String> {
        let most = match place.is_deflated {
            true => place.n_compressed.saturating_mul(MAX_RATIO),
            false => place.n_compressed,
        };
        if place.n_bytes > most {
            return Err(format!(
                "is damaged: {} bytes, which its {} bytes in the zip cannot hold",
                place.n_bytes, place.n_compressed
            ));
        }
        file.seek(SeekFrom::Start(place.start))
            .map_err(unreadable)?;
        let compressed = BufReader::new(file).take(place.n_compressed);
        let bytes: Box<dyn Read + Send> = match place.is_deflated {
            true => Box::new(DeflateDecoder::new(compressed)),
            false => Box::new(compressed),
        };
        let mut bytes = Counted::new(bytes, place.n_bytes, place.crc32);
        let (number, is_big_endian, header) = header(&mut bytes)?;
        check_length(&header, number, bytes.n_left)?;
        Ok(Numbers {
            number,
            is_big_endian,
            place: match header.fortran_order {
                false => Storage::COrder(Box::new(bytes)),
                true => {
                    let mut all = Vec::new();
                    bytes.read_to_end(&mut all).map_err(unreadable)?;
                    Storage::FortranOrder {
                        file: Box::new(Cursor::new(all)),
                        start: 0,
                        next_row: 0,
                    }
                }
            },
            shape: header.shape,
        })
    }

    /// The next `n` rows, little-endian, row after row.
    pub(super) fn read(&mut self, n: usize) -> Result<Vec<u8>, String> {
        let width = self.shape[1..].iter().product::<usize>();
        let n_bytes = self.number.n_bytes();
        let mut bytes = vec![0; n * width * n_bytes];
        match &mut self.place {
            Storage::COrder(from) => from.read_exact(&mut bytes).map_err(unreadable)?,
            Storage::FortranOrder {
                file,
                start,
                next_row,
            } => {
                let mut column = vec![0; n * n_bytes];
                for j in 0..width {
                    let first = fortran_index(j, &self.shape[1..]) * self.shape[0] + *next_row;
                    file.seek(SeekFrom::Start(*start + (first * n_bytes) as u64))
                        .and_then(|_| file.read_exact(&mut column))
                        .map_err(unreadable)?;
                    let places = bytes.chunks_exact_mut(n_bytes).skip(j).step_by(width);
                    for (place, number) in places.zip(column.chunks_exact(n_bytes)) {
                        place.copy_from_slice(number);
                    }
                }
                *next_row += n;
            }
        }
        if self.is_big_endian {
            bytes.chunks_exact_mut(n_bytes).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }
}

/// The Fortran-order index within a row of the number whose C-order index is `j`.
fn fortran_index(j: usize, sides: &[usize]) -> usize {
    let (mut rest, mut index, mut stride) = (j, 0, sides.iter().product::<usize>());
    // From the last index, the fastest in C order, to the first, the fastest in Fortran order.
    for &side in sides.iter().rev() {
        stride /= side;
        index += rest % side * stride;
        rest /= side;
    }
    index
}

fn header(from: &mut impl Read) -> Result<(Number, bool, NpyHeader), String> {
    let header = NpyHeader::read(from).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => error.to_string(),
        _ => unreadable(error),
    })?;
    let Some((number, is_big_endian)) = Number::of_numpy(&header.descr) else {
        return Err(format!(
            "is an array of {}, expected numbers such as float32; in numpy: array.astype('float32')",
            header.descr
        ));
    };
    if header.shape.is_empty() {
        return Err("is a single number, expected an array".to_owned());
    }
    Ok((number, is_big_endian, header))
}

/// Fails if the header declares another number of bytes than the file holds.
fn check_length(header: &NpyHeader, number: Number, found: u64) -> Result<(), String> {
    let n_bytes = number.n_bytes() as u64;
    let wanted = header.shape.iter().try_fold(n_bytes, |product, &side| {
        product.checked_mul(u64::try_from(side).ok()?)
    });
    match wanted {
        Some(wanted) if wanted == found => Ok(()),
        _ => Err(format!(
            "has {found} bytes of numbers, expected {} of shape {:?} by its header (cut short?)",
            wanted.map_or("more than fit in memory".to_owned(), |n| n.to_string()),
            header.shape
        )),
    }
}

fn unreadable(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "ends early (cut short?)".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

/// A member of a zip, whose checksum is compared after its last byte.
struct Counted<R> {
    from: R,
    n_left: u64,
    hasher: crc32fast::Hasher,
    crc32: u32,
}

impl<R: Read> Counted<R> {
    fn new(from: R, n_bytes: u64, crc32: u32) -> Self {
        Self {
            from,
            n_left: n_bytes,
            hasher: crc32fast::Hasher::new(),
            crc32,
        }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.n_left.min(out.len() as u64) as usize;
        let n_read = self.from.read(&mut out[..n])?;
        self.n_left -= n_read as u64;
        self.hasher.update(&out[..n_read]);
        if n_read > 0 && self.n_left == 0 && self.hasher.clone().finalize() != self.crc32 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "wrong checksum (a damaged file)",
            ));
        }
        Ok(n_read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fortrans_order_has_the_first_index_fastest() {
        // Of [2, 3]: C order 00 01 02 10 11 12, Fortran order 00 10 01 11 02 12.
        let places: Vec<usize> = (0..6).map(|j| fortran_index(j, &[2, 3])).collect();
        assert_eq!(places, [0, 2, 4, 1, 3, 5]);
        assert_eq!(fortran_index(3, &[7]), 3);
        assert_eq!(fortran_index(0, &[]), 0);
    }

    #[test]
    fn columns_are_read_as_rows_however_many_at_a_time() {
        // numpy.asfortranarray([[1, 2], [3, 4], [5, 6]]).
        for n in [1, 2, 3] {
            let mut numbers = Numbers {
                number: Number::U8,
                shape: vec![3, 2],
                is_big_endian: false,
                place: Storage::FortranOrder {
                    file: Box::new(Cursor::new(vec![9, 1, 3, 5, 2, 4, 6])),
                    start: 1,
                    next_row: 0,
                },
            };
            let mut read = Vec::new();
            while read.len() < 6 {
                let n_left = 3 - read.len() / 2;
                read.extend(numbers.read(n_left.min(n)).unwrap());
            }
            assert_eq!(read, [1, 2, 3, 4, 5, 6]);
        }
    }

    #[test]
    fn a_member_with_another_checksum_is_refused_at_its_end() {
        let bytes = |crc32| Counted::new(&b"abc"[..], 3, crc32);
        let mut all = Vec::new();
        // CRC-32 of "abc", computed with zlib.
        assert!(bytes(0x3524_41c2).read_to_end(&mut all).is_ok());
        assert!(bytes(0x3524_41c3).read_to_end(&mut all).is_err());
    }
}
