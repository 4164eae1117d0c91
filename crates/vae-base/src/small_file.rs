//! Files that are read whole, such as configs, lists and tables: regular ones, of a bounded size.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Opens a regular file for reading. A folder, pipe or device is refused at once, since opening or reading it
/// could block or never end.
///
/// # Errors
/// The file system refuses; the path is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Otherwise opening a pipe would wait for its writer. Regular files are not affected.
        options.custom_flags(libc::O_NONBLOCK);
    }
    #[cfg(not(unix))]
    if std::fs::metadata(path)?.is_dir() {
        return Err(irregular("a folder")); // Opening it would fail with a misleading reason.
    }
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    match (kind.is_file(), kind.is_dir()) {
        (true, _) => Ok(file),
        (_, true) => Err(irregular("a folder")),
        _ => Err(irregular("a pipe or device")),
    }
}

fn irregular(what: &str) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidInput,
        format!("is {what}, expected a file"),
    )
}

/// Reads a regular file of at most `most_bytes`. It allocates no more than that, whatever size the file claims.
///
/// # Errors
/// Those of [`open_regular`]; the file is larger.
pub fn read_small(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(most_bytes.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        let problem = format!(
            "is larger than {}, the limit for such files",
            size(most_bytes)
        );
        return Err(io::Error::new(ErrorKind::InvalidData, problem));
    }
    Ok(bytes)
}

/// [`read_small`] of a text in UTF-8.
///
/// # Errors
/// Those of [`read_small`]; bytes that are not UTF-8.
pub fn read_small_text(path: &Path, most_bytes: u64) -> io::Result<String> {
    String::from_utf8(read_small(path, most_bytes)?).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        let problem = format!("is not UTF-8 text (byte {place})");
        io::Error::new(ErrorKind::InvalidData, problem)
    })
}

fn size(n_bytes: u64) -> String {
    match (n_bytes >> 30, n_bytes >> 20, n_bytes >> 10) {
        (0, 0, 0) => format!("{n_bytes} bytes"),
        (0, 0, kib) => format!("{kib} KiB"),
        (0, mib, _) => format!("{mib} MiB"),
        (gib, _, _) => format!("{gib} GiB"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_small_file_is_read_and_a_larger_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_small(&path, 4).unwrap(), b"four");
        assert_eq!(read_small_text(&path, 5).unwrap(), "four");
        let said = read_small(&path, 3).unwrap_err().to_string();
        assert_eq!(said, "is larger than 3 bytes, the limit for such files");
        fs::write(&path, b"ab\xff").unwrap();
        let said = read_small_text(&path, 4).unwrap_err().to_string();
        assert_eq!(said, "is not UTF-8 text (byte 2)");
        assert_eq!(
            read_small(&folder.path().join("b"), 4).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let said = read_small(folder.path(), 4).unwrap_err().to_string();
        assert_eq!(said, "is a folder, expected a file");
        #[cfg(unix)]
        {
            let pipe = folder.path().join("pipe");
            let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
            // SAFETY: the name ends in a zero byte and lives as long as the call.
            assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
            for path in [pipe.as_path(), Path::new("/dev/zero")] {
                let said = read_small(path, 4).unwrap_err().to_string();
                assert_eq!(said, "is a pipe or device, expected a file");
            }
        }
    }
}
