//! Checkpoints: folders with everything that is needed to resume a run or to use its model.
//!
//! ```text
//! checkpoints/epoch-0003-step-00005625/
//!     weights.safetensors        the model as it was evaluated (with the averaged weights, if there are any)
//!     raw-weights.safetensors    only with averaged weights: the weights that the optimizer updates
//!     optimizer.safetensors      the optimizer's moments
//!     players.safetensors        only with players beside the model: `players/NAME/…`
//!     rollback.safetensors       only inside an epoch: the states to roll back to after a NaN
//!     state.json                 CheckpointState
//!     SHA256SUMS                 sums of the files above, in the format of `sha256sum -c`
//! checkpoints/last, best         links for people; nothing here reads them
//! ```
//!
//! A checkpoint is written to a hidden folder, synced, and renamed, so that under its final name it is complete. To
//! be deleted, it is first renamed to a hidden folder.
//!
//! Checkpoints are ordered by the sequence number under which they were written, not by their steps. After a
//! rollback, the checkpoints of the abandoned steps have lower numbers, and are deleted.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Tensor;
use tracing::warn;
use vae_base::files::sync_folder;
use vae_base::{read_small, write_whole};
use vae_model::{
    SUMS_FILE, Vae, WEIGHTS_FILE, read_tensors, sha256, verify_sums, write_sums, write_tensors,
};

use crate::checkpoint_folder::{
    PARTIAL_SUFFIX, delete, free_name, parse_folder_name, remove_folder,
};
use crate::{
    LatentUse, Position, Progress, Ranking, Record, RunConfig, RunDir, RunError, SavedRecovery,
    SavedTotals,
};

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// The newest.
    Last,
    /// The one with the best validation metric, by `checkpoints.metric` of the config; without validation images the
    /// one of the last complete epoch.
    Best,
}

/// The state of a run in a checkpoint (`state.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// The version of this crate that wrote it.
    pub version: String,
    /// The number of this checkpoint among those that the run has written, from 1; 0 in checkpoints of versions that
    /// did not count.
    #[serde(default)]
    pub sequence: u64,
    /// The sequence number of the checkpoint that the run wrote before or was resumed from, or 0. Checkpoints with
    /// numbers between the two were damaged and skipped.
    #[serde(default)]
    pub previous: u64,
    /// How far the run was.
    pub position: Position,
    /// Whether it was written after an epoch, not inside one.
    pub is_whole_epoch: bool,
    /// The validation record of these weights; none inside an epoch, or without validation images.
    pub validation: Option<Record>,
    /// How much each latent dimension was used at the last evaluation; none before the first one.
    pub latent_use: Option<LatentUse>,
    /// The experiment.
    pub config: RunConfig,
    /// What is needed to resume the run, besides the tensors.
    pub resume: ResumeState,
}

impl CheckpointState {
    /// The position of the run and its results so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            position: self.position,
            latent_use: self.latent_use.clone(),
            ..self.resume.progress.clone()
        }
    }
}

/// What is needed to resume a run, besides the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResumeState {
    /// The number of training images, by which another data set is recognized.
    pub n_train_images: usize,
    /// The number of validation images.
    pub n_validation_images: usize,
    /// [`vae_data::Dataset::fingerprint`] of both.
    pub fingerprints: [Option<u32>; 2],
    /// The device, `"cpu"` or `"cuda:0"`. On another one, or with another number of CPU threads, the same steps give
    /// slightly different results.
    pub device: String,
    /// The number of CPU threads of libtorch.
    pub threads: i32,
    /// The number of processes that shared the steps; with another one, too, the results differ slightly.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub processes: usize,
    /// The number of steps of the model's optimizer.
    pub optimizer_steps: u64,
    /// The numbers of steps of the optimizers of the other players.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub players: BTreeMap<String, u64>,
    /// Sums over the epoch in progress.
    pub totals: SavedTotals,
    /// Seconds of training in the epoch in progress.
    pub epoch_seconds: f64,
    /// Seconds since the start, without the time between runs.
    pub seconds: f64,
    /// The run's results so far.
    #[serde(flatten)]
    pub progress: Progress,
    /// The state of each callback, by its name.
    pub callbacks: BTreeMap<String, Value>,
}

