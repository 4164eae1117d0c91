//! The `[dataset]` table of a config: the source of the images and how many are used.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tch::{Kind, Tensor};
use tracing::info;

use crate::audio_folder::{AudioFolder, AudioFolderConfig};
use crate::image_folder::text;
use crate::image_folder::{ImageFolder, ImageFolderConfig};
use crate::limits::{Limits, Sizes, TEST_LIMIT, TRAIN_LIMIT, VALIDATION_LIMIT, n_within};
use vae_base::{ItemKind, ItemSpec};

use crate::{
    ArraysConfig, Binarization, DataError, Dataset, FactorGrid, HoldOut, ImageShape,
    MelodiesConfig, Splits, SpritesConfig, TextConfig, idx,
};

/// The images, or other items, to train and evaluate on. Exactly one table names their source: `idx`, `image_folder`,
/// `sprites`, `arrays`, `audio_folder`, `text` or `melodies`.
///
/// ```
/// let config: vae_data::DatasetConfig = toml::from_str(
///     r#"
///     train_limit = 600
///     [idx]
///     folder = "datasets/mnist"
///     "#,
/// )?;
/// assert_eq!(config.train_limit, Some(600));
/// assert_eq!(config.test_limit, None);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// Use at most this number of training images, the first ones. By default all are used.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_limit: Option<usize>,

    /// How many images are held out from training for validation. Validation images choose the best checkpoint, when
    /// to stop early and when to lower the learning rate. Give a number of images (`5000`) or a fraction of them
    /// (`0.1`). With 0 all images are trained on and the last epoch counts as the best. By default a folder's
    /// partition list decides; other folders, sprites, arrays, recordings, texts and melodies hold out 0.1, and idx files the last 10,000 training
    /// images, or a sixth of them if there are fewer than 60,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<HoldOut>,

    /// Use at most this number of validation images, the first ones. By default all are used.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_limit: Option<usize>,

    /// Use at most this number of test images, the first ones. By default all are used.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_limit: Option<usize>,

    /// Make every image black and white, in training and evaluation. By default pixels stay gray or colored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binarization: Option<Binarization>,

    /// The images are idx files, the format of MNIST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idx: Option<IdxConfig>,

    /// The images are photos in a folder or a zip file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_folder: Option<ImageFolderConfig>,

    /// The images are black-and-white shapes with known factors (dSprites).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sprites: Option<SpritesConfig>,

    /// The items are rows of arrays or tables: vectors, series or images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrays: Option<ArraysConfig>,

    /// The items are recordings in a folder or a zip file, as sound or as spectrograms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_folder: Option<AudioFolderConfig>,

    /// The items are texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextConfig>,

    /// The items are melodies of MIDI and ABC files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub melodies: Option<MelodiesConfig>,

    /// Where relative paths are looked for beside the current folder: the first of these folders that has the file
    /// counts. No part of a config file.
    #[serde(skip)]
    pub folders: Vec<PathBuf>,
}

