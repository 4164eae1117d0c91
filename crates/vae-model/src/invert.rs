//! Inversion: the latents of given items by gradient descent on the latents, instead of by the encoder.

use std::f64::consts::PI;
use std::ops::ControlFlow;

use tch::{Kind, Tensor, no_grad, with_grad};
use vae_base::derive_seed;
use vae_torch::{AdamStep, Update, fused_adam};

use crate::math::unit;
use crate::{Conditioned, ModelError, Support, Vae};

/// The number of decoded values at once, which bounds the memory of a step.
const N_VALUES_AT_A_TIME: i64 = 1 << 20;

/// The default number of starts of a search that begins at latents from the prior.
const N_PRIOR_STARTS: u32 = 8;

/// Whether to go on.
type Flow = ControlFlow<()>;

/// The search of [`Vae::invert`]: the steps of Adam (Kingma & Ba 2015, <https://arxiv.org/abs/1412.6980>) that an item's latents take.
#[derive(Clone, Debug, PartialEq)]
pub struct InvertConfig {
    /// Number of steps. Default 300.
    pub n_steps: u32,
    /// The learning rate of the first step, from which it falls to 0 on a cosine. Default 0.05.
    pub learning_rate: f64,
    /// w, the weight of log p(z): 1 gives the most likely latents given the item, 0 the best reconstruction. Default 1.
    pub prior_weight: f64,
    /// Where the search starts; `None` is the center of q(z|x). Default `None`.
    pub start: Option<InvertStart>,
    /// Number of searches for each item, of which the best is kept. `None` is 1 from the encoder and 8 from the prior. Default
    /// `None`.
    pub n_starts: Option<u32>,
    /// Determines the latents that are drawn from the prior. Default 0.
    pub seed: u64,
}

impl InvertConfig {
    fn check(&self) -> Result<(), ModelError> {
        let refuse = |key: &str, problem: String| {
            Err(ModelError::config(format!("inversion: {key}"), problem))
        };
        let Self {
            learning_rate,
            prior_weight,
            n_starts,
            ..
        } = *self;
        if !(learning_rate.is_finite() && learning_rate > 0.0) {
            return refuse(
                "learning rate",
                format!("found {learning_rate}, expected a positive number"),
            );
        }
        if !(prior_weight.is_finite() && prior_weight >= 0.0) {
            return refuse(
                "weight of the prior",
                format!("found {prior_weight}, expected a number from 0"),
            );
        }
        match n_starts {
            Some(0) => refuse("starts", "found 0, expected at least 1".to_owned()),
            _ => Ok(()),
        }
    }
}

impl Default for InvertConfig {
    fn default() -> Self {
        Self {
            n_steps: 300,
            learning_rate: 0.05,
            prior_weight: 1.0,
            start: None,
            n_starts: None,
            seed: 0,
        }
    }
}

/// Where a search of [`Vae::invert`] starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvertStart {
    /// At the center of q(z|x); further starts are drawn from the prior.
    Encoder,
    /// At latents drawn from the prior.
    Prior,
}

/// How far [`Vae::invert`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvertProgress {
    /// Steps so far, added up over the items.
    pub n_done: u64,
    /// Number of items times number of steps.
    pub n_total: u64,
}

/// The result of [`Vae::invert`].
#[derive(Debug)]
pub struct Inverted {
    /// The best latents of each item, `[B, Z]`.
    pub latents: Tensor,
    /// Their terms. The loss is never larger than before.
    pub after: InvertTerms,
    /// The terms at the start: at the center of q(z|x), or at the best of the latents that were drawn from the prior.
    pub before: InvertTerms,
}

/// The terms of latents of items, in nats. NaN counts as infinite.
#[derive(Debug)]
pub struct InvertTerms {
    /// −log p(x|z), `[B]`.
    pub reconstruction: Tensor,
    /// What is minimized, −log p(x|z) − w·log p(z), `[B]`.
    pub loss: Tensor,
}

