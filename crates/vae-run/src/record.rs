//! Metrics: means over images, one line of JSON for each epoch and split, and how epochs are compared by them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use vae_model::{Direction, ModelConfig, Objective, Term};

use crate::{Position, RunError};

/// Sums over the epoch in progress, exact to the last bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedTotals {
    /// reconstruction, kl, loss, gradient norm.
    pub sums: [f64; 4],
    /// The number of images in the sums.
    pub n_images: i64,
    /// Whether every batch so far had a kl.
    pub has_kl: bool,
    /// Whether the model has a reconstruction, as all models of earlier versions had.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub has_reconstruction: bool,
    /// The named terms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<SavedTerm>,
    /// The sums at the last record of steps of this epoch ([`Record::STEPS`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<SavedMark>,
}

/// Sums at an earlier step of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedMark {
    /// The sums of [`SavedTotals`], those of the named terms after the others.
    #[serde(deserialize_with = "numbers_or_nan")]
    pub sums: Vec<f64>,
    /// The number of images in the sums.
    pub n_images: i64,
    /// The number of images in the sum of each named term.
    pub of_terms: Vec<i64>,
}

fn numbers_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let values = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(values
        .into_iter()
        .map(|value| value.unwrap_or(f64::NAN))
        .collect())
}

fn yes() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_true(value: &bool) -> bool {
    *value
}

/// The sum of a named term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedTerm {
    /// Its declaration.
    #[serde(flatten)]
    pub term: Term,
    /// The sum. JSON has no NaN and stores it as `null`.
    #[serde(deserialize_with = "number_or_nan")]
    pub sum: f64,
    /// The number of images in the sum: those of the batches that had the term.
    pub n_images: i64,
}

fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Means over images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Means {
    /// −(reconstruction + kl), nats per image; none for a deterministic posterior.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elbo: Option<f64>,
    /// −E_q\[log p(x|z)\], nats per image; none for a model without an encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconstruction: Option<f64>,
    /// KL(q(z|x) ‖ p(z)), nats per image; none for a deterministic posterior.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// The loss, in the objective's own unit.
    pub loss: f64,
}

impl fmt::Display for Means {
    /// `elbo -152.10 (reconstruction 146.00, kl 6.10)`, or only the reconstruction if there is no elbo,
    /// or only the loss of a model without an encoder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reconstruction, self.elbo, self.kl) {
            (Some(reconstruction), Some(elbo), Some(kl)) => write!(
                f,
                "elbo {elbo:.2} (reconstruction {reconstruction:.2}, kl {kl:.2})"
            ),
            (Some(reconstruction), ..) => write!(f, "reconstruction {reconstruction:.2}"),
            (None, ..) => write!(f, "loss {:.4}", self.loss),
        }
    }
}

/// One line of `metrics.jsonl`: one epoch on one split, or some steps of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counted from 1.
    pub epoch: u64,
    /// Optimizer steps since the start.
    pub step: u64,
    /// [`Record::TRAIN`] (means during training, while the weights change), [`Record::VALIDATION`] or [`Record::STEPS`].
    pub split: String,
    /// The means over the split's images.
    #[serde(flatten)]
    pub means: Means,
    /// Training only: mean norm of a step's gradient, before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Training only: step size of the epoch's last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Training only: weight of the kl after the epoch's last step, if the objective has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// Training only: capacity after the epoch's last step in nats, if the objective has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
    /// Validation only: the number of latent dimensions in which the variance of the posterior's center over the images
    /// is above 0.01 (Burda et al. 2016, <https://arxiv.org/abs/1509.00519>, §5.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_units: Option<u64>,
    /// Validation only: mean squared error of the decoded images, pixels from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mse: Option<f64>,
    /// Validation only, and only if the likelihood is a probability of 8-bit images: −elbo in bits per value of an
    /// image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_dim: Option<f64>,
    /// Training only: the share of the time spent waiting for images, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited: Option<f64>,
    /// Images per second.
    pub images_per_s: f64,
    /// Duration of the pass in seconds.
    pub seconds: f64,
    /// Further numbers that the objective and the model log: means over the images, by the names of their terms
    /// (`RunConfig::terms`).
    #[serde(flatten, serialize_with = "finite", deserialize_with = "numbers")]
    pub named: BTreeMap<String, f64>,
}

