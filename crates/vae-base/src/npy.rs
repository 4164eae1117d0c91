//! The headers of NumPy's arrays, in `.npy` files and in the members of `.npz` files.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::io::{self, ErrorKind, Read};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// The longest header that is read, in bytes.
const LONGEST: u32 = 1 << 16;

/// The header of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyHeader {
    /// The kind of its numbers as NumPy writes it: `<f4`, `|u1`.
    pub descr: String,
    /// Whether the values are stored column by column.
    pub fortran_order: bool,
    /// The lengths of its sides.
    pub shape: Vec<usize>,
}

impl NpyHeader {
    /// Reads a header, which the values follow.
    ///
    /// # Errors
    /// The source fails or ends; a malformed header, an unknown version, or a structured type.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut begin = [0; 8];
        from.read_exact(&mut begin)?;
        if begin[..6] != MAGIC[..] {
            return Err(invalid("does not begin like a NumPy array"));
        }
        // Versions 2 and 3 have a length of four bytes.
        let length = match begin[6] {
            1 => {
                let mut length = [0; 2];
                from.read_exact(&mut length)?;
                u32::from(u16::from_le_bytes(length))
            }
            2 | 3 => {
                let mut length = [0; 4];
                from.read_exact(&mut length)?;
                u32::from_le_bytes(length)
            }
            version => {
                let problem = format!("is an npy file of version {version}, expected 1, 2 or 3");
                return Err(invalid(problem));
            }
        };
        if length > LONGEST {
            let problem = format!("has a header of {length} bytes, expected at most {LONGEST}");
            return Err(invalid(problem));
        }
        let mut text = vec![0; length as usize];
        from.read_exact(&mut text)?;
        Self::parse(&String::from_utf8_lossy(&text)).map_err(invalid)
    }

    /// Parses a header such as `{'descr': '|u1', 'fortran_order': False, 'shape': (3, 64, 64), }`.
    fn parse(text: &str) -> Result<Self, String> {
        let descr = entry(text, "descr")?;
        let fortran_order = match entry(text, "fortran_order")? {
            "False" => false,
            "True" => true,
            other => return Err(format!("fortran_order is {other}, expected True or False")),
        };
        let shape = entry(text, "shape")?;
        let sides = shape.trim_matches(['(', ')']).split(',').map(str::trim);
        let sides = sides.filter(|side| !side.is_empty()).map(str::parse);
        let quotes = ['\'', '"'];
        if !descr.starts_with(quotes) {
            return Err(format!(
                "is an array of {descr}, expected a single type of numbers"
            ));
        }
        Ok(Self {
            descr: descr.trim_matches(quotes).to_owned(),
            fortran_order,
            shape: sides
                .collect::<Result<_, _>>()
                .map_err(|_| format!("has the shape {shape}, expected lengths"))?,
        })
    }

    /// The header padded to `n_bytes`: a multiple of 64 that it fits into.
    #[must_use]
    pub fn to_bytes(&self, n_bytes: usize) -> Vec<u8> {
        let order = if self.fortran_order { "True" } else { "False" };
        let sides: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let comma = if sides.len() == 1 { "," } else { "" };
        let (descr, shape) = (&self.descr, sides.join(", "));
        let dict = format!(
            "{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({shape}{comma}), }}"
        );
        let mut bytes = Vec::with_capacity(n_bytes);
        bytes.extend(MAGIC);
        bytes.extend([1, 0]);
        bytes.extend((n_bytes as u16 - 10).to_le_bytes());
        bytes.extend(dict.bytes());
        bytes.resize(n_bytes - 1, b' ');
        bytes.push(b'\n');
        bytes
    }
}

/// The value of a key in a header, a Python dictionary.
fn entry<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let value = ["'", "\""].iter().find_map(|quote| {
        let start = header.find(&format!("{quote}{key}{quote}"))?;
        let (_, value) = header[start..].split_once(':')?;
        let value = value.trim_start();
        // A shape has commas of its own.
        let end = match value.starts_with('(') {
            true => value.find(')')? + 1,
            false => value.find([',', '}'])?,
        };
        Some(value[..end].trim())
    });
    value.ok_or_else(|| format!("has an npy header without {key}"))
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(descr: &str, fortran_order: bool, shape: &[usize]) -> NpyHeader {
        NpyHeader {
            descr: descr.to_owned(),
            fortran_order,
            shape: shape.to_owned(),
        }
    }

    #[test]
    fn numpys_own_headers_are_understood() {
        let parse = |text: &str| NpyHeader::parse(text);
        let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 64, 64), }   \n";
        assert_eq!(parse(text), Ok(header("|u1", false, &[3, 64, 64])));
        let text = "{'descr': '<f8', 'fortran_order': True, 'shape': (7,), }";
        assert_eq!(parse(text), Ok(header("<f8", true, &[7])));
        assert_eq!(
            parse("{'descr': '<f4', 'fortran_order': False, 'shape': (), }")
                .unwrap()
                .shape,
            [0; 0]
        );
        for (text, problem) in [
            (
                "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (7,), }",
                "a single type of numbers",
            ),
            (
                "{'descr': '<f8', 'fortran_order': False, 'shape': (-7,), }",
                "the shape (-7,)",
            ),
            (
                "{'descr': '<f8', 'fortran_order': 0, 'shape': (7,), }",
                "expected True or False",
            ),
            ("{'descr': '<f8', 'shape': (7,), }", "without fortran_order"),
            ("", "without descr"),
        ] {
            assert!(parse(text).unwrap_err().contains(problem), "{text}");
        }
    }

    #[test]
    fn a_header_has_its_length_and_is_read_back() {
        for shape in [&[0][..], &[usize::MAX, usize::MAX], &[7, 2]] {
            let header = header("<f4", false, shape);
            let bytes = header.to_bytes(128);
            assert_eq!((bytes.len(), bytes[127]), (128, b'\n'));
            let mut rest = &bytes[..];
            assert_eq!(NpyHeader::read(&mut rest).unwrap(), header);
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn what_is_no_header_is_an_error_and_takes_no_memory() {
        let problem = |bytes: &[u8]| NpyHeader::read(&mut &bytes[..]).unwrap_err().to_string();
        assert!(problem(b"PK\x03\x04....").contains("does not begin"));
        assert!(problem(b"\x93NUMPY\x09\x00..").contains("version 9"));
        assert!(problem(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").contains("at most 65536"));
        let error = NpyHeader::read(&mut &b"\x93NUMPY\x01\x00\x76\x00{'"[..]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
