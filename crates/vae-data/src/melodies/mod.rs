//! `[dataset.melodies]`: folders and zips of MIDI and ABC files as melodies on a grid.
//!
//! ```text
//! Files (folder or zip) ─► FileReader ─► Tune (midi.rs, abc.rs) ─► windows (tune.rs) ─► i64 [N, 1, 1, T]
//! ```

mod abc;
mod midi;
mod tune;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use vae_base::{ItemSpec, MelodySpec, one_line};

use crate::classes::Classes;
use crate::image_folder::entry::{Entry, Media};
use crate::image_folder::files::{FileReader, Files};
use crate::image_folder::split::{PARTITION_FILES, Partition, Parts};
use crate::image_folder::{SplitConfig, n_cores};
use crate::limits::Sizes;
use crate::pipeline::Pipeline;
use crate::{BadFile, BadFiles, DataError, Dataset, LoadReport, Splits};

pub use midi::to_midi;

use tune::{Grid, Meter, Window};

/// The largest file that is read.
const LARGEST_FILE: u64 = 1 << 24;

/// Files in a job.
const CHUNK: usize = 32;

/// The most bars of a window.
const MOST_BARS: i64 = 64;

/// The most semitones of a transposition.
const MOST_SEMITONES: u32 = 24;

/// A folder of MIDI and ABC files, or a zip of them, which is read without unpacking (`[dataset.melodies]`).
///
/// From each file its melody is taken, one note at a time, and cut into windows of `bars`: sequences of tokens i64 `[T]`, one
/// for each step of the grid (MusicVAE, Roberts et al. 2018, <https://arxiv.org/abs/1803.05428>). At a step what sounds goes on
/// (token 0), or silence begins (1), or the note of a pitch begins (2 to 89, the keys of a piano). Tempo, loudness and
/// instruments are not kept.
///
/// All windows of a file are in the same split. Within a file equal windows are one. The windows of a split are in the order of
/// the hashes of their names, so that the first ones are of many tunes. The class of a melody is the folder that its file is in,
/// if all are in folders. Damaged and empty files are skipped and listed; files in other meters are counted.
///
/// ```
/// let config: vae_data::DatasetConfig = toml::from_str(
///     r#"
///     [melodies]
///     path = "tunes"
///     meters = ["6/8"]
///     steps_per_bar = 12
///     "#,
/// )?;
/// assert_eq!(config.item_spec()?.shape, [24]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MelodiesConfig {
    /// The folder or the zip file, relative to the current folder. MIDI files are recognized by their content, ABC files by the
    /// ending `.abc`, and may hold several tunes.
    #[schemars(example = &"datasets/tunes", extend("x-resume" = true))]
    pub path: PathBuf,

    /// Bars of a window. Default 2.
    #[schemars(range(min = 1, max = MOST_BARS))]
    #[serde(default = "two")]
    pub bars: i64,

    /// Steps of a bar, whatever its meter. Notes go to the nearest step. Default 16.
    #[schemars(range(min = 1, max = 192))]
    #[serde(default = "sixteen")]
    pub steps_per_bar: i64,

    /// Bars in these meters are read, such as `"6/8"`; melodies that a model makes are written in the first one. Default
    /// `["4/4", "2/2"]`.
    #[schemars(length(min = 1))]
    #[serde(default = "common_meters")]
    pub meters: Vec<String>,

    /// Bars from one window to the next. Default 1.
    #[schemars(range(min = 1))]
    #[serde(default = "one")]
    pub stride: usize,

    /// The fewest notes of a window. Windows that are silent for a bar or longer are left out in any case. Default 2.
    #[schemars(range(min = 1))]
    #[serde(default = "two_notes")]
    pub min_notes: usize,

    /// Which notes of a MIDI file are its melody. Drums never are. Default `"part"`.
    #[serde(default)]
    pub melody: MelodyLine,

    /// In training each melody is moved up or down by up to so many semitones, each time by another number of them, as far as
    /// the keys of a piano go. With 0 melodies stay as they are. Default 0.
    #[schemars(range(max = MOST_SEMITONES))]
    #[serde(default)]
    pub transpose: u32,

    /// Stop with an error if more than this fraction of the files cannot be used. Default 0.01.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_bad_fraction")]
    pub max_bad_fraction: f64,

    /// A list that assigns each file to training (0), validation (1) or testing (2), as for images. By default
    /// `list_eval_partition.txt` or `.csv` in the folder or next to it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<PathBuf>,

    /// Which files are for testing if there is no partition list.
    #[serde(default)]
    pub split: SplitConfig,
}

/// Which notes of a MIDI file are its melody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MelodyLine {
    /// Those of one part (a channel of a track) in which one note sounds at a time: the highest such part, among those with at
    /// least half as many notes as the fullest. A file without such a part is left out and counted.
    #[default]
    Part,
    /// The highest ones of all parts.
    Skyline,
}

