//! The folder of a run and the names of its files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use vae_base::files::{self, TemporaryName, append_whole, is_temporary};
use vae_base::{read_small, read_small_text, write_whole};

use vae_model::Term;

use crate::{
    Position, Record, RunConfig, RunError, RunLock, RunState, Summary, checkpoint_folder, run_lock,
};

const LOCK_FILE: &str = "run.lock";

/// Bytes of the largest config.
const LARGEST_CONFIG: u64 = 1 << 20;

/// Bytes of the largest `summary.json`, which lists every incident.
const LARGEST_SUMMARY: u64 = 1 << 26;

/// Bytes of the largest `metrics.jsonl`: a million epochs.
const LARGEST_LOG: u64 = 1 << 30;

/// The text of a config file. Larger files than any config are refused.
///
/// # Errors
/// The file system refuses; the file is not regular, too large, or not text.
pub fn read_config(path: &Path) -> io::Result<String> {
    read_small_text(path, LARGEST_CONFIG)
}

/// `origin.json`: where a run comes from.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Origin {
    /// The folders that it was started and resumed in, and those of its config files.
    folders: Vec<PathBuf>,
}

fn without_repetition(folders: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut known = Vec::new();
    for folder in folders {
        if !known.contains(&folder) {
            known.push(folder);
        }
    }
    known
}

