//! Visualization of variational autoencoders and their training: pictures of images and latents, learning curves,
//! animations, event files for TensorBoard, and analyses of the latent space.

pub mod animation;
mod chart;
pub mod curves;
mod error;
mod file;
mod fonts;
pub mod format;
pub mod labeled;
pub mod latent;
pub mod levels;
mod melody;
pub mod picture;
mod recorder;
pub mod sound;
pub mod tensorboard;
mod texts;
pub mod ticks;
mod tile;

pub use error::ViewError;
pub use melody::midi;
pub use recorder::Plot;
pub use texts::texts;
pub use tile::{as_decoded, tiles};
