//! Which of several runs is better in a measure, and whether the difference is more than noise.

use std::fmt;

use crate::Better;
use crate::number::with_decimals;

/// Differences below this number of their standard errors are noise.
const CLEAR: f64 = 2.0;

/// A value with its standard error, if it has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub error: Option<f64>,
}

/// A value compared with the best one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is the best.
    Best,
    /// Its difference from the best is less than twice the difference's standard error.
    AsGood,
    /// It is worse.
    Worse {
        /// The difference from the best, above 0.
        by: f64,
        /// The standard error of the difference, if both values have one.
        error: Option<f64>,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Best => f.write_str("◂ best"),
            Self::AsGood => f.write_str("≈ best"),
            Self::Worse { by, error } => {
                let decimals = match error.unwrap_or(by / 10.0) {
                    scale if scale > 0.0 => (1.0 - scale.log10().floor()).clamp(0.0, 6.0) as usize,
                    _ => 2,
                };
                write!(f, "worse by {}", with_decimals(by, decimals))?;
                match error {
                    Some(error) => write!(f, " ± {}", with_decimals(error, decimals)),
                    None => Ok(()),
                }
            }
        }
    }
}

fn verdict(by: f64, error: Option<f64>) -> Verdict {
    match error {
        _ if by == 0.0 => Verdict::Best,
        Some(error) if by < CLEAR * error => Verdict::AsGood,
        error => Verdict::Worse { by, error },
    }
}

/// The verdict on each value; none where there is no number. The error of a difference is that of independent values.
#[must_use]
pub fn verdicts(values: &[Option<Estimate>], better: Better) -> Vec<Option<Verdict>> {
    let finite = |estimate: &Option<Estimate>| estimate.filter(|found| found.value.is_finite());
    let sign = match better {
        Better::Lower => 1.0,
        Better::Higher => -1.0,
    };
    let known = values.iter().filter_map(finite);
    let best = known.min_by(|a, b| (sign * a.value).total_cmp(&(sign * b.value)));
    let Some(best) = best.filter(|_| values.iter().filter_map(finite).count() > 1) else {
        return vec![None; values.len()];
    };
    let of = |found: Estimate| {
        let error = found.error.zip(best.error).map(|(a, b)| a.hypot(b));
        verdict(sign * (found.value - best.value), error)
    };
    values.iter().map(|value| finite(value).map(of)).collect()
}

/// Values of the same items by several runs: mean and standard error of each, and verdicts by the differences item by item, which
/// are much less noisy than the means.
#[must_use]
pub fn paired(values: &[Option<Vec<f64>>], better: Better) -> Vec<Option<(Estimate, Verdict)>> {
    let estimates: Vec<Option<Estimate>> = values
        .iter()
        .map(|values| values.as_deref().map(mean_and_error))
        .collect();
    let best = verdicts(&estimates, better)
        .iter()
        .position(|verdict| *verdict == Some(Verdict::Best));
    let best = best.and_then(|best| values[best].as_ref());
    values
        .iter()
        .zip(&estimates)
        .map(|(values, estimate)| {
            let (values, estimate, best) = (values.as_ref()?, (*estimate)?, best?);
            let difference: Vec<f64> = values
                .iter()
                .zip(best)
                .map(|(value, best)| match better {
                    Better::Lower => value - best,
                    Better::Higher => best - value,
                })
                .collect();
            let Estimate { value, error } = mean_and_error(&difference);
            Some((estimate, verdict(value.max(0.0), error)))
        })
        .collect()
}

fn mean_and_error(values: &[f64]) -> Estimate {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Estimate {
        value: mean,
        error: (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(value: f64, error: f64) -> Option<Estimate> {
        Some(Estimate {
            value,
            error: Some(error),
        })
    }

    #[test]
    fn a_difference_below_twice_its_error_is_noise() {
        // The error of each difference is √(0.3² + 0.4²) = 0.5.
        let values = [
            estimate(90.0, 0.3),
            estimate(90.9, 0.4),
            estimate(91.1, 0.4),
            None,
        ];
        let found = verdicts(&values, Better::Lower);
        assert_eq!(found[0], Some(Verdict::Best));
        assert_eq!(found[1], Some(Verdict::AsGood));
        assert!(
            matches!(found[2], Some(Verdict::Worse { error: Some(e), .. }) if (e - 0.5).abs() < 1e-9)
        );
        assert_eq!(found[2].expect("one").to_string(), "worse by 1.10 ± 0.50");
        assert_eq!(found[3], None);
        // In the other direction the last is the best.
        let found = verdicts(&values, Better::Higher);
        assert_eq!(
            (found[2], found[1]),
            (Some(Verdict::Best), Some(Verdict::AsGood))
        );
        assert!(matches!(found[0], Some(Verdict::Worse { .. })));
    }

    #[test]
    fn one_value_alone_or_equal_ones_are_not_told_apart() {
        assert_eq!(
            verdicts(&[estimate(1.0, 0.1), None], Better::Lower),
            [None, None]
        );
        let same = verdicts(&[estimate(1.0, 0.1); 2], Better::Lower);
        assert_eq!(same, [Some(Verdict::Best); 2]);
        let bare = |value| Some(Estimate { value, error: None });
        let found = verdicts(&[bare(1.0), bare(1.5), bare(f64::NAN)], Better::Lower);
        assert_eq!(found[1].expect("one").to_string(), "worse by 0.500");
        assert_eq!(found[2], None);
    }

    #[test]
    fn differences_item_by_item_show_what_the_means_hide() {
        // Items differ by hundreds, the runs by 1 to 2 in each.
        let first: Vec<f64> = (0..100).map(|i| f64::from(i) * 10.0).collect();
        let second: Vec<f64> = (0..100)
            .map(|i| f64::from(i) * 10.0 + 1.0 + f64::from(i % 2))
            .collect();
        let found = paired(&[Some(first), Some(second), None], Better::Lower);
        let (mean, best) = found[0].expect("a value");
        assert_eq!((mean.value, best), (495.0, Verdict::Best));
        let (mean, worse) = found[1].expect("a value");
        assert!(mean.error.expect("an error") > 20.0);
        let Verdict::Worse {
            by,
            error: Some(error),
        } = worse
        else {
            panic!("{worse:?}");
        };
        // The deviation of 1 and 2 is 0.5; √(0.25 · 100/99 / 100).
        assert!((by - 1.5).abs() < 1e-9 && (error - (0.25_f64 / 99.0).sqrt()).abs() < 1e-9);
        assert_eq!(found[2], None);
    }
}
