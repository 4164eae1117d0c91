//! A trained model opened for use, together with the run that it comes from.

use std::path::{Path, PathBuf};

use tch::{Device, Tensor};
use vae_base::{ConditionError, files};
use vae_data::image_folder::CropRect;
use vae_data::loader::Batch;
use vae_data::{Dataset, DatasetConfig, InputBatch, Inputs, Split, Splits};
use vae_model::{Crop, Vae, WEIGHTS_FILE};

use crate::{Checkpoint, LatentUse, OpenCheckpoint, RunDir, RunError};

/// A trained model, its run and checkpoint, and the condition that replaces what is known of each image.
///
/// A session belongs to one thread at a time ([`Vae`] is `Send`, not `Sync`). A server opens one for each of
/// its threads; with its own session and its own [`Generator`](vae_model::Generator) each thread computes
/// the same results as it would alone.
///
/// ```
/// use std::thread;
///
/// use tch::{Device, Tensor, no_grad};
/// use vae_run::{RunError, Session};
/// # use vae_model::{ImageShape, ModelConfig, Vae};
///
/// /// Answers requests, each with the seed of its images, on a thread of its own.
/// fn worker(run: &str, seeds: &[u64]) -> Result<Vec<Tensor>, RunError> {
///     let session = Session::open(run, Device::Cpu)?;
///     let vae = session.vae();
///     let answers = seeds.iter().map(|&seed| {
///         let mut generator = vae.generator(seed);
///         Ok(no_grad(|| vae.sample(4, &mut generator))?) // [4, C, H, W]
///     });
///     answers.collect()
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("weights.safetensors");
/// # let shape = ImageShape { channels: 1, height: 8, width: 8 };
/// # Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?.save(&file)?;
/// # let run = file.to_str().ok_or("UTF-8")?;
/// // `run` is the folder of a run, of one of its checkpoints, or a weights file.
/// let answers = thread::scope(|scope| {
///     let workers = [[1, 2], [3, 4]].map(|seeds| scope.spawn(move || worker(run, &seeds)));
///     workers.map(|worker| worker.join().expect("no panic"))
/// });
/// for images in answers {
///     assert_eq!(images?.len(), 2);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    vae: Vae,
    run: Option<(RunDir, OpenCheckpoint)>,
    /// In place of the run's.
    dataset: Option<DatasetConfig>,
    condition: Option<String>,
}

impl Session {
    /// Opens the best checkpoint of the run in folder `path`, the checkpoint in folder `path`, or the weights
    /// file at `path`. A folder of weights that belongs to no run is opened like its weights file.
    ///
    /// # Errors
    /// Nothing of these is at `path`; the run has no whole checkpoint; the weights are damaged.
    pub fn open(path: impl AsRef<Path>, device: Device) -> Result<Self, RunError> {
        let path = path.as_ref();
        if path.is_file() || path.join(WEIGHTS_FILE).is_file() && !OpenCheckpoint::is_in_run(path) {
            return Ok(Self {
                path: path.to_owned(),
                vae: Vae::load(path, device)?,
                run: None,
                dataset: None,
                condition: None,
            });
        }
        match OpenCheckpoint::at(path)? {
            Some((run_dir, checkpoint)) => Self::of(path, run_dir, checkpoint, device),
            None => Self::open_checkpoint(path, Checkpoint::Best, device),
        }
    }

    /// Opens this checkpoint of the run in folder `path`.
    ///
    /// # Errors
    /// The folder is no run, or a checkpoint itself; the run has no such checkpoint that is whole.
    pub fn open_checkpoint(
        path: impl AsRef<Path>,
        which: Checkpoint,
        device: Device,
    ) -> Result<Self, RunError> {
        let path = path.as_ref();
        if path.is_file() || path.join(WEIGHTS_FILE).is_file() {
            let problem = "holds the weights of one checkpoint; the folder of a run is needed to choose \
                           among its checkpoints";
            return Err(RunError::run(path, problem));
        }
        let run_dir = RunDir::open(path)?;
        let checkpoint = which.open(&run_dir)?;
        Self::of(path, run_dir, checkpoint, device)
    }

