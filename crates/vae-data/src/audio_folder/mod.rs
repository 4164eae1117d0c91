//! `[dataset.audio_folder]`: folders and zips of recordings.
//!
//! ```text
//! Files (folder or zip) ─► FileReader ─► ClipSpec ─► i16 [C, T] ─► pack ─► memory ─► sound, or log-mel spectrograms
//! ```

mod items;
mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;
use vae_base::{ItemKind, ItemSpec, Spectrogram, one_line};
use vae_sound::{Alignment, ClipSpec, LogMel};

use crate::classes::Classes;
use crate::image_folder::entry::Media;
use crate::image_folder::files::Files;
use crate::image_folder::pack::{self, NotWritten, Pack};
use crate::image_folder::split::{PARTITION_FILES, Partition, Parts};
use crate::image_folder::table::Table;
use crate::image_folder::{SplitConfig, beside, n_cores};
use crate::limits::Sizes;
use crate::stored::ImageStore;
use crate::{BadFile, BadFiles, DataError, Dataset, ImageShape, LoadReport, Splits};

pub use crate::error::PackProblem;
pub use vae_sound::is_decoding;

pub(crate) use items::Clips;
pub(crate) use source::{Source, SourceReader};

/// Tables of attributes that are found next to the recordings.
const ATTRIBUTES_FILES: [&str; 1] = ["labels.csv"];

/// The most samples of a clip: 3 minutes at 48 kHz.
const MOST_SAMPLES: u32 = 1 << 23;

/// A folder of recordings, or a zip of them, which is read without unpacking (`[dataset.audio_folder]`).
///
/// WAV, FLAC, OGG Vorbis and MP3 are supported and recognized by their content, with any rate and number of channels.
/// Each file becomes one clip of `seconds`: sound `[C, T]` as 16-bit samples, or with `spectrogram` its log-mel
/// spectrogram `[C, bands, frames]` in dB. Folders are searched recursively, as for images. Damaged, empty and silent
/// files are skipped and listed.
///
/// The recordings of a split are in the order of the hashes of their names, so that the first ones are of all kinds.
///
/// The class of a recording is the folder that it is in, if all are in folders, or the column `label` of a table.
///
/// ```
/// let config: vae_data::DatasetConfig = toml::from_str(
///     r#"
///     [audio_folder]
///     path = "recordings"
///     rate = 8000
///     seconds = 0.512
///     [audio_folder.spectrogram]
///     bands = 32
///     "#,
/// )?;
/// assert_eq!(config.item_spec()?.shape, [1, 32, 32]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AudioFolderConfig {
    /// The folder or the zip file, relative to the current folder.
    #[schemars(example = &"recordings", extend("x-resume" = true))]
    pub path: PathBuf,

    /// Samples a second that the recordings are resampled to. Default 16000.
    #[schemars(range(min = 1000, max = 192_000))]
    #[serde(default = "default_rate")]
    pub rate: u32,

    /// Length of a clip in seconds. Longer recordings are cut, shorter ones padded with silence. A spectrogram has the
    /// nearest number of frames. Default 1.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    #[serde(default = "one")]
    pub seconds: f64,

    /// 1 for mono, the mean of the channels, or 2 for stereo, the first two. Default 1.
    #[schemars(range(min = 1, max = 2))]
    #[serde(default = "mono")]
    pub channels: u32,

    /// Where a clip begins. Default `"start"`.
    #[serde(default)]
    pub align: ClipStart,

    /// What counts as silence for `align = "onset"`, in dB below the loudest moment of the recording. Default 40.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    #[serde(default = "default_silence")]
    pub silence: f64,

    /// Scale every clip to the same loudest sample, 0.9 of the full scale. Default false.
    #[serde(default)]
    pub normalize: bool,

    /// Only so many seconds of each recording are read. Default 60.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 3600.0))]
    #[serde(default = "default_max_seconds")]
    pub max_seconds: f64,

    /// Store the clips in a file next to `path` (a pack), so that recordings are decoded only once. Default true.
    #[schemars(extend("x-resume" = true))]
    #[serde(default = "yes")]
    pub pack: bool,

    /// Stop with an error if more than this fraction of the files cannot be used. Default 0.01.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_bad_fraction")]
    pub max_bad_fraction: f64,

    /// Number of threads that decode recordings. By default one per core.
    #[schemars(range(min = 1, max = 1024), extend("x-resume" = true))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,

    /// A list that assigns each recording to training (0), validation (1) or testing (2), as for images. By default
    /// `list_eval_partition.txt` or `.csv` in the folder or next to it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<PathBuf>,

    /// A table of attributes of the recordings: a CSV or TSV file with a column of file names. By default `labels.csv`
    /// in the folder or next to it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<PathBuf>,

    /// Column of that table with the class of each recording, whole numbers from 0. By default the class is the folder
    /// that the recording is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,

    /// Which recordings are test items if there is no partition list.
    #[serde(default)]
    pub split: SplitConfig,

    /// The items are log-mel spectrograms instead of samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spectrogram: Option<SpectrogramConfig>,
}

