//! The β-VAE score.

use tch::Tensor;
use vae_data::FactorSpace;
use vae_view::latent::SoftmaxRegression;

use super::chance::Chance;
use super::{Encode, VOTES_AT_A_TIME, VoteCounts, varying};
use crate::EvalError;
use crate::probe::accuracy;

/// The accuracy of a linear classifier (Higgins et al. 2017, <https://openreview.net/forum?id=Sy2fzU9gl>, §3) that predicts
/// the factor that pairs of images have in common from the mean of |z − z'| over `votes.batch` pairs. From 0 to 1; chance is
/// 1/F. NaN if no factor varies.
///
/// As in disentanglement_lib the classifier is multinomial logistic regression with the penalty |w|²/2.
///
/// # Errors
/// Those of the encoder.
pub fn beta_vae_score(
    encode: &mut Encode,
    space: &FactorSpace,
    votes: VoteCounts,
    seed: u64,
) -> Result<f64, EvalError> {
    let factors = varying(space);
    if factors.is_empty() {
        return Ok(f64::NAN);
    }
    let mut chance = Chance::new(seed, "beta vae score");
    // Inputs [n, Z] and classes [n].
    let mut points = |n: usize| -> Result<(Tensor, Tensor), EvalError> {
        let (mut inputs, mut classes) = (Vec::<f64>::new(), Vec::<i64>::new());
        let drawn: Vec<(usize, Vec<usize>)> = (0..n)
            .map(|_| {
                let chosen = chance.below(factors.len());
                let pair = |_| {
                    let one = chance.below(space.n_positions());
                    let mut other = space.classes(chance.below(space.n_positions()));
                    other[factors[chosen]] = space.classes(one)[factors[chosen]];
                    [one, space.position(&other)]
                };
                (chosen, (0..votes.batch).flat_map(pair).collect())
            })
            .collect();
        for some in drawn.chunks(VOTES_AT_A_TIME) {
            let positions: Vec<usize> = some.iter().flat_map(|point| point.1.clone()).collect();
            let latents = encode(&positions)?;
            for ((chosen, _), latents) in some.iter().zip(latents.chunks(2 * votes.batch)) {
                let mut mean = vec![0.0; latents.first().map_or(0, Vec::len)];
                for pair in latents.chunks_exact(2) {
                    for ((mean, one), other) in mean.iter_mut().zip(&pair[0]).zip(&pair[1]) {
                        *mean += (one - other).abs() / votes.batch as f64;
                    }
                }
                inputs.extend(mean);
                classes.push(*chosen as i64);
            }
        }
        let inputs = Tensor::from_slice(&inputs).f_view([classes.len() as i64, -1])?;
        Ok((inputs, Tensor::from_slice(&classes)))
    };
    let (inputs, classes) = points(votes.train)?;
    let regression = SoftmaxRegression::fit(&inputs, &classes, factors.len() as i64)?;
    let (inputs, classes) = points(votes.test)?;
    Ok(accuracy(&regression.classify(&inputs)?, &classes))
}
