//! `dataset.validation`: how many training images are held out for validation.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::DataError;

/// The key in a config.
pub(crate) const VALIDATION_KEY: &str = "dataset.validation";

/// How many images are held out from training. They choose the best checkpoint, when to stop and when to lower the
/// learning rate.
///
/// ```
/// use vae_data::HoldOut;
/// # #[derive(serde::Deserialize)] struct Table { validation: HoldOut }
/// let read = |text| toml::from_str::<Table>(text).map(|table| table.validation);
/// assert_eq!(read("validation = 5000"), Ok(HoldOut::Count(5000)));
/// assert_eq!(read("validation = 0.1"), Ok(HoldOut::Fraction(0.1)));
/// assert!(read("validation = 0").is_ok_and(HoldOut::is_none));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum HoldOut {
    /// This number of images; 0 for none.
    Count(usize),
    /// This fraction of the images.
    Fraction(#[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))] f64),
}

impl HoldOut {
    /// Whether no images are held out.
    #[must_use]
    pub fn is_none(self) -> bool {
        matches!(self, Self::Count(0)) || self == Self::Fraction(0.0)
    }

    /// The number of images to hold out from `n`.
    ///
    /// # Errors
    /// No images would be left to train on.
    pub(crate) fn of(self, n: usize) -> Result<usize, DataError> {
        let count = match self {
            Self::Count(count) => count,
            Self::Fraction(fraction) => (n as f64 * fraction).round() as usize,
        };
        if self.is_none() || count < n {
            return Ok(count);
        }
        Err(DataError::Config {
            key: VALIDATION_KEY,
            problem: format!(
                "found {self}, expected fewer than the {n} images there are, so that some are left to train on"
            ),
        })
    }

    pub(crate) fn check(self) -> Result<(), DataError> {
        match self {
            Self::Fraction(fraction) if !(0.0..1.0).contains(&fraction) => Err(DataError::Config {
                key: VALIDATION_KEY,
                problem: format!(
                    "found {fraction}, expected a number of images (such as 5000) or a share of them, at \
                         least 0 and less than 1"
                ),
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for HoldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Fraction(fraction) => fraction.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for HoldOut {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = HoldOut;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number of images, such as 5000, or a share of them, such as 0.1")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<HoldOut, E> {
                match usize::try_from(value) {
                    Ok(count) => Ok(HoldOut::Count(count)),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<HoldOut, E> {
                match usize::try_from(value) {
                    Ok(count) => Ok(HoldOut::Count(count)),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
                }
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<HoldOut, E> {
                Ok(HoldOut::Fraction(value))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_and_something_is_left_to_train_on() {
        assert_eq!(HoldOut::Fraction(0.1).of(95).unwrap(), 10);
        assert_eq!(HoldOut::Count(94).of(95).unwrap(), 94);
        assert_eq!(HoldOut::Count(0).of(0).unwrap(), 0);
        assert!(HoldOut::Count(95).of(95).is_err());
        assert!(HoldOut::Fraction(0.9).of(3).is_err());
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for fraction in [1.0, -0.1, 5000.5, f64::NAN] {
            let message = HoldOut::Fraction(fraction).check().unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("dataset.validation: found {fraction}, expected")),
                "{message}"
            );
        }
        assert!(HoldOut::Fraction(0.0).check().is_ok());
    }
}
