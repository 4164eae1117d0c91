//! Conditions: what a model is conditioned on beside the item itself, its class or attributes.

use serde::{Deserialize, Serialize};

/// The columns of a condition as resolved from a data set: one for each class, then one for each attribute. They
/// are saved with the weights, so that a trained model knows what its columns mean.
///
/// A condition is a row of numbers, f32 `[D]`. The column of the item's class is 1 and those of the other classes
/// are 0. An attribute is −1 (no), 1 (yes), or a standardized number. NaN means unknown.
///
/// ```
/// use vae_base::{AttributeSpec, AttributeValues, ConditionSpec};
///
/// let spec = ConditionSpec {
///     classes: vec!["0".into(), "1".into()],
///     attributes: vec![AttributeSpec { name: "thick".into(), values: AttributeValues::YesNo }],
/// };
/// assert_eq!(spec.parse("1,thick=no").unwrap(), [0.0, 1.0, -1.0]);
/// let unknown = spec.parse("thick=1").unwrap();
/// assert!(unknown[0].is_nan() && unknown[1].is_nan());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConditionSpec {
    /// The names of the classes in the order of their columns; empty if the model is not conditioned on the class.
    pub classes: Vec<String>,
    /// The attributes that the model is conditioned on.
    pub attributes: Vec<AttributeSpec>,
}

/// An attribute that a model is conditioned on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeSpec {
    /// Its name in the data set's table.
    pub name: String,
    /// The kind of its values.
    pub values: AttributeValues,
}

/// The kind of an attribute's values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AttributeValues {
    /// 1 for yes; 0 or −1 for no.
    YesNo,
    /// Any number, standardized by the mean and the standard deviation of the training items.
    Number {
        /// Mean of the known values.
        mean: f64,
        /// Their standard deviation.
        std: f64,
    },
}

impl AttributeValues {
    /// The kind of these values: yes or no if all known ones are −1, 0 or 1, else a number. None if no value is
    /// known.
    #[must_use]
    pub fn of(values: impl Iterator<Item = f32> + Clone) -> Option<Self> {
        let known = values.map(f64::from).filter(|value| !value.is_nan());
        let n = known.clone().count();
        if n == 0 {
            return None;
        }
        if known.clone().all(|value| [-1.0, 0.0, 1.0].contains(&value)) {
            return Some(Self::YesNo);
        }
        let mean = known.clone().sum::<f64>() / n as f64;
        let variance = known.map(|value| (value - mean).powi(2)).sum::<f64>() / n as f64;
        let std = variance.sqrt();
        Some(Self::Number {
            mean,
            // If all values are equal, any scale will do.
            std: if std > 0.0 { std } else { 1.0 },
        })
    }

    /// The number that stands for a value of the table in a condition; NaN for NaN.
    #[must_use]
    pub fn encode(self, value: f32) -> f32 {
        match self {
            Self::YesNo if value.is_nan() => value,
            Self::YesNo => {
                if value > 0.0 {
                    1.0
                } else {
                    -1.0
                }
            }
            Self::Number { mean, std } => ((f64::from(value) - mean) / std) as f32,
        }
    }

    /// The value of the table that this number of a condition stands for.
    #[must_use]
    pub fn decode(self, number: f32) -> f32 {
        match self {
            Self::YesNo => number,
            Self::Number { mean, std } => (f64::from(number) * std + mean) as f32,
        }
    }
}

/// A condition that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionError(String);

impl std::error::Error for ConditionError {}

impl std::fmt::Display for ConditionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an unknown value is written.
const UNKNOWN: &str = "unknown";

impl ConditionSpec {
    /// D, the number of columns.
    #[must_use]
    pub fn n_columns(&self) -> usize {
        self.classes.len() + self.attributes.len()
    }

