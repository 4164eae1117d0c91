//! The lock of a run: one process trains it, and others can tell whether one does.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::thread::sleep;
use std::time::Duration;

use crate::{RunDir, TrainError};

/// What `run.lock` stands for. It holds until it is dropped or its process ends, however it ends:
/// the system keeps the lock, the file only gives it a place.
#[derive(Debug)]
#[must_use = "the lock ends when this is dropped"]
pub struct RunLock {
    _file: File,
}

/// How far a run is from being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// A process trains it.
    Running,
    /// All epochs are done.
    Finished,
    /// Ctrl-C.
    Interrupted,
    /// An error ended it.
    Failed,
    /// Nobody trains it and it has no summary: its process was killed.
    Stopped,
}

impl RunState {
    /// As in `summary.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// [`RunDir::state`] holds a shared lock for an instant, so the first refusal may be its doing.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

impl RunDir {
    /// Makes this process the one that trains the run, until the lock is dropped.
    ///
    /// On a file system without locks it gives one that keeps nobody out.
    ///
    /// # Errors
    /// Another process (or another part of this one) has it; the file cannot be written.
    pub fn lock(&self) -> Result<RunLock, TrainError> {
        let path = self.lock_file();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(TrainError::io(&path))?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    let mut owner = String::new();
                    let read = file.take(64).read_to_string(&mut owner);
                    return Err(TrainError::Locked {
                        path: self.path().to_owned(),
                        pid: read.ok().and_then(|_| owner.trim().parse().ok()),
                    });
                }
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => break,
                Err(TryLockError::Error(error)) => return Err(TrainError::io(path)(error)),
            }
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(TrainError::io(&path))?;
        Ok(RunLock { _file: file })
    }

    /// Whether a process trains the run, else what its summary says. Changes nothing in the folder,
    /// which may be read-only.
    ///
    /// # Errors
    /// The summary cannot be read.
    pub fn state(&self) -> Result<RunState, TrainError> {
        if self.is_locked() {
            return Ok(RunState::Running);
        }
        match self.summary()? {
            None => Ok(RunState::Stopped),
            Some(summary) => [RunState::Finished, RunState::Interrupted, RunState::Failed]
                .into_iter()
                .find(|state| state.name() == summary.state)
                .ok_or_else(|| {
                    let problem = format!(
                        "state: found {:?}, wanted \"finished\", \"interrupted\" or \"failed\"",
                        summary.state
                    );
                    TrainError::run(self.summary_file(), problem)
                }),
        }
    }

    fn is_locked(&self) -> bool {
        // Shared, so that two who look do not take each other for the trainer.
        File::open(self.lock_file())
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}
