//! The pack: all images, decoded and resized once, in one file that is mapped into memory.
//!
//! It is a safetensors file, which Python reads too, with three tensors in this order:
//!
//! | name | kind and shape | what |
//! | --- | --- | --- |
//! | `images` | U8 `[N, C, H, W]` | the good images, sorted by file name |
//! | `crc32` | U8 `[N, 4]` | CRC-32 of each image's bytes, little-endian |
//! | `files` | U8 `[n]` | UTF-8 JSON: `{"names": […], "bad": [[name, reason], …]}` |
//!
//! Its metadata has `format`, `key` (of the files and the transform it was made from), `transform`
//! and `files_crc32`. The header is padded with spaces to [`HEADER_BYTES`].

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use sha2::{Digest, Sha256};
use tracing::warn;
use vae_base::files::{self, TemporaryName};
use vae_base::open_regular;

use super::files::Files;
use crate::error::PackProblem;
use crate::pipeline::Pipeline;
use crate::stored::{ImageStore, StoreReader};
use crate::{BadFile, DataError, ImageShape};

/// Packs of other formats count as outdated. Format 1 had the pixels of another JPEG decoder.
const FORMAT: &str = "vae pack 2";

/// Where the images begin: at the start of a page.
const HEADER_BYTES: usize = 4096;

/// Bytes that must stay free on the disk when a pack is written.
const SPARE_BYTES: u64 = 64 << 20;

/// Mapped pages count as this process's memory, so they are released after this number of bytes. They stay in the
/// system's cache, from which reading them again costs only a page fault.
const MAPPED_BYTES: usize = 256 << 20;

/// Bytes that the system maps around each accessed address (Linux: `fault_around_bytes`).
const BYTES_AROUND: usize = 64 << 10;

/// Images in a job of [`Pack::verify`].
const CHUNK: usize = 512;

/// Some files decoded.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// [n, C, H, W] bytes of the n good files.
    pub(crate) pixels: Vec<u8>,
    /// For each file the CRC-32 of its pixels, or the problem with it.
    pub(crate) files: Vec<Result<u32, String>>,
}

/// What a pack is made of: files, and what becomes of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents<'a> {
    pub(crate) files: &'a Files,
    /// The transform, as JSON.
    pub(crate) transform: &'a str,
    /// The largest file or image that is decoded.
    pub(crate) limit: u64,
    /// The shape of an item's bytes.
    pub(crate) shape: ImageShape,
}

impl Contents<'_> {
    /// Bytes of an item.
    fn n_bytes(&self) -> usize {
        self.shape.n_values() as usize
    }
}

