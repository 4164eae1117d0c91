//! `objective.adversarial`: a discriminator that tells the data from what the model generates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_torch::Generator;

use super::adversarial_loss::AdversarialLoss;
use super::augmentation::Augmentation;
use super::checks::{at_least_0, share_or_steps, some_steps};
use super::player::Seen;
use super::{LossContext, PlayerNetwork};
use crate::network::{DiscriminatorConfig, DiscriminatorShape};
use crate::share::{Share, Shared, drawn_for};
use crate::{Direction, Draws, Mode, ModelError, Term, Terms, Vae};

/// A discriminator that learns to tell items of the data from generated ones, and a term by which the model learns to
/// deceive it (GAN, Goodfellow et al. 2014, <https://arxiv.org/abs/1406.2661>). It is a player of its own,
/// `[players.discriminator]`, and learns from the same batch as the model, in the same step.
///
/// Any model takes the term. A model without an encoder (`posterior = "none"`) is a GAN. With
/// `reconstruction_weight = 0` and `[objective.perceptual]` of the discriminator's features it is a VAE-GAN (Larsen et
/// al. 2016, <https://arxiv.org/abs/1512.09300>), with `judges = "pairs"` a BiGAN or ALI (Donahue et al. 2017,
/// <https://arxiv.org/abs/1605.09782>; Dumoulin et al. 2017, <https://arxiv.org/abs/1606.00704>), with a patch
/// discriminator and `adaptive_weight` the autoencoder of VQGAN (Esser et al. 2021,
/// <https://arxiv.org/abs/2012.09841>).
///
/// In a model with a condition the discriminator is told it too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdversarialConfig {
    /// The losses of the two players. Default `"non_saturating"`.
    pub loss: AdversarialLoss,
    /// The weight of the model's term. Default 1.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight: f64,
    /// Multiply the weight by λ = ‖∇ reconstruction‖ / (‖∇ term‖ + 1e-4), the norms of the two gradients at the decoder's
    /// last weight, at most 10,000 (Esser et al. 2021, eq. 7), so that the term is neither lost beside the
    /// reconstruction nor stronger. Default false.
    pub adaptive_weight: bool,
    /// The first step at which the discriminator learns and counts, so that the model has a head start. Default 0.
    pub start: u64,
    /// The same as a share of the run, which fits a run of any length; 0 for `start`. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub start_share: f64,
    /// The generated items that the discriminator sees. By default reconstructions, of a model without an encoder
    /// samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judges: Option<Judged>,
    /// Whether the term's gradient reaches the encoder through the latents of reconstructions. Larsen et al. 2016 do
    /// not let it. Default true.
    pub through_encoder: bool,
    /// The discriminator's layers. Default `conv`.
    pub discriminator: DiscriminatorConfig,
    /// A penalty on the discriminator's slope. Default `"none"`.
    pub penalty: DiscriminatorPenalty,
    /// Random changes of all images that the discriminator sees, in this order, for data sets of a few thousand images.
    /// Default `[]`.
    pub augmentation: Vec<Augmentation>,
}

impl Default for AdversarialConfig {
    fn default() -> Self {
        Self {
            loss: AdversarialLoss::default(),
            weight: 1.0,
            adaptive_weight: false,
            start: 0,
            start_share: 0.0,
            judges: None,
            through_encoder: true,
            discriminator: DiscriminatorConfig::default(),
            penalty: DiscriminatorPenalty::default(),
            augmentation: vec![],
        }
    }
}

/// The generated items that a discriminator sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Judged {
    /// Decoded latents of the batch's items.
    Reconstructions,
    /// Decoded latents of the prior.
    Samples,
    /// As many of each.
    Both,
    /// Items together with their latents: encoded items of the data, and decoded latents of the prior. The encoder
    /// learns to deceive the discriminator as well, so that the two joint distributions meet.
    Pairs,
}

