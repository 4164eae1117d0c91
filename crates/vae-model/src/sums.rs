//! SHA-256 sums of the files in a folder, in the format of `sha256sum -c`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::ModelError;
use crate::write_whole;

/// The name of the file of sums in the folder of a checkpoint.
pub const SUMS_FILE: &str = "SHA256SUMS";

/// A larger file is not a list of a checkpoint's files.
const LARGEST_SUMS_FILE: u64 = 1 << 16;

/// The SHA-256 of a file's contents, in hexadecimal digits.
///
/// # Errors
/// The file is not regular, or cannot be read.
pub fn sha256(file: &Path) -> Result<String, ModelError> {
    let mut reader = open_regular(file)?;
    let mut hasher = Sha256::new();
    io::copy(&mut reader, &mut hasher).map_err(ModelError::io(file))?;
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Writes the sums of these files of a folder to its [`SUMS_FILE`].
///
/// # Errors
/// One of them cannot be read; the file system refuses.
pub fn write_sums(folder: &Path, names: &[&str]) -> Result<(), ModelError> {
    let sums: String = names
        .iter()
        .map(|name| Ok(format!("{}  {name}\n", sha256(&folder.join(name))?)))
        .collect::<Result<_, ModelError>>()?;
    let file = folder.join(SUMS_FILE);
    write_whole(&file, sums.as_bytes()).map_err(ModelError::io(&file))
}

/// Checks every file of a folder that its [`SUMS_FILE`] lists.
///
/// # Errors
/// The list is missing or lacks one of the `required` names; the contents of a file do not match its sum.
pub fn verify_sums(folder: &Path, required: &[&str]) -> Result<(), ModelError> {
    let sums = read_sums(folder)?;
    for (name, wanted) in &sums {
        verify(&folder.join(name), wanted)?;
    }
    match required.iter().find(|&&name| !sums.contains_key(name)) {
        None => Ok(()),
        Some(name) => Err(ModelError::weights(
            folder.join(SUMS_FILE),
            format!("damaged: no line for {name}"),
        )),
    }
}

/// Checks a file against the [`SUMS_FILE`] beside it, if there is one that lists it.
pub(crate) fn verify_if_listed(file: &Path) -> Result<(), ModelError> {
    let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
        return Ok(());
    };
    if !folder.join(SUMS_FILE).is_file() {
        return Ok(());
    }
    match name.to_str().and_then(|name| {
        read_sums(folder)
            .map(|mut sums| sums.remove(name))
            .transpose()
    }) {
        Some(wanted) => verify(file, &wanted?),
        None => Ok(()),
    }
}

fn verify(file: &Path, wanted: &str) -> Result<(), ModelError> {
    if sha256(file)? == wanted {
        return Ok(());
    }
    Err(ModelError::weights(
        file,
        "damaged: its contents do not match its SHA-256 sum",
    ))
}

/// Reads the sums by file name. Names with a path are refused.
fn read_sums(folder: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let path = folder.join(SUMS_FILE);
    let mut text = String::new();
    open_regular(&path)?
        .take(LARGEST_SUMS_FILE)
        .read_to_string(&mut text)
        .map_err(ModelError::io(&path))?;
    parse_sums(&text).ok_or_else(|| {
        ModelError::weights(
            &path,
            "damaged: expected lines of a SHA-256 sum and a file name",
        )
    })
}

fn parse_sums(text: &str) -> Option<BTreeMap<String, String>> {
    text.lines()
        .map(|line| {
            let (sum, name) = line.split_once("  ")?;
            let is_sum = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
            let is_name = !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "..";
            (is_sum && is_name).then(|| (name.to_owned(), sum.to_owned()))
        })
        .collect()
}

/// Opens a regular file. Opening or reading a device or pipe might block forever.
pub(crate) fn open_regular(path: &Path) -> Result<File, ModelError> {
    vae_base::open_regular(path).map_err(ModelError::io(path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_sums_of_the_folders_own_files_are_a_list() {
        let sum = "0".repeat(64);
        let parse = |line: &str| parse_sums(line).map(|sums| sums.into_keys().collect::<Vec<_>>());
        assert_eq!(
            parse(&format!("{sum}  a.txt\n")),
            Some(vec!["a.txt".to_owned()])
        );
        for line in [
            format!("{sum}  ../a.txt"),
            format!("{sum}  /dev/zero"),
            format!("{sum} a.txt"),
            format!("{}  a.txt", "0".repeat(63)),
            format!("{}  a.txt", "x".repeat(64)),
            String::from("\n"),
        ] {
            assert_eq!(parse(&line), None, "{line}");
        }
    }

    #[test]
    fn a_changed_or_unlisted_file_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a");
        fs::write(&file, b"abc").expect("written");
        // The example of FIPS 180-4.
        assert_eq!(
            sha256(&file).expect("a sum"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        write_sums(folder.path(), &["a"]).expect("written");
        verify_sums(folder.path(), &["a"]).expect("whole");
        let message = verify_sums(folder.path(), &["b"])
            .expect_err("b")
            .to_string();
        assert!(message.contains("no line for b"), "{message}");
        fs::write(&file, b"abd").expect("written");
        let message = verify_sums(folder.path(), &[])
            .expect_err("changed")
            .to_string();
        assert!(message.contains("damaged"), "{message}");
    }
}
