//! A model on a thread of its own, which answers one request after the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};
use tokio::sync::oneshot;
use vae_data::{Dataset, InputBatch, Split};
use vae_model::Support;
use vae_run::{Checkpoint, Session};
use vae_view::latent::{self, DirectionStore, Pca};
use vae_view::picture::{self, Pixels};
use vae_view::{as_decoded, tiles};

use super::DataArgs;
use crate::output::whole;

/// Requests that may wait for one model. More are refused: a page asks for the newest position only.
const MOST_WAITING: usize = 64;

/// The largest number of latents whose covariance is decomposed.
const MOST_DIMS: i64 = 2048;

/// The number of principal directions with a slider.
const N_COMPONENTS: usize = 8;

/// Draws from the prior that stand for the items of a model without an encoder.
const N_DRAWS: i64 = 500;

type Job = Box<dyn FnOnce(&Result<Opened, String>) + Send>;

/// The thread of a run.
pub(super) struct Model {
    pub(super) path: PathBuf,
    jobs: SyncSender<Job>,
}

/// What a model is opened with.
pub(super) struct Opening {
    pub(super) path: PathBuf,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) device: Device,
    pub(super) data: DataArgs,
    /// How many held-out items are on the map.
    pub(super) limit: usize,
}

/// Why a request has no answer.
pub(super) enum Refusal {
    /// Too many requests are waiting.
    Busy,
    /// The model or the data set refused.
    Failed(String),
}

/// A model with the items that are on its map.
pub(super) struct Opened {
    session: Session,
    items: Option<Dataset>,
    /// f64 `[N, Z]`.
    centers: Tensor,
}

impl Model {
    /// Opens a run in a new thread, where the held-out items are encoded.
    pub(super) fn open(opening: Opening) -> Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(MOST_WAITING);
        let path = opening.path.clone();
        thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || {
                let opened = Opened::open(&opening).map_err(|error| whole(&error));
                for job in queue {
                    job(&opened);
                }
            })
            .context("a thread for the model")?;
        Ok(Self { path, jobs })
    }

    /// The answer of the model's thread.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Opened) -> Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |opened| {
            let result = match opened {
                Ok(opened) => question(opened).map_err(|error| whole(&error)),
                Err(problem) => Err(problem.clone()),
            };
            // The page may have gone meanwhile.
            let _ = answer.send(result);
        });
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::Busy,
            TrySendError::Disconnected(_) => Refusal::Failed("the model's thread ended".to_owned()),
        })?;
        match answered.await {
            Ok(result) => result.map_err(Refusal::Failed),
            Err(_) => Err(Refusal::Failed("the model's thread ended".to_owned())),
        }
    }
}

impl Opened {
    fn open(opening: &Opening) -> Result<Self> {
        let (path, device) = (&opening.path, opening.device);
        let mut session = match opening.checkpoint {
            None => Session::open(path, device)?,
            Some(which) => Session::open_checkpoint(path, which, device)?,
        };
        opening.data.change(&mut session)?;
        let vae = session.vae();
        let (items, centers) = if vae.has_encoder() {
            let items = session.splits()?.test.truncated(opening.limit);
            let codes = latent::encode(vae, &items, 0, |_| ())?;
            (Some(items), codes.centers)
        } else {
            let mut generator = picture::sample_generator(vae, 0);
            let draws = no_grad(|| match session.condition_or_example() {
                Some(row) => {
                    let rows = row.expand([N_DRAWS, row.size()[1]], false).contiguous();
                    vae.sample_latents_of(&rows, &mut generator)
                }
                None => Ok(vae.sample_latents(N_DRAWS, &mut generator)),
            })?;
            (None, draws.to_device(Device::Cpu).to_kind(Kind::Double))
        };
        Ok(Self {
            session,
            items,
            centers,
        })
    }

    /// What the page has to know of the model: its items on the map, and the directions that sliders move along.
    pub(super) fn description(&self) -> Result<Value> {
        let vae = self.session.vae();
        let n_latents = vae.config().n_latents();
        let mean = self.centers.mean_dim(0, false, Kind::Double);
        let deviation = self.centers.std_dim(0, false, false);
        let pca = match n_latents {
            3..=MOST_DIMS => Some(Pca::fit(&self.centers, N_COMPONENTS)?),
            _ => None,
        };
        let usage = self.session.latent_use().cloned().unwrap_or_default();
        let dims = picture::by_use(n_latents as usize, usage.ranking());
        let components = match &pca {
            Some(pca) => {
                let spread = pca.project(&self.centers).std_dim(0, false, false);
                json!({
                    "directions": rows(pca.components())?,
                    "spread": numbers(&spread)?,
                    "explained": pca.explained,
                })
            }
            None => Value::Null,
        };
        let directions: Vec<Value> = match self.session.checkpoint() {
            Ok(checkpoint) => DirectionStore::open(self.session.run_dir()?)?
                .all(checkpoint)
                .map(|direction| {
                    let is_chance = direction.accuracy.as_ref().is_some_and(|found| found.is_chance());
                    json!({ "name": direction.name, "step": direction.step, "is_chance": is_chance })
                })
                .collect(),
            Err(_) => Vec::new(),
        };
        let conditions = vae.condition().examples();
        let conditions: Vec<&str> = conditions.iter().map(|(text, _)| text.as_str()).collect();
        let labels = match self.items.as_ref().and_then(Dataset::labels) {
            Some(labels) => Some(Vec::<i64>::try_from(labels.to_kind(Kind::Int64))?),
            None => None,
        };
        let classes: BTreeMap<i64, String> = match (&labels, &self.items) {
            (Some(labels), Some(items)) => labels
                .iter()
                .map(|&class| (class, items.class_name(class)))
                .collect(),
            _ => BTreeMap::new(),
        };
        Ok(json!({
            "item": vae.item().to_string(),
            "has_encoder": vae.has_encoder(),
            "takes_files": vae.has_encoder() && vae.item().is_image(),
            "is_sphere": vae.support() == Support::Sphere,
            "latents": n_latents,
            "items": self.centers.size()[0],
            "labels": labels,
            "classes": classes,
            "mean": numbers(&mean)?,
            "deviation": numbers(&deviation)?,
            "dims": dims.into_iter().take(24).collect::<Vec<_>>(),
            "components": components,
            "attributes": directions,
            "conditions": conditions,
        }))
    }

