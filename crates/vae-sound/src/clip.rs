//! Recordings as clips of one rate, length and number of channels.

use crate::wav::to_i16;
use crate::{decode, resample};

/// Where a clip begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// At the beginning of the recording.
    Start,
    /// Just before its first sound; silence at both ends is left out.
    Onset,
}

/// How recordings become clips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipSpec {
    /// Samples a second.
    pub rate: u32,
    /// Samples of a clip. A longer recording is cut, silence follows a shorter one.
    pub n_samples: usize,
    /// 1 or 2. One channel is the mean of all, two are the first two or twice the only one.
    pub n_channels: usize,
    /// Where it begins.
    pub alignment: Alignment,
    /// What counts as silence, in dB below the loudest moment.
    pub silence: f64,
    /// Whether the loudest sample becomes 0.9.
    pub normalize: bool,
    /// Only so much of a recording is read.
    pub max_seconds: f64,
}

/// The loudest sample of normalized clips.
const PEAK: f32 = 0.9;

/// The seconds of a moment whose loudness is measured, and of what is kept before an onset.
const MOMENT: f64 = 0.01;

/// Seconds over which a clip that is cut fades out.
const FADE: f64 = 0.005;

impl ClipSpec {
    /// The clip of a file's bytes, `[C, T]`.
    ///
    /// # Errors
    /// What is wrong with the file, as the end of a sentence that begins with its name.
    pub fn clip(&self, file: &[u8]) -> Result<Vec<i16>, String> {
        let decoded = decode(file, self.max_seconds)?;
        let mixed = mixed(decoded.channels, self.n_channels);
        let resampled = mixed
            .iter()
            .map(|channel| resample(channel, decoded.rate, self.rate));
        let channels = resampled.collect::<Result<Vec<_>, _>>()?;
        self.cut(&channels)
    }

    /// The clip of channels at this rate.
    fn cut(&self, channels: &[Vec<f32>]) -> Result<Vec<i16>, String> {
        let loudest = |channels: &[Vec<f32>]| {
            channels
                .iter()
                .flatten()
                .fold(0.0_f32, |loudest, sample| loudest.max(sample.abs()))
        };
        let n = channels.first().map_or(0, Vec::len);
        // Less than one step of 16 bits.
        if loudest(channels) < 1.0 / 65_536.0 {
            return Err("is silent".to_owned());
        }
        let (start, end) = match self.alignment {
            Alignment::Start => (0, n),
            Alignment::Onset => self.sounding(channels),
        };
        let n_kept = (end - start).min(self.n_samples);
        let mut clip: Vec<Vec<f32>> = channels
            .iter()
            .map(|channel| {
                let mut clip = channel[start..start + n_kept].to_vec();
                if n_kept < end - start {
                    let n_fade = ((FADE * f64::from(self.rate)) as usize).min(n_kept);
                    for (i, sample) in clip[n_kept - n_fade..].iter_mut().rev().enumerate() {
                        *sample *= i as f32 / n_fade as f32;
                    }
                }
                clip.resize(self.n_samples, 0.0);
                clip
            })
            .collect();
        if self.normalize {
            let scale = PEAK / loudest(&clip).max(f32::MIN_POSITIVE);
            clip.iter_mut()
                .flatten()
                .for_each(|sample| *sample *= scale);
        }
        Ok(clip
            .iter()
            .flatten()
            .map(|&sample| to_i16(sample))
            .collect())
    }

    /// From just before the first moment that is no silence to the end of the last one.
    fn sounding(&self, channels: &[Vec<f32>]) -> (usize, usize) {
        let n = channels[0].len();
        let n_moment = ((MOMENT * f64::from(self.rate)) as usize).max(1);
        let power = |start: usize| -> f64 {
            let end = (start + n_moment).min(n);
            let squares = channels.iter().flat_map(|channel| &channel[start..end]);
            squares
                .map(|sample| f64::from(*sample).powi(2))
                .sum::<f64>()
                / (end - start) as f64
        };
        let powers: Vec<f64> = (0..n).step_by(n_moment).map(power).collect();
        let loudest = powers.iter().copied().fold(0.0, f64::max);
        let threshold = loudest * 10_f64.powf(-self.silence / 10.0);
        let is_sound = |power: &f64| *power >= threshold;
        let first = powers.iter().position(is_sound).unwrap_or(0);
        let last = powers.iter().rposition(is_sound).unwrap_or(0);
        let start = (first * n_moment).saturating_sub(n_moment);
        (start, ((last + 1) * n_moment).min(n))
    }
}