fn one() -> usize {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(n: &usize) -> bool {
    *n == 1
}

/// The tensors of a checkpoint.
#[derive(Debug)]
pub struct CheckpointTensors<'a> {
    /// The model with the weights to be used.
    pub vae: &'a Vae,
    /// The weights that the optimizer updates, if they differ from the model's.
    pub raw_weights: Option<Vec<(String, Tensor)>>,
    /// The moments of the model's optimizer.
    pub optimizer: Vec<(String, Tensor)>,
    /// Weights, moments and averages of the other players; their names begin with `players/NAME/`.
    pub players: Vec<(String, Tensor)>,
    /// The states to roll back to after a NaN, if they differ from this one.
    pub rollback: Option<SavedRecovery>,
}

const RAW_WEIGHTS_FILE: &str = "raw-weights.safetensors";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const PLAYERS_FILE: &str = "players.safetensors";
const ROLLBACK_FILE: &str = "rollback.safetensors";
const STATE_FILE: &str = "state.json";

/// Bytes of the largest state file, which lists every incident.
const LARGEST_STATE: u64 = 1 << 26;

/// A checkpoint that was read and found complete.
#[derive(Debug)]
pub struct OpenCheckpoint {
    /// Its folder; [`Vae::load`] reads the model from there.
    pub folder: PathBuf,
    /// Its state.
    pub state: CheckpointState,
}

impl OpenCheckpoint {
    /// The name of its folder, as `epoch-0003-step-00005625`.
    #[must_use]
    pub fn name(&self) -> String {
        // `best` is a link to it.
        let folder = fs::canonicalize(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let name = folder.file_name().unwrap_or(folder.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// The SHA-256 of the model's weights. It identifies the weights from which something else was learned.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn weights_digest(&self) -> Result<String, RunError> {
        Ok(sha256(&self.folder.join(WEIGHTS_FILE))?)
    }

    /// Whether the folder is a checkpoint in the folder of a run.
    pub(crate) fn is_in_run(folder: &Path) -> bool {
        let run = run_of(folder);
        folder.join(SUMS_FILE).is_file()
            && run.is_ok_and(|run| run.is_some_and(|run| RunDir::open(&run).is_ok()))
    }

    /// The checkpoint in this folder, which need not be that of a run: a copy of one.
    ///
    /// # Errors
    /// The checkpoint is damaged.
    pub fn copy_in(folder: &Path) -> Result<Self, RunError> {
        Ok(Self {
            folder: folder.to_owned(),
            state: verify(folder)?,
        })
    }

    /// The checkpoint in this folder, and the run that it belongs to; none if the folder is not a checkpoint.
    ///
    /// # Errors
    /// The checkpoint is damaged, or does not belong to a run.
    pub fn at(folder: &Path) -> Result<Option<(RunDir, Self)>, RunError> {
        if !folder.join(SUMS_FILE).is_file() {
            return Ok(None);
        }
        let Some(run) = run_of(folder).map_err(RunError::io(folder))? else {
            return Err(RunError::run(
                folder,
                "a checkpoint that does not belong to a run",
            ));
        };
        let run_dir = RunDir::open(&run)?;
        let checkpoint = Self {
            folder: folder.to_owned(),
            state: verify(folder)?,
        };
        Ok(Some((run_dir, checkpoint)))
    }

    /// The weights that the optimizer updates, if they differ from the model's.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn raw_weights(&self) -> Result<Option<BTreeMap<String, Tensor>>, RunError> {
        let file = self.folder.join(RAW_WEIGHTS_FILE);
        if !file.exists() {
            return Ok(None);
        }
        Ok(Some(read_tensors(&file)?.tensors))
    }

    /// The optimizer's moments.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn optimizer(&self) -> Result<BTreeMap<String, Tensor>, RunError> {
        Ok(read_tensors(&self.folder.join(OPTIMIZER_FILE))?.tensors)
    }

