//! The orientation in Exif data.

use image::metadata::Orientation;

/// The prefix of Exif data in a JPEG segment; the sixth byte is 0 in the standard, but not in every file.
const PREFIX: &[u8] = b"Exif\0";

/// TIFF's tag of the orientation.
const ORIENTATION: u32 = 0x0112;

/// Bytes of a directory entry: tag, type, number of values, value.
const ENTRY_BYTES: usize = 12;

/// The orientation in the main image's directory of Exif data, with or without a JPEG's prefix. `None` if there is no
/// valid one.
///
/// The standard requires a 16-bit value; 8 and 32 bits, which some programs write, are accepted, too.
pub(crate) fn orientation(exif: &[u8]) -> Option<Orientation> {
    let tiff = tiff(exif).unwrap_or(exif);
    let little_endian = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    // The number stored in the `n` bytes at `at`.
    let number = |at: usize, n: usize| {
        let bytes = tiff.get(at..at.checked_add(n)?)?;
        let append = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        Some(match little_endian {
            true => bytes.iter().rev().fold(0, append),
            false => bytes.iter().fold(0, append),
        })
    };
    let directory = number(4, 4)? as usize;
    let n_entries = number(directory, 2)? as usize;
    let first = directory.checked_add(2)?;
    let entry = (0..n_entries)
        .map(|i| first + i * ENTRY_BYTES)
        .take_while(|&at| at < tiff.len())
        .find(|&at| number(at, 2) == Some(ORIENTATION))?;
    let n_bytes = match number(entry + 2, 2)? {
        1 => 1,
        3 => 2,
        4 => 4,
        _ => return None,
    };
    let value = number(entry + 8, n_bytes)?;
    Orientation::from_exif(u8::try_from(value).ok()?)
}

/// The Exif data in a JPEG segment, without the prefix.
pub(crate) fn tiff(segment: &[u8]) -> Option<&[u8]> {
    segment.strip_prefix(PREFIX)?.get(1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of two entries, the second of which is the orientation.
    fn block(little_endian: bool, kind: u16, value: &[u8]) -> Vec<u8> {
        let order = |bytes: &[u8]| match little_endian {
            true => bytes.iter().rev().copied().collect(),
            false => bytes.to_vec(),
        };
        let mut block = match little_endian {
            true => b"II*\0".to_vec(),
            false => b"MM\0*".to_vec(),
        };
        block.extend(order(&8u32.to_be_bytes()));
        block.extend(order(&2u16.to_be_bytes()));
        for (tag, kind, value) in [(0x0100u16, 3u16, &[0u8, 9][..]), (0x0112, kind, value)] {
            block.extend(order(&tag.to_be_bytes()));
            block.extend(order(&kind.to_be_bytes()));
            block.extend(order(&1u32.to_be_bytes()));
            let mut field = order(value);
            field.resize(4, 0);
            block.extend(field);
        }
        block
    }

    #[test]
    fn the_orientation_is_read_in_either_order_and_of_any_size() {
        for little_endian in [true, false] {
            for (kind, value) in [(1, &[6u8][..]), (3, &[0, 6]), (4, &[0, 0, 0, 6])] {
                let block = block(little_endian, kind, value);
                assert_eq!(orientation(&block), Some(Orientation::Rotate90), "{kind}");
                let segment = [b"Exif\0\0", &block[..]].concat();
                assert_eq!(orientation(&segment), Some(Orientation::Rotate90), "{kind}");
            }
        }
    }

    #[test]
    fn invalid_orientations_are_ignored() {
        for (kind, value) in [
            (3, &[0u8, 0][..]),
            (3, &[0, 9]),
            (4, &[1, 0, 0, 6]),
            (2, &[6]),
        ] {
            assert_eq!(orientation(&block(true, kind, value)), None, "{value:?}");
        }
        let whole = block(false, 3, &[0, 6]);
        for n in 0..whole.len() - 2 {
            assert_eq!(orientation(&whole[..n]), None, "cut to {n} bytes");
        }
        // A directory at the largest 32-bit offset.
        assert_eq!(orientation(b"MM\0*\xff\xff\xff\xff\0\x01"), None);
    }
}
