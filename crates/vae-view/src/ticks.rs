//! Round numbers along an axis.

use std::ops::Range;

/// 1, 2 or 5 times a power of ten, so that a range of this length has at most `n` steps.
#[must_use]
pub fn tick_step(length: f64, n: usize) -> f64 {
    let wanted = length / n as f64;
    let power = 10_f64.powf(wanted.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|&f| f * power >= wanted * 0.999);
    factor.unwrap_or(10.0) * power
}

/// The multiples of a step in a range.
#[must_use]
pub fn ticks(range: &Range<f64>, step: f64) -> Vec<f64> {
    // 1e-3 / 2e-4 is a little less than 5.
    const ROUNDING: f64 = 1e-9;
    let first = (range.start / step - ROUNDING).ceil();
    let last = (range.end / step + ROUNDING).floor();
    let n = (last - first + 1.0).clamp(0.0, 101.0) as usize;
    (0..n)
        .map(|i| ((first + i as f64) * step).max(range.start).min(range.end))
        .collect()
}

/// A tick's label with enough digits to distinguish it from its neighbors.
pub(crate) fn tick_label(value: f64, step: f64) -> String {
    let large = value.abs().max(step);
    if value == 0.0 {
        "0".to_owned()
    } else if large >= 1e6 || step < 1e-3 {
        let digits = (large.log10().floor() - step.log10().floor()).clamp(0.0, 6.0);
        format!("{value:.*e}", digits as usize).replace('-', "\u{2212}")
    } else {
        decimal(value, (-step.log10().floor()).max(0.0) as usize)
    }
}

/// A number with a true minus sign; in scientific notation if it would be long.
#[must_use]
pub fn decimal(value: f64, decimals: usize) -> String {
    let text = if value.abs() >= 1e7 {
        format!("{value:.3e}")
    } else {
        format!("{value:.decimals$}")
    };
    // Rounded to 0 it has no sign.
    match text
        .trim_start_matches('-')
        .chars()
        .all(|c| "0.".contains(c))
    {
        true => text.trim_start_matches('-').to_owned(),
        false => text.replace('-', "\u{2212}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_with_digits_that_differ() {
        let labels = |range: Range<f64>, n| {
            let step = tick_step(range.end - range.start, n);
            let labels = ticks(&range, step).into_iter();
            labels
                .map(|tick| tick_label(tick, step))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            labels(-1.1..1.1, 6),
            ["\u{2212}1.0", "\u{2212}0.5", "0", "0.5", "1.0"]
        );
        assert_eq!(
            labels(1.0..9.0, 8),
            ["1", "2", "3", "4", "5", "6", "7", "8", "9"]
        );
        assert_eq!(
            labels(0.0..3.1e-4, 4),
            ["0", "1e\u{2212}4", "2e\u{2212}4", "3e\u{2212}4"]
        );
        assert_eq!(labels(0.0..3.1e30, 4), ["0", "1e30", "2e30", "3e30"]);
        assert_eq!(
            labels(0.0..1e-3, 6),
            [
                "0",
                "2e\u{2212}4",
                "4e\u{2212}4",
                "6e\u{2212}4",
                "8e\u{2212}4",
                "1.0e\u{2212}3"
            ]
        );
    }
}
