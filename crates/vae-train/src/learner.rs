//! What training changes: the weights, the optimizer's moments, the averaged weights.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad};
use vae_data::derive_seed;
use vae_model::{ElboTerms, LossContext, Mode, Vae};

use crate::checkpoint::{CheckpointTensors, OpenCheckpoint};
use crate::{Ema, Optimizer, RunConfig, TrainError};

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
}

/// Copies of everything that a step changes.
#[derive(Debug)]
pub(crate) struct Snapshot {
    weights: Vec<(String, Tensor)>,
    optimizer: BTreeMap<String, Tensor>,
    optimizer_steps: u64,
    ema: Option<BTreeMap<String, Tensor>>,
}

impl<'a> Learner<'a> {
    /// At the start: no moments yet, the averaged weights are the weights. `n_train_images` is the size
    /// of the data set, which some objectives estimate the aggregate posterior with.
    ///
    /// # Errors
    /// A precision that the model's device does not have.
    pub fn new(
        vae: &'a Vae,
        config: &'a RunConfig,
        n_train_images: usize,
    ) -> Result<Self, TrainError> {
        config.training.precision.check(vae.device())?;
        let ema = config.training.ema_decay;
        Ok(Self {
            vae,
            config,
            n_train_images: n_train_images as u64,
            optimizer: Optimizer::new(&config.optimizer, vae.named_variables()),
            ema: ema.map(|decay| Ema::new(decay, vae.named_variables())),
        })
    }

    /// Draws latents for each image `[B, C, H, W]` (bytes), as many as the objective wants, and changes
    /// the weights to lower the loss. `step` counts from 0; the noise depends on (seed, step) alone. The objective's schedule
    /// stands at `objective_step`.
    ///
    /// # Errors
    /// Images of another shape than the model's; libtorch refuses.
    pub fn step(
        &mut self,
        images: &Tensor,
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
        tch::manual_seed(derive_seed(config.seed, step, "training noise") as i64);
        self.optimizer.zero_grad();
        let n_images = images.size()[0];
        let part_size = config
            .training
            .micro_batch_size
            .map_or(n_images, |n| n as i64);
        let mut reconstruction = Vec::new();
        let mut kl = Some(Vec::new());
        let mut loss = Tensor::zeros([], (Kind::Float, vae.device()));
        for part in images.split(part_size, 0) {
            let draws = precision.autocast(vae.device(), || {
                vae.draw(&part, objective.n_samples(), Mode::Train)
            })?;
            // A mean over the part counts as many images as it has: the sum is the whole's mean.
            let share = part.size()[0] as f64 / n_images as f64;
            let part_loss = objective.loss(&draws, context) * share;
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
                TrainError::run(
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
