//! Disentanglement, completeness and informativeness.

use super::LabeledLatents;
use super::boosting::BoostedTrees;

/// The three scores of Eastwood & Williams 2018 (<https://openreview.net/forum?id=By-7dz-AZ>), each from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Dci {
    /// Disentanglement: whether each latent dimension is important for only one factor.
    pub disentanglement: f64,
    /// Completeness: whether each factor depends on only one latent dimension.
    pub completeness: f64,
    /// Informativeness: the mean accuracy of the factors' classifiers.
    pub informativeness: f64,
    /// The importance of each latent dimension for each factor, `[Z][F]`; those of a factor sum to 1.
    pub importances: Vec<Vec<f64>>,
}

/// Fits gradient-boosted trees for each factor, as in disentanglement_lib: 100 rounds of trees of depth 3, learning rate
/// 0.1. Importances are the reductions of the squared error by splits on a latent dimension, and splits lie between 255 bins
/// with equally many values. The trees are fitted on `train`; the accuracy is measured on `test`. `progress` is called with
/// the number of factors done.
#[must_use]
pub fn dci(train: &LabeledLatents, test: &LabeledLatents, mut progress: impl FnMut(usize)) -> Dci {
    let n_factors = train.factors().len();
    let mut importances = vec![vec![0.0; n_factors]; train.latents().len()];
    let mut accuracy = 0.0;
    for factor in 0..n_factors {
        let (classes, of_test) = (&train.factors()[factor], &test.factors()[factor]);
        let largest = classes.iter().chain(of_test).max();
        let n_classes = largest.map_or(0, |&largest| largest + 1);
        let trees = BoostedTrees::fit(train.latents(), classes, n_classes);
        accuracy += trees.accuracy(test.latents(), of_test);
        for (row, importance) in importances.iter_mut().zip(&trees.importances) {
            row[factor] = *importance;
        }
        progress(factor + 1);
    }
    Dci {
        disentanglement: dci_disentanglement(&importances),
        completeness: dci_completeness(&importances),
        informativeness: accuracy / n_factors as f64,
        importances,
    }
}

/// From importances `[Z][F]`: 1 minus the entropy of each row, to the base of the number of factors, weighted by the row's
/// share of the total.
#[must_use]
pub fn dci_disentanglement(importances: &[Vec<f64>]) -> f64 {
    weighted_certainty(importances)
}

/// Like [`dci_disentanglement`], for the columns.
#[must_use]
pub fn dci_completeness(importances: &[Vec<f64>]) -> f64 {
    let n_factors = importances.first().map_or(0, Vec::len);
    let columns: Vec<Vec<f64>> = (0..n_factors)
        .map(|factor| importances.iter().map(|row| row[factor]).collect())
        .collect();
    weighted_certainty(&columns)
}

/// disentanglement_lib's entropy, whose small constants keep logarithms finite.
fn weighted_certainty(rows: &[Vec<f64>]) -> f64 {
    const SMALL: f64 = 1e-11;
    let total: f64 = rows.iter().flatten().sum();
    if total == 0.0 {
        return 0.0;
    }
    let certainty = |row: &Vec<f64>| {
        let sum: f64 = row.iter().map(|importance| importance + SMALL).sum();
        let shares = row.iter().map(|importance| (importance + SMALL) / sum);
        // A single share has no uncertainty.
        let base = (row.len() as f64).ln();
        match row.len() {
            1 => 1.0,
            _ => 1.0 + shares.map(|share| share * share.ln()).sum::<f64>() / base,
        }
    };
    rows.iter()
        .map(|row| certainty(row) * row.iter().sum::<f64>() / total)
        .sum()
}
