//! What a trained model's latent space is like: where images lie in it, paths through it, directions in
//! which an attribute grows, and its principal axes.
//!
//! Latents are f64 on the CPU here: all of a data set's are few numbers, and a classifier's normal is
//! solved for.

mod codes;
mod direction;
mod path;
mod pca;
pub mod plot;
pub mod projector;
mod regression;
mod store;

pub use codes::{Codes, encode, onto_support};
pub use direction::{Accuracy, Direction, Labels, Learner, Method};
pub use path::{Blend, path};
pub use pca::Pca;
pub use regression::SoftmaxRegression;
pub use store::DirectionStore;
