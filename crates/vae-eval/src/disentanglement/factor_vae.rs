//! The FactorVAE score.

use vae_data::FactorSpace;

use super::chance::Chance;
use super::{Encode, VOTES_AT_A_TIME, VoteCounts, varying};
use crate::EvalError;

/// Latent dimensions with a smaller standard deviation count as unused, as in disentanglement_lib.
pub(super) const LEAST_DEVIATION: f64 = 0.05;

/// The accuracy of a majority vote (Kim & Mnih 2018, <https://arxiv.org/abs/1802.05983>, §4) that predicts the factor that
/// images have in common from the latent dimension that varies least, relative to its variance over all images. From 0 to
/// 1; chance is 1/F. 0 if no dimension varies. NaN if no factor varies.
///
/// Variances are computed over `n_images` images of the grid, and each vote from `votes.batch` images.
///
/// # Errors
/// Those of the encoder.
pub fn factor_vae_score(
    encode: &mut Encode,
    space: &FactorSpace,
    n_images: usize,
    votes: VoteCounts,
    seed: u64,
) -> Result<f64, EvalError> {
    let factors = varying(space);
    if factors.is_empty() {
        return Ok(f64::NAN);
    }
    let mut chance = Chance::new(seed, "factor vae score");
    let positions: Vec<usize> = (0..n_images)
        .map(|_| chance.below(space.n_positions()))
        .collect();
    let variances = variances(&encode(&positions)?);
    let is_active = |dim: &usize| variances[*dim].sqrt() >= LEAST_DEVIATION;
    let active: Vec<usize> = (0..variances.len()).filter(is_active).collect();
    if active.is_empty() {
        return Ok(0.0);
    }
    let mut counts = |n: usize| -> Result<Vec<Vec<usize>>, EvalError> {
        let mut counts = vec![vec![0; factors.len()]; active.len()];
        let drawn: Vec<(usize, Vec<usize>)> = (0..n)
            .map(|_| {
                let chosen = chance.below(factors.len());
                let shared = chance.below(space.sizes()[factors[chosen]]);
                let position = |_| {
                    let mut classes = space.classes(chance.below(space.n_positions()));
                    classes[factors[chosen]] = shared;
                    space.position(&classes)
                };
                (chosen, (0..votes.batch).map(position).collect())
            })
            .collect();
        for some in drawn.chunks(VOTES_AT_A_TIME) {
            let positions: Vec<usize> = some.iter().flat_map(|vote| vote.1.clone()).collect();
            let latents = encode(&positions)?;
            for ((chosen, _), latents) in some.iter().zip(latents.chunks(votes.batch)) {
                let local = self::variances(latents);
                let ratios = active.iter().map(|&dim| local[dim] / variances[dim]);
                let least = ratios.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
                if let Some((dim, _)) = least {
                    counts[dim][*chosen] += 1;
                }
            }
        }
        Ok(counts)
    };
    let (train, test) = (counts(votes.train)?, counts(votes.test)?);
    let n_right = train.iter().zip(&test).map(|(train, test)| {
        // The first of equal ones, as in argmax.
        let most = train.iter().max();
        let guess = train.iter().position(|count| Some(count) == most);
        guess.map_or(0, |guess| test[guess])
    });
    Ok(n_right.sum::<usize>() as f64 / votes.test as f64)
}

/// The variance of each column of latents, with n − 1.
fn variances(rows: &[Vec<f64>]) -> Vec<f64> {
    let n = rows.len() as f64;
    let n_dims = rows.first().map_or(0, Vec::len);
    (0..n_dims)
        .map(|dim| {
            let mean = rows.iter().map(|row| row[dim]).sum::<f64>() / n;
            let squares = rows.iter().map(|row| (row[dim] - mean).powi(2));
            squares.sum::<f64>() / (n - 1.0).max(1.0)
        })
        .collect()
}