/// A penalty on the slope of a discriminator, added to its loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DiscriminatorPenalty {
    /// No penalty.
    #[default]
    None,
    /// λ·(‖∇D‖ − 1)² at random points between real and generated items (WGAN-GP, Gulrajani et al. 2017,
    /// <https://arxiv.org/abs/1704.00028>).
    GradientPenalty(GradientPenaltyConfig),
    /// γ/2·‖∇D‖² at real items (Mescheder et al. 2018, <https://arxiv.org/abs/1801.04406>).
    R1(R1Config),
}

/// The penalty of WGAN-GP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GradientPenaltyConfig {
    /// λ. Default 10.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight: f64,
}

impl Default for GradientPenaltyConfig {
    fn default() -> Self {
        Self { weight: 10.0 }
    }
}

/// The penalty R1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct R1Config {
    /// γ. Default 10.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub gamma: f64,
    /// The penalty is computed in every so many steps and counts as many times (Karras et al. 2020,
    /// <https://arxiv.org/abs/1912.04958>, App. B), which saves most of its time. Default 1.
    #[schemars(range(min = 1))]
    pub interval: u64,
}

impl Default for R1Config {
    fn default() -> Self {
        Self {
            gamma: 10.0,
            interval: 1,
        }
    }
}

/// The discriminator's name among the players.
pub(super) const DISCRIMINATOR: &str = "discriminator";

/// The model's term without its weight.
const TERM: Term = Term::new("adversarial_loss", Term::NO_UNIT, Direction::Neither);
/// What it is multiplied by.
pub(super) const WEIGHT: Term = Term::new("adversarial_weight", Term::NO_UNIT, Direction::Neither);
const LOSS: Term = Term::new("discriminator_loss", Term::NO_UNIT, Direction::Neither);
const PENALTY: Term = Term::new("discriminator_penalty", Term::NO_UNIT, Direction::Neither);
const ON_REAL: Term = Term::new("discriminator_real", Term::NO_UNIT, Direction::Neither);
const ON_GENERATED: Term = Term::new("discriminator_generated", Term::NO_UNIT, Direction::Neither);
/// ½ if it cannot tell the two kinds.
const ACCURACY: Term = Term::new("discriminator_accuracy", Term::NO_UNIT, Direction::Neither);
/// Mean squared distance of two generated items, divided by that of two real ones: near 0 if all are alike.
const DIVERSITY: Term = Term::new("generated_diversity", Term::NO_UNIT, Direction::Neither);

/// The largest adaptive weight, and what keeps its denominator from 0.
const LARGEST_ADAPTIVE: f64 = 1e4;
const LEAST_GRADIENT: f64 = 1e-4;

