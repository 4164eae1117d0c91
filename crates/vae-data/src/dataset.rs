//! Images and other items, in memory or on disk, with their labels, names and attributes.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};
use tracing::{info, warn};
use vae_base::{
    AttributeSpec, AttributeValues, ConditionSpec, DataSpec, ImageShape, ItemKind, ItemSpec,
};

use crate::batch::Batch;
use crate::bits::BitImages;
use crate::stored::{ImageStore, StoredImages};
use crate::{Attributes, BadFile, BadFiles, Binarization, DataError, Factors, UnreadFiles};

/// N items of one kind and shape, most often images as bytes, with their class labels, file names and attributes, if
/// known.
#[derive(Debug)]
pub struct Dataset {
    item: ItemSpec,
    images: Images,
    labels: Option<Tensor>,
    attributes: Option<Attributes>,
    factors: Option<Factors>,
    /// The condition of each item: its columns, and their values f32 [N, D] on the CPU.
    condition: Option<(Arc<ConditionSpec>, Tensor)>,
    binarization: Option<Binarization>,
    /// The row of each item in its file, for items that are rows of an array.
    rows: Option<Vec<usize>>,
    /// The file of each item in memory, for items that have files of their own.
    names: Option<Vec<String>>,
    /// The names of the classes, where they have some.
    class_names: Option<Arc<[String]>>,
    /// Melodies are moved by up to so many semitones in training.
    transposition: u32,
}

#[derive(Debug)]
pub(crate) enum Images {
    /// [N, C, H, W] on the CPU, u8 for images.
    Memory(Tensor),
    /// In a pack, in files, or as one bit per pixel.
    Stored(StoredImages),
}

impl Dataset {
    /// A data set of tensors: images u8 `[N, C, H, W]` and labels i64 `[N]`, both on the CPU.
    ///
    /// # Errors
    /// [`DataError::Layout`] if the element type, the number of dimensions, the device or N differs.
    pub fn new(images: Tensor, labels: Option<Tensor>) -> Result<Dataset, DataError> {
        let wanted = "Uint8 [N, C, H, W] on Cpu with C, H and W of at least 1";
        let shape = match images.size()[..] {
            [_, ref shape @ ..] if shape.len() == 3 && shape.iter().all(|&side| side > 0) => {
                shape.to_vec()
            }
            _ => return Err(wrong_layout("images", &images, wanted)),
        };
        let item = ItemSpec::new(ItemKind::Image, shape);
        check_layout("images", &images, Kind::Uint8, &images.size(), || {
            wanted.to_owned()
        })?;
        check_labels(labels.as_ref(), images.size()[0])?;
        Ok(Dataset::of(item, Images::Memory(images), labels))
    }

    /// A data set of items of any kind, as maps `[N, C, H, W]` ([`ItemSpec::map`]) of the element type of their kind,
    /// and labels i64 `[N]`, all on the CPU.
    ///
    /// ```
    /// use tch::Tensor;
    /// use vae_base::{ItemKind, ItemSpec};
    /// use vae_data::Dataset;
    ///
    /// # fn main() -> Result<(), vae_data::DataError> {
    /// // Two vectors of three numbers.
    /// let items = Tensor::from_slice(&[0.5_f32, 1.0, -2.0, 0.0, 3.0, 4.5]).view([2, 1, 1, 3]);
    /// let dataset = Dataset::of_items(ItemSpec::new(ItemKind::Array, vec![3]), items, None)?;
    /// assert_eq!((dataset.len(), dataset.item().shape.len()), (2, 1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`DataError::Layout`] if the element type, the shape, the device or N differs; [`DataError::Items`] if the
    /// specification is invalid, an array contains infinite values (or NaN, unless the specification allows missing
    /// values), or a token is outside the vocabulary.
    pub fn of_items(
        item: ItemSpec,
        items: Tensor,
        labels: Option<Tensor>,
    ) -> Result<Dataset, DataError> {
        if let Some(problem) = item.problem() {
            return Err(DataError::Items { problem });
        }
        let kind = match item.kind.element() {
            "f32" => Kind::Float,
            "i16" => Kind::Int16,
            "i64" => Kind::Int64,
            _ => Kind::Uint8,
        };
        let sides = item.map().sides();
        let n = items.size().first().copied().unwrap_or(0);
        check_layout("items", &items, kind, &[&[n], &sides[..]].concat(), || {
            let [channels, height, width] = sides;
            format!("{kind:?} [N, {channels}, {height}, {width}] on Cpu")
        })?;
        check_labels(labels.as_ref(), n)?;
        check_values(&item, &items)?;
        Ok(Dataset::of(item, Images::Memory(items), labels))
    }