/// JSON has no NaN: values that are not finite are left out.
fn finite<S: Serializer>(named: &BTreeMap<String, f64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(named.iter().filter(|(_, value)| value.is_finite()))
}

/// The numbers among the remaining entries of a line.
fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let left = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let number = |(name, value): (String, Value)| Some((name, value.as_f64()?));
    Ok(left.into_iter().filter_map(number).collect())
}

impl Record {
    /// The split of training images.
    pub const TRAIN: &str = "train";
    /// The split by which the best checkpoint and the end of training are chosen. Test images are never in a record.
    pub const VALIDATION: &str = "validation";
    /// Means over the training images of the last steps, every `training.log_every` steps. The epoch is the one in progress.
    pub const STEPS: &str = "train_steps";

    /// The declarations of the numbers that the records of every run may hold.
    #[must_use]
    pub fn terms() -> Vec<Term> {
        use Direction::{Higher, Lower, Neither};
        [
            ("elbo", Term::NATS, Higher),
            ("reconstruction", Term::NATS, Lower),
            ("kl", Term::NATS, Lower),
            ("loss", "the objective's own", Lower),
            ("gradient_norm", Term::NO_UNIT, Neither),
            ("learning_rate", "step size", Neither),
            ("beta", Term::NO_UNIT, Neither),
            ("capacity", Term::NATS, Neither),
            ("active_units", "latent dimensions", Higher),
            ("mse", Term::NO_UNIT, Lower),
            ("bits_per_dim", "bits per dimension", Lower),
            ("waited", "share of the time", Neither),
            ("images_per_s", "images per second", Neither),
            ("seconds", "s", Neither),
        ]
        .map(|(name, unit, better)| Term::new(name, unit, better))
        .into()
    }

    /// The terms in records besides those of every run, in the order of `terms`, followed by undeclared ones.
    #[must_use]
    pub fn named_terms(records: &[Self], terms: &[Term]) -> Vec<Term> {
        let mut names: BTreeSet<&String> = records.iter().flat_map(|r| r.named.keys()).collect();
        let mut known: Vec<Term> = terms.to_vec();
        known.retain(|term| names.remove(&term.name.to_string()));
        known.extend(names.into_iter().map(|name| Term {
            name: name.clone().into(),
            unit: Term::NO_UNIT.into(),
            better: Direction::Neither,
        }));
        known
    }

    /// A record with the means of a split at a position and nothing else.
    #[must_use]
    pub fn new(position: Position, split: &str, means: Means) -> Self {
        Self {
            epoch: position.epochs,
            step: position.steps,
            split: split.to_owned(),
            means,
            gradient_norm: None,
            learning_rate: None,
            beta: None,
            capacity: None,
            active_units: None,
            mse: None,
            bits_per_dim: None,
            waited: None,
            images_per_s: 0.0,
            seconds: 0.0,
            named: BTreeMap::new(),
        }
    }
}

/// The metric of the validation images by which epochs are compared: the name of any number in a validation record
/// that has a better direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The evidence lower bound in nats per image, the higher the better.
    Elbo,
    /// −E\[log p(x|z)\] in nats per image, the lower the better.
    Reconstruction,
    /// The kl in nats per image, the lower the better.
    Kl,
    /// What the config's objective minimizes, with its schedule at the end
    /// ([`Objective::settled_step`]), in the objective's own unit, the lower the better.
    #[default]
    Loss,
    /// Mean squared error of the decoded images, pixels from 0 to 1, the lower the better.
    Mse,
    /// −elbo in bits for each value of an image, the lower the better. Only with a likelihood that is a
    /// probability of 8-bit images, `discretized_logistic` or `logistic_mixture`.
    BitsPerDim,
    /// The number of latent dimensions in use, the higher the better.
    ActiveUnits,
    /// The epoch: the newest is the best. For objectives with a discriminator, whose losses say nothing of other epochs.
    Epoch,
    /// A term logged by the objective or the model, by its name, such as `total_correlation`.
    #[serde(untagged)]
    Term(#[schemars(example = &"total_correlation")] String),
}

