//! Looking up images by name, with the spellings of archives and lists.

use std::collections::HashMap;
use std::path::Path;

use tracing::warn;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::DataError;

/// A path in the form of image names: `/` between folders (not `\`, which some Windows programs write), without `.`
/// and without a leading root.
pub(crate) fn normalized(path: &str) -> String {
    let parts: Vec<&str> = path
        .split(['/', '\\'])
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    parts.join("/")
}

/// A unique spelling of a name: normalized and composed (Unicode NFC; macOS writes ä as a and a combining mark).
fn key(name: &str) -> String {
    let name = normalized(name);
    match is_nfc_quick(name.chars()) {
        IsNormalized::Yes => name,
        _ => name.nfc().collect(),
    }
}

/// The entries of a list by image name.
#[derive(Debug)]
pub(crate) struct ByName<T> {
    rows: HashMap<String, T>,
    first: String,
}

impl<T> Default for ByName<T> {
    /// An empty list.
    fn default() -> Self {
        ByName {
            rows: HashMap::new(),
            first: String::new(),
        }
    }
}

impl<T> ByName<T> {
    /// Inserts an entry and returns the previous one with that name.
    pub(crate) fn insert(&mut self, name: &str, row: T) -> Option<T> {
        if self.rows.is_empty() {
            name.clone_into(&mut self.first);
        }
        self.rows.insert(key(name), row)
    }

    /// The entry of an image: its name in the list is the image's path or the end of it; the longest match wins.
    pub(crate) fn get(&self, image: &str) -> Option<&T> {
        let image = key(image);
        let mut name = image.as_str();
        loop {
            match (self.rows.get(name), name.split_once('/')) {
                (Some(row), _) => return Some(row),
                (None, Some((_, rest))) => name = rest,
                (None, None) => return None,
            }
        }
    }

    /// The first name in the list, for messages.
    pub(crate) fn first(&self) -> &str {
        &self.first
    }

    /// Warns if fewer than half of `images` are in the list, which is the file at `path`.
    ///
    /// # Errors
    /// None of the images is in the list.
    pub(crate) fn check(&self, path: &Path, images: &[String]) -> Result<(), DataError> {
        let unknown: Vec<&String> = images
            .iter()
            .filter(|image| self.get(image).is_none())
            .collect();
        let [first, ..] = unknown[..] else {
            return Ok(());
        };
        if unknown.len() == images.len() {
            return Err(DataError::ListOfOthers {
                path: path.to_owned(),
                n_images: images.len(),
                listed: self.first.clone(),
                image: first.clone(),
            });
        }
        if 2 * unknown.len() > images.len() {
            warn!(
                "{}: fewer than half of the images are in it: it has {:?}, not {first:?}",
                path.display(),
                self.first
            );
        }
        Ok(())
    }

    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.rows.values_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_image_is_found_by_every_spelling_of_its_name() {
        let mut list = ByName::default();
        for (name, row) in [
            ("./img\\a.jpg", 1),
            ("b.jpg", 2),
            ("other/b.jpg", 3),
            // LATIN SMALL LETTER A, COMBINING DIAERESIS.
            ("a\u{308}.jpg", 4),
        ] {
            assert_eq!(list.insert(name, row), None);
        }
        for (image, row) in [
            ("img/a.jpg", Some(1)),
            ("faces/img/a.jpg", Some(1)),
            ("a.jpg", None),
            ("b.jpg", Some(2)),
            ("x/b.jpg", Some(2)),
            ("x/other/b.jpg", Some(3)),
            ("another/b.jpg", Some(2)),
            ("x/\u{e4}.jpg", Some(4)),
            ("a\u{308}.jpg", Some(4)),
        ] {
            assert_eq!(list.get(image).copied(), row, "{image}");
        }
        assert_eq!(list.insert("img/a.jpg", 5), Some(1));
        assert_eq!(list.first(), "./img\\a.jpg");
    }

    #[test]
    fn paths_are_normalized() {
        for (path, name) in [
            ("./a.jpg", "a.jpg"),
            ("img\\0\\a.jpg", "img/0/a.jpg"),
            ("/img//a.jpg", "img/a.jpg"),
            (".\\.\\a.jpg", "a.jpg"),
            ("../a.jpg", "../a.jpg"),
            ("img/.hidden", "img/.hidden"),
        ] {
            assert_eq!(normalized(path), name);
        }
    }
}