    /// The latents of the items on the map, f32 little-endian, item after item.
    pub(super) fn latents(&self) -> Result<Vec<u8>> {
        let latents = Vec::<f32>::try_from(self.centers.to_kind(Kind::Float).flatten(0, -1))?;
        Ok(latents.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    /// A picture of an item of the map, PNG.
    pub(super) fn item(&self, i: usize) -> Result<Vec<u8>> {
        let Some(items) = &self.items else {
            let latent = self.centers.f_narrow(0, i as i64, 1)?;
            return self.decoded(&latent.to_kind(Kind::Float), None);
        };
        ensure!(i < items.len(), "there are {} items", items.len());
        let item = self.session.vae().item();
        png(&tiles(item, &as_decoded(item, &items.select(&[i])?))?)
    }

    /// A picture of what these latents are decoded to, PNG. `latents` are one item's, f32 little-endian.
    pub(super) fn decode(&self, latents: &[u8], condition: Option<&str>) -> Result<Vec<u8>> {
        let n_latents = self.session.vae().config().n_latents();
        let (numbers, rest) = latents.as_chunks::<4>();
        let numbers: Vec<f32> = numbers
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        ensure!(
            rest.is_empty() && numbers.len() as i64 == n_latents,
            "found {} bytes, expected {n_latents} numbers f32",
            latents.len()
        );
        ensure!(
            numbers.iter().all(|number| number.is_finite()),
            "latents have to be finite"
        );
        let latents = Tensor::from_slice(&numbers).view([1, n_latents]);
        self.decoded(&latents, condition)
    }

    fn decoded(&self, latents: &Tensor, condition: Option<&str>) -> Result<Vec<u8>> {
        let vae = self.session.vae();
        let row = match condition {
            Some(text) => {
                let row = vae.condition().parse(text)?;
                (!row.is_empty()).then(|| Tensor::from_slice(&row).unsqueeze(0))
            }
            None => self.session.condition_or_example(),
        };
        let latents = latent::onto_support(vae, latents)?;
        let latents = (&latents, row.as_ref());
        let tiles = no_grad(|| picture::decoded_tiles(vae, latents, Pixels::Mean))?;
        png(&tiles)
    }

    /// An image file as the model sees it, PNG.
    pub(super) fn prepare(&self, file: &[u8]) -> Result<Vec<u8>> {
        let (batch, _) = self.read(file)?;
        let item = self.session.vae().item();
        png(&tiles(item, &as_decoded(item, &batch.items))?)
    }

    /// The latents of an image file, and the most similar items.
    pub(super) fn encode(&self, file: &[u8]) -> Result<Value> {
        let vae = self.session.vae();
        let (batch, condition) = self.read(file)?;
        let center = no_grad(|| vae.encode((&batch.items, condition.as_ref())))?.center();
        let center = center.to_device(Device::Cpu).to_kind(Kind::Double); // [1, Z]
        let distances = (&self.centers - &center).square();
        let distances = distances.sum_dim_intlist(1, false, Kind::Double).sqrt();
        let n = self.centers.size()[0].min(6);
        let (nearest, which) = distances.topk(n, 0, false, true);
        Ok(json!({
            "latents": numbers(&center.squeeze_dim(0))?,
            "neighbors": Vec::<i64>::try_from(which)?,
            "distances": numbers(&nearest)?,
        }))
    }

    /// A file, prepared as the run's images were, and what its condition is.
    fn read(&self, file: &[u8]) -> Result<(InputBatch, Option<Tensor>)> {
        ensure!(
            self.session.vae().has_encoder(),
            "this model has no encoder"
        );
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let path = folder.path().join("dropped.png"); // The format is detected by content.
        vae_base::write_whole(&path, file).with_context(|| path.display().to_string())?;
        let paths = [path.clone()];
        let read = || -> Result<_> {
            let inputs = self.session.inputs(&paths, Split::Test, None)?;
            let batch = inputs.read(1)?;
            Ok((inputs, batch))
        };
        let (inputs, batch) = read().map_err(|error| {
            // The name is that of the copy.
            let said = whole(&error).replace(&format!("{}: ", path.display()), "");
            anyhow!("the file cannot be used: it {said}")
        })?;
        let condition = self.session.condition_of(&inputs, &batch);
        Ok((batch, condition))
    }
}

fn png(tiles: &Tensor) -> Result<Vec<u8>> {
    let picture = picture::grid(tiles, 1, 0)?;
    Ok(picture::png(&picture, Path::new("picture.png"))?)
}

fn numbers(vector: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::<f64>::try_from(vector.to_kind(Kind::Double))?)
}

fn rows(matrix: &Tensor) -> Result<Vec<Vec<f64>>> {
    (0..matrix.size()[0])
        .map(|i| numbers(&matrix.get(i)))
        .collect()
}
