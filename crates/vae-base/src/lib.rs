//! What data and models both stand on, and with them everything above: it knows neither tensors nor
//! libtorch.
//!
//! - [`derive_seed`]: every seed there is, from (seed, counter, purpose);
//! - [`ItemSpec`]: kind and shape of an item, [`ImageShape`]: that of an image, or of any item as maps;
//! - [`ConditionSpec`]: what a model is told of an item beside the item itself;
//! - [`files`]: files that appear under their names only when they are whole;
//! - [`read_small`], [`open_regular`]: files that are read whole, with a bound;
//! - [`one_line`]: text of files as a terminal may show it;
//! - [`dotted`]: tables in tables as one list;
//! - [`NpyHeader`]: the headers of NumPy's arrays;
//! - [`memory`]: the C allocator's settings.

mod condition;
mod data_spec;
mod dotted;
pub mod files;
mod image_shape;
mod item_spec;
pub mod memory;
mod npy;
pub mod seed;
mod small_file;
mod text;

pub use condition::{AttributeSpec, AttributeValues, ConditionError, ConditionSpec};
pub use data_spec::DataSpec;
pub use dotted::dotted;
pub use files::write_whole;
pub use image_shape::ImageShape;
pub use item_spec::{ItemKind, ItemSpec, Standardization};
pub use npy::NpyHeader;
pub use seed::derive_seed;
pub use small_file::{open_regular, read_small, read_small_text};
pub use text::one_line;
