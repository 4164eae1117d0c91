//! Modularity.

use super::MutualInformation;

/// Whether each latent dimension is informative about only one factor: 1 − Σ_{k ≠ best} I(z; v_k)² / (I(z; v_best)² (F − 1)),
/// the mean over latent dimensions (Ridgeway & Mozer 2018, <https://arxiv.org/abs/1802.05312>, eq. 2). From 0 to 1. As in
/// disentanglement_lib, an uninformative dimension counts as 0. NaN with fewer than two factors.
#[must_use]
pub fn modularity(information: &MutualInformation) -> f64 {
    let of_latent = |row: &Vec<f64>| {
        let squares = row.iter().map(|information| information * information);
        let best = squares.clone().fold(0.0, f64::max);
        let others = squares.sum::<f64>() - best;
        match best > 0.0 {
            true => 1.0 - others / (best * (row.len() as f64 - 1.0)),
            false => 0.0,
        }
    };
    let rows = &information.of_latents;
    if information.factor_entropies.len() < 2 {
        return f64::NAN;
    }
    rows.iter().map(of_latent).sum::<f64>() / rows.len() as f64
}
