//! Images and other items as input of a trained model, preprocessed like its training items.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};
use tracing::warn;
use vae_base::{ConditionSpec, ItemSpec};

use crate::array_file::{self, Names, read_labels};
use crate::arrays::{ArraysConfig, Rows, check_item};
use crate::audio_folder::{self, Clips};
use crate::binarization::PixelDraws;
use crate::config::{FOLDER_KEY, find_file, split_training_images};
use crate::idx::{self, ImageReader};
use crate::image_folder::archive;
use crate::image_folder::decode::Rgb;
use crate::image_folder::entry::{Entry, Media};
use crate::image_folder::files::Files;
use crate::image_folder::source::{Source, SourceReader};
use crate::image_folder::table::Table;
use crate::image_folder::text;
use crate::image_folder::transform::{Crop, Transform, Transformer};
use crate::image_folder::{ImageSize, default_max_pixels, n_cores};
use crate::loader::Batches;
use crate::pipeline::Pipeline;
use crate::text::{InputTexts, check_vocabulary};
use crate::{
    AudioFolderConfig, BadFile, Binarization, DataError, Dataset, DatasetConfig, ImageShape,
    Tokenizer,
};

/// The two image files in a folder in MNIST's layout.
const IDX_SPLITS: [&str; 2] = ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte"];

/// Bytes of the images in a batch of [`Inputs::batch_size`].
const BATCH_BYTES: i64 = 1 << 22;

/// A split of a run's own images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The images it was trained on, without random flips.
    Train,
    /// The images held out for choices.
    Validation,
    /// The images held out for the final measurement.
    Test,
}

/// Images for a trained model, listed but not yet read.
///
/// Each image is preprocessed as the run's config says: crop, size, grayscale, EXIF rotation, and the fixed draw of
/// its binarization. If the config names idx files, which have no transform, images of another size are cropped to
/// the model's proportions and resized.
#[derive(Debug)]
pub struct Inputs {
    sources: Vec<InputSource>,
    table: Option<Table>,
    binarization: Option<Binarization>,
    item: ItemSpec,
    n_workers: usize,
    /// Files that were found to be bad without reading them.
    found_bad: Vec<BadFile>,
}

#[derive(Debug)]
enum InputSource {
    Files(FilesSource),
    Idx(IdxSource),
    Arrays(ArraySource),
    Sounds(SoundSource),
    Texts(InputTexts),
    Dataset(Box<Dataset>),
}

impl InputSource {
    /// The names of all images, including those that turn out to be bad.
    fn names(&self) -> Vec<String> {
        match self {
            InputSource::Files(files) => {
                let entries = files.source.files.entries().iter();
                entries
                    .map(|entry| format!("{}{}", files.prefix, entry.name))
                    .collect()
            }
            InputSource::Idx(idx) => {
                let path = idx.path.display();
                idx.range.clone().map(|i| format!("{path}#{i}")).collect()
            }
            InputSource::Arrays(arrays) => arrays.range.clone().map(|i| arrays.name(i)).collect(),
            InputSource::Sounds(sounds) => {
                let entries = sounds.source.files.entries().iter();
                entries
                    .map(|entry| format!("{}{}", sounds.prefix, entry.name))
                    .collect()
            }
            InputSource::Texts(texts) => texts.texts.clone(),
            InputSource::Dataset(dataset) => {
                let names = (0..dataset.len()).map(|i| dataset.file_name(i).unwrap_or_default());
                names.map(str::to_owned).collect()
            }
        }
    }
}

impl InputSource {
    /// A range of the items of a split. `asked` is what the error names.
    fn part(self, asked: &Path, range: Range<usize>) -> Result<InputSource, DataError> {
        let n = match &self {
            InputSource::Idx(idx) => idx.range.len(),
            InputSource::Dataset(dataset) => dataset.len(),
            _ => 0,
        };
        if range.end > n {
            let problem = format!("there are {n} such items, the last one is {}", n.max(1) - 1);
            return Err(wrong(asked, problem));
        }
        Ok(match self {
            InputSource::Idx(mut idx) => {
                let start = idx.range.start;
                idx.range = start + range.start..start + range.end;
                InputSource::Idx(idx)
            }
            InputSource::Dataset(dataset) => InputSource::Dataset(Box::new(dataset.part(range)?)),
            other => other,
        })
    }
}

#[derive(Clone, Debug)]
struct FilesSource {
    source: Arc<Source>,
    /// The prefix of the names.
    prefix: String,
    /// Whether the files were named individually, so that a bad one is an error.
    is_named: bool,
}

/// Files of recordings, and what becomes of their clips.
#[derive(Clone, Debug)]
struct SoundSource {
    source: Arc<audio_folder::Source>,
    clips: Arc<Clips>,
    /// The prefix of the names.
    prefix: String,
    /// Whether the files were named individually, so that a bad one is an error.
    is_named: bool,
}

/// Some images of an idx file.
#[derive(Debug)]
struct IdxSource {
    path: PathBuf,
    range: Range<usize>,
    labels: Option<Arc<[u8]>>,
    /// `None` if the images are used as they are.
    transform: Option<Transform>,
}

/// Some rows of a file of arrays.
#[derive(Debug)]
struct ArraySource {
    path: PathBuf,
    /// The requested array.
    array: Option<String>,
    range: Range<usize>,
    /// The label of every row of the file.
    labels: Option<Arc<[i64]>>,
    config: ArraysConfig,
    /// The prefix of a row's number in its name.
    prefix: String,
}