fn two() -> i64 {
    2
}

fn sixteen() -> i64 {
    16
}

fn common_meters() -> Vec<String> {
    ["4/4", "2/2"].map(str::to_owned).to_vec()
}

fn one() -> usize {
    1
}

fn two_notes() -> usize {
    2
}

fn default_bad_fraction() -> f64 {
    0.01
}

impl MelodiesConfig {
    pub(crate) fn check(&self, is_binarized: bool) -> Result<(), DataError> {
        let wrong = |key, problem| Err(DataError::Config { key, problem });
        if is_binarized {
            let problem = "makes pixels black or white, and the items of [dataset.melodies] are melodies; remove it";
            return wrong("dataset.binarization", problem.to_owned());
        }
        if !(1..=MOST_BARS).contains(&self.bars) {
            let problem = format!("found {}, expected 1 to {MOST_BARS}", self.bars);
            return wrong("dataset.melodies.bars", problem);
        }
        let grid = self.grid()?;
        if let Some((name, problem)) = grid.spec.problem() {
            let key = match name {
                "bars" => "dataset.melodies.bars",
                "steps_per_bar" => "dataset.melodies.steps_per_bar",
                _ => "dataset.melodies.meters",
            };
            return wrong(key, problem);
        }
        for (key, found) in [
            ("dataset.melodies.stride", self.stride),
            ("dataset.melodies.min_notes", self.min_notes),
        ] {
            if found < 1 {
                return wrong(key, format!("found {found}, expected at least 1"));
            }
        }
        if self.transpose > MOST_SEMITONES {
            let problem = format!("found {}, expected 0 to {MOST_SEMITONES}", self.transpose);
            return wrong("dataset.melodies.transpose", problem);
        }
        if !(0.0..=1.0).contains(&self.max_bad_fraction) {
            let problem = format!("found {}, expected 0 to 1", self.max_bad_fraction);
            return wrong("dataset.melodies.max_bad_fraction", problem);
        }
        self.split.check("dataset.melodies.split.test_fraction")
    }

    fn grid(&self) -> Result<Grid, DataError> {
        let wrong = |problem| DataError::Config {
            key: "dataset.melodies.meters",
            problem,
        };
        let meter = |text: &String| {
            let meter = text.parse::<Meter>();
            meter.map_err(|()| {
                wrong(format!(
                    "found {text:?}, a meter such as 4/4 or 6/8 would fit"
                ))
            })
        };
        let meters: Vec<Meter> = self.meters.iter().map(meter).collect::<Result<_, _>>()?;
        let Some(first) = meters.first() else {
            return Err(wrong(
                "found none, expected at least one such as 4/4".to_owned(),
            ));
        };
        Ok(Grid {
            spec: MelodySpec {
                bars: self.bars,
                steps_per_bar: self.steps_per_bar,
                meter: [first.beats, first.unit],
            },
            meters,
            stride: self.stride,
            min_notes: self.min_notes,
        })
    }

    /// Kind and shape of the items of a checked config.
    pub(crate) fn item(&self) -> Result<ItemSpec, DataError> {
        Ok(ItemSpec::of_melodies(self.grid()?.spec))
    }

    /// Reads the files, and divides their windows.
    pub(crate) fn load(&self, sizes: &Sizes) -> Result<Splits, DataError> {
        let partition = self.partition_file();
        let partition = partition.map(|path| Partition::read(&path)).transpose()?;
        let key = "dataset.melodies.path";
        let (files, found_bad) = Files::scan(&self.path, Media::Melodies).map_err(|error| match error {
            DataError::MissingImages { path } => {
                let problem = format!(
                    "{}: no such folder or zip (`cargo xtask fetch-data tunes` makes that of the config here)",
                    path.display()
                );
                DataError::Config { key, problem }
            }
            error => error,
        })?;
        if files.entries().is_empty() && found_bad.is_empty() {
            let problem = format!("{}: holds no MIDI or ABC file", self.path.display());
            return Err(DataError::Config { key, problem });
        }
        let n_files = files.entries().len() + found_bad.len();
        let mut read = Windows::read(Arc::new(files), self)?;
        read.bad.extend(found_bad);
        self.check_bad(&read.bad, n_files)?;
        let names = &read.files;
        if let Some(partition) = &partition {
            partition.check(names)?;
        }
        let parts = Parts::of(names, partition.as_ref(), &self.split, sizes.validation)?;
        let report = LoadReport {
            bad_files: BadFiles::new(std::mem::take(&mut read.bad)),
            partition_file: partition.map(|partition| partition.path),
            n_unlisted: parts.n_unlisted,
            left_out: read.left_out.clone(),
            ..LoadReport::default()
        };
        report.warn(&self.path);
        // Of files to those of their windows.
        let mut of_file: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
        for (i, window) in read.windows.iter().enumerate() {
            of_file[window.file].push(i);
        }
        let n_windows = read.windows.len();
        let parts = parts
            .expanded(|file| of_file[file].clone())
            .ordered(|i| self.split.u(&read.windows[i].name));
        let parts = parts.limited(sizes.limits, &self.path, "melodies", n_windows)?;
        let classes = Classes::of_folders(names);
        let item = self.item()?;
        let dataset = |ids: &[usize]| -> Result<Dataset, DataError> {
            let dataset = read.dataset(&item, ids)?;
            Ok(match &classes {
                Some(classes) => {
                    let files: Vec<usize> = ids.iter().map(|&i| read.windows[i].file).collect();
                    let names = classes.names.clone().unwrap_or_default();
                    dataset
                        .with_labels(Some(classes.select(&files)))
                        .with_class_names(names)
                }
                None => dataset,
            })
        };
        let train = dataset(&parts[0])?.with_transposition(self.transpose);
        Ok(Splits {
            train,
            validation: match parts[1].is_empty() {
                true => None,
                false => Some(dataset(&parts[1])?),
            },
            test: dataset(&parts[2])?,
            report,
        })
    }