    /// [`CheckpointTensors::players`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn players(&self) -> Result<BTreeMap<String, Tensor>, RunError> {
        let file = self.folder.join(PLAYERS_FILE);
        if !file.exists() {
            return Ok(BTreeMap::new());
        }
        Ok(read_tensors(&file)?.tensors)
    }

    /// The states to roll back to after a NaN, if they differ from this one.
    ///
    /// # Errors
    /// The file cannot be read, or holds states of another version.
    pub fn rollback(&self) -> Result<Option<SavedRecovery>, RunError> {
        let path = self.folder.join(ROLLBACK_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let file = read_tensors(&path)?;
        let unknown = |problem: String| {
            RunError::run(
                &path,
                format!("not rollback states of this version: {problem}"),
            )
        };
        let states = file
            .metadata
            .get(STATES_KEY)
            .ok_or_else(|| unknown(format!("no entry {STATES_KEY}")))?;
        Ok(Some(SavedRecovery {
            states: serde_json::from_str(states).map_err(|error| unknown(error.to_string()))?,
            tensors: file.tensors.into_iter().collect(),
        }))
    }
}

/// The folder two levels above a checkpoint's. Links, such as `best`, are resolved first.
fn run_of(checkpoint: &Path) -> io::Result<Option<PathBuf>> {
    let real = fs::canonicalize(checkpoint)?;
    Ok(real.parent().and_then(Path::parent).map(Path::to_owned))
}

/// The metadata key of [`ROLLBACK_FILE`].
const STATES_KEY: &str = "states";

/// Writes a checkpoint of a run, then deletes those that the config does not keep. Returns its sequence number.
///
/// # Errors
/// The file system refuses; earlier checkpoints are then unchanged.
pub fn save(
    run_dir: &RunDir,
    mut state: CheckpointState,
    tensors: &CheckpointTensors,
) -> Result<u64, RunError> {
    let root = run_dir.checkpoints();
    let newest = list(run_dir)?.iter().map(|entry| entry.sequence).max();
    state.sequence = newest.unwrap_or(0).max(state.previous).saturating_add(1);
    let name = free_name(&root, state.position);
    let partial = root.join(format!(".{name}{PARTIAL_SUFFIX}"));
    remove_folder(&partial)?;
    let written = write_files(&partial, &state, tensors);
    if written.is_err() {
        // A partial checkpoint must not occupy a full disk.
        let _ = fs::remove_dir_all(&partial);
    }
    written?;

    let folder = root.join(name);
    fs::rename(&partial, &folder).map_err(RunError::io(&partial))?;
    sync_folder(&root).map_err(RunError::io(&root))?;

    // The new checkpoint is safe: an error with the others must not end the run.
    let entries = list(run_dir)?;
    let ranking = state.config.ranking(&state.config.checkpoint_metric());
    let (kept, superseded) = sort_out(entries, state.config.checkpoints.keep, &ranking);
    link(&root, "last", kept.first());
    link(&root, "best", best_of(&kept, &ranking));
    for entry in superseded {
        if let Err(error) = delete(&entry.folder) {
            warn!("{}: cannot be deleted", with_causes(&error));
        }
    }
    Ok(state.sequence)
}

/// Whether a run has a checkpoint of a later step than this position.
///
/// # Errors
/// Its folder cannot be read.
pub fn any_after(run_dir: &RunDir, position: Position) -> Result<bool, RunError> {
    let entries = list(run_dir)?;
    Ok(entries.iter().any(|entry| entry.position > position))
}

