//! Files that appear under their names only when they are whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use tempfile::{Builder, NamedTempFile, TempDir};

/// The naming scheme of temporary files or folders: random letters and digits between a prefix and a suffix. It
/// identifies files that killed processes left behind.
#[derive(Clone, Copy, Debug)]
pub struct TemporaryName {
    /// How the name begins, with a dot, so that it is hidden.
    pub prefix: &'static str,
    /// How it ends.
    pub suffix: &'static str,
}

/// The number of random letters and digits in a [`TemporaryName`].
const N_RANDOM: usize = 6;

/// The names of temporary files of [`write_whole`].
const TEMPORARY: TemporaryName = TemporaryName {
    prefix: ".tmp",
    suffix: "",
};

/// On a file system without locks, a temporary file that was not written to for this long counts as left by a
/// killed process.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Writes a file that appears under its name only when it is whole and on the disk. It is written to a temporary
/// file beside it, which is then renamed.
///
/// # Errors
/// The file system refuses; an existing file of that name is then unchanged.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::canonicalize(path) {
        // The target of a link is replaced, not the link. A device or pipe is written to directly.
        Ok(target) if target.is_file() => write_beside(&target, bytes),
        Ok(device) => fs::write(device, bytes),
        Err(_) => write_beside(path, bytes),
    }
}

/// The folder of a file to be written, if it is not there: better said before anything is computed for the file.
#[must_use]
pub fn missing_folder(file: &Path) -> Option<&Path> {
    Some(parent(file)).filter(|folder| !folder.is_dir())
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = parent(path);
    fs::metadata(folder)?; // Its error names the folder; later ones name the temporary file.
    let mut file = TEMPORARY.file_in(folder)?;
    file.write_all(bytes)?;
    persist(file, path)
}

/// Renames a temporary file to its final name once all of it is on the disk.
///
/// # Errors
/// The file system refuses; an existing file of that name is then unchanged.
pub fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(parent(path))
}

/// Renames a complete folder to its final name. An empty folder of that name is replaced.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if the name is taken; the file system refuses.
pub fn rename_folder(whole: &Path, path: &Path) -> io::Result<()> {
    match fs::rename(whole, path) {
        Ok(()) => sync_folder(parent(path)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DirectoryNotEmpty | ErrorKind::NotADirectory
            ) =>
        {
            Err(io::Error::new(ErrorKind::AlreadyExists, error))
        }
        Err(error) => Err(error),
    }
}

/// The folder that contains this path.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

impl TemporaryName {
    /// A new file, which is deleted when dropped unless it is renamed. It is locked, by which
    /// [`Self::remove_abandoned`] sees that its process is alive.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn file_in(&self, folder: &Path) -> io::Result<NamedTempFile> {
        loop {
            let file = self.builder(0o666).tempfile_in(folder)?;
            if lock_new(file.as_file(), file.path()) {
                return Ok(file);
            }
        }
    }

    /// A new folder, which is deleted when dropped unless it is renamed.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn folder_in(&self, folder: &Path) -> io::Result<TempDir> {
        self.builder(0o777).tempdir_in(folder)
    }

    /// Temporary files are private by default. Those that stay get the ordinary mode under the umask.
    fn builder(&self, mode: u32) -> Builder<'static, 'static> {
        let mut builder = Builder::new();
        builder
            .prefix(self.prefix)
            .suffix(self.suffix)
            .rand_bytes(N_RANDOM);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
        #[cfg(not(unix))]
        let _ = mode;
        builder
    }

    /// Whether a name follows this scheme.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        name.strip_prefix(self.prefix)
            .and_then(|rest| rest.strip_suffix(self.suffix))
            .is_some_and(|random| {
                random.len() == N_RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
            })
    }

    /// Removes from a folder the temporary files that killed processes left there. Files of living processes stay,
    /// and so do files that cannot be removed.
    pub fn remove_abandoned(&self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let path = entry.path();
            if is_file && entry.file_name().to_str().is_some_and(|name| self.is(name)) {
                remove_if_abandoned(&path, &path, |path| fs::remove_file(path));
            }
        }
    }

    /// Removes from a folder the temporary folders that killed processes left there: those whose file `lock` is not
    /// locked.
    pub fn remove_abandoned_folders(&self, folder: &Path, lock: &str) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let path = entry.path();
            if is_folder && entry.file_name().to_str().is_some_and(|name| self.is(name)) {
                remove_if_abandoned(&path.join(lock), &path, |path| fs::remove_dir_all(path));
            }
        }
    }
}