/// Where a clip begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClipStart {
    /// At the beginning of the recording.
    #[default]
    Start,
    /// 10 ms before its first sound. Silence at both ends is left out.
    Onset,
}

/// Log-mel spectrograms in dB as items (`[dataset.audio_folder.spectrogram]`), with librosa's mel bands.
///
/// The model standardizes them with the mean and standard deviation of the training items. What it decodes becomes
/// sound by the fast algorithm of Griffin & Lim.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpectrogramConfig {
    /// Number of mel bands. Default 64.
    #[schemars(range(min = 1, max = 1024))]
    pub bands: u32,
    /// Samples of the window. Default 512.
    #[schemars(range(min = 16, max = 32_768), extend("multipleOf" = 2))]
    pub window: u32,
    /// Samples from one frame to the next, at most half of the window. Default 128.
    #[schemars(range(min = 1, max = 16_384))]
    pub hop: u32,
    /// Lowest frequency in Hz. Default 0.
    #[schemars(range(min = 0.0))]
    pub low: f64,
    /// Highest frequency in Hz. By default half of the rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Quieter values are raised to this one, in dB. Default -50.
    #[schemars(range(min = -200.0, max = 0.0))]
    pub floor: f64,
}

impl Default for SpectrogramConfig {
    fn default() -> Self {
        Self {
            bands: 64,
            window: 512,
            hop: 128,
            low: 0.0,
            high: None,
            floor: -50.0,
        }
    }
}

fn default_rate() -> u32 {
    16_000
}

fn one() -> f64 {
    1.0
}

fn mono() -> u32 {
    1
}

fn default_silence() -> f64 {
    40.0
}

fn default_max_seconds() -> f64 {
    60.0
}

fn yes() -> bool {
    true
}

fn default_bad_fraction() -> f64 {
    0.01
}