fn write_files(
    folder: &Path,
    state: &CheckpointState,
    tensors: &CheckpointTensors,
) -> Result<(), RunError> {
    fs::create_dir_all(folder).map_err(RunError::io(folder))?;
    tensors.vae.save(folder.join(WEIGHTS_FILE))?;
    let mut names = vec![WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE];
    if let Some(raw) = &tensors.raw_weights {
        write_tensors(&folder.join(RAW_WEIGHTS_FILE), raw, &[])?;
        names.push(RAW_WEIGHTS_FILE);
    }
    write_tensors(&folder.join(OPTIMIZER_FILE), &tensors.optimizer, &[])?;
    if !tensors.players.is_empty() {
        write_tensors(&folder.join(PLAYERS_FILE), &tensors.players, &[])?;
        names.push(PLAYERS_FILE);
    }
    if let Some(SavedRecovery { states, tensors }) = &tensors.rollback {
        let file = folder.join(ROLLBACK_FILE);
        let states = serde_json::to_string(states)
            .map_err(|error| RunError::run(&file, error.to_string()))?;
        write_tensors(&file, tensors, &[(STATES_KEY, &states)])?;
        names.push(ROLLBACK_FILE);
    }
    let file = folder.join(STATE_FILE);
    let json = serde_json::to_vec_pretty(state)
        .map_err(|error| RunError::run(&file, error.to_string()))?;
    write_whole(&file, &json).map_err(RunError::io(&file))?;
    write_sums(folder, &names)?;
    sync_folder(folder).map_err(RunError::io(folder))
}

impl Checkpoint {
    /// Whether a run has any checkpoint.
    ///
    /// # Errors
    /// Its folder cannot be read.
    pub fn any(run_dir: &RunDir) -> Result<bool, RunError> {
        Ok(!list(run_dir)?.is_empty())
    }

    /// The newest or best complete checkpoint. Damaged ones are skipped with a warning.
    ///
    /// # Errors
    /// The run has no such checkpoint, or only damaged ones.
    pub fn open(self, run_dir: &RunDir) -> Result<OpenCheckpoint, RunError> {
        let mut entries = list(run_dir)?;
        if self == Self::Best {
            let config = run_dir.config()?;
            let ranking = config.ranking(&config.checkpoint_metric());
            // A checkpoint with an unreadable state may be the best. It comes first, and is then found to be damaged.
            entries.retain(|entry| entry.is_whole_epoch || !entry.is_readable);
            if entries.iter().any(|entry| entry.validation.is_some()) {
                entries.reverse(); // Of equal ones the oldest is best, as in `best_of`.
                // Best first.
                entries.sort_by(|a, b| ranking.order(b.value(&ranking), a.value(&ranking)));
            }
        }
        if entries.is_empty() {
            let problem = match self {
                Self::Last => "no checkpoint; a run has one after its first epoch",
                Self::Best => {
                    "no checkpoint of a whole epoch; a run has one after its first (--checkpoint last \
                     takes that of an interruption, too)"
                }
            };
            return Err(RunError::run(run_dir.checkpoints(), problem));
        }
        let mut damages = Vec::new();
        for entry in entries {
            match verify(&entry.folder) {
                Ok(state) => {
                    for damage in &damages {
                        warn!(
                            "{damage}: skipped, {} is used instead",
                            entry.folder.display()
                        );
                    }
                    return Ok(OpenCheckpoint {
                        folder: entry.folder,
                        state,
                    });
                }
                Err(error) => damages.push(with_causes(&error)),
            }
        }
        Err(RunError::run(
            run_dir.checkpoints(),
            format!("every checkpoint is damaged: {}", damages.join("; ")),
        ))
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Reads a checkpoint's state after checking the sums of all its files.
fn verify(folder: &Path) -> Result<CheckpointState, RunError> {
    verify_sums(folder, &[WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE])?;
    let state_file = folder.join(STATE_FILE);
    let json = read_small(&state_file, LARGEST_STATE).map_err(RunError::io(&state_file))?;
    serde_json::from_slice(&json).map_err(|error| {
        RunError::run(&state_file, format!("not a state of this version: {error}"))
    })
}

/// A checkpoint folder, found by its name.
#[derive(Clone, Debug)]
struct Entry {
    folder: PathBuf,
    position: Position,
    /// [`CheckpointState::sequence`] and [`CheckpointState::previous`]; 0 if the state cannot be read.
    sequence: u64,
    previous: u64,
    /// Whether its state can be read. If not, it is damaged or of another version.
    is_readable: bool,
    is_whole_epoch: bool,
    validation: Option<Record>,
}

impl Entry {
    fn value(&self, ranking: &Ranking) -> Option<f64> {
        self.validation
            .as_ref()
            .and_then(|record| ranking.of(record))
    }
}

/// The run's checkpoints, newest first.
fn list(run_dir: &RunDir) -> Result<Vec<Entry>, RunError> {
    /// The part of a state that is needed here, so that a checkpoint of another version is still listed.
    #[derive(Deserialize)]
    struct Brief {
        #[serde(default)]
        sequence: u64,
        #[serde(default)]
        previous: u64,
        is_whole_epoch: bool,
        validation: Option<Record>,
    }
    let root = run_dir.checkpoints();
    let folders = match fs::read_dir(&root) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RunError::io(&root)(error)),
    };
    let mut entries = Vec::new();
    for folder in folders {
        let folder = folder.map_err(RunError::io(&root))?.path();
        let Some(position) = folder
            .file_name()
            .and_then(|name| parse_folder_name(name.to_str()?))
        else {
            continue;
        };
        let brief = read_small(&folder.join(STATE_FILE), LARGEST_STATE)
            .ok()
            .and_then(|json| serde_json::from_slice::<Brief>(&json).ok());
        entries.push(Entry {
            folder,
            position,
            sequence: brief.as_ref().map_or(0, |brief| brief.sequence),
            previous: brief.as_ref().map_or(0, |brief| brief.previous),
            is_readable: brief.is_some(),
            is_whole_epoch: brief.as_ref().is_some_and(|brief| brief.is_whole_epoch),
            validation: brief.and_then(|brief| brief.validation),
        });
    }
    // One that cannot be read has no number. It is placed before those that are not further.
    let (mut readable, unreadable): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| entry.is_readable);
    readable.sort_by_key(|entry| Reverse((entry.sequence, entry.position)));
    for entry in unreadable {
        let place = readable
            .iter()
            .position(|other| other.position <= entry.position)
            .unwrap_or(readable.len());
        readable.insert(place, entry);
    }
    Ok(readable)
}

