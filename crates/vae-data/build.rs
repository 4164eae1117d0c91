//! Says what to do when there is no libtorch.

include!("no_libtorch.rs");
