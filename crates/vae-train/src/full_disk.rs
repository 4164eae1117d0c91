//! Waiting for space on a full disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tracing::warn;

use crate::TrainError;

/// The pause between two attempts to write to a full disk.
const PAUSE: Duration = Duration::from_secs(2);

/// Repeats a write until it succeeds or fails for another reason than a full disk.
pub(crate) fn while_disk_is_full<T>(
    stop: &AtomicBool,
    mut write: impl FnMut() -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    let mut warned = false;
    loop {
        match write() {
            Err(error) if error.is_disk_full() && !stop.load(Ordering::Relaxed) => {
                if !warned {
                    warn!(
                        "{error}: no space left on the disk. Paused: free some space, and the run continues \
                         by itself (Ctrl-C gives up; the checkpoints so far are whole)"
                    );
                    warned = true;
                }
                thread::sleep(PAUSE);
            }
            result => {
                if warned && result.is_ok() {
                    warn!("there is space again: continuing");
                }
                return result;
            }
        }
    }
}
