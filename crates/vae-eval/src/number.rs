//! Formatting of numbers.

/// A number with digits according to its magnitude and a true minus sign.
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

/// An integer with thousands separators: `162,770`.
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