impl AdversarialConfig {
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let key = "objective.adversarial.start_share";
        share_or_steps(key, self.start_share, "start", [self.start, 0])?;
        let key = "objective.adversarial";
        at_least_0(&format!("{key}.weight"), self.weight)?;
        self.discriminator.check(&format!("{key}.discriminator"))?;
        match &self.penalty {
            DiscriminatorPenalty::None => {}
            DiscriminatorPenalty::GradientPenalty(config) => at_least_0(
                &format!("{key}.penalty.gradient_penalty.weight"),
                config.weight,
            )?,
            DiscriminatorPenalty::R1(config) => {
                at_least_0(&format!("{key}.penalty.r1.gamma"), config.gamma)?;
                some_steps(&format!("{key}.penalty.r1.interval"), config.interval)?;
            }
        }
        if self.penalty != DiscriminatorPenalty::None && self.discriminator.mixes_items() {
            return Err(ModelError::config(
                format!("{key}.penalty"),
                "it is the slope at each item, and the discriminator's batch norm makes items depend on each other; \
                 normalization = \"none\" would fit",
            ));
        }
        Ok(())
    }

    /// The declarations of what it logs.
    pub(super) fn terms(&self) -> Vec<Term> {
        let mut terms = vec![
            TERM,
            WEIGHT,
            LOSS,
            ON_REAL,
            ON_GENERATED,
            ACCURACY,
            DIVERSITY,
        ];
        if self.penalty != DiscriminatorPenalty::None {
            terms.push(PENALTY);
        }
        terms
    }

    pub(crate) fn judges(&self, has_encoder: bool) -> Judged {
        self.judges.unwrap_or(match has_encoder {
            true => Judged::Reconstructions,
            false => Judged::Samples,
        })
    }

    /// A discriminator of a model's items with fresh weights.
    pub(super) fn discriminator(&self, vae: &Vae, seed: u64) -> PlayerNetwork {
        let n_latents = match self.judges(vae.has_encoder()) {
            Judged::Pairs => vae.config().n_latents(),
            _ => 0,
        };
        let shape = DiscriminatorShape {
            item: vae.image_shape(),
            n_side: vae.n_condition_features() + n_latents,
        };
        PlayerNetwork::new(DISCRIMINATOR, seed, vae.device(), |path| {
            self.discriminator.build(path, shape)
        })
    }

    /// The model's term with its weight, and the discriminator's loss; `None` before the first step of both.
    /// `reconstruction` is the part of the loss that the adaptive weight compares with, a scalar.
    ///
    /// # Errors
    /// An adaptive weight without a reconstruction.
    pub(super) fn losses(
        &self,
        draws: &Draws,
        context: LossContext,
        discriminator: &PlayerNetwork,
        reconstruction: &Tensor,
        generator: &mut Generator,
        terms: &mut Terms,
    ) -> Result<Option<(Tensor, Tensor)>, ModelError> {
        if context.step < self.start {
            return Ok(None);
        }
        let vae = context.vae;
        let share = &draws.share;
        let Game { real, generated } = share.scope(|| {
            let Game { real, generated } = self.game(draws, vae, generator);
            Game {
                real: self.augmented(real, generator),
                generated: self.augmented(generated, generator),
            }
        });
        let all_of = |outputs: &Tensor| share.gathered(outputs, 0);

        let is_pair = self.judges(vae.has_encoder()) == Judged::Pairs;
        let judge = |seen: &Seen| {
            let said = share.scope(|| discriminator.judge(seen, draws.mode));
            all_of(&said.outputs)
        };
        let mut term = self.loss.of_forger(&judge(&generated), true);
        if is_pair {
            term += self.loss.of_forger(&judge(&real), false);
        }
        let weight = match self.adaptive_weight && draws.mode == Mode::Train {
            true => adaptive(vae, reconstruction, &term, share.as_ref())? * self.weight,
            false => Tensor::from(self.weight as f32).to_device(vae.device()),
        };
        terms.push(TERM, &term);
        terms.push(WEIGHT, &weight);

        let learn = |seen: &Seen| {
            let said = share.scope(|| discriminator.learn(seen, draws.mode));
            all_of(&said.outputs)
        };
        let (on_real, on_generated) = (learn(&real), learn(&generated));
        let mut loss = self.loss.of_discriminator(&on_real, &on_generated);
        terms.push(LOSS, &loss);
        terms.push(ON_REAL, &on_real.mean(Kind::Float));
        terms.push(ON_GENERATED, &on_generated.mean(Kind::Float));
        terms.push(ACCURACY, &self.loss.accuracy(&on_real, &on_generated));
        if let Some(diversity) = diversity(&real.items, &generated.items, share.as_ref()) {
            terms.push(DIVERSITY, &diversity);
        }
        if draws.mode == Mode::Train
            && let Some(penalty) = self.penalty(
                discriminator,
                &real,
                &generated,
                share,
                context.step,
                generator,
            )
        {
            terms.push(PENALTY, &penalty);
            loss += penalty;
        }
        Ok(Some((term * weight, loss)))
    }

    /// What the discriminator compares: of several processes each its own items.
    fn game(&self, draws: &Draws, vae: &Vae, generator: &mut Generator) -> Game {
        let condition = draws.condition.as_ref();
        let features = condition.map(|whole| vae.features(&draws.share.own(whole, 0)));
        let with = |items: Tensor, latents: Option<&Tensor>| Seen {
            items,
            side: match (&features, latents) {
                (Some(features), Some(latents)) => Some(Tensor::cat(&[features, latents], 1)),
                (Some(features), None) => Some(features.shallow_clone()),
                (None, latents) => latents.map(Tensor::shallow_clone),
            },
        };
        let real = vae.judged(&draws.targets);
        let n_images = draws.share.n_rows_of(real.size()[0]);
        let latents = draws.own_latents.select(0, 0); // [B, Z]
        let reconstructed = || {
            let params = match self.through_encoder {
                true => draws.params.select(0, 0),
                false => vae.decoded(&latents.detach(), features.as_ref(), draws.mode),
            };
            vae.judged_mean(&params)
        };
        let mut sampled = || {
            if !vae.has_encoder() {
                let items = vae.judged_mean(&draws.params.select(0, 0));
                return (items, latents.shallow_clone());
            }
            let prior = vae.latents_of(n_images, condition, generator).detach();
            let prior = draws.share.own(&prior, 0);
            let params = vae.decoded(&prior, features.as_ref(), draws.mode);
            (vae.judged_mean(&params), prior)
        };
        match self.judges(vae.has_encoder()) {
            Judged::Reconstructions => Game {
                real: with(real, None),
                generated: with(reconstructed(), None),
            },
            Judged::Samples => Game {
                real: with(real, None),
                generated: with(sampled().0, None),
            },
            Judged::Both => {
                let items = Tensor::cat(&[reconstructed(), sampled().0], 0);
                let side = features.as_ref().map(|f| f.repeat([2, 1]));
                Game {
                    real: with(real, None),
                    generated: Seen { items, side },
                }
            }
            Judged::Pairs => {
                let (items, prior) = sampled();
                Game {
                    real: with(real, Some(&latents)),
                    generated: with(items, Some(&prior)),
                }
            }
        }
    }

    fn augmented(&self, seen: Seen, generator: &mut Generator) -> Seen {
        let items = self
            .augmentation
            .iter()
            .fold(seen.items, |items, augmentation| {
                augmentation.apply(&items, generator)
            });
        Seen { items, ..seen }
    }

    /// The penalty on the discriminator's slope, a scalar; `None` if this step has none.
    fn penalty(
        &self,
        discriminator: &PlayerNetwork,
        real: &Seen,
        generated: &Seen,
        share: &Option<Share>,
        step: u64,
        generator: &mut Generator,
    ) -> Option<Tensor> {
        let squares = |gradient: Tensor| {
            let squares = gradient.flatten(1, -1).square();
            share.gathered(&squares.sum_dim_intlist(1, false, Kind::Float), 0) // [B]
        };
        match &self.penalty {
            DiscriminatorPenalty::None => None,
            DiscriminatorPenalty::GradientPenalty(config) => {
                let n = real.items.size()[0];
                let [x, generated_x] =
                    [&real.items, &generated.items].map(|items| items.detach().narrow(0, 0, n));
                let draw = |n| generator.uniform([0.0, 1.0], [n, 1, 1, 1], x.device());
                let way = share.scope(|| drawn_for(n, draw));
                let between = Seen {
                    items: &generated_x + (x - &generated_x) * way,
                    side: real.side.as_ref().map(Tensor::shallow_clone),
                };
                let (_, gradient) = discriminator.learn_with_gradient(&between, Mode::Train);
                // The root's own gradient at 0 is infinite.
                let norm = (squares(gradient) + 1e-12).sqrt();
                Some((norm - 1.0).square().mean(Kind::Float) * config.weight)
            }
            DiscriminatorPenalty::R1(config) => step.is_multiple_of(config.interval).then(|| {
                let (_, gradient) = discriminator.learn_with_gradient(real, Mode::Train);
                let times = config.interval as f64;
                squares(gradient).mean(Kind::Float) * (0.5 * config.gamma * times)
            }),
        }
    }
}

