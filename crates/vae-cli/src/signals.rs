//! Signals: requests to end the program, and the signal for writes beyond a file size limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::output::say;

/// The exit code that shells use for Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// The exit code of a process that a launcher of this program has started, where another process is to blame (EX_TEMPFAIL).
pub(crate) const ANOTHER_IS_GONE: u8 = 75;

/// Makes a write that `ulimit -f` forbids an error, as on a full disk. (A write to a closed pipe is an error already: Rust
/// ignores SIGPIPE.)
pub(crate) fn refused_writes_are_errors() {
    #[cfg(unix)]
    // SAFETY: at the start of main there is no other thread; ignoring is a valid action.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// A flag that Ctrl-C, SIGTERM and SIGHUP raise; the second of them exits at once. `when` says when the work that looks at the flag
/// stops, as in " after this step".
///
/// A signal that is already ignored stays ignored: SIGHUP under `nohup`, SIGINT of a script's background job.
pub(crate) fn stop_when_asked(when: &'static str) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    let ignored = ignored_signals();
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::Relaxed) {
            exit_at_once(INTERRUPTED);
        }
        say!("stopping{when}; once more to exit at once");
    })
    .context("Ctrl-C handler")?;
    for signal in ignored {
        // SAFETY: ignoring is a valid action for each of them.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    Ok(stop)
}

/// Ends this process whatever its threads do. Files are complete at any moment.
pub(crate) fn exit_at_once(code: u8) -> ! {
    // `exit` would run destructors of libtorch's globals while its threads still compute.
    // SAFETY: ends the process.
    unsafe { libc::_exit(code.into()) }
}

/// Asks another process to save and end.
pub(crate) fn ask_to_end(process: u32) {
    if let Ok(process) = libc::pid_t::try_from(process) {
        // SAFETY: sends a signal to a child that has not been waited for.
        unsafe {
            libc::kill(process, libc::SIGTERM);
        }
    }
}

/// Which of the signals that request an end are ignored.
#[cfg(unix)]
fn ignored_signals() -> Vec<libc::c_int> {
    let is_ignored = |&signal: &libc::c_int| {
        // SAFETY: all zero bytes are a valid sigaction; without a new action the old one is only read.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        }
    };
    let mut signals = vec![libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
    signals.retain(is_ignored);
    signals
}

#[cfg(not(unix))]
fn ignored_signals() -> Vec<libc::c_int> {
    Vec::new()
}