/// The one table that names the source of the images.
enum Source<'a> {
    Idx(&'a IdxConfig),
    ImageFolder(&'a ImageFolderConfig),
    Sprites(&'a SpritesConfig),
    Arrays(&'a ArraysConfig),
    AudioFolder(&'a AudioFolderConfig),
    Text(&'a TextConfig),
    Melodies(&'a MelodiesConfig),
}

/// Images and labels in idx files, the format of MNIST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdxConfig {
    /// The folder with `train-images-idx3-ubyte`, `t10k-images-idx3-ubyte` and, if there are labels,
    /// `train-labels-idx1-ubyte` and `t10k-labels-idx1-ubyte`; relative to the current folder. Each name may have
    /// `.idx` in place of `-idx` and may end in `.gz` (gzipped). If several spellings exist, plain files and the
    /// `-idx` spelling are preferred. A file may lie in a folder of its own name.
    #[schemars(example = &"datasets/mnist", extend("x-resume" = true))]
    pub folder: PathBuf,
}

impl DatasetConfig {
    /// Checks everything that can be checked without opening a file.
    ///
    /// # Errors
    /// [`DataError::NoSource`] without a source table, [`DataError::TwoSources`] with several,
    /// [`DataError::ZeroLimit`] for a limit of 0, [`DataError::Config`] for an invalid value.
    pub fn validate(&self) -> Result<(), DataError> {
        match self.source()? {
            Source::Idx(_) => {}
            Source::ImageFolder(config) => config.check()?,
            Source::Sprites(config) => config.check()?,
            Source::Arrays(config) => config.check(self.binarization.is_some())?,
            Source::AudioFolder(config) => config.check(self.binarization.is_some())?,
            Source::Text(config) => config.check(self.binarization.is_some())?,
            Source::Melodies(config) => config.check(self.binarization.is_some())?,
        }
        self.validation.map_or(Ok(()), HoldOut::check)?;
        refuse_zero(TRAIN_LIMIT, self.train_limit)?;
        refuse_zero(VALIDATION_LIMIT, self.validation_limit)?;
        refuse_zero(TEST_LIMIT, self.test_limit)
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            validation: self.validation,
            limits: Limits {
                train: self.train_limit,
                validation: self.validation_limit,
                test: self.test_limit,
            },
        }
    }

    /// Reads idx files, sprites, arrays, texts or melodies into memory, or a folder's images or recordings into their pack. Then applies the limits
    /// and the binarization. A limit larger than the number of images uses all of them and logs a warning.
    ///
    /// # Errors
    /// Those of [`DatasetConfig::validate`]; a missing, unreadable or damaged file; different numbers of images and
    /// labels; different image shapes in the splits; too many bad files; a split without images.
    pub fn load(&self) -> Result<Splits, DataError> {
        self.validate()?;
        self.look_for(Self::load_located)
    }

    fn load_located(&self) -> Result<Splits, DataError> {
        let sizes = self.sizes();
        let splits = match self.source()? {
            Source::Idx(config) => config.load(&sizes),
            Source::ImageFolder(config) => ImageFolder::open(config)?.load(&sizes),
            Source::Sprites(config) => config.load(&sizes),
            Source::Arrays(config) => config.load(&sizes, self.binarization.is_some()),
            Source::AudioFolder(config) => AudioFolder::open(config)?.load(&sizes),
            Source::Text(config) => config.load(&sizes),
            Source::Melodies(config) => config.load(&sizes),
        }?;
        Ok(splits.with_binarization(self.binarization))
    }

    /// Kind and shape of the items: for photos from the config, for other files from the header of the (training)
    /// file. For arrays it has no statistics, because the numbers are not read here; for texts the vocabulary is learned.
    ///
    /// # Errors
    /// Those of [`DatasetConfig::validate`]; a missing, unreadable or damaged file.
    pub fn item_spec(&self) -> Result<ItemSpec, DataError> {
        self.validate()?;
        self.look_for(Self::item_spec_located)
    }

    fn item_spec_located(&self) -> Result<ItemSpec, DataError> {
        Ok(match self.source()? {
            Source::Idx(config) => config.image_shape()?.into(),
            Source::ImageFolder(config) => config.image_shape().into(),
            Source::Sprites(config) => config.image_shape()?.into(),
            Source::Arrays(config) => config.item_spec(self.binarization.is_some())?,
            Source::AudioFolder(config) => config.item(),
            Source::Text(config) => config.item_spec(&self.sizes())?,
            Source::Melodies(config) => config.item()?,
        })
    }

    /// Every image by its factors, from all splits and without limits; `None` if the source has no known factors.
    ///
    /// # Errors
    /// Those of [`DatasetConfig::validate`]; a missing, unreadable or damaged file.
    pub fn factor_grid(&self) -> Result<Option<FactorGrid>, DataError> {
        self.validate()?;
        self.look_for(|found| found.sprites.as_ref().map(SpritesConfig::grid).transpose())
    }

    /// The same data set with its relative paths replaced by those in the first of `folders` that has them, where the
    /// current folder has not.
    #[must_use]
    pub fn located(&self) -> DatasetConfig {
        let mut located = self.clone();
        for path in located.paths_mut() {
            locate(path, &self.folders);
        }
        located
    }

    /// The same data set, read from the folder or file `path`; other paths, such as that of a table, stay.
    ///
    /// ```
    /// let config: vae_data::DatasetConfig = toml::from_str("[idx]\nfolder = 'datasets/mnist'")?;
    /// let moved = config.at("elsewhere".into());
    /// assert_eq!(moved.idx.ok_or("no such table")?.folder, std::path::absolute("elsewhere")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn at(mut self, path: PathBuf) -> DatasetConfig {
        // Absolute, so that it is looked for nowhere else.
        let path = std::path::absolute(&path).unwrap_or(path);
        if let Some(main) = self.paths_mut().into_iter().next() {
            *main = path;
        }
        self
    }

    /// Files of items of this kind, where no config says how to read them: `path` is a folder of idx files, a folder or
    /// zip of images, recordings or melodies, a file of arrays, or texts. What the items do not tell has its default.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn of_files(path: &Path, item: &ItemSpec) -> Result<DatasetConfig, DataError> {
        let shape = item.map();
        let sound = |rate: u32, n_samples: i64| {
            json!({
                "path": path,
                "rate": rate,
                "channels": item.shape[0],
                "seconds": n_samples as f64 / f64::from(rate),
            })
        };
        let source = match (&item.kind, &item.spectrogram) {
            (ItemKind::Image, _) if path.is_dir() && has_idx(path)? => {
                json!({"idx": {"folder": path}})
            }
            (ItemKind::Image, _) => json!({"image_folder": {
                "path": path,
                "image_size": [shape.height, shape.width],
                "grayscale": shape.channels == 1,
            }}),
            (ItemKind::Sound { rate }, _) => json!({"audio_folder": sound(*rate, item.shape[1])}),
            (_, Some(spectrogram)) => {
                let mut table = sound(spectrogram.rate, item.shape[2] * i64::from(spectrogram.hop));
                table["spectrogram"] = json!({
                    "bands": item.shape[1],
                    "window": spectrogram.window,
                    "hop": spectrogram.hop,
                    "low": spectrogram.low,
                    "high": spectrogram.high,
                    "floor": spectrogram.floor,
                });
                json!({ "audio_folder": table })
            }
            _ if item.melody.is_some() => {
                let melody = item.melody.as_ref();
                json!({"melodies": {
                    "path": path,
                    "bars": melody.map_or(2, |melody| melody.bars),
                    "steps_per_bar": melody.map_or(16, |melody| melody.steps_per_bar),
                    "meters": melody.map(|melody| format!("{}/{}", melody.meter[0], melody.meter[1])).into_iter().collect::<Vec<_>>(),
                }})
            }
            _ if item.text.is_some() => {
                json!({"text": {"path": path, "max_length": item.shape[0] - 1}})
            }
            _ => json!({"arrays": {"train": path}}),
        };
        let config: Result<DatasetConfig, _> = serde_json::from_value(source);
        let config = config.map_err(|error| DataError::Items {
            problem: error.to_string(),
        })?;
        Ok(config.at(path.to_owned()))
    }

    /// Uses the located data set. An error says where it was looked for.
    pub(crate) fn look_for<T>(
        &self,
        read: impl FnOnce(&DatasetConfig) -> Result<T, DataError>,
    ) -> Result<T, DataError> {
        let mut located = self.located();
        read(&located).map_err(|error| {
            let main = located.paths_mut().into_iter().next();
            match main.is_some_and(|path| !may_exist(path)) && !self.folders.is_empty() {
                true => DataError::NotFound {
                    error: Box::new(error),
                    folders: self.folders.clone(),
                },
                false => error,
            }
        })
    }

    /// The paths of files and folders, that of the source first.
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        // All fields, so that a new source is not forgotten.
        let Self {
            train_limit: _,
            validation: _,
            validation_limit: _,
            test_limit: _,
            binarization: _,
            idx,
            image_folder,
            sprites,
            arrays,
            audio_folder,
            text,
            melodies,
            folders: _,
        } = self;
        let mut paths = Vec::new();
        paths.extend(idx.as_mut().map(|idx| &mut idx.folder));
        if let Some(images) = image_folder {
            paths.push(&mut images.path);
            paths.extend(&mut images.partition);
            paths.extend(&mut images.attributes);
        }
        paths.extend(sprites.as_mut().map(|sprites| &mut sprites.file));
        if let Some(arrays) = arrays {
            paths.push(&mut arrays.train.file);
            paths.extend(arrays.test.as_mut().map(|test| &mut test.file));
        }
        if let Some(sounds) = audio_folder {
            paths.push(&mut sounds.path);
            paths.extend(&mut sounds.partition);
            paths.extend(&mut sounds.attributes);
        }
        if let Some(text) = text {
            paths.push(&mut text.path);
            paths.extend(&mut text.test);
        }
        if let Some(melodies) = melodies {
            paths.push(&mut melodies.path);
            paths.extend(&mut melodies.partition);
        }
        paths
    }

    fn source(&self) -> Result<Source<'_>, DataError> {
        let mut sources = [
            self.idx.as_ref().map(Source::Idx),
            self.image_folder.as_ref().map(Source::ImageFolder),
            self.sprites.as_ref().map(Source::Sprites),
            self.arrays.as_ref().map(Source::Arrays),
            self.audio_folder.as_ref().map(Source::AudioFolder),
            self.text.as_ref().map(Source::Text),
            self.melodies.as_ref().map(Source::Melodies),
        ]
        .into_iter()
        .flatten();
        match (sources.next(), sources.next()) {
            (Some(source), None) => Ok(source),
            (None, _) => Err(DataError::NoSource),
            (Some(_), Some(_)) => Err(DataError::TwoSources),
        }
    }
}