/// What a discriminator compares.
struct Game {
    real: Seen,
    generated: Seen,
}

/// λ of Esser et al. 2021, eq. 7, a scalar without a gradient.
fn adaptive(
    vae: &Vae,
    reconstruction: &Tensor,
    term: &Tensor,
    share: Option<&Share>,
) -> Result<Tensor, ModelError> {
    let Some(weight) = vae.output_weight() else {
        return Ok(Tensor::from(1_f32).to_device(vae.device()));
    };
    let norm = |loss: &Tensor| -> Result<Tensor, ModelError> {
        let mut gradients = Tensor::f_run_backward(&[loss], &[&weight], true, false)?;
        let own = gradients.remove(0).to_kind(Kind::Float);
        Ok(share.map_or_else(|| own.norm(), |share| share.mean_of_processes(&own).norm()))
    };
    let ratio = norm(reconstruction)? / (norm(term)? + LEAST_GRADIENT);
    Ok(ratio.clamp(0.0, LARGEST_ADAPTIVE).detach())
}

/// [`DIVERSITY`]; `None` for a single item, or if all real ones are alike.
fn diversity(real: &Tensor, generated: &Tensor, share: Option<&Share>) -> Option<Tensor> {
    // Twice the variance of each value is its mean squared distance.
    let spread = |items: &Tensor| {
        let items = items.detach();
        let n = items.size()[0];
        let Some(share) = share else {
            return (n > 1).then(|| items.var_dim([0].as_slice(), true, false).mean(Kind::Float));
        };
        let n = n / share.n_computed() * share.n_rows();
        let sum = |values: &Tensor| share.sum(&values.sum_dim_intlist(0, true, Kind::Float));
        let mean = sum(&items) / n as f64;
        let squares = sum(&(items - mean).square()) / (n - 1) as f64;
        (n > 1).then(|| squares.mean(Kind::Float))
    };
    Some(spread(generated)? / spread(real)?.clamp_min(1e-8))
}

