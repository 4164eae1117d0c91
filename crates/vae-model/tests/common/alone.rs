//! One test at a time draws from libtorch's generator.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// libtorch has one generator for all threads, and tests run side by side: a test that draws from it, fresh
/// weights included, holds this, and finds the generator as every time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let alone = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(1);
    alone
}
