//! `cargo xtask fetch-data sprites`: shapes on black whose every factor is known, drawn here.
//!
//! The file is laid out as dSprites' own (Matthey et al. 2017, *dSprites: Disentanglement testing
//! Sprites dataset*), so that programs for the one take the other; the pictures are ours.

use std::f64::consts::TAU;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use crate::download::partial_path;
use crate::progress;
use crate::workspace::Workspace;

/// The data set's name.
pub(super) const NAME: &str = "sprites";

/// The file in its folder.
pub(super) const FILE: &str = "sprites.npz";

/// Rows and columns of a picture.
const SIDE: usize = 64;

/// Pixels of a picture.
const N_PIXELS: usize = SIDE * SIDE;

/// Values of color, shape, scale, orientation, position x and position y; the last changes fastest.
const SIZES: [usize; 6] = [1, 3, 6, 40, 32, 32];

/// Pictures.
const N: usize = SIZES[0] * SIZES[1] * SIZES[2] * SIZES[3] * SIZES[4] * SIZES[5];

/// Where a sprite's center lies at position 0, in pixels from the edge: amid a pixel. A step of position
/// is a pixel, so that a picture is one of 720 sprites, moved, and position 31 is as far from the other
/// edge.
const FIRST_CENTER: f64 = 16.5;

/// Samples along a pixel's side: a pixel is white where more than half of its samples are.
const SAMPLES: usize = 8;

#[derive(Clone, Copy, Debug)]
enum Shape {
    Square,
    Ellipse,
    Heart,
}

impl Shape {
    /// In the order of the classes.
    const ALL: [Shape; SIZES[1]] = [Shape::Square, Shape::Ellipse, Shape::Heart];

    /// Whether it covers a point, in pixels from its center, x to the right and y down, at scale 1 and
    /// orientation 0. None reaches farther than 14 pixels.
    fn covers(self, x: f64, y: f64) -> bool {
        match self {
            Shape::Square => x.abs() < 9.5 && y.abs() < 9.5,
            Shape::Ellipse => (x / 13.5).powi(2) + (y / 7.0).powi(2) < 1.0,
            // (x² + y² − 1)³ < x²y³, the tip below.
            Shape::Heart => {
                let (x, y) = (x / 9.0, 0.12 - y / 9.0);
                (x * x + y * y - 1.0).powi(3) < x * x * y.powi(3)
            }
        }
    }
}

/// The value of a factor at a class, as the array `latents_values` has it.
fn value(factor: usize, class: usize) -> f64 {
    let share = class as f64 / (SIZES[factor].max(2) - 1) as f64;
    match factor {
        0 => 1.0,
        1 => class as f64 + 1.0,
        2 => 0.5 + 0.5 * share,
        3 => TAU * share,
        _ => share,
    }
}

/// The classes of all factors of picture `i`.
fn classes(i: usize) -> [usize; 6] {
    let mut rest = i;
    let mut classes = [0; 6];
    for (class, size) in classes.iter_mut().zip(SIZES).rev() {
        *class = rest % size;
        rest /= size;
    }
    classes
}

/// A sprite at the first position: 0 and 1, row by row.
fn draw(shape: Shape, scale: f64, orientation: f64) -> Vec<u8> {
    let (sin, cos) = orientation.sin_cos();
    let from_center = |pixel: usize, sample: usize| {
        pixel as f64 + (sample as f64 + 0.5) / SAMPLES as f64 - FIRST_CENTER
    };
    let is_white = |row: usize, column: usize| {
        let samples = (0..SAMPLES * SAMPLES).filter(|sample| {
            let x = from_center(column, sample % SAMPLES) / scale;
            let y = from_center(row, sample / SAMPLES) / scale;
            shape.covers(cos * x + sin * y, cos * y - sin * x)
        });
        samples.count() > SAMPLES * SAMPLES / 2
    };
    let mut pixels = vec![0; N_PIXELS];
    // Nothing reaches beyond.
    let reached = 2 * FIRST_CENTER as usize;
    for row in 0..reached {
        for column in 0..reached {
            pixels[row * SIDE + column] = u8::from(is_white(row, column));
        }
    }
    pixels
}

