//! The idx format of MNIST, plain or gzipped.
//!
//! An image file is a header of four big-endian u32 (magic number 0x00000803, number of images,
//! height, width) and then the pixels, one byte each, image after image and row after row. A label
//! file is two u32 (magic number 0x00000801, number of labels) and then the labels, one byte each.
//!
//! A file's header cannot be trusted: every field is checked, a plain file's length is compared before memory is
//! allocated for it, and a gzip file's buffer grows with the bytes that are actually decoded.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::DataError;

/// The largest accepted height and width of an image, in pixels.
pub const MAX_SIDE: u32 = 4096;

/// The most bytes of one file that are loaded into memory: 16 GiB.
pub const MAX_BYTES: u64 = 1 << 34;

/// The first number of a file of images.
pub(crate) const IMAGES_MAGIC: u32 = 0x0000_0803;
const LABELS_MAGIC: u32 = 0x0000_0801;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The initial size of a gzip file's buffer, which at most doubles each time.
const FIRST_GROWTH: usize = 64 * 1024;

/// The images of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxImages {
    /// N, at least 1.
    pub n_images: usize,
    /// H in pixels, from 1 to [`MAX_SIDE`].
    pub height: usize,
    /// W in pixels, from 1 to [`MAX_SIDE`].
    pub width: usize,
    /// N·H·W bytes: image after image, row after row; 0 is background, 255 full ink.
    pub pixels: Vec<u8>,
}

/// Reads a file of images (`idx3-ubyte`), plain or gzipped: detected by content, not by name.
///
/// # Errors
/// A file that cannot be read, a damaged gzip stream, another magic number, a count or side of 0, a side above
/// [`MAX_SIDE`], more than [`MAX_BYTES`], or a length that differs from the header's.
pub fn read_images(path: &Path) -> Result<IdxImages, DataError> {
    let mut content = Content::open(path)?;
    let [n_images, height, width] = content.read_images_header()?;
    let n_pixels = n_pixels(n_images, height, width);
    Ok(IdxImages {
        n_images: n_images as usize,
        height: height as usize,
        width: width as usize,
        pixels: content.read_rest(n_pixels)?,
    })
}

/// Below 2^32 · 2^12 · 2^12, so it cannot overflow.
fn n_pixels(n_images: u32, height: u32, width: u32) -> u64 {
    u64::from(n_images) * u64::from(height) * u64::from(width)
}

/// Reads a file of images in parts, with constant memory.
#[derive(Debug)]
pub(crate) struct ImageReader {
    content: Content,
    pub(crate) n_images: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Bytes of the whole file according to its header.
    n_bytes: u64,
    n_left: usize,
}

impl ImageReader {
    /// Reads the header; also checks the length of a plain file.
    pub(crate) fn open(path: &Path) -> Result<ImageReader, DataError> {
        let mut content = Content::open(path)?;
        let [n_images, height, width] = content.read_images_header()?;
        let n_bytes = content.position + n_pixels(n_images, height, width);
        content.check_length(n_bytes)?;
        Ok(ImageReader {
            content,
            n_images: n_images as usize,
            height: height as usize,
            width: width as usize,
            n_bytes,
            n_left: n_images as usize,
        })
    }

    /// The pixels of the next `n` images; fewer at the end of the file.
    pub(crate) fn read(&mut self, n: usize) -> Result<Vec<u8>, DataError> {
        let n = n.min(self.n_left);
        let n_wanted = n * self.height * self.width;
        let pixels = self.content.read_up_to(n_wanted)?;
        if pixels.len() < n_wanted {
            return Err(self.content.too_short(self.n_bytes));
        }
        self.n_left -= n;
        if self.n_left == 0 {
            self.content.check_end(self.n_bytes)?;
        }
        Ok(pixels)
    }
}

/// Reads only the header: height and width of the images.
///
/// # Errors
/// As [`read_images`], where they apply.
pub fn read_size(path: &Path) -> Result<[u32; 2], DataError> {
    let [_, height, width] = read_images_header(path)?;
    Ok([height, width])
}