impl AudioFolderConfig {
    pub(crate) fn check(&self, is_binarized: bool) -> Result<(), DataError> {
        let wrong = |key, problem| Err(DataError::Config { key, problem });
        if is_binarized {
            let problem = "makes pixels black or white, but the items of [dataset.audio_folder] are sound; remove it";
            return wrong("dataset.binarization", problem.to_owned());
        }
        self.split
            .check("dataset.audio_folder.split.test_fraction")?;
        if !(1000..=192_000).contains(&self.rate) {
            let problem = format!(
                "found {}, expected 1000 to 192000 samples a second",
                self.rate
            );
            return wrong("dataset.audio_folder.rate", problem);
        }
        for (key, found) in [
            ("dataset.audio_folder.seconds", self.seconds),
            ("dataset.audio_folder.silence", self.silence),
            ("dataset.audio_folder.max_seconds", self.max_seconds),
        ] {
            if !(found.is_finite() && found > 0.0) {
                return wrong(key, format!("found {found}, expected a number above 0"));
            }
        }
        if self.max_seconds > 3600.0 {
            let problem = format!("found {}, expected at most 3600", self.max_seconds);
            return wrong("dataset.audio_folder.max_seconds", problem);
        }
        if !(1..=2).contains(&self.channels) {
            let problem = format!("found {}, expected 1 (mono) or 2 (stereo)", self.channels);
            return wrong("dataset.audio_folder.channels", problem);
        }
        if !(0.0..=1.0).contains(&self.max_bad_fraction) {
            let problem = format!("found {}, expected 0 to 1", self.max_bad_fraction);
            return wrong("dataset.audio_folder.max_bad_fraction", problem);
        }
        if !(1..=1024).contains(&self.n_workers()) {
            let problem = format!("found {}, expected 1 to 1024 threads", self.n_workers());
            return wrong("dataset.audio_folder.workers", problem);
        }
        let n_samples = self.seconds * f64::from(self.rate);
        if n_samples.round() < 1.0 || n_samples > f64::from(MOST_SAMPLES) {
            let problem = format!(
                "found {}, which is {n_samples:.0} samples at {} Hz: 1 to {MOST_SAMPLES} samples would fit",
                self.seconds, self.rate
            );
            return wrong("dataset.audio_folder.seconds", problem);
        }
        match &self.spectrogram {
            Some(spectrogram) => self.check_spectrogram(spectrogram, n_samples),
            None => Ok(()),
        }
    }

    fn check_spectrogram(
        &self,
        config: &SpectrogramConfig,
        n_samples: f64,
    ) -> Result<(), DataError> {
        let wrong = |key, problem| Err(DataError::Config { key, problem });
        if let Some((name, problem)) = self.transform(config).problem() {
            let key = match name {
                "window" => "dataset.audio_folder.spectrogram.window",
                "hop" => "dataset.audio_folder.spectrogram.hop",
                "low" => "dataset.audio_folder.spectrogram.low",
                "high" => "dataset.audio_folder.spectrogram.high",
                "rate" => "dataset.audio_folder.rate",
                _ => "dataset.audio_folder.spectrogram.floor",
            };
            return wrong(key, problem);
        }
        let key = "dataset.audio_folder.spectrogram.bands";
        if !(1..=1024).contains(&config.bands) {
            return wrong(key, format!("found {}, expected 1 to 1024", config.bands));
        }
        let log_mel = LogMel::new(self.transform(config), config.bands as usize);
        if let Some(band) = log_mel.bank().empty_band() {
            let problem = format!(
                "found {}, but band {band} lies between two frequencies of a window of {}: fewer bands or a longer \
                 window would fit",
                config.bands, config.window
            );
            return wrong(key, problem);
        }
        if n_samples / f64::from(config.hop) < 0.5 {
            let problem = format!(
                "found {}, which is less than one frame: a shorter dataset.audio_folder.spectrogram.hop than {} would fit",
                self.seconds, config.hop
            );
            return wrong("dataset.audio_folder.seconds", problem);
        }
        Ok(())
    }

    fn transform(&self, config: &SpectrogramConfig) -> Spectrogram {
        Spectrogram {
            rate: self.rate,
            window: config.window,
            hop: config.hop,
            low: config.low,
            high: config.high.unwrap_or(f64::from(self.rate) / 2.0),
            floor: config.floor,
        }
    }

    /// Kind and shape of the items of a checked config, without statistics.
    pub(crate) fn item(&self) -> ItemSpec {
        let channels = i64::from(self.channels);
        match &self.spectrogram {
            None => {
                let n_samples = self.clip().n_samples as i64;
                ItemSpec::new(
                    ItemKind::Sound { rate: self.rate },
                    vec![channels, n_samples],
                )
            }
            Some(config) => {
                let n_frames = (self.clip().n_samples / config.hop as usize) as i64;
                let shape = vec![channels, config.bands.into(), n_frames];
                ItemSpec {
                    spectrogram: Some(self.transform(config)),
                    ..ItemSpec::new(ItemKind::Array, shape)
                }
            }
        }
    }

