//! `events/`: the run in TensorBoard.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;

use serde_json::Value;

use vae_base::{dotted, read_small};
use vae_run::{Record, RunDir, RunError};
use vae_view::ViewError;
use vae_view::tensorboard::{Bins, EventsFile, Summary};

use crate::{Callback, Event, Fit, Flow, Sounds, TrainError};

/// Bytes of the largest file of sounds.
const LARGEST_SOUND: u64 = 1 << 28;

/// Writes the run for TensorBoard, at the number of optimizer steps done: its hyperparameters, the numbers of each epoch and of
/// the steps within, pictures and the use of the latent dimensions. It reads the pictures in `pictures/` and the sounds in
/// `sounds/`, so it comes after [`Pictures`](crate::Pictures) and [`Sounds`] in the list of callbacks.
///
/// TensorBoard colors what is in one folder alike. So each split has a folder of its own, in which a number has the same name:
/// `train`, `validation` and `train_steps` are three lines of one chart, each of one color in all charts.
///
/// Every process writes files of its own, and TensorBoard discards what earlier files contain about later steps: a resumed run
/// shows each step once.
#[derive(Debug)]
pub struct TensorBoard {
    run_dir: RunDir,
    /// What is not of a split alone.
    file: Option<EventsFile>,
    /// The files of the splits, by their names; each is made when it is first needed.
    splits: BTreeMap<String, EventsFile>,
    /// The step at which this process begins, and the one before its first epoch.
    steps: u64,
    start: u64,
}

impl TensorBoard {
    /// Writes into a run's `events/`.
    #[must_use]
    pub fn new(run_dir: RunDir) -> Self {
        Self {
            run_dir,
            file: None,
            splits: BTreeMap::new(),
            steps: 0,
            start: 0,
        }
    }

    /// Writes the numbers of a record to the folder of its split.
    fn write(&mut self, record: &Record) -> Result<(), TrainError> {
        let file = match self.splits.entry(record.split.clone()) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(place) => {
                let folder = self.run_dir.events().join(&record.split);
                let start = match record.split.as_str() {
                    Record::STEPS => self.steps,
                    _ => self.start,
                };
                place.insert(EventsFile::create(&folder, start)?)
            }
        };
        Ok(file.append(record.step, scalars(record))?)
    }

    /// The sounds of an epoch, by the names in their file names.
    fn sounds(&self, epoch: u64) -> Result<Vec<Summary>, TrainError> {
        let names = Sounds::NAMES.iter();
        let files = names.map(|name| (name, self.run_dir.sound_file(epoch, name)));
        let there = files.filter(|(_, path)| path.is_file());
        there
            .map(|(name, path)| {
                let wav = read_small(&path, LARGEST_SOUND).map_err(RunError::io(&path))?;
                Ok(Summary::sound(&format!("sounds/{name}"), wav))
            })
            .collect()
    }

    /// The pictures of an epoch, by the names in their file names.
    fn pictures(&self, epoch: u64) -> Result<Vec<Summary>, TrainError> {
        let folder = self.run_dir.pictures();
        // The part of `epoch-0003-.png` before the name.
        let start = self.run_dir.picture_file(epoch, "");
        let start = start.file_stem().unwrap_or_default().to_string_lossy();
        let mut pictures = Vec::new();
        for entry in fs::read_dir(&folder).map_err(RunError::io(&folder))? {
            let path = entry.map_err(RunError::io(&folder))?.path();
            let file_name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = file_name
                .strip_prefix(&*start)
                .and_then(|rest| rest.strip_suffix(".png"));
            if let Some(name) = name {
                let png = fs::read(&path).map_err(RunError::io(&path))?;
                let tag = format!("pictures/{name}");
                let picture = Summary::picture(&tag, png).map_err(|source| ViewError::Picture {
                    path: path.clone(),
                    source,
                })?;
                pictures.push(picture);
            }
        }
        pictures.sort_by(|a, b| a.tag().cmp(b.tag()));
        Ok(pictures)
    }
}

impl Callback for TensorBoard {
    fn name(&self) -> &'static str {
        "tensorboard"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let step = run.progress.position.steps;
        match event {
            Event::FitStart => {
                // What comes later than the checkpoint is discarded. The end of the epoch in progress is repeated, so that of
                // this epoch only the steps and the first pictures are kept.
                self.steps = step;
                self.start = run.steps_before_epoch();
                let first = run.config.pictures.first_step;
                let has_first = self.start == 0 && first > 0 && step >= first;
                let start = if has_first { first } else { self.start };
                let mut file = EventsFile::create(&self.run_dir.events(), start)?;
                if step == 0 {
                    let name = self.run_dir.path().display().to_string();
                    file.append(0, vec![Summary::hyperparameters(&name, &settings(run))])?;
                }
                self.file = Some(file);
                self.splits.clear();
            }
            Event::StepsEnd { record } => self.write(record)?,
            Event::StepEnd { .. } if run.is_first_look() => {
                let mut summaries = self.pictures(0)?;
                summaries.extend(self.sounds(0)?);
                if let Some(file) = &mut self.file
                    && !summaries.is_empty()
                {
                    file.append(step, summaries)?;
                }
            }
            Event::EpochEnd {
                train,
                validation,
                latent_use,
                ..
            } => {
                self.write(train)?;
                if let Some(record) = validation {
                    self.write(record)?;
                }
                let mut summaries = vec![Summary::scalar("epoch", train.epoch as f64)];
                if let Some(kl) = &latent_use.kl {
                    let bins = Bins::of(kl);
                    summaries.push(Summary::histogram("latent/kl_per_dimension", &bins));
                }
                summaries.extend(self.pictures(train.epoch)?);
                summaries.extend(self.sounds(train.epoch)?);
                if let Some(file) = &mut self.file {
                    file.append(step, summaries)?;
                }
            }
            _ => {}
        }
        Ok(Flow::Continue)
    }
}

/// The config's values by their dotted keys.
fn settings(run: &Fit) -> BTreeMap<String, Value> {
    let config = serde_json::to_value(run.config.clone().resolved()).unwrap_or_default();
    let entries = |value: &Value| Some(value.as_object()?.clone().into_iter().collect());
    dotted(&config, &entries)
}

/// Every number in a record by its name, such as `elbo`.
fn scalars(record: &Record) -> Vec<Summary> {
    let Ok(Value::Object(numbers)) = serde_json::to_value(record) else {
        return Vec::new();
    };
    let of_the_epoch = ["epoch", "step"];
    numbers
        .iter()
        .filter(|(name, _)| !of_the_epoch.contains(&name.as_str()))
        .filter_map(|(name, value)| Some(Summary::scalar(name, value.as_f64()?)))
        .collect()
}