/// Identifies the files and the transform from which a pack is made.
pub(crate) fn key(source: &Contents) -> String {
    let mut hash = Sha256::new();
    let mut put =
        |text: &str| hash.update([&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat());
    put(FORMAT);
    put(source.transform);
    put(&source.limit.to_string());
    for entry in source.files.entries() {
        put(&entry.name);
        put(&format!("{} {}", entry.n_bytes, entry.stamp));
    }
    hex(&hash.finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a pack.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    /// For file systems that cannot map files, such as some FUSE ones.
    InMemory(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::InMemory(bytes) => bytes,
        }
    }
}

impl Bytes {
    fn of(path: &Path) -> io::Result<Bytes> {
        // SAFETY: the map is read as bytes, of which every value is valid. A pack is never changed in place: it is
        // replaced by renaming, and this map keeps the old file.
        Self::mapped_or_read(path, |file| unsafe { Mmap::map(file) })
    }

    fn mapped_or_read(
        path: &Path,
        map: impl FnOnce(&File) -> io::Result<Mmap>,
    ) -> io::Result<Bytes> {
        let file = open_regular(path)?;
        let refused = match map(&file) {
            Ok(map) => return Ok(Bytes::Mapped(map)),
            Err(refused) => refused,
        };
        let n_bytes = file.metadata()?.len();
        warn!(
            "{} cannot be mapped into memory ({refused}): all of it is read, {} MiB",
            path.display(),
            n_bytes >> 20
        );
        let mut bytes = Vec::new();
        let size = usize::try_from(n_bytes).map_err(io::Error::other)?;
        bytes.try_reserve_exact(size).map_err(io::Error::other)?;
        (&file).take(n_bytes).read_to_end(&mut bytes)?;
        Ok(Bytes::InMemory(bytes))
    }
}

/// A pack that passed all checks.
#[derive(Debug)]
pub(crate) struct Pack {
    map: Bytes,
    shape: ImageShape,
    n_images: usize,
    /// Bytes of one image.
    n_bytes: usize,
    names: Vec<String>,
    bad: Vec<BadFile>,
    /// Number of images read since the pages were last released.
    n_touched: AtomicUsize,
}

impl Pack {
    /// Opens the pack at `path` and checks every byte of it.
    pub(crate) fn open(
        path: &Path,
        key: &str,
        shape: ImageShape,
        n_workers: usize,
    ) -> Result<Pack, PackProblem> {
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => PackProblem::Missing,
            _ => PackProblem::Refused(format!("cannot be read: {error}")),
        };
        let map = Bytes::of(path).map_err(refused)?;
        let pack = Pack::parse(map, key, shape)?;
        let pack = Arc::new(pack);
        pack.verify(n_workers)?;
        // The threads that held the other references have ended with their pipeline.
        Arc::into_inner(pack).ok_or_else(|| PackProblem::Refused("is still in use".to_owned()))
    }

    fn parse(map: Bytes, key: &str, shape: ImageShape) -> Result<Pack, PackProblem> {
        let damaged = |what: &dyn fmt::Display| PackProblem::Damaged(what.to_string());
        let (_, header) = SafeTensors::read_metadata(&map).map_err(|error| damaged(&error))?;
        let no_metadata = HashMap::new();
        let metadata = header.metadata().as_ref().unwrap_or(&no_metadata);
        let value = |key: &str| metadata.get(key).map(String::as_str);
        if value("format") != Some(FORMAT) || value("key") != Some(key) {
            return Err(PackProblem::Outdated);
        }
        let tensors = SafeTensors::deserialize(&map).map_err(|error| damaged(&error))?;
        let tensor = |name| tensors.tensor(name).map_err(|error| damaged(&error));
        let (images, crcs, files) = (tensor("images")?, tensor("crc32")?, tensor("files")?);

        let sides = [shape.channels, shape.height, shape.width].map(|side| side as usize);
        let n_bytes: usize = sides.iter().product();
        let n_images = images.shape().first().copied().unwrap_or(0);
        let is_right = is_u8(&images, &[&[n_images], &sides[..]].concat())
            && is_u8(&crcs, &[n_images, 4])
            && files.dtype() == Dtype::U8
            && offset(&map, &images) == HEADER_BYTES
            && offset(&map, &crcs) == HEADER_BYTES + n_images * n_bytes;
        if !is_right {
            return Err(damaged(&"its tensors have wrong shapes"));
        }
        if value("files_crc32") != Some(&format!("{:08x}", crc32fast::hash(files.data()))) {
            return Err(damaged(&"the list of its files has a wrong checksum"));
        }
        let list: FileList =
            serde_json::from_slice(files.data()).map_err(|error| damaged(&error))?;
        if list.names.len() != n_images {
            return Err(damaged(&"the list of its files has a wrong length"));
        }
        let bad = list.bad.into_iter();
        Ok(Pack {
            shape,
            n_images,
            n_bytes,
            names: list.names,
            bad: bad.map(|(name, reason)| BadFile { name, reason }).collect(),
            n_touched: AtomicUsize::new(0),
            map,
        })
    }

    /// Compares every image with its checksum.
    fn verify(self: &Arc<Self>, n_workers: usize) -> Result<(), PackProblem> {
        let n_jobs = self.n_images.div_ceil(CHUNK);
        let altered = Pipeline::start(0..n_jobs, n_workers, || {
            let pack = Arc::clone(self);
            move |job| {
                let last = pack.n_images.min((job + 1) * CHUNK);
                (job * CHUNK..last).find(|&i| !pack.is_whole(i))
            }
        })
        .flatten()
        .next();
        match altered {
            Some(i) => Err(PackProblem::Damaged(format!(
                "the image of {} has a wrong checksum",
                self.names[i]
            ))),
            None => Ok(()),
        }
    }

    fn is_whole(&self, i: usize) -> bool {
        let crcs = HEADER_BYTES + self.n_images * self.n_bytes;
        let found = crc32fast::hash(self.image(i)).to_le_bytes();
        let is_whole = self.map[crcs + 4 * i..][..4] == found;
        self.touched();
        is_whole
    }

    fn image(&self, i: usize) -> &[u8] {
        &self.map[HEADER_BYTES + i * self.n_bytes..][..self.n_bytes]
    }

    /// Writes image `i` [C, H, W] to `out`.
    pub(crate) fn read(&self, i: usize, out: &mut [u8]) {
        out.copy_from_slice(self.image(i));
        self.touched();
    }

    /// Counts one more image as mapped, and releases the pages if there are too many.
    fn touched(&self) {
        let n_bytes = self.n_bytes + BYTES_AROUND;
        let before = self.n_touched.fetch_add(n_bytes, Ordering::Relaxed);
        if before + n_bytes >= MAPPED_BYTES {
            self.n_touched.store(0, Ordering::Relaxed);
            #[cfg(unix)]
            if let Bytes::Mapped(map) = &self.map {
                // SAFETY: the map is shared, of a file, and never written to, so the next access finds the same
                // bytes. If the system refuses, the pages stay mapped.
                let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            }
        }
    }
}