    fn of(
        path: &Path,
        run_dir: RunDir,
        checkpoint: OpenCheckpoint,
        device: Device,
    ) -> Result<Self, RunError> {
        Ok(Self {
            path: path.to_owned(),
            vae: Vae::load(&checkpoint.folder, device)?,
            run: Some((run_dir, checkpoint)),
            dataset: None,
            condition: None,
        })
    }

    /// The model.
    #[must_use]
    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// The model alone.
    #[must_use]
    pub fn into_vae(self) -> Vae {
        self.vae
    }

    /// The run.
    ///
    /// # Errors
    /// The session was opened from weights that belong to no run.
    pub fn run_dir(&self) -> Result<&RunDir, RunError> {
        Ok(&self.run()?.0)
    }

    /// The checkpoint.
    ///
    /// # Errors
    /// The session was opened from weights that belong to no run.
    pub fn checkpoint(&self) -> Result<&OpenCheckpoint, RunError> {
        Ok(&self.run()?.1)
    }

    /// The weights file.
    #[must_use]
    pub fn weights_file(&self) -> PathBuf {
        match &self.run {
            Some((_, checkpoint)) => checkpoint.folder.join(WEIGHTS_FILE),
            None if self.path.is_file() => self.path.clone(),
            None => self.path.join(WEIGHTS_FILE),
        }
    }