/// A batch of images or other items.
#[derive(Debug)]
pub struct InputBatch {
    /// The name of each item. For an image file: its path, in the folder or zip if one was given. For an image in an
    /// idx file: the file's path, `#` and the position. For a row of an array: its number, from 0; if several files
    /// were given, their paths and `#` precede it. A text's name is the text.
    pub names: Vec<String>,
    /// Maps `[B, C, H, W]` on the CPU of the element type of their kind: u8 for images.
    pub items: Tensor,
    /// The class of each item, if known.
    pub labels: Vec<Option<i64>>,
    /// `[B, A]`, image after image: a number for each of [`Inputs::attribute_names`], with NaN for unknown ones.
    pub attributes: Vec<f32>,
    /// Files among these that cannot be used as images.
    bad: Vec<BadFile>,
}

impl Inputs {
    /// The images of `paths`: image files (JPEG, PNG, WebP, BMP), folders and zips of them, idx files (plain or
    /// gzipped; `FILE#7` and `FILE#100..200` select some of their images) and folders of idx files, from which both
    /// splits are taken. `config` and `item` are those of the run.
    ///
    /// For a run of `[dataset.arrays]`, `paths` are files of arrays, read with the run's layout, columns and rule for
    /// missing values: `FILE`, or `FILE#NAME` if the file has several arrays; `FILE#7` and `FILE#100..200` select
    /// rows.
    ///
    /// For a run of `[dataset.audio_folder]`, `paths` are recordings, folders and zips of them.
    ///
    /// For a run of `[dataset.melodies]`, `paths` are MIDI and ABC files, folders and zips of them; each window is an item.
    ///
    /// For a run of `[dataset.text]`, `paths` are files and folders of texts as in the config, or texts themselves:
    /// whatever is no file, or begins with `text:`.
    ///
    /// In each case `test:3` is an item of the run's test split, from 0 on, and `validation:0..8` and `train:5` are items
    /// of the others, unless there is a file of that name.
    ///
    /// `attributes` is a table that is joined by file name. Without one, the run's own table is joined to images in
    /// the folder or zip that it belongs to; elsewhere equal names may be a coincidence.
    ///
    /// # Errors
    /// A path that does not exist or is none of the above; a damaged header; a table that cannot be read.
    pub fn open(
        config: &DatasetConfig,
        item: impl Into<ItemSpec>,
        paths: &[PathBuf],
        attributes: Option<&Path>,
    ) -> Result<Inputs, DataError> {
        let config = &config.located();
        let mut inputs = Inputs::new(config, item.into());
        let shape = inputs.item.map();
        let transform = transform(config, shape);
        let take_as_is = config.idx.is_some().then_some(shape);
        let max_pixels = match &config.image_folder {
            Some(folder) => folder.max_pixels,
            None => default_max_pixels(),
        };
        let source = |files: Files| {
            let (files, transform) = (Arc::new(files), transform.clone());
            Arc::new(Source {
                files,
                transform,
                max_pixels,
            })
        };
        // Consecutive image files are one source, so that they share batches.
        let mut named = Vec::new();
        let flush = |named: &mut Vec<Entry>, sources: &mut Vec<InputSource>| {
            if !named.is_empty() {
                sources.push(InputSource::Files(FilesSource {
                    source: source(Files::named(std::mem::take(named))),
                    prefix: String::new(),
                    is_named: true,
                }));
            }
        };
        for path in paths {
            if let Some((split, range)) = part_of_split(path) {
                flush(&mut named, &mut inputs.sources);
                let (source, _) = inputs.split_source(config, split)?;
                inputs.sources.push(source.part(path, range)?);
                continue;
            }
            if let Some(text) = &config.text {
                let mut texts = text.input(path)?;
                inputs.found_bad.append(&mut texts.bad);
                inputs.sources.push(InputSource::Texts(texts));
                continue;
            }
            if let Some(melodies) = &config.melodies {
                let (dataset, mut bad) = melodies.input(&inputs.item, path)?;
                inputs.found_bad.append(&mut bad);
                inputs.sources.push(InputSource::Dataset(Box::new(dataset)));
                continue;
            }
            if let Some(arrays) = &config.arrays {
                let prefix = match paths {
                    [_] => String::new(),
                    _ => format!("{}#", path.display()),
                };
                if let Some(source) = ArraySource::open(arrays, &inputs.item, path, prefix)? {
                    flush(&mut named, &mut inputs.sources);
                    inputs.sources.push(InputSource::Arrays(source));
                    continue;
                }
            }
            if let Some(sounds) = &config.audio_folder {
                inputs.open_sounds(sounds, path, paths.len() > 1)?;
                continue;
            }
            if !inputs.item.is_image() {
                return Err(wrong(
                    path,
                    "is not a file of arrays (.npy, .npz, .safetensors or .parquet), which this run expects",
                ));
            }
            let found = match Found::at(path)? {
                Found::Image(entry) => {
                    named.push(entry);
                    continue;
                }
                found => found,
            };
            flush(&mut named, &mut inputs.sources);
            match found {
                Found::Image(_) => {}
                Found::Files => {
                    let (files, bad) = Files::scan(path, Media::Images)?;
                    let unread = files.unread();
                    if files.entries().is_empty() && bad.is_empty() {
                        let mut problem = "holds no JPEG, PNG, WebP, BMP or idx file".to_owned();
                        if !unread.is_empty() {
                            problem += &format!("; {unread}");
                        }
                        return Err(wrong(path, problem));
                    }
                    if !unread.is_empty() {
                        warn!("{}: {unread}", path.display());
                    }
                    let prefix = match paths {
                        [_] => String::new(),
                        _ => format!("{}/", path.display().to_string().trim_end_matches('/')),
                    };
                    let with_prefix = |bad: BadFile| BadFile {
                        name: format!("{prefix}{}", bad.name),
                        ..bad
                    };
                    inputs.found_bad.extend(bad.into_iter().map(with_prefix));
                    inputs.sources.push(InputSource::Files(FilesSource {
                        source: source(files),
                        prefix,
                        is_named: false,
                    }));
                }
                Found::Idx(files) => {
                    for (path, range) in files {
                        let source = IdxSource::open(&path, range, &transform, take_as_is)?;
                        inputs.sources.push(InputSource::Idx(source));
                    }
                }
            }
        }
        flush(&mut named, &mut inputs.sources);
        inputs.table = match attributes {
            Some(file) => Some(inputs.read_table(file)?),
            None => own_table(config, paths)?,
        };
        Ok(inputs)
    }

