//! Folders and zips of photos.
//!
//! ```text
//! Files (folder or zip) ─► FileReader ─► Decoder ─► Transformer ─► pack (mapped into memory)
//!   names, sizes, times     bytes         RGB        u8 [C, H, W]      └► Dataset
//! ```

pub(crate) mod archive;
pub(crate) mod decode;
pub(crate) mod entry;
mod exif;
mod file_images;
pub(crate) mod files;
mod formats;
mod jpeg;
mod names;
pub(crate) mod pack;
pub(crate) mod source;
pub(crate) mod split;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod transform;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;
use vae_base::one_line;

use crate::classes::Classes;
use crate::dataset::Enlarged;
use crate::limits::Sizes;
use crate::stored::{ImageStore, StoredImages};
use crate::{BadFile, BadFiles, DataError, Dataset, HoldOut, LoadReport, Splits};
use entry::Media;
use file_images::FileImages;
use files::{FileReader, Files};
use pack::{NotWritten, Pack};
use source::Source;
use split::{PARTITION_FILES, Partition, Parts};
use table::{ATTRIBUTES_FILES, Table};
use transform::{Crop, Transform};

pub use pack::{PackProgress, watch_packs};

pub use crate::error::PackProblem;
pub use decode::is_decoding;
pub use split::{PARTITION_FILE, SplitConfig};
pub use table::ATTRIBUTES_FILE;
pub use transform::{CropRect, ImageSize, MAX_ENLARGEMENT, MAX_SIDE};

/// A folder of photos, or a zip of them, which is read without unpacking (`[dataset.image_folder]`).
///
/// JPEG, PNG, WebP and BMP are supported and recognized by their content. Gray, transparent, 16-bit and CMYK images
/// become 8-bit RGB, and EXIF rotations are applied. Folders are searched recursively, and links are followed. Names
/// that begin with a dot, system folders such as recycle bins, and the folders of runs are skipped. A file is ignored
/// if neither its extension nor its first bytes are those of an image; other files that are not images count as bad.
/// Images in unsupported formats, such as HEIC, are counted separately.
///
/// Folders are classes: `cats/1.jpg` and `dogs/2.jpg` are of the classes `cats` and `dogs`, also below a folder that
/// all have in common, or below `train` and `test`. Images that lie beside such folders leave all without a class.
///
/// ```
/// let config: vae_data::DatasetConfig = toml::from_str(
///     r#"
///     [image_folder]
///     path = "photos"
///     image_size = [96, 64]
///     random_flip = true
///     "#,
/// )?;
/// config.validate()?;
/// let photos = config.image_folder.ok_or("no such table")?;
/// assert_eq!(photos.crop_fraction, 1.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFolderConfig {
    /// The folder or the zip file, relative to the current folder.
    #[schemars(example = &"photos", extend("x-resume" = true))]
    pub path: PathBuf,

    /// Size of the centered crop, relative to the largest centered rectangle with the proportions of `image_size`. 1
    /// uses all of that rectangle (for a square image size, the photo's shorter side); 148/178 is usual for CelebA.
    /// Default 1.
    #[schemars(extend("exclusiveMinimum" = 0.0), range(max = 1.0))]
    #[serde(default = "whole")]
    pub crop_fraction: f64,

    /// Crop this rectangle from every image instead of a centered one. Cannot be combined with `crop_fraction`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<CropRect>,

    /// Size in pixels that the crop is resized to, with antialiasing: one number for a square, or `[height, width]`.
    /// Default 64.
    #[serde(default = "default_size")]
    pub image_size: ImageSize,

    /// Convert the images to gray: one channel, the brightness, instead of three. Default false.
    #[serde(default)]
    pub grayscale: bool,

    /// Mirror training images left to right, each at random in half of the epochs. Default false.
    #[serde(default)]
    pub random_flip: bool,

    /// Store the decoded images in a file next to `path` (a pack), so that photos are decoded only once. Default
    /// true.
    #[schemars(extend("x-resume" = true))]
    #[serde(default = "yes")]
    pub pack: bool,

    /// Stop with an error if more than this fraction of the files cannot be decoded. Default 0.01.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_bad_fraction")]
    pub max_bad_fraction: f64,

    /// Images with more pixels count as bad files, because each pixel takes 3 bytes of memory. Default 100,000,000.
    #[schemars(range(min = 1))]
    #[serde(default = "default_max_pixels")]
    pub max_pixels: u64,

    /// Number of threads that read and decode images. By default one per core.
    #[schemars(range(min = 1, max = 1024), extend("x-resume" = true))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,

    /// A list that assigns each image to training (0), validation (1) or testing (2). Images that are not in the list
    /// are not used. By default `list_eval_partition.txt` or `.csv` in the folder or zip or next to it, if there is
    /// one; otherwise `split` and `dataset.validation` decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<PathBuf>,

    /// A table of attributes of the images: CelebA's list, or a CSV or TSV file with a column of file names. By
    /// default `list_attr_celeba.txt` or `.csv` in the folder or zip or next to it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<PathBuf>,

    /// Which images are test images if there is no partition list.
    #[serde(default)]
    pub split: SplitConfig,
}