impl ImageStore for Pack {
    fn shape(&self) -> ImageShape {
        self.shape
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn n_workers(&self) -> usize {
        1 // One thread already reads faster than any model trains.
    }

    fn reader(self: Arc<Self>) -> Box<dyn StoreReader> {
        Box::new(self)
    }

    fn bad(&self) -> &[BadFile] {
        &self.bad
    }
}

impl StoreReader for Arc<Pack> {
    fn read(&mut self, id: usize, out: &mut [u8]) -> Result<(), DataError> {
        Pack::read(self, id, out);
        Ok(())
    }
}

fn is_u8(tensor: &TensorView, shape: &[usize]) -> bool {
    tensor.dtype() == Dtype::U8 && tensor.shape() == shape
}

/// Where a tensor's data begins in the file.
fn offset(map: &[u8], tensor: &TensorView) -> usize {
    tensor.data().as_ptr().addr() - map.as_ptr().addr()
}

/// The tensor `files`.
#[derive(serde::Serialize, serde::Deserialize)]
struct FileList {
    names: Vec<String>,
    bad: Vec<(String, String)>,
}

/// Why a pack was not written.
#[derive(Debug)]
pub(crate) enum NotWritten<E> {
    /// The file system refuses.
    Refused(PackProblem),
    /// The observer stopped it.
    Stopped(E),
}

impl<E> From<io::Error> for NotWritten<E> {
    fn from(error: io::Error) -> NotWritten<E> {
        NotWritten::Refused(PackProblem::Refused(format!("cannot be written: {error}")))
    }
}

/// How far a pack is that is being written.
#[derive(Clone, Copy, Debug)]
pub struct PackProgress<'a> {
    /// The pack.
    pub path: &'a Path,
    /// Files that are in it or bad.
    pub n_done: usize,
    /// Files in all.
    pub n_files: usize,
    /// Bytes of the pixels of all files.
    pub n_bytes: u64,
}

type Watch = Box<dyn Fn(PackProgress) + Send + Sync>;

static WATCH: OnceLock<Watch> = OnceLock::new();

/// Sets the function that is told how far a pack is, for the whole process; only the first call counts. For programs that show
/// it.
pub fn watch_packs(watch: impl Fn(PackProgress) + Send + Sync + 'static) {
    let _ = WATCH.set(Box::new(watch));
}

/// Writes a pack of the images in `chunks`, and returns the bad files. The file gets its name only after it is
/// complete and on the disk. `on_chunk` is called after every chunk with the bad files so far.
pub(crate) fn write<E>(
    path: &Path,
    source: &Contents,
    key: &str,
    chunks: Pipeline<Chunk>,
    mut on_chunk: impl FnMut(&[BadFile]) -> Result<(), E>,
) -> Result<Vec<BadFile>, NotWritten<E>> {
    let entries = source.files.entries();
    let folder = files::parent(path);
    check_space(folder, entries.len() as u64 * source.n_bytes() as u64)
        .map_err(NotWritten::Refused)?;

    PARTIAL.remove_abandoned(folder);
    let mut partial = PARTIAL.file_in(folder)?;
    let mut file = BufWriter::with_capacity(1 << 20, partial.as_file_mut());
    file.write_all(&[b' '; HEADER_BYTES])?;
    let mut crcs = Vec::new();
    let mut list = FileList {
        names: Vec::new(),
        bad: Vec::new(),
    };
    let mut bad = Vec::new();
    let mut remaining = entries.iter();
    let report = |n_done: usize| {
        if let Some(watch) = WATCH.get() {
            watch(PackProgress {
                path,
                n_done,
                n_files: entries.len(),
                n_bytes: entries.len() as u64 * source.n_bytes() as u64,
            });
        }
    };
    report(0);
    for chunk in chunks {
        file.write_all(&chunk.pixels)?;
        for (result, entry) in chunk.files.into_iter().zip(&mut remaining) {
            match result {
                Ok(crc) => {
                    crcs.extend(crc.to_le_bytes());
                    list.names.push(entry.name.clone());
                }
                Err(reason) => bad.push(BadFile {
                    name: entry.name.clone(),
                    reason,
                }),
            }
        }
        report(entries.len() - remaining.len());
        on_chunk(&bad).map_err(NotWritten::Stopped)?;
    }
    let pair = |file: &BadFile| (file.name.clone(), file.reason.clone());
    list.bad = bad.iter().map(pair).collect();
    let files = serde_json::to_vec(&list).map_err(io::Error::from)?;
    file.write_all(&crcs)?;
    file.write_all(&files)?;
    let header = header(source, key, list.names.len(), &files)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    file.flush()?;
    drop(file);
    files::persist(partial, path)?;
    Ok(bad)
}