/// Number, height and width of the images.
pub(crate) fn read_images_header(path: &Path) -> Result<[u32; 3], DataError> {
    Content::open(path)?.read_images_header()
}

/// Reads a file of labels (`idx1-ubyte`), plain or gzipped: detected by content, not by name.
///
/// # Errors
/// As [`read_images`], where they apply.
pub fn read_labels(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut content = Content::open(path)?;
    let [n_labels] = content.read_header(LABELS_MAGIC)?;
    check_dimension(path, "number of labels", n_labels, u32::MAX)?;
    content.read_rest(n_labels.into())
}

/// Compares the numbers of images and labels in the two files' headers, without reading the rest.
///
/// # Errors
/// [`DataError::LabelCount`] if they differ; those of [`read_images`] that apply to headers.
pub fn check_counts(images: &Path, labels: &Path) -> Result<(), DataError> {
    let reader = ImageReader::open(images)?;
    let [n_labels] = Content::open(labels)?.read_header(LABELS_MAGIC)?;
    match n_labels as usize == reader.n_images {
        true => Ok(()),
        false => Err(DataError::LabelCount {
            images: images.to_owned(),
            n_images: reader.n_images,
            labels: labels.to_owned(),
            n_labels: n_labels as usize,
        }),
    }
}

fn check_dimension(
    path: &Path,
    name: &'static str,
    found: u32,
    largest: u32,
) -> Result<(), DataError> {
    if (1..=largest).contains(&found) {
        return Ok(());
    }
    Err(DataError::Dimension {
        path: path.to_owned(),
        name,
        found,
        largest,
    })
}

/// A file's bytes, decompressed if it is gzipped.
#[derive(Debug)]
struct Content {
    path: PathBuf,
    bytes: Bytes,
    /// Number of bytes read so far.
    position: u64,
}

