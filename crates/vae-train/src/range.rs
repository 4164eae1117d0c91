//! Refusals of config values outside their range.

use crate::TrainError;

fn refused(key: &'static str, value: f64, wanted: &str) -> TrainError {
    TrainError::Config {
        key,
        problem: format!("found {value}, {wanted} is needed"),
    }
}

pub(crate) fn positive(key: &'static str, value: f64) -> Result<(), TrainError> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(refused(key, value, "a positive number"))
    }
}

pub(crate) fn at_least_0(key: &'static str, value: f64) -> Result<(), TrainError> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(refused(key, value, "a number of at least 0"))
    }
}

/// In [0, 1].
pub(crate) fn from_0_to_1(key: &'static str, value: f64) -> Result<(), TrainError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(refused(key, value, "a number from 0 to 1"))
    }
}

/// In [0, 1).
pub(crate) fn below_1(key: &'static str, value: f64) -> Result<(), TrainError> {
    if (0.0..1.0).contains(&value) {
        Ok(())
    } else {
        Err(refused(key, value, "a number in [0, 1)"))
    }
}