impl From<&str> for Metric {
    fn from(name: &str) -> Self {
        let fixed = [
            Self::Elbo,
            Self::Reconstruction,
            Self::Kl,
            Self::Loss,
            Self::Mse,
            Self::BitsPerDim,
            Self::ActiveUnits,
            Self::Epoch,
        ];
        let named = fixed.into_iter().find(|metric| metric.name() == name);
        named.unwrap_or_else(|| Self::Term(name.to_owned()))
    }
}

impl Metric {
    /// Its name, as in a record.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Elbo => "elbo",
            Self::Reconstruction => "reconstruction",
            Self::Kl => "kl",
            Self::Loss => "loss",
            Self::Mse => "mse",
            Self::BitsPerDim => "bits_per_dim",
            Self::ActiveUnits => "active_units",
            Self::Epoch => "epoch",
            Self::Term(name) => name,
        }
    }

    /// Its value in a validation record, if the record has it.
    #[must_use]
    pub fn of(&self, record: &Record) -> Option<f64> {
        let means = &record.means;
        match self {
            Self::Elbo => means.elbo,
            Self::Reconstruction => means.reconstruction,
            Self::Kl => means.kl,
            Self::Loss => Some(means.loss),
            Self::Mse => record.mse,
            Self::BitsPerDim => record.bits_per_dim,
            Self::ActiveUnits => record.active_units.map(|n| n as f64),
            Self::Epoch => Some(record.epoch as f64),
            Self::Term(name) => record.named.get(name).copied(),
        }
    }

    /// Its declaration with unit and better direction. `terms` are those of the run; an undeclared metric has neither.
    #[must_use]
    pub fn term(&self, terms: &[Term]) -> Term {
        let named = |term: &&Term| term.name == self.name();
        let fixed = Record::terms();
        let declared = terms.iter().find(named).or(fixed.iter().find(named));
        declared.cloned().unwrap_or_else(|| Term {
            name: self.name().to_owned().into(),
            unit: Term::NO_UNIT.into(),
            better: Direction::Neither,
        })
    }

    /// How epochs are compared by it. `terms` declare the better direction of a [`Self::Term`]; for an undeclared one
    /// lower is better.
    #[must_use]
    pub fn ranking(&self, terms: &[Term]) -> Ranking {
        let higher_is_better = match self {
            Self::Elbo | Self::ActiveUnits | Self::Epoch => true,
            Self::Term(name) => terms
                .iter()
                .any(|term| term.name == *name && term.better == Direction::Higher),
            _ => false,
        };
        Ranking {
            metric: self.clone(),
            higher_is_better,
        }
    }

    /// Refuses a metric that runs of such a model with these terms do not log, or that has no better direction.
    pub(crate) fn check(
        &self,
        key: &'static str,
        model: &ModelConfig,
        objective: &Objective,
        terms: &[Term],
    ) -> Result<(), RunError> {
        match self {
            Self::Loss if !objective.has_comparable_loss() => Err(RunError::config(
                key,
                format!(
                    "found loss, which depends on what the discriminator knows at that time, so that epochs do not \
                     compare by it; {}epoch would fit",
                    match model.posterior.has_encoder() {
                        true => "reconstruction, mse or ",
                        false => "",
                    }
                ),
            )),
            Self::Elbo
            | Self::Kl
            | Self::BitsPerDim
            | Self::Reconstruction
            | Self::Mse
            | Self::ActiveUnits
                if !model.posterior.has_encoder() =>
            {
                Err(RunError::config(
                    key,
                    format!(
                        "found {}, which a model without an encoder does not have; epoch would fit",
                        self.name()
                    ),
                ))
            }
            Self::Elbo | Self::Kl | Self::BitsPerDim if !model.posterior.has_density() => {
                Err(RunError::config(
                    key,
                    "a deterministic posterior has no kl and so no elbo; mse, reconstruction or loss \
                     would fit",
                ))
            }
            Self::BitsPerDim if !model.likelihood.has_bits_per_dim() => Err(RunError::config(
                key,
                "found bits_per_dim, which only likelihoods of 8-bit values have, such as \
                 discretized_logistic",
            )),
            Self::Term(name) => {
                let problem = match terms.iter().find(|term| term.name == *name) {
                    Some(term) if term.better != Direction::Neither => return Ok(()),
                    Some(_) => "which has no better direction",
                    None => "which this config does not log",
                };
                let fit = terms
                    .iter()
                    .filter(|term| term.better != Direction::Neither)
                    .filter(|term| !Self::lacks(model, &term.name))
                    .map(|term| &*term.name);
                let fit = fit.collect::<Vec<_>>().join(", ");
                let problem = format!("found {name:?}, {problem}; {fit} would fit");
                Err(RunError::config(key, problem))
            }
            _ => Ok(()),
        }
    }

    /// Whether a model's records lack a number that records of other models have.
    fn lacks(model: &ModelConfig, name: &str) -> bool {
        let has_encoder = model.posterior.has_encoder();
        match name {
            "reconstruction" | "mse" | "active_units" => !has_encoder,
            "elbo" | "kl" => !model.posterior.has_density(),
            "bits_per_dim" => {
                !model.posterior.has_density() || !model.likelihood.has_bits_per_dim()
            }
            _ => false,
        }
    }

    /// Refuses a metric that is missing in a validation record, such as one logged only in training.
    ///
    /// # Errors
    /// The metric is missing; the message names `key` and the terms in the record.
    pub fn check_record(&self, key: &'static str, record: &Record) -> Result<(), RunError> {
        match self {
            Self::Term(name) if !record.named.contains_key(name) => {
                let held: Vec<&str> = record.named.keys().map(String::as_str).collect();
                let problem = format!(
                    "found {name:?}, which is not logged for validation images; elbo, reconstruction, \
                     loss and mse are there{}{}",
                    if held.is_empty() { "" } else { ", and " },
                    held.join(", ")
                );
                Err(RunError::config(key, problem))
            }
            _ => Ok(()),
        }
    }
}