    pub(crate) fn clip(&self) -> ClipSpec {
        let n_samples = self.seconds * f64::from(self.rate);
        ClipSpec {
            rate: self.rate,
            n_samples: match &self.spectrogram {
                Some(config) => {
                    let hop = f64::from(config.hop);
                    ((n_samples / hop).round() * hop) as usize
                }
                None => n_samples.round() as usize,
            },
            n_channels: self.channels as usize,
            alignment: match self.align {
                ClipStart::Start => Alignment::Start,
                ClipStart::Onset => Alignment::Onset,
            },
            silence: self.silence,
            normalize: self.normalize,
            max_seconds: self.max_seconds,
        }
    }

    pub(crate) fn n_workers(&self) -> usize {
        self.workers.unwrap_or_else(n_cores)
    }

    /// The table of attributes that belongs to the recordings, if there is one.
    pub(crate) fn attributes_file(&self) -> Option<PathBuf> {
        self.list(self.attributes.as_deref(), &ATTRIBUTES_FILES)
    }

    /// The file `configured`, or the first file with one of `names` in the folder or next to it.
    fn list(&self, configured: Option<&Path>, names: &[&str]) -> Option<PathBuf> {
        let found = || {
            let parent = self.path.parent().unwrap_or(Path::new(""));
            let folders = [self.path.as_path(), parent];
            let mut files = folders
                .iter()
                .flat_map(|folder| names.iter().map(|name| folder.join(name)));
            files.find(|path| path.is_file())
        };
        configured.map(Path::to_owned).or_else(found)
    }
}

/// The files of an [`AudioFolderConfig`], listed but not yet read.
#[derive(Debug)]
pub struct AudioFolder {
    config: AudioFolderConfig,
    source: Arc<Source>,
    /// Files that were found to be bad without reading them.
    found_bad: Vec<BadFile>,
}

/// The clips of the good files, in memory.
#[derive(Debug)]
struct Decoded {
    names: Vec<String>,
    bad: Vec<BadFile>,
    /// i16 `[N, C, T]`, little-endian.
    bytes: Vec<u8>,
}

impl AudioFolder {
    /// Lists the files.
    ///
    /// # Errors
    /// An invalid config; a folder or zip that does not exist, cannot be read, or holds neither a recording nor a bad
    /// file.
    pub fn open(config: &AudioFolderConfig) -> Result<AudioFolder, DataError> {
        config.check(false)?;
        let key = "dataset.audio_folder.path";
        let (files, found_bad) = Files::scan(&config.path, Media::Sounds).map_err(|error| match error {
            DataError::MissingImages { path } => {
                let problem = format!(
                    "{}: no such folder or zip (`cargo xtask fetch-data spoken-digits` or `drums` makes those of \
                     the configs here)",
                    path.display()
                );
                DataError::Config { key, problem }
            }
            error => error,
        })?;
        if files.entries().is_empty() && found_bad.is_empty() {
            let mut problem = format!("{}: holds no WAV, FLAC, OGG or MP3", config.path.display());
            if !files.unread().is_empty() {
                problem += &format!("; {}", files.unread());
            }
            return Err(DataError::Config { key, problem });
        }
        Ok(AudioFolder {
            config: config.clone(),
            source: Arc::new(Source {
                files: Arc::new(files),
                clip: config.clip(),
            }),
            found_bad,
        })
    }

    /// The number of files, good and bad.
    pub fn n_files(&self) -> usize {
        self.source.files.entries().len() + self.found_bad.len()
    }

    /// The pack's file: next to the folder or zip, and named after it and the first digits of the SHA-256 of how clips
    /// are made, so that each way has its own pack.
    pub fn pack_file(&self) -> PathBuf {
        use sha2::{Digest, Sha256};
        let clip = Sha256::digest(self.source.transform_json());
        let suffix = format!(
            "-{}-{}.pack.safetensors",
            self.config.rate,
            &pack::hex(&clip)[..8]
        );
        beside(&self.config.path, "recordings", &suffix)
    }

    /// Checks every byte of the pack, and that it belongs to these files and this way to make clips.
    ///
    /// # Errors
    /// The problem with the pack.
    pub fn check_pack(&self) -> Result<(), PackProblem> {
        self.open_pack().map(|_| ())
    }

