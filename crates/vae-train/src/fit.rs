//! The training loop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tch::Device;
use tracing::warn;
use vae_data::loader::{Batch, Batches, n_batches};
use vae_data::{Dataset, Splits};
use vae_model::{Vae, first_non_finite};
use vae_run::{
    CheckpointState, CheckpointTensors, Controls, Incident, LatentUse, Means, OpenCheckpoint,
    Position, Record, ResumeState, RunConfig, RunDir, RunError, StepControls, checkpoint,
};

use crate::callback::{Callback, Event, Flow};
use crate::callback::{kl_schedule::KlSchedule, learning_rate::LearningRate};
use crate::learner::{StepOutput, check};
use crate::recovery::{Good, Recovery};
use crate::{Collective, Evaluation, Learner, Totals, TrainError};

/// What a run works with, and how far it is; callbacks get it with every event.
#[derive(Debug)]
pub struct Fit<'a> {
    /// The model in training. After an epoch and at the end it holds the weights to use (the averaged
    /// ones, if there are any), after a step those that the optimizer changes.
    pub vae: &'a Vae,
    /// Its images.
    pub splits: &'a Splits,
    /// The whole experiment.
    pub config: &'a RunConfig,
    /// How far it is.
    pub position: Position,
    /// What callbacks may turn.
    pub controls: Controls,
    /// What went wrong so far.
    pub incidents: Vec<Incident>,
    save_requested: bool,
    last_checkpoint: Option<Position>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All epochs are done.
    Finished,
    /// The stop flag was raised (Ctrl-C).
    Interrupted,
    /// A callback asked for it.
    Callback,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Why it stopped, or what it failed of.
    pub ended: Result<Stop, TrainError>,
    /// How far it came.
    pub position: Position,
    /// The validation record of the best epoch, by `checkpoints.metric`; none without validation images.
    pub best: Option<Record>,
    /// The last epoch's training record.
    pub last_train: Option<Record>,
    /// The last epoch's validation record.
    pub last_validation: Option<Record>,
    /// What went wrong on the way.
    pub incidents: Vec<Incident>,
    /// Seconds of the whole run, those before it was resumed included.
    pub seconds: f64,
    /// Seconds of this process spent on anything but steps and evaluation: in callbacks, in writing
    /// checkpoints, in looks at whether the numbers are numbers.
    pub engine_seconds: f64,
}

/// Trains a model as a config says. See [`Trainer::fit`].
pub struct Trainer<'a> {
    run: Fit<'a>,
    learner: Learner<'a>,
    callbacks: Vec<Box<dyn Callback + 'a>>,
    run_dir: Option<RunDir>,
    n_steps_per_epoch: u64,
    /// Of the training and validation images.
    fingerprints: [Option<u32>; 2],
    /// Where no images are kept back for validation: training images that say which latents are in use,
    /// and choose nothing.
    instead_of_validation: Option<Dataset>,
    totals: Totals,
    latent_use: Option<LatentUse>,
    best: Option<Record>,
    last_train: Option<Record>,
    last_validation: Option<Record>,
    learning_rate_scale: f64,
    /// Step size of the last step.
    learning_rate: f64,
    recovery: Recovery,
    /// The numbers are NaN or infinite and there is no state to return to.
    is_ruined: bool,
    /// The callbacks' states before the end of an epoch that not all of them could be told of.
    undelivered: Option<BTreeMap<String, Value>>,
    /// The number of the checkpoint that was written last, or that the run was resumed from.
    checkpoint: u64,
    clock: Clock,
    engine_seconds: f64,
}

/// How far a run was before an epoch's end, for one that not every callback could be told of.
struct BeforeEpochEnd {
    position: Position,
    totals: Totals,
    best: Option<Record>,
    last_train: Option<Record>,
    last_validation: Option<Record>,
    latent_use: Option<LatentUse>,
    callbacks: BTreeMap<String, Value>,
    recovery: Recovery,
    epoch_seconds: f64,
}

