//! `events/`: the run in TensorBoard.

use std::fs;

use serde_json::Value;

use vae_base::read_small;
use vae_run::{Record, RunDir, RunError};
use vae_view::ViewError;
use vae_view::tensorboard::{Bins, EventsFile, Summary};

use crate::{Callback, Event, Fit, Flow, Sounds, TrainError};

/// Bytes of the largest file of sounds.
const LARGEST_SOUND: u64 = 1 << 28;

/// Writes each epoch's numbers, pictures and use of the latent dimensions for TensorBoard, at the number of optimizer steps done.
/// It reads the pictures in `pictures/` and the sounds in `sounds/`, so it comes after [`Pictures`](crate::Pictures) and
/// [`Sounds`] in the list of callbacks.
///
/// Every process writes a file of its own, and TensorBoard discards what earlier files contain about later steps: a resumed run
/// shows each step once.
#[derive(Debug)]
pub struct TensorBoard {
    run_dir: RunDir,
    file: Option<EventsFile>,
}

impl TensorBoard {
    /// Writes into a run's `events/`.
    #[must_use]
    pub fn new(run_dir: RunDir) -> Self {
        Self {
            run_dir,
            file: None,
        }
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
                // Within an epoch the only event is its end, which is repeated on resume.
                let step = run.steps_before_epoch();
                self.file = Some(EventsFile::create(&self.run_dir.events(), step)?);
            }
            Event::EpochEnd {
                train,
                validation,
                latent_use,
                ..
            } => {
                let mut summaries = scalars(train);
                summaries.extend(validation.map(scalars).unwrap_or_default());
                summaries.push(Summary::scalar("epoch", train.epoch as f64));
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

/// Every number in a record with its tag, such as `elbo/validation`.
fn scalars(record: &Record) -> Vec<Summary> {
    let Ok(Value::Object(numbers)) = serde_json::to_value(record) else {
        return Vec::new();
    };
    let of_the_epoch = ["epoch", "step"];
    numbers
        .iter()
        .filter(|(name, _)| !of_the_epoch.contains(&name.as_str()))
        .filter_map(|(name, value)| {
            let tag = format!("{name}/{}", record.split);
            Some(Summary::scalar(&tag, value.as_f64()?))
        })
        .collect()
}
