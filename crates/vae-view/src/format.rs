//! The formats of pictures' files, by the endings of their names.

use std::path::{Path, PathBuf};

use vae_base::files::missing_folder;

use crate::ViewError;

/// The format of a picture's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.png`, and a name without an ending, such as `/dev/stdout`.
    Png,
    /// `.apng`: PNG, of several frames if there are several.
    Apng,
    /// `.jpg` or `.jpeg`, lossy.
    Jpeg,
    /// `.webp`, without loss.
    WebP,
    /// `.gif`, of 256 colors.
    Gif,
    /// `.svg`, of plots.
    Svg,
    /// `.mp4`, of frames, through ffmpeg.
    Mp4,
}

/// What is to be written, on which it depends which formats there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Pixels.
    Picture,
    /// Lines, points and texts.
    Plot,
    /// Frames one after another.
    Frames,
    /// Either a picture of all steps or, in a format of frames, the steps one after another.
    Steps,
}

impl Content {
    /// The endings of its formats.
    const fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Picture => &["png", "jpg", "jpeg", "webp", "gif", "apng"],
            Self::Plot => &["png", "svg", "jpg", "jpeg", "webp", "gif", "apng"],
            Self::Frames => &["gif", "apng", "png", "mp4"],
            Self::Steps => &["png", "jpg", "jpeg", "webp", "gif", "apng", "mp4"],
        }
    }
}

impl Format {
    const ALL: [(&'static str, Self); 8] = [
        ("png", Self::Png),
        ("apng", Self::Apng),
        ("jpg", Self::Jpeg),
        ("jpeg", Self::Jpeg),
        ("webp", Self::WebP),
        ("gif", Self::Gif),
        ("svg", Self::Svg),
        ("mp4", Self::Mp4),
    ];

    /// The format that a name ends in.
    ///
    /// # Errors
    /// An ending of no format of this content; the message lists those that there are.
    pub fn of(path: &Path, content: Content) -> Result<Self, ViewError> {
        let Some(ending) = path.extension() else {
            return Ok(Self::Png); // Such as `/dev/stdout`.
        };
        let ending = ending.to_string_lossy().to_ascii_lowercase();
        let known = Self::ALL.iter().find(|(name, _)| *name == ending);
        let endings = content.endings();
        match known {
            Some((_, format)) if endings.contains(&ending.as_str()) => Ok(*format),
            _ => {
                let why = match known {
                    Some((_, Self::Svg)) => ", which is for plots",
                    Some((_, Self::Mp4)) => ", which is for moving pictures",
                    Some((_, Self::Jpeg | Self::WebP)) => ", which does not move",
                    _ => "",
                };
                let (last, others) = endings.split_last().unwrap_or((&"png", &[]));
                let problem = format!(
                    "ends in .{ending}{why}; expected a name in .{} or .{last}",
                    others.join(", .")
                );
                Err(ViewError::file(path, problem))
            }
        }
    }

    /// Whether it shows the steps of [`Content::Steps`] one after another.
    #[must_use]
    pub fn moves(self) -> bool {
        matches!(self, Self::Gif | Self::Apng | Self::Mp4)
    }
}

/// Checks a picture's name before any work: its ending, its folder, and for `.mp4` whether ffmpeg is there.
///
/// # Errors
/// As [`Format::of`]; there is no such folder, or no ffmpeg on the PATH.
pub fn check_name(path: &Path, content: Content) -> Result<Format, ViewError> {
    let format = Format::of(path, content)?;
    if let Some(folder) = missing_folder(path) {
        let problem = format!("there is no folder {}", folder.display());
        return Err(ViewError::file(path, problem));
    }
    if format == Format::Mp4 && ffmpeg().is_none() {
        let problem = "an .mp4 file is written by ffmpeg, which is not on the PATH; .gif and .apng need no other program";
        return Err(ViewError::file(path, problem));
    }
    Ok(format)
}

/// The ffmpeg on the PATH.
pub(crate) fn ffmpeg() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let name = format!("ffmpeg{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&folders)
        .map(|folder| folder.join(&name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_its_format_or_is_refused_with_those_that_would_fit() {
        let of = |name: &str, content| Format::of(Path::new(name), content);
        for (name, content, wanted) in [
            ("a.png", Content::Picture, Format::Png),
            ("/dev/stdout", Content::Plot, Format::Png),
            ("b.JPG", Content::Picture, Format::Jpeg),
            ("b.jpeg", Content::Steps, Format::Jpeg),
            ("c.webp", Content::Plot, Format::WebP),
            ("d.svg", Content::Plot, Format::Svg),
            ("e.gif", Content::Frames, Format::Gif),
            ("e.mp4", Content::Steps, Format::Mp4),
            ("e.apng", Content::Picture, Format::Apng),
        ] {
            assert_eq!(of(name, content).expect("a format"), wanted, "{name}");
        }
        for (name, content, said) in [
            (
                "a.tif",
                Content::Picture,
                "ends in .tif; expected a name in .png, .jpg, .jpeg, .webp, .gif or .apng",
            ),
            ("a.svg", Content::Picture, "for plots"),
            ("a.mp4", Content::Plot, "for moving pictures"),
            (
                "a.webp",
                Content::Frames,
                "does not move; expected a name in .gif, .apng, .png or .mp4",
            ),
            ("a.png.txt", Content::Picture, "ends in .txt"),
        ] {
            let error = of(name, content).expect_err("refused").to_string();
            assert!(error.contains(said) && error.contains(name), "{error}");
        }
        assert!(Format::Apng.moves() && !Format::Png.moves());
    }
}