    fn of(item: ItemSpec, images: Images, labels: Option<Tensor>) -> Dataset {
        Dataset {
            item,
            images,
            labels,
            attributes: None,
            factors: None,
            condition: None,
            binarization: None,
            rows: None,
            names: None,
            class_names: None,
            transposition: 0,
        }
    }

    /// The same items with the names of their files.
    pub(crate) fn with_names(self, names: Vec<String>) -> Dataset {
        Dataset {
            names: Some(names),
            ..self
        }
    }

    /// The same items with these attributes.
    pub(crate) fn with_attributes(self, attributes: Attributes) -> Dataset {
        Dataset {
            attributes: Some(attributes),
            ..self
        }
    }

    /// The same items with these classes, i64 `[N]`.
    pub(crate) fn with_labels(self, labels: Option<Tensor>) -> Dataset {
        Dataset { labels, ..self }
    }

    /// The same items with names of their classes.
    pub(crate) fn with_class_names(self, names: Vec<String>) -> Dataset {
        Dataset {
            class_names: Some(names.into()),
            ..self
        }
    }

    /// The same melodies, moved by up to so many semitones in training.
    pub(crate) fn with_transposition(self, transposition: u32) -> Dataset {
        Dataset {
            transposition,
            ..self
        }
    }

    /// By how many semitones melodies are moved at most in training.
    pub(crate) fn transposition(&self) -> u32 {
        self.transposition
    }

    /// The same items with their row numbers in a file.
    pub(crate) fn with_rows(self, rows: &[usize]) -> Dataset {
        Dataset {
            rows: Some(rows.to_vec()),
            ..self
        }
    }

    pub(crate) fn stored(images: StoredImages, attributes: Option<Attributes>) -> Dataset {
        Dataset {
            attributes,
            ..Dataset::of(images.store.shape().into(), Images::Stored(images), None)
        }
    }

    /// Images with known factors; the values of the factor `label` are their labels.
    pub(crate) fn of_factors(images: BitImages, factors: Factors, label: usize) -> Dataset {
        let positions = factors.positions().iter();
        let labels: Vec<i64> = positions
            .map(|&position| factors.space().classes(position)[label] as i64)
            .collect();
        let item = images.shape().into();
        let images = Images::Stored(StoredImages {
            ids: (0..labels.len()).collect(),
            store: Arc::new(images),
            random_flips: false,
        });
        Dataset {
            factors: Some(factors),
            ..Dataset::of(item, images, Some(Tensor::from_slice(&labels)))
        }
    }

    /// The same images with this binarization, or (`None`) with none. Items other than images are unchanged.
    #[must_use]
    pub fn with_binarization(self, binarization: Option<Binarization>) -> Dataset {
        Dataset {
            binarization: binarization.filter(|_| self.item.is_image()),
            ..self
        }
    }

    /// How the bytes become 0 or 255; `None` if they are used as they are.
    pub fn binarization(&self) -> Option<Binarization> {
        self.binarization
    }

    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    /// The first `n` items, or all if there are fewer: `[n, C, H, W]` on the CPU. Images are u8, with 0 for black.
    ///
    /// # Errors
    /// As [`Dataset::select`].
    pub fn first(&self, n: usize) -> Result<Tensor, DataError> {
        let indices: Vec<usize> = (0..n.min(self.len())).collect();
        self.select(&indices)
    }

