//! Optimizers. tch's own do not expose their moments, which an exact resume needs.

use std::collections::{BTreeMap, BTreeSet};

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::is_layer_weight;
use vae_run::{ClipConfig, OptimizerConfig, RmspropConfig};
use vae_torch::{AdamStep, Update};

use crate::TrainError;
use crate::skipping::{Judged, Skipped, Skipping};

/// The prefix of the variables' step counts in a state.
const STEPS: &str = "steps";

/// The name of the counts of skipped steps in a state.
const SKIPPED: &str = "skipped_steps";

/// An optimizer of a model's variables: [`zero_grad`](Self::zero_grad), any number of [`backward`](Self::backward),
/// [`step`](Self::step).
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    variables: Vec<Variable>,
    n_steps: u64,
    device: Device,
    learning_rate: f64,
    skipping: Option<Skipping>,
}

#[derive(Debug)]
struct Variable {
    name: String,
    value: Tensor,
    decays: bool,
    /// In the order of [`OptimizerConfig::moments`].
    moments: Vec<Tensor>,
    /// The number of steps in which this variable had a gradient, by which Adam corrects its moments: a scalar on the device. It is
    /// exact in f32 up to 2²⁴ steps; by then the corrections are 1.
    n_steps: Option<Tensor>,
}

/// The report of a step.
#[derive(Debug)]
pub struct StepReport {
    /// The Euclidean norm of all gradients together before clipping. It is a scalar on the device, so that only who reads it waits
    /// for the device.
    pub gradient_norm: Tensor,
    /// `None` if the step was taken; if it was skipped, nothing else changed.
    pub skipped: Option<Skipped>,
}

impl Optimizer {
    /// An optimizer of these named variables, which share memory with the model's and are all on one device. Variables that need
    /// no gradient are ignored.
    #[must_use]
    pub fn new(config: &OptimizerConfig, variables: Vec<(String, Tensor)>) -> Self {
        let variables: Vec<_> = variables
            .into_iter()
            .filter(|(_, value)| value.requires_grad())
            .map(|(name, value)| Variable {
                decays: config.decay_all() || is_layer_weight(&name),
                moments: no_grad(|| {
                    let zeros = |_: &&str| value.zeros_like();
                    config.moments().iter().map(zeros).collect()
                }),
                n_steps: config
                    .counts_steps()
                    .then(|| Tensor::zeros([], (Kind::Float, value.device()))),
                name,
                value,
            })
            .collect();
        let device = variables
            .first()
            .map_or(Device::Cpu, |variable| variable.value.device());
        Self {
            config: config.clone(),
            variables,
            n_steps: 0,
            device,
            learning_rate: config.learning_rate(),
            skipping: None,
        }
    }

    /// Skips the steps whose gradient is longer than this, or NaN or infinite. Reading its norm waits for the device.
    pub(crate) fn skip_above(&mut self, bound: f64) {
        self.skipping = Some(Skipping::above(bound));
    }

    /// The learning rate of the next step.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// Sets the learning rate of the following steps, as a factor on the config's.
    pub fn set_learning_rate_factor(&mut self, factor: f64) {
        self.learning_rate = self.config.learning_rate() * factor;
    }

    /// The number of steps done.
    #[must_use]
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// Drops the gradients.
    pub fn zero_grad(&mut self) {
        let values: Vec<_> = self.variables.iter().map(|v| &v.value).collect();
        vae_torch::forget_gradients(&values);
    }

