//! `objective.regularizer.mmd`: compares the aggregate posterior with the prior by samples of both.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::checks::at_least_0;
use super::kl_of;
use crate::{Direction, Draws, ModelError, Term, Terms};

/// `kl_weight`·kl + `weight`·MMD²(q(z), p(z)), with the squared maximum mean discrepancy between the latents of the
/// batch and as many latents from the prior.
///
/// - WAE-MMD (Tolstikhin et al. 2018, <https://arxiv.org/abs/1711.01558>): `kl_weight = 0`, inverse
///   multiquadratic kernels, λ = `weight`.
/// - InfoVAE (Zhao et al. 2019, <https://arxiv.org/abs/1706.02262>, eq. 6) with its α and λ:
///   `kl_weight` = 1 − α, `weight` = α + λ − 1.
///
/// MMD² is the unbiased estimate (Gretton et al. 2012, eq. 3), which may be negative. For a batch of one image, which
/// has no estimate, it is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MmdConfig {
    /// Weight of the kl. Default 0.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub kl_weight: f64,
    /// Weight of MMD². Default 100.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight: f64,
    /// The kernel that compares two latents. Default `"inverse_multiquadratic"`.
    pub kernel: Kernel,
    /// Factors on the kernel's width 2·Z. The kernel is the sum of one kernel for each width, so that both near and
    /// distant latents count. The default is that of WAE's program. Default `[0.1, 0.2, 0.5, 1, 2, 5, 10]`.
    #[schemars(length(min = 1, max = MOST_SCALES), inner(range(min = 1e-12, max = 1e12)))]
    pub scales: Vec<f64>,
}

impl Default for MmdConfig {
    fn default() -> Self {
        Self {
            kl_weight: 0.0,
            weight: 100.0,
            kernel: Kernel::default(),
            scales: vec![0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0],
        }
    }
}

/// The kernel k(a, b) of two latents at the squared distance d², with a width C.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// C / (C + d²), which decays slowly and so compares distant latents too.
    #[default]
    InverseMultiquadratic,
    /// exp(−d²/C).
    Rbf,
}

const MOST_SCALES: usize = 100;

/// MMD² between the latents and samples of the prior.
pub(super) const DISCREPANCY: Term = Term::new("mmd", Term::NO_UNIT, Direction::Lower);

