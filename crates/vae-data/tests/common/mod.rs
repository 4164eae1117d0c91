//! Valid idx files to write and to damage.

#![allow(dead_code)] // Each test binary uses some of these.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};

/// An image file whose header holds these numbers, whether they match the pixels or not.
pub(crate) fn image_file(n_images: u32, height: u32, width: u32, pixels: &[u8]) -> Vec<u8> {
    let header = [0x803, n_images, height, width].map(u32::to_be_bytes);
    [header.as_flattened(), pixels].concat()
}

/// A label file with a correct header.
pub(crate) fn label_file(labels: &[u8]) -> Vec<u8> {
    let header = [0x801, labels.len() as u32].map(u32::to_be_bytes);
    [header.as_flattened(), labels].concat()
}

/// One gzip member.
pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).expect("a Vec takes every byte");
    encoder.finish().expect("a Vec takes every byte")
}

/// Writes `content` to `name` in `folder`.
pub(crate) fn put(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("the temporary folder is writable");
    path
}
