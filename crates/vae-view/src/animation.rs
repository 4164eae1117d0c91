//! Animations.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, DynamicImage, Frame, ImageError};
use vae_base::{read_small, write_whole};
use vae_run::RunError;

use crate::ViewError;
use crate::format::{Content, Format, check_name, ffmpeg};

/// Writes frames of one size in the format that the name ends in: an endless GIF (256 colors per frame), an endless APNG (all
/// colors; also `.png`), or an MP4 through ffmpeg. The file appears under its name only when it is whole.
///
/// # Errors
/// Another ending; no frames, or frames of different sizes; ffmpeg is not there or fails; the file system refuses.
pub fn save(frames: &[DynamicImage], delay: Duration, path: &Path) -> Result<(), ViewError> {
    let bytes = match check_name(path, Content::Frames)? {
        Format::Gif => gif(frames, delay).map_err(|source| ViewError::Picture {
            path: path.to_owned(),
            source,
        })?,
        Format::Mp4 => mp4(frames, delay).map_err(|problem| ViewError::file(path, problem))?,
        _ => apng(frames, delay).map_err(|error| ViewError::file(path, error.to_string()))?,
    };
    Ok(write_whole(path, &bytes).map_err(RunError::io(path))?)
}

/// Bytes of the largest MP4.
const LARGEST_MOVIE: u64 = 1 << 32;

/// The frames as H.264, or what this ffmpeg writes instead.
fn mp4(frames: &[DynamicImage], delay: Duration) -> Result<Vec<u8>, String> {
    let program = ffmpeg().ok_or("there is no ffmpeg on the PATH")?;
    let (width, height) = frames.first().map_or((0, 0), |f| (f.width(), f.height()));
    let is_alike = |frame: &DynamicImage| (frame.width(), frame.height()) == (width, height);
    if width == 0 || !frames.iter().all(is_alike) {
        return Err("no frames, or frames of different sizes".to_owned());
    }
    let failed = |error: std::io::Error| format!("ffmpeg: {error}");
    let file = tempfile::Builder::new()
        .suffix(".mp4")
        .tempfile()
        .map_err(failed)?;
    let rate = format!("1000/{}", delay.as_millis().max(1));
    let size = format!("{width}x{height}");
    let mut child = Command::new(program)
        .args([
            "-loglevel",
            "error",
            "-y",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
        ])
        .args(["-s", &size, "-r", &rate, "-i", "-"])
        // Players need even sides, and colors at half the resolution.
        .args(["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white"])
        .args(["-pix_fmt", "yuv420p", "-movflags", "+faststart"])
        .arg(file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // An ffmpeg that stops early says why on stderr, so an error of its input is none yet.
    if let Some(mut input) = child.stdin.take() {
        for frame in frames {
            if input.write_all(&frame.to_rgb8()).is_err() {
                break;
            }
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().last().unwrap_or("it failed without a message");
        return Err(format!("ffmpeg: {line}"));
    }
    let bytes = read_small(file.path(), LARGEST_MOVIE).map_err(failed)?;
    match bytes.is_empty() {
        true => Err("ffmpeg wrote nothing".to_owned()),
        false => Ok(bytes),
    }
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
        let error = save(&frames, delay, &folder.path().join("a.avi")).unwrap_err();
        assert!(
            error.to_string().contains(".gif, .apng, .png or .mp4"),
            "{error}"
        );
        assert!(save(&[], delay, &folder.path().join("none.png")).is_err());
        assert!(!folder.path().join("none.png").exists());
    }
}