    /// The images of one of the run's splits, with its limits. `attributes` is a table to use instead of the run's
    /// own.
    ///
    /// # Errors
    /// As [`DatasetConfig::load`].
    pub fn of_split(
        config: &DatasetConfig,
        item: impl Into<ItemSpec>,
        split: Split,
        attributes: Option<&Path>,
    ) -> Result<Inputs, DataError> {
        config.validate()?;
        let mut inputs = Inputs::new(config, item.into());
        let (source, attributes_file) =
            config.look_for(|config| inputs.split_source(config, split))?;
        inputs.sources.push(source);
        inputs.table = match (attributes, attributes_file) {
            (Some(file), _) => Some(inputs.read_table(file)?),
            (None, Some(file)) => Some(Table::read(&file)?),
            (None, None) => None,
        };
        Ok(inputs)
    }

    /// A split of the run's own items, and their table of attributes.
    fn split_source(
        &self,
        config: &DatasetConfig,
        split: Split,
    ) -> Result<(InputSource, Option<PathBuf>), DataError> {
        let no_validation = || DataError::Config {
            key: "dataset.validation",
            problem: "this run has no validation items".to_owned(),
        };
        if let Some(idx) = &config.idx {
            idx.check_folder()?;
            let (name, limit) = match split {
                Split::Train => (IDX_SPLITS[0], config.train_limit),
                Split::Validation => (IDX_SPLITS[0], config.validation_limit),
                Split::Test => (IDX_SPLITS[1], config.test_limit),
            };
            let path = find_file(&idx.folder, name)?.ok_or_else(|| DataError::MissingFile {
                folder: idx.folder.clone(),
                file: name.to_owned(),
                key: FOLDER_KEY,
            })?;
            let shape = self.item.map();
            let transform = transform(config, shape);
            let mut source = IdxSource::open(&path, None, &transform, Some(shape))?;
            if split != Split::Test {
                let [train, held_out] = split_training_images(source.range.end, config.validation)?;
                source.range = match split {
                    Split::Train => train,
                    _ if held_out.is_empty() => return Err(no_validation()),
                    _ => held_out,
                };
            }
            let n = source.range.len().min(limit.unwrap_or(usize::MAX));
            source.range.end = source.range.start + n;
            return Ok((InputSource::Idx(source), None));
        }
        let splits = config.load()?;
        let dataset = match split {
            Split::Train => splits.train,
            Split::Validation => splits.validation.ok_or_else(no_validation)?,
            Split::Test => splits.test,
        };
        if let Some(arrays) = &config.arrays {
            // The file may have been replaced since the run.
            let path = &arrays.train.file;
            check_item(path, dataset.item(), &self.item, "those of the model")?;
        }
        if let Some(text) = &config.text {
            let (found, wanted) = (&dataset.item().text, &self.item.text);
            check_vocabulary(&text.path, found.as_ref(), wanted.as_ref())?;
        }
        Ok((
            InputSource::Dataset(Box::new(dataset)),
            splits.report.attributes_file,
        ))
    }

    fn new(config: &DatasetConfig, item: ItemSpec) -> Inputs {
        Inputs {
            sources: Vec::new(),
            table: None,
            binarization: config.binarization,
            item,
            n_workers: match (&config.image_folder, &config.audio_folder) {
                (Some(images), _) => images.n_workers(),
                (None, Some(sounds)) => sounds.n_workers(),
                (None, None) => n_cores(),
            },
            found_bad: Vec::new(),
        }
    }

    /// Adds a recording, or a folder or zip of some.
    fn open_sounds(
        &mut self,
        config: &AudioFolderConfig,
        path: &Path,
        has_prefix: bool,
    ) -> Result<(), DataError> {
        let (files, bad, prefix, is_named) = match Found::at(path)? {
            Found::Image(entry) => (Files::named(vec![entry]), Vec::new(), String::new(), true),
            Found::Files => {
                let (files, bad) = Files::scan(path, Media::Sounds)?;
                if files.entries().is_empty() && bad.is_empty() {
                    return Err(wrong(path, "holds no WAV, FLAC, OGG or MP3 file"));
                }
                let prefix = match has_prefix {
                    true => format!("{}/", path.display().to_string().trim_end_matches('/')),
                    false => String::new(),
                };
                (files, bad, prefix, false)
            }
            Found::Idx(_) => {
                return Err(wrong(
                    path,
                    "is not a recording (WAV, FLAC, OGG or MP3) or a folder of some",
                ));
            }
        };
        let with_prefix = |bad: BadFile| BadFile {
            name: format!("{prefix}{}", bad.name),
            ..bad
        };
        self.found_bad.extend(bad.into_iter().map(with_prefix));
        self.sources.push(InputSource::Sounds(SoundSource {
            source: Arc::new(audio_folder::Source {
                files: Arc::new(files),
                clip: config.clip(),
            }),
            clips: Arc::new(Clips::new(self.item.clone())),
            prefix,
            is_named,
        }));
        Ok(())
    }

    /// Reads the requested table of attributes. Fails if it does not belong to these images.
    fn read_table(&self, file: &Path) -> Result<Table, DataError> {
        let table = Table::read(file)?;
        let names: Vec<String> = self.sources.iter().flat_map(InputSource::names).collect();
        table.check(file, &names)?;
        Ok(table)
    }

