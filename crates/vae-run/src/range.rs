//! Range checks of config values.

use std::borrow::Cow;

use crate::RunError;

/// Larger values are typing errors, and would overflow to infinity in f32.
const LARGEST: f64 = 1e12;

fn refused(key: impl Into<Cow<'static, str>>, value: f64, wanted: &str) -> RunError {
    RunError::Config {
        key: key.into(),
        problem: format!("found {value:?}, {wanted} is needed"),
    }
}

pub(crate) fn positive(key: impl Into<Cow<'static, str>>, value: f64) -> Result<(), RunError> {
    if value > 0.0 && value <= LARGEST {
        Ok(())
    } else if value > LARGEST {
        Err(refused(key, value, "a number of at most 1e12"))
    } else {
        Err(refused(key, value, "a positive number"))
    }
}

pub(crate) fn at_least_0(key: impl Into<Cow<'static, str>>, value: f64) -> Result<(), RunError> {
    if (0.0..=LARGEST).contains(&value) {
        Ok(())
    } else if value > LARGEST {
        Err(refused(key, value, "a number of at most 1e12"))
    } else {
        Err(refused(key, value, "a number of at least 0"))
    }
}

/// Checks a count: at least 1, at most `largest`.
pub(crate) fn count(key: &'static str, found: usize, largest: usize) -> Result<(), RunError> {
    let problem = match found {
        0 => "found 0, at least 1 is needed".to_owned(),
        _ if found > largest => format!("found {found}, at most {largest} are possible"),
        _ => return Ok(()),
    };
    Err(RunError::config(key, problem))
}

/// Checks that a value is in [0, 1].
pub(crate) fn from_0_to_1(key: impl Into<Cow<'static, str>>, value: f64) -> Result<(), RunError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(refused(key, value, "a number from 0 to 1"))
    }
}

/// Checks that a value is in [0, 1).
pub(crate) fn below_1(key: impl Into<Cow<'static, str>>, value: f64) -> Result<(), RunError> {
    if (0.0..1.0).contains(&value) {
        Ok(())
    } else {
        Err(refused(key, value, "a number in [0, 1)"))
    }
}