impl MmdConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        at_least_0("objective.regularizer.mmd.kl_weight", self.kl_weight)?;
        at_least_0("objective.regularizer.mmd.weight", self.weight)?;
        let key = "objective.regularizer.mmd.scales";
        if self.scales.is_empty() {
            return Err(ModelError::config(key, "found none, expected at least one"));
        }
        if self.scales.len() > MOST_SCALES {
            let n = self.scales.len();
            let problem = format!("found {n} numbers, expected at most {MOST_SCALES}");
            return Err(ModelError::config(key, problem));
        }
        const SCALES: std::ops::RangeInclusive<f64> = 1e-12..=1e12;
        match self.scales.iter().find(|scale| !SCALES.contains(scale)) {
            Some(scale) => Err(ModelError::config(
                key,
                format!("found {scale:?}, expected numbers from 1e-12 to 1e12"),
            )),
            None => Ok(()),
        }
    }

    /// The penalty for `prior_latents` `[n, Z]` drawn from the prior.
    pub(super) fn penalty(
        &self,
        draws: &Draws,
        prior_latents: &Tensor,
        terms: &mut Terms,
    ) -> Result<Tensor, ModelError> {
        let latents = draws.latents.select(0, 0); // [B, Z]
        let discrepancy = self.squared_discrepancy(&latents, prior_latents);
        terms.push(DISCREPANCY, &discrepancy);
        let discrepancy = discrepancy * self.weight;
        Ok(match self.kl_weight {
            0.0 => discrepancy,
            weight => discrepancy + kl_of(draws, "mmd")?.mean(Kind::Float) * weight,
        })
    }

    /// MMD² between two samples `[n, Z]` and `[m, Z]`, a scalar without the weights of the loss: the unbiased estimate,
    /// which may be negative, and 0 for a single latent.
    pub fn squared_discrepancy(&self, a: &Tensor, b: &Tensor) -> Tensor {
        if a.size()[0] < 2 || b.size()[0] < 2 {
            return (a.sum(Kind::Float) + b.sum(Kind::Float)) * 0.0;
        }
        let within = |x: &Tensor| {
            let n = x.size()[0] as f64;
            let kernel = self.kernel(x, x);
            // Without the kernel of each latent with itself.
            (kernel.sum(Kind::Float) - kernel.trace()) / (n * (n - 1.0))
        };
        within(a) + within(b) - self.kernel(a, b).mean(Kind::Float) * 2.0
    }

    /// k of each pair, `[n, m]`.
    fn kernel(&self, a: &Tensor, b: &Tensor) -> Tensor {
        let latent_dims = a.size()[1] as f64;
        let distances =
            (a.unsqueeze(1) - b.unsqueeze(0))
                .square()
                .sum_dim_intlist(-1, false, Kind::Float);
        let kernel = |scale: &f64| {
            let width = 2.0 * latent_dims * scale;
            match self.kernel {
                Kernel::InverseMultiquadratic => (&distances + width).reciprocal() * width,
                Kernel::Rbf => (&distances / -width).exp(),
            }
        };
        self.scales
            .iter()
            .map(kernel)
            .fold(distances.zeros_like(), |sum, kernel| sum + kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_latents_of_each_are_added_up_by_hand() {
        let column = |values: &[f32]| Tensor::from_slice(values).view([-1, 1]);
        let (a, b) = (column(&[0.0, 1.0]), column(&[0.0, 2.0]));
        // One dimension and scale ½: C = 1. Squared distances: 1 within a, 4 within b, 0 4 1 1 between.
        let discrepancy = |kernel| {
            let config = MmdConfig {
                kernel,
                scales: vec![0.5],
                ..Default::default()
            };
            config.squared_discrepancy(&a, &b).double_value(&[])
        };
        let wanted = 0.5 + 0.2 - 2.0 * (1.0 + 0.2 + 0.5 + 0.5) / 4.0;
        assert!((discrepancy(Kernel::InverseMultiquadratic) - wanted).abs() < 1e-6);
        let e = |x: f64| (-x).exp();
        let wanted = e(1.0) + e(4.0) - 2.0 * (1.0 + e(4.0) + 2.0 * e(1.0)) / 4.0;
        assert!((discrepancy(Kernel::Rbf) - wanted).abs() < 1e-6);
    }

    #[test]
    fn a_kernels_width_grows_with_the_latent_dimensions() {
        // Two dimensions and scale ½: C = 2. Squared distances: 1 + 4 within a, 9 within b.
        let a = Tensor::from_slice2(&[[0_f32, 0.0], [1.0, 2.0]]);
        let b = Tensor::from_slice2(&[[0_f32, 1.0], [0.0, -2.0]]);
        let distances = [[1.0, 4.0], [2.0, 17.0]];
        let discrepancy = |kernel| {
            let config = MmdConfig {
                kernel,
                scales: vec![0.5],
                ..Default::default()
            };
            config.squared_discrepancy(&a, &b).double_value(&[])
        };
        let inverse = |d: f64| 2.0 / (2.0 + d);
        let rbf = |d: f64| (-d / 2.0).exp();
        for (kernel, k) in [
            (
                Kernel::InverseMultiquadratic,
                &inverse as &dyn Fn(f64) -> f64,
            ),
            (Kernel::Rbf, &rbf),
        ] {
            let between: f64 = distances.iter().flatten().map(|&d| k(d)).sum::<f64>() / 4.0;
            let wanted = k(5.0) + k(9.0) - 2.0 * between;
            assert!((discrepancy(kernel) - wanted).abs() < 1e-6, "{kernel:?}");
        }
    }

    #[test]
    fn a_sample_of_each_alone_has_no_discrepancy() {
        let config = MmdConfig::default();
        let [one, two] = [1, 2].map(|n| Tensor::ones([n, 3], (Kind::Float, tch::Device::Cpu)));
        for (a, b) in [(&one, &two), (&two, &one), (&one, &one)] {
            assert_eq!(config.squared_discrepancy(a, b).double_value(&[]), 0.0);
        }
    }

    #[test]
    fn scales_add_up() {
        let a = Tensor::from_slice(&[0.3_f32, -1.0, 2.0, 0.5]).view([2, 2]);
        let b = Tensor::from_slice(&[0.1_f32, 0.0, -0.7, 1.5]).view([2, 2]);
        let of = |scales: &[f64]| {
            let config = MmdConfig {
                scales: scales.to_vec(),
                ..Default::default()
            };
            config.squared_discrepancy(&a, &b).double_value(&[])
        };
        assert!((of(&[0.1, 3.0]) - of(&[0.1]) - of(&[3.0])).abs() < 1e-6);
    }
}