    /// The number of images, including those that turn out to be bad.
    pub fn n_images(&self) -> usize {
        let n_of = |source: &InputSource| match source {
            InputSource::Files(files) => files.source.files.entries().len(),
            InputSource::Idx(idx) => idx.range.len(),
            InputSource::Arrays(arrays) => arrays.range.len(),
            InputSource::Sounds(sounds) => sounds.source.files.entries().len(),
            InputSource::Texts(texts) => texts.texts.len(),
            InputSource::Dataset(dataset) => dataset.len(),
        };
        self.sources.iter().map(n_of).sum()
    }

    /// The names of the table's attributes; empty without a table.
    pub fn attribute_names(&self) -> &[String] {
        self.table.as_ref().map_or(&[], |table| &table.names)
    }

    /// The condition of each image of a batch, f32 `[B, D]`: its class and its attributes, where known. `None` if
    /// `spec` has no columns.
    pub fn condition(&self, batch: &InputBatch, spec: &ConditionSpec) -> Option<Vec<Vec<f32>>> {
        if spec.is_empty() {
            return None;
        }
        let names = self.attribute_names();
        let row = |i: usize| {
            let mut row = spec.unknown();
            let class = batch.labels[i].and_then(|label| usize::try_from(label).ok());
            spec.set_class(&mut row, class.filter(|&class| class < spec.classes.len()));
            let of_image = batch.attributes.get(i * names.len()..);
            for (attribute, value) in spec.attributes.iter().zip(&mut row[spec.classes.len()..]) {
                let column = names.iter().position(|name| *name == attribute.name);
                if let (Some(column), Some(of_image)) = (column, of_image) {
                    *value = attribute.values.encode(of_image[column]);
                }
            }
            row
        };
        Some((0..batch.names.len()).map(row).collect())
    }

    /// Whether classes have names, not only numbers.
    pub fn has_class_names(&self) -> bool {
        self.sources.iter().any(|source| match source {
            InputSource::Dataset(dataset) => dataset.has_class_names(),
            _ => false,
        })
    }

    /// The name of a class: its name in a data set that has names, or its number.
    #[must_use]
    pub fn class_name(&self, class: i64) -> String {
        let named = self.sources.iter().find_map(|source| match source {
            InputSource::Dataset(dataset) => Some(dataset.class_name(class)),
            _ => None,
        });
        named.unwrap_or_else(|| class.to_string())
    }

    /// Whether the class of at least one image is known.
    pub fn has_labels(&self) -> bool {
        let has_labels = |source: &InputSource| match source {
            InputSource::Files(_) | InputSource::Sounds(_) => false,
            InputSource::Idx(idx) => idx.labels.is_some(),
            InputSource::Arrays(arrays) => arrays.labels.is_some(),
            InputSource::Texts(texts) => texts.labels.iter().any(Option::is_some),
            InputSource::Dataset(dataset) => dataset.labels().is_some(),
        };
        self.sources.iter().any(has_labels)
    }

    /// A batch size that needs little memory, at most 500.
    pub fn batch_size(&self) -> usize {
        (BATCH_BYTES / self.item.map().n_values().max(1)).clamp(1, 500) as usize
    }

    /// Reads all images in order, at most `batch_size` at a time. Except for a folder's list of files, the memory
    /// does not depend on the number of images. Bad files of a folder or zip are left out; [`InputBatches::bad`]
    /// returns them.
    ///
    /// An item is an error, and the last one, if a file that was named individually is bad, an idx file is damaged,
    /// or no image at all was good.
    ///
    /// # Panics
    /// If `batch_size` is 0.
    pub fn batches(&self, batch_size: usize) -> InputBatches<'_> {
        assert!(batch_size > 0, "batch size 0, expected at least 1");
        InputBatches {
            inputs: self,
            batch_size,
            next_source: 0,
            current: None,
            bad: self.found_bad.clone(),
            n_good: 0,
            is_over: false,
        }
    }

    /// All images in one batch.
    ///
    /// # Errors
    /// Those of the items of [`Inputs::batches`]; more than `most` images, the number for which the caller has
    /// memory.
    pub fn read(&self, most: usize) -> Result<InputBatch, DataError> {
        let n = self.n_images();
        if n > most {
            let problem = match self.item.melody {
                Some(_) => format!(
                    "{n} melodies, expected at most {most} here; FILE#5 takes the one that begins with bar 5"
                ),
                None => format!("{n} {}, expected at most {most} here", self.item.noun(n)),
            };
            return Err(wrong(&self.first_path(), problem));
        }
        let mut batches = self.batches(self.batch_size());
        let (mut all, mut images) = (InputBatch::default(), Vec::new());
        for batch in &mut batches {
            let batch = batch?;
            images.push(batch.items);
            all.names.extend(batch.names);
            all.labels.extend(batch.labels);
            all.attributes.extend(batch.attributes);
        }
        all.items = Tensor::cat(&images, 0);
        Ok(all)
    }

    fn first_path(&self) -> PathBuf {
        match self.sources.first() {
            Some(InputSource::Files(files)) => match files.source.files.path() {
                path if path.as_os_str().is_empty() => {
                    files.source.files.entries()[0].name.clone().into()
                }
                path => path.to_owned(),
            },
            Some(InputSource::Sounds(sounds)) => match sounds.source.files.path() {
                path if path.as_os_str().is_empty() => {
                    sounds.source.files.entries()[0].name.clone().into()
                }
                path => path.to_owned(),
            },
            Some(InputSource::Idx(idx)) => idx.path.clone(),
            Some(InputSource::Arrays(arrays)) => arrays.path.clone(),
            Some(InputSource::Texts(_)) => PathBuf::from("the texts"),
            Some(InputSource::Dataset(_)) | None => PathBuf::from("the run's images"),
        }
    }
}