/// Replaces a relative path that the current folder does not have by that in the first of `folders` that has it.
pub fn locate(path: &mut PathBuf, folders: &[PathBuf]) {
    if path.is_absolute() || may_exist(path) {
        return;
    }
    let mut found = folders.iter().map(|folder| folder.join(&*path));
    if let Some(found) = found.find(|path| may_exist(path)) {
        *path = found;
    }
}

/// Whether there is such a file or folder, or a zip that may have it as a member.
fn may_exist(path: &Path) -> bool {
    path.exists() || text::may_exist(path)
}

/// Whether a folder has MNIST's files.
fn has_idx(folder: &Path) -> Result<bool, DataError> {
    for prefix in ["train", "t10k"] {
        if find_file(folder, &format!("{prefix}-images-idx3-ubyte"))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn refuse_zero(key: &'static str, limit: Option<usize>) -> Result<(), DataError> {
    match limit {
        Some(0) => Err(DataError::ZeroLimit { key }),
        _ => Ok(()),
    }
}

/// The key that errors about the folder name.
pub(crate) const FOLDER_KEY: &str = "dataset.idx.folder";

impl IdxConfig {
    fn load(&self, sizes: &Sizes) -> Result<Splits, DataError> {
        self.check_folder()?;
        for prefix in ["train", "t10k"] {
            let images = self.images_file(prefix)?;
            if let Some(labels) = find_file(&self.folder, &format!("{prefix}-labels-idx1-ubyte"))? {
                idx::check_counts(&images, &labels)?;
            }
        }
        let limits = sizes.limits;
        let train = self.read_split("train")?;
        let [trained_on, held_out] = split_training_images(train.n_images(), sizes.validation)?;
        let within = |range: Range<usize>, limit, key| {
            range.start..range.start + n_within(limit, range.len(), key, &train.path)
        };
        let validation = match held_out.is_empty() {
            true => None,
            false => {
                let kept = within(held_out, limits.validation, VALIDATION_LIMIT);
                Some(train.dataset(kept)?)
            }
        };
        let trained_on = within(trained_on, limits.train, TRAIN_LIMIT);
        let train = train.dataset(trained_on)?;
        let test = self.read_split("t10k")?;
        let n_test = n_within(limits.test, test.n_images(), TEST_LIMIT, &test.path);
        let test = test.dataset(0..n_test)?;
        if train.shape() != test.shape() {
            return Err(DataError::SplitShape {
                folder: self.folder.clone(),
                train: train.shape(),
                test: test.shape(),
            });
        }
        Ok(Splits::new(train, validation, test))
    }

    fn image_shape(&self) -> Result<ImageShape, DataError> {
        self.check_folder()?;
        let [height, width] = idx::read_size(&self.images_file("train")?)?;
        Ok(ImageShape {
            channels: 1,
            height: height.into(),
            width: width.into(),
        })
    }

    fn images_file(&self, prefix: &str) -> Result<PathBuf, DataError> {
        let name = format!("{prefix}-images-idx3-ubyte");
        find_file(&self.folder, &name)?.ok_or_else(|| DataError::MissingFile {
            folder: self.folder.clone(),
            file: name,
            key: FOLDER_KEY,
        })
    }

    pub(crate) fn check_folder(&self) -> Result<(), DataError> {
        let folder = self.folder.clone();
        match fs::metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(DataError::NotAFolder {
                folder,
                key: FOLDER_KEY,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(DataError::MissingFolder {
                    folder,
                    key: FOLDER_KEY,
                })
            }
            Err(source) => Err(DataError::Io {
                path: folder,
                source,
            }),
        }
    }

    /// `prefix` is `train` or `t10k`, MNIST's names of the training and test files.
    fn read_split(&self, prefix: &str) -> Result<IdxSplit, DataError> {
        let path = self.images_file(prefix)?;
        let images = idx::read_images(&path)?;
        let labels_name = format!("{prefix}-labels-idx1-ubyte");
        let labels = match find_file(&self.folder, &labels_name)? {
            Some(labels_path) => {
                let labels = idx::read_labels(&labels_path)?;
                if labels.len() != images.n_images {
                    return Err(DataError::LabelCount {
                        images: path,
                        n_images: images.n_images,
                        labels: labels_path,
                        n_labels: labels.len(),
                    });
                }
                Some(labels)
            }
            None => {
                info!(
                    "{}: no {labels_name}, so these images have no labels",
                    self.folder.display()
                );
                None
            }
        };
        Ok(IdxSplit {
            path,
            images,
            labels,
        })
    }
}

/// A file of images with their labels.
struct IdxSplit {
    path: PathBuf,
    images: idx::IdxImages,
    labels: Option<Vec<u8>>,
}

impl IdxSplit {
    fn n_images(&self) -> usize {
        self.images.n_images
    }

    /// The images in `range`. Copied, so that a small part does not keep the whole file in memory.
    fn dataset(&self, range: Range<usize>) -> Result<Dataset, DataError> {
        let idx::IdxImages { height, width, .. } = self.images;
        let n_bytes = height * width;
        let pixels = &self.images.pixels[range.start * n_bytes..range.end * n_bytes];
        let size = [range.len() as i64, 1, height as i64, width as i64];
        let labels = self.labels.as_ref().map(|labels| &labels[range]);
        Dataset::new(
            Tensor::from_slice(pixels).view(size),
            labels.map(|labels| Tensor::from_slice(labels).to_kind(Kind::Int64)),
        )
    }
}

/// Which images of a training file are trained on, and which are held out: the last 10,000, or a sixth of them if
/// there are fewer than 60,000, unless the config says otherwise.
pub(crate) fn split_training_images(
    n_images: usize,
    validation: Option<HoldOut>,
) -> Result<[Range<usize>; 2], DataError> {
    let default = HoldOut::Count((n_images / 6).clamp(usize::from(n_images > 1), 10_000));
    let validation = validation.unwrap_or(default);
    let n_trained_on = n_images - validation.of(n_images)?;
    Ok([0..n_trained_on, n_trained_on..n_images])
}

/// The first spelling of `name` (for example `train-images-idx3-ubyte`) that exists in `folder`, or in a subfolder of
/// that name, which is how Kaggle's data sets are unpacked.
pub(crate) fn find_file(folder: &Path, name: &str) -> Result<Option<PathBuf>, DataError> {
    let is_folder = |path: &Path| match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.is_dir())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataError::Io {
            path: path.to_owned(),
            source,
        }),
    };
    let dotted = name.replace("-idx", ".idx");
    let spellings = [
        name.to_owned(),
        dotted.clone(),
        format!("{name}.gz"),
        format!("{dotted}.gz"),
    ];
    let mut folders = Vec::new();
    for spelling in &spellings {
        let path = folder.join(spelling);
        match is_folder(&path)? {
            Some(false) => return Ok(Some(path)),
            Some(true) => folders.push(path),
            None => {}
        }
    }
    for folder in &folders {
        for spelling in &spellings {
            let path = folder.join(spelling);
            if is_folder(&path)? == Some(false) {
                return Ok(Some(path));
            }
        }
    }
    // An empty folder in place of the file: opening it gives a clear error.
    Ok(folders.into_iter().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDX: &str = "[idx]\nfolder = 'datasets/mnist'\n";

    #[test]
    fn a_config_survives_being_written_and_read() {
        let limits = format!("train_limit = 600\ntest_limit = 100\n{IDX}");
        let binarized = format!("binarization = \"dynamic\"\n{IDX}");
        let count = format!("validation = 5000\nvalidation_limit = 9\n{IDX}");
        let share = format!("validation = 0.25\n{IDX}");
        for text in [IDX, &limits, &binarized, &count, &share] {
            let config: DatasetConfig = toml::from_str(text).unwrap();
            config.validate().unwrap();
            let written = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<DatasetConfig>(&written).unwrap(), config);
            for key in ["limit", "binarization = \"dynamic\"", "validation = "] {
                assert_eq!(written.contains(key), text.contains(key), "{written}");
            }
        }
    }

    #[test]
    fn a_misspelled_binarization_is_named_with_the_right_ones() {
        let text = format!("binarization = 'dinamic'\n{IDX}");
        let error = toml::from_str::<DatasetConfig>(&text)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("unknown variant `dinamic`, expected `dynamic` or `static`"),
            "{error}"
        );
    }

    #[test]
    fn a_misspelled_key_is_named() {
        for text in [
            "train_limits = 6\n",
            "[idx]\nfolders = 'x'\n",
            "[ixd]\nfolder = 'x'\n",
        ] {
            let error = toml::from_str::<DatasetConfig>(text)
                .unwrap_err()
                .to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn a_config_without_a_source_is_refused() {
        let config: DatasetConfig = toml::from_str("train_limit = 600").unwrap();
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "dataset: no source of images, expected exactly one table: [dataset.idx], \
             [dataset.image_folder], [dataset.sprites], [dataset.arrays], [dataset.audio_folder], [dataset.text] or [dataset.melodies]"
        );
        assert!(matches!(config.load(), Err(DataError::NoSource)));
    }

    #[test]
    fn a_limit_of_zero_is_refused() {
        for key in ["train_limit", "validation_limit", "test_limit"] {
            let config: DatasetConfig = toml::from_str(&format!("{key} = 0\n{IDX}")).unwrap();
            assert_eq!(
                config.load().unwrap_err().to_string(),
                format!(
                    "dataset.{key} = 0, expected at least 1 (leave the key out to use every image)"
                )
            );
        }
    }
}
