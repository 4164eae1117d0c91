//! Unpacking chosen files of a zip archive.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use zip::ZipArchive;

use crate::progress;

/// Unpack from `archive` into `folder` every file for which `place` names a destination. The
/// archive's checksum of each is verified on the way.
///
/// # Errors
/// If the archive is damaged, a destination would be outside of `folder`, or a file cannot be
/// written.
pub(super) fn extract(
    archive: &Path,
    folder: &Path,
    place: impl Fn(&str) -> Option<PathBuf>,
) -> Result<()> {
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let file = File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    let mut zip = ZipArchive::new(io::BufReader::new(file))
        .with_context(|| format!("{name} is no whole zip archive"))?;
    let bar = progress::bytes(&format!("unpacking {name}"), None);
    for index in 0..zip.len() {
        let mut entry = zip
            .by_index(index)
            .with_context(|| format!("{name}: entry {index} is damaged"))?;
        if entry.is_dir() {
            continue;
        }
        let inside = entry
            .name()
            .with_context(|| format!("{name}: entry {index} has no name"))?
            .into_owned();
        let Some(destination) = place(&inside) else {
            continue;
        };
        ensure!(
            entry.enclosed_name().is_some(),
            "{name}: {inside} points outside of the archive"
        );
        let path = folder.join(destination);
        let mut write = || -> io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            // Reading to the end compares the entry's CRC-32.
            io::copy(&mut bar.wrap_read(&mut entry), &mut File::create(&path)?)?;
            Ok(())
        };
        write().with_context(|| format!("{name}: cannot unpack {}", path.display()))?;
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::write::SimpleFileOptions;

    use super::*;

    fn archive_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        // Stored, so that a test can find and damage the bytes.
        let options =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        for (name, content) in files {
            zip.start_file(*name, options).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn extract_bytes(
        bytes: &[u8],
        place: impl Fn(&str) -> Option<PathBuf>,
    ) -> (tempfile::TempDir, Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zip");
        fs::write(&path, bytes).unwrap();
        let outcome = extract(&path, &folder.path().join("out"), place);
        (folder, outcome)
    }

    #[test]
    fn only_chosen_files_are_unpacked_where_they_are_placed() {
        let bytes = archive_of(&[("a/keep.txt", b"kept"), ("a/drop.txt", b"dropped")]);
        let (folder, outcome) = extract_bytes(&bytes, |name| {
            name.ends_with("keep.txt").then(|| PathBuf::from("x/y.txt"))
        });
        outcome.unwrap();
        assert_eq!(
            fs::read(folder.path().join("out/x/y.txt")).unwrap(),
            b"kept"
        );
        assert_eq!(fs::read_dir(folder.path().join("out")).unwrap().count(), 1);
    }

    #[test]
    fn a_changed_byte_is_an_error() {
        let mut bytes = archive_of(&[("keep.txt", b"the original")]);
        let position = bytes
            .windows(12)
            .position(|window| window == b"the original")
            .unwrap();
        bytes[position] ^= 1;
        let (_folder, outcome) = extract_bytes(&bytes, |name| Some(PathBuf::from(name)));
        assert!(format!("{:#}", outcome.unwrap_err()).contains("keep.txt"));
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let bytes = archive_of(&[("keep.txt", b"content")]);
        let (_folder, outcome) =
            extract_bytes(&bytes[..bytes.len() - 10], |name| Some(PathBuf::from(name)));
        assert!(
            outcome
                .unwrap_err()
                .to_string()
                .contains("no whole zip archive")
        );
    }

    #[test]
    fn an_entry_pointing_outside_is_refused() {
        let bytes = archive_of(&[("../evil.txt", b"x")]);
        let (folder, outcome) = extract_bytes(&bytes, |name| Some(PathBuf::from(name)));
        assert!(outcome.is_err());
        assert!(!folder.path().join("evil.txt").exists());
    }
}