    /// The items at these positions, in this order: `[n, C, H, W]` on the CPU. Images are u8, with 0 for black.
    /// Binarized images are those of a sequential pass, the same at every call and in every run.
    ///
    /// # Errors
    /// A file of a data set without a pack can no longer be decoded.
    ///
    /// # Panics
    /// If a position is [`Dataset::len`] or more.
    pub fn select(&self, positions: &[usize]) -> Result<Tensor, DataError> {
        let images = self.select_stored(positions)?;
        Ok(match self.binarization {
            Some(binarization) => {
                let positions = positions.iter().map(|&i| i as u64);
                binarization.fixed_draws().binarized(&images, positions)
            }
            None => images,
        })
    }

    /// The images at these positions with their conditions, on the CPU. The images are those of [`Dataset::select`].
    ///
    /// # Errors
    /// As [`Dataset::select`].
    ///
    /// # Panics
    /// If a position is [`Dataset::len`] or more.
    pub fn batch(&self, positions: &[usize]) -> Result<Batch, DataError> {
        let rows: Vec<i64> = positions.iter().map(|&i| i as i64).collect();
        let condition = self.condition();
        Ok(Batch {
            items: self.select(positions)?,
            condition: condition.map(|known| known.index_select(0, &Tensor::from_slice(&rows))),
            rows: positions.to_vec(),
            n_items: positions.len(),
        })
    }

    /// As [`Dataset::select`], before binarization.
    fn select_stored(&self, positions: &[usize]) -> Result<Tensor, DataError> {
        match &self.images {
            Images::Memory(images) => {
                let positions: Vec<i64> = positions.iter().map(|&i| i as i64).collect();
                Ok(images.index_select(0, &Tensor::from_slice(&positions)))
            }
            Images::Stored(images) => {
                let ids: Vec<usize> = positions.iter().map(|&i| images.ids[i]).collect();
                let mut reader = Arc::clone(&images.store).reader();
                let ImageShape {
                    channels,
                    height,
                    width,
                } = self.shape();
                let n_bytes = (channels * height * width) as usize;
                let mut bytes = vec![0; ids.len() * n_bytes];
                for (&id, out) in ids.iter().zip(bytes.chunks_exact_mut(n_bytes)) {
                    reader.read(id, out)?;
                }
                let size = [ids.len() as i64, channels, height, width];
                Ok(Tensor::from_data_size(&bytes, &size, Kind::Uint8))
            }
        }
    }

    /// The data set of the first `n` images, or of all if there are fewer.
    #[must_use]
    pub fn truncated(&self, n: usize) -> Dataset {
        self.subset(&(0..n.min(self.len())).collect::<Vec<_>>())
    }

    /// The data set of the images at these positions, in this order; a position may occur more than once. Random
    /// flips and binarization depend on an image's position in the new data set.
    ///
    /// # Panics
    /// If a position is [`Dataset::len`] or more.
    #[must_use]
    pub fn subset(&self, positions: &[usize]) -> Dataset {
        let rows = || Tensor::from_slice(&positions.iter().map(|&i| i as i64).collect::<Vec<_>>());
        Dataset {
            item: self.item.clone(),
            images: match &self.images {
                Images::Memory(images) => Images::Memory(images.index_select(0, &rows())),
                Images::Stored(images) => Images::Stored(StoredImages {
                    ids: positions.iter().map(|&i| images.ids[i]).collect(),
                    ..images.clone()
                }),
            },
            labels: self
                .labels
                .as_ref()
                .map(|labels| labels.index_select(0, &rows())),
            attributes: self
                .attributes
                .as_ref()
                .map(|known| known.select(positions)),
            factors: self.factors.as_ref().map(|known| known.select(positions)),
            condition: self
                .condition
                .as_ref()
                .map(|(spec, known)| (Arc::clone(spec), known.index_select(0, &rows()))),
            binarization: self.binarization,
            rows: self
                .rows
                .as_ref()
                .map(|rows| positions.iter().map(|&i| rows[i]).collect()),
            names: self
                .names
                .as_ref()
                .map(|names| positions.iter().map(|&i| names[i].clone()).collect()),
            class_names: self.class_names.clone(),
            transposition: self.transposition,
        }
    }

