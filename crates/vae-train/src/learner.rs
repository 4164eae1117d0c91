//! The state that training changes: the weights, the optimizer's moments, the averaged weights.

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;

use tch::{Device, Kind, Tensor, no_grad};
use tracing::warn;
use vae_base::derive_seed;
use vae_model::{
    Conditioned, ElboTerms, LossContext, Mode, Networks, Objective, Share, Terms, Vae,
};
use vae_run::{CheckpointTensors, ClipConfig, OpenCheckpoint, PlayerConfig, RunConfig, RunError};
use vae_torch::Group;

use crate::player::{self, Player, PlayerSnapshot, Training};
use crate::skipping::{Consequence, Skipped};
use crate::{TrainError, autocast, check_precision};

/// A model with everything needed to train it.
#[derive(Debug)]
pub struct Learner<'a> {
    vae: &'a Vae,
    config: &'a RunConfig,
    /// With steps in place of shares of the run.
    objective: Objective,
    n_train_images: u64,
    n_steps_per_epoch: u64,
    /// The number of optimizer steps of the whole run.
    n_steps: u64,
    model: Player,
    /// The players other than the model, in the order of `networks.players`.
    players: Vec<Player>,
    /// A factor on the learning rates of the other players, which have schedules of their own.
    learning_rate_scale: f64,
    networks: Networks,
    /// The processes that train this model, if there are several.
    group: Option<Arc<Group>>,
}

/// The results of a step, computed before its update of the weights.
#[derive(Debug)]
pub struct StepOutput {
    /// The ELBO's terms for each image.
    pub terms: ElboTerms,
    /// The scalar loss.
    pub loss: Tensor,
    /// Norm of its gradient, before clipping.
    pub gradient_norm: Tensor,
    /// Further numbers of the objective and the model: scalars, means over the images.
    pub named: Terms,
    /// Whether the model's update was skipped ([`ClipConfig::skip_above`](vae_run::ClipConfig)).
    pub skipped: Option<Skipped>,
}

/// Copies of everything that a step changes.
#[derive(Debug)]
pub(crate) struct Snapshot {
    model: PlayerSnapshot,
    /// Those of the other players, by name.
    players: BTreeMap<String, PlayerSnapshot>,
}

impl Snapshot {
    pub(crate) fn optimizer_steps(&self) -> u64 {
        self.model.optimizer_steps
    }

    /// The numbers of steps of the other players' optimizers.
    pub(crate) fn player_steps(&self) -> BTreeMap<String, u64> {
        let steps =
            |(name, player): (&String, &PlayerSnapshot)| (name.clone(), player.optimizer_steps);
        self.players.iter().map(steps).collect()
    }

    /// Its tensors, with names that begin with `prefix`.
    pub(crate) fn named_tensors(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let mut tensors = self.model.named_tensors(prefix);
        for (name, player) in &self.players {
            tensors.extend(player.named_tensors(&format!("{prefix}{}", player::prefix(name))));
        }
        tensors
    }

    /// Restores a snapshot from its [`Self::named_tensors`], which are removed from the list.
    pub(crate) fn from_named_tensors(
        tensors: &mut BTreeMap<String, Tensor>,
        prefix: &str,
        optimizer_steps: u64,
        player_steps: &BTreeMap<String, u64>,
    ) -> Self {
        let players = player_steps.iter().map(|(name, &n_steps)| {
            let prefix = format!("{prefix}{}", player::prefix(name));
            let player = PlayerSnapshot::from_named_tensors(tensors, &prefix, n_steps);
            (name.clone(), player)
        });
        let players = players.collect();
        Self {
            model: PlayerSnapshot::from_named_tensors(tensors, prefix, optimizer_steps),
            players,
        }
    }
}

/// Refuses an invalid config, or one whose objective does not fit the model, which may have been made from another config.
pub(crate) fn check(vae: &Vae, config: &RunConfig) -> Result<(), TrainError> {
    config.check()?;
    vae.check_objective(&config.objective)?;
    Ok(())
}