/// Seconds of training, those before a resume included.
struct Clock {
    since: Instant,
    before: f64,
    epoch_since: Instant,
    epoch_before: f64,
    /// In which training waited for images.
    epoch_waited: Duration,
}

impl Clock {
    fn start(before: f64, epoch_before: f64) -> Self {
        let now = Instant::now();
        Self {
            since: now,
            before,
            epoch_since: now,
            epoch_before,
            epoch_waited: Duration::ZERO,
        }
    }

    fn start_epoch(&mut self) {
        self.resume_epoch(0.0);
    }

    fn resume_epoch(&mut self, seconds: f64) {
        self.epoch_since = Instant::now();
        self.epoch_before = seconds;
    }

    fn seconds(&self) -> f64 {
        self.before + self.since.elapsed().as_secs_f64()
    }

    fn epoch_seconds(&self) -> f64 {
        self.epoch_before + self.epoch_since.elapsed().as_secs_f64()
    }
}

/// Training images that are evaluated where none are kept back for validation.
const N_INSTEAD_OF_VALIDATION: usize = 1000;

/// Steps between two looks at whether the numbers are still numbers; each look waits for the device.
const STEPS_BETWEEN_LOOKS: u64 = 50;

/// Between two tries to write to a full disk.
const PAUSE: Duration = Duration::from_secs(2);

impl<'a> Trainer<'a> {
    /// A run from its first step, without a folder.
    ///
    /// # Errors
    /// A config that makes no sense, or whose objective does not fit the model; a precision that the
    /// model's device does not have; images that can no longer be read.
    pub fn new(
        vae: &'a Vae,
        splits: &'a Splits,
        config: &'a RunConfig,
    ) -> Result<Self, TrainError> {
        check(vae, config)?;
        let validation = splits.validation.as_ref();
        let instead_of_validation = validation.is_none().then(|| {
            let n_images = splits.train.len().min(N_INSTEAD_OF_VALIDATION);
            splits.train.subset(&(0..n_images).collect::<Vec<_>>())
        });
        let n_steps_per_epoch = n_batches(splits.train.len(), config.training.batch_size) as u64;
        let n_steps = n_steps_per_epoch.saturating_mul(config.training.epochs);
        Ok(Self {
            run: Fit {
                vae,
                splits,
                config,
                position: Position::default(),
                controls: Controls {
                    learning_rate_factor: 1.0,
                    objective_step: 0,
                },
                incidents: Vec::new(),
                save_requested: false,
                last_checkpoint: None,
            },
            learner: Learner::new(vae, config, splits.train.len())?,
            callbacks: vec![
                Box::new(LearningRate::new(&config.schedule, n_steps)),
                Box::new(KlSchedule),
            ],
            run_dir: None,
            n_steps_per_epoch,
            fingerprints: [
                Some(splits.train.fingerprint()?),
                validation.map(Dataset::fingerprint).transpose()?,
            ],
            instead_of_validation,
            totals: Totals::new(vae.device()),
            latent_use: None,
            best: None,
            last_train: None,
            last_validation: None,
            learning_rate_scale: 1.0,
            learning_rate: 0.0,
            recovery: Recovery::default(),
            is_ruined: false,
            checkpoint: 0,
            undelivered: None,
            clock: Clock::start(0.0, 0.0),
            engine_seconds: 0.0,
        })
    }

    /// Adds a callback; they are called in the order in which they were added.
    pub fn add(&mut self, callback: impl Callback + 'a) {
        self.callbacks.push(Box::new(callback));
    }

    /// Where the gradients of several processes meet, between the backward pass and clipping; without a call
    /// there is one process.
    pub fn set_collective(&mut self, collective: impl Collective + 'static) {
        self.learner.set_collective(collective);
    }

    /// Where checkpoints go that callbacks ask for ([`Fit::request_checkpoint`]).
    pub fn save_to(&mut self, run_dir: RunDir) {
        self.run_dir = Some(run_dir);
    }

