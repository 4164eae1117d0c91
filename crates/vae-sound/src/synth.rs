//! A simple synthesizer: additive tones with an envelope, to hear notes.

use std::f64::consts::TAU;

/// A note to be heard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tone {
    /// When it begins, in seconds.
    pub start: f64,
    /// When it is let go, in seconds.
    pub end: f64,
    /// The number of its key in MIDI: 69 is the A of 440 Hz, and each number a semitone.
    pub pitch: u8,
}

/// The number of partials; those above half of the rate are left out.
const N_PARTIALS: u32 = 8;

/// Seconds from silence to the full tone, and from letting go to silence.
const ATTACK: f64 = 0.008;
const RELEASE: f64 = 0.06;

/// Seconds in which the first partial of A 440 loses half of its strength while the key is down; higher partials and higher tones
/// lose theirs faster, as those of a string do.
const HALF_LIFE: f64 = 0.9;

/// The loudest sample of what is rendered.
const PEAK: f32 = 0.8;

impl Tone {
    /// Its frequency in Hz, in equal temperament.
    ///
    /// ```
    /// use vae_sound::Tone;
    ///
    /// let hertz = |pitch| Tone { start: 0.0, end: 1.0, pitch }.frequency();
    /// assert_eq!(hertz(69), 440.0);
    /// assert_eq!(hertz(81), 880.0);
    /// ```
    #[must_use]
    pub fn frequency(&self) -> f64 {
        440.0 * 2_f64.powf((f64::from(self.pitch) - 69.0) / 12.0)
    }
}

/// The samples of tones in `[-1, 1]`, `seconds` of them at `rate` samples a second. The loudest one has a fixed height, whatever
/// the tones are; without tones there is silence. The same tones give the same samples.
#[must_use]
pub fn render(tones: &[Tone], seconds: f64, rate: u32) -> Vec<f32> {
    let rate = f64::from(rate);
    let n_samples = (seconds.max(0.0) * rate).round() as usize;
    let mut samples = vec![0.0_f32; n_samples];
    for tone in tones {
        let first = ((tone.start * rate).ceil().max(0.0) as usize).min(n_samples);
        let last = (((tone.end + RELEASE) * rate).ceil().max(0.0) as usize).min(n_samples);
        if last <= first {
            continue;
        }
        let frequency = tone.frequency();
        let length = (tone.end - tone.start).max(0.0);
        for partial in 1..=N_PARTIALS {
            let hertz = frequency * f64::from(partial);
            if hertz >= 0.5 * rate {
                break;
            }
            // −8 dB an octave: softer than a saw tooth, brighter than a flute.
            let strength = f64::from(partial).powf(-1.35);
            let half_life = HALF_LIFE * (440.0 / hertz).sqrt();
            for (sample, i) in samples[first..last].iter_mut().zip(first..) {
                let time = i as f64 / rate - tone.start;
                let decay = (-time / half_life).exp2();
                let value = strength * decay * envelope(time, length) * (TAU * hertz * time).sin();
                *sample += value as f32;
            }
        }
    }
    let loudest = samples
        .iter()
        .fold(0.0_f32, |loudest, sample| loudest.max(sample.abs()));
    if loudest > 0.0 {
        let scale = PEAK / loudest;
        samples.iter_mut().for_each(|sample| *sample *= scale);
    }
    samples
}

/// Rises in the attack, falls after the key is let go; both linearly, so that nothing clicks.
fn envelope(time: f64, length: f64) -> f64 {
    let attack = (time / ATTACK).clamp(0.0, 1.0);
    let release = (1.0 - (time - length) / RELEASE).clamp(0.0, 1.0);
    attack * release
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(start: f64, end: f64, pitch: u8) -> Tone {
        Tone { start, end, pitch }
    }

    /// The strength of a frequency in samples (Goertzel).
    fn strength(samples: &[f32], hertz: f64, rate: f64) -> f64 {
        let (mut re, mut im) = (0.0, 0.0);
        for (i, &sample) in samples.iter().enumerate() {
            let angle = TAU * hertz * i as f64 / rate;
            re += f64::from(sample) * angle.cos();
            im += f64::from(sample) * angle.sin();
        }
        re.hypot(im) / samples.len() as f64
    }

    #[test]
    fn a_tone_has_the_frequency_of_its_key() {
        for pitch in [45, 60, 69, 88] {
            let note = tone(0.0, 0.5, pitch);
            let samples = render(&[note], 0.5, 22_050);
            let at = |semitones: f64| {
                let hertz = note.frequency() * 2_f64.powf(semitones / 12.0);
                strength(&samples, hertz, 22_050.0)
            };
            for other in [-1.0, -0.5, 0.5, 1.0, 7.0] {
                assert!(at(0.0) > 4.0 * at(other), "{pitch} {other}");
            }
            assert!(at(12.0) > 0.1 * at(0.0), "the second partial");
        }
    }

    #[test]
    fn silence_is_before_and_after_and_nothing_clicks() {
        let samples = render(&[tone(0.25, 0.5, 69)], 1.0, 8000);
        assert_eq!(samples.len(), 8000);
        assert!(samples[..2000].iter().all(|&sample| sample == 0.0));
        let silent_from = ((0.5 + RELEASE) * 8000.0) as usize + 1;
        assert!(samples[silent_from..].iter().all(|&sample| sample == 0.0));
        let loudest = samples.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        assert!((loudest - PEAK).abs() < 1e-6);
        // The envelope begins and ends at 0.
        assert!(samples[2001].abs() < 0.1 && samples[silent_from - 2].abs() < 0.02);
    }

    #[test]
    fn nothing_is_beyond_what_was_asked_for() {
        assert!(render(&[], 0.5, 8000).iter().all(|&sample| sample == 0.0));
        assert!(render(&[tone(0.0, 1.0, 60)], 0.0, 8000).is_empty());
        assert!(render(&[tone(0.0, 1.0, 60)], -1.0, 8000).is_empty());
        // All partials of the highest keys lie above half of the rate.
        let high = render(&[tone(0.0, 0.1, 127)], 0.1, 8000);
        assert!(high.iter().all(|&sample| sample == 0.0));
        assert_eq!(render(&[tone(5.0, 6.0, 60)], 0.1, 8000).len(), 800);
        let odd = render(&[tone(-1.0, -2.0, 60), tone(0.05, 0.02, 60)], 0.1, 8000);
        assert!(odd.iter().all(|sample| sample.is_finite()));
    }
}