impl<'a> Learner<'a> {
    /// A learner at the start: without moments, and with averaged weights equal to the weights. `n_train_images` is the size of
    /// the data set, by which some objectives estimate the aggregate posterior.
    ///
    /// # Errors
    /// An invalid config, or one whose objective does not fit the model; a precision that the model's device does not support.
    pub fn new(
        vae: &'a Vae,
        config: &'a RunConfig,
        n_train_images: usize,
    ) -> Result<Self, TrainError> {
        check(vae, config)?;
        check_precision(config.training.precision, vae.device())?;
        let training = &config.training;
        vae.freeze(&training.frozen)?;
        vae.recompute(training.recompute, &config.objective)?;
        let model = Training {
            optimizer: &config.optimizer,
            schedule: &config.schedule,
            clip: &training.clip,
            ema_decay: training.ema_decay,
            every: training.model_every,
        };
        let seed = derive_seed(config.seed, 0, "weights of the players beside the model");
        let networks = config.objective.networks(vae, seed)?;
        let players = networks.players.iter().map(|network| {
            let player = config.player(network.name());
            let training = Training {
                optimizer: &player.optimizer,
                schedule: &player.schedule,
                clip: &player.clip,
                ema_decay: player.ema_decay,
                every: player.every,
            };
            Player::new(network.name(), network.named_variables(), &training)
        });
        Ok(Self {
            vae,
            config,
            objective: config.objective_in_run(n_train_images),
            n_train_images: n_train_images as u64,
            n_steps_per_epoch: config.steps_per_epoch(n_train_images),
            n_steps: config.n_steps(n_train_images),
            model: Player::new("model", vae.named_variables(), &model),
            players: players.collect(),
            learning_rate_scale: 1.0,
            networks,
            group: None,
        })
    }

