//! Players: sets of variables, each trained by a loss of its own.

use std::collections::BTreeMap;

use tch::{Tensor, no_grad};
use vae_run::{ClipConfig, OptimizerConfig, RunError, Schedule};
use vae_torch::{Group, Reduction};

use crate::{Ema, Optimizer, StepReport, TrainError};

/// Variables that are trained by a loss of their own, with their optimizer and settings. The model is a run's first player,
/// and usually the only one.
#[derive(Debug)]
pub(crate) struct Player {
    pub(crate) name: String,
    /// All of its variables by name, including those without gradients. Shares memory with the network's.
    variables: Vec<(String, Tensor)>,
    pub(crate) optimizer: Optimizer,
    clip: ClipConfig,
    ema: Option<Ema>,
    /// A schedule over the run's steps; the model's is applied by the run's callbacks instead.
    pub(crate) schedule: Schedule,
    every: u64,
}

/// How a player is trained.
pub(crate) struct Training<'a> {
    pub(crate) optimizer: &'a OptimizerConfig,
    pub(crate) schedule: &'a Schedule,
    pub(crate) clip: &'a ClipConfig,
    pub(crate) ema_decay: Option<f64>,
    /// The number of steps between two of its updates.
    pub(crate) every: u64,
}

/// Copies of everything in a player that a step changes.
#[derive(Debug)]
pub(crate) struct PlayerSnapshot {
    weights: Vec<(String, Tensor)>,
    optimizer: BTreeMap<String, Tensor>,
    pub(crate) optimizer_steps: u64,
    ema: Option<BTreeMap<String, Tensor>>,
}

// The prefixes of the names of a snapshot's tensors.
const WEIGHTS: &str = "weights/";
const OPTIMIZER: &str = "optimizer/";
const EMA: &str = "average/";

impl PlayerSnapshot {
    /// Its tensors, with names that begin with `prefix`.
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

    /// Restores a snapshot from its [`Self::named_tensors`], which are removed from the list.
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

impl Player {
    /// A player at the start: without moments, and with averaged weights equal to the weights.
    pub(crate) fn new(name: &str, variables: Vec<(String, Tensor)>, training: &Training) -> Self {
        let shared = || -> Vec<(String, Tensor)> {
            let share = |(name, value): &(String, Tensor)| (name.clone(), value.shallow_clone());
            variables.iter().map(share).collect()
        };
        let mut optimizer = Optimizer::new(training.optimizer, shared());
        if let Some(bound) = training.clip.skip_above {
            optimizer.skip_above(bound);
        }
        Self {
            name: name.to_owned(),
            optimizer,
            clip: training.clip.clone(),
            ema: training.ema_decay.map(|decay| Ema::new(decay, shared())),
            schedule: training.schedule.clone(),
            every: training.every,
            variables,
        }
    }

