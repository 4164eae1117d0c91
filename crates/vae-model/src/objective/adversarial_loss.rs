//! The losses of the two players of an adversarial game.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How the outputs D of a discriminator become its loss and the generator's, averaged over items and patches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdversarialLoss {
    /// Cross-entropy of logits: the discriminator minimizes softplus(−D(x)) + softplus(D(x̃)), the generator
    /// softplus(−D(x̃)) (Goodfellow et al. 2014, <https://arxiv.org/abs/1406.2661>). At its best D is log p/p̃, and its
    /// loss 2·ln 2 − 2·JS(p, p̃).
    #[default]
    NonSaturating,
    /// The discriminator minimizes max(0, 1 − D(x)) + max(0, 1 + D(x̃)), the generator −D(x̃) (Lim & Ye 2017,
    /// <https://arxiv.org/abs/1705.02894>). At its best D is the sign of p − p̃.
    Hinge,
    /// The discriminator minimizes ½(D(x) − 1)² + ½D(x̃)², the generator ½(D(x̃) − 1)² (Mao et al. 2017,
    /// <https://arxiv.org/abs/1611.04076>). At its best D is p/(p + p̃).
    LeastSquares,
    /// The discriminator minimizes D(x̃) − D(x), the generator −D(x̃) (Arjovsky et al. 2017,
    /// <https://arxiv.org/abs/1701.07875>). Needs a discriminator whose slope is bounded, by `gradient_penalty` or
    /// spectral norm; at its best the loss is then minus the Wasserstein-1 distance.
    Wasserstein,
}

impl AdversarialLoss {
    /// The discriminator's loss for its outputs on real and on generated items, a scalar.
    pub fn of_discriminator(self, real: &Tensor, generated: &Tensor) -> Tensor {
        let loss = |outputs: Tensor| outputs.mean(Kind::Float);
        match self {
            Self::NonSaturating => loss((-real).softplus()) + loss(generated.softplus()),
            Self::Hinge => loss((-real + 1.0).relu()) + loss((generated + 1.0).relu()),
            Self::LeastSquares => (loss((real - 1.0).square()) + loss(generated.square())) * 0.5,
            Self::Wasserstein => generated.mean(Kind::Float) - real.mean(Kind::Float),
        }
    }

    /// The loss of a player that wants these outputs to be those of real items or, if `real` is false, of generated
    /// ones, a scalar.
    pub fn of_forger(self, outputs: &Tensor, real: bool) -> Tensor {
        let sign = if real { 1.0 } else { -1.0 };
        match self {
            Self::NonSaturating => (outputs * -sign).softplus().mean(Kind::Float),
            Self::Hinge | Self::Wasserstein => outputs.mean(Kind::Float) * -sign,
            Self::LeastSquares => {
                let wanted = if real { 1.0 } else { 0.0 };
                (outputs - wanted).square().mean(Kind::Float) * 0.5
            }
        }
    }

    /// The output halfway between "generated" and "real".
    pub(super) fn threshold(self) -> f64 {
        match self {
            Self::LeastSquares => 0.5,
            _ => 0.0,
        }
    }

