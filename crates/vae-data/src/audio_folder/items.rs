//! Clips as items of a data set, and their classes.

use std::collections::BTreeSet;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};
use vae_base::ItemSpec;
use vae_sound::LogMel;

use crate::DataError;
use crate::arrays::{standardization, statistics};
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

/// The class of each recording.
#[derive(Debug)]
pub(super) struct Classes {
    labels: Vec<i64>,
    /// The names of the classes, where they have some.
    pub(super) names: Option<Vec<String>>,
}

impl Classes {
    /// The classes of the recordings at `ids`, i64 `[n]`.
    pub(super) fn select(&self, ids: &[usize]) -> Tensor {
        Tensor::from_slice(&ids.iter().map(|&i| self.labels[i]).collect::<Vec<_>>())
    }
}

/// The folder that each recording is in, the first one of its path; `None` if one is in no folder, or all are in the
/// same.
pub(super) fn classes_of_folders(names: &[String]) -> Option<Classes> {
    let folders: Vec<&str> = names
        .iter()
        .map(|name| Some(name.split_once('/')?.0))
        .collect::<Option<_>>()?;
    let known: BTreeSet<&str> = folders.iter().copied().collect();
    let known: Vec<&str> = known.into_iter().collect();
    let class = |folder: &&str| known.binary_search(folder).map_or(-1, |class| class as i64);
    (known.len() > 1).then(|| Classes {
        labels: folders.iter().map(class).collect(),
        names: Some(known.iter().map(|&name| name.to_owned()).collect()),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_classes_in_their_order() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let classes =
            classes_of_folders(&names(&["snare/a.wav", "kick/b.wav", "kick/x/c.wav"])).unwrap();
        assert_eq!(classes.labels, [1, 0, 0]);
        assert_eq!(classes.names.unwrap(), ["kick", "snare"]);
        assert!(classes_of_folders(&names(&["kick/a.wav", "b.wav"])).is_none());
        assert!(classes_of_folders(&names(&["kick/a.wav", "kick/b.wav"])).is_none());
    }
}