    /// Whether there is no condition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n_columns() == 0
    }

    /// The row of an item about which nothing is known, `[D]`.
    #[must_use]
    pub fn unknown(&self) -> Vec<f32> {
        vec![f32::NAN; self.n_columns()]
    }

    /// Writes an item's class into its row; `None` means unknown.
    pub fn set_class(&self, row: &mut [f32], class: Option<usize>) {
        for (i, value) in row[..self.classes.len()].iter_mut().enumerate() {
            *value = match class {
                Some(class) => f32::from(u8::from(class == i)),
                None => f32::NAN,
            };
        }
    }

    /// Rows to show when the user asks for no condition, each with a text. There is one for each class. Without
    /// classes there are two for each attribute, yes and no, in which the other attributes are unknown.
    #[must_use]
    pub fn examples(&self) -> Vec<(String, Vec<f32>)> {
        if !self.classes.is_empty() {
            let class = |i: usize| {
                let mut row = self.unknown();
                self.set_class(&mut row, Some(i));
                (self.classes[i].clone(), row)
            };
            return (0..self.classes.len()).map(class).collect();
        }
        let one = |i: usize, number: f32| {
            let mut row = self.unknown();
            row[i] = number;
            (self.describe(&row), row)
        };
        (0..self.attributes.len())
            .flat_map(|i| [one(i, 1.0), one(i, -1.0)])
            .collect()
    }

    /// Parses a row, `[D]`, from text such as `7`, `class=7`, `Smiling=1,Male=0` or `age=31`. Yes is 1, `yes` or
    /// `true`; no is 0, −1, `no` or `false`. Classes and attributes that the text does not name are unknown, and so
    /// is the value `unknown`. `unknown` alone makes everything unknown.
    ///
    /// # Errors
    /// A name or a value that does not exist; the message lists those that do.
    pub fn parse(&self, text: &str) -> Result<Vec<f32>, ConditionError> {
        let mut row = self.unknown();
        self.overwrite(&mut row, text)?;
        Ok(row)
    }

    /// Like [`Self::parse`], but what `text` does not name keeps its value in the row.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn overwrite(&self, row: &mut [f32], text: &str) -> Result<(), ConditionError> {
        for word in text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            if word.eq_ignore_ascii_case(UNKNOWN) {
                row.fill(f32::NAN);
                continue;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim()),
                None => ("class", word),
            };
            let is_class = ["class", "digit"].contains(&name);
            if is_class && !self.classes.is_empty() {
                let class = match value.eq_ignore_ascii_case(UNKNOWN) {
                    true => None,
                    false => Some(self.class(value).ok_or_else(|| self.no_such(word))?),
                };
                self.set_class(row, class);
                continue;
            }
            let column = self.attributes.iter().position(|known| known.name == name);
            let Some(column) = column.filter(|_| word.contains('=')) else {
                return Err(self.no_such(word));
            };
            let AttributeSpec { name, values } = &self.attributes[column];
            let Some(value) = number(value, *values) else {
                let wanted = match values {
                    AttributeValues::YesNo => "1 for yes, 0 for no, or unknown",
                    AttributeValues::Number { .. } => "a number, or unknown",
                };
                return Err(ConditionError(format!(
                    "condition {name}: found {value:?}, expected {wanted}"
                )));
            };
            row[self.classes.len() + column] = values.encode(value);
        }
        Ok(())
    }

    /// The text that [`Self::parse`] parses to this row, without unknown values.
    #[must_use]
    pub fn describe(&self, row: &[f32]) -> String {
        let (classes, attributes) = row.split_at(self.classes.len());
        let class = classes.iter().position(|&value| value > 0.5);
        let class = class.map(|i| self.classes[i].clone());
        let known = self.attributes.iter().zip(attributes);
        let known = known.filter(|(_, number)| !number.is_nan());
        let attributes = known.map(|(AttributeSpec { name, values }, &number)| match values {
            AttributeValues::YesNo => format!("{name}={}", u8::from(number > 0.0)),
            AttributeValues::Number { .. } => format!("{name}={}", values.decode(number)),
        });
        let words: Vec<String> = class.into_iter().chain(attributes).collect();
        match words.is_empty() {
            true => UNKNOWN.to_owned(),
            false => words.join(","),
        }
    }

    /// The column of a class, by its name.
    fn class(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|known| known == name)
    }

    fn no_such(&self, found: &str) -> ConditionError {
        let classes = match self.classes.is_empty() {
            true => None,
            false => Some(format!("classes: {}", self.classes.join(", "))),
        };
        let names: Vec<&str> = self.attributes.iter().map(|known| &*known.name).collect();
        let attributes = match names.is_empty() {
            true => None,
            false => Some(format!("attributes, as NAME=1: {}", names.join(", "))),
        };
        let known: Vec<String> = classes.into_iter().chain(attributes).collect();
        let known = match known.is_empty() {
            true => "this model has no condition".to_owned(),
            false => format!("it knows {}", known.join("; ")),
        };
        ConditionError(format!("condition {found:?}: not found; {known}"))
    }
}

