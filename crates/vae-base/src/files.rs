//! Files that appear under their names only when they are whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use tempfile::{Builder, NamedTempFile, TempDir};

/// How temporary files or folders are named: some letters and digits between two texts. By their names those
/// are found that killed processes left.
#[derive(Clone, Copy, Debug)]
pub struct TemporaryName {
    /// How the name begins, with a dot, so that it is hidden.
    pub prefix: &'static str,
    /// How it ends.
    pub suffix: &'static str,
}

/// Letters and digits of a [`TemporaryName`].
const N_RANDOM: usize = 6;

/// Those of [`write_whole`].
const TEMPORARY: TemporaryName = TemporaryName {
    prefix: ".tmp",
    suffix: "",
};

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
    let folder = parent(path);
    fs::metadata(folder)?; // Its error is plain; the next ones name the temporary file.
    let mut file = TEMPORARY.file_in(folder)?;
    file.write_all(bytes)?;
    persist(file, path)
}

/// Gives a temporary file its name, when all of it is on the disk.
///
/// # Errors
/// The file system refuses; whatever had that name before is then untouched.
pub fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(parent(path))
}

/// Gives a folder the name that it is to have, when it is whole. An empty folder of that name gives way.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] where the name is taken; the file system refuses.
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

/// The folder that a file or folder of this name lies in.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

impl TemporaryName {
    /// A new file, which vanishes unless it gets another name. It is locked, which says to
    /// [`Self::remove_abandoned`] that its process lives.
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

    /// A new folder, which vanishes unless it gets another name.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn folder_in(&self, folder: &Path) -> io::Result<TempDir> {
        self.builder(0o777).tempdir_in(folder)
    }

    /// Temporary files are private by default; what stays is an ordinary one under the umask.
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

    /// Whether a file or folder of this name is one of these.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        name.strip_prefix(self.prefix)
            .and_then(|rest| rest.strip_suffix(self.suffix))
            .is_some_and(|random| {
                random.len() == N_RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
            })
    }

    /// Removes from a folder the temporary files that killed processes left there. Those of living processes
    /// stay, and so does what cannot be removed.
    pub fn remove_abandoned(&self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let path = entry.path();
            if is_file && entry.file_name().to_str().is_some_and(|name| self.is(name)) {
                remove_if_abandoned(&path, &path, |path| fs::remove_file(path));
            }
        }
    }

    /// Removes from a folder the temporary folders that killed processes left there: those whose file `lock`
    /// nobody has locked.
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

/// Locks a file that was just made, which says to others that its process lives. False where another was
/// quicker, took it for abandoned and removes it. Some file systems have no locks.
pub fn lock_new(file: &File, path: &Path) -> bool {
    match file.try_lock() {
        Ok(()) => path.exists(),
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => true,
    }
}

/// By the lock on a file; where there is none to be had, by the age of what may be removed.
fn remove_if_abandoned(lock: &Path, path: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) {
    // For writing, since NFS gives no exclusive lock otherwise.
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
        let _ = remove(path); // While it is locked: its writer, if it lives, sees that.
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
    TEMPORARY.remove_abandoned(folder);
}

/// Whether a file of this name is one that [`write_whole`] is writing, or was.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    TEMPORARY.is(name)
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