    /// Decodes every file and writes the pack, replacing an existing one. Returns the bad files.
    ///
    /// # Errors
    /// More bad files than the config allows; the file system refuses.
    pub fn write_pack(&self) -> Result<BadFiles, DataError> {
        match self.try_write_pack()? {
            Ok(bad) => Ok(bad),
            Err(problem) => Err(DataError::Pack {
                path: self.pack_file(),
                problem,
            }),
        }
    }

    /// Every good clip as an item, ordered by name; from the pack if the config uses one.
    ///
    /// # Errors
    /// More bad files than the config allows.
    pub fn clips(&self) -> Result<(Dataset, BadFiles), DataError> {
        let decoded = self.decoded()?;
        let bad = self.bad_files(&decoded.bad);
        let clips = Clips::new(self.config.item());
        let all: Vec<usize> = (0..decoded.names.len()).collect();
        let items = clips.items(&decoded.bytes, &all, self.config.n_workers());
        let dataset = Dataset::of_items(clips.item().clone(), items, None)?;
        Ok((dataset.with_names(decoded.names), bad))
    }

    fn open_pack(&self) -> Result<Pack, PackProblem> {
        let transform = self.source.transform_json();
        let contents = self.source.contents(&transform);
        let key = pack::key(&contents);
        Pack::open(
            &self.pack_file(),
            &key,
            contents.shape,
            self.config.n_workers(),
        )
    }

    /// The outer error concerns the files, the inner one only the pack.
    fn try_write_pack(&self) -> Result<Result<BadFiles, PackProblem>, DataError> {
        let chunks = self.source.decode_all(self.config.n_workers());
        let transform = self.source.transform_json();
        let contents = self.source.contents(&transform);
        let key = pack::key(&contents);
        let file = self.pack_file();
        match pack::write(&file, &contents, &key, chunks, |bad| self.check_bad(bad)) {
            Ok(bad) => Ok(Ok(self.bad_files(&bad))),
            Err(NotWritten::Refused(problem)) => Ok(Err(problem)),
            Err(NotWritten::Stopped(error)) => Err(error),
        }
    }

    fn decoded(&self) -> Result<Decoded, DataError> {
        let pack = if self.config.pack { self.pack()? } else { None };
        let decoded = match pack {
            Some(pack) => of_pack(&pack, self.source.shape()),
            None => self.decoded_once()?,
        };
        self.check_bad(&decoded.bad)?;
        Ok(decoded)
    }

    /// The pack, which is written first if there is no valid one. `None`, with a warning, if it cannot be written.
    fn pack(&self) -> Result<Option<Pack>, DataError> {
        let file = self.pack_file();
        match self.open_pack() {
            Ok(pack) => return Ok(Some(pack)),
            Err(PackProblem::Missing) => {}
            Err(problem) => warn!("{} {problem}: it is made again", file.display()),
        }
        let problem = match self.try_write_pack()? {
            Ok(_) => match self.open_pack() {
                Ok(pack) => return Ok(Some(pack)),
                Err(problem) => problem,
            },
            Err(problem) => problem,
        };
        warn!(
            "{} {problem}: the recordings are decoded every time (pack = false removes this warning)",
            file.display()
        );
        Ok(None)
    }

    fn decoded_once(&self) -> Result<Decoded, DataError> {
        let mut entries = self.source.files.entries().iter();
        let mut decoded = Decoded {
            names: Vec::new(),
            bad: Vec::new(),
            bytes: Vec::new(),
        };
        for chunk in self.source.decode_all(self.config.n_workers()) {
            decoded.bytes.extend(chunk.pixels);
            for (result, entry) in chunk.files.into_iter().zip(&mut entries) {
                let name = entry.name.clone();
                match result {
                    Ok(_) => decoded.names.push(name),
                    Err(reason) => decoded.bad.push(BadFile { name, reason }),
                }
            }
            self.check_bad(&decoded.bad)?;
        }
        Ok(decoded)
    }