#[derive(Debug)]
enum Bytes {
    Plain {
        reader: BufReader<File>,
        length: u64,
    },
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Content {
    fn open(path: &Path) -> Result<Content, DataError> {
        let io_error = |source| DataError::Io {
            path: path.to_owned(),
            source,
        };
        // Checked before opening, because opening a pipe would wait for its writer.
        let metadata = fs::metadata(path).map_err(io_error)?;
        if !metadata.is_file() {
            return Err(DataError::NotAFile {
                path: path.to_owned(),
            });
        }
        let mut file = File::open(path).map_err(io_error)?;
        let mut magic = Vec::new();
        (&mut file)
            .take(2)
            .read_to_end(&mut magic)
            .map_err(io_error)?;
        file.rewind().map_err(io_error)?;
        let reader = BufReader::new(file);
        let bytes = if magic == GZIP_MAGIC {
            Bytes::Gzip(Box::new(MultiGzDecoder::new(reader)))
        } else {
            Bytes::Plain {
                reader,
                length: metadata.len(),
            }
        };
        Ok(Content {
            path: path.to_owned(),
            bytes,
            position: 0,
        })
    }

    /// The N numbers after the magic number.
    fn read_header<const N: usize>(&mut self, magic: u32) -> Result<[u32; N], DataError> {
        let wanted = 4 + 4 * N;
        let header = self.read_up_to(wanted)?;
        let words: Vec<u32> = header
            .chunks_exact(4)
            .map(|word| {
                word.iter()
                    .fold(0, |number, &byte| number << 8 | u32::from(byte))
            })
            .collect();
        // The magic number is checked first: the wrong kind of file explains a short file best.
        if let Some(&found) = words.first().filter(|&&found| found != magic) {
            return Err(DataError::Magic {
                path: self.path.to_owned(),
                found,
                wanted: magic,
                hint: magic_hint(found),
            });
        }
        let numbers = words.get(1..).and_then(|numbers| numbers.try_into().ok());
        numbers.ok_or_else(|| DataError::ShortHeader {
            path: self.path.to_owned(),
            found: header.len(),
            wanted,
        })
    }

    /// Number of images, height, width.
    fn read_images_header(&mut self) -> Result<[u32; 3], DataError> {
        let header = self.read_header(IMAGES_MAGIC)?;
        let [n_images, height, width] = header;
        check_dimension(&self.path, "number of images", n_images, u32::MAX)?;
        check_dimension(&self.path, "height", height, MAX_SIDE)?;
        check_dimension(&self.path, "width", width, MAX_SIDE)?;
        Ok(header)
    }

    /// The `n_bytes` that the header declares. Fails if more bytes follow.
    fn read_rest(mut self, n_bytes: u64) -> Result<Vec<u8>, DataError> {
        let wanted = self.position + n_bytes;
        let n_bytes = match usize::try_from(n_bytes) {
            Ok(n_bytes) if wanted <= MAX_BYTES => n_bytes,
            _ => {
                return Err(DataError::TooLarge {
                    path: self.path,
                    found: wanted,
                    largest: MAX_BYTES,
                });
            }
        };
        self.check_length(wanted)?;
        let rest = self.read_up_to(n_bytes)?;
        if rest.len() < n_bytes {
            return Err(self.too_short(wanted));
        }
        self.check_end(wanted)?;
        Ok(rest)
    }

    /// Checks a plain file's length before memory is allocated for it.
    fn check_length(&self, wanted: u64) -> Result<(), DataError> {
        match self.bytes {
            Bytes::Plain { length, .. } if length < wanted => Err(DataError::TooShort {
                path: self.path.clone(),
                found: length,
                wanted,
            }),
            Bytes::Plain { length, .. } if length > wanted => Err(self.too_long(wanted)),
            _ => Ok(()),
        }
    }

    /// Checks that no bytes follow.
    fn check_end(&mut self, wanted: u64) -> Result<(), DataError> {
        // Reading one more byte also makes the gzip decoder compare its checksum.
        match self.read_up_to(1)?.is_empty() {
            true => Ok(()),
            false => Err(self.too_long(wanted)),
        }
    }

    /// The error for a file that ended too early; all of it has been read.
    fn too_short(&self, wanted: u64) -> DataError {
        DataError::TooShort {
            path: self.path.clone(),
            found: self.position,
            wanted,
        }
    }

    fn too_long(&self, wanted: u64) -> DataError {
        DataError::TooLong {
            path: self.path.clone(),
            wanted,
        }
    }

    /// The next `n_bytes`; fewer at the end of the content.
    fn read_up_to(&mut self, n_bytes: usize) -> Result<Vec<u8>, DataError> {
        let path = &self.path;
        let bytes = match &mut self.bytes {
            Bytes::Plain { reader, .. } => {
                read_growing(reader, n_bytes, n_bytes).map_err(|source| DataError::Io {
                    path: path.to_owned(),
                    source,
                })
            }
            Bytes::Gzip(decoder) => {
                read_growing(decoder, n_bytes, FIRST_GROWTH).map_err(|source| DataError::Gzip {
                    path: path.to_owned(),
                    source,
                })
            }
        }?;
        self.position += bytes.len() as u64;
        Ok(bytes)
    }
}

/// Reads up to `n_bytes` into a buffer that starts with room for `first_growth` bytes and doubles each time it is
/// full: the memory depends on the bytes that are present, not on the header.
fn read_growing(
    reader: &mut impl Read,
    n_bytes: usize,
    first_growth: usize,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < n_bytes {
        let growth = (n_bytes - bytes.len()).min(bytes.len().max(first_growth));
        bytes.try_reserve_exact(growth)?;
        if reader.take(growth as u64).read_to_end(&mut bytes)? < growth {
            break;
        }
    }
    Ok(bytes)
}

/// The likely type of a file that starts with `found`.
fn magic_hint(found: u32) -> &'static str {
    match found.to_be_bytes() {
        [0, 0, 8, 1] => "this is a file of labels, not of images",
        [0, 0, 8, 3] => "this is a file of images, not of labels",
        [0x1f, 0x8b, ..] => "gzipped twice?",
        [b'P', b'K', ..] => "a zip archive? unpack it",
        [b'<', ..] => "a web page, saved in place of the file?",
        [0, 0, _, _] => "an idx file of another element type or number of dimensions",
        _ => "not an idx file?",
    }
}
