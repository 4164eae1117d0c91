//! Thousands of damaged idx files: each gives the data that its bytes describe or an error, and none makes the reader
//! allocate much more than a small file needs.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use tempfile::TempDir;
use vae_data::derive_seed;
use vae_data::idx::{IdxImages, read_images, read_labels};

use crate::common::{gzip, image_file, label_file, put};

/// Counts the live bytes of each thread, and their peak.
struct CountingAllocator;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // Fails only while a thread ends, after the test.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + change);
        PEAK.with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: each call is forwarded unchanged; counting neither allocates nor panics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller upholds `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller upholds `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The result of `read`, and the peak of the bytes allocated by it.
fn with_peak<T>(read: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = read();
    (result, (PEAK.get() - before) as usize)
}

/// The initial buffer, the decompressor's state, and room for the few bytes of these files.
const PEAK_OF_A_SMALL_FILE: usize = 256 * 1024;

/// The content of a file with these bytes by the format's definition: an independent reader without checks.
fn definition(bytes: &[u8], magic: u32, n_words: usize) -> Option<(Vec<u32>, Vec<u8>)> {
    let mut content = bytes.to_vec();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        content.clear();
        MultiGzDecoder::new(bytes).read_to_end(&mut content).ok()?;
    }
    let (header, rest) = content.split_at_checked(4 * n_words)?;
    let words: Vec<u32> = header
        .chunks(4)
        .map(|word| u32::from_be_bytes(word.try_into().expect("4 bytes")))
        .collect();
    let promised: u128 = words[1..].iter().map(|&word| u128::from(word)).product();
    let sides_fit = words.iter().skip(2).all(|&side| side <= 4096);
    let is_right = words[0] == magic && promised > 0 && promised == rest.len() as u128 && sides_fit;
    is_right.then(|| (words, rest.to_vec()))
}

/// Reads `bytes` as images and as labels; returns whether either was accepted.
fn check(folder: &Path, bytes: &[u8]) -> bool {
    let path = put(folder, "damaged", bytes);
    let (images, images_peak) = with_peak(|| read_images(&path).ok());
    let wanted_images = definition(bytes, 0x803, 4).map(|(words, pixels)| IdxImages {
        n_images: words[1] as usize,
        height: words[2] as usize,
        width: words[3] as usize,
        pixels,
    });
    assert_eq!(images, wanted_images, "{bytes:x?}");

    let (labels, labels_peak) = with_peak(|| read_labels(&path).ok());
    let wanted_labels = definition(bytes, 0x801, 2).map(|(_, labels)| labels);
    assert_eq!(labels, wanted_labels, "{bytes:x?}");

    let peak = images_peak.max(labels_peak);
    assert!(peak < PEAK_OF_A_SMALL_FILE, "{peak} bytes for {bytes:x?}");
    images.is_some() || labels.is_some()
}

fn valid_files() -> Vec<Vec<u8>> {
    let pixels: Vec<u8> = (0..3 * 5 * 4).map(|i| i * 4).collect();
    let images = image_file(3, 5, 4, &pixels);
    let labels = label_file(&[5, 0, 4, 1, 9, 2, 1, 3]);
    let (start, end) = images.split_at(20);
    let two_members = [gzip(start), gzip(end)].concat();
    vec![gzip(&images), gzip(&labels), images, labels, two_members]
}

/// Numbers that are small, at the limits of the format, or cause overflow.
const EXTREMES: [u32; 10] = [
    0,
    1,
    3,
    4096,
    4097,
    0xffff,
    0x0100_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
];

#[test]
fn valid_files_are_accepted() {
    let folder = TempDir::new().unwrap();
    for file in valid_files() {
        assert!(check(folder.path(), &file));
    }
}

#[test]
fn each_flipped_bit_gives_an_error_or_what_the_bytes_say() {
    let folder = TempDir::new().unwrap();
    for file in valid_files() {
        let is_gzip = file.starts_with(&[0x1f, 0x8b]);
        let original = definition(&file, 0x803, 4).or_else(|| definition(&file, 0x801, 2));
        for bit in 0..8 * file.len() {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let is_accepted = check(folder.path(), &damaged);
            // The checksum accepts no other data; only flips in gzip's metadata (time, system) pass.
            if is_gzip && is_accepted {
                let read =
                    definition(&damaged, 0x803, 4).or_else(|| definition(&damaged, 0x801, 2));
                assert_eq!(read, original, "bit {bit}");
            }
        }
    }
}

