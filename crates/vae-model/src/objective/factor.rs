//! `objective.regularizer.factor`: the total correlation, estimated by a discriminator.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use super::checks::at_least_0;
use super::{PlayerNetwork, TOTAL_CORRELATION, kl_of};
use crate::network::LeakyMlp;
use crate::{Direction, Draws, Mode, ModelError, Term, Terms};

/// kl + γ·TC(z) (FactorVAE, Kim & Mnih 2018, <https://arxiv.org/abs/1802.05983>, eq. 2). The total correlation KL(q(z)
/// ‖ Π_j q(z_j)) is estimated by a discriminator D, which learns to distinguish latents of q(z) from latents whose
/// dimensions were permuted across the batch: TC ≈ mean of log D(z)/(1 − D(z)) (eq. 3). The discriminator is a player
/// with its own optimizer, `[players.discriminator]`.
///
/// In Algorithm 2 the permuted latents come from a second batch. Here the batch is split: the discriminator compares
/// the latents of the first half with the permuted ones of the second. The penalty uses the whole batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FactorConfig {
    /// γ, the weight of the total correlation. The default is the best value on dSprites in the paper. Default 35.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub gamma: f64,
    /// Widths of the discriminator's hidden layers, which leaky ReLUs of slope 0.2 follow. Default `[1000, 1000, 1000,
    /// 1000, 1000, 1000]`.
    #[schemars(length(max = MOST_LAYERS), inner(range(min = 1, max = WIDEST)))]
    pub hidden: Vec<i64>,
}

impl Default for FactorConfig {
    fn default() -> Self {
        Self {
            gamma: 35.0,
            hidden: vec![1000; 6],
        }
    }
}

/// The discriminator's name among the players.
pub(super) const DISCRIMINATOR: &str = "discriminator";

/// The discriminator's accuracy; ½ if it cannot distinguish the two kinds.
pub(super) const ACCURACY: Term =
    Term::new("discriminator_accuracy", Term::NO_UNIT, Direction::Neither);
/// Its cross-entropy in nats for each latent; ln 2 if it cannot distinguish the two kinds.
pub(super) const LOSS: Term =
    Term::new("discriminator_loss", "nats per latent", Direction::Neither);

/// The largest width of a layer, and the largest number of layers.
const WIDEST: i64 = 1 << 16;
const MOST_LAYERS: usize = 100;

impl FactorConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        at_least_0("objective.regularizer.factor.gamma", self.gamma)?;
        let key = "objective.regularizer.factor.hidden";
        if self.hidden.len() > MOST_LAYERS {
            let n = self.hidden.len();
            let problem = format!("found {n} layers, expected at most {MOST_LAYERS}");
            return Err(ModelError::config(key, problem));
        }
        match self.hidden.iter().find(|n| !(1..=WIDEST).contains(*n)) {
            Some(n) => {
                let problem = format!("found {n}, expected numbers from 1 to {WIDEST}");
                Err(ModelError::config(key, problem))
            }
            None => Ok(()),
        }
    }

    /// A discriminator of latents `[N, Z]` with fresh weights. It gives two logits for each latent, `[N, 2]`: for q(z),
    /// and for permuted dimensions.
    pub(super) fn discriminator(
        &self,
        latent_dims: i64,
        seed: u64,
        device: Device,
    ) -> PlayerNetwork {
        PlayerNetwork::new(DISCRIMINATOR, seed, device, |path| {
            Box::new(LeakyMlp::build(path, latent_dims, &self.hidden, 2))
        })
    }

    /// The penalty in nats, and the discriminator's loss if the batch has two halves to compare. Without a
    /// discriminator the penalty is the kl alone.
    pub(super) fn losses(
        &self,
        draws: &Draws,
        discriminator: Option<&PlayerNetwork>,
        generator: &mut Generator,
        terms: &mut Terms,
    ) -> Result<(Tensor, Option<Tensor>), ModelError> {
        let kl = kl_of(draws, "factor")?.mean(Kind::Float);
        let Some(discriminator) = discriminator else {
            return Ok((kl, None));
        };
        let latents = draws.latents.select(0, 0); // [B, Z]
        let total_correlation = log_ratio(&judged(discriminator, &latents)).mean(Kind::Float);
        terms.push(TOTAL_CORRELATION, &total_correlation);
        let n_half = latents.size()[0] / 2;
        let loss = (n_half > 0).then(|| {
            let real = latents.narrow(0, 0, n_half);
            let permuted = permute_dimensions(&latents.narrow(0, n_half, n_half), generator);
            let (loss, accuracy) = discriminate(discriminator, &real, &permuted);
            terms.push(LOSS, &loss);
            terms.push(ACCURACY, &accuracy);
            loss
        });
        Ok((kl + total_correlation * self.gamma, loss))
    }
}

