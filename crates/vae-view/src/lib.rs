//! How a variational autoencoder and its training look: pictures of images and latents, learning curves,
//! moving pictures, event files for TensorBoard, and what can be learned of a latent space.

pub mod animation;
mod chart;
pub mod curves;
mod error;
pub mod latent;
pub mod picture;
pub mod tensorboard;
pub mod ticks;
mod tile;

pub use error::ViewError;
pub use tile::{as_decoded, tiles};
