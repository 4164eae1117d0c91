//! The files of a folder or zip as clips.

use std::sync::Arc;

use serde_json::json;
use vae_sound::{Alignment, ClipSpec};

use crate::ImageShape;
use crate::image_folder::files::{FileReader, Files};
use crate::image_folder::pack::{Chunk, Contents};
use crate::image_folder::source::decode_all;
use crate::pipeline::Pipeline;

/// The largest file that is read.
const LARGEST_FILE: u64 = 1 << 30;

/// The files, and how their clips are made.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) files: Arc<Files>,
    pub(crate) clip: ClipSpec,
}

impl Source {
    /// The bytes of a clip: two for each sample.
    pub(crate) fn shape(&self) -> ImageShape {
        ImageShape {
            channels: self.clip.n_channels as i64,
            height: 1,
            width: 2 * self.clip.n_samples as i64,
        }
    }

    /// Decodes every file once, in order, on `n_workers` threads.
    pub(crate) fn decode_all(self: &Arc<Self>, n_workers: usize) -> Pipeline<Chunk> {
        let n_files = self.files.entries().len();
        decode_all(n_files, self.shape().n_values() as usize, n_workers, || {
            let mut reader = SourceReader::new(Arc::clone(self));
            move |file, bytes: &mut [u8]| reader.read(file, bytes)
        })
    }

    /// How clips are made, as a pack has it.
    pub(crate) fn transform_json(&self) -> String {
        let ClipSpec {
            rate,
            n_samples,
            n_channels,
            alignment,
            silence,
            normalize,
            max_seconds,
        } = self.clip;
        let onset = matches!(alignment, Alignment::Onset).then_some(silence);
        json!({
            "rate": rate,
            "samples": n_samples,
            "channels": n_channels,
            "onset": onset,
            "normalize": normalize,
            "max_seconds": max_seconds,
        })
        .to_string()
    }

    pub(crate) fn contents<'a>(&'a self, transform: &'a str) -> Contents<'a> {
        Contents {
            files: &self.files,
            transform,
            limit: LARGEST_FILE,
            shape: self.shape(),
        }
    }
}

/// One thread's reader.
#[derive(Debug)]
pub(crate) struct SourceReader {
    files: FileReader,
    clip: ClipSpec,
}

impl SourceReader {
    pub(crate) fn new(source: Arc<Source>) -> SourceReader {
        SourceReader {
            files: FileReader::new(Arc::clone(&source.files)),
            clip: source.clip,
        }
    }

    /// Writes the samples of file `i` to `out`, i16 `[C, T]` in little-endian bytes, or returns the problem with it.
    pub(crate) fn read(&mut self, i: usize, out: &mut [u8]) -> Result<(), String> {
        let clip = self.clip.clip(self.files.read(i, LARGEST_FILE)?)?;
        for (bytes, sample) in out.chunks_exact_mut(2).zip(clip) {
            bytes.copy_from_slice(&sample.to_le_bytes());
        }
        Ok(())
    }
}
