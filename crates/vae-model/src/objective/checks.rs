//! Numbers that a config may not hold.

use crate::ModelError;

pub(super) fn at_least_0(key: &str, value: f64) -> Result<(), ModelError> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(ModelError::config(
            key,
            format!("found {value}, a number of at least 0 is needed"),
        ))
    }
}

pub(super) fn some_steps(key: &str, n_steps: u64) -> Result<(), ModelError> {
    if n_steps > 0 {
        Ok(())
    } else {
        Err(ModelError::config(key, "found 0, at least 1 is needed"))
    }
}

/// A number of samples: at least 1, and no slip of the hand.
pub(super) fn n_samples(key: &str, n: u32) -> Result<(), ModelError> {
    const LARGEST: u32 = 100_000;
    if (1..=LARGEST).contains(&n) {
        Ok(())
    } else {
        Err(ModelError::config(
            key,
            format!("found {n}, a number from 1 to {LARGEST} is needed"),
        ))
    }
}
