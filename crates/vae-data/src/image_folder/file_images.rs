//! Photos without a pack, decoded each time they are used.

use std::sync::Arc;

use super::source::{Source, SourceReader};
use crate::stored::{ImageStore, StoreReader};
use crate::{BadFile, DataError, ImageShape};

/// The good files of a source.
#[derive(Debug)]
pub(crate) struct FileImages {
    pub(crate) source: Arc<Source>,
    pub(crate) n_workers: usize,
    pub(crate) names: Vec<String>,
    /// The index in the source of each image's file.
    pub(crate) files: Vec<usize>,
    pub(crate) bad: Vec<BadFile>,
}

impl ImageStore for FileImages {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn bad(&self) -> &[BadFile] {
        &self.bad
    }

    fn shape(&self) -> ImageShape {
        self.source.transform.shape()
    }

    fn n_workers(&self) -> usize {
        self.n_workers
    }

    fn reader(self: Arc<Self>) -> Box<dyn StoreReader> {
        let decoder = SourceReader::new(Arc::clone(&self.source));
        Box::new(FileImagesReader {
            images: self,
            decoder,
        })
    }
}

struct FileImagesReader {
    images: Arc<FileImages>,
    decoder: SourceReader,
}

impl StoreReader for FileImagesReader {
    fn read(&mut self, id: usize, out: &mut [u8]) -> Result<(), DataError> {
        let FileImages {
            source,
            names,
            files,
            ..
        } = self.images.as_ref();
        self.decoder
            .read(files[id], out)
            .map_err(|reason| DataError::Changed {
                path: source.files.path().to_owned(),
                name: names[id].clone(),
                reason,
            })
    }
}
