//! The training loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::Value;
use tch::Tensor;
use vae_data::{Dataset, Splits};
use vae_model::Vae;
use vae_run::{
    ClipConfig, Controls, OpenCheckpoint, Position, Progress, Record, RunConfig, RunDir,
    StepControls,
};
use vae_torch::{Group, Reduction};

use crate::callback::{Callback, Callbacks, Event};
use crate::callback::{kl_schedule::KlSchedule, learning_rate::LearningRate};
use crate::clock::Clock;
use crate::evaluate::evaluate_against;
use crate::learner::check;
use crate::recovery::Recovery;
use crate::saving::Saving;
use crate::steps::{Steps, check_means};
use crate::{Evaluation, Fit, Learner, Outcome, Stop, Totals, TrainError};

/// Trains a model according to a config. See [`Trainer::fit`].
pub struct Trainer<'a> {
    run: Fit<'a>,
    steps: Steps<'a>,
    callbacks: Callbacks<'a>,
    recovery: Recovery,
    saving: Saving,
    /// Training images by which the use of the latents is measured if there are no validation images; nothing is chosen by
    /// them.
    instead_of_validation: Option<Dataset>,
    /// The callbacks' states before the end of an epoch of which not all could be notified.
    undelivered: Option<BTreeMap<String, Value>>,
    /// Whether a step has failed half way, with a state that is of no step.
    is_within_step: bool,
    clock: Clock,
    engine_seconds: f64,
}

/// The state of the run before the end of an epoch, in case not every callback can be notified of it.
struct BeforeEpochEnd {
    progress: Progress,
    totals: Totals,
    callbacks: BTreeMap<String, Value>,
    recovery: Recovery,
    epoch_seconds: f64,
}

/// The number of training images that are evaluated if there are no validation images.
const N_INSTEAD_OF_VALIDATION: usize = 1000;

/// The number of steps between two finite checks, each of which waits for the device.
const STEPS_BETWEEN_CHECKS: u64 = 50;

impl<'a> Trainer<'a> {
    /// A run at its first step, without a folder.
    ///
    /// # Errors
    /// An invalid config, or one whose objective does not fit the model; a precision that the model's device does not support;
    /// images that can no longer be read.
    pub fn new(
        vae: &'a Vae,
        splits: &'a Splits,
        config: &'a RunConfig,
    ) -> Result<Self, TrainError> {
        check(vae, config)?;
        let instead_of_validation = match &splits.validation {
            Some(_) => None,
            None => Some(splits.train.truncated(N_INSTEAD_OF_VALIDATION)),
        };
        let n_steps = config.n_steps(splits.train.len());
        let mut callbacks = Callbacks::default();
        callbacks.add(LearningRate::new(&config.schedule, n_steps));
        callbacks.add(KlSchedule);
        Ok(Self {
            run: Fit {
                vae,
                splits,
                config,
                progress: Progress::default(),
                controls: Controls {
                    learning_rate_factor: 1.0,
                    objective_step: 0,
                },
                save_requested: false,
                last_checkpoint: None,
            },
            steps: Steps {
                learner: Learner::new(vae, config, splits.train.len())?,
                totals: Totals::of(vae),
            },
            callbacks,
            recovery: Recovery::default(),
            saving: Saving::new(splits)?,
            instead_of_validation,
            undelivered: None,
            is_within_step: false,
            clock: Clock::start(0.0, 0.0),
            engine_seconds: 0.0,
        })
    }

    /// Adds a callback. Callbacks are called in the order in which they were added.
    pub fn add(&mut self, callback: impl Callback + 'a) {
        self.callbacks.add(callback);
    }

    /// Trains as one of several processes, all of which make the same calls with the same config, data and checkpoint. Each
    /// reads and computes its portion of every batch; what is trained is what a single process would train, up to rounding, and
    /// every one of them has it. All begin with the first one's weights. It alone should have callbacks and a folder: their
    /// wish to stop counts for all, as does a raised stop flag of any.
    ///
    /// # Errors
    /// Another process is gone.
    pub fn train_among(&mut self, group: Arc<Group>) -> Result<(), TrainError> {
        self.steps.learner.train_among(group)
    }