/// Latents with their terms, of all starts.
struct Candidates {
    latents: Tensor,        // [R, B, Z]
    reconstruction: Tensor, // [R, B]
    loss: Tensor,           // [R, B]
}

impl Candidates {
    /// Keeps the better of two latents at every place.
    fn keep_better(&mut self, other: &Self) {
        let is_better = other.loss.lt_tensor(&self.loss); // [R, B]
        self.latents = (other.latents).where_self(&is_better.unsqueeze(-1), &self.latents);
        self.reconstruction = (other.reconstruction).where_self(&is_better, &self.reconstruction);
        self.loss = other.loss.where_self(&is_better, &self.loss);
    }

    /// The best start of each item: its latents `[B, Z]` and their terms.
    fn best(&self) -> (Tensor, InvertTerms) {
        let index = self.loss.argmin(0, true); // [1, B]
        let of_terms = |values: &Tensor| values.gather(0, &index, false).squeeze_dim(0);
        let n_latents = self.latents.size()[2];
        let wide = index.unsqueeze(-1).expand([-1, -1, n_latents], false);
        (
            self.latents.gather(0, &wide, false).squeeze_dim(0),
            InvertTerms {
                reconstruction: of_terms(&self.reconstruction),
                loss: of_terms(&self.loss),
            },
        )
    }

    /// The terms of the first start.
    fn first_terms(&self) -> InvertTerms {
        InvertTerms {
            reconstruction: self.reconstruction.get(0),
            loss: self.loss.get(0),
        }
    }
}

/// The latents of some items while they are searched.
struct Search<'a> {
    vae: &'a Vae,
    config: &'a InvertConfig,
    images: Tensor,
    condition: Option<Tensor>,
    /// Of all R starts of each item, `[R, B, Z]`, changed in place.
    latents: Tensor,
    /// Adam's mean and mean square of the gradients, `[R, B, Z]`.
    moments: [Tensor; 2],
    /// Adam's number of steps, a scalar.
    n_steps: Tensor,
}

impl<'a> Search<'a> {
    fn new(vae: &'a Vae, items: Conditioned, config: &'a InvertConfig) -> Result<Self, ModelError> {
        let latents = vae.starts(items, config)?;
        Ok(Self {
            vae,
            config,
            images: items.tensor.to_device(vae.device()),
            condition: items.condition.map(|known| known.to_device(vae.device())),
            moments: [latents.zeros_like(), latents.zeros_like()],
            n_steps: Tensor::zeros([], (Kind::Float, vae.device())),
            latents,
        })
    }

    /// Takes steps while `flow` continues, which `on_step` sets after each.
    fn run(
        mut self,
        flow: &mut Flow,
        on_step: &mut dyn FnMut() -> Flow,
    ) -> Result<Inverted, ModelError> {
        let (mut best, mut gradient) = self.evaluate()?;
        let before = match self.vae.start_of(self.config) {
            InvertStart::Encoder => best.first_terms(),
            InvertStart::Prior => best.best().1,
        };
        for i in 0..self.config.n_steps {
            if flow.is_break() {
                break;
            }
            self.step(i, &gradient)?;
            let (candidates, next) = self.evaluate()?;
            best.keep_better(&candidates);
            gradient = next;
            *flow = on_step();
        }
        let (latents, after) = best.best();
        Ok(Inverted {
            latents,
            before,
            after,
        })
    }

