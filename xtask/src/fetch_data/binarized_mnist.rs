//! `cargo xtask fetch-data binarized-mnist`: Larochelle's text files made idx files.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::store;
use crate::workspace::Workspace;

/// The data set's name.
pub(super) const NAME: &str = "binarized-mnist";

/// Height and width of an image.
const SIDE: usize = 28;

/// The first number of a file of images in the idx format.
const IDX_IMAGES: u32 = 0x0000_0803;

/// `datasets/binarized-mnist.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    description: String,
    license: String,
    homepage: String,
    #[serde(rename = "file")]
    files: Vec<TextFile>,
}

/// One of its files: a line for each image, of 784 numbers 0 or 1.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextFile {
    name: String,
    /// The idx file that is made of it.
    becomes: String,
    images: usize,
}

/// Make `datasets/binarized-mnist` of the text files in the folder `from`.
///
/// # Errors
/// No folder is given, a file is missing there or holds something else.
pub(super) fn fetch(workspace: &Workspace, from: Option<&Path>) -> Result<()> {
    let path = workspace.datasets().join(format!("{NAME}.toml"));
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: Manifest =
        toml::from_str(&text).with_context(|| format!("{} is no manifest", path.display()))?;
    let Manifest {
        description,
        license,
        homepage,
        files,
    } = &manifest;
    eprintln!("{NAME}: {description} ({license}; {homepage})");
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let Some(from) = from else {
        bail!(
            "{NAME} is not fetched by itself: download {} from {homepage} into a folder and say \
             --from FOLDER",
            names.join(" and ")
        );
    };
    let folder = workspace.datasets().join(NAME);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for file in files {
        convert(
            &from.join(&file.name),
            file.images,
            &folder.join(&file.becomes),
        )?;
        eprintln!("  {}: {} images", file.becomes, file.images);
    }
    eprintln!("{NAME}: {} is complete", workspace.shown(&folder));
    Ok(())
}

/// Writes the images of a text file to an idx file, which appears under its name when it is whole.
fn convert(text: &Path, n_images: usize, idx: &Path) -> Result<()> {
    let name = text.display();
    let lines = BufReader::new(File::open(text).with_context(|| format!("cannot open {name}"))?);
    let mut bytes = Vec::with_capacity(16 + n_images * SIDE * SIDE);
    for number in [IDX_IMAGES, n_images as u32, SIDE as u32, SIDE as u32] {
        bytes.extend(number.to_be_bytes());
    }
    let mut n_found = 0;
    for (i, line) in lines.lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {name}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let before = bytes.len();
        for pixel in line.split_whitespace() {
            bytes.push(match pixel {
                "0" => 0,
                "1" => 255,
                other => bail!("{name}: line {}: found {other:?}, 0 or 1 is wanted", i + 1),
            });
        }
        let n_pixels = bytes.len() - before;
        ensure!(
            n_pixels == SIDE * SIDE,
            "{name}: line {}: found {n_pixels} pixels, {} are wanted",
            i + 1,
            SIDE * SIDE
        );
        n_found += 1;
    }
    ensure!(
        n_found == n_images,
        "{name}: found {n_found} images, {n_images} are wanted (is the download whole?)"
    );
    store(&bytes[..], idx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::partial_path;

    fn line(white: usize) -> String {
        let pixels = (0..SIDE * SIDE).map(|i| if i == white { "1" } else { "0" });
        pixels.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lines_become_images() {
        let folder = tempfile::tempdir().unwrap();
        let (text, idx) = (folder.path().join("a.amat"), folder.path().join("idx"));
        fs::write(&text, format!("{}\n{} \n", line(0), line(783))).unwrap();
        convert(&text, 2, &idx).unwrap();
        let bytes = fs::read(&idx).unwrap();
        assert_eq!(bytes.len(), 16 + 2 * 784);
        assert_eq!(
            bytes[..16],
            [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]
        );
        let white: Vec<_> = (16..bytes.len()).filter(|&i| bytes[i] == 255).collect();
        assert_eq!(white, [16, 16 + 784 + 783]);
        assert!(!partial_path(&idx).exists());
    }

    #[test]
    fn other_files_are_refused_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (text, idx) = (folder.path().join("a.amat"), folder.path().join("idx"));
        for (content, wanted) in [
            (format!("{}\n", line(0)), "found 1 images, 2 are wanted"),
            (
                "0 1 0\n".to_owned(),
                "line 1: found 3 pixels, 784 are wanted",
            ),
            (
                "0.5\n".to_owned(),
                "line 1: found \"0.5\", 0 or 1 is wanted",
            ),
        ] {
            fs::write(&text, content).unwrap();
            let error = format!("{:#}", convert(&text, 2, &idx).unwrap_err());
            assert!(error.contains(wanted), "{error}");
            assert!(!idx.exists());
        }
    }
}