/// The first [`HEADER_BYTES`] of the file.
fn header(source: &Contents, key: &str, n_images: usize, files: &[u8]) -> io::Result<Vec<u8>> {
    let shape = source.shape;
    let images = n_images * source.n_bytes();
    let crcs = images + 4 * n_images;
    let tensor = |shape: &[i64], start, end| json!({ "dtype": "U8", "shape": shape, "data_offsets": [start, end] });
    let header = json!({
        "__metadata__": {
            "format": FORMAT,
            "key": key,
            "transform": source.transform,
            "files_crc32": format!("{:08x}", crc32fast::hash(files)),
        },
        "images": tensor(&[n_images as i64, shape.channels, shape.height, shape.width], 0, images),
        "crc32": tensor(&[n_images as i64, 4], images, crcs),
        "files": tensor(&[files.len() as i64], crcs, crcs + files.len()),
    });
    let json = serde_json::to_vec(&header)?;
    let length = HEADER_BYTES - 8;
    if json.len() > length {
        return Err(io::Error::other("its header is too long"));
    }
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes.resize(HEADER_BYTES, b' ');
    Ok(bytes)
}

/// The name of a pack until it is complete.
pub(super) const PARTIAL: TemporaryName = TemporaryName {
    prefix: ".pack-",
    suffix: ".partial",
};

fn check_space(folder: &Path, n_bytes: u64) -> Result<(), PackProblem> {
    let Ok(free) = fs4::available_space(folder) else {
        return Ok(()); // Unknown; a full disk shows when the pack is written.
    };
    let wanted = n_bytes + SPARE_BYTES;
    if free < wanted {
        return Err(PackProblem::Refused(format!(
            "cannot be written: {} MiB are free, it needs {} MiB",
            free >> 20,
            wanted >> 20
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma};

    use super::*;
    use crate::image_folder::ImageSize;
    use crate::image_folder::entry::Media;
    use crate::image_folder::source::Source;
    use crate::image_folder::transform::{Crop, Transform};

    #[test]
    fn a_pack_that_cannot_be_mapped_is_read_and_gives_the_same_images() {
        let folder = tempfile::tempdir().unwrap();
        let photos = folder.path().join("photos");
        std::fs::create_dir(&photos).unwrap();
        for i in 0..3_u8 {
            let image = GrayImage::from_fn(5, 4, |x, y| Luma([40 * i + 5 * x as u8 + y as u8]));
            image.save(photos.join(format!("{i}.png"))).unwrap();
        }
        let (files, bad) = Files::scan(&photos, Media::Images).unwrap();
        assert!(bad.is_empty());
        let source = Arc::new(Source {
            files: Arc::new(files),
            transform: Transform {
                crop: Crop::Fraction(1.0),
                size: ImageSize {
                    height: 4,
                    width: 5,
                },
                grayscale: true,
            },
            max_pixels: 1 << 20,
        });
        let transform = source.transform_json();
        let contents = source.contents(&transform);
        let (path, key) = (folder.path().join("pack"), key(&contents));
        let written = write(&path, &contents, &key, source.decode_all(1), |_| {
            Ok::<(), ()>(())
        });
        assert!(written.unwrap().is_empty());

        let shape = source.transform.shape();
        let mapped = Pack::open(&path, &key, shape, 1).unwrap();
        assert!(matches!(mapped.map, Bytes::Mapped(_)));
        let refused = |_: &File| Err(io::Error::from(io::ErrorKind::Unsupported));
        let bytes = Bytes::mapped_or_read(&path, refused).unwrap();
        assert!(matches!(bytes, Bytes::InMemory(_)));
        let read = Arc::new(Pack::parse(bytes, &key, shape).unwrap());
        read.verify(2).unwrap();
        assert_eq!(read.names(), mapped.names());
        for i in 0..3 {
            let (mut a, mut b) = ([0; 20], [0; 20]);
            mapped.read(i, &mut a);
            Pack::read(&read, i, &mut b);
            assert_eq!(a, b);
            assert_eq!(a[0], 40 * i as u8);
        }
        // A changed byte is detected in memory, too.
        let mut damaged = std::fs::read(&path).unwrap();
        damaged[HEADER_BYTES] ^= 1;
        let damaged = Pack::parse(Bytes::InMemory(damaged), &key, shape).unwrap();
        assert!(Arc::new(damaged).verify(1).is_err());
    }
}