    /// Goes on where a checkpoint was written. The model must have been loaded from it, and every
    /// callback added: their states are restored by their names.
    ///
    /// # Errors
    /// The checkpoint does not fit the data set or the optimizer.
    pub fn resume(&mut self, checkpoint: OpenCheckpoint) -> Result<(), TrainError> {
        let state = checkpoint.state.resume.clone();
        for (what, found, wanted) in [
            (
                "training",
                self.run.splits.train.len(),
                state.n_train_images,
            ),
            (
                "validation",
                self.run.splits.validation.as_ref().map_or(0, Dataset::len),
                state.n_validation_images,
            ),
        ] {
            if found != wanted {
                let problem = format!(
                    "was written with {wanted} {what} images, the data set has {found}: to go on \
                     exactly it must be the same"
                );
                return Err(RunError::run(&checkpoint.folder, problem).into());
            }
        }
        if self.fingerprints != state.fingerprints {
            let problem = "was written with other images than the data set has now: to go on exactly \
                           they must be the same";
            return Err(RunError::run(&checkpoint.folder, problem).into());
        }
        self.learner.resume(&checkpoint)?;
        if self.keeps_states()
            && let Some(saved) = checkpoint.rollback()?
        {
            self.recovery = saved.into();
        }
        self.run.position = checkpoint.state.position;
        self.run.incidents = state.incidents;
        self.totals = Totals::restore(state.totals, self.run.vae.device());
        self.latent_use = checkpoint.state.latent_use;
        self.best = match &self.run.config.checkpoints.metric {
            metric if *metric == checkpoint.state.config.checkpoints.metric => state.best,
            _ => state.last_validation.clone(), // Of another metric another epoch is the best.
        };
        self.last_train = state.last_train;
        self.last_validation = state.last_validation;
        self.learning_rate_scale = state.learning_rate_scale;
        self.learning_rate = state.learning_rate;
        self.run.last_checkpoint = Some(self.run.position);
        self.checkpoint = checkpoint.state.sequence;
        self.clock = Clock::start(state.seconds, state.epoch_seconds);
        for callback in &mut self.callbacks {
            if let Some(state) = state.callbacks.get(callback.name()) {
                callback.restore(state)?;
            }
        }
        Ok(())
    }

    /// Trains until all epochs are done, a callback asks to stop, or `stop` is raised, which ends the
    /// run after the step in progress.
    ///
    /// Each epoch visits every training image once, in an order that depends on (seed, epoch) alone;
    /// the noise of a step depends on (seed, step) alone. After each epoch the validation images are
    /// evaluated, in f32 and with the averaged weights, if there are any. Test images are not looked at.
    ///
    /// A loss or gradient that is not finite is dealt with as `[safety]` of the config says. While a
    /// disk is full the run pauses: whatever could not be written is tried again.
    ///
    /// The outcome holds the error of a run that failed.
    pub fn fit(mut self, stop: &AtomicBool) -> Outcome {
        self.clock = Clock::start(self.clock.before, self.clock.epoch_before);
        let ended = self.epochs(stop);
        let mut outcome = Outcome {
            ended,
            position: self.run.position,
            best: self.best.clone(),
            last_train: self.last_train.clone(),
            last_validation: self.last_validation.clone(),
            incidents: self.run.incidents.clone(),
            seconds: self.clock.seconds(),
            engine_seconds: self.engine_seconds,
        };
        // Also after a failure: what is logged and saved is from before it, since a step whose numbers
        // are none never gets this far.
        let told = self.tell(&Event::FitEnd { outcome: &outcome }, stop);
        outcome.engine_seconds = self.engine_seconds;
        match told {
            Err(error) if outcome.ended.is_ok() => outcome.ended = Err(error),
            _ => {}
        }
        outcome
    }

