//! Sound, without tensors and without libtorch.
//!
//! - [`decode`]: WAV, FLAC, OGG and MP3 files as samples;
//! - [`resample`]: another number of samples a second;
//! - [`ClipSpec`]: recordings cut or padded to one length;
//! - [`Stft`]: the short-time Fourier transform and its inverse;
//! - [`MelBank`]: the powers of mel bands, and powers of frequencies that have them;
//! - [`LogMel`]: log-mel spectrograms of sound, and sound that has them (Griffin & Lim);
//! - [`synth`]: notes as sound;
//! - [`wav`]: writes WAV files.

mod clip;
mod decode;
mod griffin_lim;
mod log_mel;
mod mel;
mod resample;
mod stft;
pub mod synth;
pub mod wav;

pub use clip::{Alignment, ClipSpec};
pub use decode::{Decoded, decode, is_decoding, is_sound};
pub use griffin_lim::GriffinLim;
pub use log_mel::{LogMel, log_spectral_distance};
pub use mel::MelBank;
pub use resample::resample;
pub use stft::Stft;
pub use synth::Tone;
