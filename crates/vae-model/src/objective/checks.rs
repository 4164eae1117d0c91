//! Checks of the numbers of a config.

use crate::ModelError;

/// The largest weight of a term. Its product with a term still fits into f32.
pub(super) const LARGEST_WEIGHT: f64 = 1e12;

/// Refuses a weight below 0, and one so large that it is surely a mistake.
pub(crate) fn at_least_0(key: &str, value: f64) -> Result<(), ModelError> {
    if (0.0..=LARGEST_WEIGHT).contains(&value) {
        return Ok(());
    }
    let wanted = match value > LARGEST_WEIGHT {
        true => format!("at most {LARGEST_WEIGHT:e}"),
        false => "at least 0".to_owned(),
    };
    Err(ModelError::config(
        key,
        format!("found {value:?}, expected {wanted}"),
    ))
}

pub(super) fn some_steps(key: &str, n_steps: u64) -> Result<(), ModelError> {
    if n_steps > 0 {
        Ok(())
    } else {
        Err(ModelError::config(key, "found 0, expected at least 1"))
    }
}

/// Refuses a share of the run outside `[0, 1]`, and one beside a number of steps that was changed as well.
pub(super) fn share_or_steps(
    key: &str,
    share: f64,
    steps_key: &str,
    [steps, default]: [u64; 2],
) -> Result<(), ModelError> {
    if !(0.0..=1.0).contains(&share) {
        let problem = format!("found {share:?}, expected a number from 0 to 1");
        return Err(ModelError::config(key, problem));
    }
    if share > 0.0 && steps != default {
        let problem =
            format!("found {share} beside {steps_key} = {steps}; one of the two would fit");
        return Err(ModelError::config(key, problem));
    }
    Ok(())
}

/// The steps that are meant in a run of `n_steps`: a share of them, if there is one, else `steps`.
pub(super) fn steps_of(share: f64, steps: u64, n_steps: u64) -> u64 {
    match share > 0.0 {
        true => ((share * n_steps as f64).round() as u64).max(1),
        false => steps,
    }
}

/// More samples are surely a mistake.
pub(super) const MOST_SAMPLES: u64 = 100_000;

/// Refuses numbers of samples below 1 or above [`MOST_SAMPLES`].
pub(super) fn n_samples(key: &str, n: impl Into<u64>) -> Result<(), ModelError> {
    let n = n.into();
    if (1..=MOST_SAMPLES).contains(&n) {
        Ok(())
    } else {
        Err(ModelError::config(
            key,
            format!("found {n}, expected a number from 1 to {MOST_SAMPLES}"),
        ))
    }
}