    /// The current latents with their terms, and the gradient of the loss, `[R, B, Z]`.
    fn evaluate(&self) -> Result<(Candidates, Tensor), ModelError> {
        with_grad(|| {
            let latents = self.latents.detach().set_requires_grad(true);
            let images = (&self.images, self.condition.as_ref());
            let (log_px_z, log_pz) = self.vae.log_joint(images, &latents)?;
            let loss = -(&log_px_z + log_pz * self.config.prior_weight); // [R, B]
            // In the sum no item affects another's gradient. Only that of the latents is computed, none of the weights.
            let sum = loss.sum(Kind::Float);
            let mut gradients = Tensor::f_run_backward(&[sum], &[&latents], false, false)?;
            let not_nan = |values: &Tensor| values.masked_fill(&values.isnan(), f64::INFINITY);
            let candidates = Candidates {
                latents: self.latents.copy(),
                reconstruction: not_nan(&-log_px_z.detach()),
                loss: not_nan(&loss.detach()),
            };
            Ok((candidates, gradients.swap_remove(0)))
        })
    }

    /// Step `i` of Adam. On a sphere the gradient is projected onto the tangent plane, and the latents back to length 1.
    fn step(&mut self, i: u32, gradient: &Tensor) -> Result<(), ModelError> {
        let is_sphere = self.vae.support() == Support::Sphere;
        let radial = is_sphere.then(|| {
            let length = (gradient * &self.latents).sum_dim_intlist(-1, true, Kind::Float);
            length * &self.latents // [R, B, Z]
        });
        let gradient = match radial {
            Some(radial) => gradient - radial,
            None => gradient.shallow_clone(),
        };
        let done = f64::from(i) / f64::from(self.config.n_steps);
        let step = AdamStep {
            learning_rate: self.config.learning_rate * 0.5 * (1.0 + (PI * done).cos()),
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            decoupled: false,
        };
        let update = Update {
            values: vec![&self.latents],
            gradients: vec![&gradient],
            moments: self.moments.iter().map(|moment| vec![moment]).collect(),
        };
        fused_adam(&update, &[&self.n_steps], &step)?;
        if is_sphere {
            self.latents = unit(&self.latents, f64::from(f32::MIN_POSITIVE));
        }
        Ok(())
    }
}

impl Vae {
    /// Where the search starts unless the config says otherwise: at the encoder's latents, if there is one.
    fn start_of(&self, config: &InvertConfig) -> InvertStart {
        config.start.unwrap_or(match self.has_encoder() {
            true => InvertStart::Encoder,
            false => InvertStart::Prior,
        })
    }

    /// R, the number of starts of each item.
    fn n_starts(&self, config: &InvertConfig) -> i64 {
        i64::from(config.n_starts.unwrap_or(match self.start_of(config) {
            InvertStart::Encoder => 1,
            InvertStart::Prior => N_PRIOR_STARTS,
        }))
    }

    /// The latents that the searches start from, `[R, B, Z]`.
    fn starts(&self, items: Conditioned, config: &InvertConfig) -> Result<Tensor, ModelError> {
        no_grad(|| {
            let mut starts = Vec::new();
            if self.start_of(config) == InvertStart::Encoder {
                starts.push(self.encode(items)?.center().unsqueeze(0)); // [1, B, Z]
            }
            let n_drawn = self.n_starts(config) - starts.len() as i64;
            if n_drawn > 0 {
                starts.push(self.prior_starts(items, n_drawn, config.seed));
            }
            Ok(Tensor::cat(&starts, 0))
        })
    }

    /// Draws from the prior, `[n, B, Z]`. Those of an item follow from the seed and its condition alone, whatever the other items.
    fn prior_starts(&self, items: Conditioned, n: i64, seed: u64) -> Tensor {
        let drawn = |condition: Option<&Tensor>| {
            let mut generator = self.generator(derive_seed(seed, 0, "starts of an inversion"));
            self.latents_of(n, condition, &mut generator)
        };
        let n_items = items.tensor.size()[0];
        match items.condition {
            None => drawn(None).unsqueeze(1).repeat([1, n_items, 1]),
            Some(condition) => {
                let rows = condition.split(1, 0);
                let rows = rows.iter().map(|row| drawn(Some(&row.repeat([n, 1]))));
                Tensor::stack(&rows.collect::<Vec<_>>(), 1)
            }
        }
    }