/// The picture of `sprite` moved by `right` and `down` pixels.
fn moved(sprite: &[u8], right: usize, down: usize, picture: &mut [u8]) {
    picture.fill(0);
    let n_rows = SIDE - down;
    let rows = picture[down * SIDE..].chunks_exact_mut(SIDE);
    for (to, from) in rows.zip(sprite.chunks_exact(SIDE)).take(n_rows) {
        to[right..].copy_from_slice(&from[..SIDE - right]);
    }
}

/// The beginning of an array in numpy's format, version 1.0.
fn npy_header(kind: &str, shape: &str) -> Vec<u8> {
    let mut text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    // All of it a multiple of 64 bytes, with the line's end.
    let n_before = 10;
    let padding = 63 - (n_before + text.len()) % 64;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}

/// The members, and how each begins.
fn headers() -> [(&'static str, Vec<u8>, usize); 3] {
    let [images, table] = [
        format!("{N}, {SIDE}, {SIDE}"),
        format!("{N}, {}", SIZES.len()),
    ];
    [
        ("imgs.npy", npy_header("|u1", &images), N * N_PIXELS),
        (
            "latents_classes.npy",
            npy_header("<i8", &table),
            N * SIZES.len() * 8,
        ),
        (
            "latents_values.npy",
            npy_header("<f8", &table),
            N * SIZES.len() * 8,
        ),
    ]
}

/// Writes the whole file. The same bytes at every call.
fn write(file: impl Write + Seek, bar: &ProgressBar) -> Result<()> {
    let mut archive = ZipWriter::new(file);
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default());
    for (name, header, _) in headers() {
        archive.start_file(name, options)?;
        archive.write_all(&header)?;
        match name {
            "imgs.npy" => write_images(&mut archive, bar)?,
            "latents_classes.npy" => {
                write_table(&mut archive, bar, |_, class| (class as i64).to_le_bytes())?
            }
            _ => write_table(&mut archive, bar, |factor, class| {
                value(factor, class).to_le_bytes()
            })?,
        }
    }
    archive.finish()?.flush()?;
    Ok(())
}

fn write_images(out: &mut impl Write, bar: &ProgressBar) -> io::Result<()> {
    let [_, _, n_scales, n_orientations, n_x, n_y] = SIZES;
    let mut picture = vec![0; N_PIXELS];
    for shape in Shape::ALL {
        for scale in 0..n_scales {
            for orientation in 0..n_orientations {
                let sprite = draw(shape, value(2, scale), value(3, orientation));
                for x in 0..n_x {
                    for y in 0..n_y {
                        moved(&sprite, x, y, &mut picture);
                        out.write_all(&picture)?;
                    }
                }
                bar.inc((n_x * n_y * N_PIXELS) as u64);
            }
        }
    }
    Ok(())
}

/// A row of six for each picture.
fn write_table(
    out: &mut impl Write,
    bar: &ProgressBar,
    number: impl Fn(usize, usize) -> [u8; 8],
) -> io::Result<()> {
    for i in 0..N {
        let row: Vec<u8> = classes(i)
            .into_iter()
            .enumerate()
            .flat_map(|(factor, class)| number(factor, class))
            .collect();
        out.write_all(&row)?;
        bar.inc(row.len() as u64);
    }
    Ok(())
}