    fn epochs(&mut self, stop: &AtomicBool) -> Result<Stop, TrainError> {
        let mut asked = self.tell(&Event::FitStart, stop)?;
        // A run that was stopped inside an epoch has the states of before.
        if self.recovery.is_empty() {
            self.remember();
        }
        while asked.is_none() && self.run.position.epochs < self.run.config.training.epochs {
            let result = match self.train_epoch(stop) {
                Ok(None) => self.finish_epoch(stop),
                other => other,
            };
            asked = match result {
                Err(TrainError::NonFinite { problem, step }) => {
                    self.recover(problem, step, stop)?;
                    None
                }
                other => other?,
            };
        }
        Ok(asked.unwrap_or(Stop::Finished))
    }

    /// The steps of an epoch that are still to do; a reason to stop amid it.
    fn train_epoch(&mut self, stop: &AtomicBool) -> Result<Option<Stop>, TrainError> {
        let n_done = self.run.position.steps - self.run.position.epochs * self.n_steps_per_epoch;
        let mut batches = self.batches();
        let mut next = batches.nth(n_done as usize); // Passes over the others for nothing.
        while let Some(batch) = next {
            let batch = batch?;
            let controls = StepControls {
                learning_rate_factor: self.run.controls.learning_rate_factor
                    * self.learning_rate_scale,
                objective_step: self.run.controls.objective_step,
                learning_rate_scale: self.learning_rate_scale,
            };
            self.recovery.note(self.run.position.steps, controls);
            let step = self.step(&batch, self.run.position.steps, controls)?;
            self.learning_rate = self.learner.learning_rate();
            self.totals.add(
                &step.terms,
                &step.loss,
                Some(&step.gradient_norm),
                &step.named,
            );
            self.run.position.steps += 1;

            if self.run.position.steps.is_multiple_of(STEPS_BETWEEN_LOOKS) {
                self.look()?;
            }
            let asked = self.tell_of_step(stop)?;
            let interrupted = stop.load(Ordering::Relaxed).then_some(Stop::Interrupted);
            if let Some(reason) = asked.or(interrupted) {
                self.check_numbers()?;
                return Ok(Some(reason));
            }
            next = batches.next();
        }
        self.clock.epoch_waited = batches.waited();
        self.look()?;
        Ok(None)
    }

    fn step(
        &mut self,
        batch: &Batch,
        step: u64,
        controls: StepControls,
    ) -> Result<StepOutput, TrainError> {
        self.learner
            .set_learning_rate_factor(controls.learning_rate_factor);
        self.learner
            .set_learning_rate_scale(controls.learning_rate_scale);
        self.learner.step(
            (&batch.items, batch.condition.as_ref()),
            step,
            controls.objective_step,
        )
    }