    /// The latents of items `[B, C, H, W]` by gradient descent on −log p(x|z) − w·log p(z), which starts at the encoder's latents or
    /// at draws from the prior: with w = 1 a mode of p(z|x). The best latents on the way are the result. That of an item does not
    /// depend on the other items. No weight changes or gets a gradient. Latents on a sphere stay there.
    ///
    /// `on_step` is called after each step, and may end the search early. The memory is bounded.
    ///
    /// # Errors
    /// Latents that are codes; networks that compute in strips ([`Vae::set_strip_rows`]); numbers of the config that are out of
    /// range; items of another shape or kind, or a condition that does not fit the model.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use tch::{Device, Kind};
    /// use vae_model::{ImageShape, InvertConfig, ModelConfig, ModelError, Vae};
    ///
    /// # fn main() -> Result<(), ModelError> {
    /// let shape = ImageShape { channels: 1, height: 28, width: 28 };
    /// let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?;
    /// let images = vae.generator(2).randint(256, [3, 1, 28, 28], (Kind::Uint8, Device::Cpu));
    /// let config = InvertConfig { n_steps: 20, ..InvertConfig::default() };
    /// let inverted = vae.invert(&images, &config, &mut |_| ControlFlow::Continue(()))?;
    /// assert_eq!(inverted.latents.size(), [3, 2]);
    /// let gained = inverted.before.loss - inverted.after.loss; // in nats, of each image
    /// assert!(gained.min().double_value(&[]) > 0.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn invert<'a>(
        &self,
        items: impl Into<Conditioned<'a>>,
        config: &InvertConfig,
        on_step: &mut dyn FnMut(InvertProgress) -> Flow,
    ) -> Result<Inverted, ModelError> {
        config.check()?;
        if self.support() == Support::Codes {
            return Err(ModelError::NotInvertible);
        }
        if self.is_in_strips() {
            return Err(ModelError::InStrips);
        }
        let Conditioned { tensor, condition } = items.into();
        self.check_images(tensor)?;
        let n_items = tensor.size()[0];
        self.check_condition(condition, n_items)?;
        let n_values = self.image_shape().n_values() * self.n_params_per_value();
        let n_at_a_time = N_VALUES_AT_A_TIME / n_values.saturating_mul(self.n_starts(config));
        let n_at_a_time = n_at_a_time.max(1);

        let mut progress = InvertProgress {
            n_done: 0,
            n_total: n_items.unsigned_abs() * u64::from(config.n_steps),
        };
        let mut flow = Flow::Continue(());
        let mut conditions = condition
            .map(|condition| condition.split(n_at_a_time, 0))
            .into_iter()
            .flatten();
        let mut parts = Vec::new();
        for chunk in tensor.split(n_at_a_time, 0) {
            let condition = conditions.next();
            let search = Search::new(self, (&chunk, condition.as_ref()).into(), config)?;
            let mut tell = || {
                progress.n_done += chunk.size()[0].unsigned_abs();
                on_step(progress)
            };
            parts.push(self.with_fixed_weights(|| search.run(&mut flow, &mut tell))?);
        }
        let joined = |part: fn(&Inverted) -> &Tensor| {
            Tensor::f_cat(&parts.iter().map(part).collect::<Vec<_>>(), 0)
        };
        Ok(Inverted {
            latents: joined(|part| &part.latents)?,
            before: InvertTerms {
                reconstruction: joined(|part| &part.before.reconstruction)?,
                loss: joined(|part| &part.before.loss)?,
            },
            after: InvertTerms {
                reconstruction: joined(|part| &part.after.reconstruction)?,
                loss: joined(|part| &part.after.loss)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::{
        ConditionSpec, DataSpec, ImageShape, ItemKind, ItemSpec, Mode, ModelConfig, Network,
    };

    const SHAPE: ImageShape = ImageShape {
        channels: 1,
        height: 8,
        width: 8,
    };

    const CONV: &str = "network.conv = { channels = [4, 6], strides = [1, 2], hidden = 8, \
                        decoder_channels = [5], decoder_strides = [2] }";
    const MLP: &str = "network.mlp.hidden = [16]";

    fn config(parts: &str) -> ModelConfig {
        toml::from_str(&format!("latent_dims = 3\n{parts}")).expect("a model")
    }

    fn model(parts: &str) -> Vae {
        Vae::new(&config(parts), SHAPE, Device::Cpu, 1).expect("a model")
    }

    fn images(n: i64) -> Tensor {
        let values = Tensor::arange(n * SHAPE.n_values(), (Kind::Int64, Device::Cpu));
        let values = (&values * &values).remainder(251).to_kind(Kind::Uint8);
        values.view([n, 1, SHAPE.height, SHAPE.width])
    }

    fn steps(n_steps: u32) -> InvertConfig {
        InvertConfig {
            n_steps,
            ..InvertConfig::default()
        }
    }

    fn inverted<'a>(
        vae: &Vae,
        items: impl Into<Conditioned<'a>>,
        config: &InvertConfig,
    ) -> Inverted {
        let inverted = vae.invert(items, config, &mut |_| Flow::Continue(()));
        inverted.expect("latents")
    }

    fn largest(difference: &Tensor) -> f64 {
        difference.abs().max().double_value(&[])
    }

    /// x = W·z + b, and an encoder that knows nothing.
    #[derive(Debug)]
    struct Linear {
        weight: Tensor, // [D, Z]
        bias: Tensor,   // [D]
        n_posterior_params: i64,
    }

    const D: i64 = 6;

    impl Linear {
        fn new(n_posterior_params: i64) -> Self {
            let values = Tensor::arange(D * 3 + D, (Kind::Float, Device::Cpu));
            let values = (values.square() * 1.7).sin();
            let eye = Tensor::eye(3, (Kind::Float, Device::Cpu)).repeat([2, 1]) * 2.0;
            Self {
                // Far from a lower rank, so that even without a prior every direction is found in few steps.
                weight: eye + values.narrow(0, 0, D * 3).view([D, 3]),
                bias: values.narrow(0, D * 3, D),
                n_posterior_params,
            }
        }
    }

    impl Network for Linear {
        fn encode(&self, items: &Tensor, _: Option<&Tensor>, _: Mode) -> Tensor {
            Tensor::zeros(
                [items.size()[0], self.n_posterior_params],
                (Kind::Float, Device::Cpu),
            )
        }

        fn decode(&self, latents: &Tensor, _: Option<&Tensor>, _: Mode) -> Tensor {
            let values = latents.matmul(&self.weight.tr()) + &self.bias; // [N, D]
            values.unflatten(1, [1, 1, D])
        }
    }

    #[test]
    fn a_linear_decoders_latents_are_those_of_ridge_regression() {
        const SIGMA: f64 = 0.5;
        let builder = Vae::builder().network("linear", |_, context| {
            Linear::new(context.n_posterior_params)
        });
        let config = config(&format!("likelihood.gaussian.sigma = {SIGMA}"));
        let item = ItemSpec::new(ItemKind::Array, vec![D]);
        let vae = builder
            .build(&config, item, Device::Cpu, 1)
            .expect("a model");
        let Linear { weight, bias, .. } = Linear::new(0);
        let items = (Tensor::arange(4 * D, (Kind::Float, Device::Cpu)) * 0.9).cos() * 2.0;
        let items = items.view([4, D]);
        for prior_weight in [0.0, 1.0, 5.0] {
            for start in [InvertStart::Encoder, InvertStart::Prior] {
                let config = InvertConfig {
                    prior_weight,
                    start: Some(start),
                    ..InvertConfig::default()
                };
                let found = inverted(&vae, &items.view([4, 1, 1, D]), &config);
                // The gradient is 0 where (WᵀW + w·σ²·I)·z = Wᵀ(x − b).
                let ridge =
                    Tensor::eye(3, (Kind::Float, Device::Cpu)) * (prior_weight * SIGMA * SIGMA);
                let left = weight.tr().matmul(&weight) + ridge;
                let right = (&items - &bias).matmul(&weight); // [4, Z]
                let wanted = Tensor::linalg_solve(&left, &right.tr(), true).tr();
                let error = largest(&(&found.latents - &wanted));
                assert!(error < 1e-3, "{error} {prior_weight} {start:?}");
                let error = (&items - wanted.matmul(&weight.tr()) - &bias).square();
                let error = error.sum_dim_intlist(-1, false, Kind::Float);
                let constant = D as f64 * ((2.0 * PI).sqrt() * SIGMA).ln();
                let reconstruction = error * (0.5 / SIGMA / SIGMA) + constant;
                assert!(largest(&(found.after.reconstruction - reconstruction)) < 1e-3);
                assert!(
                    (found.before.loss - found.after.loss)
                        .min()
                        .double_value(&[])
                        > 0.1
                );
            }
        }
    }

    #[test]
    fn the_best_latents_are_kept_and_their_terms_are_those_of_the_model() {
        let vae = model(MLP);
        let images = images(5);
        let center = vae.encode(&images).expect("q").center();
        let terms = |latents: &Tensor| {
            let (log_px_z, log_pz) = vae
                .log_joint(&images, &latents.unsqueeze(0))
                .expect("terms");
            (-log_px_z.squeeze_dim(0), -log_pz.squeeze_dim(0))
        };
        // Steps this large lead away from every minimum.
        for learning_rate in [0.05, 1e4] {
            let config = InvertConfig {
                learning_rate,
                ..steps(30)
            };
            let found = inverted(&vae, &images, &config);
            let gained = &found.before.loss - &found.after.loss;
            let least = gained.min().double_value(&[]);
            assert!(
                least >= 0.0 && (learning_rate > 1.0 || least > 0.01),
                "{least}"
            );
            for (latents, said) in [(&center, &found.before), (&found.latents, &found.after)] {
                let (reconstruction, minus_log_pz) = terms(latents);
                assert!(largest(&(&reconstruction - &said.reconstruction)) < 1e-3);
                assert!(largest(&(reconstruction + minus_log_pz - &said.loss)) < 1e-3);
            }
        }
        // Further starts can only be better than the first alone.
        let one = inverted(&vae, &images, &steps(30));
        let config = InvertConfig {
            n_starts: Some(4),
            ..steps(30)
        };
        let four = inverted(&vae, &images, &config);
        assert!((one.after.loss - four.after.loss).min().double_value(&[]) > -1e-3);
        assert!(largest(&(one.before.loss - four.before.loss)) < 1e-3);
    }

    #[test]
    fn an_items_latents_do_not_depend_on_the_other_items() {
        let spec = DataSpec {
            item: SHAPE.into(),
            condition: ConditionSpec {
                classes: ["a", "b"].map(str::to_owned).to_vec(),
                attributes: Vec::new(),
            },
        };
        let parts = "prior = 'conditional_gaussian'\ncondition.classes = true";
        let config = config(&format!("{CONV}\n{parts}"));
        let conditional = Vae::new(&config, spec, Device::Cpu, 1).expect("a model");
        let classes = Tensor::from_slice2(&[[1_f32, 0.0], [0.0, 1.0], [0.0, 1.0]]);
        for (vae, condition) in [(model(CONV), None), (conditional, Some(classes))] {
            for start in [InvertStart::Encoder, InvertStart::Prior] {
                let config = InvertConfig {
                    start: Some(start),
                    ..steps(20)
                };
                let images = images(3);
                let all = inverted(&vae, (&images, condition.as_ref()), &config);
                for i in 0..3 {
                    let condition = condition.as_ref().map(|rows| rows.narrow(0, i, 1));
                    let image = images.narrow(0, i, 1);
                    let alone = inverted(&vae, (&image, condition.as_ref()), &config);
                    let difference = largest(&(alone.latents.get(0) - all.latents.get(i)));
                    assert!(difference < 1e-4, "{difference} {i} {start:?}");
                }
                assert!(largest(&(all.latents.get(0) - all.latents.get(1))) > 1e-2);
            }
        }
    }

    #[test]
    fn weights_stay_as_they_are_and_get_no_gradient() {
        let batch_norm = "network.conv_batch_norm.channels = [4]".to_owned();
        for parts in [batch_norm, format!("{CONV}\nprior.vamp.pseudo_inputs = 3")] {
            let vae = model(&parts);
            let before = vae.named_variables().into_iter();
            let before: Vec<_> = before
                .map(|(_, value)| (value.copy(), value.requires_grad()))
                .collect();
            let found = no_grad(|| inverted(&vae, &images(2), &steps(5)));
            assert!(!found.latents.requires_grad());
            for ((name, value), (old, required)) in vae.named_variables().iter().zip(&before) {
                assert!(!value.grad().defined(), "{name}");
                assert_eq!((value, value.requires_grad()), (old, *required), "{name}");
            }
        }
    }

    #[test]
    fn latents_stay_on_the_sphere() {
        let parts = "posterior = 'von_mises_fisher'\nprior = 'hyperspherical_uniform'";
        let vae = model(&format!("{MLP}\n{parts}"));
        for start in [InvertStart::Encoder, InvertStart::Prior] {
            let config = InvertConfig {
                start: Some(start),
                ..steps(100)
            };
            let found = inverted(&vae, &images(4), &config);
            let length = found
                .latents
                .square()
                .sum_dim_intlist(-1, false, Kind::Float);
            assert!(largest(&(length - 1.0)) < 1e-5);
            let gained = found.before.loss - found.after.loss;
            assert!(gained.min().double_value(&[]) > 0.01, "{gained}");
        }
    }

    #[test]
    fn a_search_can_be_stopped_and_says_how_far_it_is() {
        let vae = model(MLP);
        let images = images(2);
        let mut seen = Vec::new();
        let stopped = vae.invert(&images, &steps(100), &mut |progress| {
            seen.push((progress.n_done, progress.n_total));
            match progress.n_done < 6 {
                true => Flow::Continue(()),
                false => Flow::Break(()),
            }
        });
        assert_eq!(seen, [(2, 200), (4, 200), (6, 200)]);
        let gained = stopped.map(|found| found.before.loss - found.after.loss);
        assert!(gained.expect("latents").min().double_value(&[]) > 0.0);
    }

    #[test]
    fn what_cannot_be_searched_is_refused() {
        let refused = |vae: &Vae, images: &Tensor, config: InvertConfig| {
            let refused = vae.invert(images, &config, &mut |_| Flow::Continue(()));
            refused.expect_err("refused").to_string()
        };
        let codes = "posterior.finite_scalar.levels = [5, 5, 5]\nprior = 'uniform_codes'";
        let codes = model(&format!("{MLP}\n{codes}"));
        let said = refused(&codes, &images(1), steps(1));
        assert!(
            said.contains("are codes") && said.contains("diagonal_gaussian"),
            "{said}"
        );

        let vae = model(MLP);
        let said = refused(&vae, &images(1).to_kind(Kind::Float), steps(1));
        assert!(said.starts_with("images are Float [1, 1, 8, 8]"), "{said}");
        for (config, wanted) in [
            (
                InvertConfig {
                    learning_rate: f64::NAN,
                    ..steps(1)
                },
                "learning rate: found NaN",
            ),
            (
                InvertConfig {
                    prior_weight: -1.0,
                    ..steps(1)
                },
                "prior: found -1",
            ),
            (
                InvertConfig {
                    n_starts: Some(0),
                    ..steps(1)
                },
                "starts: found 0",
            ),
        ] {
            let said = refused(&vae, &images(1), config);
            assert!(said.contains(wanted), "{said}");
        }
    }
}