/// The default for images without a partition list.
const DEFAULT_VALIDATION: HoldOut = HoldOut::Fraction(0.1);

fn whole() -> f64 {
    1.0
}

fn default_size() -> ImageSize {
    ImageSize {
        height: 64,
        width: 64,
    }
}

fn yes() -> bool {
    true
}

fn default_bad_fraction() -> f64 {
    0.01
}

/// The default number of decoding threads.
pub(crate) fn n_cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn default_max_pixels() -> u64 {
    100_000_000
}

impl ImageFolderConfig {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        self.transform().check()?;
        self.split
            .check("dataset.image_folder.split.test_fraction")?;
        let wrong = |key, problem| Err(DataError::Config { key, problem });
        if self.crop.is_some() && self.crop_fraction != whole() {
            let problem = "found together with crop_fraction, expected one of the two".to_owned();
            return wrong("dataset.image_folder.crop", problem);
        }
        if !(0.0..=1.0).contains(&self.max_bad_fraction) {
            let problem = format!("found {}, expected 0 to 1", self.max_bad_fraction);
            return wrong("dataset.image_folder.max_bad_fraction", problem);
        }
        let side = self.image_size.height.max(self.image_size.width);
        for (key, found, most) in [
            ("dataset.image_folder.max_pixels", self.max_pixels, u64::MAX),
            ("dataset.image_folder.image_size", side.into(), 16_384),
            (
                "dataset.image_folder.workers",
                self.n_workers() as u64,
                1024,
            ),
        ] {
            if found == 0 {
                return wrong(key, "found 0, expected at least 1".to_owned());
            }
            if found > most {
                return wrong(key, format!("found {found}, expected at most {most}"));
            }
        }
        const MOST_WORKERS: usize = 1024;
        if self.n_workers() > MOST_WORKERS {
            let found = self.n_workers();
            let problem = format!("found {found}, expected at most {MOST_WORKERS} threads");
            return wrong("dataset.image_folder.workers", problem);
        }
        Ok(())
    }

    /// The shape of the images that a model sees.
    #[must_use]
    pub fn image_shape(&self) -> crate::ImageShape {
        self.transform().shape()
    }

    pub(crate) fn transform(&self) -> Transform {
        Transform {
            crop: match self.crop {
                Some(rect) => Crop::Rect(rect),
                None => Crop::Fraction(self.crop_fraction),
            },
            size: self.image_size,
            grayscale: self.grayscale,
        }
    }

    pub(crate) fn n_workers(&self) -> usize {
        self.workers.unwrap_or_else(n_cores)
    }

    /// The table of attributes that belongs to the images, if there is one.
    pub(crate) fn attributes_file(&self) -> Option<PathBuf> {
        self.list(self.attributes.as_deref(), &ATTRIBUTES_FILES)
    }

    /// The file `configured`, or the first file with one of `names`: in the folder, next to the folder or zip, where
    /// CelebA's publishers put it, or in the zip.
    fn list(&self, configured: Option<&Path>, names: &[&str]) -> Option<PathBuf> {
        let with_images = || {
            let parent = self.path.parent().unwrap_or(Path::new(""));
            let mut folders = vec![self.path.clone(), parent.to_owned()];
            if let Ok(real) = self.path.canonicalize() {
                let mut around = real.ancestors();
                let (name, above) = (real.file_name(), around.nth(1));
                // Kaggle's `img_align_celeba/img_align_celeba`.
                if above.and_then(Path::file_name) == name {
                    folders.extend(around.next().map(Path::to_owned));
                }
                // The publishers have `Img` next to `Eval` and `Anno`.
                let above = above.and_then(Path::parent);
                folders.extend(
                    above
                        .iter()
                        .flat_map(|above| ["Eval", "Anno"].map(|f| above.join(f))),
                );
            }
            let mut files = folders
                .iter()
                .flat_map(|folder| names.iter().map(|name| folder.join(name)));
            let in_zip = || {
                let members = names.iter().flat_map(|name| {
                    // A file that is not a zip is reported when its images are listed.
                    archive::members_named(&self.path, name).unwrap_or_default()
                });
                members.map(|member| self.path.join(member)).next()
            };
            files.find(|path| path.is_file()).or_else(in_zip)
        };
        configured.map(Path::to_owned).or_else(with_images)
    }
}

