//! The export for TensorBoard's projector: vectors, labels and thumbnails in a folder.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use image::DynamicImage;
use tch::{Kind, Tensor};
use vae_base::files::{self, TemporaryName};
use vae_run::RunError;

use crate::ViewError;
use crate::picture;

/// The longest side in pixels of a sprite that TensorBoard accepts.
pub const LARGEST_SPRITE: u32 = 8192;

/// The number of thumbnails of `width` × `height` pixels that fit into a sprite.
#[must_use]
pub fn most_thumbnails(width: u32, height: u32) -> usize {
    let side = LARGEST_SPRITE / width.max(height).max(1);
    (side as usize).pow(2)
}

/// Writes `tensors.tsv`, `metadata.tsv`, `sprite.png` and `projector_config.pbtxt` to a new folder, which appears
/// under its name when all of them are complete. `latents` are `[N, Z]`, `images` `[N, C, H, W]` in `[0, 1]`;
/// `columns` are named texts, one for each image.
///
/// # Errors
/// The folder exists and is not empty; the file system refuses.
pub fn export(
    folder: &Path,
    latents: &Tensor,
    columns: &[(String, Vec<String>)],
    images: &Tensor,
) -> Result<(), ViewError> {
    let parent = files::parent(folder);
    let partial = PARTIAL.folder_in(parent).map_err(RunError::io(parent))?;
    let path = partial.path();
    write_lines(&path.join("tensors.tsv"), latents_lines(latents)?)?;
    write_lines(&path.join("metadata.tsv"), metadata_lines(columns))?;
    let sprite = sprite(images)?;
    picture::save(&sprite, &path.join("sprite.png"))?;
    let (_, _, height, width) = images.size4()?;
    let config = projector_config(width, height);
    write_lines(&path.join("projector_config.pbtxt"), [config].into_iter())?;
    match files::rename_folder(path, folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let problem = "already exists; give a new folder with --out, or remove it";
            Err(ViewError::file(folder, problem))
        }
        Err(error) => Err(RunError::io(folder)(error).into()),
        Ok(()) => {
            let _ = partial.keep(); // It was renamed.
            Ok(())
        }
    }
}

/// The name of the folder until it is complete.
const PARTIAL: TemporaryName = TemporaryName {
    prefix: ".projector-",
    suffix: "",
};

fn write_lines(path: &Path, lines: impl Iterator<Item = String>) -> Result<(), ViewError> {
    let io = || RunError::io(path);
    let mut file = BufWriter::new(File::create(path).map_err(io())?);
    for line in lines {
        file.write_all(line.as_bytes()).map_err(io())?;
        file.write_all(b"\n").map_err(io())?;
    }
    Ok(file.flush().map_err(io())?)
}

fn latents_lines(latents: &Tensor) -> Result<impl Iterator<Item = String>, ViewError> {
    let dims = latents.size2()?.1 as usize;
    let values = Vec::<f32>::try_from(latents.to_kind(Kind::Float).contiguous().view(-1))?;
    let mut rows = Vec::with_capacity(values.len() / dims.max(1));
    for row in values.chunks_exact(dims.max(1)) {
        rows.push(
            row.iter()
                .map(f32::to_string)
                .collect::<Vec<_>>()
                .join("\t"),
        );
    }
    Ok(rows.into_iter())
}

/// TensorBoard expects a header only if there are several columns.
fn metadata_lines(columns: &[(String, Vec<String>)]) -> impl Iterator<Item = String> {
    let n_rows = columns
        .iter()
        .map(|column| column.1.len())
        .min()
        .unwrap_or(0);
    let joined = |texts: Vec<&str>| {
        let one_line = |text: &str| text.replace(['\t', '\n', '\r'], " ");
        texts
            .into_iter()
            .map(one_line)
            .collect::<Vec<_>>()
            .join("\t")
    };
    let header = columns.iter().map(|column| column.0.as_str()).collect();
    let header = (columns.len() > 1).then(|| joined(header));
    let row = move |row: usize| joined(columns.iter().map(|c| c.1[row].as_str()).collect());
    header.into_iter().chain((0..n_rows).map(row))
}

/// The thumbnails in a square grid, row by row.
fn sprite(images: &Tensor) -> Result<DynamicImage, ViewError> {
    let n_images = images.size4()?.0;
    let side = (n_images as f64).sqrt().ceil() as usize;
    picture::grid(images, side, 0)
}

fn projector_config(width: i64, height: i64) -> String {
    format!(
        "embeddings {{\n  tensor_name: \"latents\"\n  tensor_path: \"tensors.tsv\"\n  metadata_path: \
         \"metadata.tsv\"\n  sprite {{\n    image_path: \"sprite.png\"\n    single_image_dim: {width}\n    \
         single_image_dim: {height}\n  }}\n}}"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tch::Device;

    use super::*;

    #[test]
    fn the_folder_has_a_row_and_a_thumbnail_for_each_image() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("projector");
        let latents = Tensor::from_slice2(&[[0.5_f32, -1.0], [2.0, 0.25], [0.0, 1e-9]]);
        let images = Tensor::zeros([3, 1, 4, 6], (Kind::Float, Device::Cpu));
        let column =
            |name: &str, texts: [&str; 3]| (name.to_owned(), texts.map(str::to_owned).to_vec());
        let columns = [
            column("label", ["7", "1", "a\tb"]),
            column("file", ["x", "y", "z"]),
        ];
        export(&folder, &latents, &columns, &images).expect("written");
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a text file");
        assert_eq!(read("tensors.tsv"), "0.5\t-1\n2\t0.25\n0\t0.000000001\n");
        assert_eq!(read("metadata.tsv"), "label\tfile\n7\tx\n1\ty\na b\tz\n");
        assert!(
            read("projector_config.pbtxt").contains("single_image_dim: 6\n    single_image_dim: 4")
        );
        let size = image::image_dimensions(folder.join("sprite.png")).expect("a picture");
        assert_eq!(size, (12, 8));

        // Existing files are unchanged, and no partial ones are left beside them.
        let error = export(&folder, &latents, &columns[..1], &images)
            .unwrap_err()
            .to_string();
        assert!(error.contains("already exists"), "{error}");
        assert_eq!(fs::read_dir(parent.path()).expect("a folder").count(), 1);
        assert_eq!(metadata_lines(&columns[..1]).next().as_deref(), Some("7"));
        assert_eq!(most_thumbnails(64, 64), 128 * 128);
    }
}
