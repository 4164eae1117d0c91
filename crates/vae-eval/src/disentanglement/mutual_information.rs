//! The mutual information of each latent dimension and each factor, after discretization.

use super::LabeledLatents;

/// I(z_j; v_k) in nats, with latents in bins of equal width, and the factors' entropies, as in disentanglement_lib (Locatello
/// et al. 2019, <https://arxiv.org/abs/1811.12359>).
#[derive(Clone, Debug, PartialEq)]
pub struct MutualInformation {
    /// `[Z][F]`.
    pub of_latents: Vec<Vec<f64>>,
    /// H(v_k) of each factor, `[F]`.
    pub factor_entropies: Vec<f64>,
}

impl MutualInformation {
    /// With `n_bins` bins from the smallest to the largest value of each latent dimension.
    #[must_use]
    pub fn new(codes: &LabeledLatents, n_bins: usize) -> Self {
        let factors = codes.factors();
        let binned = codes.latents().iter().map(|values| bins(values, n_bins));
        Self {
            of_latents: binned
                .map(|latent| {
                    factors
                        .iter()
                        .map(|factor| mutual_information(&latent, factor))
                        .collect()
                })
                .collect(),
            factor_entropies: factors
                .iter()
                .map(|factor| mutual_information(factor, factor))
                .collect(),
        }
    }
}

/// The bin of each value, with the edges of `numpy.histogram`: a bin contains its lower edge, and the largest value is in the
/// last bin. If all values are equal, they are in the same bin.
pub(super) fn bins(values: &[f64], n_bins: usize) -> Vec<usize> {
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (first, last) = match lowest < highest {
        true => (lowest, highest),
        false => (lowest - 0.5, lowest + 0.5),
    };
    let width = (last - first) / n_bins as f64;
    let edges: Vec<f64> = (0..n_bins).map(|i| i as f64 * width + first).collect();
    values
        .iter()
        .map(|value| {
            edges
                .partition_point(|edge| edge <= value)
                .saturating_sub(1)
        })
        .collect()
}

/// I(A; B) in nats of two lists of small integers.
fn mutual_information(a: &[usize], b: &[usize]) -> f64 {
    let size = |numbers: &[usize]| numbers.iter().max().map_or(0, |&largest| largest + 1);
    let (n_a, n_b) = (size(a), size(b));
    let mut of_both = vec![0_usize; n_a * n_b];
    for (a, b) in a.iter().zip(b) {
        of_both[a * n_b + b] += 1;
    }
    let of_a: Vec<usize> = of_both
        .chunks(n_b.max(1))
        .map(|row| row.iter().sum())
        .collect();
    let of_b: Vec<usize> = (0..n_b)
        .map(|b| (0..n_a).map(|a| of_both[a * n_b + b]).sum())
        .collect();
    let n = a.len() as f64;
    let cells = of_both.iter().enumerate().filter(|(_, count)| **count > 0);
    let sum: f64 = cells
        .map(|(cell, &count)| {
            let independent = of_a[cell / n_b] as f64 * of_b[cell % n_b] as f64;
            // Products of whole numbers, so that independence is a logarithm of exactly 1.
            count as f64 / n * (count as f64 * n / independent).ln()
        })
        .sum();
    sum.max(0.0) // Only rounding makes it negative.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_those_of_numpy() {
        // numpy.digitize(x, numpy.histogram(x, 4)[1][:-1]) - 1
        assert_eq!(
            bins(&[0.0, 1.0, 0.25, 0.24, 0.5, 0.99], 4),
            [0, 3, 1, 0, 2, 3]
        );
        assert_eq!(bins(&[3.0; 4], 20), [10; 4]);
    }

    #[test]
    fn independent_numbers_tell_nothing_and_equal_ones_everything() {
        let (a, b) = ([0, 0, 1, 1], [0, 1, 0, 1]);
        assert_eq!(mutual_information(&a, &b), 0.0);
        assert!((mutual_information(&a, &a) - 2_f64.ln()).abs() < 1e-15);
        // Four values, of which half of the information is known.
        let four = [0, 1, 2, 3];
        assert!((mutual_information(&a, &four) - 2_f64.ln()).abs() < 1e-15);
    }
}