    /// The items in a range, in memory, as they are in this data set.
    pub(crate) fn part(&self, range: Range<usize>) -> Result<Dataset, DataError> {
        let positions: Vec<usize> = range.collect();
        let name = |&i: &usize| self.file_name(i).map(str::to_owned);
        Ok(Dataset {
            images: Images::Memory(self.select(&positions)?),
            names: positions.iter().map(name).collect(),
            binarization: None,
            ..self.subset(&positions)
        })
    }

    /// The name of the file of image `i`: its path in the folder or zip, with `/` between folders. `None` if images
    /// do not have their own files.
    /// # Panics
    /// If `i` is [`Dataset::len`] or more.
    pub fn file_name(&self, i: usize) -> Option<&str> {
        match &self.images {
            Images::Memory(_) => Some(&self.names.as_ref()?[i]),
            Images::Stored(images) => {
                let name = images.store.names().get(images.ids[i]);
                name.map(String::as_str)
            }
        }
    }

    /// The row of item `i` in its file, from 0; `None` if the items are not rows of an array or table.
    ///
    /// # Panics
    /// If `i` is [`Dataset::len`] or more.
    pub fn file_row(&self, i: usize) -> Option<usize> {
        self.rows.as_ref().map(|rows| rows[i])
    }

    /// A checksum that identifies the data set: the CRC-32 of all file names and of the bytes, before binarization,
    /// of 256 evenly spaced items (all, if there are fewer).
    ///
    /// # Errors
    /// As [`Dataset::select`].
    pub fn fingerprint(&self) -> Result<u32, DataError> {
        const N_SAMPLED: usize = 256;
        let mut hasher = crc32fast::Hasher::new();
        for name in (0..self.len()).filter_map(|i| self.file_name(i)) {
            hasher.update(name.as_bytes());
            hasher.update(b"\n");
        }
        let n_sampled = self.len().min(N_SAMPLED);
        let positions: Vec<usize> = (0..n_sampled).map(|i| i * self.len() / n_sampled).collect();
        let items = self.select_stored(&positions)?.contiguous().view(-1);
        let items = items.view_dtype(Kind::Uint8);
        let mut bytes = vec![0_u8; items.numel()];
        items.copy_data(&mut bytes, items.numel());
        hasher.update(&bytes);
        Ok(hasher.finalize())
    }

    /// Named numbers for each image.
    pub fn attributes(&self) -> Option<&Attributes> {
        self.attributes.as_ref()
    }

    /// The condition of each image for a conditional model, f32 `[N, D]` on the CPU ([`ConditionSpec`]); NaN marks an
    /// unknown value.
    pub fn condition(&self) -> Option<&Tensor> {
        self.condition.as_ref().map(|(_, known)| known)
    }

    /// The properties of these images that a model depends on.
    pub fn spec(&self) -> DataSpec {
        let condition = self.condition.as_ref();
        DataSpec {
            item: self.item.clone(),
            condition: condition.map_or_else(ConditionSpec::default, |(spec, _)| {
                ConditionSpec::clone(spec)
            }),
        }
    }

    /// The columns of a condition on these (training) images: one for each class, if `classes` is true, and one for
    /// each of the `attributes`.
    ///
    /// # Errors
    /// There are no classes, there is no such attribute, or none of its values is known.
    pub fn condition_spec(
        &self,
        classes: bool,
        attributes: &[String],
    ) -> Result<ConditionSpec, DataError> {
        let refuse = |key, problem: String| DataError::Config { key, problem };
        let classes = match (classes, &self.labels) {
            (false, _) => Vec::new(),
            (true, Some(labels)) => (0..=labels.max().int64_value(&[]))
                .map(|class| self.class_name(class))
                .collect(),
            (true, None) => {
                return Err(refuse(
                    "model.condition.classes",
                    "these images have no classes; attributes = [\u{2026}] takes columns of a table"
                        .to_owned(),
                ));
            }
        };
        let attributes = attributes.iter().map(|name| {
            let column = self
                .attributes
                .as_ref()
                .and_then(|known| known.column(name));
            let Some(column) = column else {
                let known = self.attributes.as_ref().map_or(&[][..], Attributes::names);
                let there_are = match known.is_empty() {
                    true => "these images have no table of attributes \
                             (dataset.image_folder.attributes names one)"
                        .to_owned(),
                    false => format!("there are {}", known.join(", ")),
                };
                return Err(refuse(
                    "model.condition.attributes",
                    format!("there is no attribute {name}; {there_are}"),
                ));
            };
            let values: Vec<f32> = column.map(|value| value.unwrap_or(f32::NAN)).collect();
            match AttributeValues::of(values.into_iter()) {
                Some(values) => Ok(AttributeSpec {
                    name: name.clone(),
                    values,
                }),
                None => Err(refuse(
                    "model.condition.attributes",
                    format!("no training image has a known value of the attribute {name}"),
                )),
            }
        });
        Ok(ConditionSpec {
            classes,
            attributes: attributes.collect::<Result<_, _>>()?,
        })
    }

