//! The mutual information gap.

use super::MutualInformation;

/// For each factor, the mutual information with its most informative latent dimension minus that with the second most
/// informative one, relative to the factor's entropy; the mean over factors (Chen et al. 2018,
/// <https://arxiv.org/abs/1802.04942>, eq. 6). From 0 to 1. With a single latent dimension, the second one counts as 0. NaN
/// without factors.
#[must_use]
pub fn mutual_information_gap(information: &MutualInformation) -> f64 {
    let entropies = &information.factor_entropies;
    let gaps = entropies.iter().enumerate().map(|(factor, entropy)| {
        let (mut most, mut next) = (0.0, 0.0);
        for row in &information.of_latents {
            if row[factor] > most {
                (most, next) = (row[factor], most);
            } else if row[factor] > next {
                next = row[factor];
            }
        }
        (most - next) / entropy
    });
    gaps.sum::<f64>() / entropies.len() as f64
}