impl Default for InputBatch {
    /// No images.
    fn default() -> Self {
        InputBatch {
            names: Vec::new(),
            items: Tensor::zeros([0, 1, 1, 1], (Kind::Uint8, Device::Cpu)),
            labels: Vec::new(),
            attributes: Vec::new(),
            bad: Vec::new(),
        }
    }
}

/// The transform of image files: the config's, or, if it has none, the largest centered rectangle with the model's
/// proportions.
fn transform(config: &DatasetConfig, shape: ImageShape) -> Transform {
    match &config.image_folder {
        Some(folder) => folder.transform(),
        None => Transform {
            crop: Crop::Fraction(1.0),
            size: ImageSize {
                height: shape.height as u32,
                width: shape.width as u32,
            },
            grayscale: shape.channels == 1,
        },
    }
}

/// The run's own table, if every path is in the folder or zip that it belongs to.
fn own_table(config: &DatasetConfig, paths: &[PathBuf]) -> Result<Option<Table>, DataError> {
    let (file, folder) = match (&config.image_folder, &config.audio_folder) {
        (Some(images), _) => (images.attributes_file(), &images.path),
        (None, Some(sounds)) => (sounds.attributes_file(), &sounds.path),
        (None, None) => return Ok(None),
    };
    let (Some(file), Ok(own)) = (file, fs::canonicalize(folder)) else {
        return Ok(None);
    };
    let is_own = |path: &PathBuf| {
        part_of_split(path).is_some()
            || fs::canonicalize(path).is_ok_and(|path| path.starts_with(&own))
    };
    if !paths.iter().all(is_own) {
        return Ok(None);
    }
    if !text::may_exist(&file) {
        warn!(
            "{}: no such file, so no attributes are known",
            file.display()
        );
        return Ok(None);
    }
    Table::read(&file).map(Some)
}

fn wrong(path: &Path, problem: impl Into<String>) -> DataError {
    DataError::Input {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

/// The type of a path, by its content.
enum Found {
    /// An image file, or a file that its decoder will report as bad.
    Image(Entry),
    /// A folder or zip of image files.
    Files,
    /// Idx files, each with the selected range.
    Idx(Vec<(PathBuf, Option<Range<usize>>)>),
}

impl Found {
    fn at(path: &Path) -> Result<Found, DataError> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => {
                return match part_of_file(path) {
                    Some((file, range)) => Ok(Found::Idx(vec![(file, Some(range))])),
                    None => Err(wrong(path, format!("cannot be read: {error}"))),
                };
            }
        };
        if metadata.is_dir() {
            let mut idx = Vec::new();
            for name in IDX_SPLITS {
                idx.extend(find_file(path, name)?.map(|file| (file, None)));
            }
            return Ok(match idx.is_empty() {
                true => Found::Files,
                false => Found::Idx(idx),
            });
        }
        if !metadata.is_file() {
            return Err(wrong(path, "is neither a file nor a folder"));
        }
        let beginning = archive::beginning(path)
            .map_err(|error| wrong(path, format!("cannot be read: {error}")))?;
        match beginning[..] {
            _ if archive::is_zip(path, &beginning) => Ok(Found::Files),
            // Gzipped or plain; opening it reports a file of labels.
            [0x1f, 0x8b, ..] | [0, 0, 8, _, ..] => Ok(Found::Idx(vec![(path.to_owned(), None)])),
            _ => match (archive::archive_kind(&beginning), path.to_str()) {
                (Some(what), _) => {
                    let problem = format!("is {what}: unpack it, and give the folder");
                    Err(wrong(path, problem))
                }
                (None, Some(name)) => {
                    Ok(Found::Image(Entry::named(name.to_owned(), metadata.len())))
                }
                (None, None) => Err(wrong(path, "its name is not UTF-8")),
            },
        }
    }
}

/// Parses `test:7`, `validation:100..200` and `train:0`, unless there is a file of that name.
fn part_of_split(path: &Path) -> Option<(Split, Range<usize>)> {
    let (split, part) = path.to_str()?.split_once(':')?;
    let split = match split {
        "train" => Split::Train,
        "validation" => Split::Validation,
        "test" => Split::Test,
        _ => return None,
    };
    let range = range_of(part)?;
    (!path.exists()).then_some((split, range))
}

/// Parses `FILE#7` and `FILE#100..200`, if such a file exists.
fn part_of_file(path: &Path) -> Option<(PathBuf, Range<usize>)> {
    part_of_path(path).filter(|(file, _)| file.is_file())
}

fn part_of_path(path: &Path) -> Option<(PathBuf, Range<usize>)> {
    let (file, part) = path.to_str()?.rsplit_once('#')?;
    let file = PathBuf::from(file);
    Some((file, range_of(part)?))
}

/// Parses `7` and `100..200`.
fn range_of(part: &str) -> Option<Range<usize>> {
    let range = match part.split_once("..") {
        Some((start, end)) => start.parse().ok()?..end.parse().ok()?,
        None => {
            let start: usize = part.parse().ok()?;
            start..start.checked_add(1)?
        }
    };
    (!range.is_empty()).then_some(range)
}

impl IdxSource {
    /// `take_as_is` is the shape of images that need no transform.
    fn open(
        path: &Path,
        range: Option<Range<usize>>,
        transform: &Transform,
        take_as_is: Option<ImageShape>,
    ) -> Result<IdxSource, DataError> {
        let reader = ImageReader::open(path)?;
        let all = 0..reader.n_images;
        let range = range.unwrap_or(all.clone());
        if range.end > all.end {
            let problem = format!(
                "image {} was requested, but it holds {} (counted from 0)",
                range.end - 1,
                all.end
            );
            return Err(wrong(path, problem));
        }
        let labels = match labels_file(path)? {
            Some(file) => {
                idx::check_counts(path, &file)?;
                Some(idx::read_labels(&file)?.into())
            }
            None => None,
        };
        let shape = ImageShape {
            channels: 1,
            height: reader.height as i64,
            width: reader.width as i64,
        };
        Ok(IdxSource {
            path: path.to_owned(),
            range,
            labels,
            transform: (take_as_is != Some(shape)).then(|| transform.clone()),
        })
    }

