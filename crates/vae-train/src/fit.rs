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
#[derive(Debug)]
pub struct Outcome {
    /// Why it stopped, or what it failed of.
    pub ended: Result<Stop, TrainError>,
    /// How far it came.
    pub position: Position,
    /// The held-out record of the epoch with the highest elbo.
    pub best: Option<Record>,
    /// The last epoch's training record.
    pub last_train: Option<Record>,
    /// The last epoch's held-out record.
    pub last_test: Option<Record>,
}

/// Steps between two looks at whether the loss is still a number; each look waits for the device.
const STEPS_BETWEEN_CHECKS: u64 = 50;

/// Trains `vae` as `config` says.
///
/// Each epoch visits every training image once, in an order that depends on (seed, epoch) alone;
/// the noise of a step depends on (seed, step) alone. After each epoch the held-out images are
/// evaluated. `stop` ends the run after the step in progress.
///
/// The outcome holds the error of a run that failed: a loss that is no number, a failed callback,
/// libtorch's refusals.
pub fn fit(
    vae: &Vae,
    splits: &Splits,
    config: &RunConfig,
    stop: &AtomicBool,
    callbacks: &mut [Box<dyn Callback + '_>],
) -> Outcome {
    let mut run = Fit {
        vae,
        splits,
        config,
        position: Position::default(),
    };
    let mut outcome = Outcome {
        ended: Ok(Stop::Finished),
        position: run.position,
        best: None,
        last_train: None,
        last_test: None,
    };
    outcome.ended = epochs(&mut run, &mut outcome, stop, callbacks);
    outcome.position = run.position;
    if let Err(error) = send(&run, &Event::FitEnd { outcome: &outcome }, callbacks)
        && outcome.ended.is_ok()
    {
        outcome.ended = Err(error);
    }
    outcome
}

fn epochs(
    run: &mut Fit,
    outcome: &mut Outcome,
    stop: &AtomicBool,
    callbacks: &mut [Box<dyn Callback + '_>],
) -> Result<Stop, TrainError> {
    let Fit {
        vae,
        splits,
        config,
        ..
    } = *run;
    let mut optimizer = Optimizer::new(&config.optimizer, vae.trainable_variables());
    let mut asked = send(run, &Event::FitStart, callbacks)?;
    while asked.is_none() && run.position.epochs < config.training.epochs {
        let start = Instant::now();
        let means = match train_epoch(run, &mut optimizer, stop, callbacks)? {
            Epoch::Done(means) => means,
            Epoch::Cut(reason) => return Ok(reason),
        };
        let train = record(run, "train", means, splits.train.len(), start, &optimizer);

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
        let means = finite(means, "test", run.position)?;
        let test = record(run, "test", means, splits.test.len(), start, &optimizer);

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
        asked = send(run, &event, callbacks)?;
        outcome.last_train = Some(train);
        outcome.last_test = Some(test);
    }
    Ok(asked.unwrap_or(Stop::Finished))
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
    let n_steps = batches.len() as u64 * config.training.epochs;
    let mut totals = Totals::new(vae.device());
    for images in batches {
        let images = images?;
        let step = run.position.steps;
        optimizer.scale_learning_rate(config.schedule.factor(step, n_steps));
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

        let asked = send(run, &Event::StepEnd { totals: &totals }, callbacks)?;
        let interrupted = stop.load(Ordering::Relaxed).then_some(Stop::Interrupted);
        let cut = asked.or(interrupted);
        // Also before a cut: weights that are no numbers must not become a checkpoint.
        if cut.is_some() || run.position.steps.is_multiple_of(STEPS_BETWEEN_CHECKS) {
            finite(totals.means(), "train", run.position)?;
        }
        if let Some(reason) = cut {
            return Ok(Epoch::Cut(reason));
        }
    }
    let means = finite(totals.means(), "train", run.position)?;
    run.position.epochs += 1;
    Ok(Epoch::Done(means))
}

/// The means, unless one of them is no number.
fn finite(means: Means, split: &'static str, position: Position) -> Result<Means, TrainError> {
    match [("loss", means.loss), ("elbo", means.elbo)]
        .into_iter()
        .find(|(_, value)| !value.is_finite())
    {
        None => Ok(means),
        Some((metric, value)) => Err(TrainError::NonFinite {
            split,
            metric,
            value,
            step: position.steps,
        }),
    }
}

fn record(
    run: &Fit,
    split: &str,
    means: Means,
    n_images: usize,
    start: Instant,
    optimizer: &Optimizer,
) -> Record {
    let seconds = start.elapsed().as_secs_f64();
    Record {
        epoch: run.position.epochs,
        step: run.position.steps,
        split: split.to_owned(),
        means,
        images_per_s: n_images as f64 / seconds,
        seconds,
        learning_rate: optimizer.learning_rate(),
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
