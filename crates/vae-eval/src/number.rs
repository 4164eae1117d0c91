//! Numbers as people write them.

use crate::{Bound, Measure};

/// With so many digits as its size asks for, and a real minus sign.
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() {
        return "not a number".to_owned();
    }
    let size = value.abs();
    if size > 0.0 && size < 1e-3 {
        return format!("{value:.2e}").replace('-', "\u{2212}");
    }
    let decimals = match size {
        _ if value.fract() == 0.0 && size < 1e15 => 0,
        10_000.0.. => 0,
        1000.0.. => 1,
        10.0.. => 2,
        1.0.. => 3,
        _ => 4,
    };
    with_decimals(value, decimals)
}

/// A measure's value, and its error where there is one: with two digits of the error, or as
/// [`number`]. A bound begins with its sign.
pub(crate) fn value_and_error(measure: &Measure) -> (String, Option<String>) {
    let (value, error) = digits(measure);
    match measure.bound {
        Some(Bound::AtLeast) => (format!("≥ {value}"), error),
        None => (value, error),
    }
}

fn digits(measure: &Measure) -> (String, Option<String>) {
    match measure.error {
        Some(error) if error.is_finite() && error > 0.0 => {
            let decimals = (1.0 - error.log10().floor()).clamp(0.0, 6.0) as usize;
            let value = with_decimals(measure.value, decimals);
            (value, Some(with_decimals(error, decimals)))
        }
        Some(error) => (number(measure.value), Some(number(error))),
        None => (number(measure.value), None),
    }
}

pub(crate) fn with_decimals(value: f64, decimals: usize) -> String {
    let size = value.abs();
    let is_lost = size > 0.0 && size < 0.5 * 0.1_f64.powi(decimals as i32);
    let text = if size >= 1e7 || is_lost {
        format!("{value:.3e}")
    } else if decimals == 0 && size >= 1e4 {
        let sign = if value < 0.0 { "-" } else { "" };
        format!("{sign}{}", grouped(size.round() as u64))
    } else {
        format!("{value:.decimals$}")
    };
    text.replace('-', "\u{2212}")
}

/// `162,770`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_the_digits_that_mean_something() {
        let shown = |value, error| {
            let measure = Measure::new("x", "x", value);
            value_and_error(&Measure { error, ..measure })
        };
        let with_error = |value, error| {
            let (value, error) = shown(value, Some(error));
            (value, error.unwrap())
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(with_error(-96.3412, 0.2345), pair("−96.34", "0.23"));
        assert_eq!(with_error(5471.02, 12.3), pair("5471", "12"));
        assert_eq!(with_error(0.97312, 0.00161), pair("0.9731", "0.0016"));
        assert_eq!(with_error(1.0, 0.0), pair("1", "0"));
        assert_eq!(number(128.0), "128");
        assert_eq!(number(0.973_12), "0.9731");
        assert_eq!(number(3.214_99), "3.215");
        assert_eq!(number(-1234.56), "−1234.6");
        assert_eq!(number(160_384.0), "160,384");
        assert_eq!(number(0.000_012_3), "1.23e−5");
        assert_eq!(with_error(0.007_71, 0.000_04), pair("0.007710", "0.000040"));
        assert_eq!(number(f64::NAN), "not a number");
        assert_eq!(number(f64::NEG_INFINITY), "−inf");
    }
}