/// Reads every byte of a file and compares its checksums, and what it holds with what is wanted here or
/// of dSprites itself.
fn check(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut archive = ZipArchive::new(BufReader::new(file))
        .with_context(|| format!("{} is no zip that can be read", path.display()))?;
    let bar = progress::bytes(&format!("checking {FILE}"), Some(n_bytes()));
    for (name, header, n_bytes) in headers() {
        let damaged = || format!("{}: {name} is damaged", path.display());
        let mut member = archive
            .by_name(name)
            .with_context(|| format!("{} holds no {name}", path.display()))?;
        // The text behind the length, without its padding: other versions of numpy pad otherwise.
        let mut begin = [0; 10];
        member.read_exact(&mut begin).with_context(damaged)?;
        let mut text = vec![0; usize::from(u16::from_le_bytes([begin[8], begin[9]]))];
        member.read_exact(&mut text).with_context(damaged)?;
        let (found, wanted) = (
            String::from_utf8_lossy(&text),
            String::from_utf8_lossy(&header[10..]),
        );
        ensure!(
            begin[..8] == header[..8] && found.trim_end() == wanted.trim_end(),
            "{}: {name} begins with {}, expected {}",
            path.display(),
            found.trim_end(),
            wanted.trim_end()
        );
        let found = io::copy(&mut bar.wrap_read(member), &mut io::sink()).with_context(damaged)?;
        ensure!(
            found == n_bytes as u64,
            "{}: {name} holds {found} bytes, expected {n_bytes}",
            path.display()
        );
    }
    bar.finish_and_clear();
    Ok(())
}

fn n_bytes() -> u64 {
    headers()
        .iter()
        .map(|(_, _, n_bytes)| *n_bytes as u64)
        .sum()
}

/// Put the sprites into `datasets/sprites`, unless they are there: drawn, or the user's own file of the
/// same layout.
///
/// # Errors
/// The file system refuses, or the file at `from` has another layout.
pub(super) fn fetch(workspace: &Workspace, from: Option<&Path>) -> Result<()> {
    eprintln!(
        "{NAME}: {N} pictures of {SIDE}×{SIDE}: a square, an ellipse or a heart, of which all is known (drawn here)"
    );
    let folder = workspace.datasets().join(NAME);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    put(&folder.join(FILE), from)?;
    eprintln!("{NAME}: {} holds {FILE}", workspace.shown(&folder));
    Ok(())
}

