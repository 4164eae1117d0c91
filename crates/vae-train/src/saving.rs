//! Writing the checkpoints of a run, and resuming from one.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use vae_data::{Dataset, Splits};
use vae_run::{
    CheckpointState, CheckpointTensors, OpenCheckpoint, Position, ResumeState, RunDir, RunError,
    checkpoint,
};

use crate::clock::Clock;
use crate::fit::device_name;
use crate::full_disk::while_disk_is_full;
use crate::recovery::Recovery;
use crate::steps::Steps;
use crate::{Fit, TrainError};

/// Where a run's checkpoints are written, and the fingerprints of its images.
pub(crate) struct Saving {
    run_dir: Option<RunDir>,
    /// The training and validation images.
    n_images: [usize; 2],
    fingerprints: [Option<u32>; 2],
    /// The sequence number of the newest checkpoint, or of the one that the run was resumed from.
    newest: u64,
}

impl Saving {
    /// Without a folder.
    ///
    /// # Errors
    /// Images that can no longer be read.
    pub(crate) fn new(splits: &Splits) -> Result<Self, TrainError> {
        let validation = splits.validation.as_ref();
        Ok(Self {
            run_dir: None,
            n_images: [splits.train.len(), validation.map_or(0, Dataset::len)],
            fingerprints: [
                Some(splits.train.fingerprint()?),
                validation.map(Dataset::fingerprint).transpose()?,
            ],
            newest: 0,
        })
    }

    pub(crate) fn save_to(&mut self, run_dir: RunDir) {
        self.run_dir = Some(run_dir);
    }

    /// Continues after a checkpoint.
    ///
    /// # Errors
    /// The checkpoint was written with other images.
    pub(crate) fn resume(&mut self, checkpoint: &OpenCheckpoint) -> Result<(), RunError> {
        let state = &checkpoint.state.resume;
        let wanted = [state.n_train_images, state.n_validation_images];
        let counts = self.n_images.into_iter().zip(wanted);
        for (what, (found, wanted)) in ["training", "validation"].into_iter().zip(counts) {
            if found != wanted {
                let problem = format!(
                    "was written with {wanted} {what} images, the data set has {found}: to go on \
                     exactly it must be the same"
                );
                return Err(RunError::run(&checkpoint.folder, problem));
            }
        }
        if self.fingerprints != state.fingerprints {
            let problem = "was written with other images than the data set has now: to go on \
                           exactly they must be the same";
            return Err(RunError::run(&checkpoint.folder, problem));
        }
        self.newest = checkpoint.state.sequence;
        Ok(())
    }

    /// Whether there are checkpoints of later steps than this position.
    pub(crate) fn any_after(&self, position: Position) -> Result<bool, RunError> {
        match &self.run_dir {
            Some(run_dir) => checkpoint::any_after(run_dir, position),
            None => Ok(false),
        }
    }

    /// Writes a checkpoint if the run has a folder. The model must have the weights to be used. On a full disk it waits for
    /// space.
    pub(crate) fn write(
        &mut self,
        run: &mut Fit,
        steps: &Steps,
        recovery: &Recovery,
        callbacks: BTreeMap<String, Value>,
        clock: &Clock,
        stop: &AtomicBool,
    ) -> Result<(), TrainError> {
        let Some(run_dir) = self.run_dir.as_ref().filter(|_| !recovery.is_ruined()) else {
            return Ok(());
        };
        let position = run.progress.position;
        // A run that failed within an epoch was not checked since, so its state must not become a checkpoint.
        steps.check_weights(position.steps)?;
        let [n_train_images, n_validation_images] = self.n_images;
        let state =
            CheckpointState {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                sequence: 0, // `save` counts.
                previous: self.newest,
                position,
                is_whole_epoch: run.steps_of_epoch() == 0,
                validation: run.progress.last_validation.clone().filter(|record| {
                    (record.epoch, record.step) == (position.epochs, position.steps)
                }),
                latent_use: run.progress.latent_use.clone(),
                config: run.config.clone(),
                resume: ResumeState {
                    n_train_images,
                    n_validation_images,
                    fingerprints: self.fingerprints,
                    device: device_name(run.vae.device()),
                    threads: tch::get_num_threads(),
                    processes: steps.learner.group().map_or(1, |group| group.size()),
                    optimizer_steps: steps.learner.optimizer_steps(),
                    players: steps.learner.player_steps(),
                    totals: steps.totals.save(),
                    epoch_seconds: clock.epoch_seconds(),
                    seconds: clock.seconds(),
                    progress: run.progress.clone(),
                    callbacks,
                },
            };
        let tensors = CheckpointTensors {
            rollback: recovery.saved(position),
            ..steps.learner.checkpoint_tensors()
        };
        self.newest = while_disk_is_full(stop, || {
            Ok(checkpoint::save(run_dir, state.clone(), &tensors)?)
        })?;
        run.last_checkpoint = Some(position);
        Ok(())
    }
}
