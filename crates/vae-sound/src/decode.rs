//! Audio files as samples.

use std::cell::Cell;
use std::io::{Cursor, ErrorKind};
use std::panic::{self, AssertUnwindSafe};

use symphonia::core::audio::SampleBuffer;
use symphonia::core::codecs::{CODEC_TYPE_NULL, DecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::FormatOptions;
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::{Limit, MetadataOptions};
use symphonia::core::probe::Hint;

/// Rates that recordings have.
const RATES: std::ops::RangeInclusive<u32> = 1000..=768_000;

/// The most channels.
const MOST_CHANNELS: usize = 64;

/// The most bytes of tags and of a picture in a file; more are skipped.
const LARGEST_METADATA: usize = 1 << 20;

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a decoder of sound. Its panics are caught and make the file a bad one, so a panic hook
/// need not report them.
#[must_use]
pub fn is_decoding() -> bool {
    DECODING.get()
}

/// The sound of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Samples a second.
    pub rate: u32,
    /// Each channel's samples in `[-1, 1]`, all of the same number.
    pub channels: Vec<Vec<f32>>,
}

/// Whether a file with these first bytes (at least 12) is WAV, FLAC, OGG or MP3.
#[must_use]
pub fn is_sound(beginning: &[u8]) -> bool {
    let is_wav = beginning.starts_with(b"RIFF") && beginning.get(8..12) == Some(b"WAVE");
    is_wav
        || [&b"fLaC"[..], b"OggS", b"ID3"].iter().any(|magic| beginning.starts_with(magic))
        // A frame of MPEG audio: eleven ones, a version and a layer that exist.
        || matches!(beginning, [0xff, second, ..] if second & 0xe0 == 0xe0
            && second & 0x18 != 0x08 && second & 0x06 == 0x02)
}

/// Decodes WAV, FLAC, OGG Vorbis or MP3, known by content; only the first `max_seconds` of it. Memory is bounded
/// by these and by the file's own bytes, whatever it claims.
///
/// # Errors
/// What is wrong with the file, as the end of a sentence that begins with its name.
pub fn decode(file: &[u8], max_seconds: f64) -> Result<Decoded, String> {
    if file.is_empty() {
        return Err("is empty".to_owned());
    }
    // A bug in a decoder must cost one file, not the run.
    DECODING.set(true);
    let decoded = panic::catch_unwind(AssertUnwindSafe(|| decode_any(file, max_seconds)));
    DECODING.set(false);
    decoded.unwrap_or_else(|_| Err("its decoder panicked".to_owned()))
}

