//! SHA-256 sums, of files and of streams on their way.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// A reader that computes the SHA-256 and the number of the bytes that pass through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    sha256: Sha256,
    n_bytes: u64,
}

impl<R: Read> HashingReader<R> {
    /// Wraps `inner`.
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            sha256: Sha256::new(),
            n_bytes: 0,
        }
    }

    /// Lower-case hexadecimal sum and number of the bytes read so far.
    pub(crate) fn finish(self) -> (String, u64) {
        (hexadecimal(&self.sha256.finalize()), self.n_bytes)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.sha256.update(&buffer[..n]);
        self.n_bytes += n as u64;
        Ok(n)
    }
}

/// Lower-case hexadecimal SHA-256 of a file.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn of_file(path: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        let mut reader = HashingReader::new(File::open(path)?);
        let mut buffer = vec![0; 1 << 18];
        while reader.read(&mut buffer)? > 0 {}
        Ok(reader.finish().0)
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_of_abc_is_the_one_in_fips_180_2() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_file(&path).unwrap(), sum);
    }
}