/// Splits checkpoints, newest first, into those to keep and those to delete. Of the checkpoints that led to the
/// newest, which was just written, the newest `keep` and the best stay.
fn sort_out(entries: Vec<Entry>, keep: usize, ranking: &Ranking) -> (Vec<Entry>, Vec<Entry>) {
    let (mut line, mut superseded) = line_of_newest(entries);
    let best = best_of(&line, ranking).map(|entry| entry.folder.clone());
    let mut index = 0;
    let (kept, older) = line.drain(..).partition(|entry| {
        index += 1;
        index <= keep || Some(&entry.folder) == best.as_ref()
    });
    let kept: Vec<Entry> = kept;
    // While there are too few others, an unreadable one stays: the cause may be temporary.
    superseded.retain(|entry| entry.is_readable || kept.len() >= keep);
    superseded.extend::<Vec<_>>(older);
    (kept, superseded)
}

/// The newest checkpoint and those that led to it, and all others: of steps undone by a rollback, damaged and
/// skipped, or unreadable.
fn line_of_newest(entries: Vec<Entry>) -> (Vec<Entry>, Vec<Entry>) {
    let mut next: Option<(u64, Position)> = None;
    entries.into_iter().partition(|entry| {
        let leads_to_next = entry.is_readable
            && next.is_none_or(|(previous, position)| {
                entry.sequence <= previous && entry.position < position
            });
        if leads_to_next {
            next = Some((entry.previous, entry.position));
        }
        leads_to_next
    })
}

/// The entry with the best validation metric, from a list with the newest first; of equal ones the oldest. Without
/// validation images it is the newest one after a complete epoch.
fn best_of<'a>(entries: &'a [Entry], ranking: &Ranking) -> Option<&'a Entry> {
    entries
        .iter()
        .filter(|entry| entry.validation.is_some())
        .max_by(|a, b| ranking.order(a.value(ranking), b.value(ranking)))
        .or_else(|| entries.iter().find(|entry| entry.is_whole_epoch))
}

