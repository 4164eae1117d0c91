//! Opening files whose names come from users, folders and archives.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Opens a regular file for reading.
///
/// A pipe without a writer, a device or a folder is an error at once, never a wait.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Has no effect on regular files; a pipe opens without a writer, and is found out.
        options.custom_flags(libc::O_NONBLOCK);
    }
    let file = options.open(path)?;
    // Of what was opened: whatever lay there when it was listed may have been replaced.
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        assert!(open(&path).is_ok());
        let missing = open(&folder.path().join("another")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        #[cfg(unix)]
        for path in [folder.path(), Path::new("/dev/zero")] {
            let error = open(path).unwrap_err().to_string();
            assert_eq!(error, "it is not a regular file", "{}", path.display());
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_pipe_without_a_writer_does_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe.jpg");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a path that ends with 0.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let error = open(&path).unwrap_err().to_string();
        assert_eq!(error, "it is not a regular file");
    }
}