    /// The same images with the values of a condition's columns. Classes and attributes that this data set does not
    /// have are unknown.
    #[must_use]
    pub fn with_condition(self, spec: &ConditionSpec) -> Dataset {
        if spec.is_empty() {
            return Dataset {
                condition: None,
                ..self
            };
        }
        let (n, n_columns) = (self.len(), spec.n_columns());
        let mut rows = spec.unknown().repeat(n);
        if let Some(Ok(labels)) = self.labels.as_ref().map(Vec::<i64>::try_from) {
            for (row, label) in rows.chunks_exact_mut(n_columns).zip(labels) {
                let class = usize::try_from(label).ok();
                spec.set_class(row, class.filter(|&class| class < spec.classes.len()));
            }
        }
        for (i, AttributeSpec { name, values }) in spec.attributes.iter().enumerate() {
            let column = self
                .attributes
                .as_ref()
                .and_then(|known| known.column(name));
            let column = column.into_iter().flatten();
            for (row, value) in rows.chunks_exact_mut(n_columns).zip(column) {
                row[spec.classes.len() + i] = values.encode(value.unwrap_or(f32::NAN));
            }
        }
        let rows = Tensor::from_slice(&rows).view([n as i64, n_columns as i64]);
        Dataset {
            condition: Some((Arc::new(spec.clone()), rows)),
            ..self
        }
    }

    /// The same images with changed conditions: `change` is called with the row of each image.
    #[must_use]
    pub fn change_condition(self, mut change: impl FnMut(&mut [f32])) -> Dataset {
        let condition = self.condition.as_ref().map(|(spec, known)| {
            let changed = known.copy();
            for i in 0..changed.size()[0] {
                let row = changed.get(i);
                let mut values = vec![0.0; row.numel()];
                row.copy_data(&mut values, row.numel());
                change(&mut values);
                changed.get(i).copy_(&Tensor::from_slice(&values));
            }
            (Arc::clone(spec), changed)
        });
        Dataset { condition, ..self }
    }

    /// The known factors of each image.
    pub fn factors(&self) -> Option<&Factors> {
        self.factors.as_ref()
    }

    /// The class of each image: i64 `[N]` on the CPU.
    pub fn labels(&self) -> Option<&Tensor> {
        self.labels.as_ref()
    }

    /// The name of a class: that of a folder or of a column's values, or its number.
    #[must_use]
    pub fn class_name(&self, class: i64) -> String {
        let names = self.class_names.as_deref().unwrap_or_default();
        let name = usize::try_from(class).ok().and_then(|i| names.get(i));
        name.map_or_else(|| class.to_string(), Clone::clone)
    }

    /// Whether classes have names, not only numbers.
    pub fn has_class_names(&self) -> bool {
        self.class_names.is_some()
    }

    /// The class of this name or number.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<i64> {
        let names = self.class_names.as_deref().unwrap_or_default();
        let named = names.iter().position(|known| known == name);
        named.map(|i| i as i64).or_else(|| name.parse().ok())
    }

    /// N, the number of items.
    pub fn len(&self) -> usize {
        match &self.images {
            // A size is never negative.
            Images::Memory(images) => images.size()[0] as usize,
            Images::Stored(images) => images.ids.len(),
        }
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of an item as a tensor: channels, rows and columns.
    pub fn shape(&self) -> ImageShape {
        self.item.map()
    }

    /// Kind and shape of the items; for arrays also the statistics that standardize them.
    pub fn item(&self) -> &ItemSpec {
        &self.item
    }
}