    fn batches(&self) -> Batches<'a> {
        let Fit {
            vae,
            splits,
            config,
            ..
        } = self.run;
        Batches::shuffled(
            &splits.train,
            config.training.batch_size,
            vae.device(),
            config.seed,
            self.run.position.epochs + 1,
        )
    }

    /// Evaluation, and what follows from it.
    fn finish_epoch(&mut self, stop: &AtomicBool) -> Result<Option<Stop>, TrainError> {
        let Fit {
            vae,
            splits,
            config,
            ..
        } = self.run;
        let train_seconds = self.clock.epoch_seconds();
        let start = Instant::now();
        let evaluated = splits
            .validation
            .as_ref()
            .or(self.instead_of_validation.as_ref())
            .unwrap_or(&splits.train);
        self.learner.use_averaged()?;
        let step = config.objective.settled_step();
        let evaluation = self.learner.evaluate(evaluated, step);
        self.learner.use_raw()?;
        let Evaluation {
            means,
            named,
            latent_use,
            mse,
        } = evaluation?;
        finite(&means, None, "validation", self.run.position.steps)?;

        let totals = std::mem::replace(&mut self.totals, Totals::new(vae.device()));
        let before = BeforeEpochEnd {
            position: self.run.position,
            totals,
            best: self.best.clone(),
            last_train: self.last_train.clone(),
            last_validation: self.last_validation.clone(),
            latent_use: self.latent_use.clone(),
            callbacks: self.callback_states(),
            // The evaluation has shown this state to be good; what was told of the epoch stays so.
            recovery: std::mem::take(&mut self.recovery),
            epoch_seconds: train_seconds,
        };
        self.run.position.epochs += 1;
        let position = self.run.position;
        let speed = |seconds: f64, n_images: usize| (seconds, n_images as f64 / seconds);
        let (seconds, images_per_s) = speed(train_seconds, splits.train.len());
        let waited = self.clock.epoch_waited.as_secs_f64() / seconds;
        let scheduled = config.objective.scheduled(self.run.controls.objective_step);
        let scheduled = |name| scheduled.iter().find(|(n, _)| *n == name).map(|&(_, v)| v);
        let train = Record {
            beta: scheduled("beta"),
            capacity: scheduled("capacity"),
            waited: Some(waited),
            gradient_norm: Some(before.totals.gradient_norm()),
            learning_rate: Some(self.learning_rate),
            images_per_s,
            seconds,
            named: before.totals.named_means(),
            ..Record::new(position, Record::TRAIN, before.totals.means())
        };
        let (seconds, images_per_s) = speed(start.elapsed().as_secs_f64(), evaluated.len());
        let validation = splits.validation.as_ref().map(|_| Record {
            active_units: Some(latent_use.active_units()),
            mse: Some(mse),
            bits_per_dim: means.elbo.and_then(|elbo| {
                vae.config()
                    .likelihood
                    .bits_per_dim(elbo, vae.image_shape())
            }),
            images_per_s,
            seconds,
            named,
            ..Record::new(position, Record::VALIDATION, means)
        });
        if let Some(record) = &validation {
            for (key, metric) in config.chosen_metrics() {
                metric.check_record(key, record)?;
            }
        }
        let ranking = config.ranking(&config.checkpoints.metric);
        let value = |record: &Option<Record>| record.as_ref().and_then(|record| ranking.of(record));
        let is_best = match &validation {
            Some(_) => ranking.order(value(&validation), value(&self.best)).is_gt(),
            None => true, // Nothing to choose by: the last is taken.
        };
        if is_best {
            self.best = validation.clone();
        }
        self.last_train = Some(train.clone());
        self.last_validation = validation.clone();
        self.clock.start_epoch();
        let event = Event::EpochEnd {
            train: &train,
            validation: validation.as_ref(),
            latent_use: &latent_use,
            is_best,
        };
        self.latent_use = Some(latent_use.clone());
        let told = self.deliver(&event, stop);
        if told.is_err() {
            self.return_before(before);
            return told;
        }
        let saved = self.save_model(stop);
        self.clock.start_epoch();
        self.remember();
        saved.and(told)
    }

    /// Takes back an epoch's end that not every callback could be told of: a run that is resumed finishes the
    /// epoch once more and tells all of them.
    fn return_before(&mut self, before: BeforeEpochEnd) {
        self.run.position = before.position;
        self.totals = before.totals;
        self.best = before.best;
        self.last_train = before.last_train;
        self.last_validation = before.last_validation;
        self.latent_use = before.latent_use;
        self.recovery = before.recovery;
        self.undelivered = Some(before.callbacks);
        self.clock.resume_epoch(before.epoch_seconds);
    }

    /// Refuses numbers that are none; those that are become the state to return to.
    fn look(&mut self) -> Result<(), TrainError> {
        let start = Instant::now();
        self.check_numbers()?;
        self.remember();
        self.engine_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), TrainError> {
        finite(
            &self.totals.means(),
            Some(self.totals.gradient_norm()),
            "training",
            self.run.position.steps,
        )?;
        self.check_weights()
    }

    fn check_weights(&self) -> Result<(), TrainError> {
        if self.learner.is_finite() {
            return Ok(());
        }
        Err(TrainError::NonFinite {
            problem: "a weight is not finite".to_owned(),
            step: self.run.position.steps,
        })
    }

    /// Whether a failure is answered by a return, or needs one to find where it began.
    fn keeps_states(&self) -> bool {
        let safety = &self.run.config.safety;
        safety.max_rollbacks > 0 || safety.find_layer
    }

    /// Stores this state as the one to return to.
    fn remember(&mut self) {
        // The last check of an epoch may fall on a step that was checked already.
        if !self.keeps_states() || self.recovery.is_at(self.run.position) {
            return;
        }
        self.recovery.remember(Good {
            failed: false,
            position: self.run.position,
            controls: self.run.controls,
            totals: self.totals.save(),
            learner: self.learner.snapshot(),
        });
    }

    /// Returns to the last good state with a lower learning rate, or gives up.
    fn recover(&mut self, problem: String, step: u64, stop: &AtomicBool) -> Result<(), TrainError> {
        let safety = &self.run.config.safety;
        let Some(good) = self.recovery.take_newest(step) else {
            self.is_ruined = true;
            return Err(self.give_up(problem, step, None));
        };
        self.return_to(&good)?;
        self.undelivered = None;
        self.run.last_checkpoint = None; // That was of steps which are undone now.
        let origin = match safety.find_layer {
            true => Some(self.find_origin(&good, step)?),
            false => None,
        };
        let factor = good.controls.learning_rate_factor * self.learning_rate_scale;
        self.learner.set_learning_rate_factor(factor);
        if self.run.incidents.len() >= safety.max_rollbacks {
            return Err(self.give_up(problem, step, origin));
        }
        self.learning_rate_scale *= safety.learning_rate_factor;
        let incident = Incident {
            problem,
            step,
            origin,
            returned_to_step: good.position.steps,
            learning_rate_scale: self.learning_rate_scale,
        };
        warn!("{incident}");
        self.run.incidents.push(incident);
        self.recovery.put_back(good);
        self.leave_branch(stop)
    }

    fn give_up(&self, problem: String, step: u64, origin: Option<String>) -> TrainError {
        TrainError::GaveUp {
            problem,
            step,
            origin: origin.map_or_else(
                || " (safety.find_layer = true would tell where it begins)".to_owned(),
                |origin| format!(" ({origin})"),
            ),
            n_rollbacks: self.run.incidents.len(),
            learning_rate: self.learner.learning_rate(),
        }
    }

    /// After a return: where checkpoints hold steps that are undone now, writes the state returned to. It
    /// takes the place of those, which are deleted when it is whole. From any older one a resumed run would
    /// come to the same failure and return in the same way.
    fn leave_branch(&mut self, stop: &AtomicBool) -> Result<(), TrainError> {
        let Some(run_dir) = &self.run_dir else {
            return Ok(());
        };
        if !checkpoint::any_after(run_dir, self.run.position)? {
            return Ok(());
        }
        self.run.request_checkpoint();
        self.save_model(stop)
    }

    fn return_to(&mut self, good: &Good) -> Result<(), TrainError> {
        self.learner.restore(&good.learner)?;
        self.run.position = good.position;
        self.run.controls = good.controls;
        self.totals = Totals::restore(good.totals.clone(), self.run.vae.device());
        Ok(())
    }

    /// Goes through the steps since the good state once more, and back again: the first layer, or
    /// failing that the first gradient, that is not finite.
    fn find_origin(&mut self, good: &Good, until: u64) -> Result<String, TrainError> {
        let n_done = good.position.steps - good.position.epochs * self.n_steps_per_epoch;
        let mut origin = None;
        for (batch, step) in self
            .batches()
            .skip(n_done as usize)
            .zip(good.position.steps..until)
        {
            let Some(controls) = self.recovery.controls_of(step) else {
                break;
            };
            let batch = batch?;
            let (result, layer) = first_non_finite(|| self.step(&batch, step, controls));
            result?;
            let number = step + 1;
            origin = layer
                .map(|layer| format!("first in the output of {layer}, step {number}"))
                .or_else(|| {
                    let name = self.learner.non_finite_gradient()?;
                    Some(format!("first in the gradient of {name}, step {number}"))
                });
            if origin.is_some() {
                break;
            }
        }
        self.return_to(good)?;
        Ok(origin.unwrap_or_else(|| {
            "in these steps every layer's output and every gradient is finite by itself".to_owned()
        }))
    }

    /// Gives a callback's event to every one of them, in order, the model holding the weights to use;
    /// then writes the checkpoint that one of them asked for. The run stops if one asks for that.
    fn tell(&mut self, event: &Event, stop: &AtomicBool) -> Result<Option<Stop>, TrainError> {
        let told = self.deliver(event, stop);
        // The end of a run is the last chance to save.
        let saved = match told.is_ok() || matches!(event, Event::FitEnd { .. }) {
            true => self.save_model(stop),
            false => Ok(()),
        };
        told.and_then(|asked| saved.map(|()| asked))
    }

    /// Gives an event to every callback, the model holding the weights to use.
    fn deliver(&mut self, event: &Event, stop: &AtomicBool) -> Result<Option<Stop>, TrainError> {
        self.learner.use_averaged()?;
        let start = Instant::now();
        let asked = self.tell_callbacks(event, stop);
        self.engine_seconds += start.elapsed().as_secs_f64();
        self.learner.use_raw()?;
        asked
    }

    /// Writes the checkpoint that a callback asked for, if one did, with the weights to use.
    fn save_model(&mut self, stop: &AtomicBool) -> Result<(), TrainError> {
        if !self.run.save_requested {
            return Ok(());
        }
        self.learner.use_averaged()?;
        let start = Instant::now();
        let saved = self.save_if_requested(stop);
        self.engine_seconds += start.elapsed().as_secs_f64();
        self.learner.use_raw()?;
        saved
    }

    /// The same after a step, the model keeping the weights that the optimizer changes.
    fn tell_of_step(&mut self, stop: &AtomicBool) -> Result<Option<Stop>, TrainError> {
        let start = Instant::now();
        // Lent to the event while the callbacks change what else is here.
        let totals = std::mem::replace(&mut self.totals, Totals::new(Device::Cpu));
        let asked = self.tell_callbacks(&Event::StepEnd { totals: &totals }, stop);
        self.totals = totals;
        self.engine_seconds += start.elapsed().as_secs_f64();
        if self.run.save_requested {
            self.check_numbers()?;
            self.save_model(stop)?;
        }
        asked
    }

    fn tell_callbacks(
        &mut self,
        event: &Event,
        stop: &AtomicBool,
    ) -> Result<Option<Stop>, TrainError> {
        let mut asked = Ok(None);
        let run = &mut self.run;
        for callback in &mut self.callbacks {
            match while_disk_is_full(stop, || callback.on_event(run, event)) {
                Ok(Flow::Continue) => {}
                Ok(Flow::Stop) => asked = asked.map(|_| Some(Stop::Callback)),
                // At the end all of them are told: one that comes after may save what others could not.
                Err(error) if matches!(event, Event::FitEnd { .. }) => {
                    asked = asked.and(Err(error))
                }
                Err(error) => return Err(error),
            }
        }
        asked
    }

    fn callback_states(&self) -> BTreeMap<String, Value> {
        self.callbacks
            .iter()
            .map(|callback| (callback.name().to_owned(), callback.state()))
            .filter(|(_, state)| !state.is_null())
            .collect()
    }

    fn save_if_requested(&mut self, stop: &AtomicBool) -> Result<(), TrainError> {
        if !std::mem::take(&mut self.run.save_requested) {
            return Ok(());
        }
        let Some(run_dir) = self.run_dir.as_ref().filter(|_| !self.is_ruined) else {
            return Ok(());
        };
        let Position { epochs, steps } = self.run.position;
        // A run that failed amid an epoch was not looked at since: no ruin becomes a checkpoint.
        self.check_weights()?;
        let state = CheckpointState {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sequence: 0, // `save` counts.
            previous: self.checkpoint,
            position: self.run.position,
            is_whole_epoch: steps == epochs * self.n_steps_per_epoch,
            validation: self
                .last_validation
                .clone()
                .filter(|record| (record.epoch, record.step) == (epochs, steps)),
            latent_use: self.latent_use.clone(),
            config: self.run.config.clone(),
            resume: ResumeState {
                n_train_images: self.run.splits.train.len(),
                n_validation_images: self.run.splits.validation.as_ref().map_or(0, Dataset::len),
                fingerprints: self.fingerprints,
                device: device_name(self.run.vae.device()),
                threads: tch::get_num_threads(),
                optimizer_steps: self.learner.optimizer_steps(),
                players: self.learner.player_steps(),
                totals: self.totals.save(),
                epoch_seconds: self.clock.epoch_seconds(),
                seconds: self.clock.seconds(),
                learning_rate_scale: self.learning_rate_scale,
                learning_rate: self.learning_rate,
                incidents: self.run.incidents.clone(),
                best: self.best.clone(),
                last_train: self.last_train.clone(),
                last_validation: self.last_validation.clone(),
                callbacks: match &self.undelivered {
                    Some(states) => states.clone(),
                    None => self.callback_states(),
                },
            },
        };
        let tensors = CheckpointTensors {
            rollback: self.recovery.saved(self.run.position),
            ..self.learner.checkpoint_tensors()
        };
        self.checkpoint = while_disk_is_full(stop, || {
            Ok(checkpoint::save(run_dir, state.clone(), &tensors)?)
        })?;
        self.run.last_checkpoint = Some(self.run.position);
        Ok(())
    }
}

