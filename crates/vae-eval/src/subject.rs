//! What a report records about the model and the images.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use vae_data::{Binarization, Dataset, DatasetConfig, ImageShape};
use vae_model::{ItemKind, ItemSpec, Vae, sha256};
use vae_run::{OpenCheckpoint, RunConfig, RunDir};

use crate::{EvalError, ImagesUsed, Pixels, SplitUsed, Subject, TrainedOn};

impl Subject {
    /// The subject of a run's checkpoint.
    ///
    /// # Errors
    /// The weights file cannot be read.
    pub fn new(
        run_dir: &RunDir,
        checkpoint: &OpenCheckpoint,
        vae: &Vae,
        config: &RunConfig,
    ) -> Result<Self, EvalError> {
        let mut parts = parts(vae);
        parts.push(format!(
            "{} + {}",
            kind(&config.objective.estimator),
            kind(&config.objective.regularizer)
        ));
        Ok(Self {
            run: run_dir.path().display().to_string(),
            checkpoint: checkpoint.name(),
            epoch: checkpoint.state.position.epochs,
            step: checkpoint.state.position.steps,
            weights_sha256: checkpoint.weights_digest()?,
            averaged_weights: config.training.ema_decay.is_some(),
            latent_dims: vae.config().n_latents(),
            model: parts.join(" · "),
            n_parameters: vae.n_parameters(),
        })
    }

    /// The subject of weights that belong to no run, in this file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_weights(file: &Path, vae: &Vae) -> Result<Self, EvalError> {
        Ok(Self {
            run: file.parent().unwrap_or(file).display().to_string(),
            checkpoint: String::new(),
            epoch: 0,
            step: 0,
            weights_sha256: sha256(file)?,
            averaged_weights: false,
            latent_dims: vae.config().n_latents(),
            model: parts(vae).join(" · "),
            n_parameters: vae.n_parameters(),
        })
    }
}

/// The parts of a model: network, posterior, prior, likelihood.
fn parts(vae: &Vae) -> Vec<String> {
    let model = vae.config();
    let own = vae.own_parts();
    let name = |part: &str, of_config: String| own.get(part).cloned().unwrap_or(of_config);
    let posterior = name("posterior", kind(&model.posterior));
    vec![
        name("network", kind(&model.network)),
        format!("{posterior} ({})", model.n_latents()),
        name("prior", kind(&model.prior)),
        name("likelihood", kind(&model.likelihood)),
    ]
}

/// The name of a part in a config: that of its variant.
fn kind(part: &impl Serialize) -> String {
    match serde_json::to_value(part) {
        Ok(Value::String(name)) => name,
        Ok(Value::Object(table)) => table.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

impl ImagesUsed {
    /// The first `n_images` of a split, to be measured on this model. `source` is the data set's table: that of the
    /// model's config or another one.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn new(
        vae: &Vae,
        source: &DatasetConfig,
        test: &Dataset,
        n_images: usize,
        trained_on: Option<TrainedOn>,
    ) -> Result<Self, EvalError> {
        let ImageShape {
            channels,
            height,
            width,
        } = test.shape();
        Ok(Self {
            dataset: source.identity()?,
            fingerprint: test.fingerprint()?,
            split: SplitUsed::Test,
            n_images,
            n_available: test.len(),
            shape: [channels, height, width],
            items: items_in_words(test.item()),
            pixels: pixels(test, source)?,
            crop: vae.preprocessing().framing.and_then(|framing| framing.crop),
            trained_on,
        })
    }
}

impl TrainedOn {
    /// The training images of a run with this config.
    ///
    /// # Errors
    /// A file that can no longer be read.
    pub fn new(config: &RunConfig, train: &Dataset) -> Result<Self, EvalError> {
        Ok(Self {
            dataset: config.dataset.identity()?,
            n_images: train.len(),
            pixels: pixels(train, &config.dataset)?,
        })
    }
}

/// What items other than images are, and their size.
fn items_in_words(item: &ItemSpec) -> Option<String> {
    let noun = item.noun(2);
    Some(match item.kind {
        ItemKind::Image => return None,
        ItemKind::Tokens { end: None, .. } if item.melody.is_some() => {
            format!("{noun} of {item} steps")
        }
        ItemKind::Tokens { end: Some(_), .. } => format!("{noun} of at most {item} tokens"),
        ItemKind::Tokens { .. } => format!("{noun} of {item} tokens"),
        ItemKind::Sound { rate } => format!("{noun} of {item} samples at {rate} Hz"),
        _ if item.spectrogram.is_some() => format!("{noun}, spectrograms of {item}"),
        _ => format!("{noun} of {item}"),
    })
}

/// The kind of a data set's pixels.
fn pixels(dataset: &Dataset, source: &DatasetConfig) -> Result<Pixels, EvalError> {
    const N_SEEN: usize = 200;
    if source.is_binarized_mnist() {
        return Ok(Pixels::Larochelle); // Black and white already, so that binarization changes nothing.
    }
    match dataset.binarization() {
        Some(Binarization::Dynamic) => return Ok(Pixels::Dynamic),
        Some(Binarization::Static) => return Ok(Pixels::Static),
        _ => {}
    }
    let images = dataset.first(N_SEEN)?;
    let is_gray = images.gt(0).logical_and(&images.lt(255));
    let is_black_and_white = !bool::try_from(is_gray.any())?;
    Ok(match dataset.shape().channels {
        1 if is_black_and_white => Pixels::BlackAndWhite,
        1 => Pixels::Gray,
        _ => Pixels::Color,
    })
}
