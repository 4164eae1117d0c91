//! What training changes: the weights, the optimizer's moments, the averaged weights.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad};
use vae_base::derive_seed;
use vae_model::{Conditioned, ElboTerms, LossContext, Mode, Terms, Vae};
use vae_run::{CheckpointTensors, OpenCheckpoint, RunConfig, RunError};

use crate::{Ema, Optimizer, TrainError, autocast, check_precision};

/// A model with what it takes to train it.
#[derive(Debug)]
pub struct Learner<'a> {
    vae: &'a Vae,
    config: &'a RunConfig,
    n_train_images: u64,
    optimizer: Optimizer,
    ema: Option<Ema>,
}

/// What a step was computed from, before its change of the weights.
#[derive(Debug)]
pub struct StepOutput {
    /// The ELBO's terms for each image.
    pub terms: ElboTerms,
    /// The scalar that was minimized.
    pub loss: Tensor,
    /// Norm of its gradient, before clipping.
    pub gradient_norm: Tensor,
    /// What the objective and the model say beside that: scalars, means over the images.
    pub named: Terms,
}

/// Copies of everything that a step changes.
#[derive(Debug)]
pub(crate) struct Snapshot {
    weights: Vec<(String, Tensor)>,
    optimizer: BTreeMap<String, Tensor>,
    optimizer_steps: u64,
    ema: Option<BTreeMap<String, Tensor>>,
}

// How the names of a snapshot's tensors begin.
const WEIGHTS: &str = "weights/";
const OPTIMIZER: &str = "optimizer/";
const EMA: &str = "average/";

impl Snapshot {
    pub(crate) fn optimizer_steps(&self) -> u64 {
        self.optimizer_steps
    }

    /// Its tensors, under names that begin with `prefix`.
    pub(crate) fn named_tensors(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let weights = self
            .weights
            .iter()
            .map(|(name, tensor)| (WEIGHTS, name, tensor));
        let optimizer = self
            .optimizer
            .iter()
            .map(|(name, tensor)| (OPTIMIZER, name, tensor));
        let ema = self
            .ema
            .iter()
            .flatten()
            .map(|(name, tensor)| (EMA, name, tensor));
        weights
            .chain(optimizer)
            .chain(ema)
            .map(|(part, name, tensor)| (format!("{prefix}{part}{name}"), tensor.shallow_clone()))
            .collect()
    }

    /// The snapshot whose [`Self::named_tensors`] are among these; they are taken out.
    pub(crate) fn from_named_tensors(
        tensors: &mut BTreeMap<String, Tensor>,
        prefix: &str,
        optimizer_steps: u64,
    ) -> Self {
        let mut take = |part: &str| -> BTreeMap<String, Tensor> {
            let start = format!("{prefix}{part}");
            let (taken, others) = std::mem::take(tensors)
                .into_iter()
                .partition(|(name, _)| name.starts_with(&start));
            *tensors = others;
            let taken: BTreeMap<String, Tensor> = taken;
            let short = |(name, tensor): (String, Tensor)| (name[start.len()..].to_owned(), tensor);
            taken.into_iter().map(short).collect()
        };
        let ema = take(EMA);
        Self {
            weights: take(WEIGHTS).into_iter().collect(),
            optimizer: take(OPTIMIZER),
            optimizer_steps,
            ema: (!ema.is_empty()).then_some(ema),
        }
    }
}

/// Refuses a config that makes no sense, or whose objective does not fit the model: it need not be the
/// one that the model was made of.
pub(crate) fn check(vae: &Vae, config: &RunConfig) -> Result<(), TrainError> {
    config.check()?;
    config.objective.check(vae.config())?;
    Ok(())
}

impl<'a> Learner<'a> {
    /// At the start: no moments yet, the averaged weights are the weights. `n_train_images` is the size
    /// of the data set, which some objectives estimate the aggregate posterior with.
    ///
    /// # Errors
    /// A config that makes no sense, or whose objective does not fit the model; a precision that the
    /// model's device does not have.
    pub fn new(
        vae: &'a Vae,
        config: &'a RunConfig,
        n_train_images: usize,
    ) -> Result<Self, TrainError> {
        check(vae, config)?;
        check_precision(config.training.precision, vae.device())?;
        let ema = config.training.ema_decay;
        Ok(Self {
            vae,
            config,
            n_train_images: n_train_images as u64,
            optimizer: Optimizer::new(&config.optimizer, vae.named_variables()),
            ema: ema.map(|decay| Ema::new(decay, vae.named_variables())),
        })
    }