impl Fit<'_> {
    /// Has a checkpoint written after this event, when every callback has seen it: the states in it
    /// are those of one moment. Does nothing where the run has no folder ([`Trainer::save_to`]).
    pub fn request_checkpoint(&mut self) {
        self.save_requested = true;
    }

    /// Optimizer steps that were done when the epoch in progress began.
    #[must_use]
    pub fn steps_before_epoch(&self) -> u64 {
        let batch_size = self.config.training.batch_size;
        self.position.epochs * n_batches(self.splits.train.len(), batch_size) as u64
    }

    /// Where the run was when its newest checkpoint was written.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<Position> {
        self.last_checkpoint
    }
}

/// `cpu` or `cuda:0`.
#[must_use]
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// Tries again and again while what it needs to write does not fit on the disk.
fn while_disk_is_full<T>(
    stop: &AtomicBool,
    mut write: impl FnMut() -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    let mut told = false;
    loop {
        match write() {
            Err(error) if error.is_disk_full() && !stop.load(Ordering::Relaxed) => {
                if !told {
                    warn!(
                        "{error}: no space left on the disk. Paused: free some, and the run goes on \
                         by itself (Ctrl-C gives up; the checkpoints so far are whole)"
                    );
                    told = true;
                }
                thread::sleep(PAUSE);
            }
            result => {
                if told && result.is_ok() {
                    warn!("there is space again: going on");
                }
                return result;
            }
        }
    }
}

/// Refuses means that are no numbers.
fn finite(
    means: &Means,
    gradient_norm: Option<f64>,
    split: &str,
    step: u64,
) -> Result<(), TrainError> {
    let found = [
        ("loss", means.loss),
        ("elbo", means.elbo.unwrap_or(0.0)),
        ("gradient norm", gradient_norm.unwrap_or(0.0)),
    ];
    match found.into_iter().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((name, value)) => Err(TrainError::NonFinite {
            problem: format!("the {split} {name} became {value}"),
            step,
        }),
    }
}