    fn batches(
        &self,
        batch_size: usize,
        shape: ImageShape,
        draws: Option<PixelDraws>,
    ) -> impl Iterator<Item = Result<InputBatch, DataError>> + use<> {
        let mut range = self.range.clone();
        let (path, labels) = (self.path.clone(), self.labels.clone());
        let mut transformer = self.transform.clone().map(Transformer::new);
        let mut reader = None;
        let mut read = move || -> Result<InputBatch, DataError> {
            let reader = match &mut reader {
                Some(reader) => reader,
                none => none.insert(skipped(&path, range.start)?),
            };
            let positions = range.start..range.end.min(range.start + batch_size);
            range.start = positions.end;
            let mut pixels = reader.read(positions.len())?;
            if let Some(transformer) = &mut transformer {
                pixels = transformed(transformer, reader, &pixels, shape, &path)?;
            }
            let n_bytes = pixels.len() / positions.len().max(1);
            if let Some(draws) = &draws {
                for (position, image) in positions.clone().zip(pixels.chunks_exact_mut(n_bytes)) {
                    draws.binarize(position as u64, image);
                }
            }
            let path = path.display();
            Ok(InputBatch {
                names: positions.clone().map(|i| format!("{path}#{i}")).collect(),
                items: tensor(&pixels, positions.len(), shape),
                labels: positions
                    .map(|i| labels.as_ref().map(|labels| i64::from(labels[i])))
                    .collect(),
                ..InputBatch::default()
            })
        };
        // A gzip stream can only be read in order: one thread reads ahead of the model.
        let n_jobs = self.range.len().div_ceil(batch_size);
        let mut worker = Some(move |_| read());
        Pipeline::start(0..n_jobs, 1, move || {
            let mut worker = worker.take();
            // Only one worker is started, so the reader is present.
            move |job| match &mut worker {
                Some(read) => read(job),
                None => Ok(InputBatch::default()),
            }
        })
    }
}

/// A reader that continues with image number `n`.
fn skipped(path: &Path, n: usize) -> Result<ImageReader, DataError> {
    let mut reader = ImageReader::open(path)?;
    let mut n_left = n;
    while n_left > 0 {
        let n = n_left.min(1000);
        reader.read(n)?;
        n_left -= n;
    }
    Ok(reader)
}

/// Applies the transform to gray images.
fn transformed(
    transformer: &mut Transformer,
    reader: &ImageReader,
    pixels: &[u8],
    shape: ImageShape,
    path: &Path,
) -> Result<Vec<u8>, DataError> {
    let n_pixels = reader.height * reader.width;
    let n_bytes = (shape.channels * shape.height * shape.width) as usize;
    let mut out = vec![0; pixels.len() / n_pixels * n_bytes];
    let mut rgb = Vec::with_capacity(3 * n_pixels);
    for (gray, out) in pixels
        .chunks_exact(n_pixels)
        .zip(out.chunks_exact_mut(n_bytes))
    {
        rgb.clear();
        rgb.extend(gray.iter().flat_map(|&byte| [byte; 3]));
        let image = Rgb {
            width: reader.width as u32,
            height: reader.height as u32,
            pixels: &rgb,
        };
        // The problem is the same for every image of the file: its size.
        transformer
            .apply(image, out)
            .map_err(|reason| wrong(path, format!("each image {reason}")))?;
    }
    Ok(out)
}

/// The labels next to a file of images in MNIST's naming scheme.
fn labels_file(images: &Path) -> Result<Option<PathBuf>, DataError> {
    let Some(name) = images.file_name().and_then(|name| name.to_str()) else {
        return Ok(None);
    };
    let name = standard_name(name);
    let Some(prefix) = name.strip_suffix("-images-idx3-ubyte") else {
        return Ok(None);
    };
    let folder = images.parent().unwrap_or(Path::new(""));
    let labels = format!("{prefix}-labels-idx1-ubyte");
    match find_file(folder, &labels)? {
        Some(file) => Ok(Some(file)),
        // If each file has a folder of its own name.
        None if folder
            .file_name()
            .and_then(|folder| folder.to_str())
            .is_some_and(|folder| standard_name(folder) == name) =>
        {
            find_file(folder.parent().unwrap_or(Path::new("")), &labels)
        }
        None => Ok(None),
    }
}

/// The spelling with `-idx` and without `.gz`.
fn standard_name(name: &str) -> String {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    name.replace(".idx", "-idx")
}

fn tensor(pixels: &[u8], n: usize, shape: ImageShape) -> Tensor {
    let size = [n as i64, shape.channels, shape.height, shape.width];
    Tensor::from_data_size(pixels, &size, Kind::Uint8)
}

impl FilesSource {
    fn batches(
        &self,
        batch_size: usize,
        n_workers: usize,
        draws: Option<PixelDraws>,
    ) -> impl Iterator<Item = Result<InputBatch, DataError>> + use<> {
        let n_files = self.source.files.entries().len();
        let shape = self.source.transform.shape();
        Pipeline::start(0..n_files.div_ceil(batch_size), n_workers, || {
            let (this, draws) = (self.clone(), draws.clone());
            let mut reader = SourceReader::new(Arc::clone(&this.source));
            let n_bytes = this.source.transform.n_bytes();
            move |job| {
                let files = job * batch_size..n_files.min((job + 1) * batch_size);
                let mut pixels = Vec::with_capacity(files.len() * n_bytes);
                let mut batch = InputBatch::default();
                for file in files {
                    let name = format!("{}{}", this.prefix, this.source.files.entries()[file].name);
                    let start = pixels.len();
                    pixels.resize(start + n_bytes, 0);
                    match reader.read(file, &mut pixels[start..]) {
                        Ok(()) => {
                            if let Some(draws) = &draws {
                                draws.binarize(file as u64, &mut pixels[start..]);
                            }
                            batch.names.push(name);
                        }
                        Err(reason) if this.is_named => return Err(wrong(name.as_ref(), reason)),
                        Err(reason) => {
                            pixels.truncate(start);
                            batch.bad.push(BadFile { name, reason });
                        }
                    }
                }
                batch.items = tensor(&pixels, batch.names.len(), shape);
                batch.labels = vec![None; batch.names.len()];
                Ok(batch)
            }
        })
    }
}