    fn check_bad(&self, bad: &[BadFile], n_files: usize) -> Result<(), DataError> {
        if bad.len() as f64 <= self.max_bad_fraction * n_files as f64 {
            return Ok(());
        }
        let all = BadFiles::new(bad.to_vec());
        let first = all.files().iter().take(10);
        Err(DataError::TooManyBad {
            path: self.path.clone(),
            what: "melodies",
            n_bad: bad.len(),
            n_files,
            max_fraction: self.max_bad_fraction,
            first: first
                .map(|file| format!("{} {}", one_line(&file.name), one_line(&file.reason)))
                .collect(),
        })
    }

    fn partition_file(&self) -> Option<PathBuf> {
        let found = || {
            let parent = self.path.parent().unwrap_or(Path::new(""));
            let folders = [self.path.as_path(), parent];
            let mut files = folders
                .iter()
                .flat_map(|folder| PARTITION_FILES.iter().map(|name| folder.join(name)));
            files.find(|path| path.is_file())
        };
        self.partition.clone().or_else(found)
    }

    /// The windows of a file, a folder or a zip, for a trained model with these items. `FILE#5` is the window that begins with bar 5,
    /// in a file of several tunes `FILE#12:5` that of tune 12.
    pub(crate) fn input(
        &self,
        item: &ItemSpec,
        path: &Path,
    ) -> Result<(Dataset, Vec<BadFile>), DataError> {
        let text = path.to_str().unwrap_or_default();
        let (path, place) = match text.rsplit_once('#') {
            Some((file, place)) if !path.exists() => (Path::new(file), Some(place)),
            _ => (path, None),
        };
        let wrong = |problem: String| DataError::Input {
            path: path.to_owned(),
            problem,
        };
        let is_file = path.is_file();
        let is_zip = path
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("zip"));
        let (files, found_bad) = match is_file && !is_zip {
            true => {
                let n_bytes = std::fs::metadata(path).map_or(0, |found| found.len());
                let name = path.display().to_string();
                (Files::named(vec![Entry::named(name, n_bytes)]), Vec::new())
            }
            false => Files::scan(path, Media::Melodies)?,
        };
        let mut read = Windows::read(Arc::new(files), self)?;
        read.bad.extend(found_bad);
        if read.windows.is_empty() {
            let reason = match (read.bad.first(), read.left_out.first()) {
                (Some(bad), _) => format!("{} {}", one_line(&bad.name), one_line(&bad.reason)),
                (None, Some((reason, _))) => reason.clone(),
                (None, None) => format!(
                    "no window of {} bars with at least {} notes",
                    self.bars, self.min_notes
                ),
            };
            return Err(wrong(format!("has no melody for this run: {reason}")));
        }
        let is_chosen = |found: &Found| {
            let of_file = found.name.rsplit_once('#').map(|(_, place)| place);
            place.is_none() || of_file == place
        };
        let windows = read.windows.iter().enumerate();
        let chosen: Vec<usize> = windows
            .filter(|(_, found)| is_chosen(found))
            .map(|(i, _)| i)
            .collect();
        if chosen.is_empty() {
            let place = place.unwrap_or_default();
            let first = &read.windows[0].name;
            return Err(wrong(format!(
                "has no window {place}; the first one is {first}"
            )));
        }
        Ok((read.dataset(item, &chosen)?, read.bad))
    }
}

/// A window of a file.
#[derive(Debug)]
struct Found {
    /// The position of its file.
    file: usize,
    /// The file's name with the tune and the bar, as `reels.abc#12:5`.
    name: String,
    tokens: Vec<i64>,
}