/// Locks a new file, by which other processes see that this one is alive. Returns false if another process was
/// quicker, took the file for abandoned and is removing it. On a file system without locks it returns true.
pub fn lock_new(file: &File, path: &Path) -> bool {
    match file.try_lock() {
        Ok(()) => path.exists(),
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => true,
    }
}

/// Decides by the lock on a file or, on a file system without locks, by the age of what would be removed.
fn remove_if_abandoned(lock: &Path, path: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) {
    // Opened for writing, since NFS grants an exclusive lock only then.
    let lock = OpenOptions::new().write(true).open(lock);
    let is_abandoned = match lock.as_ref().map(File::try_lock) {
        Ok(Ok(())) => true,
        Ok(Err(TryLockError::WouldBlock)) => false,
        Ok(Err(TryLockError::Error(_))) | Err(_) => {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED))
        }
    };
    if is_abandoned {
        let _ = remove(path); // While it is locked, so that a living writer notices.
    }
}

/// Syncs a folder to the disk after a file was created or renamed in it. Does nothing where folders cannot be
/// synced: Windows, older SMB shares, some FUSE file systems.
///
/// # Errors
/// The disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // The system's last error: files may be created in a folder that may not be listed.
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

/// Removes from a folder the temporary files of [`write_whole`] that killed processes left there. Files of living
/// processes stay, and so do files that cannot be removed.
pub fn remove_abandoned(folder: &Path) {
    TEMPORARY.remove_abandoned(folder);
}

/// Whether a name is that of a temporary file of [`write_whole`].
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    TEMPORARY.is(name)
}

/// Appends to a file that was opened for appending, and syncs it. On an error no bytes are appended.
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

/// Checks by writing a file that files can be written to the folder. For commands that write their results only after
/// hours.
///
/// # Errors
/// The file system refuses.
pub fn check_writable(folder: &Path) -> io::Result<()> {
    NamedTempFile::new_in(folder).and_then(|mut file| file.write_all(b"\n"))
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
        let living = TEMPORARY.file_in(folder.path()).expect("a file");
        remove_abandoned(folder.path());
        assert!(!path(".tmpaB3dE6").exists());
        assert!(living.path().exists());
        for other in [".tmpaB3dE6x", ".tmp-aB3d", "tmpaB3dE6", ".tmp123456"] {
            assert!(path(other).exists(), "{other} is no file of ours");
        }
    }

    #[test]
    fn a_folder_that_a_killed_process_left_is_removed_by_its_lock() {
        let parent = tempfile::tempdir().expect("a folder");
        let runs = TemporaryName {
            prefix: ".run-",
            suffix: "",
        };
        let [left, living] = [".run-aB3dE6", ".run-aB3dE7"].map(|name| parent.path().join(name));
        let [_, lock] = [&left, &living].map(|folder| {
            fs::create_dir(folder).expect("created");
            File::create(folder.join("lock")).expect("a file")
        });
        assert!(lock_new(&lock, &living.join("lock")));
        fs::create_dir(parent.path().join(".run-other")).expect("created");
        runs.remove_abandoned_folders(parent.path(), "lock");
        assert!(!left.exists() && living.exists() && parent.path().join(".run-other").exists());
    }

    #[test]
    fn a_whole_folder_takes_a_name_that_is_free() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = |name: &str| parent.path().join(name);
        for name in ["whole", "empty", "full", "full/x", "other"] {
            fs::create_dir(path(name)).expect("created");
        }
        fs::write(path("file"), "x").expect("written");
        for taken in ["full", "file"] {
            let error = rename_folder(&path("other"), &path(taken)).expect_err(taken);
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{taken}");
        }
        rename_folder(&path("whole"), &path("free")).expect("renamed");
        rename_folder(&path("other"), &path("empty")).expect("renamed");
        assert!(path("free").is_dir() && !path("whole").exists());
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