impl SoundSource {
    fn batches(
        &self,
        batch_size: usize,
        n_workers: usize,
    ) -> impl Iterator<Item = Result<InputBatch, DataError>> + use<> {
        let n_files = self.source.files.entries().len();
        let n_bytes = self.source.shape().n_values() as usize;
        Pipeline::start(0..n_files.div_ceil(batch_size), n_workers, || {
            let this = self.clone();
            let mut reader = audio_folder::SourceReader::new(Arc::clone(&this.source));
            move |job| {
                let files = job * batch_size..n_files.min((job + 1) * batch_size);
                let mut bytes = Vec::with_capacity(files.len() * n_bytes);
                let mut batch = InputBatch::default();
                for file in files {
                    let name = format!("{}{}", this.prefix, this.source.files.entries()[file].name);
                    let start = bytes.len();
                    bytes.resize(start + n_bytes, 0);
                    match reader.read(file, &mut bytes[start..]) {
                        Ok(()) => batch.names.push(name),
                        Err(reason) if this.is_named => return Err(wrong(name.as_ref(), reason)),
                        Err(reason) => {
                            bytes.truncate(start);
                            batch.bad.push(BadFile { name, reason });
                        }
                    }
                }
                let all: Vec<usize> = (0..batch.names.len()).collect();
                batch.items = this.clips.items(&bytes, &all, 1);
                batch.labels = vec![None; batch.names.len()];
                Ok(batch)
            }
        })
    }
}

impl ArraySource {
    /// `None` if the path is not a file of arrays.
    fn open(
        config: &ArraysConfig,
        item: &ItemSpec,
        path: &Path,
        prefix: String,
    ) -> Result<Option<ArraySource>, DataError> {
        let (file, array, range) = array_parts(path);
        // Folders may hold images; for a missing path the reader of images makes the error.
        if item.is_image() && !file.is_file() {
            return Ok(None);
        }
        let Some(names) = array_file::names(&file)? else {
            return Ok(None);
        };
        let (reader, _, found, labels) = config.open_input(&file, array.as_deref(), &names)?;
        check_item(&file, &found, item, "those of the model")?;
        let n = reader.shape()[0];
        let range = range.unwrap_or(0..n);
        if range.end > n {
            let problem = format!(
                "row {} was requested, but it holds {n} (counted from 0)",
                range.end - 1
            );
            return Err(wrong(&file, problem));
        }
        let labels = match labels {
            Some(name) => config.input_labels(read_labels(&file, &name, n)?),
            None => None,
        };
        Ok(Some(ArraySource {
            path: file,
            array,
            range,
            labels: labels.map(Into::into),
            config: config.clone(),
            prefix,
        }))
    }

    fn name(&self, row: usize) -> String {
        format!("{}{row}", self.prefix)
    }

    fn batches(
        &self,
        batch_size: usize,
        draws: Option<PixelDraws>,
    ) -> impl Iterator<Item = Result<InputBatch, DataError>> + '_ {
        let mut range = self.range.clone();
        let mut rows = None;
        std::iter::from_fn(move || {
            (!range.is_empty()).then(|| {
                let rows = match &mut rows {
                    Some(rows) => rows,
                    none => none.insert(self.rows()?),
                };
                let positions = range.start..range.end.min(range.start + batch_size);
                range.start = positions.end;
                let mut images = rows.read(positions.len())?;
                if let Some(draws) = &draws {
                    images = draws.binarized(&images, positions.clone().map(|i| i as u64));
                }
                let label = |i: usize| {
                    let label = self.labels.as_ref().map(|labels| labels[i]);
                    label.filter(|&label| label >= 0)
                };
                Ok(InputBatch {
                    names: positions.clone().map(|i| self.name(i)).collect(),
                    items: images,
                    labels: positions.map(label).collect(),
                    ..InputBatch::default()
                })
            })
        })
    }

    /// The rows from the first selected one on.
    fn rows(&self) -> Result<Rows, DataError> {
        let names = array_file::names(&self.path)?.unwrap_or(Names::None);
        let array = self.array.as_deref();
        let (reader, layout, item, _) = self.config.open_input(&self.path, array, &names)?;
        let mut rows = Rows::new(&self.path, reader, layout, item);
        rows.skip(self.range.start)?;
        Ok(rows)
    }
}

/// Parses `FILE`, `FILE#NAME`, `FILE#7`, `FILE#100..200` and `FILE#NAME#7` into file, array and rows.
fn array_parts(path: &Path) -> (PathBuf, Option<String>, Option<Range<usize>>) {
    if path.is_file() {
        return (path.to_owned(), None, None);
    }
    let (path, range) = match part_of_path(path) {
        Some((path, range)) => (path, Some(range)),
        None => (path.to_owned(), None),
    };
    let named = path.to_str().and_then(|path| path.rsplit_once('#'));
    match named {
        Some((file, name)) if !path.is_file() => (file.into(), Some(name.to_owned()), range),
        _ => (path, None, range),
    }
}