/// Training, validation and test images.
#[derive(Debug)]
pub struct Splits {
    /// Training images.
    pub train: Dataset,
    /// Images that are neither trained on nor part of the reported results. All choices (the best checkpoint, early
    /// stopping, a recipe) use these. `None` if the config holds none out.
    pub validation: Option<Dataset>,
    /// Images on which a finished model is measured once; never used for training or choices. They have the shape of
    /// the training images.
    pub test: Dataset,
    /// What loading found: skipped files, lists and tables.
    pub report: LoadReport,
}

impl Splits {
    /// Splits with an empty report.
    pub fn new(train: Dataset, validation: Option<Dataset>, test: Dataset) -> Splits {
        Splits {
            train,
            validation,
            test,
            report: LoadReport::default(),
        }
    }

    /// All splits with conditions ([`Dataset::with_condition`]).
    #[must_use]
    pub fn with_condition(self, spec: &ConditionSpec) -> Splits {
        let of = |dataset: Dataset| dataset.with_condition(spec);
        Splits {
            train: of(self.train),
            validation: self.validation.map(of),
            test: of(self.test),
            report: self.report,
        }
    }

    /// All splits with the same binarization.
    pub(crate) fn with_binarization(self, binarization: Option<Binarization>) -> Splits {
        let of = |dataset: Dataset| dataset.with_binarization(binarization);
        Splits {
            train: of(self.train),
            validation: self.validation.map(of),
            test: of(self.test),
            report: self.report,
        }
    }
}

/// What loading a data set found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Files that were skipped.
    pub bad_files: BadFiles,
    /// Image files of unsupported formats.
    pub unread_files: UnreadFiles,
    /// The list that assigns images to splits. Without one, the hash of its name decides an image's split.
    pub partition_file: Option<PathBuf>,
    /// The number of good images that are missing in that list, and therefore in no split.
    pub n_unlisted: usize,
    /// The table of attributes.
    pub attributes_file: Option<PathBuf>,
    /// The number of good images without a row in that table.
    pub n_without_attributes: usize,
    /// Melodies that are not used, though nothing is wrong with them: the reasons, and how many tunes each has.
    pub left_out: Vec<(String, usize)>,
    /// How many of a few files are smaller than the images that are made of them.
    pub enlarged: Enlarged,
}

/// How many of a few files of a folder are smaller than the images that are made of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enlarged {
    /// Files that were looked at.
    pub n_seen: usize,
    /// Those that are enlarged.
    pub n_enlarged: usize,
}

impl LoadReport {
    /// Logs what the user should know about the images in `path`.
    pub(crate) fn warn(&self, path: &Path) {
        let path = path.display();
        match self.bad_files.files() {
            [] => {}
            [BadFile { name, reason }] => {
                warn!("{path}: 1 file is skipped: {name} {reason}");
            }
            [BadFile { name, reason }, ..] => {
                let n_bad = self.bad_files.len();
                warn!("{path}: {n_bad} files are skipped; the first: {name} {reason}");
            }
        }
        if !self.left_out.is_empty() {
            let n: usize = self.left_out.iter().map(|(_, n)| n).sum();
            let reasons = self.left_out.iter();
            let reasons: Vec<String> = reasons.map(|(reason, n)| format!("{n} {reason}")).collect();
            info!("{path}: {n} tunes are not used: {}", reasons.join(", "));
        }
        if !self.unread_files.is_empty() {
            warn!("{path}: {}", self.unread_files);
        }
        if let (Some(file), 1..) = (&self.partition_file, self.n_unlisted) {
            let file = file.display();
            match self.n_unlisted {
                1 => warn!("{path}: 1 image is not in {file} and is not used"),
                n => warn!("{path}: {n} images are not in {file} and are not used"),
            }
        }
        let Enlarged { n_seen, n_enlarged } = self.enlarged;
        if 10 * n_enlarged >= 9 * n_seen && n_seen > 1 {
            warn!(
                "{path}: {n_enlarged} of {n_seen} images that were looked at are smaller than what is made of them, and are \
                 enlarged; a smaller dataset.image_folder.image_size would fit"
            );
        }
        if let (Some(file), 1..) = (&self.attributes_file, self.n_without_attributes) {
            let file = file.display();
            match self.n_without_attributes {
                1 => warn!("{path}: 1 image has no row in {file}"),
                n => warn!("{path}: {n} images have no row in {file}"),
            }
        }
    }
}