/// One channel, the mean of all, or two.
fn mixed(mut channels: Vec<Vec<f32>>, n_channels: usize) -> Vec<Vec<f32>> {
    match (channels.len(), n_channels) {
        (n, 1) if n > 1 => {
            let at = |i: usize| channels.iter().map(|channel| channel[i]).sum::<f32>() / n as f32;
            vec![(0..channels[0].len()).map(at).collect()]
        }
        (1, 2) => vec![channels[0].clone(), channels.swap_remove(0)],
        _ => {
            channels.truncate(n_channels);
            channels
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wav;

    const SPEC: ClipSpec = ClipSpec {
        rate: 8000,
        n_samples: 800,
        n_channels: 1,
        alignment: Alignment::Start,
        silence: 40.0,
        normalize: false,
        max_seconds: 10.0,
    };

    /// Silence, then a tone.
    fn late(n_silent: usize, n: usize) -> Vec<f32> {
        let tone = (0..n).map(|i| 0.5 * (i as f32 * 0.7).sin());
        std::iter::repeat_n(0.0, n_silent).chain(tone).collect()
    }

    #[test]
    fn short_recordings_are_padded_and_long_ones_cut() {
        let clip = SPEC.clip(&wav::encode(&[0.5; 300], 1, 8000)).unwrap();
        assert_eq!(clip.len(), 800);
        assert_eq!((clip[299], clip[300]), (16384, 0));
        let clip = SPEC.clip(&wav::encode(&[0.5; 3000], 1, 8000)).unwrap();
        assert_eq!((clip.len(), clip[0], clip[799]), (800, 16384, 0));
        assert_eq!(clip[759], 16384);
    }

    #[test]
    fn an_onset_comes_first() {
        let spec = ClipSpec {
            alignment: Alignment::Onset,
            ..SPEC
        };
        let file = wav::encode(&late(1600, 400), 1, 8000);
        let clip = spec.clip(&file).unwrap();
        let first = clip.iter().position(|sample| sample.abs() > 100).unwrap();
        assert_eq!(first, 81, "10 ms before the tone");
        assert!(clip[80 + 400..].iter().all(|sample| *sample == 0));
        assert!(
            SPEC.clip(&file).unwrap().iter().all(|sample| *sample == 0),
            "no onset in it"
        );
    }

    #[test]
    fn channels_are_mixed_or_doubled() {
        // Left 0.5, right −0.1.
        let file = wav::encode(&[0.5, -0.1].repeat(800), 2, 8000);
        assert_eq!(SPEC.clip(&file).unwrap()[100], to_i16(0.2));
        let both = ClipSpec {
            n_channels: 2,
            ..SPEC
        };
        let clip = both.clip(&file).unwrap();
        assert_eq!(
            (clip.len(), clip[100], clip[900]),
            (1600, to_i16(0.5), to_i16(-0.1))
        );
        let mono = both.clip(&wav::encode(&[0.25; 800], 1, 8000)).unwrap();
        assert_eq!((mono[10], mono[810]), (to_i16(0.25), to_i16(0.25)));
    }

    #[test]
    fn the_loudest_sample_is_scaled_and_silence_refused() {
        let spec = ClipSpec {
            normalize: true,
            ..SPEC
        };
        let clip = spec.clip(&wav::encode(&late(0, 800), 1, 8000)).unwrap();
        assert_eq!(
            clip.iter().map(|sample| sample.unsigned_abs()).max(),
            Some(to_i16(0.9) as u16)
        );
        assert_eq!(
            spec.clip(&wav::encode(&[0.0; 50], 1, 8000)).unwrap_err(),
            "is silent"
        );
    }

    #[test]
    fn other_rates_are_resampled() {
        let spec = ClipSpec {
            n_samples: 8000,
            ..SPEC
        };
        let tone: Vec<f32> = (0..44_100)
            .map(|i| (i as f32 * 440.0 * std::f32::consts::TAU / 44_100.0).sin() * 0.5)
            .collect();
        let clip = spec.clip(&wav::encode(&tone, 1, 44_100)).unwrap();
        let crossings = clip
            .windows(2)
            .filter(|pair| pair[0] < 0 && pair[1] >= 0)
            .count();
        assert!((438..=440).contains(&crossings), "{crossings}");
    }
}