#[cfg(test)]
mod tests {
    use tch::{Device, no_grad};

    use super::*;
    use crate::{ImageShape, ModelConfig, Objective};

    const SHAPE: ImageShape = ImageShape {
        channels: 1,
        height: 4,
        width: 4,
    };

    /// A small model, its objective and the discriminator.
    struct Setting {
        vae: Vae,
        objective: Objective,
        networks: super::super::Networks,
    }

    impl Setting {
        fn new(model: &str, objective: &str) -> Self {
            let model: ModelConfig =
                toml::from_str(&format!("network.mlp.hidden = [6]\n{model}")).expect("a model");
            let vae = Vae::new(&model, SHAPE, Device::Cpu, 1).expect("a model");
            let objective: Objective = toml::from_str(objective).expect("an objective");
            objective.check(&model).expect("an objective that fits");
            let networks = objective.networks(&vae, 5).expect("networks");
            Self {
                vae,
                objective,
                networks,
            }
        }

        fn draws(&self, mode: Mode) -> Draws {
            let images = Tensor::arange(8 * 16, (Kind::Int64, Device::Cpu));
            let images = (images * 37).remainder(251).to_kind(Kind::Uint8);
            let mut noise = Generator::cpu(2);
            let draws = self
                .vae
                .draw(&images.view([8, 1, 4, 4]), 1, mode, &mut noise);
            draws.expect("draws")
        }

        fn losses(&self, draws: &Draws, step: u64) -> super::super::Losses {
            let context = LossContext {
                vae: &self.vae,
                step,
                n_images: 8,
            };
            self.objective
                .losses(draws, context, &self.networks, &mut Generator::cpu(3))
                .expect("losses")
        }

        /// How many variables of the model and of the player have a gradient.
        fn reached(&self) -> [usize; 2] {
            let n = |variables: Vec<(String, Tensor)>| {
                let reached = variables.iter().filter(|(_, v)| {
                    v.grad().defined() && v.grad().abs().sum(Kind::Double).double_value(&[]) > 0.0
                });
                reached.count()
            };
            [
                n(self.vae.named_variables()),
                n(self.networks.players[0].named_variables()),
            ]
        }
    }

    const GAN: &str = "regularizer = 'none'\n[adversarial]\ndiscriminator.mlp.hidden = [5]\n";