#[test]
fn no_part_of_a_file_is_accepted() {
    let folder = TempDir::new().unwrap();
    for file in valid_files() {
        for length in 0..file.len() {
            assert!(
                !check(folder.path(), &file[..length]),
                "{length} of {} bytes",
                file.len()
            );
        }
    }
}

#[test]
fn a_file_with_bytes_after_its_end_is_refused() {
    let folder = TempDir::new().unwrap();
    for file in valid_files() {
        for appended in [&[0][..], &[0x1f], &[0x1f, 0x8b], &[7; 9], &[0; 5000], &file] {
            assert!(!check(folder.path(), &[&file, appended].concat()));
        }
    }
}

#[test]
fn an_empty_gzip_member_after_the_data_is_harmless() {
    let folder = TempDir::new().unwrap();
    for file in valid_files()
        .into_iter()
        .filter(|file| file.starts_with(&[0x1f, 0x8b]))
    {
        assert!(check(folder.path(), &[file, gzip(&[])].concat()));
    }
}

#[test]
fn extreme_numbers_in_the_header_give_an_error_or_what_the_bytes_say() {
    let folder = TempDir::new().unwrap();
    let pixels = [9; 60];
    for n_images in EXTREMES {
        let mut labels = label_file(&pixels);
        labels[4..8].copy_from_slice(&n_images.to_be_bytes());
        check(folder.path(), &labels);
        check(folder.path(), &gzip(&labels));
        for height in EXTREMES {
            for width in EXTREMES {
                let images = image_file(n_images, height, width, &pixels);
                check(folder.path(), &images);
                check(folder.path(), &gzip(&images));
            }
        }
    }
}

#[test]
fn files_with_several_wrong_bytes_give_an_error_or_what_the_bytes_say() {
    let folder = TempDir::new().unwrap();
    for (n, file) in valid_files().into_iter().enumerate() {
        for case in 0..1000 {
            let mut number = 0;
            let mut random_below = |bound: usize| {
                number += 1;
                let purpose = format!("damage {n} {number}");
                (derive_seed(1, case, &purpose) % bound as u64) as usize
            };
            let mut damaged = file.clone();
            for _ in 0..1 + random_below(4) {
                let at = random_below(damaged.len());
                match random_below(4) {
                    0 => damaged[at] = random_below(256) as u8,
                    1 => drop(damaged.remove(at)),
                    2 => damaged.insert(at, random_below(256) as u8),
                    _ => {
                        let end = damaged.len().min(at + 4);
                        let extreme = EXTREMES[random_below(EXTREMES.len())].to_be_bytes();
                        damaged[at..end].copy_from_slice(&extreme[..end - at]);
                    }
                }
            }
            check(folder.path(), &damaged);
        }
    }
}

#[test]
fn memory_follows_the_bytes_that_decode_not_those_promised() {
    let folder = TempDir::new().unwrap();
    // The header declares 3 GB; 1 MB is decoded, from a file of about 1 kB.
    let n_bytes = 1_000_000;
    let bomb = gzip(&image_file(3000, 1000, 1000, &vec![0; n_bytes]));
    assert!(bomb.len() < 2000);
    let path = put(folder.path(), "bomb", &bomb);
    let (result, peak) = with_peak(|| read_images(&path));
    assert!(result.is_err());
    // A buffer of at most twice the data, and the previous one of half that size while it is copied.
    assert!(peak < 3 * n_bytes + PEAK_OF_A_SMALL_FILE, "{peak} bytes");

    // The header declares 100 bytes; the reader stops at the first excess byte.
    let path = put(
        folder.path(),
        "overfull",
        &gzip(&image_file(1, 10, 10, &vec![0; n_bytes])),
    );
    let (result, peak) = with_peak(|| read_images(&path));
    assert!(result.is_err());
    assert!(peak < PEAK_OF_A_SMALL_FILE, "{peak} bytes");
}
