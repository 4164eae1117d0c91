//! WAV files of 16-bit samples.

/// A WAV file of samples in `[-1, 1]`, `n_channels` of each moment after one another. Values outside are clipped.
///
/// ```
/// let file = vae_sound::wav::encode(&[0.0, 1.0, -1.0, 2.0], 1, 8000);
/// assert_eq!((&file[..4], file.len()), (&b"RIFF"[..], 44 + 8));
/// let samples: Vec<i16> =
///     file[44..].chunks(2).map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]])).collect();
/// assert_eq!(samples, [0, 32767, -32767, 32767]);
/// ```
#[must_use]
pub fn encode(samples: &[f32], n_channels: u16, rate: u32) -> Vec<u8> {
    const PCM: u16 = 1;
    const BYTES_EACH: u16 = 2;
    let n_bytes = samples.len() as u32 * u32::from(BYTES_EACH);
    let n_each_moment = n_channels * BYTES_EACH;
    let mut file = Vec::with_capacity(44 + n_bytes as usize);
    file.extend(b"RIFF");
    file.extend((36 + n_bytes).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend(PCM.to_le_bytes());
    file.extend(n_channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend((rate * u32::from(n_each_moment)).to_le_bytes());
    file.extend(n_each_moment.to_le_bytes());
    file.extend((8 * BYTES_EACH).to_le_bytes());
    file.extend(b"data");
    file.extend(n_bytes.to_le_bytes());
    file.extend(
        samples
            .iter()
            .flat_map(|&sample| to_i16(sample).to_le_bytes()),
    );
    file
}

/// The 16-bit sample of a value in `[-1, 1]`, which is clipped; NaN is silence.
#[must_use]
pub fn to_i16(sample: f32) -> i16 {
    // A cast of NaN is 0.
    (sample.clamp(-1.0, 1.0) * f32::from(i16::MAX)).round() as i16
}

/// Channels `[C, T]` one after another as moments `[T, C]`.
#[must_use]
pub fn interleaved(channels: &[f32], n_channels: usize) -> Vec<f32> {
    let n = channels.len() / n_channels.max(1);
    let at = |i: usize| channels[(i % n_channels) * n + i / n_channels];
    (0..n * n_channels).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_alternate() {
        assert_eq!(
            interleaved(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2),
            [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]
        );
        assert_eq!(to_i16(f32::NAN), 0);
        assert_eq!(to_i16(-0.5), -16384);
    }
}