/// Makes a link to a checkpoint, for people. If that fails, as on file systems without links, there is a warning the
/// first time.
fn link(root: &Path, name: &str, entry: Option<&Entry>) {
    #[cfg(unix)]
    if let Some(target) = entry.and_then(|entry| entry.folder.file_name()) {
        let link = root.join(name);
        let partial = root.join(format!(".{name}{PARTIAL_SUFFIX}"));
        let _ = fs::remove_file(&partial);
        let made =
            std::os::unix::fs::symlink(target, &partial).and_then(|()| fs::rename(&partial, &link));
        if let Err(error) = made {
            let _ = fs::remove_file(&link); // It would point to another checkpoint.
            static WARNING: Once = Once::new();
            WARNING.call_once(|| {
                warn!(
                    "{}: no link to {} could be made ({error}). Links are for people, nothing else needs \
                     them",
                    link.display(),
                    target.to_string_lossy()
                );
            });
        }
    }
    #[cfg(not(unix))]
    let _ = (root, name, entry);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint_folder::folder_name;
    use crate::{Means, Metric};

    fn entry(epochs: u64, elbo: Option<f64>) -> Entry {
        let means = |elbo: f64| Means {
            elbo: Some(elbo),
            reconstruction: Some(-elbo),
            kl: Some(0.0),
            loss: -elbo,
        };
        let position = Position {
            epochs,
            steps: 10 * epochs,
        };
        Entry {
            folder: folder_name(position).into(),
            position,
            sequence: epochs,
            previous: epochs - 1,
            is_readable: true,
            is_whole_epoch: true,
            validation: elbo.map(|elbo| Record::new(position, Record::VALIDATION, means(elbo))),
        }
    }

    fn epochs(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.position.epochs).collect()
    }

    #[test]
    fn the_newest_and_the_best_stay() {
        let entries = vec![
            entry(5, Some(-9.0)),
            entry(4, None),
            entry(3, Some(-7.0)),
            entry(2, Some(-7.0)),
            entry(1, Some(-8.0)),
        ];
        let (kept, gone) = sort_out(entries.clone(), 2, &Metric::Elbo.ranking(&[]));
        // Of the two equal ones the older is the best.
        assert_eq!((epochs(&kept), epochs(&gone)), (vec![5, 4, 2], vec![3, 1]));
        // Of the loss, the lowest is best.
        let (kept, _) = sort_out(entries, 1, &Metric::Loss.ranking(&[]));
        assert_eq!(epochs(&kept), [5, 2]);
    }

    /// An entry written as number `sequence` after `previous`, at a step of the first epoch.
    fn amid(sequence: u64, previous: u64, steps: u64) -> Entry {
        let position = Position { epochs: 0, steps };
        Entry {
            folder: format!("{sequence}").into(),
            position,
            sequence,
            previous,
            ..entry(1, None)
        }
    }

    fn kept(entries: &[Entry], keep: usize) -> Vec<u64> {
        let (kept, _) = sort_out(entries.to_vec(), keep, &Metric::Elbo.ranking(&[]));
        kept.iter().map(|entry| entry.sequence).collect()
    }

    #[test]
    fn what_an_abandoned_branch_wrote_goes_and_what_came_before_it_stays() {
        // At step 583 the run rolled back to step 550, and wrote a checkpoint there.
        let mut entries = vec![
            amid(4, 3, 550),
            amid(3, 2, 583),
            amid(2, 1, 560),
            amid(1, 0, 500),
        ];
        assert_eq!(kept(&entries, 1), [4]);
        assert_eq!(kept(&entries, 3), [4, 1]);
        // The same if the process ended before it could delete them, and the run was resumed.
        entries.insert(0, amid(5, 4, 590));
        assert_eq!(kept(&entries, 1), [5]);
        assert_eq!(kept(&entries, 4), [5, 4, 1]);
    }

    #[test]
    fn a_checkpoint_written_after_a_damaged_one_was_skipped_stays() {
        let damaged = amid(3, 2, 583);
        for position in [570, 583, 590] {
            let entries = [
                amid(4, 2, position),
                damaged.clone(),
                amid(2, 1, 560),
                amid(1, 0, 500),
            ];
            assert_eq!(kept(&entries, 1), [4]);
            assert_eq!(kept(&entries, 2), [4, 2]);
        }
        // The numbers in a damaged state are not trusted.
        let entries = [
            amid(93, 3, 590),
            amid(92, 0, 5),
            amid(3, 2, 583),
            amid(2, 1, 560),
        ];
        assert_eq!(kept(&entries, 3), [93, 3, 2]);
    }

    #[test]
    fn one_that_cannot_be_read_stays_only_while_there_are_too_few_others() {
        let unreadable = Entry {
            is_readable: false,
            ..amid(0, 0, 570)
        };
        let entries = vec![amid(2, 1, 580), unreadable, amid(1, 0, 560)];
        for (keep, gone) in [(1, vec![570, 560]), (2, vec![570]), (3, vec![])] {
            let (_, superseded) = sort_out(entries.clone(), keep, &Metric::Elbo.ranking(&[]));
            let steps: Vec<u64> = superseded
                .iter()
                .map(|entry| entry.position.steps)
                .collect();
            assert_eq!(steps, gone, "keep {keep}");
        }
    }

    /// A record as JSON, of this epoch.
    fn record_json(epoch: u64, split: &str) -> Value {
        let means = Means {
            elbo: Some(-9.25),
            reconstruction: Some(8.0),
            kl: Some(1.25),
            loss: 9.25,
        };
        let position = Position {
            epochs: epoch,
            steps: 3 * epoch,
        };
        serde_json::to_value(Record::new(position, split, means)).expect("JSON")
    }

    #[test]
    fn the_layout_of_a_state_is_that_of_the_versions_before() {
        let config: RunConfig = toml::from_str("[dataset.idx]\nfolder = 'x'").expect("a config");
        let json = serde_json::json!({
            "version": "0.1.0",
            "sequence": 2,
            "previous": 1,
            "position": { "epochs": 2, "steps": 6 },
            "is_whole_epoch": true,
            "validation": record_json(2, Record::VALIDATION),
            "latent_use": { "kl": [0.5, 0.1], "center_variance": [0.25, 0.0], "n_images": 12 },
            "config": config,
            "resume": {
                "n_train_images": 22,
                "n_validation_images": 7,
                "fingerprints": [1, 4294967295_u32],
                "device": "cpu",
                "threads": 1,
                "optimizer_steps": 6,
                "totals": { "sums": [0.1, 0.2, 0.30000000000000004, 0.0], "n_images": 8, "has_kl": true },
                "epoch_seconds": 0.125,
                "seconds": 1.5,
                "learning_rate_scale": 0.5,
                "learning_rate": 0.0005,
                "incidents": [{
                    "problem": "the training loss became NaN",
                    "step": 5,
                    "returned_to_step": 3,
                    "learning_rate_scale": 0.5,
                }],
                "best": record_json(1, Record::VALIDATION),
                "last_train": record_json(2, Record::TRAIN),
                "last_validation": null,
                "callbacks": { "counts": 2 },
            },
        });
        let text = json.to_string();
        let state: CheckpointState = serde_json::from_str(&text).expect("a state");
        let progress = state.progress();
        assert_eq!((progress.position.epochs, progress.position.steps), (2, 6));
        assert_eq!(
            progress.latent_use.as_ref().map(LatentUse::active_units),
            Some(1)
        );
        assert_eq!(progress.learning_rate, 0.0005);
        assert_eq!(progress.incidents[0].returned_to_step, 3);
        assert_eq!(progress.best.as_ref().map(|record| record.epoch), Some(1));
        assert!(progress.last_validation.is_none());
        assert_eq!(serde_json::to_value(&state).expect("JSON"), json);
    }

    #[test]
    fn nan_is_never_best() {
        let entries = vec![entry(2, Some(f64::NAN)), entry(1, Some(-8.0))];
        let best = |metric| best_of(&entries, metric).expect("one").position.epochs;
        assert_eq!(
            (
                best(&Metric::Elbo.ranking(&[])),
                best(&Metric::Loss.ranking(&[]))
            ),
            (1, 1)
        );
    }
}