/// log D(z)/(1 − D(z)) of logits `[N, 2]`, `[N]`.
fn log_ratio(logits: &Tensor) -> Tensor {
    logits.select(1, 0) - logits.select(1, 1)
}

/// The discriminator's logits for the model's loss.
fn judged(discriminator: &PlayerNetwork, latents: &Tensor) -> Tensor {
    discriminator.judge(&latents.into(), Mode::Train).outputs
}

/// The discriminator's cross-entropy on latents of q(z) and as many permuted ones, and its accuracy: scalars.
fn discriminate(
    discriminator: &PlayerNetwork,
    real: &Tensor,
    permuted: &Tensor,
) -> (Tensor, Tensor) {
    let of = |latents: &Tensor, sign: f64| {
        // log D(z) = −softplus(−logit); for the other class with the opposite sign.
        let logit = log_ratio(&discriminator.learn(&latents.into(), Mode::Train).outputs) * sign;
        let right = logit.gt(0.0).to_kind(Kind::Float).mean(Kind::Float);
        ((-logit).softplus().mean(Kind::Float), right)
    };
    let (real_loss, real_right) = of(real, 1.0);
    let (permuted_loss, permuted_right) = of(permuted, -1.0);
    (
        (real_loss + permuted_loss) * 0.5,
        (real_right + permuted_right) * 0.5,
    )
}