    /// Adds the gradients of `loss`, a scalar, to the existing ones. Several calls accumulate: with n batches in a step, the caller
    /// divides each loss by n.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn backward(&mut self, loss: &Tensor) -> Result<(), TrainError> {
        Ok(loss.f_backward()?)
    }

    /// The gradients of the variables that a loss has reached since [`zero_grad`](Self::zero_grad), in the order of the variables.
    /// They share memory with those that the next step uses.
    #[must_use]
    pub fn gradients(&self) -> Vec<Tensor> {
        let gradients = self.variables.iter().map(|variable| variable.value.grad());
        gradients.filter(Tensor::defined).collect()
    }

    /// Clips the gradients and takes a step, unless it is skipped. Variables that no loss has reached since
    /// [`zero_grad`](Self::zero_grad), and their moments, are unchanged.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn step(&mut self, clip: &ClipConfig) -> Result<StepReport, TrainError> {
        no_grad(|| {
            let reached: Vec<(&Variable, Tensor)> = self
                .variables
                .iter()
                .map(|variable| (variable, variable.value.grad()))
                .filter(|(_, gradient)| gradient.defined())
                .collect();
            let gradients: Vec<_> = reached.iter().map(|(_, gradient)| gradient).collect();
            let gradient_norm = match gradients.is_empty() {
                true => Tensor::zeros([], (Kind::Float, self.device)),
                false => vae_torch::norm(&gradients)?,
            };
            if let Some(skipping) = &mut self.skipping
                && let Judged::Skipped(skipped) = skipping.judge(gradient_norm.double_value(&[]))
            {
                return Ok(StepReport {
                    gradient_norm,
                    skipped: Some(skipped),
                });
            }
            self.n_steps += 1;
            clip_gradients(&gradients, &gradient_norm, clip)?;

            let (decaying, others): (Vec<_>, Vec<_>) = reached
                .iter()
                .partition(|(variable, _)| variable.decays && self.config.weight_decay() > 0.0);
            self.update(&decaying, self.config.weight_decay())?;
            self.update(&others, 0.0)?;
            Ok(StepReport {
                gradient_norm,
                skipped: None,
            })
        })
    }

    fn update(
        &self,
        variables: &[&(&Variable, Tensor)],
        weight_decay: f64,
    ) -> Result<(), TrainError> {
        if variables.is_empty() {
            return Ok(());
        }
        let update = Update {
            values: variables.iter().map(|(v, _)| &v.value).collect(),
            gradients: variables.iter().map(|(_, gradient)| gradient).collect(),
            moments: (0..self.config.moments().len())
                .map(|i| variables.iter().map(|(v, _)| &v.moments[i]).collect())
                .collect(),
        };
        let n_steps: Vec<_> = variables
            .iter()
            .filter_map(|(v, _)| v.n_steps.as_ref())
            .collect();
        let learning_rate = self.learning_rate;
        match &self.config {
            OptimizerConfig::Adam(config) => {
                let step = AdamStep {
                    learning_rate,
                    beta1: config.beta1,
                    beta2: config.beta2,
                    epsilon: config.epsilon,
                    weight_decay,
                    decoupled: false,
                };
                vae_torch::fused_adam(&update, &n_steps, &step)?;
            }
            OptimizerConfig::Adamw(config) => {
                let step = AdamStep {
                    learning_rate,
                    beta1: config.beta1,
                    beta2: config.beta2,
                    epsilon: config.epsilon,
                    weight_decay,
                    decoupled: true,
                };
                vae_torch::fused_adam(&update, &n_steps, &step)?;
            }
            OptimizerConfig::Sgd(config) => vae_torch::fused_sgd(
                &update,
                learning_rate,
                config.momentum,
                weight_decay,
                config.nesterov,
            )?,
            OptimizerConfig::Rmsprop(config) => {
                rmsprop(config, learning_rate, weight_decay, &update)?;
            }
        }
        Ok(())
    }

    /// Everything that resuming needs besides [`n_steps`](Self::n_steps): the moments of each variable, with names such as
    /// `mean.encoder.conv.0.weight`, and for Adam its step counts, `steps.encoder.conv.0.weight`. Shares memory.
    #[must_use]
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let names = self.config.moments();
        self.variables
            .iter()
            .flat_map(|variable| {
                let named = |(name, tensor): (&str, &Tensor)| {
                    (format!("{name}.{}", variable.name), tensor.shallow_clone())
                };
                let moments = names.iter().copied().zip(&variable.moments);
                let n_steps = variable.n_steps.iter().map(|n_steps| (STEPS, n_steps));
                moments.chain(n_steps).map(named)
            })
            .chain(
                self.skipping
                    .iter()
                    .map(|skipping| (SKIPPED.to_owned(), skipping.state())),
            )
            .collect()
    }

    /// Restores the `n_steps` and `state` of an optimizer with the same config and variables. A state without step counts is from a
    /// version in which all variables had the same count.
    ///
    /// # Errors
    /// A name, shape or kind that does not match; nothing is changed then.
    pub fn load_state(
        &mut self,
        n_steps: u64,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<(), TrainError> {
        let mut state: BTreeMap<_, _> = state
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect();
        // A state without counts is from before steps were skipped.
        let skipping = match (&self.skipping, state.remove(SKIPPED)) {
            (Some(skipping), Some(saved)) => {
                let mut skipping = skipping.clone();
                let loaded = skipping.load_state(&saved);
                let owner = "optimizer";
                loaded.map_err(|problem| TrainError::State { owner, problem })?;
                Some(skipping)
            }
            (skipping, _) => skipping.clone(),
        };
        let prefix = format!("{STEPS}.");
        if !state.keys().any(|name| name.starts_with(&prefix)) {
            for variable in self.variables.iter().filter(|v| v.n_steps.is_some()) {
                let same_for_all = Tensor::from(n_steps as f32);
                state.insert(format!("{prefix}{}", variable.name), same_for_all);
            }
        }
        let mut wanted = self.state();
        wanted.retain(|(name, _)| name != SKIPPED);
        assign_state("optimizer", wanted, &state)?;
        self.n_steps = n_steps;
        self.skipping = skipping;
        Ok(())
    }
}