/// Fails on another element type, shape or device.
fn check_layout(
    name: &'static str,
    found: &Tensor,
    kind: Kind,
    size: &[i64],
    wanted: impl FnOnce() -> String,
) -> Result<(), DataError> {
    let is_right = found.kind() == kind && found.size() == size && found.device() == Device::Cpu;
    match is_right {
        true => Ok(()),
        false => Err(wrong_layout(name, found, wanted())),
    }
}

fn check_labels(labels: Option<&Tensor>, n: i64) -> Result<(), DataError> {
    labels.map_or(Ok(()), |labels| {
        let wanted = || format!("Int64 [{n}] on Cpu");
        check_layout("labels", labels, Kind::Int64, &[n], wanted)
    })
}

/// Fails on values that items of this kind cannot have.
fn check_values(item: &ItemSpec, items: &Tensor) -> Result<(), DataError> {
    // In parts, because the mask of each comparison takes a byte per value.
    let count = |is_wrong: &dyn Fn(&Tensor) -> Tensor| -> i64 {
        let parts = items.split(1 << 12, 0);
        let counts = parts.iter().map(|part| is_wrong(part).sum(Kind::Int64));
        counts.map(|count| count.int64_value(&[])).sum()
    };
    let problem = match item.kind {
        ItemKind::Array => {
            let (n_infinite, n_missing) = (count(&Tensor::isinf), count(&Tensor::isnan));
            match (n_infinite, n_missing) {
                (0, 0) => None,
                (0, _) if item.has_missing => None,
                (0, n) => Some(format!("found {n} NaN values, expected finite numbers")),
                (n, _) => Some(format!(
                    "found {n} infinite values, expected finite numbers"
                )),
            }
        }
        ItemKind::Tokens { vocabulary, .. } => {
            match count(&|items| items.lt(0).logical_or(&items.ge(vocabulary))) {
                0 => None,
                n => Some(format!("found {n} tokens outside 0 to {}", vocabulary - 1)),
            }
        }
        _ => None,
    };
    problem.map_or(Ok(()), |problem| Err(DataError::Items { problem }))
}

