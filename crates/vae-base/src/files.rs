//! Files that appear under their names only when they are whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use tempfile::{Builder, NamedTempFile};

/// Temporary files are this and some letters and digits.
const PREFIX: &str = ".tmp";
const N_RANDOM: usize = 6;

/// Where files cannot be locked, a temporary one that nobody has written to for so long was left by a
/// process that was killed.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Writes a file that appears under its name only when it is whole and on the disk: to a temporary
/// file beside it, then renamed.
///
/// # Errors
/// The file system refuses; whatever had that name before is then untouched.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::canonicalize(path) {
        // A link's target is replaced, not the link; a device or pipe is written to.
        Ok(target) if target.is_file() => write_beside(&target, bytes),
        Ok(device) => fs::write(device, bytes),
        Err(_) => write_beside(path, bytes),
    }
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::metadata(folder)?; // Its error is plain; the next ones name the temporary file.
    let mut file = temporary_file(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(folder)
}

/// A locked file, which says to [`remove_abandoned`] that its process lives.
fn temporary_file(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).rand_bytes(N_RANDOM);
    // Temporary files are private by default; what stays is an ordinary file under the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    loop {
        let file = builder.tempfile_in(folder)?;
        match file.as_file().try_lock() {
            // Another process was quicker, took it for abandoned and removes it.
            Err(TryLockError::WouldBlock) => {}
            Ok(()) if !file.path().exists() => {}
            // Some file systems have no locks.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

/// Brings the names in a folder to the disk, after a file was created or renamed there. Does nothing where
/// folders cannot be synced: Windows, older SMB shares, some FUSE file systems.
///
/// # Errors
/// The disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // The last one: files may be created in a folder that nobody may list.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Removes from a folder the temporary files of [`write_whole`] that killed processes left there. Those of
/// living processes stay, and so does what cannot be removed.
pub fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && entry.file_name().to_str().is_some_and(is_temporary) {
            remove_if_abandoned(&entry.path());
        }
    }
}

/// Whether a file of this name is one that [`write_whole`] is writing, or was.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| {
        rest.len() == N_RANDOM && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

fn remove_if_abandoned(path: &Path) {
    // For writing, since NFS gives no exclusive lock otherwise.
    let Ok(file) = OpenOptions::new().write(true).open(path) else {
        return;
    };
    let is_abandoned = match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => {
            let modified = file.metadata().and_then(|metadata| metadata.modified());
            modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED))
        }
    };
    if is_abandoned {
        let _ = fs::remove_file(path); // While it is locked: its writer, if it lives, sees that.
    }
}

/// Appends to a file that was opened for appending: all bytes, synced, or, on an error, none.
///
/// # Errors
/// The file system refuses.
pub fn append_whole(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let n_bytes = file.metadata()?.len();
    let written = file.write_all(bytes).and_then(|()| file.sync_data());
    if written.is_err() {
        file.set_len(n_bytes)?;
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_another_writes_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in [".tmpaB3dE6", ".tmpaB3dE6x", ".tmp-aB3d", "tmpaB3dE6"] {
            fs::write(path(name), "left").expect("written");
        }
        fs::create_dir(path(".tmp123456")).expect("created");
        let living = temporary_file(folder.path()).expect("a file");
        remove_abandoned(folder.path());
        assert!(!path(".tmpaB3dE6").exists());
        assert!(living.path().exists());
        for other in [".tmpaB3dE6x", ".tmp-aB3d", "tmpaB3dE6", ".tmp123456"] {
            assert!(path(other).exists(), "{other} is no file of ours");
        }
    }

    #[test]
    fn a_file_in_a_folder_that_nobody_may_list_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::Permissions::from_mode(0o300);
            fs::set_permissions(folder.path(), mode).expect("changed");
        }
        let file = folder.path().join("file");
        write_whole(&file, b"bytes").expect("written");
        assert_eq!(fs::read(file).expect("a file"), b"bytes");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(folder.path(), mode).expect("changed");
        }
    }
}
