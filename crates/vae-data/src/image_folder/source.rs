//! The files of a folder or zip, decoded and transformed.

use std::sync::Arc;

use serde_json::json;

use super::decode::{Decoder, MAX_BYTES_BESIDE, MAX_BYTES_PER_PIXEL};
use super::files::{FileReader, Files};
use super::pack::{Chunk, Contents};
use super::transform::{Transform, Transformer};
use crate::pipeline::Pipeline;

/// Images in a job of [`Source::decode_all`].
const CHUNK: usize = 32;

/// The files and their transform.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) files: Arc<Files>,
    pub(crate) transform: Transform,
    pub(crate) max_pixels: u64,
}

impl Source {
    /// Decodes every file once, in order, on `n_workers` threads.
    pub(crate) fn decode_all(self: &Arc<Self>, n_workers: usize) -> Pipeline<Chunk> {
        let n_files = self.files.entries().len();
        decode_all(n_files, self.transform.n_bytes(), n_workers, || {
            let mut reader = SourceReader::new(Arc::clone(self));
            move |file, pixels: &mut [u8]| reader.read(file, pixels)
        })
    }

    /// The transform as a pack has it.
    pub(crate) fn transform_json(&self) -> String {
        json!(self.transform).to_string()
    }

    pub(crate) fn contents<'a>(&'a self, transform: &'a str) -> Contents<'a> {
        Contents {
            files: &self.files,
            transform,
            limit: self.max_pixels,
            shape: self.transform.shape(),
        }
    }
}

/// Decodes each of `n_files` once, in order, to `n_bytes` bytes on `n_workers` threads. `reader` makes for each thread a
/// function that writes the bytes of a file, or returns the problem with it.
pub(crate) fn decode_all<R>(
    n_files: usize,
    n_bytes: usize,
    n_workers: usize,
    mut reader: impl FnMut() -> R,
) -> Pipeline<Chunk>
where
    R: FnMut(usize, &mut [u8]) -> Result<(), String> + Send + 'static,
{
    Pipeline::start(0..n_files.div_ceil(CHUNK), n_workers, || {
        let mut read = reader();
        move |job| {
            let mut chunk = Chunk {
                pixels: Vec::with_capacity(CHUNK * n_bytes),
                files: Vec::with_capacity(CHUNK),
            };
            for file in job * CHUNK..n_files.min((job + 1) * CHUNK) {
                let start = chunk.pixels.len();
                chunk.pixels.resize(start + n_bytes, 0);
                let pixels = &mut chunk.pixels[start..];
                let result = read(file, pixels);
                let result = result.map(|()| crc32fast::hash(pixels));
                if result.is_err() {
                    chunk.pixels.truncate(start);
                }
                chunk.files.push(result);
            }
            chunk
        }
    })
}

/// One thread's reader, decoder and transformer, with reused buffers.
#[derive(Debug)]
pub(crate) struct SourceReader {
    max_bytes: u64,
    files: FileReader,
    decoder: Decoder,
    transformer: Transformer,
}

impl Source {
    /// The size of the largest file that is read. Uncompressed files are as large as their pixels; a larger file is not an
    /// image within the limit.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_pixels
            .saturating_mul(MAX_BYTES_PER_PIXEL)
            .saturating_add(MAX_BYTES_BESIDE)
    }
}

impl SourceReader {
    pub(crate) fn new(source: Arc<Source>) -> SourceReader {
        SourceReader {
            max_bytes: source.max_bytes(),
            files: FileReader::new(Arc::clone(&source.files)),
            decoder: Decoder::new(source.max_pixels),
            transformer: Transformer::new(source.transform.clone()),
        }
    }

    /// Writes the pixels of file `i` to `out` [C, H, W], or returns the problem with the file.
    pub(crate) fn read(&mut self, i: usize, out: &mut [u8]) -> Result<(), String> {
        let file = self.files.read(i, self.max_bytes)?;
        let image = self.decoder.decode(file)?;
        self.transformer.apply(image, out)
    }
}