fn text_batches<'a>(
    texts: &'a InputTexts,
    item: &'a ItemSpec,
    batch_size: usize,
) -> impl Iterator<Item = Result<InputBatch, DataError>> + 'a {
    let tokenizer = item.text.as_ref().map(Tokenizer::new).transpose();
    let length = item.shape.first().copied().unwrap_or(0);
    let mut tokenizer = Some(tokenizer);
    let mut made = None;
    let batches = texts
        .texts
        .chunks(batch_size)
        .zip(texts.labels.chunks(batch_size));
    batches.map(move |(texts, labels)| {
        if let Some(first) = tokenizer.take() {
            made = first?;
        }
        let Some(tokenizer) = &made else {
            let problem = "the weights have no vocabulary, and these are texts".to_owned();
            return Err(DataError::Items { problem });
        };
        let mut n_cut = 0;
        let mut tokens = Vec::with_capacity(texts.len() * length as usize);
        for text in texts {
            let (item, is_cut) = tokenizer.item(text, length as usize);
            tokens.extend(item);
            n_cut += usize::from(is_cut);
        }
        if n_cut > 0 {
            warn!(
                "{n_cut} texts have more than {} tokens and are cut",
                length - 1
            );
        }
        Ok(InputBatch {
            names: texts.to_vec(),
            items: Tensor::from_slice(&tokens).view([texts.len() as i64, 1, 1, length]),
            labels: labels.to_vec(),
            ..InputBatch::default()
        })
    })
}

fn dataset_batches(
    dataset: &Dataset,
    batch_size: usize,
) -> impl Iterator<Item = Result<InputBatch, DataError>> + '_ {
    let mut next = 0;
    let tokenizer = dataset.item().text.as_ref().map(Tokenizer::new);
    let tokenizer = tokenizer.and_then(Result::ok); // It was made when the texts were read.
    Batches::sequential(dataset, batch_size, Device::Cpu).map(move |batch| {
        let images = batch?.items;
        let text = |row: usize| {
            let tokenizer = tokenizer.as_ref()?;
            let tokens = Vec::<i64>::try_from(images.get(row as i64).flatten(0, -1)).ok()?;
            Some(tokenizer.decode(&tokens))
        };
        let positions = next..next + images.size()[0] as usize;
        next = positions.end;
        let label = |i| {
            dataset
                .labels()
                .map(|labels| labels.int64_value(&[i as i64]))
        };
        Ok(InputBatch {
            names: positions
                .clone()
                .map(
                    |i| match (text(i - positions.start), dataset.file_name(i)) {
                        (Some(text), _) => text,
                        (None, Some(name)) => name.to_owned(),
                        (None, None) => match dataset.file_row(i) {
                            Some(row) => row.to_string(),
                            None => format!("#{i}"),
                        },
                    },
                )
                .collect(),
            items: images.shallow_clone(),
            labels: positions.map(label).collect(),
            ..InputBatch::default()
        })
    })
}

type Current<'a> = Box<dyn Iterator<Item = Result<InputBatch, DataError>> + 'a>;

/// The batches of [`Inputs`], read ahead by threads.
pub struct InputBatches<'a> {
    inputs: &'a Inputs,
    batch_size: usize,
    next_source: usize,
    current: Option<Current<'a>>,
    bad: Vec<BadFile>,
    n_good: usize,
    is_over: bool,
}

impl std::fmt::Debug for InputBatches<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InputBatches")
            .field("n_good", &self.n_good)
            .field("bad", &self.bad)
            .finish_non_exhaustive()
    }
}

impl<'a> InputBatches<'a> {
    /// The files that were skipped so far, with reasons.
    pub fn bad(&self) -> &[BadFile] {
        &self.bad
    }

    fn start(&self, source: &'a InputSource) -> Current<'a> {
        let draws = self.inputs.binarization.map(Binarization::fixed_draws);
        match source {
            InputSource::Files(files) => {
                Box::new(files.batches(self.batch_size, self.inputs.n_workers, draws))
            }
            InputSource::Idx(idx) => {
                Box::new(idx.batches(self.batch_size, self.inputs.item.map(), draws))
            }
            InputSource::Arrays(arrays) => Box::new(arrays.batches(self.batch_size, draws)),
            InputSource::Sounds(sounds) => {
                Box::new(sounds.batches(self.batch_size, self.inputs.n_workers))
            }
            InputSource::Texts(texts) => {
                Box::new(text_batches(texts, &self.inputs.item, self.batch_size))
            }
            InputSource::Dataset(dataset) => Box::new(dataset_batches(dataset, self.batch_size)),
        }
    }

    fn nothing_good(&self) -> DataError {
        let first = self.bad.first().map_or(String::new(), |bad| {
            format!(" ({} {})", bad.name, bad.reason)
        });
        let problem = format!("none of its files is a usable image{first}");
        wrong(&self.inputs.first_path(), problem)
    }
}

impl Iterator for InputBatches<'_> {
    type Item = Result<InputBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            let Some(current) = &mut self.current else {
                match self.inputs.sources.get(self.next_source) {
                    Some(source) => {
                        self.current = Some(self.start(source));
                        self.next_source += 1;
                        continue;
                    }
                    None => {
                        self.is_over = true;
                        return (self.n_good == 0).then(|| Err(self.nothing_good()));
                    }
                }
            };
            match current.next() {
                None => self.current = None,
                Some(Err(error)) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
                Some(Ok(mut batch)) => {
                    self.bad.append(&mut batch.bad);
                    self.n_good += batch.names.len();
                    if let Some(table) = &self.inputs.table {
                        let rows = batch.names.iter().flat_map(|name| table.row(name));
                        batch.attributes = rows.collect();
                    }
                    if !batch.names.is_empty() {
                        return Some(Ok(batch));
                    }
                }
            }
        }
        None
    }
}
