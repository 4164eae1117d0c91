//! A measured result: its value, how it was measured, and how it is displayed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vae_base::dotted;

use crate::number::{number, with_decimals};
use crate::{ImagesUsed, Protocol};

/// A result and how it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The name in snake_case, the same in every report: `nll`, `fid_mnist_classifier`.
    pub name: String,
    /// The name for display: `negative log-likelihood`.
    pub label: String,
    /// The value.
    pub value: f64,
    /// Its standard error, in the same unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// The side of the value on which the true value lies, if the value is only a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
    /// `nats per image`, or empty if it has no unit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// Which values are better, if any are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub better: Option<Better>,
    /// How it was measured, besides the images; none if that is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// A further finding about this run, such as `7 of 10 components in use`. It is not part of the protocol.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Lower ones.
    Lower,
    /// Higher ones.
    Higher,
}

/// The relation of a bound to the true value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The true value is at least this one.
    AtLeast,
}

impl Measure {
    /// A value without unit, error and protocol.
    #[must_use]
    pub fn new(name: &str, label: &str, value: f64) -> Self {
        Self {
            name: name.to_owned(),
            label: label.to_owned(),
            value,
            error: None,
            bound: None,
            unit: String::new(),
            better: None,
            protocol: None,
            note: String::new(),
        }
    }

    /// Adds the standard error.
    #[must_use]
    pub fn error(self, error: f64) -> Self {
        Self {
            error: Some(error),
            ..self
        }
    }

    /// Marks the value as a lower bound of the true value.
    #[must_use]
    pub fn at_least(self) -> Self {
        Self {
            bound: Some(Bound::AtLeast),
            ..self
        }
    }

    /// Sets the unit.
    #[must_use]
    pub fn unit(self, unit: &str) -> Self {
        Self {
            unit: unit.to_owned(),
            ..self
        }
    }

    /// Marks lower values as better.
    #[must_use]
    pub fn lower_is_better(self) -> Self {
        Self {
            better: Some(Better::Lower),
            ..self
        }
    }

    /// Marks higher values as better.
    #[must_use]
    pub fn higher_is_better(self) -> Self {
        Self {
            better: Some(Better::Higher),
            ..self
        }
    }

    /// Adds a finding about this run.
    #[must_use]
    pub fn note(self, note: impl Into<String>) -> Self {
        Self {
            note: note.into(),
            ..self
        }
    }

    /// Sets how it was measured.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self {
            protocol: Some(protocol),
            ..self
        }
    }
}

/// Rounded according to its error: `95.03 ± 0.27 nats per image`.
impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, error) = value_and_error(self);
        f.write_str(&value)?;
        if let Some(error) = error {
            write!(f, " ± {error}")?;
        }
        let unit = &self.unit;
        match unit.is_empty() {
            true => Ok(()),
            false => write!(f, " {unit}"),
        }
    }
}

impl Measure {
    /// How it was measured and the meaning of its ±, as text; empty if unknown.
    #[must_use]
    pub fn how(&self) -> String {
        match (&self.protocol, self.error) {
            (Some(protocol), Some(_)) => format!("{protocol}; {}", protocol.error()),
            (Some(protocol), None) => protocol.to_string(),
            (None, _) => String::new(),
        }
    }
}

/// The fields in which results of the same name were measured differently, each with the value of every result:
/// `protocol.n_samples` with 500 and 5000. The model and its training data are not fields of a result, and neither is
/// the seed.
#[must_use]
pub fn differing_fields(numbers: &[(&Measure, &ImagesUsed)]) -> BTreeMap<String, Vec<Value>> {
    let all: Vec<BTreeMap<String, Value>> = numbers
        .iter()
        .map(|(measure, images)| {
            let protocol = serde_json::to_value(&measure.protocol).unwrap_or_default();
            let images = serde_json::to_value(images.identifying()).unwrap_or_default();
            let fields = Value::from_iter([("protocol", protocol), ("images", images)]);
            dotted(&fields, &|value| {
                Some(value.as_object()?.clone().into_iter().collect())
            })
        })
        .collect();
    let names = all.iter().flat_map(|fields| fields.keys().cloned());
    names
        .filter_map(|name| {
            let value = |fields: &BTreeMap<String, Value>| fields.get(&name).cloned();
            let values: Vec<Value> = all.iter().map(|f| value(f).unwrap_or_default()).collect();
            let differ = values.windows(2).any(|pair| pair[0] != pair[1]);
            differ.then_some((name, values))
        })
        .collect()
}