    /// Sets the run in which the checkpoints that callbacks request are written ([`Fit::request_checkpoint`]).
    pub fn save_to(&mut self, run_dir: RunDir) {
        self.saving.save_to(run_dir);
    }

    /// Resumes from a checkpoint. The model must have been loaded from it, and every callback must have been added: their states
    /// are restored by name.
    ///
    /// # Errors
    /// The checkpoint does not fit the data set or the optimizer.
    pub fn resume(&mut self, checkpoint: OpenCheckpoint) -> Result<(), TrainError> {
        self.saving.resume(&checkpoint)?;
        let mut progress = checkpoint.state.progress();
        let (config, state) = (self.run.config, checkpoint.state.resume.clone());
        self.steps.learner.resume(&checkpoint)?;
        self.steps.totals = Totals::restore(state.totals, self.run.vae.device());
        self.recovery.resume(config, &checkpoint)?;
        if config.checkpoint_metric() != checkpoint.state.config.checkpoint_metric() {
            // By another metric, another epoch is the best.
            progress.best = progress.last_validation.clone();
        }
        self.run.last_checkpoint = Some(progress.position);
        self.run.progress = progress;
        self.clock = Clock::start(state.seconds, state.epoch_seconds);
        self.callbacks.restore(&state.callbacks)
    }

    /// Trains until all epochs are done, a callback asks to stop, or `stop` is raised, which ends the run after the step in
    /// progress.
    ///
    /// Each epoch visits every training image once, in an order that depends only on (seed, epoch). The noise of a step depends
    /// only on (seed, step). After each epoch the model is evaluated on the validation images, in f32 and with the averaged weights
    /// if there are any. Test images are not used.
    ///
    /// A loss or gradient that is not finite is handled according to `[safety]` of the config. While a disk is full the run is
    /// paused and repeats the failed write.
    ///
    /// If the run fails, the outcome contains the error.
    pub fn fit(mut self, stop: &AtomicBool) -> Outcome {
        self.clock.restart();
        let ended = self.epochs(stop);
        let mut outcome = Outcome {
            ended,
            progress: self.run.progress.clone(),
            seconds: self.clock.seconds(),
            engine_seconds: self.engine_seconds,
        };
        // Also after a failure: what is logged and saved is from before it, since a step with NaN or infinite numbers never gets this
        // far.
        let notified = self.notify(&Event::FitEnd { outcome: &outcome }, stop);
        outcome.engine_seconds = self.engine_seconds;
        match notified {
            Err(error) if outcome.ended.is_ok() => outcome.ended = Err(error),
            _ => {}
        }
        outcome
    }