    /// The folder of the run, or of weights that belong to none.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        match &self.run {
            Some((run_dir, _)) => run_dir.path().to_owned(),
            None => files::parent(&self.weights_file()).to_owned(),
        }
    }

    /// Whether the model is of a run; else its weights were imported, or copied alone.
    #[must_use]
    pub fn is_of_run(&self) -> bool {
        self.run.is_some()
    }

    fn run(&self) -> Result<&(RunDir, OpenCheckpoint), RunError> {
        self.run.as_ref().ok_or_else(|| {
            let problem = "weights that belong to no run; the folder of a run is needed here";
            RunError::run(&self.path, problem)
        })
    }

    /// How much each latent dimension was used at the checkpoint's last evaluation; none before the first,
    /// and of weights that belong to no run.
    #[must_use]
    pub fn latent_use(&self) -> Option<&LatentUse> {
        let (_, checkpoint) = self.run.as_ref()?;
        checkpoint.state.latent_use.as_ref()
    }

    /// Sets the condition that replaces what is known of each image, written as
    /// [`ConditionSpec::parse`](vae_base::ConditionSpec::parse) reads it: attributes that it does not name
    /// keep their values. `None` leaves every image its own.
    ///
    /// # Errors
    /// The model has no such class or attribute; the session keeps the condition it had.
    pub fn set_condition(&mut self, condition: Option<&str>) -> Result<(), ConditionError> {
        if let Some(condition) = condition {
            self.vae.condition().parse(condition)?;
        }
        self.condition = condition.map(str::to_owned);
        Ok(())
    }

    /// Computes in strips of this many rows, for large images ([`Vae::set_strip_rows`]).
    ///
    /// # Errors
    /// A network that cannot.
    pub fn set_strip_rows(&mut self, n_rows: Option<i64>) -> Result<(), RunError> {
        Ok(self.vae.set_strip_rows(n_rows)?)
    }

    /// The data set: the one that [`Self::set_dataset`] was given, or else the run's.
    ///
    /// # Errors
    /// The session has neither; the run's config cannot be read.
    pub fn dataset(&self) -> Result<DatasetConfig, RunError> {
        match &self.dataset {
            Some(dataset) => Ok(dataset.clone()),
            None => Ok(self.run_dir()?.config()?.dataset),
        }
    }

    /// Takes another data set in place of the run's.
    pub fn set_dataset(&mut self, dataset: DatasetConfig) {
        self.dataset = Some(dataset);
    }

    /// The data set at `path`, read as the session's; of weights that belong to no run as their file says how
    /// images were prepared.
    ///
    /// # Errors
    /// The run's config cannot be read; the file system refuses.
    pub fn dataset_at(&self, path: &Path) -> Result<DatasetConfig, RunError> {
        if self.dataset.is_some() || self.run.is_some() {
            return Ok(self.dataset()?.at(path.to_owned()));
        }
        let mut dataset = DatasetConfig::of_files(path, self.vae.item())?;
        let preprocessing = self.vae.preprocessing();
        let crop = preprocessing.framing.and_then(|framing| framing.crop);
        if let Some(images) = &mut dataset.image_folder {
            match crop {
                Some(Crop::Center { fraction }) => images.crop_fraction = fraction,
                Some(Crop::Rectangle {
                    top,
                    left,
                    height,
                    width,
                }) => {
                    images.crop = Some(CropRect {
                        top,
                        left,
                        height,
                        width,
                    });
                }
                None => {}
            }
        }
        Ok(dataset)
    }

    /// The images of [`Self::dataset`], each with its condition.
    ///
    /// # Errors
    /// As [`Self::dataset`] and [`DatasetConfig::load`].
    pub fn splits(&self) -> Result<Splits, RunError> {
        self.splits_of(&self.dataset()?)
    }

    /// The images of a data set, each with its condition.
    ///
    /// # Errors
    /// As [`DatasetConfig::load`].
    pub fn splits_of(&self, dataset: &DatasetConfig) -> Result<Splits, RunError> {
        let splits = dataset.load()?;
        Ok(Splits {
            train: self.conditioned(splits.train),
            validation: splits.validation.map(|dataset| self.conditioned(dataset)),
            test: self.conditioned(splits.test),
            report: splits.report,
        })
    }

    /// The first `n` test images of the data set, or all where there are fewer, each with its condition.
    ///
    /// # Errors
    /// As [`Self::splits`]; an image can no longer be read.
    pub fn first_test_images(&self, n: usize) -> Result<Batch, RunError> {
        let test = self.splits()?.test;
        Ok(test.batch(&(0..n.min(test.len())).collect::<Vec<_>>())?)
    }

    /// The images of a data set, each with its condition: what is known of the image, replaced by what
    /// [`Self::set_condition`] names.
    #[must_use]
    pub fn conditioned(&self, dataset: Dataset) -> Dataset {
        let dataset = dataset.with_condition(self.vae.condition());
        match self.condition {
            Some(_) => dataset.change_condition(|row| self.overwrite(row)),
            None => dataset,
        }
    }

    /// Replaces what the session's condition names.
    fn overwrite(&self, row: &mut [f32]) {
        if let Some(condition) = &self.condition {
            // Cannot fail: `set_condition` parsed it.
            let _ = self.vae.condition().overwrite(row, condition);
        }
    }

    /// The condition of an image of which nothing is known, `[1, D]`; none if the model has no condition.
    #[must_use]
    pub fn condition_alone(&self) -> Option<Tensor> {
        let spec = self.vae.condition();
        let mut row = spec.unknown();
        self.overwrite(&mut row);
        (!spec.is_empty()).then(|| Tensor::from_slice(&row).unsqueeze(0))
    }

    /// The session's condition or, if none is set, the first of
    /// [`ConditionSpec::examples`](vae_base::ConditionSpec::examples), `[1, D]`; none if the model has no
    /// condition.
    #[must_use]
    pub fn condition_or_example(&self) -> Option<Tensor> {
        if self.condition.is_some() {
            return self.condition_alone();
        }
        let (_, row) = self.vae.condition().examples().into_iter().next()?;
        Some(Tensor::from_slice(&row).unsqueeze(0))
    }

    /// The condition of a batch's images, `[B, D]`; none if the model has no condition.
    #[must_use]
    pub fn condition_of(&self, inputs: &Inputs, batch: &InputBatch) -> Option<Tensor> {
        let mut rows = inputs.condition(batch, self.vae.condition())?;
        rows.iter_mut().for_each(|row| self.overwrite(row));
        Some(Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1]))
    }

    /// The images of `paths`, prepared as the training images were; without paths those of this split of the data
    /// set. `attributes` is a table to join by file name.
    ///
    /// # Errors
    /// The session has no data set and there are no paths; as [`Inputs::open`] and [`Inputs::of_split`].
    pub fn inputs(
        &self,
        paths: &[PathBuf],
        otherwise: Split,
        attributes: Option<&Path>,
    ) -> Result<Inputs, RunError> {
        let item = self.vae.item().clone();
        let is_known = self.run.is_some() || self.dataset.is_some();
        let dataset = match paths {
            // Only how they are read counts.
            [first, ..] if !is_known => self.dataset_at(first)?,
            _ => self.dataset()?,
        };
        Ok(match paths {
            [] => Inputs::of_split(&dataset, item, otherwise, attributes)?,
            paths => Inputs::open(&dataset, item, paths, attributes)?,
        })
    }
}