    /// Draws latents for each image `[B, C, H, W]` (bytes, with their condition if the model has one), as many as the objective
    /// needs, and updates the weights to reduce the loss. `step` counts from 0, and the noise depends only on (seed, step). The
    /// objective's schedule is evaluated at `objective_step`.
    ///
    /// # Errors
    /// Images of another shape than the model's; libtorch refuses.
    pub fn step<'b>(
        &mut self,
        images: impl Into<Conditioned<'b>>,
        step: u64,
        objective_step: u64,
    ) -> Result<StepOutput, TrainError> {
        let images = images.into();
        let n_images = images.tensor.size()[0];
        self.step_share(images, n_images, step, objective_step)
    }

    /// [`Self::step`] on a batch of `n_images`, of which one of several processes has those that it computes
    /// ([`vae_base::Portion::computed_in_parts`], in parts of `training.micro_batch_size`).
    ///
    /// # Errors
    /// As for [`Self::step`]; another process is gone.
    pub fn step_share(
        &mut self,
        images: Conditioned,
        n_images: i64,
        step: u64,
        objective_step: u64,
    ) -> Result<StepOutput, TrainError> {
        let Self { vae, config, .. } = *self;
        let objective = &self.objective;
        let context = LossContext {
            vae,
            step: objective_step,
            n_images: self.n_train_images,
        };
        let precision = config.training.precision;
        let mut noise = vae.generator(derive_seed(config.seed, step, "training noise"));
        self.model.optimizer.zero_grad();
        for player in &mut self.players {
            player.optimizer.zero_grad();
        }
        let Conditioned {
            tensor: images,
            condition,
        } = images;
        let part_size = config
            .training
            .micro_batch_size
            .map_or(n_images, |n| n as i64);
        let mut reconstruction = Vec::new();
        let mut kl = Some(Vec::new());
        let mut loss = Tensor::zeros([], (Kind::Float, vae.device()));
        let mut named = Terms::default();
        let mut n_done = 0;
        for start in (0..n_images).step_by(part_size.max(1) as usize) {
            let n_part = part_size.min(n_images - start);
            let processes = self.group.as_ref();
            let processes = processes.map(|group| Share::of(group, n_part));
            let n_own = processes.as_ref().map_or(n_part, Share::n_computed);
            let own = |rows: &Tensor| rows.narrow(0, n_done, n_own);
            let (part, part_condition) = (own(images), condition.map(own));
            n_done += n_own;
            let draws = autocast(precision, vae.device(), || {
                vae.draw_share(
                    (&part, part_condition.as_ref()),
                    processes.as_ref(),
                    objective.n_samples(),
                    Mode::Train,
                    &mut noise,
                )
            })?;
            // A part's mean is weighted by its number of images, so that the sum is the mean over the whole batch.
            let share = n_part as f64 / n_images as f64;
            let losses = objective.losses(&draws, context, &self.networks, &mut noise)?;
            if let Some(processes) = &draws.share {
                processes.check()?;
            }
            named.add_part(&draws.named, share);
            named.add_part(&losses.terms, share);
            let part_loss = losses.model * share;
            if self.model.is_due(step) {
                self.model.backward(&part_loss, &[&self.players])?;
            }
            for (i, player_loss) in losses.players.into_iter().enumerate() {
                let (before, after) = self.players.split_at_mut(i);
                if let (Some(loss), Some((player, after))) = (player_loss, after.split_first_mut())
                    && player.is_due(step)
                {
                    let others = [slice::from_ref(&self.model), before, after];
                    player.backward(&(loss * share), &others)?;
                }
            }
            loss += part_loss.detach();
            reconstruction.push(draws.terms.reconstruction.detach());
            kl = kl.zip(draws.terms.kl).map(|(mut parts, part)| {
                parts.push(part.detach());
                parts
            });
        }
        let mut gradient_norm = loss.zeros_like();
        let mut skipped = None;
        if self.model.is_due(step) {
            let report = self.model.step(self.group.as_deref())?;
            // Counts for the steps without an update, so that a mean over steps is that of the updates.
            gradient_norm = report.gradient_norm * config.training.model_every as f64;
            skipped = report.skipped;
            note_skipped(&self.model, skipped, step, &mut named)?;
        }
        for player in self.players.iter_mut().filter(|player| player.is_due(step)) {
            let factor = player.schedule.factor(step, self.n_steps) * self.learning_rate_scale;
            player.optimizer.set_learning_rate_factor(factor);
            let has_loss = player.has_gradient();
            let report = player.step(self.group.as_deref())?;
            if has_loss {
                let term = PlayerConfig::gradient_norm(&player.name);
                named.push(term, &report.gradient_norm);
            }
            note_skipped(player, report.skipped, step, &mut named)?;
        }
        if (step + 1).is_multiple_of(self.n_steps_per_epoch.max(1)) {
            vae.end_epoch();
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
            skipped,
        })
    }

    /// The step size of the model's next step.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        self.model.optimizer.learning_rate()
    }

    /// Multiplies the model's learning rate of the config in the following steps.
    pub fn set_learning_rate_factor(&mut self, factor: f64) {
        self.model.optimizer.set_learning_rate_factor(factor);
    }

    /// Multiplies the learning rates of the other players, in addition to their schedules.
    pub(crate) fn set_learning_rate_scale(&mut self, scale: f64) {
        self.learning_rate_scale = scale;
    }

    /// From now on the model is trained by several processes together. All of them take the first one's weights.
    ///
    /// # Errors
    /// Another process is gone.
    pub fn train_among(&mut self, group: Arc<Group>) -> Result<(), TrainError> {
        for (_, variable) in self.named_variables() {
            let values = no_grad(|| variable.detach().contiguous());
            group.broadcast(&values, 0)?;
            no_grad(|| variable.shallow_clone().f_copy_(&values))?;
        }
        self.group = Some(group);
        Ok(())
    }

    /// The processes that train the model, if there are several.
    pub(crate) fn group(&self) -> Option<&Arc<Group>> {
        self.group.as_ref()
    }

    /// The networks of the objective besides the model.
    pub(crate) fn networks(&self) -> &Networks {
        &self.networks
    }

    fn all_players(&mut self) -> impl Iterator<Item = &mut Player> {
        std::iter::once(&mut self.model).chain(&mut self.players)
    }

    /// Gives all players the weights to be used: the averaged ones, if there are any.
    pub(crate) fn use_averaged(&mut self) -> Result<(), TrainError> {
        self.all_players().try_for_each(Player::use_averaged)
    }

    /// Gives all players the weights that the optimizer updates.
    pub(crate) fn use_raw(&mut self) -> Result<(), TrainError> {
        self.all_players().try_for_each(Player::use_raw)
    }

    /// The tensors of a checkpoint. The averaged weights must be in use.
    pub(crate) fn checkpoint_tensors(&self) -> CheckpointTensors<'a> {
        CheckpointTensors {
            vae: self.vae,
            // While the averaged weights are in use, this is the raw ones.
            raw_weights: self.model.ema_state(),
            optimizer: self.model.optimizer.state(),
            players: self
                .players
                .iter()
                .flat_map(Player::checkpoint_tensors)
                .collect(),
            rollback: None,
        }
    }

    pub(crate) fn optimizer_steps(&self) -> u64 {
        self.model.optimizer.n_steps()
    }

    /// The numbers of steps of the other players' optimizers.
    pub(crate) fn player_steps(&self) -> BTreeMap<String, u64> {
        let steps = |player: &Player| (player.name.clone(), player.optimizer.n_steps());
        self.players.iter().map(steps).collect()
    }

    /// Restores the state of a checkpoint, from which the model was already loaded.
    pub(crate) fn resume(&mut self, checkpoint: &OpenCheckpoint) -> Result<(), TrainError> {
        let state = &checkpoint.state.resume;
        let raw = || {
            checkpoint.raw_weights()?.ok_or_else(|| {
                RunError::run(
                    &checkpoint.folder,
                    "has averaged weights without the raw ones",
                )
            })
        };
        self.model
            .resume(state.optimizer_steps, &checkpoint.optimizer()?, raw)?;
        let mut tensors = checkpoint.players()?;
        for player in &mut self.players {
            let n_steps = state.players.get(&player.name).copied().unwrap_or(0);
            player.resume_beside(&mut tensors, n_steps)?;
        }
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let players = self.players.iter();
        Snapshot {
            model: self.model.snapshot(),
            players: players.map(|p| (p.name.clone(), p.snapshot())).collect(),
        }
    }

    pub(crate) fn restore(&mut self, snapshot: &Snapshot) -> Result<(), TrainError> {
        self.model.restore(&snapshot.model)?;
        for player in &mut self.players {
            if let Some(saved) = snapshot.players.get(&player.name) {
                player.restore(saved)?;
            }
        }
        Ok(())
    }

    /// Every variable of every player; the names of the other players' variables begin with the player's name.
    fn named_variables(&self) -> Vec<(String, Tensor)> {
        let mut variables = self.vae.named_variables();
        for player in &self.players {
            let named = player.variables().iter();
            variables.extend(named.map(|(name, variable)| {
                (format!("{}.{name}", player.name), variable.shallow_clone())
            }));
        }
        variables
    }

    /// Whether every weight is finite. Waits for the device.
    pub(crate) fn is_finite(&self) -> bool {
        let mut sum = Tensor::zeros([], (Kind::Double, Device::Cpu));
        for (_, variable) in self.named_variables() {
            sum += variable.detach().sum(Kind::Double).to_device(Device::Cpu);
        }
        f64::try_from(sum).is_ok_and(f64::is_finite)
    }

    /// The first variable, by name, with a gradient that is not finite.
    pub(crate) fn non_finite_gradient(&self) -> Option<String> {
        self.named_variables()
            .into_iter()
            .find(|(_, variable)| {
                let gradient = variable.grad();
                gradient.defined()
                    && !f64::try_from(gradient.sum(Kind::Double)).is_ok_and(f64::is_finite)
            })
            .map(|(name, _)| name)
    }
}

