//! Says what to do when there is no libtorch; the same as vae-data's.

include!("../vae-data/no_libtorch.rs");
