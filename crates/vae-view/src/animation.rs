//! Animations.

use std::path::Path;
use std::time::Duration;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, DynamicImage, Frame, ImageError};
use vae_base::write_whole;
use vae_run::RunError;

use crate::ViewError;

/// Writes frames of one size as an endless animation: a GIF (256 colors per frame) if the name ends in `.gif`, an
/// APNG (all colors) if it ends in `.png` or `.apng`. The file appears under its name only when it is whole.
///
/// # Errors
/// Another ending; no frames, or frames of different sizes; the file system refuses.
pub fn save(frames: &[DynamicImage], delay: Duration, path: &Path) -> Result<(), ViewError> {
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    let bytes = match ending.as_ref().and_then(|ending| ending.to_str()) {
        Some("gif") => gif(frames, delay).map_err(|source| ViewError::Picture {
            path: path.to_owned(),
            source,
        })?,
        Some("png" | "apng") => {
            apng(frames, delay).map_err(|error| ViewError::file(path, error.to_string()))?
        }
        _ => {
            let problem = "an animation's name ends in .gif, .png or .apng";
            return Err(ViewError::file(path, problem));
        }
    };
    Ok(write_whole(path, &bytes).map_err(RunError::io(path))?)
}

fn gif(frames: &[DynamicImage], delay: Duration) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    {
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
        encoder.set_repeat(Repeat::Infinite)?;
        let delay = Delay::from_saturating_duration(delay);
        encoder.encode_frames(
            frames
                .iter()
                .map(|frame| Frame::from_parts(frame.to_rgba8(), 0, 0, delay)),
        )?;
    }
    Ok(bytes)
}

fn apng(frames: &[DynamicImage], delay: Duration) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let (width, height) = frames.first().map_or((0, 0), |f| (f.width(), f.height()));
    let is_gray = frames.iter().all(|frame| !frame.color().has_color());
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(match is_gray {
        true => png::ColorType::Grayscale,
        false => png::ColorType::Rgb,
    });
    encoder.set_animated(frames.len() as u32, 0)?;
    let milliseconds = u16::try_from(delay.as_millis()).unwrap_or(u16::MAX);
    encoder.set_frame_delay(milliseconds, 1000)?;
    let mut writer = encoder.write_header()?;
    for frame in frames {
        match is_gray {
            true => writer.write_image_data(&frame.to_luma8())?,
            false => writer.write_image_data(&frame.to_rgb8())?,
        }
    }
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::BufReader;

    use image::codecs::gif::GifDecoder;
    use image::codecs::png::PngDecoder;
    use image::{AnimationDecoder, GrayImage, Luma};

    use super::*;

    fn gray(value: u8) -> DynamicImage {
        GrayImage::from_pixel(4, 3, Luma([value])).into()
    }

    #[test]
    fn frames_and_their_time_come_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let frames = [gray(0), gray(255), gray(128)];
        let delay = Duration::from_millis(120);
        let open =
            |name: &str| BufReader::new(File::open(folder.path().join(name)).expect("a file"));
        for name in ["a.gif", "a.png"] {
            save(&frames, delay, &folder.path().join(name)).expect("written");
        }
        let gif = GifDecoder::new(open("a.gif")).expect("a GIF").into_frames();
        let png = PngDecoder::new(open("a.png")).expect("a PNG");
        let png = png.apng().expect("an APNG").into_frames();
        for found in [gif, png] {
            let found = found.collect_frames().expect("frames");
            let values: Vec<u8> = found
                .iter()
                .map(|f| f.buffer().get_pixel(2, 1).0[0])
                .collect();
            assert_eq!(values, [0, 255, 128]);
            assert!(
                found
                    .iter()
                    .all(|frame| Duration::from(frame.delay()) == delay)
            );
        }
        let error = save(&frames, delay, &folder.path().join("a.mp4")).unwrap_err();
        assert!(error.to_string().contains(".gif, .png or .apng"), "{error}");
        assert!(save(&[], delay, &folder.path().join("none.png")).is_err());
        assert!(!folder.path().join("none.png").exists());
    }
}
