//! What both data and models build on, without tensors and without libtorch.
//!
//! - [`derive_seed`]: derives every seed from (seed, counter, purpose);
//! - [`ItemSpec`]: kind and shape of an item, [`ImageShape`]: that of an image, or of any item as maps;
//! - [`TextSpec`]: what the tokens of a text stand for, [`MelodySpec`]: those of a melody;
//! - [`ConditionSpec`]: what a model is conditioned on beside the item itself;
//! - [`files`]: files that appear under their names only when they are whole;
//! - [`read_small`], [`open_regular`]: reading whole files of a bounded size;
//! - [`one_line`]: text from files made safe for a terminal;
//! - [`dotted`]: nested tables as one list;
//! - [`NpyHeader`]: the headers of NumPy's arrays, [`SafetensorsHeader`]: those of safetensors files;
//! - [`memory`]: the C allocator's settings.

mod condition;
mod data_spec;
mod dotted;
pub mod files;
mod image_shape;
mod item_spec;
mod melody_spec;
pub mod memory;
mod npy;
mod portion;
mod safetensors_header;
pub mod seed;
mod small_file;
mod text;
mod text_spec;

pub use condition::{AttributeSpec, AttributeValues, ConditionError, ConditionSpec};
pub use data_spec::DataSpec;
pub use dotted::dotted;
pub use files::write_whole;
pub use image_shape::ImageShape;
pub use item_spec::{ItemKind, ItemSpec, Spectrogram, Standardization};
pub use melody_spec::{MelodyNote, MelodySpec};
pub use npy::NpyHeader;
pub use portion::Portion;
pub use safetensors_header::SafetensorsHeader;
pub use seed::derive_seed;
pub use small_file::{open_regular, read_small, read_small_text};
pub use text::{counted, one_line};
pub use text_spec::{TextSpec, TextUnit};
