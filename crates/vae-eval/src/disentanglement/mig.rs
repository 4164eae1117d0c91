//! The mutual information gap.

use super::MutualInformation;

/// How much more the latent dimension that tells most of a factor tells of it than the next one, relative
/// to the factor's entropy; the mean over factors (Chen et al. 2018, <https://arxiv.org/abs/1802.04942>,
/// eq. 6). From 0 to 1. A single latent dimension is compared with none at all. NaN without factors.
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