/// The windows of files.
#[derive(Debug, Default)]
struct Windows {
    /// The names of all files that are not bad.
    files: Vec<String>,
    windows: Vec<Found>,
    bad: Vec<BadFile>,
    /// Reasons why tunes were left out, which are good ones, each with their number.
    left_out: Vec<(String, usize)>,
}

/// What a file holds.
#[derive(Debug, Default)]
struct FileContent {
    /// Each with the name of its tune, which is empty where a file has one.
    windows: Vec<(String, Window)>,
    /// Tunes that are not read, with their names.
    bad: Vec<(String, String)>,
    left_out: Vec<String>,
    n_tunes: usize,
}

impl FileContent {
    fn of(bytes: &[u8], line: MelodyLine, grid: &Grid) -> Result<FileContent, String> {
        let mut content = FileContent::default();
        let tunes = match midi::is_midi(bytes) {
            true => match midi::read(bytes, line) {
                Ok(tune) => vec![Ok(tune)],
                Err(midi::Problem::NoPart) => {
                    content.left_out.push(midi::NO_PART.to_owned());
                    return Ok(content);
                }
                Err(midi::Problem::Bad(reason)) => return Err(reason),
            },
            false => abc::read(bytes),
        };
        let n_tunes = tunes.len();
        for tune in tunes {
            let tune = match tune {
                Ok(tune) => tune,
                Err(bad) => {
                    content.bad.push(bad);
                    continue;
                }
            };
            content.n_tunes += 1;
            let name = match n_tunes {
                1 => String::new(),
                _ => format!("{}:", tune.name),
            };
            let windows = tune.windows(grid);
            if windows.is_empty() {
                let is_read = |meter: &Meter| grid.meters.contains(meter);
                let meter = tune.bars.first().map(|bar| bar.meter);
                content.left_out.push(match meter {
                    Some(meter) if !tune.bars.iter().any(|bar| is_read(&bar.meter)) => {
                        format!("in {meter}")
                    }
                    _ => "without a window".to_owned(),
                });
            }
            let named = windows.into_iter().map(|window| (name.clone(), window));
            content.windows.extend(named);
        }
        match (content.n_tunes, &content.bad[..]) {
            (0, []) => Err("holds no MIDI and no tune in ABC (X:)".to_owned()),
            (0, [(_, reason)]) if n_tunes == 1 => Err(reason.clone()),
            _ => Ok(content),
        }
    }
}

impl Windows {
    /// Reads every file once, in order, on a thread for each core.
    fn read(files: Arc<Files>, config: &MelodiesConfig) -> Result<Windows, DataError> {
        let (grid, line) = (Arc::new(config.grid()?), config.melody);
        let n_files = files.entries().len();
        let chunks = Pipeline::start(0..n_files.div_ceil(CHUNK), n_cores(), || {
            let mut reader = FileReader::new(Arc::clone(&files));
            let grid = Arc::clone(&grid);
            move |job| {
                let places = job * CHUNK..n_files.min((job + 1) * CHUNK);
                places
                    .map(|i| FileContent::of(reader.read(i, LARGEST_FILE)?, line, &grid))
                    .collect::<Vec<_>>()
            }
        });
        let mut read = Windows::default();
        let mut left_out: BTreeMap<String, usize> = BTreeMap::new();
        for (content, entry) in chunks.flatten().zip(files.entries()) {
            let content = match content {
                Ok(content) => content,
                Err(reason) => {
                    let name = entry.name.clone();
                    read.bad.push(BadFile { name, reason });
                    continue;
                }
            };
            for (tune, reason) in content.bad {
                let name = format!("{}#{tune}", entry.name);
                read.bad.push(BadFile { name, reason });
            }
            for reason in content.left_out {
                *left_out.entry(reason).or_default() += 1;
            }
            let file = read.files.len();
            read.files.push(entry.name.clone());
            for (tune, Window { bar, tokens }) in content.windows {
                read.windows.push(Found {
                    file,
                    name: format!("{}#{tune}{bar}", entry.name),
                    tokens,
                });
            }
        }
        read.left_out = left_out.into_iter().collect();
        Ok(read)
    }

    fn dataset(&self, item: &ItemSpec, ids: &[usize]) -> Result<Dataset, DataError> {
        let of = ids.iter().map(|&i| &self.windows[i]);
        let tokens: Vec<i64> = of.clone().flat_map(|found| found.tokens.clone()).collect();
        let [_, _, n_steps] = item.map().sides();
        let items = Tensor::from_slice(&tokens).view([ids.len() as i64, 1, 1, n_steps]);
        let names = of.map(|found| found.name.clone()).collect();
        Ok(Dataset::of_items(item.clone(), items, None)?.with_names(names))
    }
}