fn wrong_layout(name: &'static str, found: &Tensor, wanted: impl Into<String>) -> DataError {
    let (kind, size, device) = (found.kind(), found.size(), found.device());
    DataError::Layout {
        name,
        found: format!("{kind:?} {size:?} on {device:?}"),
        wanted: wanted.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(size: &[i64]) -> Tensor {
        Tensor::zeros(size, (Kind::Uint8, Device::Cpu))
    }

    #[test]
    fn a_data_set_tells_its_size_and_shape() {
        let dataset = Dataset::new(bytes(&[5, 3, 2, 4]), None).unwrap();
        assert_eq!(dataset.len(), 5);
        assert!(!dataset.is_empty());
        assert_eq!(dataset.shape().to_string(), "3×2×4");
    }

    #[test]
    fn another_pixel_is_another_fingerprint() {
        let fingerprint = |pixels: [u8; 4]| {
            let images = Tensor::from_slice(&pixels).view([2, 1, 1, 2]);
            Dataset::new(images, None).unwrap().fingerprint().unwrap()
        };
        // The CRC-32 of the bytes 1, 2, 3, 4, computed with zlib.
        assert_eq!(fingerprint([1, 2, 3, 4]), 0xb63c_fbcd);
        assert_ne!(fingerprint([1, 2, 3, 5]), 0xb63c_fbcd);
    }

    #[test]
    fn tensors_of_another_layout_are_refused() {
        let floats = Tensor::zeros([5, 1, 2, 2], (Kind::Float, Device::Cpu));
        let error = Dataset::new(floats, None).unwrap_err().to_string();
        assert_eq!(
            error,
            "images are Float [5, 1, 2, 2] on Cpu, expected Uint8 [N, C, H, W] on Cpu with C, H and W of at least 1"
        );
        assert!(Dataset::new(bytes(&[5, 2, 2]), None).is_err());
        assert!(Dataset::new(bytes(&[5, 1, 0, 2]), None).is_err());

        let four_labels = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
        let error = Dataset::new(bytes(&[5, 1, 2, 2]), Some(four_labels)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "labels are Int64 [4] on Cpu, expected Int64 [5] on Cpu"
        );
        let byte_labels = Some(bytes(&[5]));
        assert!(Dataset::new(bytes(&[5, 1, 2, 2]), byte_labels).is_err());
    }

    #[test]
    fn items_of_every_kind_are_held_selected_and_told_apart() {
        let of = |kind, shape: &[i64], items: Tensor| {
            Dataset::of_items(ItemSpec::new(kind, shape.to_vec()), items, None)
        };
        let reals = Tensor::from_slice(&[0.5_f32, -1.0, 2.25, 4.0]).view([2, 1, 1, 2]);
        let vectors = of(ItemKind::Array, &[2], reals.copy()).unwrap();
        assert_eq!(vectors.item().shape, [2]);
        assert_eq!(vectors.spec().item.kind, ItemKind::Array);
        let one = vectors.subset(&[1, 0]).select(&[0]).unwrap();
        assert_eq!(one, reals.narrow(0, 1, 1));
        assert_eq!(vectors.batch(&[1]).unwrap().items, one);
        // The CRC-32 of the little-endian bytes, computed with zlib: 0.5, -1, 2.25 and 4.
        let bytes = [0.5_f32, -1.0, 2.25, 4.0].map(f32::to_le_bytes).concat();
        assert_eq!(vectors.fingerprint().unwrap(), crc32fast::hash(&bytes));
        let gray = vectors.with_binarization(Some(Binarization::Static));
        assert_eq!(gray.binarization(), None);

        let sound = Tensor::from_slice(&[1_i16, -2, 3]).view([1, 1, 1, 3]);
        assert!(of(ItemKind::Sound { rate: 8000 }, &[1, 3], sound.copy()).is_ok());
        assert!(of(ItemKind::Array, &[1, 3], sound).is_err());
        let tokens_of = |vocabulary| ItemKind::Tokens {
            vocabulary,
            end: None,
        };
        let tokens = Tensor::from_slice(&[0_i64, 4, 2]).view([1, 1, 1, 3]);
        assert!(of(tokens_of(5), &[3], tokens.copy()).is_ok());
        let error = of(tokens_of(4), &[3], tokens).unwrap_err();
        assert_eq!(error.to_string(), "items: found 1 tokens outside 0 to 3");
    }

    #[test]
    fn an_array_with_other_values_or_another_shape_is_refused() {
        let of = |has_missing, values: [f32; 2]| {
            let item = ItemSpec {
                has_missing,
                ..ItemSpec::new(ItemKind::Array, vec![2])
            };
            let items = Tensor::from_slice(&values).view([1, 1, 1, 2]);
            Dataset::of_items(item, items, None).map_err(|error| error.to_string())
        };
        assert!(of(true, [f32::NAN, 1.0]).is_ok());
        let error = of(false, [f32::NAN, 1.0]).unwrap_err();
        assert_eq!(error, "items: found 1 NaN values, expected finite numbers");
        assert!(of(true, [f32::INFINITY, 1.0]).is_err());

        let items = Tensor::zeros([4, 2], (Kind::Float, Device::Cpu));
        let error =
            Dataset::of_items(ItemSpec::new(ItemKind::Array, vec![2]), items, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "items are Float [4, 2] on Cpu, expected Float [N, 1, 1, 2] on Cpu"
        );
    }
}
