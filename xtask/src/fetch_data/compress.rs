//! The format of `compress` (`.Z`): Welch's codes of 9 to 16 bits (Welch 1984, *A Technique for High-Performance Data
//! Compression*), which `gzip -d` reads, too.

use anyhow::{Result, bail, ensure};

/// The code that empties the table.
const CLEAR: usize = 256;

const FEWEST_BITS: usize = 9;
const MOST_BITS: usize = 16;

/// Decompress codes of at most 16 bits with clear codes, without the three bytes `1f 9d 90` that a file begins with.
pub(super) fn decompress(codes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    // Of each code: the code before its last byte, and that byte.
    let mut table: Vec<(usize, u8)> = (0..=CLEAR).map(|code| (0, code as u8)).collect();
    let mut codes = Codes::new(codes);
    let mut before: Option<usize> = None;
    let mut first = 0; // The first byte of the text before.
    while let Some(code) = codes.next() {
        if code == CLEAR {
            table.truncate(CLEAR + 1);
            codes.restart();
            before = None;
            continue;
        }
        let Some(last) = before else {
            ensure!(
                code < CLEAR,
                "compressed data are damaged: begin with code {code}"
            );
            first = code as u8;
            out.push(first);
            before = Some(code);
            continue;
        };
        let start = out.len();
        let mut rest = code;
        if code == table.len() {
            out.push(first); // The text before, and its first byte again.
            rest = last;
        } else if code > table.len() {
            bail!(
                "compressed data are damaged: code {code} of {}",
                table.len()
            );
        }
        while rest > CLEAR {
            let (shorter, byte) = table[rest];
            out.push(byte);
            rest = shorter;
        }
        first = rest as u8;
        out.push(first);
        out[start..].reverse();
        if table.len() < 1 << MOST_BITS {
            table.push((last, first));
            codes.grow(table.len());
        }
        before = Some(code);
    }
    Ok(out)
}

/// Codes in groups of eight of the same length.
struct Codes<'a> {
    rest: &'a [u8],
    n_bits: usize,
    /// The place within the group, in bits.
    at: usize,
}

impl<'a> Codes<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self {
            rest,
            n_bits: FEWEST_BITS,
            at: 0,
        }
    }

    fn next(&mut self) -> Option<usize> {
        if self.at == 8 * self.n_bits {
            self.skip_group();
        }
        let code = (0..self.n_bits).try_fold(0, |code, i| {
            let at = self.at + i;
            let bit = self.rest.get(at / 8)? >> (at % 8) & 1;
            Some(code | usize::from(bit) << i)
        })?;
        self.at += self.n_bits;
        Some(code)
    }

    /// The rest of a group is unused if the length of codes changes in it.
    fn skip_group(&mut self) {
        self.rest = self.rest.get(self.n_bits..).unwrap_or_default();
        self.at = 0;
    }

    fn restart(&mut self) {
        self.skip_group();
        self.n_bits = FEWEST_BITS;
    }

    /// Codes get longer when the table has more of them than fit.
    fn grow(&mut self, n_codes: usize) {
        if n_codes > (1 << self.n_bits) - 1 && self.n_bits < MOST_BITS {
            if self.at > 0 {
                self.skip_group();
            }
            self.n_bits += 1;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Text as codes of 9 bits that are bytes: what a compressor without a table writes.
    pub(in super::super) fn compressed(text: &[u8]) -> Vec<u8> {
        assert!(text.len() < 200, "codes would get longer");
        let mut bytes = vec![0; (text.len() * 9).div_ceil(8)];
        for (i, &byte) in text.iter().enumerate() {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                bytes[(i * 9 + bit) / 8] |= 1 << ((i * 9 + bit) % 8);
            }
        }
        bytes
    }

    #[test]
    fn plain_codes_and_repeated_ones() {
        assert_eq!(
            decompress(&compressed(b"In the beginning")).unwrap(),
            b"In the beginning"
        );
        // `printf aaaaaaaaaa | compress -b16`, without its first three bytes: codes 97, 257, 258, 259.
        let codes = [97, 257, 258, 259];
        let mut bytes = vec![0; 5];
        for (i, code) in codes.into_iter().enumerate() {
            for bit in (0..9).filter(|bit| code >> bit & 1 == 1) {
                bytes[(i * 9 + bit) / 8] |= 1 << ((i * 9 + bit) % 8);
            }
        }
        assert_eq!(decompress(&bytes).unwrap(), b"aaaaaaaaaa");
    }

    #[test]
    fn damaged_codes_are_an_error() {
        assert!(decompress(&[0xff; 20]).is_err());
        assert_eq!(decompress(&[]).unwrap(), b"");
    }
}