    #[test]
    fn each_loss_reaches_its_own_player_alone() {
        let encoder = "judges = 'both'\ndiscriminator.conv.channels = [3]\n";
        for (model, objective) in [
            ("posterior = 'none'", GAN.to_owned()),
            ("posterior = 'none'", format!("{GAN}penalty.r1 = {{}}")),
            (
                "posterior = 'none'",
                format!("{GAN}penalty.gradient_penalty = {{}}"),
            ),
            ("", format!("[adversarial]\n{encoder}")),
            (
                "",
                format!("[perceptual]\n[adversarial]\n{encoder}adaptive_weight = true"),
            ),
            (
                "",
                format!("reconstruction_weight = 0.0\n[adversarial]\n{encoder}judges = 'pairs'")
                    .replacen("judges = 'both'\n", "", 1),
            ),
        ] {
            let setting = Setting::new(model, &objective);
            let losses = setting.losses(&setting.draws(Mode::Train), 0);
            losses.model.backward();
            let [model, player] = setting.reached();
            assert!(model >= 4 && player == 0, "{objective}: {model}, {player}");

            let setting = Setting::new("", &objective.replace("regularizer = 'none'", ""));
            let losses = setting.losses(&setting.draws(Mode::Train), 0);
            let loss = losses.players[0].as_ref().expect("a loss");
            loss.backward();
            let [model, player] = setting.reached();
            assert!(model == 0 && player >= 3, "{objective}: {model}, {player}");
        }
    }

    #[test]
    fn the_encoder_gets_no_gradient_of_the_discriminator_unless_it_is_let_through() {
        for (through, is_reached) in [(true, true), (false, false)] {
            let objective = format!(
                "reconstruction_weight = 0.0\nregularizer.kl.beta = 0.0\n[adversarial]\n\
                 through_encoder = {through}\ndiscriminator.mlp.hidden = [5]"
            );
            let setting = Setting::new("", &objective);
            setting
                .losses(&setting.draws(Mode::Train), 0)
                .model
                .backward();
            let sum = |part: &str| -> f64 {
                let variables = setting.vae.named_variables();
                let of_part = variables.iter().filter(|(name, _)| name.starts_with(part));
                of_part
                    .filter(|(_, v)| v.grad().defined())
                    .map(|(_, v)| v.grad().abs().sum(Kind::Double).double_value(&[]))
                    .sum()
            };
            assert_eq!(sum("encoder.") > 0.0, is_reached);
            assert!(sum("decoder.") > 0.0);
        }
    }

    /// A linear discriminator D(x) = w·x + b has the slope w everywhere.
    #[test]
    fn penalties_of_a_linear_discriminator_are_those_of_its_slope() {
        let linear = "regularizer = 'none'\n[adversarial]\ndiscriminator.mlp.hidden = []\n";
        let value = |penalty: &str, step: u64| {
            let setting = Setting::new("posterior = 'none'", &format!("{linear}{penalty}"));
            let losses = setting.losses(&setting.draws(Mode::Train), step);
            let value = losses.terms.get("discriminator_penalty");
            let variables = setting.networks.players[0].named_variables();
            let (_, weight) = variables.iter().find(|(n, _)| n == "0.weight").expect("w");
            let squared = weight.square().sum(Kind::Double).double_value(&[]);
            (value.map(|value| value.double_value(&[])), squared)
        };
        let near = |(found, _): (Option<f64>, f64), wanted: f64| {
            let found = found.expect("a penalty");
            assert!(
                (found - wanted).abs() < 1e-5 * wanted,
                "{found} vs {wanted}"
            );
        };
        let (_, squared) = value("", 0);
        near(value("penalty.r1.gamma = 3.0", 0), 1.5 * squared);
        let lazy = "penalty.r1 = { gamma = 3.0, interval = 4 }";
        near(value(lazy, 8), 6.0 * squared);
        assert_eq!(value(lazy, 9).0, None);
        let wanted = 10.0 * (squared.sqrt() - 1.0).powi(2);
        near(value("penalty.gradient_penalty = {}", 0), wanted);
    }

