//! Analyses of a trained model's latent space: the latents of images, paths, attribute directions and principal axes.
//!
//! Latents are f64 on the CPU here: those of a whole data set are small, and fitting classifiers needs the precision.

mod code_chart;
mod codes;
mod direction;
mod path;
mod pca;
pub mod plot;
pub mod projector;
mod regression;
mod store;

pub use code_chart::CodeChart;
pub use codes::{Codes, encode, onto_support};
pub use direction::{Accuracy, Direction, Labels, Learner, Method};
pub use path::{Blend, path};
pub use pca::{Pca, WIDE};
pub use regression::SoftmaxRegression;
pub use store::DirectionStore;