/// Copies `state` into the tensors `wanted` of the same names; checks all of them before copying any.
///
/// # Errors
/// A name, shape or kind that does not match. `owner` names what the state belongs to.
pub(crate) fn assign_state(
    owner: &'static str,
    wanted: Vec<(String, Tensor)>,
    state: &BTreeMap<String, Tensor>,
) -> Result<(), TrainError> {
    let refused = |problem| Err(TrainError::State { owner, problem });
    let names: BTreeSet<_> = wanted.iter().map(|(name, _)| name).collect();
    if let Some(unknown) = state.keys().find(|name| !names.contains(name)) {
        return refused(format!("found `{unknown}`, which this run does not have"));
    }
    let describe = |tensor: &Tensor| format!("{:?} {:?}", tensor.kind(), tensor.size());
    for (name, tensor) in &wanted {
        match state.get(name) {
            None => return refused(format!("`{name}` is missing")),
            Some(found) if describe(found) != describe(tensor) => {
                let (found, wanted) = (describe(found), describe(tensor));
                return refused(format!("`{name}` is {found}, {wanted} is needed"));
            }
            Some(_) => {}
        }
    }
    no_grad(|| {
        for (name, mut tensor) in wanted {
            tensor.f_copy_(&state[&name])?;
        }
        Ok(())
    })
}

/// Clips gradients of this norm in place.
fn clip_gradients(
    gradients: &[&Tensor],
    norm: &Tensor,
    clip: &ClipConfig,
) -> Result<(), TrainError> {
    if gradients.is_empty() {
        return Ok(());
    }
    if let Some(bound) = clip.norm {
        // The factor is 1 if the norm is small enough; branching on it would wait for the device. The 1e-6 is PyTorch's.
        let factor = (bound / (norm + 1e-6)).f_clamp_max(1.0)?;
        vae_torch::scale(gradients, &factor)?;
    }
    if let Some(bound) = clip.value {
        vae_torch::clamp(gradients, bound)?;
    }
    Ok(())
}

/// There is no fused kernel.
fn rmsprop(
    config: &RmspropConfig,
    learning_rate: f64,
    weight_decay: f64,
    update: &Update,
) -> Result<(), TrainError> {
    for ((value, gradient), mean_square) in update
        .values
        .iter()
        .zip(&update.gradients)
        .zip(&update.moments[0])
    {
        let gradient = match weight_decay {
            0.0 => gradient.shallow_clone(),
            decay => gradient.f_add(&(*value * decay))?,
        };
        let _ = mean_square
            .shallow_clone()
            .f_lerp_(&gradient.square(), 1.0 - config.alpha)?;
        let mut root = mean_square.sqrt();
        root += config.epsilon;
        let mut change = gradient / root;
        change *= learning_rate;
        let mut value = value.shallow_clone();
        value -= change;
    }
    Ok(())
}