    /// Whether it is updated in step number `step`, counted from 0.
    pub(crate) fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every)
    }

    /// Accumulates the gradients of its loss, a scalar. The variables of `others` get no gradient, whatever the loss depends on.
    pub(crate) fn backward(&mut self, loss: &Tensor, others: &[&[Self]]) -> Result<(), TrainError> {
        let others: Vec<&Tensor> = others
            .iter()
            .flat_map(|players| players.iter())
            .flat_map(|player| &player.variables)
            .map(|(_, variable)| variable)
            .filter(|variable| variable.requires_grad())
            .collect();
        let set = |requires_grad| {
            for variable in &others {
                let _ = variable.set_requires_grad(requires_grad);
            }
        };
        set(false);
        let done = self.optimizer.backward(loss);
        set(true);
        done
    }

    /// Whether its loss has gone backward since the last step.
    pub(crate) fn has_gradient(&self) -> bool {
        !self.optimizer.gradients().is_empty()
    }

    /// Averages the gradients over the processes of a group, clips them, and takes a step, unless it is skipped.
    pub(crate) fn step(&mut self, group: Option<&Group>) -> Result<StepReport, TrainError> {
        if let Some(group) = group {
            average(&self.optimizer.gradients(), group)?;
        }
        let report = self.optimizer.step(&self.clip)?;
        if let Some(ema) = &mut self.ema
            && report.skipped.is_none()
        {
            ema.update(self.optimizer.n_steps())?;
        }
        Ok(report)
    }

    /// Whether steps with long gradients are skipped.
    pub(crate) fn may_skip(&self) -> bool {
        self.clip.skip_above.is_some()
    }

    /// Gives its network the averaged weights, if there are any.
    pub(crate) fn use_averaged(&mut self) -> Result<(), TrainError> {
        match &mut self.ema {
            Some(ema) if !ema.is_swapped() => ema.swap(),
            _ => Ok(()),
        }
    }

    /// Gives its network the weights that the optimizer updates.
    pub(crate) fn use_raw(&mut self) -> Result<(), TrainError> {
        match &mut self.ema {
            Some(ema) if ema.is_swapped() => ema.swap(),
            _ => Ok(()),
        }
    }

    /// The average's state ([`Ema::state`]).
    pub(crate) fn ema_state(&self) -> Option<Vec<(String, Tensor)>> {
        self.ema.as_ref().map(Ema::state)
    }

    /// Restores the optimizer's state and, if the network has averaged weights, the raw ones.
    pub(crate) fn resume(
        &mut self,
        optimizer_steps: u64,
        optimizer: &BTreeMap<String, Tensor>,
        raw: impl FnOnce() -> Result<BTreeMap<String, Tensor>, RunError>,
    ) -> Result<(), TrainError> {
        self.optimizer.load_state(optimizer_steps, optimizer)?;
        if let Some(ema) = &mut self.ema {
            let raw = raw()?;
            // The network has the averaged weights, as it did when the checkpoint was written.
            ema.swap()?;
            ema.load_state(&raw)?;
            ema.swap()?;
        }
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> PlayerSnapshot {
        let copies = |tensors: &[(String, Tensor)]| -> Vec<(String, Tensor)> {
            let copy = |(name, tensor): &(String, Tensor)| (name.clone(), tensor.detach().copy());
            tensors.iter().map(copy).collect()
        };
        PlayerSnapshot {
            weights: copies(&self.variables),
            optimizer: copies(&self.optimizer.state()).into_iter().collect(),
            optimizer_steps: self.optimizer.n_steps(),
            ema: self
                .ema_state()
                .map(|ema| copies(&ema).into_iter().collect()),
        }
    }

    pub(crate) fn restore(&mut self, snapshot: &PlayerSnapshot) -> Result<(), TrainError> {
        let saved: BTreeMap<_, _> = snapshot.weights.iter().map(|(n, t)| (n, t)).collect();
        for (name, variable) in &self.variables {
            if let Some(saved) = saved.get(name) {
                no_grad(|| variable.shallow_clone().f_copy_(saved))?;
            }
        }
        self.optimizer
            .load_state(snapshot.optimizer_steps, &snapshot.optimizer)?;
        if let (Some(ema), Some(saved)) = (&mut self.ema, &snapshot.ema) {
            ema.load_state(saved)?;
        }
        Ok(())
    }

    /// Everything that a checkpoint stores of a player other than the model. The averaged weights must be in use.
    pub(crate) fn checkpoint_tensors(&self) -> Vec<(String, Tensor)> {
        let prefix = prefix(&self.name);
        let part = |part: &'static str, tensors: Vec<(String, Tensor)>| {
            let prefix = prefix.clone();
            tensors
                .into_iter()
                .map(move |(name, tensor)| (format!("{prefix}{part}{name}"), tensor))
        };
        let weights = self.variables.iter();
        let weights = weights.map(|(name, value)| (name.clone(), value.shallow_clone()));
        part(WEIGHTS, weights.collect())
            .chain(part(OPTIMIZER, self.optimizer.state()))
            .chain(part(EMA, self.ema_state().unwrap_or_default()))
            .collect()
    }

    /// Restores the result of [`Self::checkpoint_tensors`], which is removed from `tensors`.
    pub(crate) fn resume_beside(
        &mut self,
        tensors: &mut BTreeMap<String, Tensor>,
        optimizer_steps: u64,
    ) -> Result<(), TrainError> {
        let prefix = prefix(&self.name);
        let saved = PlayerSnapshot::from_named_tensors(tensors, &prefix, optimizer_steps);
        let weights = self.variables.iter();
        let weights = weights.map(|(name, value)| (name.clone(), value.shallow_clone()));
        let found: BTreeMap<String, Tensor> = saved.weights.into_iter().collect();
        crate::optimizer::assign_state("player", weights.collect(), &found)?;
        let raw = saved.ema.unwrap_or_default();
        if let Some(ema) = &mut self.ema {
            // The average began at the fresh weights; those in the checkpoint are the averaged ones.
            let averaged = found.into_iter().filter(|(name, _)| raw.contains_key(name));
            ema.load_state(&averaged.collect())?;
        }
        self.resume(optimizer_steps, &saved.optimizer, || Ok(raw))
    }

    /// The variables by name. For players other than the model the name begins with the player's.
    pub(crate) fn variables(&self) -> &[(String, Tensor)] {
        &self.variables
    }
}

/// Replaces gradients by their means over the processes, all of them in one piece of memory.
fn average(gradients: &[Tensor], group: &Group) -> Result<(), TrainError> {
    if gradients.is_empty() {
        return Ok(());
    }
    no_grad(|| {
        let flat: Vec<Tensor> = gradients
            .iter()
            .map(|gradient| gradient.flatten(0, -1))
            .collect();
        let mut all = Tensor::f_cat(&flat, 0)?;
        group.all_reduce(&all, Reduction::Sum)?;
        let _ = all.f_div_scalar_(group.size() as f64)?;
        let mut start = 0;
        for gradient in gradients {
            let n = gradient.numel() as i64;
            let mean = all.f_narrow(0, start, n)?.f_view_as(gradient)?;
            gradient.shallow_clone().f_copy_(&mean)?;
            start += n;
        }
        Ok(())
    })
}

