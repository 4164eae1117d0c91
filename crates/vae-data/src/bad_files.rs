//! Files that cannot be used as images, and the reasons.

use std::fmt::Write;

use vae_base::one_line;

/// A file that was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// Its path in the folder or zip, with `/` between folders; `�` for each byte sequence that is not UTF-8.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Every file that was skipped, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadFiles {
    files: Vec<BadFile>,
}

impl BadFiles {
    /// Sorts the files by name.
    pub fn new(mut files: Vec<BadFile>) -> BadFiles {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        BadFiles { files }
    }

    /// All files, sorted by name.
    pub fn files(&self) -> &[BadFile] {
        &self.files
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether every file was good.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The text of a run's `bad-files.txt`: one line per file, with its name, a tab and the reason. Control
    /// characters are escaped, so that each file takes one line.
    ///
    /// ```
    /// use vae_data::{BadFile, BadFiles};
    ///
    /// let bad = BadFiles::new(vec![BadFile { name: "a.jpg".into(), reason: "is empty".into() }]);
    /// assert_eq!(bad.to_text(), "a.jpg\tis empty\n");
    /// ```
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for file in &self.files {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}\t{}", one_line(&file.name), one_line(&file.reason));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_file_whatever_its_name() {
        let bad = |name: &str, reason: &str| BadFile {
            name: name.to_owned(),
            reason: reason.to_owned(),
        };
        let files = BadFiles::new(vec![
            bad("b\nc.jpg", "is\tempty"),
            bad("Ä a.jpg", "is empty"),
        ]);
        assert_eq!(files.len(), 2);
        assert_eq!(
            files.to_text(),
            "b\\nc.jpg\tis\\tempty\nÄ a.jpg\tis empty\n"
        );
    }
}