fn decode_any(file: &[u8], max_seconds: f64) -> Result<Decoded, String> {
    let broken = |error: Error| match error {
        Error::Unsupported(what) => format!("is not supported: {what}"),
        Error::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "ends early".to_owned()
        }
        error => format!("is broken: {error}"),
    };
    if !is_sound(file) {
        return Err("is not WAV, FLAC, OGG or MP3".to_owned());
    }
    let source = MediaSourceStream::new(Box::new(Cursor::new(file.to_vec())), Default::default());
    let format_options = FormatOptions {
        enable_gapless: true,
        ..FormatOptions::default()
    };
    let metadata_options = MetadataOptions {
        limit_metadata_bytes: Limit::Maximum(LARGEST_METADATA),
        limit_visual_bytes: Limit::Maximum(LARGEST_METADATA),
    };
    let probed = symphonia::default::get_probe()
        .format(&Hint::new(), source, &format_options, &metadata_options)
        .map_err(broken)?;
    let mut format = probed.format;
    let track = format
        .tracks()
        .iter()
        .find(|track| track.codec_params.codec != CODEC_TYPE_NULL);
    let track = track.ok_or("holds no sound")?;
    let (id, params) = (track.id, track.codec_params.clone());
    let mut decoder = symphonia::default::get_codecs()
        .make(&params, &DecoderOptions::default())
        .map_err(|error| match error {
            Error::Unsupported(_) => {
                "is of a codec that is not supported: convert it to WAV, FLAC, OGG Vorbis or MP3"
                    .to_owned()
            }
            error => broken(error),
        })?;
    let mut sound: Option<Decoded> = None;
    let (mut n_packets, mut n_broken, mut is_whole) = (0_u64, 0_u64, true);
    let mut first_problem = None;
    loop {
        let packet = match format.next_packet() {
            Ok(packet) => packet,
            Err(Error::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(Error::ResetRequired) => break, // Another stream follows, of other parameters.
            Err(error) => {
                n_broken += 1;
                n_packets += 1;
                first_problem.get_or_insert_with(|| broken(error));
                break;
            }
        };
        if packet.track_id() != id {
            continue;
        }
        n_packets += 1;
        let buffer = match decoder.decode(&packet) {
            Ok(buffer) => buffer,
            Err(error) => {
                n_broken += 1;
                first_problem.get_or_insert_with(|| broken(error));
                continue;
            }
        };
        let spec = *buffer.spec();
        let n_channels = spec.channels.count();
        if !RATES.contains(&spec.rate) {
            let (least, most) = (RATES.start(), RATES.end());
            return Err(format!(
                "has {} samples a second, expected {least} to {most}",
                spec.rate
            ));
        }
        if !(1..=MOST_CHANNELS).contains(&n_channels) {
            return Err(format!(
                "has {n_channels} channels, expected 1 to {MOST_CHANNELS}"
            ));
        }
        let sound = sound.get_or_insert_with(|| Decoded {
            rate: spec.rate,
            channels: vec![Vec::new(); n_channels],
        });
        if (sound.rate, sound.channels.len()) != (spec.rate, n_channels) {
            return Err("changes its rate or its number of channels".to_owned());
        }
        let mut samples = SampleBuffer::<f32>::new(buffer.capacity() as u64, spec);
        samples.copy_interleaved_ref(buffer);
        for moment in samples.samples().chunks_exact(n_channels) {
            sound
                .channels
                .iter_mut()
                .zip(moment)
                .for_each(|(channel, &sample)| channel.push(sample));
        }
        let most = (max_seconds * f64::from(spec.rate)).ceil() as usize;
        if sound.channels[0].len() >= most {
            sound
                .channels
                .iter_mut()
                .for_each(|channel| channel.truncate(most));
            is_whole = false;
            break;
        }
    }
    let Some(sound) = sound.filter(|sound| !sound.channels[0].is_empty()) else {
        return Err(first_problem.unwrap_or_else(|| "has no samples".to_owned()));
    };
    // One broken packet may be a tag between the frames of an MP3 file.
    if n_broken > 1 && n_broken * 10 > n_packets {
        let problem = first_problem.unwrap_or_default();
        return Err(format!("{problem} ({n_broken} of {n_packets} packets)"));
    }
    let n_found = sound.channels[0].len() as u64;
    /// What programs that write to a pipe claim, as they do not know it.
    const UNKNOWN: u64 = 1 << 29;
    if let Some(n_claimed) = params.n_frames.filter(|&n| is_whole && n < UNKNOWN)
        && n_found + n_found / 20 + 4096 < n_claimed
    {
        return Err(format!("ends early: {n_found} of {n_claimed} samples"));
    }
    if sound
        .channels
        .iter()
        .flatten()
        .any(|sample| !sample.is_finite())
    {
        return Err("has NaN or infinite samples".to_owned());
    }
    Ok(sound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wav;

    #[test]
    fn a_wav_file_comes_back() {
        let samples: Vec<f32> = (0..999).map(|i| (i % 41) as f32 / 41.0 - 0.5).collect();
        let decoded = decode(&wav::encode(&samples, 3, 11_025), 10.0).unwrap();
        assert_eq!(
            (
                decoded.rate,
                decoded.channels.len(),
                decoded.channels[0].len()
            ),
            (11_025, 3, 333)
        );
        for (i, wanted) in samples.iter().enumerate() {
            let found = decoded.channels[i % 3][i / 3];
            assert!((found - wanted).abs() < 1e-4, "{i}: {found} {wanted}");
        }
        let short = decode(&wav::encode(&samples, 3, 11_025), 0.01).unwrap();
        assert_eq!(short.channels[0].len(), 111);
    }

    #[test]
    fn what_is_no_sound_is_said() {
        let problem = |file: &[u8]| decode(file, 1.0).unwrap_err();
        assert_eq!(problem(&[]), "is empty");
        assert_eq!(
            problem(b"a text of some length"),
            "is not WAV, FLAC, OGG or MP3"
        );
        assert_eq!(problem(&wav::encode(&[], 1, 8000)), "has no samples");
        let whole = wav::encode(&[0.1; 20_000], 1, 8000);
        assert!(
            problem(&whole[..10_000]).starts_with("ends early"),
            "{}",
            problem(&whole[..10_000])
        );
        let fast = wav::encode(&[0.1; 100], 1, 4_000_000_000);
        assert!(
            problem(&fast).contains("samples a second") || problem(&fast).starts_with("is"),
            "{}",
            problem(&fast)
        );
        assert!(
            is_sound(&whole) && !is_sound(b"RIFF\0\0\0\0WEBP") && is_sound(&[0xff, 0xfb, 0x90])
        );
    }
}
