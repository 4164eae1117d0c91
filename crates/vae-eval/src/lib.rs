//! How good a variational autoencoder is, each number with the protocol that it depends on.
//!
//! A [`Report`] has a [`Section`] for each [`Topic`], and a section its [`Measure`]s.

mod clustering;
mod error;
pub mod features;
pub mod image_quality;
mod importance;
mod pictures;
mod report;

pub use clustering::{clustering_accuracy, normalized_mutual_information};
pub use error::EvalError;
pub use importance::{ImageBounds, ImportanceEstimate, image_bounds, importance_estimate};
pub use pictures::{PictureOptions, measure_pictures};
pub use report::{
    Better, Findings, ImagesUsed, Measure, Progress, REPORT_FILE, Report, Section, Subject, Topic,
};
