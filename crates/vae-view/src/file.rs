//! Pictures as files.

use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat};
use vae_base::write_whole;
use vae_run::RunError;

use crate::ViewError;
use crate::format::{Content, Format};

/// A picture as the bytes of a PNG file. `path` is its destination, for error messages.
///
/// # Errors
/// A picture without pixels.
pub fn png(picture: &DynamicImage, path: &Path) -> Result<Vec<u8>, ViewError> {
    let mut bytes = Vec::new();
    picture
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .map_err(|source| ViewError::Picture {
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}

/// Writes a picture in the format that the name ends in; it appears under its name only when it is whole.
///
/// # Errors
/// An ending of no format of pictures ([`crate::format::check_name`]); the file system refuses.
pub fn save(picture: &DynamicImage, path: &Path) -> Result<(), ViewError> {
    /// Of 1 to 100; artifacts are invisible without a magnifying glass.
    const JPEG_QUALITY: u8 = 92;
    let refused = |source| ViewError::Picture {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Cursor::new(Vec::new());
    match Format::of(path, Content::Picture)? {
        Format::Jpeg => JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .encode_image(picture)
            .map_err(refused)?,
        // The encoder knows no gray.
        Format::WebP => DynamicImage::from(picture.to_rgb8())
            .write_to(&mut bytes, ImageFormat::WebP)
            .map_err(refused)?,
        Format::Gif => DynamicImage::from(picture.to_rgb8())
            .write_to(&mut bytes, ImageFormat::Gif)
            .map_err(refused)?,
        _ => bytes = Cursor::new(png(picture, path)?),
    }
    Ok(write_whole(path, bytes.get_ref()).map_err(RunError::io(path))?)
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, RgbImage};

    use super::*;

    #[test]
    fn a_picture_has_the_format_that_its_name_says() {
        let folder = tempfile::tempdir().unwrap();
        let gray = DynamicImage::ImageLuma8(GrayImage::from_pixel(3, 2, image::Luma([128])));
        let color = DynamicImage::ImageRgb8(RgbImage::from_pixel(3, 2, image::Rgb([200, 40, 40])));
        for (name, format) in [
            ("a.png", ImageFormat::Png),
            ("b.PNG", ImageFormat::Png),
            ("c", ImageFormat::Png),
            ("d.apng", ImageFormat::Png),
            ("e.jpg", ImageFormat::Jpeg),
            ("e.jpeg", ImageFormat::Jpeg),
            ("f.webp", ImageFormat::WebP),
            ("g.gif", ImageFormat::Gif),
        ] {
            let path = folder.path().join(name);
            for picture in [&gray, &color] {
                save(picture, &path).unwrap();
                let bytes = std::fs::read(&path).unwrap();
                assert_eq!(image::guess_format(&bytes).unwrap(), format, "{name}");
                let read = image::load_from_memory(&bytes).unwrap().into_rgb8();
                assert_eq!(read.dimensions(), (3, 2));
                let wanted = picture.to_rgb8().get_pixel(1, 1).0;
                let found = read.get_pixel(1, 1).0;
                let error = wanted.iter().zip(found).map(|(a, b)| a.abs_diff(b)).max();
                assert!(error.unwrap() < 8, "{name}: {found:?}");
            }
        }
        for name in ["a.tif", "a.svg", "a.mp4", "a.pdf", "a.png.txt"] {
            let path = folder.path().join(name);
            let said = save(&gray, &path).unwrap_err().to_string();
            assert!(said.contains("expected a name in .png"), "{said}");
            assert!(!path.exists());
        }
    }
}