    /// The share of outputs on the right side of the threshold, a scalar. A Wasserstein critic has no threshold: half of
    /// the way between the two means stands for it.
    pub(super) fn accuracy(self, real: &Tensor, generated: &Tensor) -> Tensor {
        let threshold = match self {
            Self::Wasserstein => (real.mean(Kind::Float) + generated.mean(Kind::Float)) * 0.5,
            _ => Tensor::from(self.threshold() as f32).to_device(real.device()),
        };
        let share = |right: Tensor| right.to_kind(Kind::Float).mean(Kind::Float);
        (share(real.gt_tensor(&threshold)) + share(generated.le_tensor(&threshold))) * 0.5
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn of(values: &[f32]) -> Tensor {
        Tensor::from_slice(values)
    }

    #[test]
    fn losses_have_the_values_of_their_formulas() {
        use AdversarialLoss::{Hinge, LeastSquares, NonSaturating, Wasserstein};
        let (real, generated) = (of(&[2.0, -1.0]), of(&[0.5, -3.0]));
        let softplus = |x: f64| x.exp().ln_1p();
        for (loss, of_discriminator, toward_real, toward_generated) in [
            (
                NonSaturating,
                (softplus(-2.0) + softplus(1.0) + softplus(0.5) + softplus(-3.0)) / 2.0,
                (softplus(-0.5) + softplus(3.0)) / 2.0,
                (softplus(0.5) + softplus(-3.0)) / 2.0,
            ),
            (Hinge, (0.0 + 2.0 + 1.5 + 0.0) / 2.0, 1.25, -1.25),
            (
                LeastSquares,
                (1.0 + 4.0 + 0.25 + 9.0) / 4.0,
                (0.25 + 16.0) / 4.0,
                (0.25 + 9.0) / 4.0,
            ),
            (Wasserstein, -1.25 - 0.5, 1.25, -1.25),
        ] {
            let near = |found: Tensor, wanted: f64| {
                let found = found.double_value(&[]);
                assert!(
                    (found - wanted).abs() < 1e-6,
                    "{loss:?}: {found} vs {wanted}"
                );
            };
            near(loss.of_discriminator(&real, &generated), of_discriminator);
            near(loss.of_forger(&generated, true), toward_real);
            near(loss.of_forger(&generated, false), toward_generated);
        }
    }

    #[test]
    fn accuracy_is_the_share_that_is_told_right() {
        let (real, generated) = (of(&[2.0, -1.0]), of(&[0.4, -3.0, -1.0, -1.0]));
        let accuracy = |loss: AdversarialLoss| loss.accuracy(&real, &generated).double_value(&[]);
        assert_eq!(accuracy(AdversarialLoss::NonSaturating), 0.625);
        assert_eq!(accuracy(AdversarialLoss::LeastSquares), 0.75);
        // Means 0.5 and −1.15: the threshold is −0.325.
        assert_eq!(accuracy(AdversarialLoss::Wasserstein), 0.625);
    }

    /// Quantiles of N(mean, 1) in equal steps, which stand for items drawn from it.
    fn quantiles(mean: f64) -> Tensor {
        let n = 200_000;
        let uniform = (Tensor::arange(n, (Kind::Double, Device::Cpu)) + 0.5) / n;
        uniform.special_ndtri() + mean
    }

    /// For real items of N(1, 1) and generated ones of N(0, 1) the best discriminator and its loss are known, and every
    /// other one has a higher loss.
    #[test]
    fn the_loss_of_two_gaussians_at_the_known_best_discriminator_is_the_known_value() {
        let (real, generated) = (quantiles(1.0), quantiles(0.0));
        // log p(x)/p̃(x) = x − ½.
        let log_ratio = |x: &Tensor| x - 0.5;
        // Integrals over p and p̃ by a fine grid.
        let x = Tensor::linspace(-9.0, 10.0, 19_001, (Kind::Double, Device::Cpu));
        let density =
            |mean: f64| ((&x - mean).square() * -0.5).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let (p, q) = (density(1.0), density(0.0));
        let middle = (&p + &q) * 0.5;
        let integral = |values: Tensor| values.sum(Kind::Double).double_value(&[]) * 1e-3;
        let js = 0.5 * (integral(&p * (&p / &middle).log()) + integral(&q * (&q / &middle).log()));
        type Best = fn(&Tensor) -> Tensor;
        let cases: [(AdversarialLoss, Best, f64); 4] = [
            (
                AdversarialLoss::NonSaturating,
                |ratio| ratio.shallow_clone(),
                2.0 * 2_f64.ln() - 2.0 * js,
            ),
            (
                AdversarialLoss::Hinge,
                |ratio| ratio.sign(),
                2.0 * integral(p.minimum(&q)),
            ),
            (
                AdversarialLoss::LeastSquares,
                |ratio| ratio.sigmoid(),
                0.5 * integral(&p * &q / (&p + &q)),
            ),
            // The best slope of at most 1 is 1: the loss is minus the distance of the means.
            (
                AdversarialLoss::Wasserstein,
                |ratio| ratio.shallow_clone(),
                -1.0,
            ),
        ];
        for (loss, best, wanted) in cases {
            let at = |change: &dyn Fn(&Tensor) -> Tensor| {
                let outputs = |x: &Tensor| change(&best(&log_ratio(x)));
                let loss = loss.of_discriminator(&outputs(&real), &outputs(&generated));
                loss.double_value(&[])
            };
            let found = at(&|outputs| outputs.shallow_clone());
            assert!(
                (found - wanted).abs() < 1e-4,
                "{loss:?}: {found} vs {wanted}"
            );
            for change in [0.7, 0.9] {
                assert!(at(&|outputs| outputs * change) > found, "{loss:?}");
            }
            if loss != AdversarialLoss::Wasserstein {
                for shift in [-0.2, 0.2] {
                    assert!(at(&|outputs| outputs + shift) > found, "{loss:?}");
                }
                assert!(at(&|outputs| outputs * 1.2) > found, "{loss:?}");
            }
        }
    }
}
