//! The training loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use vae_data::Splits;
use vae_data::loader::Batches;
use vae_model::Vae;

use crate::callback::{Callback, Event, Flow};
use crate::metric::{Means, Record, Totals};
use crate::{Evaluation, Optimizer, RunConfig, TrainError, evaluate, train_step};

/// What a run works with, and how far it is; callbacks get it with every event.
#[derive(Debug)]
pub struct Fit<'a> {
    /// The model in training.
    pub vae: &'a Vae,
    /// Its images.
    pub splits: &'a Splits,
    /// The whole experiment.
    pub config: &'a RunConfig,
    /// How far it is.
    pub position: Position,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Whole epochs done.
    pub epochs: u64,
    /// Optimizer steps done.
    pub steps: u64,
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
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why.
    pub stop: Stop,
    /// How far it came.
    pub position: Position,
    /// The held-out record of the epoch with the highest elbo.
    pub best: Option<Record>,
    /// The last epoch's training record.
    pub last_train: Option<Record>,
    /// The last epoch's held-out record.
    pub last_test: Option<Record>,
}

/// Trains `vae` as `config` says.
///
/// Each epoch visits every training image once, in an order that depends on (seed, epoch) alone;
/// the noise of a step depends on (seed, step) alone. After each epoch the held-out images are
/// evaluated. `stop` ends the run after the step in progress.
///
/// # Errors
/// A loss that is no number, a failed callback, libtorch's refusals.
pub fn fit(
    vae: &Vae,
    splits: &Splits,
    config: &RunConfig,
    stop: &AtomicBool,
    callbacks: &mut [Box<dyn Callback + '_>],
) -> Result<Outcome, TrainError> {
    let mut run = Fit {
        vae,
        splits,
        config,
        position: Position::default(),
    };
    let mut optimizer = Optimizer::new(&config.optimizer, vae.trainable_variables());
    let mut outcome = Outcome {
        stop: Stop::Finished,
        position: run.position,
        best: None,
        last_train: None,
        last_test: None,
    };

    let mut ended = send(&run, &Event::FitStart, callbacks)?;
    while ended.is_none() && run.position.epochs < config.training.epochs {
        let start = Instant::now();
        let means = match train_epoch(&mut run, &mut optimizer, stop, callbacks)? {
            Epoch::Done(means) => means,
            Epoch::Cut(reason) => {
                ended = Some(reason);
                break;
            }
        };
        let train = record(&run, "train", means, splits.train.len(), start);

        let start = Instant::now();
        let Evaluation {
            means,
            kl_per_dimension,
        } = evaluate(
            vae,
            &config.objective,
            &splits.test,
            config.training.evaluation_batch_size,
            config.seed,
            run.position.steps,
        )?;
        let test = record(&run, "test", means, splits.test.len(), start);

        let is_best = outcome
            .best
            .as_ref()
            .is_none_or(|best| test.means.elbo > best.means.elbo);
        if is_best {
            outcome.best = Some(test.clone());
        }
        let event = Event::EpochEnd {
            train: &train,
            test: &test,
            kl_per_dimension: &kl_per_dimension,
            is_best,
        };
        ended = send(&run, &event, callbacks)?;
        outcome.last_train = Some(train);
        outcome.last_test = Some(test);
    }
    outcome.stop = ended.unwrap_or(Stop::Finished);
    outcome.position = run.position;
    send(&run, &Event::FitEnd { outcome: &outcome }, callbacks)?;
    Ok(outcome)
}

enum Epoch {
    Done(Means),
    Cut(Stop),
}

fn train_epoch(
    run: &mut Fit,
    optimizer: &mut Optimizer,
    stop: &AtomicBool,
    callbacks: &mut [Box<dyn Callback + '_>],
) -> Result<Epoch, TrainError> {
    let Fit {
        vae,
        splits,
        config,
        ..
    } = *run;
    let batches = Batches::shuffled(
        &splits.train,
        config.training.batch_size,
        vae.device(),
        config.seed,
        run.position.epochs + 1,
    );
    let n_steps = batches.len();
    let mut totals = Totals::new(vae.device());
    for (i, images) in batches.enumerate() {
        let step = run.position.steps;
        let (terms, loss) = train_step(
            vae,
            &config.objective,
            optimizer,
            &images,
            config.seed,
            step,
        )?;
        totals.add(&terms, &loss);
        run.position.steps += 1;

        let event = Event::StepEnd {
            step_in_epoch: i + 1,
            n_steps,
            totals: &totals,
        };
        if let Some(reason) = send(run, &event, callbacks)? {
            return Ok(Epoch::Cut(reason));
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(Epoch::Cut(Stop::Interrupted));
        }
    }
    run.position.epochs += 1;
    let means = totals.means();
    if means.loss.is_finite() {
        Ok(Epoch::Done(means))
    } else {
        Err(TrainError::NonFinite {
            loss: means.loss,
            epoch: run.position.epochs,
            step: run.position.steps,
        })
    }
}

fn record(run: &Fit, split: &str, means: Means, n_images: usize, start: Instant) -> Record {
    let seconds = start.elapsed().as_secs_f64();
    Record {
        epoch: run.position.epochs,
        step: run.position.steps,
        split: split.to_owned(),
        means,
        images_per_s: n_images as f64 / seconds,
        seconds,
        learning_rate: run.config.optimizer.learning_rate(),
    }
}

/// Gives the event to every callback, in order; the run stops if one of them asks for it.
fn send(
    run: &Fit,
    event: &Event,
    callbacks: &mut [Box<dyn Callback + '_>],
) -> Result<Option<Stop>, TrainError> {
    let mut stop = None;
    for callback in callbacks {
        if callback.on_event(run, event)? == Flow::Stop {
            stop = Some(Stop::Callback);
        }
    }
    Ok(stop)
}