/// The file next to `path` of its name, or where that is none of `name`, followed by `suffix`.
pub(crate) fn beside(path: &Path, name: &str, suffix: &str) -> PathBuf {
    // A path such as `.` or `faces/..` has a name only after it is resolved.
    let whole = std::path::absolute(path)
        .and_then(|whole| match path.file_name() {
            Some(_) => Ok(whole),
            None => whole.canonicalize(),
        })
        .unwrap_or_else(|_| path.to_owned());
    let mut file = whole.file_name().unwrap_or(name.as_ref()).to_owned();
    file.push(suffix);
    match path.file_name() {
        Some(_) => path.with_file_name(file),
        None => whole.with_file_name(file),
    }
}

/// The files of an [`ImageFolderConfig`], listed but not yet read.
#[derive(Debug)]
pub struct ImageFolder {
    config: ImageFolderConfig,
    source: Arc<Source>,
    /// Files that were found to be bad without reading them.
    found_bad: Vec<BadFile>,
}

impl ImageFolder {
    /// Lists the files.
    ///
    /// # Errors
    /// An invalid config; a folder or zip that does not exist, cannot be read, or holds neither an image nor a bad
    /// file.
    pub fn open(config: &ImageFolderConfig) -> Result<ImageFolder, DataError> {
        config.check()?;
        let (files, found_bad) = Files::scan(&config.path, Media::Images)?;
        if files.entries().is_empty() && found_bad.is_empty() {
            return Err(DataError::NoImages {
                path: config.path.clone(),
                unread: files.unread().clone(),
            });
        }
        Ok(ImageFolder {
            config: config.clone(),
            source: Arc::new(Source {
                files: Arc::new(files),
                transform: config.transform(),
                max_pixels: config.max_pixels,
            }),
            found_bad,
        })
    }

    /// The number of files, good and bad.
    pub fn n_files(&self) -> usize {
        self.source.files.entries().len() + self.found_bad.len()
    }

    /// The pack's file: next to the folder or zip, and named after it, the images' shape and the first digits of the
    /// transform's SHA-256, so that each transform has its own pack.
    pub fn pack_file(&self) -> PathBuf {
        use sha2::{Digest, Sha256};
        let transform = Sha256::digest(self.source.transform_json());
        let shape = self.source.transform.shape();
        let suffix = format!(
            "-{}x{}x{}-{}.pack.safetensors",
            shape.channels,
            shape.height,
            shape.width,
            &pack::hex(&transform)[..8]
        );
        beside(&self.config.path, "images", &suffix)
    }

    /// Checks every byte of the pack, and that it belongs to these files and this transform.
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

    /// Every good image, ordered by name; from the pack if the config uses one.
    ///
    /// # Errors
    /// More bad files than the config allows.
    pub fn images(&self) -> Result<(Dataset, BadFiles), DataError> {
        let stored = self.stored()?;
        let bad = self.bad_files(stored.bad());
        let n_images = stored.names().len();
        let images = StoredImages {
            store: stored,
            ids: (0..n_images).collect(),
            random_flips: false,
        };
        Ok((Dataset::stored(images, None), bad))
    }

    fn open_pack(&self) -> Result<Pack, PackProblem> {
        let transform = self.source.transform_json();
        let key = pack::key(&self.source.contents(&transform));
        let shape = self.source.transform.shape();
        Pack::open(&self.pack_file(), &key, shape, self.config.n_workers())
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

    fn stored(&self) -> Result<Arc<dyn ImageStore>, DataError> {
        let pack = if self.config.pack { self.pack()? } else { None };
        let stored: Arc<dyn ImageStore> = match pack {
            Some(pack) => Arc::new(pack),
            None => Arc::new(self.decoded_once()?),
        };
        self.check_bad(stored.bad())?;
        Ok(stored)
    }

    /// The pack, which is written first if there is no valid one. `None`, with a warning, if it cannot be written.
    fn pack(&self) -> Result<Option<Pack>, DataError> {
        let file = self.pack_file();
        pack::PARTIAL.remove_abandoned(vae_base::files::parent(&file));
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
            "{} {problem}: the images are decoded in every epoch (pack = false removes this \
             warning)",
            file.display()
        );
        Ok(None)
    }

    /// Without a pack: one pass over the files finds the good ones.
    fn decoded_once(&self) -> Result<FileImages, DataError> {
        let mut entries = self.source.files.entries().iter().enumerate();
        let (mut names, mut files, mut bad) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in self.source.decode_all(self.config.n_workers()) {
            for (result, (i, entry)) in chunk.files.into_iter().zip(&mut entries) {
                let name = entry.name.clone();
                match result {
                    Ok(_) => {
                        names.push(name);
                        files.push(i);
                    }
                    Err(reason) => bad.push(BadFile { name, reason }),
                }
            }
            self.check_bad(&bad)?;
        }
        Ok(FileImages {
            source: Arc::clone(&self.source),
            n_workers: self.config.n_workers(),
            names,
            files,
            bad,
        })
    }