/// A measure's value and its error, if there is one, with two digits of the error; otherwise as [`number`]. A bound
/// begins with its sign.
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

#[cfg(test)]
mod tests {
    use vae_data::{DatasetIdentity, KnownDataset};

    use super::*;
    use crate::{Pixels, SplitUsed, TrainedOn};

    fn images() -> ImagesUsed {
        ImagesUsed {
            dataset: DatasetIdentity {
                name: KnownDataset::Mnist,
                recognized_by: None,
                source: "mnist".to_owned(),
            },
            fingerprint: 1,
            split: SplitUsed::Test,
            n_images: 10,
            n_available: 10,
            shape: [1, 28, 28],
            items: None,
            pixels: Pixels::Gray,
            crop: None,
            trained_on: Some(TrainedOn {
                dataset: DatasetIdentity::default(),
                n_images: 60,
                pixels: Pixels::Gray,
            }),
        }
    }

    fn nll(n_samples: u32) -> Measure {
        let protocol = Protocol::ImportanceWeighted {
            n_samples,
            n_images: None,
        };
        Measure::new("nll", "NLL", 90.0).protocol(protocol)
    }

    #[test]
    fn numbers_differ_in_the_fields_that_were_changed_and_in_no_other() {
        let fields = |measure: &Measure, images: &ImagesUsed| {
            let other = self::images();
            let fields = differing_fields(&[(&nll(5), &other), (measure, images)]);
            fields.into_keys().collect::<Vec<_>>()
        };
        let same = ImagesUsed {
            trained_on: None,
            ..images()
        };
        assert!(fields(&nll(5), &same).is_empty());
        assert_eq!(fields(&nll(6), &same), ["protocol.n_samples"]);
        let closed = Measure::new("nll", "NLL", 90.0).protocol(Protocol::ProbabilisticPca);
        assert_eq!(
            fields(&closed, &same),
            ["protocol.method", "protocol.n_samples"]
        );
        let changed = |change: &dyn Fn(&mut ImagesUsed)| {
            let mut images = images();
            change(&mut images);
            fields(&nll(5), &images)
        };
        assert_eq!(
            changed(&|images| images.split = SplitUsed::Validation),
            ["images.split"]
        );
        assert_eq!(changed(&|images| images.n_images = 9), ["images.n_images"]);
        assert_eq!(
            changed(&|images| images.pixels = Pixels::Static),
            ["images.pixels"]
        );
        assert_eq!(
            changed(&|images| images.crop = Some(vae_model::Crop::Center { fraction: 0.5 })),
            ["images.crop.center.fraction"]
        );
        assert_eq!(
            changed(&|images| images.dataset.name = KnownDataset::Kmnist),
            ["images.dataset.name"]
        );
        // The folder's name is ignored for a known data set, and identifies an unknown one.
        let folder = |images: &mut ImagesUsed| images.dataset.source = "digits".to_owned();
        assert!(changed(&folder).is_empty());
        let unknown = |source: &str| {
            let mut images = images();
            images.dataset.name = KnownDataset::Unknown;
            images.dataset.source = source.to_owned();
            images
        };
        let (a, b) = (unknown("a"), unknown("b"));
        let fields = differing_fields(&[(&nll(5), &a), (&nll(5), &b)]);
        assert_eq!(fields["images.dataset.source"], ["a", "b"]);
        assert_eq!(fields.len(), 1);
    }

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
