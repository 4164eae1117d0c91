//! The lock of a run: only one process may train it, and others can see whether one does.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use tracing::warn;

use crate::RunError;

/// The lock on `run.lock`. It is held until this is dropped or its process ends in any way: the lock is the
/// system's, and the file only carries it.
#[derive(Debug)]
#[must_use = "the lock ends when this is dropped"]
pub struct RunLock {
    pub(crate) file: File,
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Closing is not enough: a child process has the file too until its program starts.
        let _ = self.file.unlock();
    }
}

/// [`is_locked`] holds a shared lock for an instant, which may be the cause of a first refusal.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Bytes of the process number in the file.
const MAX_OWNER_BYTES: u64 = 32;

/// The result of trying for the lock.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// We hold it until the file is closed.
    Locked,
    /// Another process trains the run.
    Refused,
    /// The file system has no locks.
    NoLocks(io::Error),
}

/// Tries for the lock. If a process trains the run, this fails at once, even if that process is about to end. A
/// process that only asks for the state is waited for.
pub(crate) fn try_lock(file: &File, mut pause: impl FnMut()) -> Attempt {
    for _ in 0..ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Attempt::Locked,
            Err(TryLockError::Error(error)) => return Attempt::NoLocks(error),
            Err(TryLockError::WouldBlock) => {}
        }
        // Beside a shared lock of a process that asks, another shared one is possible.
        if file.try_lock_shared().is_err() || file.unlock().is_err() {
            return Attempt::Refused;
        }
        pause();
    }
    Attempt::Refused
}

impl RunLock {
    /// Takes the lock of a run, which is held until it is dropped: `lock_file` is in the folder `run`.
    ///
    /// On a file system without locks the returned lock excludes nobody, and a warning is logged.
    ///
    /// # Errors
    /// Another process (or another part of this one) holds it; the file cannot be written.
    pub(crate) fn take(lock_file: &Path, run: &Path) -> Result<Self, RunError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(lock_file)
            .map_err(RunError::io(lock_file))?;
        match try_lock(&file, || sleep(PAUSE)) {
            Attempt::Locked => {}
            Attempt::Refused => {
                let mut owner = String::new();
                let read = (&file).take(MAX_OWNER_BYTES).read_to_string(&mut owner);
                return Err(RunError::Locked {
                    path: run.to_owned(),
                    pid: read.ok().and_then(|_| owner.trim().parse().ok()),
                });
            }
            Attempt::NoLocks(error) => warn!(
                "{}: this file system has no locks ({error}), so nothing prevents a second process from \
                 training the run at the same time; make sure that none does",
                lock_file.display()
            ),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(RunError::io(lock_file))?;
        Ok(Self { file })
    }
}

/// Whether a process holds the lock; none if the file system has no locks, so that this is unknown.
pub(crate) fn is_locked(lock_file: &Path) -> Option<bool> {
    let Ok(file) = File::open(lock_file) else {
        return Some(false);
    };
    // Shared, so that two processes that ask do not take each other for the one that trains.
    match file.try_lock_shared() {
        Ok(()) => Some(false),
        Err(TryLockError::WouldBlock) => Some(true),
        Err(TryLockError::Error(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trainer_refuses_at_once_and_one_that_asks_for_the_state_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.lock");
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&path).expect("a file")
        };
        let trainer = open();
        trainer.lock().expect("free");
        let mut n_pauses = 0;
        let refused = try_lock(&open(), || n_pauses += 1);
        assert!(matches!(refused, Attempt::Refused), "{refused:?}");
        assert_eq!(n_pauses, 0, "it may end in the pause, and two would go on");
        drop(trainer);

        let mut asking = Some(open());
        if let Some(file) = &asking {
            file.lock_shared().expect("free");
        }
        let file = open();
        let locked = try_lock(&file, || drop(asking.take()));
        assert!(matches!(locked, Attempt::Locked), "{locked:?}");
        assert!(asking.is_none(), "it had to wait");
    }
}
