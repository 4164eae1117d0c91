//! Which rows of a file are trained on, validated on and tested on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vae_base::derive_seed;

use crate::loader::shuffled_order;
use crate::{DataError, HoldOut};

/// Which rows are held out for validation and testing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RowSplit {
    /// Random rows, in an order that depends only on the number of rows, not on the run's seed: `shuffled_order(N, s,
    /// 0)`, where s is `derive_seed(0, 0, "arrays split")`, of texts `"text split"`. The first rows in that order are the test items, the next
    /// ones the validation items.
    #[default]
    Random,
    /// The last rows: training items come first, then validation items, then test items. For data ordered by time.
    InOrder,
}

impl RowSplit {
    /// The training, validation and test rows among `n`, at least 1. A fraction of them is held out for testing unless it is
    /// `None`, and by default a tenth for validation.
    pub(crate) fn rows(
        self,
        n: usize,
        test_fraction: Option<f64>,
        validation: Option<HoldOut>,
        purpose: &str,
    ) -> Result<[Vec<usize>; 3], DataError> {
        let n_test = match test_fraction {
            None => 0,
            Some(fraction) => ((n as f64 * fraction).round() as usize).clamp(1, n - 1),
        };
        let n_others = n - n_test;
        let n_validation = match validation {
            // A fraction of all rows, as for the test items.
            Some(HoldOut::Fraction(fraction)) => {
                HoldOut::Count((n as f64 * fraction).round() as usize).of(n_others)?
            }
            Some(count) => count.of(n_others)?,
            None => (n / 10).min(n_others - 1),
        };
        let n_train = n_others - n_validation;
        Ok(match self {
            RowSplit::Random => {
                let order = shuffled_order(n, derive_seed(0, 0, purpose), 0);
                let order: Vec<usize> = order.into_iter().map(|row| row as usize).collect();
                let (test, others) = order.split_at(n_test);
                let (validation, train) = others.split_at(n_validation);
                [train.to_vec(), validation.to_vec(), test.to_vec()]
            }
            RowSplit::InOrder => [
                (0..n_train).collect(),
                (n_train..n_others).collect(),
                (n_others..n).collect(),
            ],
        })
    }
}