    fn check_bad(&self, undecodable: &[BadFile]) -> Result<(), DataError> {
        let n_bad = self.found_bad.len() + undecodable.len();
        if n_bad as f64 <= self.config.max_bad_fraction * self.n_files() as f64 {
            return Ok(());
        }
        let all = self.bad_files(undecodable);
        let first = all.files().iter().take(10);
        Err(DataError::TooManyBad {
            path: self.config.path.clone(),
            what: "audio_folder",
            n_bad,
            n_files: self.n_files(),
            max_fraction: self.config.max_bad_fraction,
            first: first
                .map(|file| format!("{} {}", one_line(&file.name), one_line(&file.reason)))
                .collect(),
        })
    }

    fn bad_files(&self, undecodable: &[BadFile]) -> BadFiles {
        BadFiles::new([&self.found_bad, undecodable].concat())
    }

    /// Splits the good clips, and reports what was found.
    pub(crate) fn load(&self, sizes: &Sizes) -> Result<Splits, DataError> {
        let config = &self.config;
        let partition = config.list(config.partition.as_deref(), &PARTITION_FILES);
        let partition = partition.map(|path| Partition::read(&path)).transpose()?;
        let attributes_file = config.attributes_file();
        let table = attributes_file.as_deref().map(Table::read).transpose()?;
        let decoded = self.decoded()?;
        let names = &decoded.names;
        if let Some(partition) = &partition {
            partition.check(names)?;
        }
        if let (Some(table), Some(path)) = (&table, &config.attributes) {
            table.check(path, names)?;
        }
        let attributes = table.as_ref().map(|table| table.attributes(names));
        let labels = match &config.label {
            Some(column) => Some(items::classes_of_table(column, table.as_ref(), names)?),
            None => Classes::of_folders(names),
        };
        let parts = Parts::of(names, partition.as_ref(), &config.split, sizes.validation)?;
        let report = LoadReport {
            bad_files: self.bad_files(&decoded.bad),
            unread_files: self.source.files.unread().clone(),
            n_without_attributes: attributes.as_ref().map_or(0, |known| known.n_missing()),
            attributes_file,
            partition_file: partition.map(|partition| partition.path),
            n_unlisted: parts.n_unlisted,
            ..LoadReport::default()
        };
        report.warn(&config.path);
        // By the hashes of their names: ordered by name, the first recordings would often be of one class.
        let parts = parts.ordered(|i| config.split.u(&names[i]));
        let parts = parts.limited(sizes.limits, &config.path, "audio_folder", names.len())?;
        let mut clips = Clips::new(config.item());
        let [train, validation, test] = parts
            .each_ref()
            .map(|ids| clips.items(&decoded.bytes, ids, config.n_workers()));
        clips.standardize(&train);
        let dataset = |items, ids: &[usize]| -> Result<Dataset, DataError> {
            let of_these = |ids: &[usize]| ids.iter().map(|&i| names[i].clone()).collect();
            let known = labels.as_ref().map(|classes| classes.select(ids));
            let mut dataset =
                Dataset::of_items(clips.item().clone(), items, known)?.with_names(of_these(ids));
            if let Some(known) = &attributes {
                dataset = dataset.with_attributes(known.select(ids));
            }
            if let Some(names) = labels.as_ref().and_then(|classes| classes.names.clone()) {
                dataset = dataset.with_class_names(names);
            }
            Ok(dataset)
        };
        Ok(Splits {
            train: dataset(train, &parts[0])?,
            validation: match parts[1].is_empty() {
                true => None,
                false => Some(dataset(validation, &parts[1])?),
            },
            test: dataset(test, &parts[2])?,
            report,
        })
    }
}

fn of_pack(pack: &Pack, shape: ImageShape) -> Decoded {
    let (n, n_bytes) = (pack.names().len(), shape.n_values() as usize);
    let mut bytes = vec![0; n * n_bytes];
    for (i, out) in bytes.chunks_exact_mut(n_bytes).enumerate() {
        pack.read(i, out);
    }
    Decoded {
        names: pack.names().to_vec(),
        bad: pack.bad().to_vec(),
        bytes,
    }
}
