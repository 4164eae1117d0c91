//! The errors of drawing, and of analyses of latents.

use std::path::PathBuf;

use thiserror::Error;
use vae_data::DataError;
use vae_model::{ImageShape, ModelError};
use vae_run::RunError;

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ViewError {
    /// The data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The run, or a file that the file system refuses to read or write.
    #[error(transparent)]
    Run(#[from] RunError),
    /// An attribute that is unknown, or for which no direction can be learned.
    #[error("attribute {name}: {problem}")]
    Attribute {
        /// The attribute.
        name: String,
        /// What was found and what was wanted.
        problem: String,
    },
    /// Tokens, of which there is no picture.
    #[error(
        "these items are sequences of tokens, which have no picture; of texts, vae sample, reconstruct, interpolate, \
         arithmetic and decode print the texts themselves or write them to a .txt file"
    )]
    Tokens,
    /// A latent of length 0 on a sphere, or latents that are all equal.
    #[error(
        "latents of length 0 have no direction: they cannot be placed on a sphere, and if all images have \
         the same latent (nothing is encoded), nothing can be learned from them"
    )]
    NoDirection,
    /// A file or folder with unexpected contents or an unsuitable name.
    #[error("{path}: {problem}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was wanted.
        problem: String,
    },
    /// A picture could not be written.
    #[error("{path}")]
    Picture {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: image::ImageError,
    },
    /// A picture that is larger than memory or its format allows.
    #[error("a picture of {width} × {height} pixels is too large; ask for fewer images")]
    PictureSize {
        /// Pixels from left to right.
        width: u64,
        /// Pixels from top to bottom.
        height: u64,
    },
    /// More images than are decoded at once.
    #[error("{n_images} images of {shape} need more than 4 GiB of memory; ask for fewer")]
    TooManyImages {
        /// The number of images.
        n_images: i64,
        /// The shape of each image.
        shape: ImageShape,
    },
    /// A plot could not be drawn.
    #[error("drawing a plot: {0}")]
    Plot(String),
    /// libtorch refused, out of memory for example.
    #[error("libtorch refused")]
    Torch(#[from] tch::TchError),
}

impl ViewError {
    pub(crate) fn attribute(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Attribute {
            name: name.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File {
            path: path.into(),
            problem: problem.into(),
        }
    }
}
