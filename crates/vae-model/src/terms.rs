//! Declarations and values of named terms: numbers that an objective, or a part of the model, logs for a step besides
//! those of the ELBO.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// The declaration of a named number. A run's folder contains the declarations of all its terms (`terms.json`), so that
/// readers of logs need no other list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// Its key in `metrics.jsonl`, lower case with underscores.
    pub name: Cow<'static, str>,
    /// Its unit, as in `nats per image`; empty without a unit.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub unit: Cow<'static, str>,
    /// Whether larger or smaller values are better.
    pub better: Direction,
}

/// Whether larger or smaller values of a number are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Larger values are better.
    Higher,
    /// Smaller values are better.
    Lower,
    /// Neither: the number is descriptive, and epochs are not compared by it.
    Neither,
}

impl Term {
    /// The unit of the ELBO and its parts.
    pub const NATS: &str = "nats per image";
    /// For numbers without a unit.
    pub const NO_UNIT: &str = "";

    /// Declares a number.
    #[must_use]
    pub const fn new(name: &'static str, unit: &'static str, better: Direction) -> Self {
        Self {
            name: Cow::Borrowed(name),
            unit: Cow::Borrowed(unit),
            better,
        }
    }

    /// The name for display: `total correlation`.
    #[must_use]
    pub fn title(&self) -> String {
        self.name.replace('_', " ")
    }
}

/// Values of named terms, in the order in which they were added. Each is a value for each image, `[B]`, or a scalar,
/// the mean over the batch. All are detached.
#[derive(Debug, Default)]
pub struct Terms(Vec<(Term, Tensor)>);

impl Terms {
    /// Adds a value, detached.
    pub fn push(&mut self, term: Term, value: &Tensor) {
        self.0.push((term, value.detach()));
    }

    /// Adds all values of another list.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The values with their declarations.
    pub fn iter(&self) -> impl Iterator<Item = (&Term, &Tensor)> {
        self.0.iter().map(|(term, value)| (term, value))
    }

    /// The value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        let mut named = self.iter();
        named.find_map(|(term, value)| (term.name == name).then_some(value))
    }

    /// Adds the means of a part of the batch, whose share of its images is `share`. After all parts are added, each
    /// value is the mean over the batch.
    pub fn add_part(&mut self, part: &Self, share: f64) {
        for (term, value) in part.iter() {
            let mean = value.mean(Kind::Double) * share;
            match self.0.iter_mut().find(|(known, _)| known.name == term.name) {
                Some((_, sum)) => *sum += mean,
                None => self.0.push((term.clone(), mean)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_batch_add_up_to_its_mean_whether_the_value_is_of_an_image_or_of_the_part() {
        let of_images = Term::new("of_images", Term::NATS, Direction::Lower);
        let of_parts = Term::new("of_parts", Term::NO_UNIT, Direction::Neither);
        let mut whole = Terms::default();
        for (values, scalar, share) in [
            (&[1.0_f32, 2.0, 3.0][..], 4.0_f32, 0.75),
            (&[10.0], 8.0, 0.25),
        ] {
            let mut part = Terms::default();
            part.push(of_images.clone(), &Tensor::from_slice(values));
            part.push(of_parts.clone(), &Tensor::from(scalar));
            whole.add_part(&part, share);
        }
        let of = |name| whole.get(name).expect("a value").double_value(&[]);
        assert_eq!((of("of_images"), of("of_parts")), (4.0, 5.0));
        assert!(whole.get("other").is_none());
        assert_eq!(of_images.title(), "of images");
    }
}
