//! How the C++ reports errors.

use std::ffi::{CStr, c_char, c_void};

use tch::TchError;

/// Takes over the message that a call returned, if any.
///
/// # Safety
/// `message` is null, or a C string from malloc that nothing else frees.
pub(crate) unsafe fn taken(message: *mut c_char) -> Result<(), TchError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so a C string from malloc, and ours to free.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        libc::free(message.cast::<c_void>());
        text
    };
    Err(TchError::Torch(text))
}