/// Counts and reports whether a player's step, counted from 0, was skipped.
fn note_skipped(
    player: &Player,
    skipped: Option<Skipped>,
    step: u64,
    named: &mut Terms,
) -> Result<(), TrainError> {
    if player.may_skip() {
        let is_skipped = if skipped.is_some() { 1_f32 } else { 0.0 };
        let term = ClipConfig::skipped_steps(&player.name);
        named.push(term, &Tensor::from(is_skipped));
    }
    let Some(skipped) = skipped else {
        return Ok(());
    };
    if skipped.consequence == Consequence::Hopeless {
        return Err(TrainError::NonFinite {
            problem: format!(
                "the gradient of the {} was NaN or infinite in more than half of the last 100 steps, which were skipped",
                player.name
            ),
            step: step + 1,
        });
    }
    if let Some(warning) = skipped.warning(&player.name, step + 1) {
        warn!("{warning}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::no_grad;
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
            // Parts of two images and one: each is a mean, weighted by its number of images.
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
            let ema = learner.model.ema_state().expect("an average");
            for (name, average) in ema {
                assert_close(&format!("average of {name}"), &average, &averages[&name]);
            }
        }
        // Statistics of the training batches only.
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
        // 20 epochs of one step each.
        let share =
            "training.epochs = 20\nobjective.regularizer.kl.beta_schedule.warm_up.share = 0.5";
        assert_eq!(loss_and_terms(share, 4, 3), [loss, reconstruction, kl]);
        // −ln(N·B) occurs once in log q(z), and once for each of the two dimensions in Σ log q(z_j): the total correlation with N
        // images is ln 10 above that with 10·N.
        let beta_tc = "objective.regularizer.beta_tc = { alpha = 0.0, beta = 1.0, gamma = 0.0 }";
        let [of_40, _, _] = loss_and_terms(beta_tc, 40, 0);
        let [of_400, _, _] = loss_and_terms(beta_tc, 400, 0);
        assert!(
            (of_400 - of_40 - 10_f64.ln()).abs() < 1e-4,
            "{of_40} {of_400}"
        );
    }

    #[test]
    fn a_skipped_step_leaves_the_model_as_it_is_and_is_logged() {
        let text = |bound: f64| {
            format!(
                "dataset.idx.folder = 'unused'\nmodel.network.mlp.hidden = [3]\n\
                 training = {{ ema_decay = 0.9, clip.skip_above = {bound:?} }}"
            )
        };
        for (bound, wanted) in [(1e-3, 1.0), (1e9, 0.0)] {
            let config: RunConfig = toml::from_str(&text(bound)).expect("a config");
            let declared = config.terms();
            assert!(declared.iter().any(|term| term.name == "skipped_steps"));
            let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
            let mut learner = Learner::new(&vae, &config, 4).expect("a learner");
            let before = learner.snapshot().named_tensors("");
            let output = learner.step(&images(4), 0, 0).expect("a step");
            let after = learner.snapshot().named_tensors("");
            let same = before
                .iter()
                .zip(&after)
                .all(|((name, a), (_, b))| name.ends_with("skipped_steps") || a.equal(b));
            assert_eq!(same, wanted == 1.0, "{bound}");
            assert_eq!(output.skipped.is_some(), wanted == 1.0);
            let logged = output.named.get("skipped_steps").expect("a term");
            assert_eq!(logged.double_value(&[]), wanted);
        }
    }

    #[test]
    fn gradients_that_are_never_finite_are_an_error_after_fifty_steps() {
        let text = "dataset.idx.folder = 'unused'\nmodel.network.mlp.hidden = [3]\n\
                    training.clip.skip_above = 1e6";
        let config: RunConfig = toml::from_str(text).expect("a config");
        let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
        let mut weight = vae.trainable_variables().remove(0).1;
        let _ = no_grad(|| weight.fill_(f64::NAN));
        let mut learner = Learner::new(&vae, &config, 4).expect("a learner");
        let failed =
            (0..100).find_map(|step| Some((step, learner.step(&images(4), step, step).err()?)));
        let Some((50, TrainError::NonFinite { problem, step: 51 })) = failed else {
            panic!("{failed:?}");
        };
        assert!(problem.contains("of the model"), "{problem}");
    }

    /// A model and its discriminator, with all features of a player.
    const FACTOR: &str = "
        seed = 4
        dataset.idx.folder = 'unused'
        model.network.mlp.hidden = [6]
        objective.regularizer.factor.hidden = [5]
        training.ema_decay = 0.9
        players.discriminator = { ema_decay = 0.5, every = 2, clip.norm = 1.0 }
    ";

    #[test]
    fn a_model_that_learns_in_every_third_step_leaves_the_others_to_its_players() {
        let mut config: RunConfig = toml::from_str(FACTOR).expect("a config");
        config.training.model_every = 3;
        let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
        let mut learner = Learner::new(&vae, &config, 8).expect("a learner");
        let images = images(8);
        let mut norms = Vec::new();
        for step in 0..6 {
            let before = vae.named_variables();
            let before: Vec<_> = before.iter().map(|(_, v)| v.detach().copy()).collect();
            let output = learner.step(&images, step, step).expect("a step");
            let after = vae.named_variables();
            let is_changed = before.iter().zip(&after).any(|(a, (_, b))| !a.equal(b));
            assert_eq!(is_changed, step % 3 == 0, "{step}");
            norms.push(output.gradient_norm.double_value(&[]));
        }
        assert_eq!(
            (
                learner.optimizer_steps(),
                learner.player_steps()["discriminator"]
            ),
            (2, 3)
        );
        // Each stands for three steps.
        assert!(norms[0] > 0.0 && norms[1] == 0.0 && norms[2] == 0.0 && norms[3] > 0.0);
        config.training.model_every = 1;
        let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
        let mut learner = Learner::new(&vae, &config, 8).expect("a learner");
        let once = learner.step(&images, 0, 0).expect("a step").gradient_norm;
        assert!((norms[0] / once.double_value(&[]) - 3.0).abs() < 1e-4);
    }

    #[test]
    fn each_player_goes_its_own_way_and_a_snapshot_brings_all_of_them_back() {
        let config: RunConfig = toml::from_str(FACTOR).expect("a config");
        let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
        let mut learner = Learner::new(&vae, &config, 8).expect("a learner");
        let copies = |learner: &Learner| -> Vec<(String, Tensor)> {
            let all = learner.named_variables().into_iter();
            all.map(|(name, variable)| (name, variable.detach().copy()))
                .collect()
        };
        let changed = |before: &[(String, Tensor)], learner: &Learner, of: &str| {
            let pairs = before.iter().zip(learner.named_variables());
            let mut of_it = pairs
                .filter(|((name, _), _)| name.starts_with(of))
                .peekable();
            assert!(of_it.peek().is_some(), "{of}");
            of_it.any(|((_, before), (_, now))| !before.equal(&now))
        };
        let images = images(8);
        for step in 0..4 {
            let before = copies(&learner);
            let output = learner.step(&images, step, step).expect("a step");
            assert!(changed(&before, &learner, "encoder."), "{step}");
            // Every other step.
            let is_due = step % 2 == 0;
            assert_eq!(
                changed(&before, &learner, "discriminator."),
                is_due,
                "{step}"
            );
            let logged: Vec<_> = output.named.iter().map(|(term, _)| &*term.name).collect();
            let mut wanted = vec![
                "total_correlation",
                "discriminator_loss",
                "discriminator_accuracy",
            ];
            wanted.extend(is_due.then_some("discriminator_gradient_norm"));
            assert_eq!(logged, wanted);
        }
        assert_eq!(learner.player_steps()["discriminator"], 2);

        // Through a checkpoint's tensors.
        let snapshot = learner.snapshot();
        let mut tensors = snapshot.named_tensors("0/").into_iter().collect();
        let (steps, players) = (snapshot.optimizer_steps(), snapshot.player_steps());
        let snapshot = Snapshot::from_named_tensors(&mut tensors, "0/", steps, &players);
        assert!(tensors.is_empty(), "{tensors:?}");
        let on = |learner: &mut Learner| {
            for step in 4..7 {
                learner.step(&images, step, step).expect("a step");
            }
            learner.use_averaged().expect("averages");
            let averaged = copies(learner);
            learner.use_raw().expect("weights");
            (copies(learner), averaged)
        };
        let wanted = on(&mut learner);
        learner.restore(&snapshot).expect("restored");
        assert_eq!(learner.player_steps()["discriminator"], 2);
        assert_eq!(on(&mut learner), wanted);
        let of_discriminator = |named: &[(String, Tensor)]| -> Vec<Tensor> {
            let named = named
                .iter()
                .filter(|(name, _)| name.starts_with("discriminator."));
            named.map(|(_, tensor)| tensor.shallow_clone()).collect()
        };
        assert_ne!(
            of_discriminator(&wanted.0),
            of_discriminator(&wanted.1),
            "averages lag behind"
        );

        assert!(learner.is_finite());
        let mut weight = learner.players[0].variables()[0].1.shallow_clone();
        let _ = no_grad(|| weight.fill_(f64::NAN));
        assert!(!learner.is_finite());
        learner.step(&images, 8, 8).expect("a step");
        let name = learner.non_finite_gradient().expect("one");
        // The density ratio is part of the model's loss.
        assert!(
            name.starts_with("encoder.") || name.starts_with("discriminator."),
            "{name}"
        );
    }

    #[test]
    fn gradients_of_two_players_accumulate_over_the_parts_of_a_batch() {
        let config = FACTOR.replace("every = 2, clip.norm = 1.0", "every = 1");
        let config = config + "optimizer.sgd.learning_rate = 0.1\n";
        let config: RunConfig = toml::from_str(&config).expect("a config");
        let mut parts = config.clone();
        parts.training.micro_batch_size = Some(4);
        let norm_of_discriminator = |config: &RunConfig, batch: &Tensor| {
            let vae = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
            let mut learner = Learner::new(&vae, config, 8).expect("a learner");
            learner.step(batch, 0, 0).expect("a step");
            let gradients = learner.players[0].optimizer.gradients();
            assert_eq!(gradients.len(), 4, "two layers of weights and biases");
            let squares = gradients
                .iter()
                .map(|g| g.square().sum(Kind::Double).double_value(&[]));
            squares.sum::<f64>().sqrt()
        };
        // For two parts with different noise, the gradient is the mean: about as large, not twice as large.
        let (whole, halves) = (
            norm_of_discriminator(&config, &images(8)),
            norm_of_discriminator(&parts, &images(8)),
        );
        assert!(
            halves > 0.3 * whole && halves < 1.7 * whole,
            "{halves} vs {whole}"
        );
    }
}
