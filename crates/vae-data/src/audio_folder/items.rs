//! Clips as items of a data set, and their classes.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};
use vae_base::ItemSpec;
use vae_sound::LogMel;

use crate::DataError;
use crate::arrays::{standardization, statistics};
use crate::classes::Classes;
use crate::image_folder::table::Table;
use crate::pipeline::Pipeline;

/// Clips in a job.
const CHUNK: usize = 32;

/// The most classes.
const MOST_CLASSES: f32 = 65_536.0;

/// Turns clips into items.
#[derive(Debug)]
pub(crate) struct Clips {
    item: ItemSpec,
    log_mel: Option<Arc<LogMel>>,
}

impl Clips {
    pub(crate) fn new(item: ItemSpec) -> Clips {
        let log_mel = item
            .spectrogram
            .map(|spec| Arc::new(LogMel::new(spec, item.shape[1] as usize)));
        Clips { item, log_mel }
    }

    pub(crate) fn item(&self) -> &ItemSpec {
        &self.item
    }

    /// The items at `ids` of clips i16 `[N, C, T]` in little-endian bytes: maps of sound or of spectrograms.
    pub(crate) fn items(&self, bytes: &[u8], ids: &[usize], n_workers: usize) -> Tensor {
        let n_bytes = 2 * self.n_samples() * self.item.shape[0] as usize;
        let clip = |id: usize| {
            let samples = bytes[id * n_bytes..][..n_bytes].chunks_exact(2);
            samples
                .map(|two| i16::from_le_bytes([two[0], two[1]]))
                .collect::<Vec<i16>>()
        };
        let sides = self.item.map().sides();
        let size = [&[ids.len() as i64], &sides[..]].concat();
        let Some(log_mel) = &self.log_mel else {
            let samples: Vec<i16> = ids.iter().flat_map(|&id| clip(id)).collect();
            return Tensor::from_slice(&samples).view(size.as_slice());
        };
        let clips: Arc<Vec<Vec<i16>>> = Arc::new(ids.iter().map(|&id| clip(id)).collect());
        let (channels, n_frames) = (self.item.shape[0] as usize, self.item.shape[2] as usize);
        let n_jobs = ids.len().div_ceil(CHUNK);
        let maps = Pipeline::start(0..n_jobs, n_workers, || {
            let (clips, log_mel) = (Arc::clone(&clips), Arc::clone(log_mel));
            move |job| {
                let clips = &clips[job * CHUNK..clips.len().min((job + 1) * CHUNK)];
                let maps = clips.iter().flat_map(|clip| {
                    let samples: Vec<f32> = clip
                        .iter()
                        .map(|&sample| f32::from(sample) / 32_768.0)
                        .collect();
                    let each = samples.chunks_exact(samples.len() / channels);
                    let maps: Vec<f32> = each
                        .flat_map(|channel| log_mel.spectrogram(channel, n_frames))
                        .collect();
                    maps
                });
                Tensor::from_slice(&maps.collect::<Vec<f32>>())
            }
        });
        let maps: Vec<Tensor> = maps.collect();
        match maps.is_empty() {
            true => Tensor::zeros(size, (Kind::Float, Device::Cpu)),
            false => Tensor::cat(&maps, 0).view(size.as_slice()),
        }
    }

    fn n_samples(&self) -> usize {
        match (&self.item.spectrogram, self.item.shape[..].last()) {
            (Some(spec), Some(n_frames)) => *n_frames as usize * spec.hop as usize,
            (None, Some(n_samples)) => *n_samples as usize,
            (_, None) => 0,
        }
    }

    /// Takes the mean and standard deviation of spectrograms, those of training, into the specification.
    pub(crate) fn standardize(&mut self, train: &Tensor) {
        if self.log_mel.is_some() {
            self.item.standardization = Some(standardization(&statistics(train, &self.item)));
        }
    }
}

/// The column of a table as classes; −1 where it is unknown.
pub(super) fn classes_of_table(
    column: &str,
    table: Option<&Table>,
    names: &[String],
) -> Result<Classes, DataError> {
    let wrong = |problem: String| DataError::Config {
        key: "dataset.audio_folder.label",
        problem,
    };
    let Some(table) = table else {
        let problem = format!(
            "found {column:?}, but there is no table (dataset.audio_folder.attributes names one)"
        );
        return Err(wrong(problem));
    };
    let attributes = table.attributes(names);
    let Some(values) = attributes.column(column) else {
        let problem = format!(
            "found {column:?}, the table's columns of numbers are {}",
            table.names.join(", ")
        );
        return Err(wrong(problem));
    };
    let class = |value: Option<f32>| match value {
        None => Ok(-1),
        Some(value) if value.fract() == 0.0 && (-1.0..MOST_CLASSES).contains(&value) => {
            Ok(value as i64)
        }
        Some(value) => Err(wrong(format!(
            "found {value} in the column {column:?}, whole numbers from 0 are needed"
        ))),
    };
    let labels = values.map(class).collect::<Result<_, _>>()?;
    Ok(Classes {
        labels,
        names: None,
    })
}