/// Permutes each dimension of latents `[N, Z]` separately (Kim & Mnih 2018, Algorithm 1): the marginals stay, the
/// dependence between dimensions is removed.
pub(super) fn permute_dimensions(latents: &Tensor, generator: &mut Generator) -> Tensor {
    let latents = latents.detach();
    let order = generator.uniform_like(&latents).argsort(0, false); // [N, Z]
    latents.gather(0, &order, false)
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::*;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Pairs of standard normal numbers with the given correlation, `[n, 2]`.
    fn pairs(n: i64, correlation: f64, generator: &mut Generator) -> Tensor {
        let noise = generator.normal([n, 2], Device::Cpu);
        let first = noise.select(1, 0);
        let second =
            &first * correlation + noise.select(1, 1) * (1.0 - correlation * correlation).sqrt();
        Tensor::stack(&[first, second], 1)
    }

    fn correlation(pairs: &Tensor) -> f64 {
        (pairs.select(1, 0) * pairs.select(1, 1))
            .mean(Kind::Double)
            .double_value(&[])
    }

    #[test]
    fn a_permutation_keeps_the_values_of_each_dimension_and_breaks_what_they_know_of_each_other() {
        let mut generator = Generator::cpu(3);
        let latents = pairs(4000, 0.9, &mut generator);
        let permuted = permute_dimensions(&latents, &mut generator);
        for dim in 0..2 {
            let sorted = |values: &Tensor| values.select(1, dim).sort(0, false).0;
            assert_eq!(sorted(&latents), sorted(&permuted));
        }
        assert!((correlation(&latents) - 0.9).abs() < 0.05);
        // Three standard errors of a mean of 4000 products of independent standard normal numbers.
        assert!(correlation(&permuted).abs() < 3.0 / 4000_f64.sqrt());
        // The two dimensions are permuted differently.
        let orders = |dim| latents.select(1, dim).argsort(0, false);
        assert_ne!(orders(0), orders(1));
        let again = permute_dimensions(&latents, &mut Generator::cpu(4));
        assert_eq!(again, permute_dimensions(&latents, &mut Generator::cpu(4)));
        assert_ne!(again, permute_dimensions(&latents, &mut Generator::cpu(5)));
    }

    /// The total correlation of a Gaussian is −½·ln det of its correlation matrix, for a pair −½·ln(1 − ρ²).
    #[test]
    fn a_trained_discriminators_density_ratio_is_the_total_correlation_of_correlated_gaussians() {
        let config = FactorConfig {
            hidden: vec![32, 32],
            ..Default::default()
        };
        for rho in [0.0, 0.8] {
            let mut generator = Generator::cpu(1);
            let discriminator = config.discriminator(2, 7, Device::Cpu);
            let mut moments: Vec<[Tensor; 2]> = discriminator
                .named_variables()
                .iter()
                .map(|(_, v)| [v.zeros_like(), v.zeros_like()])
                .collect();
            for step in 1..=600 {
                let real = pairs(256, rho, &mut generator);
                let permuted = permute_dimensions(&pairs(256, rho, &mut generator), &mut generator);
                let (loss, _) = discriminate(&discriminator, &real, &permuted);
                loss.backward();
                // Adam, with a learning rate that falls to 0.
                let rate = 5e-3 * (1.0 - f64::from(step) / 600.0);
                let variables = discriminator.named_variables();
                for ((_, mut variable), [mean, square]) in variables.into_iter().zip(&mut moments) {
                    no_grad(|| {
                        let gradient = variable.grad();
                        *mean = &*mean * 0.9 + &gradient * 0.1;
                        *square = &*square * 0.99 + gradient.square() * 0.01;
                        variable -= &*mean / (square.sqrt() + 1e-8) * rate;
                    });
                    variable.zero_grad();
                }
            }
            let latents = pairs(20_000, rho, &mut generator);
            let found = no_grad(|| log_ratio(&judged(&discriminator, &latents)).mean(Kind::Double));
            let wanted = -0.5 * (1.0 - rho * rho).ln(); // 0 and 0.511 nats
            let found = found.double_value(&[]);
            assert!(
                (found - wanted).abs() < 0.05,
                "ρ = {rho}: {found} vs {wanted}"
            );
        }
    }

    #[test]
    fn a_discriminator_that_knows_nothing_is_wrong_half_of_the_time_and_its_ratio_is_1() {
        let config = FactorConfig {
            hidden: vec![],
            ..Default::default()
        };
        let discriminator = config.discriminator(2, 7, Device::Cpu);
        for (_, mut variable) in discriminator.named_variables() {
            let _ = no_grad(|| variable.zero_());
        }
        let latents = Tensor::ones([4, 2], CPU);
        let (loss, _) = discriminate(&discriminator, &latents, &latents);
        assert!((loss.double_value(&[]) - 2_f64.ln()).abs() < 1e-6);
        let ratio = log_ratio(&judged(&discriminator, &latents));
        assert_eq!(ratio.abs().max().double_value(&[]), 0.0);
        // The first layer answers "of q(z)" if the first latent is positive.
        for (name, mut variable) in discriminator.named_variables() {
            if name == "0.weight" {
                let weight = Tensor::from_slice2(&[[1_f32, 0.0], [-1.0, 0.0]]);
                no_grad(|| variable.copy_(&weight));
            }
        }
        let (loss, accuracy) = discriminate(&discriminator, &latents, &-&latents);
        assert_eq!(accuracy.double_value(&[]), 1.0);
        // The logits are ±1, so that their ratio is 2: ln(1 + e⁻²).
        assert!((loss.double_value(&[]) - (-2_f64).exp().ln_1p()).abs() < 1e-6);
    }

    #[test]
    fn each_loss_reaches_the_weights_of_its_own_player_alone() {
        let discriminator = FactorConfig::default().discriminator(2, 7, Device::Cpu);
        let latents = Tensor::ones([4, 2], CPU).set_requires_grad(true);
        let reached = || {
            let named = discriminator.named_variables();
            named.iter().filter(|(_, v)| v.grad().defined()).count()
        };
        log_ratio(&judged(&discriminator, &latents))
            .sum(Kind::Float)
            .backward();
        assert!(latents.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0);
        assert_eq!(reached(), 0);

        let latents = Tensor::ones([4, 2], CPU).set_requires_grad(true);
        discriminate(&discriminator, &latents, &latents)
            .0
            .backward();
        assert!(!latents.grad().defined());
        assert_eq!(reached(), 14, "seven layers of weights and biases");
    }
}