/// The prefix of the names of a player's tensors in checkpoints.
pub(crate) fn prefix(name: &str) -> String {
    format!("players/{name}/")
}

#[cfg(test)]
mod tests {
    use tch::Kind;
    use vae_torch::among;

    use super::*;

    fn variable(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    /// Plain gradient descent with a learning rate of 1.
    fn player(name: &str, variable: &Tensor, clip: &str) -> Player {
        let optimizer = toml::from_str("sgd.learning_rate = 1.0").expect("an optimizer");
        let training = Training {
            optimizer: &optimizer,
            schedule: &Schedule::Constant,
            clip: &toml::from_str(clip).expect("bounds"),
            ema_decay: None,
            every: 3,
        };
        let variables = vec![("weight".to_owned(), variable.shallow_clone())];
        Player::new(name, variables, &training)
    }

    #[test]
    fn a_loss_reaches_its_own_player_alone_whatever_it_is_computed_from() {
        let (a, b) = (variable(&[2.0, 3.0]), variable(&[5.0, 7.0]));
        let (mut first, mut second) = (player("a", &a, ""), player("b", &b, ""));
        let loss = || (&a * &b).sum(Kind::Float);
        first
            .backward(&loss(), &[&[], std::slice::from_ref(&second)])
            .expect("gradients");
        assert_eq!(a.grad(), Tensor::from_slice(&[5_f32, 7.0]));
        assert!(!b.grad().defined());
        second
            .backward(&loss(), &[std::slice::from_ref(&first)])
            .expect("gradients");
        assert_eq!(a.grad(), Tensor::from_slice(&[5_f32, 7.0]));
        assert_eq!(b.grad(), Tensor::from_slice(&[2_f32, 3.0]));
        assert!(a.requires_grad() && b.requires_grad());
        let due: Vec<u64> = (0..7).filter(|&step| first.is_due(step)).collect();
        assert_eq!(due, [0, 3, 6]);
    }

    #[test]
    fn a_skipped_step_changes_neither_weights_nor_moments_nor_averages() {
        let weight = variable(&[0.0, 0.0]);
        let optimizer = toml::from_str("adam.learning_rate = 0.1").expect("an optimizer");
        let training = Training {
            optimizer: &optimizer,
            schedule: &Schedule::Constant,
            clip: &toml::from_str("skip_above = 1.0").expect("a bound"),
            ema_decay: Some(0.5),
            every: 1,
        };
        let variables = vec![("weight".to_owned(), weight.shallow_clone())];
        let mut player = Player::new("a", variables, &training);
        let mut step = |slope: f64| {
            player.optimizer.zero_grad();
            let loss = &weight.sum(Kind::Float) * slope;
            player.backward(&loss, &[]).expect("gradients");
            let report = player.step(None).expect("a step");
            (report.skipped.is_some(), player.snapshot())
        };
        let (is_skipped, first) = step(0.5);
        assert!(!is_skipped);
        let (is_skipped, second) = step(30.0);
        assert!(is_skipped);
        let tensors = |snapshot: &PlayerSnapshot| {
            let mut named = snapshot.named_tensors("");
            named.retain(|(name, _)| !name.ends_with("skipped_steps"));
            named
        };
        assert_eq!(tensors(&first), tensors(&second));
        assert_eq!(first.optimizer_steps, second.optimizer_steps);
        let counts = &second.optimizer["skipped_steps"];
        assert_eq!(counts.double_value(&[1]), 1.0);
        let (is_skipped, third) = step(f64::NAN);
        assert!(is_skipped);
        assert_eq!(tensors(&first), tensors(&third));
        let (is_skipped, fourth) = step(0.5);
        assert!(!is_skipped && tensors(&first) != tensors(&fourth));
    }

    #[test]
    fn gradients_of_several_processes_meet_before_they_are_clipped() {
        // The gradient is (3, 4) of one process and three times that of another: (6, 8) on average, with norm 10; clipped to
        // norm 5 it is (3, 4).
        for (clip, wanted) in [("", [-6_f32, -8.0]), ("norm = 5.0", [-3.0, -4.0])] {
            let found = among(2, |group| {
                let weight = variable(&[0.0, 0.0]);
                let mut player = player("a", &weight, clip);
                let times = 1.0 + 2.0 * group.rank() as f64;
                let slope = Tensor::from_slice(&[3_f32, 4.0]) * times;
                player
                    .backward(&(&weight * slope).sum(Kind::Float), &[])
                    .expect("gradients");
                let report = player.step(Some(&group)).expect("a step");
                let weight = Vec::<f32>::try_from(weight.detach()).expect("numbers");
                (report.gradient_norm.double_value(&[]), weight)
            });
            for (norm, weight) in found {
                assert!((norm - 10.0).abs() < 1e-5);
                for (found, wanted) in weight.iter().zip(wanted) {
                    assert!((found - wanted).abs() < 1e-5, "{clip}: {weight:?}");
                }
            }
        }
    }
}