fn put(path: &Path, from: Option<&Path>) -> Result<()> {
    if path.is_file() && from.is_none() {
        match check(path) {
            Ok(()) => return Ok(()),
            Err(reason) => eprintln!("  {reason:#}: it is drawn again"),
        }
    }
    let partial = partial_path(path);
    let written = make(&partial, from).and_then(|()| {
        fs::rename(&partial, path).with_context(|| format!("cannot rename {}", partial.display()))
    });
    if written.is_err() {
        // The failure is reported; a file that cannot be removed is overwritten next time.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn make(partial: &Path, from: Option<&Path>) -> Result<()> {
    let refused = || format!("cannot write {}", partial.display());
    if let Some(from) = from {
        if from.is_dir() {
            bail!("{} is a folder, expected the .npz itself", from.display());
        }
        check(from)?;
        fs::copy(from, partial).with_context(refused)?;
        return Ok(());
    }
    let file = File::create(partial).with_context(refused)?;
    let bar = progress::bytes(&format!("drawing {FILE}"), Some(n_bytes()));
    write(BufWriter::with_capacity(1 << 20, &file), &bar).with_context(refused)?;
    bar.finish_and_clear();
    file.sync_all().with_context(refused)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn sprites() -> Vec<(Shape, usize, usize, Vec<u8>)> {
        let mut sprites = Vec::new();
        for shape in Shape::ALL {
            for scale in 0..SIZES[2] {
                for orientation in 0..SIZES[3] {
                    let pixels = draw(shape, value(2, scale), value(3, orientation));
                    sprites.push((shape, scale, orientation, pixels));
                }
            }
        }
        sprites
    }

    #[test]
    fn a_step_of_one_factor_is_another_picture_but_a_whole_turn_is_not() {
        let all = sprites();
        for turn in all.chunks(SIZES[3]) {
            let name = format!("{:?} {}", turn[0].0, turn[0].1);
            assert_eq!(turn[0].3, turn[SIZES[3] - 1].3, "{name}: 0 and 2π");
            let differ = turn.windows(2).all(|pair| pair[0].3 != pair[1].3);
            assert!(differ, "{name}: orientation");
        }
        for step in [SIZES[3], SIZES[2] * SIZES[3]] {
            assert!(all.iter().zip(&all[step..]).all(|(a, b)| a.3 != b.3));
        }
        // A square is symmetric under a quarter turn, so that small ones coincide at other angles too.
        let hearts = &all[2 * SIZES[2] * SIZES[3]..];
        let distinct: HashSet<&[u8]> = hearts.iter().map(|sprite| &sprite.3[..]).collect();
        assert_eq!(distinct.len(), SIZES[2] * (SIZES[3] - 1));
    }

    #[test]
    fn nothing_leaves_the_picture() {
        let mut picture = vec![0; N_PIXELS];
        for (shape, scale, orientation, sprite) in sprites() {
            let area = sprite.iter().filter(|&&pixel| pixel == 1).count();
            for (right, down) in [(0, 0), (31, 0), (0, 31), (31, 31)] {
                moved(&sprite, right, down, &mut picture);
                let name = format!("{shape:?} {scale} {orientation} at {right}, {down}");
                let found = picture.iter().filter(|&&pixel| pixel == 1).count();
                assert_eq!(found, area, "{name}");
                let edge =
                    (0..SIDE).flat_map(|i| [i, N_PIXELS - SIDE + i, i * SIDE, i * SIDE + SIDE - 1]);
                assert!(edge.map(|i| picture[i]).all(|pixel| pixel == 0), "{name}");
            }
        }
    }

    #[test]
    fn an_upright_square_has_the_sides_it_should() {
        // 19 pixels about the middle of pixel 16: from 7 to 26.
        let square = draw(Shape::Square, 1.0, 0.0);
        let is_inside = |i: usize| (7..26).contains(&(i / SIDE)) && (7..26).contains(&(i % SIDE));
        for (i, &pixel) in square.iter().enumerate() {
            assert_eq!(pixel == 1, is_inside(i), "{i}");
        }
    }

    #[test]
    fn areas_grow_with_the_square_of_the_scale() {
        for shape in Shape::ALL {
            let area = |scale| {
                draw(shape, scale, 1.0)
                    .iter()
                    .map(|&p| f64::from(p))
                    .sum::<f64>()
            };
            let ratio = area(1.0) / area(0.5);
            assert!((ratio - 4.0).abs() < 0.4, "{shape:?}: {ratio}");
        }
    }

    #[test]
    fn the_last_factor_changes_fastest() {
        assert_eq!(classes(0), [0; 6]);
        assert_eq!(classes(1), [0, 0, 0, 0, 0, 1]);
        assert_eq!(classes(32), [0, 0, 0, 0, 1, 0]);
        assert_eq!(classes(N - 1), [0, 2, 5, 39, 31, 31]);
        assert_eq!(value(2, 0), 0.5);
        assert_eq!(value(2, 5), 1.0);
        assert_eq!(value(3, 39), TAU);
        assert_eq!(value(5, 31), 1.0);
    }

    #[test]
    fn a_header_is_a_multiple_of_64_bytes() {
        for (name, header, _) in headers() {
            assert_eq!(header.len() % 64, 0, "{name}");
            assert_eq!(header.last(), Some(&b'\n'), "{name}");
        }
    }

    #[test]
    fn what_is_no_such_file_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (mine, path) = (folder.path().join("mine.npz"), folder.path().join(FILE));
        fs::write(&mine, "no zip").unwrap();
        let error = format!("{:#}", put(&path, Some(&mine)).unwrap_err());
        assert!(error.contains("mine.npz is no zip"), "{error}");
        let mut archive = ZipWriter::new(File::create(&mine).unwrap());
        archive
            .start_file("imgs.npy", SimpleFileOptions::default())
            .unwrap();
        archive.write_all(&npy_header("|u1", "5, 64, 64")).unwrap();
        archive.finish().unwrap();
        let error = format!("{:#}", put(&path, Some(&mine)).unwrap_err());
        let wanted = "'shape': (5, 64, 64), }, expected {'descr': '|u1'";
        assert!(error.contains(wanted), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
