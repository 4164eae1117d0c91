//! The attribute directions stored in a run: `attributes.safetensors` in its folder.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_model::{read_tensors, write_tensors};
use vae_run::{OpenCheckpoint, RunDir, RunError};

use super::Direction;
use crate::ViewError;

/// The file in the folder of a run.
const FILE: &str = "attributes.safetensors";
/// Its one metadata entry, a list of [`Stored`] as JSON.
const KEY: &str = "attributes";

/// Directions by the names of their attributes, each with the checkpoint that it belongs to.
#[derive(Debug)]
pub struct DirectionStore {
    path: PathBuf,
    directions: BTreeMap<String, Stored>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    direction: Direction,
    /// The name of the checkpoint's folder, for people.
    checkpoint: String,
    /// SHA-256 of its weights.
    weights: String,
}

impl DirectionStore {
    /// The directions stored in a run; none are stored at first.
    ///
    /// # Errors
    /// A file that is damaged, or that another program wrote.
    pub fn open(run_dir: &RunDir) -> Result<Self, ViewError> {
        let path = run_dir.path().join(FILE);
        let mut directions = BTreeMap::new();
        if path.exists() {
            let file = read_tensors(&path)?;
            let wrong = |problem: String| ViewError::file(&path, problem);
            let json = file.metadata.get(KEY).ok_or_else(|| {
                wrong(format!(
                    "its metadata has no `{KEY}` entry; `vae attribute` did not write it"
                ))
            })?;
            let stored: Vec<Stored> = serde_json::from_str(json)
                .map_err(|error| wrong(format!("not written by this version: {error}")))?;
            for mut stored in stored {
                let name = stored.direction.name.clone();
                let step = file.tensors.get(&name);
                let step = step.ok_or_else(|| wrong(format!("lacks the tensor {name}")))?;
                let shape = step.size();
                if shape.len() != 1 {
                    let problem = format!("{name} has shape {shape:?}, expected [Z]");
                    return Err(wrong(problem));
                }
                let step = Vec::<f64>::try_from(step.to_kind(Kind::Double))?;
                if let Some(value) = step.iter().find(|value| !value.is_finite()) {
                    return Err(wrong(format!("{name} holds {value}")));
                }
                stored.direction.step = step;
                directions.insert(name, stored);
            }
        }
        Ok(Self { path, directions })
    }

    /// The path of the file, which exists once [`Self::add`] has written it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds directions learned from a checkpoint's latents to those of a run, replacing older ones of the same attributes,
    /// and returns all. A concurrent process that does the same waits, so that no direction is lost.
    ///
    /// # Errors
    /// The checkpoint or the file cannot be read, or the file system refuses to write it.
    pub fn add(
        run_dir: &RunDir,
        directions: &[Direction],
        checkpoint: &OpenCheckpoint,
    ) -> Result<Self, ViewError> {
        let _lock = lock(&run_dir.attributes_lock_file())?;
        let mut store = Self::open(run_dir)?;
        for direction in directions {
            let stored = Stored {
                checkpoint: checkpoint.name(),
                weights: checkpoint.weights_digest()?,
                direction: direction.clone(),
            };
            store.directions.insert(direction.name.clone(), stored);
        }
        store.save()?;
        Ok(store)
    }

    fn save(&self) -> Result<(), ViewError> {
        let tensors: Vec<(String, Tensor)> = self
            .directions
            .iter()
            .map(|(name, stored)| (name.clone(), Tensor::from_slice(&stored.direction.step)))
            .collect();
        let stored: Vec<&Stored> = self.directions.values().collect();
        let json = serde_json::to_string(&stored)
            .map_err(|error| ViewError::file(&self.path, error.to_string()))?;
        Ok(write_tensors(&self.path, &tensors, &[(KEY, &json)])?)
    }

    /// The directions that can be used with a checkpoint, by name.
    pub fn all<'a>(
        &'a self,
        checkpoint: &'a OpenCheckpoint,
    ) -> impl Iterator<Item = &'a Direction> {
        let names = self.directions.keys();
        names.filter_map(|name| self.get(name, checkpoint).ok())
    }

    /// The direction of an attribute, for use with a checkpoint.
    ///
    /// # Errors
    /// The attribute was not learned, or it was learned from another checkpoint: directions are meaningless with other
    /// weights.
    pub fn get(&self, name: &str, checkpoint: &OpenCheckpoint) -> Result<&Direction, ViewError> {
        let Some(stored) = self.directions.get(name) else {
            let known: Vec<&str> = self.directions.keys().map(String::as_str).collect();
            let known = match known.is_empty() {
                true => "none was learned yet".to_owned(),
                false => format!("known are {}", known.join(", ")),
            };
            let problem = format!(
                "no direction in this run ({known}); `attribute RUN learn {name}` finds one"
            );
            return Err(ViewError::attribute(name, problem));
        };
        if stored.weights != checkpoint.weights_digest()? {
            let problem = format!(
                "its direction was learned from the checkpoint {}, not from {}, whose latents differ; \
                 `attribute RUN learn {name}` with the same --checkpoint finds it anew",
                stored.checkpoint,
                checkpoint.name()
            );
            return Err(ViewError::attribute(name, problem));
        }
        let (found, wanted) = (
            stored.direction.step.len() as i64,
            checkpoint.state.config.model.n_latents(),
        );
        if found != wanted {
            let problem = format!(
                "the direction {name} has {found} numbers, but the model has {wanted} latent dimensions; \
                 `attribute RUN learn {name}` finds it anew"
            );
            return Err(ViewError::file(&self.path, problem));
        }
        Ok(&stored.direction)
    }
}

/// Waits for the lock of a file and holds it until it is dropped. On a file system without locks it excludes nobody.
fn lock(path: &Path) -> Result<File, ViewError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(RunError::io(path))?;
    match file.lock() {
        Err(error)
            if error.kind() != ErrorKind::Unsupported
                && error.raw_os_error() != Some(libc::ENOLCK) =>
        {
            Err(RunError::io(path)(error).into())
        }
        _ => Ok(file),
    }
}
