//! Image and sound files of unsupported formats.

use std::collections::BTreeMap;
use std::fmt;

/// Formats of sound that is not read, which are the extensions of their files.
pub(crate) const SOUNDS: [&str; 9] = [
    "AAC", "AIF", "AIFF", "AMR", "M4A", "MID", "MP4", "OPUS", "WMA",
];

/// The number of image files of each unsupported format, such as HEIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnreadFiles {
    n_files: BTreeMap<&'static str, usize>,
}

impl UnreadFiles {
    /// Counts one more file of `format`.
    pub(crate) fn add(&mut self, format: &'static str) {
        *self.n_files.entry(format).or_default() += 1;
    }

    /// Each format with its number of files, ordered by name.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, usize)> + '_ {
        self.n_files.iter().map(|(format, n)| (*format, *n))
    }

    /// Whether there are no such files.
    pub fn is_empty(&self) -> bool {
        self.n_files.is_empty()
    }
}

impl fmt::Display for UnreadFiles {
    /// For example `1 GIF and 6 HEIC files are not read: convert them to JPEG or PNG`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = self
            .counts()
            .map(|(format, n)| format!("{n} {format}"))
            .collect();
        let list = match &counts[..] {
            [] => "0 image".to_owned(),
            [one] => one.clone(),
            [first @ .., last] => format!("{} and {last}", first.join(", ")),
        };
        let is_sound = |format: &&str| SOUNDS.contains(format);
        let to = match self.n_files.keys().next().is_some_and(is_sound) {
            true => "WAV or FLAC",
            false => "JPEG or PNG",
        };
        match self.n_files.values().sum() {
            1usize => write!(f, "{list} file is not read: convert it to {to}"),
            _ => write!(f, "{list} files are not read: convert them to {to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_every_format() {
        let mut files = UnreadFiles::default();
        files.add("HEIC");
        let one = "1 HEIC file is not read: convert it to JPEG or PNG";
        assert_eq!(files.to_string(), one);
        for format in ["HEIC", "TIFF", "GIF"] {
            files.add(format);
        }
        let four = "1 GIF, 2 HEIC and 1 TIFF files are not read: convert them to JPEG or PNG";
        assert_eq!(files.to_string(), four);
    }
}