/// How epochs are compared by a metric ([`Metric::ranking`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    metric: Metric,
    higher_is_better: bool,
}

impl Ranking {
    /// The metric's value in a validation record, if the record has it.
    #[must_use]
    pub fn of(&self, record: &Record) -> Option<f64> {
        self.metric.of(record)
    }

    /// Whether higher values are better.
    #[must_use]
    pub fn higher_is_better(&self) -> bool {
        self.higher_is_better
    }

    /// The validation record with the best finite value; of equal ones the first.
    #[must_use]
    pub fn best<'a>(&self, records: &'a [Record]) -> Option<&'a Record> {
        let value = |record: &Record| self.of(record).filter(|value| value.is_finite());
        records
            .iter()
            .filter(|record| record.split == Record::VALIDATION && value(record).is_some())
            .reduce(|best, next| match self.order(value(next), value(best)) {
                Ordering::Greater => next,
                _ => best,
            })
    }

    /// By how much `new` is better than `old`; negative if it is worse.
    #[must_use]
    pub fn gain(&self, new: f64, old: f64) -> f64 {
        match self.higher_is_better {
            true => new - old,
            false => old - new,
        }
    }

    /// The value, negated if higher is better, so that lower values are always better.
    #[must_use]
    pub fn falling(&self, value: f64) -> f64 {
        match self.higher_is_better {
            true => -value,
            false => value,
        }
    }

    /// Orders values so that the better one is greater. A missing value or NaN is worse than any number.
    #[must_use]
    pub fn order(&self, a: Option<f64>, b: Option<f64>) -> Ordering {
        let number = |value: Option<f64>| value.filter(|value| !value.is_nan());
        match (number(a), number(b)) {
            (Some(a), Some(b)) => self.gain(a, b).total_cmp(&0.0),
            (a, b) => a.is_some().cmp(&b.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_epoch_has_the_best_finite_validation_value() {
        let record = |epoch, split, elbo: f64| {
            let means = Means {
                elbo: Some(elbo),
                reconstruction: Some(-elbo),
                kl: Some(0.0),
                loss: -elbo,
            };
            let position = Position {
                epochs: epoch,
                steps: epoch,
            };
            Record::new(position, split, means)
        };
        let records = [
            record(1, "validation", -3.0),
            record(2, "train", -1.0),
            record(2, "validation", f64::NAN),
            record(3, "validation", -2.0),
            record(4, "validation", -2.0),
        ];
        let best = |metric: Metric, records: &[Record]| {
            let ranking = metric.ranking(&[]);
            ranking.best(records).map(|record| record.epoch)
        };
        assert_eq!(best(Metric::Elbo, &records), Some(3));
        assert_eq!(best(Metric::Elbo, &records[1..3]), None);
        // Of equal values the first is best. Where lower is better, the lowest is best.
        assert_eq!(best(Metric::Kl, &records), Some(1));
        assert_eq!(best(Metric::Loss, &records), Some(3));
        assert_eq!(best(Metric::Mse, &records), None);
    }

    #[test]
    fn better_is_up_for_the_elbo_and_down_for_the_loss() {
        let ranking = |metric: Metric| metric.ranking(&[]);
        let [elbo, loss, kl] = [Metric::Elbo, Metric::Loss, Metric::Kl].map(ranking);
        assert_eq!(elbo.gain(-100.0, -110.0), 10.0);
        assert_eq!(loss.gain(100.0, 110.0), 10.0);
        assert_eq!((elbo.falling(-3.0), loss.falling(3.0)), (3.0, 3.0));
        assert_eq!(elbo.order(Some(-1.0), Some(-2.0)), Ordering::Greater);
        assert_eq!(kl.order(Some(1.0), Some(2.0)), Ordering::Greater);
        assert_eq!(kl.order(Some(f64::NAN), Some(2.0)), Ordering::Less);
        assert_eq!(elbo.order(None, Some(-1e9)), Ordering::Less);
    }

    #[test]
    fn a_named_term_is_better_in_the_direction_that_it_declares() {
        let terms = [
            Term::new("accuracy", Term::NO_UNIT, Direction::Higher),
            Term::new("penalty", Term::NO_UNIT, Direction::Lower),
        ];
        let gain = |name: &str| Metric::Term(name.to_owned()).ranking(&terms).gain(3.0, 2.0);
        assert_eq!((gain("accuracy"), gain("penalty")), (1.0, -1.0));
    }

    #[test]
    fn named_terms_stand_in_the_line_beside_the_others_and_old_lines_have_none() {
        let old = r#"{"epoch":2,"step":9,"split":"validation","elbo":-3.0,"reconstruction":2.0,"kl":1.0,"loss":3.0,"images_per_s":5.0,"seconds":1.5}"#;
        let mut record: Record = serde_json::from_str(old).expect("a record");
        assert!(record.named.is_empty());
        assert_eq!(serde_json::to_string(&record).expect("a line"), old);

        record.named.insert("mmd".to_owned(), 0.25);
        let new = serde_json::to_string(&record).expect("a line");
        assert_eq!(new, old.replace("1.5}", r#"1.5,"mmd":0.25}"#));
        let read: Record = serde_json::from_str(&new).expect("a record");
        assert_eq!(read, record);
        // JSON has no NaN, and later versions may write values that are not numbers.
        record.named.insert("mmd".to_owned(), f64::NAN);
        assert_eq!(serde_json::to_string(&record).expect("a line"), old);
        let later = old.replace("1.5}", r#"1.5,"mmd":null,"note":"text"}"#);
        let read: Record = serde_json::from_str(&later).expect("a record");
        assert!(read.named.is_empty());
    }

    #[test]
    fn every_number_of_a_record_is_declared() {
        let means = Means {
            elbo: Some(-3.0),
            reconstruction: Some(2.0),
            kl: Some(1.0),
            loss: 3.0,
        };
        let position = Position {
            epochs: 1,
            steps: 1,
        };
        let record = Record {
            gradient_norm: Some(1.0),
            learning_rate: Some(1.0),
            beta: Some(1.0),
            capacity: Some(1.0),
            active_units: Some(1),
            mse: Some(1.0),
            bits_per_dim: Some(1.0),
            waited: Some(1.0),
            ..Record::new(position, "train", means)
        };
        let line = serde_json::to_value(&record).expect("a line");
        let mut keys: Vec<&str> = line
            .as_object()
            .expect("keys")
            .keys()
            .map(String::as_str)
            .collect();
        keys.retain(|key| !["epoch", "step", "split"].contains(key));
        keys.sort_unstable();
        let terms = Record::terms();
        let mut names: Vec<&str> = terms.iter().map(|term| &*term.name).collect();
        names.sort_unstable();
        assert_eq!(keys, names);
    }
}