    fn epochs(&mut self, stop: &AtomicBool) -> Result<Stop, TrainError> {
        let asked = self.notify(&Event::FitStart, stop)?;
        let mut asked = self.agreed(asked)?;
        // A run that was stopped within an epoch has the states of before.
        if self.recovery.is_empty() {
            self.recovery.remember(&self.run, &self.steps);
        }
        while asked.is_none() && self.run.progress.position.epochs < self.run.config.training.epochs
        {
            let result = match self.train_epoch(stop) {
                Ok(None) => {
                    let asked = self.finish_epoch(stop);
                    asked.and_then(|asked| self.agreed(asked))
                }
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

    /// The remaining steps of an epoch; returns the reason to stop within it, if any.
    fn train_epoch(&mut self, stop: &AtomicBool) -> Result<Option<Stop>, TrainError> {
        let mut batches = self.steps.batches(&self.run);
        let mut next = batches.next();
        while let Some(batch) = next {
            let batch = batch?;
            let n_steps = self.run.progress.position.steps;
            let controls = StepControls {
                learning_rate_factor: self.run.controls.learning_rate_factor
                    * self.run.progress.learning_rate_scale,
                objective_step: self.run.controls.objective_step,
                learning_rate_scale: self.run.progress.learning_rate_scale,
            };
            self.recovery.note(n_steps, controls);
            self.is_within_step = true;
            let step = self.steps.step(&batch, n_steps, controls)?;
            self.is_within_step = false;
            self.run.progress.learning_rate = self.steps.learner.learning_rate();
            match &step.skipped {
                // Its numbers may be NaN, too.
                Some(skipped) if !skipped.norm.is_finite() => {
                    let term = ClipConfig::skipped_steps("model");
                    let n_images = step.terms.reconstruction.size()[0];
                    self.steps.totals.add_value(term, 1.0, n_images);
                }
                _ => self.steps.totals.add(
                    &step.terms,
                    &step.loss,
                    Some(&step.gradient_norm),
                    &step.named,
                ),
            }
            let n_steps = n_steps + 1;
            self.run.progress.position.steps = n_steps;

            let logged = self.log_steps(n_steps, stop);
            if n_steps.is_multiple_of(STEPS_BETWEEN_CHECKS) {
                self.check()?;
            }
            let asked = self.notify_of_step(stop)?;
            logged?;
            let interrupted = stop.load(Ordering::Relaxed).then_some(Stop::Interrupted);
            if let Some(reason) = self.agreed(asked.or(interrupted))? {
                self.steps.check_numbers(n_steps)?;
                return Ok(Some(reason));
            }
            next = batches.next();
        }
        self.clock.epoch_waited = batches.waited();
        self.check()?;
        Ok(None)
    }

    /// What all processes do: the strongest reason to stop that one of them has.
    fn agreed(&self, asked: Option<Stop>) -> Result<Option<Stop>, TrainError> {
        let Some(group) = self.steps.learner.group() else {
            return Ok(asked);
        };
        const REASONS: [Option<Stop>; 4] = [
            None,
            Some(Stop::Finished),
            Some(Stop::Interrupted),
            Some(Stop::Callback),
        ];
        let own = REASONS.iter().position(|reason| *reason == asked);
        let strongest = Tensor::from_slice(&[own.unwrap_or(0) as i64]);
        group.all_reduce(&strongest, Reduction::Max)?;
        let strongest = strongest.int64_value(&[0]);
        Ok(REASONS.get(strongest as usize).copied().flatten())
    }

    /// Notifies the callbacks of the means over the last steps, every `training.log_every` steps. Means that are not finite are
    /// left to the next finite check.
    fn log_steps(&mut self, n_steps: u64, stop: &AtomicBool) -> Result<(), TrainError> {
        let every = self.run.config.training.log_every;
        if every == 0 || !n_steps.is_multiple_of(every) {
            return Ok(());
        }
        let start = Instant::now();
        let seconds = self.clock.since_logged();
        let Some(recent) = self.steps.totals.recent() else {
            return Ok(());
        };
        let is_finite = recent.means.loss.is_finite()
            && recent.gradient_norm.is_finite()
            && recent.means.elbo.is_none_or(f64::is_finite);
        if !is_finite {
            return Ok(());
        }
        let progress = &self.run.progress;
        let position = Position {
            epochs: progress.position.epochs + 1,
            ..progress.position
        };
        let record = Record {
            beta: self.scheduled("beta"),
            capacity: self.scheduled("capacity"),
            gradient_norm: Some(recent.gradient_norm),
            learning_rate: Some(progress.learning_rate),
            images_per_s: recent.n_images as f64 / seconds,
            seconds,
            named: recent.named,
            ..Record::new(position, Record::STEPS, recent.means)
        };
        let event = Event::StepsEnd { record: &record };
        let notified = self.callbacks.notify(&mut self.run, &event, stop);
        self.engine_seconds += start.elapsed().as_secs_f64();
        notified.map(|_| ())
    }

    /// The value of the objective's schedule by this name.
    fn scheduled(&self, name: &str) -> Option<f64> {
        let Fit {
            splits,
            config,
            controls,
            ..
        } = &self.run;
        let objective = config.objective_in_run(splits.train.len());
        let scheduled = objective.scheduled(controls.objective_step);
        let value = scheduled.iter().find(|(of, _)| *of == name);
        value.map(|&(_, value)| value)
    }

    /// Evaluates the model, and notifies the callbacks.
    fn finish_epoch(&mut self, stop: &AtomicBool) -> Result<Option<Stop>, TrainError> {
        let train_seconds = self.clock.epoch_seconds();
        let start = Instant::now();
        let evaluation = self.evaluate()?;
        let evaluation_seconds = start.elapsed().as_secs_f64();

        let totals = Totals::of(self.run.vae);
        let before = BeforeEpochEnd {
            progress: self.run.progress.clone(),
            totals: std::mem::replace(&mut self.steps.totals, totals),
            callbacks: self.callbacks.states(),
            // The evaluation has shown this state to be good. Callbacks have been notified of the epoch, so no rollback crosses this point.
            recovery: std::mem::take(&mut self.recovery),
            epoch_seconds: train_seconds,
        };
        self.run.progress.position.epochs += 1;
        let train = self.train_record(&before.totals, train_seconds);
        let validation = self.validation_record(&evaluation, evaluation_seconds);
        let progress = &mut self.run.progress;
        let config = self.run.config;
        if let Some(record) = &validation {
            for (key, metric) in config.chosen_metrics() {
                metric.check_record(key, record)?;
            }
        }
        let ranking = config.ranking(&config.checkpoint_metric());
        let value = |record: &Option<Record>| record.as_ref().and_then(|record| ranking.of(record));
        let is_best = match &validation {
            Some(_) => ranking
                .order(value(&validation), value(&progress.best))
                .is_gt(),
            None => true, // Nothing to choose by: the last is taken.
        };
        if is_best {
            progress.best = validation.clone();
        }
        progress.last_train = Some(train.clone());
        progress.last_validation = validation.clone();
        progress.latent_use = Some(evaluation.latent_use.clone());
        self.clock.start_epoch();
        let event = Event::EpochEnd {
            train: &train,
            validation: validation.as_ref(),
            latent_use: &evaluation.latent_use,
            is_best,
        };
        let notified = self.deliver(&event, stop);
        if notified.is_err() {
            self.return_before(before);
            return notified;
        }
        let saved = self.save_model(stop);
        self.clock.start_epoch();
        self.recovery.remember(&self.run, &self.steps);
        saved.and(notified)
    }

    /// The images on which the model is evaluated after an epoch.
    fn evaluated(&self) -> &Dataset {
        let Splits {
            train, validation, ..
        } = self.run.splits;
        let instead = self.instead_of_validation.as_ref();
        validation.as_ref().or(instead).unwrap_or(train)
    }

    /// Evaluates with the weights to be used.
    fn evaluate(&mut self) -> Result<Evaluation, TrainError> {
        self.steps.learner.use_averaged()?;
        let Fit {
            vae,
            splits,
            config,
            ..
        } = self.run;
        let evaluation = evaluate_against(
            vae,
            config,
            self.evaluated(),
            splits.train.len(),
            config.objective_in_run(splits.train.len()).settled_step(),
            self.steps.learner.networks(),
            self.steps.learner.group(),
        );
        self.steps.learner.use_raw()?;
        let evaluation = evaluation?;
        let n_steps = self.run.progress.position.steps;
        check_means(&evaluation.means, None, "validation", n_steps)?;
        Ok(evaluation)
    }

    fn train_record(&self, totals: &Totals, seconds: f64) -> Record {
        let Fit {
            config,
            splits,
            progress,
            ..
        } = &self.run;
        let n_train = splits.train.len();
        let n_seen = n_train as f64 * config.passes_per_epoch(n_train) as f64;
        Record {
            beta: self.scheduled("beta"),
            capacity: self.scheduled("capacity"),
            waited: Some(self.clock.epoch_waited.as_secs_f64() / seconds),
            gradient_norm: Some(totals.gradient_norm()),
            learning_rate: Some(progress.learning_rate),
            images_per_s: n_seen / seconds,
            seconds,
            named: totals.named_means(),
            ..Record::new(progress.position, Record::TRAIN, totals.means())
        }
    }

    /// The validation record; none without validation images.
    fn validation_record(&self, evaluation: &Evaluation, seconds: f64) -> Option<Record> {
        self.run.splits.validation.as_ref()?;
        let (vae, means) = (self.run.vae, evaluation.means);
        Some(Record {
            active_units: vae
                .has_encoder()
                .then(|| evaluation.latent_use.active_units()),
            mse: evaluation.mse,
            bits_per_dim: means.elbo.and_then(|elbo| vae.bits_per_dim(elbo)),
            images_per_s: self.evaluated().len() as f64 / seconds,
            seconds,
            named: evaluation.named.clone(),
            ..Record::new(self.run.progress.position, Record::VALIDATION, means)
        })
    }

    /// Undoes the end of an epoch of which not every callback could be notified. A run that is resumed finishes the epoch again
    /// and notifies all callbacks.
    fn return_before(&mut self, before: BeforeEpochEnd) {
        self.run.progress = before.progress;
        self.steps.totals = before.totals;
        self.recovery = before.recovery;
        self.undelivered = Some(before.callbacks);
        self.clock.resume_epoch(before.epoch_seconds);
    }

    /// Fails on NaN or infinity. Otherwise stores this state as the one to roll back to.
    fn check(&mut self) -> Result<(), TrainError> {
        let start = Instant::now();
        self.steps.check_numbers(self.run.progress.position.steps)?;
        self.recovery.remember(&self.run, &self.steps);
        self.engine_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Rolls back to the last good state, or gives up. If checkpoints hold steps that are now undone, writes a checkpoint of the
    /// restored state, which replaces them once it is complete. A run resumed from an older checkpoint would fail and roll back in
    /// the same way.
    fn recover(&mut self, problem: String, step: u64, stop: &AtomicBool) -> Result<(), TrainError> {
        self.undelivered = None;
        self.recovery
            .recover(&mut self.run, &mut self.steps, problem, step)?;
        self.is_within_step = false;
        if !self.saving.any_after(self.run.progress.position)? {
            return Ok(());
        }
        self.run.request_checkpoint();
        self.save_model(stop)
    }

    /// Notifies every callback of an event, with the weights to be used; then writes the checkpoint that one of them requested.
    fn notify(&mut self, event: &Event, stop: &AtomicBool) -> Result<Option<Stop>, TrainError> {
        let notified = self.deliver(event, stop);
        // The end of a run is the last opportunity to save.
        let saved = match notified.is_ok() || matches!(event, Event::FitEnd { .. }) {
            true => self.save_model(stop),
            false => Ok(()),
        };
        notified.and_then(|asked| saved.map(|()| asked))
    }

    /// Notifies every callback of an event, with the weights to be used.
    fn deliver(&mut self, event: &Event, stop: &AtomicBool) -> Result<Option<Stop>, TrainError> {
        self.steps.learner.use_averaged()?;
        let start = Instant::now();
        let asked = self.callbacks.notify(&mut self.run, event, stop);
        self.engine_seconds += start.elapsed().as_secs_f64();
        self.steps.learner.use_raw()?;
        asked
    }

    /// Notifies every callback of a step, with the weights that the optimizer updates.
    fn notify_of_step(&mut self, stop: &AtomicBool) -> Result<Option<Stop>, TrainError> {
        let start = Instant::now();
        let totals = &self.steps.totals;
        let event = Event::StepEnd { totals };
        let asked = self.callbacks.notify(&mut self.run, &event, stop);
        self.engine_seconds += start.elapsed().as_secs_f64();
        if self.run.save_requested {
            self.steps.check_numbers(self.run.progress.position.steps)?;
            self.save_model(stop)?;
        }
        asked
    }

    /// Writes the checkpoint that a callback requested, if any, with the weights to be used.
    fn save_model(&mut self, stop: &AtomicBool) -> Result<(), TrainError> {
        if !std::mem::take(&mut self.run.save_requested) || self.is_within_step {
            return Ok(());
        }
        self.steps.learner.use_averaged()?;
        let start = Instant::now();
        let callbacks = match &self.undelivered {
            Some(states) => states.clone(),
            None => self.callbacks.states(),
        };
        let saved = self.saving.write(
            &mut self.run,
            &self.steps,
            &self.recovery,
            callbacks,
            &self.clock,
            stop,
        );
        self.engine_seconds += start.elapsed().as_secs_f64();
        self.steps.learner.use_raw()?;
        saved
    }
}
