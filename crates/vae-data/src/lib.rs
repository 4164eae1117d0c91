//! Images, series, tables, sounds, texts and melodies for training a VAE, from files to batches on a device.
//!
//! ```text
//! DatasetConfig --load--> Splits { train, test } --Batches--> [B, C, H, W] on the device
//! ```
//!
//! Arrays are f32 in their own unit; the model standardizes them. Pixels stay bytes (0 to 255) until they reach the
//! device, because a byte is a quarter of the size of a float to transfer; the model converts them to f32 in [0, 1].
//!
//! This crate never uses libtorch's random generator. The order of an epoch depends only on the run's seed and the
//! epoch ([`loader::shuffled_order`]), and so do random flips and [`Binarization`]. A resumed run therefore sees the
//! same batches as an uninterrupted one.
//!
//! ```
//! use tch::{Device, Kind, Tensor};
//! use vae_data::{Dataset, loader::Batches};
//!
//! # fn main() -> Result<(), vae_data::DataError> {
//! let images = Tensor::zeros([10, 1, 28, 28], (Kind::Uint8, Device::Cpu));
//! let dataset = Dataset::new(images, None)?;
//! let sizes: Vec<i64> = Batches::shuffled(&dataset, 4, Device::Cpu, /* seed */ 1, /* epoch */ 0)
//!     .map(|batch| Ok(batch?.items.size()[0]))
//!     .collect::<Result<_, vae_data::DataError>>()?;
//! assert_eq!(sizes, [4, 4, 2]);
//! # Ok(())
//! # }
//! ```

pub mod array_file;
mod arrays;
mod attributes;
pub mod audio_folder;
mod bad_files;
mod batch;
mod binarization;
mod bits;
mod classes;
pub mod config;
mod dataset;
mod error;
mod factor_grid;
mod factors;
mod hold_out;
pub mod idx;
pub mod image_folder;
mod inputs;
mod known;
mod limits;
pub mod loader;
pub mod melodies;
mod npz;
mod pipeline;
mod row_split;
mod sprites;
mod stored;
mod text;
mod unread_files;

pub use arrays::{
    ArrayFileConfig, ArrayLayout, ArraysConfig, Missing, ValueStatistics, array_statistics,
};
pub use attributes::Attributes;
pub use audio_folder::{AudioFolderConfig, ClipStart, SpectrogramConfig};
pub use bad_files::{BadFile, BadFiles};
pub use binarization::Binarization;
pub use config::DatasetConfig;
pub use dataset::{Dataset, Enlarged, LoadReport, Splits};
pub use error::DataError;
pub use factor_grid::FactorGrid;
pub use factors::{FactorSpace, Factors};
pub use hold_out::HoldOut;
pub use inputs::{InputBatch, InputBatches, Inputs, Split};
pub use known::{DatasetIdentity, KnownDataset, RecognizedBy};
pub use melodies::{MelodiesConfig, MelodyLine};
pub use row_split::RowSplit;
pub use sprites::SpritesConfig;
pub use text::{
    BytePairConfig, InvalidText, Longer, TextConfig, Tokenizer, TokensConfig, WordConfig,
};
pub use unread_files::UnreadFiles;
pub use vae_base::{
    ImageShape, ItemKind, ItemSpec, MelodySpec, TextSpec, TextUnit, derive_seed, one_line,
    open_regular, read_small, read_small_text,
};
