//! What a report says of the model and of the images.

use serde::Serialize;
use serde_json::Value;
use vae_data::{Binarization, Dataset, DatasetConfig, ImageShape};
use vae_model::{Crop, Vae};
use vae_train::{OpenCheckpoint, RunConfig, RunDir};

use crate::{EvalError, ImagesUsed, Subject};

impl Subject {
    /// Of a run's checkpoint.
    ///
    /// # Errors
    /// The weights file cannot be read.
    pub fn new(
        run_dir: &RunDir,
        checkpoint: &OpenCheckpoint,
        vae: &Vae,
        config: &RunConfig,
    ) -> Result<Self, EvalError> {
        let model = vae.config();
        let parts = [
            kind(&model.network),
            format!("{} ({})", kind(&model.posterior), model.latent_dims),
            kind(&model.prior),
            kind(&model.likelihood),
            format!(
                "{} + {}",
                kind(&config.objective.estimator),
                kind(&config.objective.regularizer)
            ),
        ];
        Ok(Self {
            run: run_dir.path().display().to_string(),
            checkpoint: checkpoint.name(),
            epoch: checkpoint.state.position.epochs,
            step: checkpoint.state.position.steps,
            weights_sha256: checkpoint.weights_digest()?,
            averaged_weights: config.training.ema_decay.is_some(),
            latent_dims: model.latent_dims,
            model: parts.join(" · "),
            n_parameters: vae.n_parameters(),
        })
    }
}

/// The name of a part in a config: the variant's.
fn kind(part: &impl Serialize) -> String {
    match serde_json::to_value(part) {
        Ok(Value::String(name)) => name,
        Ok(Value::Object(table)) => table.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

/// [`Dataset::fingerprint`]s of test splits by their names.
const KNOWN: [(u32, &str); 1] = [(3_687_586_290, "MNIST")];

impl ImagesUsed {
    /// The first `n_images` of a test split that a model which was trained with `config` is measured on.
    /// `source` is the data set's table, the config's own or another one.
    ///
    /// # Errors
    /// A file can no longer be decoded.
    pub fn new(
        config: &RunConfig,
        source: &DatasetConfig,
        train: &Dataset,
        test: &Dataset,
        n_images: usize,
    ) -> Result<Self, EvalError> {
        let fingerprint = test.fingerprint()?;
        let known = KNOWN.iter().find(|(known, _)| *known == fingerprint);
        let path = source
            .idx
            .as_ref()
            .map(|idx| &idx.folder)
            .or(source.image_folder.as_ref().map(|photos| &photos.path))
            .or(source.sprites.as_ref().map(|sprites| &sprites.file));
        let stem = path.and_then(|path| path.file_stem()).unwrap_or_default();
        let dataset = match (known, &*stem.to_string_lossy()) {
            (Some((_, name)), _) => (*name).to_owned(),
            (None, "img_align_celeba") => "CelebA".to_owned(),
            (None, BINARIZED_MNIST) => "MNIST".to_owned(),
            (None, name) if name.starts_with("dsprites") => "dSprites".to_owned(),
            (None, name) => name.to_owned(),
        };
        let ImageShape {
            channels,
            height,
            width,
        } = test.shape();
        Ok(Self {
            dataset,
            split: "test".to_owned(),
            n_images,
            n_available: test.len(),
            shape: [channels, height, width],
            pixels: pixels(test, source)?,
            trained_on_pixels: pixels(train, &config.dataset)?,
            n_train_images: train.len(),
            crop: config.framing().crop.map(|crop| match crop {
                Crop::Center { fraction } => {
                    format!("center, {fraction} of the shorter side")
                }
                Crop::Rectangle {
                    top,
                    left,
                    height,
                    width,
                } => format!("rectangle {height}×{width} at {top}, {left}"),
            }),
        })
    }
}

/// The folder of Larochelle's files, as `cargo xtask fetch-data` calls it.
const BINARIZED_MNIST: &str = "binarized-mnist";

/// What the pixels of a data set are.
fn pixels(dataset: &Dataset, source: &DatasetConfig) -> Result<String, EvalError> {
    const N_SEEN: usize = 200;
    let folder = source.idx.as_ref().and_then(|idx| idx.folder.file_name());
    if folder.is_some_and(|name| name == BINARIZED_MNIST) {
        return Ok("larochelle".to_owned()); // Black and white already, whatever is drawn.
    }
    match dataset.binarization() {
        Some(Binarization::Dynamic) => return Ok("dynamic".to_owned()),
        Some(Binarization::Static) => return Ok("static".to_owned()),
        _ => {}
    }
    let images = dataset.first(N_SEEN)?;
    let is_gray = images.gt(0).logical_and(&images.lt(255));
    let is_black_and_white = !bool::try_from(is_gray.any())?;
    Ok(match dataset.shape().channels {
        1 if is_black_and_white => "black and white",
        1 => "gray",
        _ => "color",
    }
    .to_owned())
}