/// Parses a value of the table.
fn number(text: &str, values: AttributeValues) -> Option<f32> {
    let number = match text.to_ascii_lowercase().as_str() {
        UNKNOWN => return Some(f32::NAN),
        "yes" | "true" => 1.0,
        "no" | "false" => 0.0,
        text => text.parse::<f32>().ok().filter(|value| value.is_finite())?,
    };
    match values {
        AttributeValues::YesNo => Some(number).filter(|value| [-1.0, 0.0, 1.0].contains(value)),
        AttributeValues::Number { .. } => Some(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faces() -> ConditionSpec {
        let age = AttributeValues::of([30.0, f32::NAN, 50.0].into_iter()).unwrap();
        ConditionSpec {
            classes: vec![],
            attributes: vec![
                AttributeSpec {
                    name: "Smiling".to_owned(),
                    values: AttributeValues::of([1.0, -1.0].into_iter()).unwrap(),
                },
                AttributeSpec {
                    name: "age".to_owned(),
                    values: age,
                },
            ],
        }
    }

    fn digits() -> ConditionSpec {
        ConditionSpec {
            classes: ["0", "1", "2"].map(str::to_owned).to_vec(),
            attributes: vec![],
        }
    }

    #[test]
    fn values_of_minus_one_to_one_are_yes_or_no_and_others_are_standardized() {
        let of = |values: &[f32]| AttributeValues::of(values.iter().copied());
        assert_eq!(of(&[0.0, 1.0]), Some(AttributeValues::YesNo));
        assert_eq!(of(&[-1.0, f32::NAN]), Some(AttributeValues::YesNo));
        assert_eq!(of(&[f32::NAN]), None);
        let number = of(&[30.0, 50.0]).unwrap();
        assert_eq!(
            number,
            AttributeValues::Number {
                mean: 40.0,
                std: 10.0
            }
        );
        assert_eq!((number.encode(55.0), number.decode(1.5)), (1.5, 55.0));
        assert!(number.encode(f32::NAN).is_nan());
        assert_eq!(of(&[7.0, 7.0]).unwrap().encode(8.0), 1.0);
        let yes_no = AttributeValues::YesNo;
        assert_eq!(
            [1.0, 0.0, -1.0].map(|v| yes_no.encode(v)),
            [1.0, -1.0, -1.0]
        );
    }

    #[test]
    fn conditions_are_read_as_they_are_described() {
        let faces = faces();
        for (text, words) in [
            ("Smiling=1,age=55", "Smiling=1,age=55"),
            ("Smiling=yes", "Smiling=1"),
            ("Smiling=-1, age=unknown", "Smiling=0"),
            ("", "unknown"),
        ] {
            let row = faces.parse(text).unwrap();
            assert_eq!(faces.describe(&row), words);
            let again = faces.parse(words.trim_start_matches("unknown")).unwrap();
            assert_eq!(faces.describe(&again), words);
        }
        assert_eq!(faces.parse("Smiling=0,age=30").unwrap(), [-1.0, -1.0]);
        assert!(
            faces
                .parse("unknown")
                .unwrap()
                .iter()
                .all(|number| number.is_nan())
        );
        let mut row = faces.parse("Smiling=0,age=50").unwrap();
        faces.overwrite(&mut row, "Smiling=1").unwrap();
        assert_eq!(row, [1.0, 1.0]);

        let digits = digits();
        for text in ["2", "class=2", "digit=2"] {
            assert_eq!(digits.parse(text).unwrap(), [0.0, 0.0, 1.0]);
        }
        assert_eq!(digits.describe(&[0.0, 1.0, 0.0]), "1");
        assert_eq!(
            digits.describe(&digits.parse("unknown").unwrap()),
            "unknown"
        );
    }

    #[test]
    fn an_unknown_name_or_value_is_refused_with_the_known_ones() {
        let error = |spec: &ConditionSpec, text: &str| spec.parse(text).unwrap_err().to_string();
        assert_eq!(
            error(&faces(), "Smilng=1"),
            "condition \"Smilng=1\": not found; it knows attributes, as NAME=1: Smiling, age"
        );
        assert_eq!(
            error(&faces(), "Smiling=2"),
            "condition Smiling: found \"2\", expected 1 for yes, 0 for no, or unknown"
        );
        assert_eq!(
            error(&faces(), "age=inf"),
            "condition age: found \"inf\", expected a number, or unknown"
        );
        assert_eq!(
            error(&digits(), "3"),
            "condition \"3\": not found; it knows classes: 0, 1, 2"
        );
        assert!(error(&faces(), "Smiling").contains("it knows attributes"));
        assert!(error(&ConditionSpec::default(), "7").ends_with("this model has no condition"));
    }

    #[test]
    fn examples_show_every_class_or_both_sides_of_each_attribute() {
        let rows: Vec<_> = digits().examples();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[1], ("1".to_owned(), vec![0.0, 1.0, 0.0]));
        let names: Vec<_> = faces()
            .examples()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["Smiling=1", "Smiling=0", "age=50", "age=30"]);
    }
}