/// The folder of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Creates a run in a folder that does not exist yet or is empty, and writes the resolved config to it. The folder
    /// counts as a run as soon as it contains the config, so that a run can be resumed whenever it was killed.
    ///
    /// # Errors
    /// The folder holds files, or cannot be written.
    pub fn create(path: &Path, config: &RunConfig) -> Result<Self, RunError> {
        let run_dir = Self {
            path: path.to_owned(),
        };
        if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            run_dir.fill(config)?;
        } else {
            run_dir.create_whole(config)?;
        }
        Ok(run_dir)
    }

    /// In a folder that exists and cannot be replaced by renaming: it may be the current folder, a mount point or a
    /// link. The config is written last.
    fn fill(&self, config: &RunConfig) -> Result<(), RunError> {
        self.check_empty()?;
        let _lock = self.lock()?;
        self.check_empty()?; // Another process may have been here before the lock.
        let folders = [self.pictures(), self.checkpoints()];
        let filled = folders
            .iter()
            .try_for_each(|folder| fs::create_dir_all(folder).map_err(RunError::io(folder)))
            .and_then(|()| self.write_config(config));
        if filled.is_err() {
            folders.iter().for_each(|folder| {
                let _ = fs::remove_dir(folder);
            });
        }
        filled
    }

    /// Refuses a folder that contains files. What [`Self::fill`] leaves when its process is killed does not count, and
    /// neither does what a new file system contains.
    fn check_empty(&self) -> Result<(), RunError> {
        for entry in fs::read_dir(&self.path).map_err(RunError::io(&self.path))? {
            let path = entry.map_err(RunError::io(&self.path))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_empty = || fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
            let is_nothing = path == self.lock_file()
                || name == "lost+found"
                || is_temporary(&name)
                || [self.pictures(), self.checkpoints()].contains(&path) && is_empty();
            if !is_nothing {
                return Err(self.exists());
            }
        }
        Ok(())
    }

    fn exists(&self) -> RunError {
        RunError::RunExists {
            path: self.path.clone(),
        }
    }

    /// Under a hidden name beside its own, which is then renamed.
    fn create_whole(&self, config: &RunConfig) -> Result<(), RunError> {
        let path = &self.path;
        let parent = files::parent(path);
        fs::create_dir_all(parent).map_err(RunError::io(path))?;
        PARTIAL.remove_abandoned_folders(parent, LOCK_FILE);
        let (partial, _lock) = partial_run(parent).map_err(RunError::io(parent))?;
        let run_dir = Self {
            path: partial.path().to_owned(),
        };
        for folder in [run_dir.pictures(), run_dir.checkpoints()] {
            fs::create_dir(&folder).map_err(RunError::io(folder))?;
        }
        run_dir.write_config(config)?;
        match files::rename_folder(partial.path(), path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(self.exists()),
            Err(error) => Err(RunError::io(path)(error)),
            Ok(()) => {
                let _ = partial.keep(); // It was renamed.
                Ok(())
            }
        }
    }

    /// Prepares an existing run to be resumed with this config: removes its summary and what killed processes left. The
    /// caller must hold the run's lock.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn reopen(&self, config: &RunConfig) -> Result<(), RunError> {
        self.write_config(config)?;
        for folder in [self.pictures(), self.checkpoints()] {
            fs::create_dir_all(&folder).map_err(RunError::io(folder))?;
        }
        for folder in [
            self.path.clone(),
            self.pictures(),
            self.sounds(),
            self.samplers(),
        ] {
            files::remove_abandoned(&folder);
        }
        checkpoint_folder::remove_abandoned(&self.checkpoints());
        PARTIAL.remove_abandoned_folders(files::parent(&self.path), LOCK_FILE);
        let summary = self.summary_file();
        match fs::remove_file(&summary) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(RunError::io(summary)(error)),
            _ => Ok(()),
        }
    }

    fn write_config(&self, config: &RunConfig) -> Result<(), RunError> {
        self.write_origin(config)?;
        let file = self.config_file();
        let text = toml::to_string(&config.clone().resolved())
            .map_err(|error| RunError::run(&file, format!("config as TOML: {error}")))?;
        write_whole(&file, text.as_bytes()).map_err(RunError::io(&file))?;
        let file = self.terms_file();
        let json = serde_json::to_vec_pretty(&config.terms())
            .map_err(|error| RunError::run(&file, error.to_string()))?;
        write_whole(&file, &json).map_err(RunError::io(&file))
    }

    /// Opens an existing run.
    ///
    /// # Errors
    /// The folder does not exist, or is not a run.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        let run_dir = Self {
            path: path.to_owned(),
        };
        if !path.is_dir() {
            return Err(RunError::run(
                path,
                "no such folder; expected the folder of a run",
            ));
        }
        if !run_dir.config_file().is_file() {
            return Err(RunError::run(
                path,
                "not a run: it has no config.toml, which `vae train` writes",
            ));
        }
        Ok(run_dir)
    }

    /// The resolved config of the run. Its data set is looked for in [`Self::data_folders`].
    ///
    /// # Errors
    /// It cannot be read.
    pub fn config(&self) -> Result<RunConfig, RunError> {
        let file = self.config_file();
        let text = read_config(&file).map_err(RunError::io(&file))?;
        let config: Result<RunConfig, _> = toml::from_str(&text);
        let mut config = config.map_err(|error| RunError::run(&file, error.message()))?;
        config.dataset.folders = self.data_folders();
        Ok(config)
    }

    /// Where the relative paths of the run's config may lead beside the current folder: the folders that the run was
    /// started and resumed in, those of its config files, and the three folders above the run's own.
    #[must_use]
    pub fn data_folders(&self) -> Vec<PathBuf> {
        const N_ABOVE: usize = 3;
        // A damaged list, or that of an older version, is none.
        let mut folders = self.origin().unwrap_or_default().folders;
        let whole = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let above = whole.ancestors().skip(1).take(N_ABOVE);
        folders.extend(above.map(Path::to_owned));
        without_repetition(folders)
    }

    fn origin(&self) -> Option<Origin> {
        let json = read_small(&self.origin_file(), LARGEST_CONFIG).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Adds the current folder and that of the config file.
    fn write_origin(&self, config: &RunConfig) -> Result<(), RunError> {
        let mut folders = self.origin().unwrap_or_default().folders;
        folders.extend(std::env::current_dir().ok());
        folders.extend(config.dataset.folders.iter().cloned());
        let folders = without_repetition(folders);
        let file = self.origin_file();
        let json = serde_json::to_vec_pretty(&Origin { folders })
            .map_err(|error| RunError::run(&file, error.to_string()))?;
        write_whole(&file, &json).map_err(RunError::io(&file))
    }

    /// The declarations of the numbers in its records. For runs of versions that did not write them, those of every
    /// run.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn terms(&self) -> Result<Vec<Term>, RunError> {
        let file = self.terms_file();
        let json = match read_small(&file, LARGEST_CONFIG) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Record::terms()),
            read => read.map_err(RunError::io(&file))?,
        };
        serde_json::from_slice(&json).map_err(|error| RunError::run(&file, error.to_string()))
    }

    /// The metrics of the run's epochs so far, in their order; empty before the end of the first epoch.
    ///
    /// # Errors
    /// A line that is not a record. The last line may be incomplete: its writer may be writing it, or have been killed.
    pub fn records(&self) -> Result<Vec<Record>, RunError> {
        let mut records = self.all_records()?;
        records.retain(|record| record.split != Record::STEPS);
        Ok(records)
    }

    /// The metrics within epochs so far ([`Record::STEPS`]), in the order of their steps.
    ///
    /// # Errors
    /// Those of [`Self::records`].
    pub fn step_records(&self) -> Result<Vec<Record>, RunError> {
        let mut records = self.all_records()?;
        records.retain(|record| record.split == Record::STEPS);
        Ok(records)
    }

    fn all_records(&self) -> Result<Vec<Record>, RunError> {
        let file = self.metrics_file();
        let text = match read_small_text(&file, LARGEST_LOG) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(RunError::io(&file))?,
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .enumerate()
            .map(|(i, line)| {
                serde_json::from_str(line).map_err(|error| {
                    RunError::run(&file, format!("line {}: not a record: {error}", i + 1))
                })
            })
            .collect()
    }

    /// Appends lines to `metrics.jsonl`. On an error none are appended.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn append_records<'a>(
        &self,
        records: impl Iterator<Item = &'a Record>,
    ) -> Result<(), RunError> {
        let file = self.metrics_file();
        let mut lines = String::new();
        for record in records {
            let line = serde_json::to_string(record)
                .map_err(|error| RunError::run(&file, error.to_string()))?;
            lines += &(line + "\n");
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .and_then(|mut file| append_whole(&mut file, lines.as_bytes()))
            .map_err(RunError::io(&file))
    }

    /// Removes the lines of later epochs and steps and incomplete lines from `metrics.jsonl`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn cut_records_after(&self, position: Position) -> Result<(), RunError> {
        let file = self.metrics_file();
        let text = match read_small_text(&file, LARGEST_LOG) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            read => read.map_err(RunError::io(&file))?,
        };
        let is_before = |record: Record| match record.split.as_str() {
            Record::STEPS => record.step <= position.steps,
            _ => record.epoch <= position.epochs,
        };
        let kept: String = text
            .lines()
            .filter(|line| serde_json::from_str(line).is_ok_and(is_before))
            .map(|line| line.to_owned() + "\n")
            .collect();
        if kept == text {
            return Ok(());
        }
        write_whole(&file, kept.as_bytes()).map_err(RunError::io(&file))
    }

    /// `summary.json`, which a run has once it has ended, unless it was killed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn summary(&self) -> Result<Option<Summary>, RunError> {
        let file = self.summary_file();
        let json = match read_small(&file, LARGEST_SUMMARY) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(RunError::io(&file))?,
        };
        serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| RunError::run(&file, error.to_string()))
    }

    /// Writes `summary.json`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write_summary(&self, summary: &Summary) -> Result<(), RunError> {
        let file = self.summary_file();
        let json = serde_json::to_vec_pretty(summary)
            .map_err(|error| RunError::run(&file, error.to_string()))?;
        write_whole(&file, &json).map_err(RunError::io(&file))
    }

    /// Makes this process the one that trains the run, until the lock is dropped.
    ///
    /// On a file system without locks the returned lock excludes nobody, and a warning is logged.
    ///
    /// # Errors
    /// Another process (or another part of this one) holds the lock; the file cannot be written.
    pub fn lock(&self) -> Result<RunLock, RunError> {
        RunLock::take(&self.lock_file(), &self.path)
    }

    /// Whether a process trains the run; if none does, the state in its summary. Changes nothing in the folder,
    /// which may be read-only.
    ///
    /// # Errors
    /// The summary cannot be read.
    pub fn state(&self) -> Result<RunState, RunError> {
        let is_locked = run_lock::is_locked(&self.lock_file());
        if is_locked == Some(true) {
            return Ok(RunState::Running);
        }
        match self.summary()? {
            None if is_locked.is_none() => Ok(RunState::Unknown),
            None => Ok(RunState::Stopped),
            Some(summary) => [RunState::Finished, RunState::Interrupted, RunState::Failed]
                .into_iter()
                .find(|state| state.name() == summary.state)
                .ok_or_else(|| {
                    let problem = format!(
                        "state: found {:?}, wanted \"finished\", \"interrupted\" or \"failed\"",
                        summary.state
                    );
                    RunError::run(self.summary_file(), problem)
                }),
        }
    }

    /// Checks by writing a file that files can be written to the folder. For commands that write their results only
    /// after hours.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn check_writable(&self) -> Result<(), RunError> {
        files::check_writable(&self.path).map_err(RunError::io(&self.path))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.toml`.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `summary.json`.
    #[must_use]
    pub fn summary_file(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// `metrics.jsonl`.
    #[must_use]
    pub fn metrics_file(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `terms.json`: the declarations of the numbers in `metrics.jsonl`, with unit and better direction.
    #[must_use]
    pub fn terms_file(&self) -> PathBuf {
        self.path.join("terms.json")
    }

    /// `origin.json`: the folders that the run was started and resumed in.
    #[must_use]
    pub fn origin_file(&self) -> PathBuf {
        self.path.join("origin.json")
    }

    /// `run.lock`.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.path.join(LOCK_FILE)
    }

    /// `attributes.lock`, held while `attributes.safetensors` is changed.
    #[must_use]
    pub fn attributes_lock_file(&self) -> PathBuf {
        self.path.join("attributes.lock")
    }

    /// `curves.png`.
    #[must_use]
    pub fn curves_file(&self) -> PathBuf {
        self.path.join("curves.png")
    }

    /// `events/`, for TensorBoard.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// `checkpoints/`.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// `pictures/`.
    #[must_use]
    pub fn pictures(&self) -> PathBuf {
        self.path.join("pictures")
    }

    /// `sounds/`, of a model of sound.
    #[must_use]
    pub fn sounds(&self) -> PathBuf {
        self.path.join("sounds")
    }

    /// Sounds of an epoch, `sounds/epoch-0003-samples.wav`.
    #[must_use]
    pub fn sound_file(&self, epoch: u64, name: &str) -> PathBuf {
        self.sounds().join(format!("epoch-{epoch:04}-{name}.wav"))
    }

    /// `samplers/`, the fitted samplers.
    #[must_use]
    pub fn samplers(&self) -> PathBuf {
        self.path.join("samplers")
    }

    /// `texts/`, of a model of texts.
    #[must_use]
    pub fn texts(&self) -> PathBuf {
        self.path.join("texts")
    }

    /// The texts of an epoch, `texts/epoch-0003.txt`.
    #[must_use]
    pub fn text_file(&self, epoch: u64) -> PathBuf {
        self.texts().join(format!("epoch-{epoch:04}.txt"))
    }

    /// A picture of an epoch, `pictures/epoch-0003-manifold.png`.
    #[must_use]
    pub fn picture_file(&self, epoch: u64, name: &str) -> PathBuf {
        self.pictures().join(format!("epoch-{epoch:04}-{name}.png"))
    }
}

/// The name of a new run's folder until it is complete.
const PARTIAL: TemporaryName = TemporaryName {
    prefix: ".run-",
    suffix: "",
};

/// A folder for a new run, with its lock, which shows that its process is alive.
fn partial_run(parent: &Path) -> io::Result<(TempDir, RunLock)> {
    loop {
        let partial = PARTIAL.folder_in(parent)?;
        let path = partial.path().join(LOCK_FILE);
        let file = File::create(&path)?;
        if files::lock_new(&file, &path) {
            return Ok((partial, RunLock { file }));
        }
    }
}