    #[test]
    fn the_adaptive_weight_makes_both_gradients_equal_at_the_last_layer() {
        let objective =
            "[adversarial]\nadaptive_weight = true\nweight = 0.5\ndiscriminator.mlp.hidden = [5]";
        let setting = Setting::new("", objective);
        let norm_of = |loss: Tensor| {
            let weight = setting.vae.output_weight().expect("a weight");
            let gradient = Tensor::run_backward(&[loss], &[weight], true, false).remove(0);
            gradient.norm().double_value(&[])
        };
        let draws = setting.draws(Mode::Train);
        let mut plain = setting.objective.clone();
        plain.adversarial = None;
        let losses = setting.losses(&draws, 0);
        let context = LossContext {
            vae: &setting.vae,
            step: 0,
            n_images: 8,
        };
        let without = plain
            .loss(&draws, context, &mut Generator::cpu(3))
            .expect("a loss");
        // What is left of the model's loss is the weighted term.
        let term = norm_of(&losses.model - &without);
        let reconstruction = norm_of(draws.terms.reconstruction.mean(Kind::Float));
        assert!(
            (term / reconstruction - 0.5).abs() < 1e-2,
            "{term} vs {reconstruction}"
        );
        let weight = losses.terms.get("adversarial_weight").expect("a weight");
        assert!((0.0..=5e3).contains(&weight.double_value(&[])));
    }

    #[test]
    fn the_loss_of_a_generator_is_the_discriminators_term_alone() {
        let setting = Setting::new("posterior = 'none'", &format!("{GAN}weight = 0.5"));
        let losses = setting.losses(&setting.draws(Mode::Train), 0);
        let term = losses.terms.get("adversarial_loss").expect("the term");
        let difference = (losses.model - term * 0.5).abs().double_value(&[]);
        assert!(difference < 1e-6, "{difference}");
    }

    #[test]
    fn before_its_start_there_is_no_discriminator() {
        let setting = Setting::new(
            "",
            "[adversarial]\nstart = 5\ndiscriminator.mlp.hidden = [5]",
        );
        let draws = setting.draws(Mode::Train);
        let mut plain = setting.objective.clone();
        plain.adversarial = None;
        let context = LossContext {
            vae: &setting.vae,
            step: 4,
            n_images: 8,
        };
        let wanted = plain
            .loss(&draws, context, &mut Generator::cpu(3))
            .expect("a loss");
        let before = setting.losses(&draws, 4);
        assert_eq!(before.model, wanted);
        assert!(before.players[0].is_none());
        let after = setting.losses(&draws, 5);
        assert_ne!(after.model, wanted);
        assert!(after.players[0].is_some());
        assert_eq!(setting.objective.settled_step(), 5);
    }

    #[test]
    fn diversity_is_the_ratio_of_mean_squared_distances() {
        let of = |values: &[f32]| Tensor::from_slice(values).view([-1, 1, 1, 1]);
        let found = diversity(&of(&[0.0, 4.0]), &of(&[1.0, 3.0]), None).expect("a ratio");
        assert!((found.double_value(&[]) - 0.25).abs() < 1e-6);
        assert!(diversity(&of(&[1.0]), &of(&[1.0]), None).is_none());
    }

    #[test]
    fn in_evaluation_nothing_is_random_but_what_is_drawn_and_no_gradient_is_needed() {
        let setting = Setting::new("posterior = 'none'", &format!("{GAN}penalty.r1 = {{}}"));
        let draws = no_grad(|| setting.draws(Mode::Evaluate));
        let [a, b] = [0, 0].map(|step| no_grad(|| setting.losses(&draws, step)));
        assert_eq!(a.model, b.model);
        assert!(a.terms.get("discriminator_penalty").is_none());
        assert!(a.terms.get("discriminator_accuracy").is_some());
    }