    /// Draws latents for each image `[B, C, H, W]` (bytes; of a model with a condition together with that), as
    /// many as the objective wants, and changes the weights to lower the loss. `step` counts from 0; the noise depends on (seed, step) alone. The objective's schedule
    /// stands at `objective_step`.
    ///
    /// # Errors
    /// Images of another shape than the model's; libtorch refuses.
    pub fn step<'b>(
        &mut self,
        images: impl Into<Conditioned<'b>>,
        step: u64,
        objective_step: u64,
    ) -> Result<StepOutput, TrainError> {
        let Self { vae, config, .. } = *self;
        let objective = &config.objective;
        let context = LossContext {
            vae,
            step: objective_step,
            n_images: self.n_train_images,
        };
        let precision = config.training.precision;
        let mut noise = vae.generator(derive_seed(config.seed, step, "training noise"));
        self.optimizer.zero_grad();
        let Conditioned {
            tensor: images,
            condition,
        } = images.into();
        let n_images = images.size()[0];
        let part_size = config
            .training
            .micro_batch_size
            .map_or(n_images, |n| n as i64);
        let mut reconstruction = Vec::new();
        let mut kl = Some(Vec::new());
        let mut loss = Tensor::zeros([], (Kind::Float, vae.device()));
        let mut named = Terms::default();
        let mut conditions = condition
            .map(|condition| condition.split(part_size, 0))
            .into_iter()
            .flatten();
        for part in images.split(part_size, 0) {
            let part_condition = conditions.next();
            let draws = autocast(precision, vae.device(), || {
                vae.draw(
                    (&part, part_condition.as_ref()),
                    objective.n_samples(),
                    Mode::Train,
                    &mut noise,
                )
            })?;
            // A mean over the part counts as many images as it has: the sum is the whole's mean.
            let share = part.size()[0] as f64 / n_images as f64;
            let (part_loss, terms) = objective.loss_and_terms(&draws, context, &mut noise)?;
            named.add_part(&draws.named, share);
            named.add_part(&terms, share);
            let part_loss = part_loss * share;
            self.optimizer.backward(&part_loss)?;
            loss += part_loss.detach();
            reconstruction.push(draws.terms.reconstruction.detach());
            kl = kl.zip(draws.terms.kl).map(|(mut parts, part)| {
                parts.push(part.detach());
                parts
            });
        }
        let gradient_norm = self.optimizer.step(&config.training.clip)?.gradient_norm;
        if let Some(ema) = &mut self.ema {
            ema.update(self.optimizer.n_steps())?;
        }
        let terms = ElboTerms {
            reconstruction: Tensor::cat(&reconstruction, 0),
            kl: kl.map(|parts| Tensor::cat(&parts, 0)),
        };
        Ok(StepOutput {
            terms,
            loss,
            gradient_norm,
            named,
        })
    }

    /// The step size of the next step.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        self.optimizer.learning_rate()
    }

    /// Multiplies the config's learning rate for the steps to come.
    pub fn set_learning_rate_factor(&mut self, factor: f64) {
        self.optimizer.set_learning_rate_factor(factor);
    }

    /// Gives the model the weights to use: the averaged ones, if there are any.
    pub(crate) fn use_averaged(&mut self) -> Result<(), TrainError> {
        match &mut self.ema {
            Some(ema) if !ema.is_swapped() => ema.swap(),
            _ => Ok(()),
        }
    }

    /// Gives the model back the weights that the optimizer changes.
    pub(crate) fn use_raw(&mut self) -> Result<(), TrainError> {
        match &mut self.ema {
            Some(ema) if ema.is_swapped() => ema.swap(),
            _ => Ok(()),
        }
    }

    /// The tensors of a checkpoint; to be called while the averaged weights are in use.
    pub(crate) fn checkpoint_tensors(&self) -> CheckpointTensors<'a> {
        CheckpointTensors {
            vae: self.vae,
            // While the averaged ones are in use this is the raw ones.
            raw_weights: self.ema.as_ref().map(Ema::state),
            optimizer: self.optimizer.state(),
            rollback: None,
        }
    }

    pub(crate) fn optimizer_steps(&self) -> u64 {
        self.optimizer.n_steps()
    }

    /// Takes up what a checkpoint left; the model has its weights already.
    pub(crate) fn resume(
        &mut self,
        checkpoint: &OpenCheckpoint,
        optimizer_steps: u64,
    ) -> Result<(), TrainError> {
        self.optimizer
            .load_state(optimizer_steps, &checkpoint.optimizer()?)?;
        if let Some(ema) = &mut self.ema {
            let raw = checkpoint.raw_weights()?.ok_or_else(|| {
                RunError::run(
                    &checkpoint.folder,
                    "holds no raw weights beside the averaged",
                )
            })?;
            // The model has the averaged ones, as when the checkpoint was written.
            ema.swap()?;
            ema.load_state(&raw)?;
            ema.swap()?;
        }
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let copies = |tensors: Vec<(String, Tensor)>| {
            tensors
                .into_iter()
                .map(|(name, tensor)| (name, tensor.detach().copy()))
        };
        Snapshot {
            weights: copies(self.vae.named_variables()).collect(),
            optimizer: copies(self.optimizer.state()).collect(),
            optimizer_steps: self.optimizer.n_steps(),
            ema: self.ema.as_ref().map(|ema| copies(ema.state()).collect()),
        }
    }

    pub(crate) fn restore(&mut self, snapshot: &Snapshot) -> Result<(), TrainError> {
        let saved: BTreeMap<_, _> = snapshot.weights.iter().map(|(n, t)| (n, t)).collect();
        for (name, mut variable) in self.vae.named_variables() {
            if let Some(saved) = saved.get(&name) {
                no_grad(|| variable.f_copy_(saved))?;
            }
        }
        self.optimizer
            .load_state(snapshot.optimizer_steps, &snapshot.optimizer)?;
        if let (Some(ema), Some(saved)) = (&mut self.ema, &snapshot.ema) {
            ema.load_state(saved)?;
        }
        Ok(())
    }

    /// Whether every weight is a number. Waits for the device.
    pub(crate) fn is_finite(&self) -> bool {
        let mut sum = Tensor::zeros([], (Kind::Double, Device::Cpu));
        for (_, variable) in self.vae.named_variables() {
            sum += variable.detach().sum(Kind::Double).to_device(Device::Cpu);
        }
        f64::try_from(sum).is_ok_and(f64::is_finite)
    }

    /// The first variable, by name, whose gradient is not finite.
    pub(crate) fn non_finite_gradient(&self) -> Option<String> {
        self.vae
            .named_variables()
            .into_iter()
            .find(|(_, variable)| {
                let gradient = variable.grad();
                gradient.defined()
                    && !f64::try_from(gradient.sum(Kind::Double)).is_ok_and(f64::is_finite)
            })
            .map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use vae_model::ImageShape;

    use super::*;

    const SHAPE: ImageShape = ImageShape {
        channels: 1,
        height: 5,
        width: 4,
    };

    fn images(n: i64) -> Tensor {
        let bytes: Vec<u8> = (0..n * SHAPE.n_values())
            .map(|i| (i * i % 251) as u8)
            .collect();
        Tensor::from_slice(&bytes).view([n, 1, SHAPE.height, SHAPE.width])
    }

    /// Two models with the same weights.
    fn twins(config: &RunConfig) -> [Vae; 2] {
        let twins =
            [0, 1].map(|_| Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model"));
        copy(&twins[0], &twins[1]);
        twins
    }

    fn copy(from: &Vae, to: &Vae) {
        for ((_, from), (_, mut to)) in from.named_variables().iter().zip(to.named_variables()) {
            no_grad(|| to.copy_(from));
        }
    }

    fn assert_close(what: &str, found: &Tensor, wanted: &Tensor) {
        let difference = (found - wanted).abs().max().double_value(&[]);
        assert!(difference < 2e-6, "{what}: off by {difference}");
    }

    #[test]
    fn steps_are_those_of_the_formulas_with_batch_norm_clipping_averages_and_a_partial_micro_batch()
    {
        let text = "
            seed = 4
            dataset.idx.folder = 'unused'
            model.network.conv_batch_norm.channels = [3]
            optimizer.sgd.learning_rate = 0.05
            [training]
            micro_batch_size = 2
            ema_decay = 0.9
            clip.norm = 1.5
        ";
        let config: RunConfig = toml::from_str(text).expect("a config");
        let [vae, by_hand] = twins(&config);
        let mut learner = Learner::new(&vae, &config, 5).expect("a learner");
        let mut averages: BTreeMap<String, Tensor> = by_hand
            .trainable_variables()
            .into_iter()
            .map(|(name, variable)| (name, variable.detach().copy()))
            .collect();
        let images = images(5);
        // The average's decay after the first step and the second: (1 + n)/(10 + n).
        for (step, decay) in [(7, 2.0 / 11.0), (8, 3.0 / 12.0)] {
            let output = learner.step(&images, step, step).expect("a step");

            let mut noise = by_hand.generator(derive_seed(4, step, "training noise"));
            // Parts of two images, two and one: each normalized by itself, every image of the same weight.
            let losses: Vec<Tensor> = [(0, 2), (2, 2), (4, 1)]
                .into_iter()
                .map(|(first, n)| {
                    let part = images.narrow(0, first, n);
                    let draws = by_hand.draw(&part, 1, Mode::Train, &mut noise);
                    let draws = draws.expect("draws");
                    draws.terms.reconstruction + draws.terms.kl.expect("a kl")
                })
                .collect();
            let losses = Tensor::cat(&losses, 0);
            let loss = losses.sum(Kind::Float) / 5.0;
            loss.backward();
            let variables = by_hand.trainable_variables();
            let squares = variables
                .iter()
                .map(|(_, variable)| variable.grad().square().sum(Kind::Double));
            let norm = squares.map(|sum| sum.double_value(&[])).sum::<f64>().sqrt();
            assert!(norm > 3.0, "clipping has something to do: {norm}");
            for (name, mut variable) in variables {
                no_grad(|| variable -= variable.grad() * (0.05 * 1.5 / norm));
                variable.zero_grad();
                let average = &averages[&name];
                let average = no_grad(|| average * decay + &variable * (1.0 - decay));
                averages.insert(name, average);
            }

            let found = output.gradient_norm.double_value(&[]);
            assert!((found - norm).abs() < 1e-4 * norm, "{found} vs {norm}");
            assert_close("loss", &(output.loss - loss.detach()), &Tensor::from(0_f32));
            let terms = output.terms.reconstruction + output.terms.kl.expect("a kl");
            let difference = (terms - losses).abs().max().double_value(&[]);
            assert!(difference < 1e-5, "{difference}");
            let pairs = vae
                .named_variables()
                .into_iter()
                .zip(by_hand.named_variables());
            for ((name, found), (_, wanted)) in pairs {
                assert_close(&name, &found, &wanted);
            }
            let ema = learner.ema.as_ref().expect("an average");
            for (name, average) in ema.state() {
                assert_close(&format!("average of {name}"), &average, &averages[&name]);
            }
        }
        // Statistics of the training batches, no others.
        let statistics: BTreeMap<_, _> = vae.named_variables().into_iter().collect();
        let mean = &statistics["encoder.norm.0.running_mean"];
        assert!(mean.abs().max().double_value(&[]) > 1e-3);
    }

    #[test]
    fn the_schedule_of_the_objective_is_that_of_its_own_step_and_the_data_sets_size_that_of_training()
     {
        let loss_and_terms = |objective: &str, n_images: usize, objective_step: u64| {
            let text = format!(
                "dataset.idx.folder = 'unused'\nmodel.network.mlp.hidden = []\n{objective}"
            );
            let config: RunConfig = toml::from_str(&text).expect("a config");
            let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 2).expect("a model");
            let mut learner = Learner::new(&vae, &config, n_images).expect("a learner");
            let output = learner.step(&images(4), 5, objective_step).expect("a step");
            let mean = |terms: &Tensor| terms.mean(Kind::Double).double_value(&[]);
            let kl = output.terms.kl.as_ref().map_or(f64::NAN, mean);
            let loss = output.loss.double_value(&[]);
            [loss, mean(&output.terms.reconstruction), kl]
        };
        let warm_up = "objective.regularizer.kl.beta_schedule.warm_up.steps = 10";
        let [loss, reconstruction, kl] = loss_and_terms(warm_up, 4, 3);
        assert!((loss - reconstruction - 0.3 * kl).abs() < 1e-5 * loss);
        // −ln(N·B) stands once in log q(z) and for each of the two dimensions in Σ log q(z_j): the total
        // correlation of N images is by ln 10 above that of 10·N.
        let beta_tc = "objective.regularizer.beta_tc = { alpha = 0.0, beta = 1.0, gamma = 0.0 }";
        let [of_40, _, _] = loss_and_terms(beta_tc, 40, 0);
        let [of_400, _, _] = loss_and_terms(beta_tc, 400, 0);
        assert!(
            (of_400 - of_40 - 10_f64.ln()).abs() < 1e-4,
            "{of_40} {of_400}"
        );
    }
}