    fn check_bad(&self, undecodable: &[BadFile]) -> Result<(), DataError> {
        let n_bad = self.found_bad.len() + undecodable.len();
        if n_bad as f64 <= self.config.max_bad_fraction * self.n_files() as f64 {
            return Ok(());
        }
        let first = self
            .bad_files(undecodable)
            .files()
            .iter()
            .take(10)
            .map(|file| format!("{} {}", one_line(&file.name), one_line(&file.reason)))
            .collect();
        Err(DataError::TooManyBad {
            path: self.config.path.clone(),
            what: "image_folder",
            n_bad,
            n_files: self.n_files(),
            max_fraction: self.config.max_bad_fraction,
            first,
        })
    }

    /// Of a few files spread over the folder, how many were looked at, and how many are enlarged.
    fn enlarged(&self) -> Enlarged {
        const MOST: usize = 50;
        let transform = &self.source.transform;
        let mut reader = FileReader::new(Arc::clone(&self.source.files));
        let mut found = Enlarged::default();
        let n_files = self.source.files.entries().len();
        for i in (0..n_files).step_by(n_files.div_ceil(MOST).max(1)) {
            let file = reader.read(i, self.source.max_bytes());
            let Some((width, height)) = file.ok().and_then(decode::stored_size) else {
                continue;
            };
            // Stored pixels may lie on their side.
            let is_large = |height, width| {
                let cut = transform.cut(height, width);
                cut.is_ok_and(|cut| {
                    cut.height >= transform.size.height && cut.width >= transform.size.width
                })
            };
            found.n_seen += 1;
            found.n_enlarged += usize::from(!is_large(height, width) && !is_large(width, height));
        }
        found
    }

    fn bad_files(&self, undecodable: &[BadFile]) -> BadFiles {
        BadFiles::new([&self.found_bad, undecodable].concat())
    }

    /// Splits the good images, and reports what was found.
    pub(crate) fn load(&self, sizes: &Sizes) -> Result<Splits, DataError> {
        let config = &self.config;
        let partition = config
            .list(config.partition.as_deref(), &PARTITION_FILES)
            .map(|path| Partition::read(&path))
            .transpose()?;
        let attributes_file = config.attributes_file();
        let stored = self.stored()?;
        let table = attributes_file.as_deref().map(Table::read).transpose()?;
        let attributes = table.as_ref().map(|table| table.attributes(stored.names()));
        if let Some(partition) = &partition {
            partition.check(stored.names())?;
        }
        if let (Some(table), Some(path)) = (&table, &config.attributes) {
            table.check(path, stored.names())?;
        }

        let parts = Parts::of(
            stored.names(),
            partition.as_ref(),
            &config.split,
            sizes.validation,
        )?;
        let n_unlisted = parts.n_unlisted;
        let classes = Classes::of_folders(stored.names());
        // By the hashes of their names: ordered by name, the first images would be of one class. A partition list keeps
        // the order of CelebA and its like.
        let parts = match (&classes, &partition) {
            (Some(_), None) => parts.ordered(|i| config.split.u(&stored.names()[i])),
            _ => parts,
        };
        let report = LoadReport {
            bad_files: self.bad_files(stored.bad()),
            unread_files: self.source.files.unread().clone(),
            n_without_attributes: attributes.as_ref().map_or(0, |known| known.n_missing()),
            attributes_file,
            partition_file: partition.map(|partition| partition.path),
            n_unlisted,
            enlarged: self.enlarged(),
            left_out: Vec::new(),
        };
        report.warn(&config.path);
        let [train, validation, test] = parts.limited(
            sizes.limits,
            &config.path,
            "image_folder",
            stored.names().len(),
        )?;
        let dataset = |ids: Vec<usize>, random_flips| {
            let attributes = attributes.as_ref().map(|known| known.select(&ids));
            let images = StoredImages {
                store: Arc::clone(&stored),
                ids,
                random_flips,
            };
            let labels = classes.as_ref().map(|classes| classes.select(&images.ids));
            let dataset = Dataset::stored(images, attributes).with_labels(labels);
            match classes.as_ref().and_then(|classes| classes.names.clone()) {
                Some(names) => dataset.with_class_names(names),
                None => dataset,
            }
        };
        Ok(Splits {
            train: dataset(train, config.random_flip),
            validation: (!validation.is_empty()).then(|| dataset(validation, false)),
            test: dataset(test, false),
            report,
        })
    }
}