    /// Trains a discriminator on numbers of N(`means[0]`, 1) and N(`means[1]`, 1), the real ones first.
    fn trained(config: &AdversarialConfig, means: [f64; 2], n_steps: i32) -> PlayerNetwork {
        let shape = DiscriminatorShape {
            item: ImageShape {
                channels: 1,
                height: 1,
                width: 1,
            },
            n_side: 0,
        };
        let network = PlayerNetwork::new(DISCRIMINATOR, 1, Device::Cpu, |path| {
            config.discriminator.build(path, shape)
        });
        let mut generator = Generator::cpu(4);
        let variables = network.named_variables();
        let mut moments: Vec<[Tensor; 2]> = variables
            .iter()
            .map(|(_, v)| [v.zeros_like(), v.zeros_like()])
            .collect();
        for step in 0..n_steps {
            let [real, generated] = means
                .map(|mean| Seen::from(&(generator.normal([256, 1, 1, 1], Device::Cpu) + mean)));
            let outputs = [&real, &generated].map(|seen| network.learn(seen, Mode::Train).outputs);
            let mut loss = config.loss.of_discriminator(&outputs[0], &outputs[1]);
            if let Some(penalty) =
                config.penalty(&network, &real, &generated, &None, 0, &mut generator)
            {
                loss += penalty;
            }
            loss.backward();
            // Adam, with a learning rate that falls to 0.
            let rate = 5e-3 * (1.0 - f64::from(step) / f64::from(n_steps));
            for ((_, variable), [mean, square]) in variables.iter().zip(&mut moments) {
                let mut variable = variable.shallow_clone();
                no_grad(|| {
                    let gradient = variable.grad();
                    *mean = &*mean * 0.9 + &gradient * 0.1;
                    *square = &*square * 0.99 + gradient.square() * 0.01;
                    variable -= &*mean / (square.sqrt() + 1e-8) * rate;
                });
                variable.zero_grad();
            }
        }
        network
    }

    #[test]
    fn a_trained_discriminator_of_two_gaussians_is_their_log_ratio() {
        let config: AdversarialConfig =
            toml::from_str("discriminator.mlp.hidden = [32, 32]").expect("a config");
        let network = trained(&config, [1.0, 0.0], 500);
        let x = Tensor::linspace(-1.0, 2.0, 31, (Kind::Float, Device::Cpu));
        let seen = Seen::from(&x.view([31, 1, 1, 1]));
        let found = no_grad(|| network.judge(&seen, Mode::Evaluate).outputs);
        // log N(x; 1, 1) − log N(x; 0, 1) = x − ½.
        let error = (found - (x - 0.5))
            .abs()
            .mean(Kind::Double)
            .double_value(&[]);
        assert!(error < 0.15, "mean error {error}");
    }

    #[test]
    fn a_critic_with_gradient_penalty_finds_the_distance_of_two_gaussians() {
        // With weight λ the best slope is 1 + W/(2λ): the distance W is found too long by that share.
        let config: AdversarialConfig = toml::from_str(
            "loss = 'wasserstein'\ndiscriminator.mlp.hidden = [32, 32]\n\
             penalty.gradient_penalty.weight = 40.0",
        )
        .expect("a config");
        let judged = |network: &PlayerNetwork, means: [f64; 2]| {
            let mut generator = Generator::cpu(9);
            let [real, generated] = means.map(|mean| {
                let items = generator.normal([20_000, 1, 1, 1], Device::Cpu) + mean;
                no_grad(|| network.judge(&Seen::from(&items), Mode::Evaluate).outputs)
            });
            let loss = config.loss.of_discriminator(&real, &generated);
            -loss.double_value(&[])
        };
        // The penalty is a wall at slope 0: in one dimension a critic keeps the sign it starts with, so the real
        // items are put on the side that it starts with.
        let side = match judged(&trained(&config, [2.0, 0.0], 0), [2.0, 0.0]) {
            0.0.. => 2.0,
            _ => -2.0,
        };
        let network = trained(&config, [side, 0.0], 500);
        let found = judged(&network, [side, 0.0]);
        assert!((found - 2.05).abs() < 0.1, "{found}, the means are 2 apart");
    }
}
