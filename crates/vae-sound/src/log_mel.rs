//! Log-mel spectrograms.

use vae_base::Spectrogram;

use crate::{GriffinLim, MelBank, Stft};

/// Updates of [`MelBank::invert`] for sound.
const N_UPDATES: usize = 60;

/// Turns sound into log-mel spectrograms, and back.
#[derive(Debug)]
pub struct LogMel {
    spec: Spectrogram,
    stft: Stft,
    bank: MelBank,
}

impl LogMel {
    /// The transform of a checked `spec` with so many bands.
    #[must_use]
    pub fn new(spec: Spectrogram, n_bands: usize) -> Self {
        let window = spec.window as usize;
        Self {
            stft: Stft::new(window, spec.hop as usize),
            bank: MelBank::new(spec.rate, window, n_bands, spec.low, spec.high),
            spec,
        }
    }

    /// The bands.
    #[must_use]
    pub fn bank(&self) -> &MelBank {
        &self.bank
    }

    /// The samples of so many frames.
    #[must_use]
    pub fn n_samples(&self, n_frames: usize) -> usize {
        n_frames * self.spec.hop as usize
    }

    /// The spectrogram of samples in `[-1, 1]` in dB, the lowest band first: `[bands, frames]`.
    #[must_use]
    pub fn spectrogram(&self, samples: &[f32], n_frames: usize) -> Vec<f32> {
        let frames = self.stft.transform(samples, n_frames);
        let least = 10_f32.powf(self.spec.floor as f32 / 10.0);
        let n_bands = self.bank.n_bands();
        let mut map = vec![0.0; n_bands * n_frames];
        for (t, frame) in frames.chunks_exact(self.stft.n_bins()).enumerate() {
            let powers: Vec<f32> = frame.iter().map(|value| value.norm_sqr()).collect();
            for (band, power) in self.bank.apply(&powers).enumerate() {
                map[band * n_frames + t] = 10.0 * power.max(least).log10();
            }
        }
        map
    }

    /// Sound with about this spectrogram `[bands, frames]` in dB. Values near the floor become silence.
    #[must_use]
    pub fn sound(&self, map: &[f32], griffin_lim: &GriffinLim) -> Vec<f32> {
        /// A full scale has less; a model that has not learned may decode anything.
        const LOUDEST: f32 = 60.0;
        let n_bands = self.bank.n_bands();
        let n_frames = map.len() / n_bands.max(1);
        let least = 10_f32.powf(self.spec.floor as f32 / 10.0);
        let mut magnitudes = Vec::with_capacity(n_frames * self.stft.n_bins());
        for t in 0..n_frames {
            let bands: Vec<f32> = (0..n_bands)
                .map(|band| map[band * n_frames + t])
                // The floor stands for everything below it, so it is subtracted.
                .map(|db| (10_f32.powf(db.min(LOUDEST) / 10.0) - least).max(0.0))
                .map(|power| if power.is_finite() { power } else { 0.0 })
                .collect();
            let powers = self.bank.invert(&bands, N_UPDATES);
            magnitudes.extend(powers.iter().map(|power| power.sqrt()));
        }
        griffin_lim.run(&self.stft, &magnitudes, self.n_samples(n_frames))
    }
}

/// The log-spectral distance in dB of two spectrograms `[bands, frames]`: the root of the mean squared difference over
/// the bands of each frame, averaged over frames.
#[must_use]
pub fn log_spectral_distance(a: &[f32], b: &[f32], n_bands: usize) -> f64 {
    let n_frames = a.len() / n_bands.max(1);
    let distance = |t: usize| {
        let difference =
            |band: usize| f64::from(a[band * n_frames + t]) - f64::from(b[band * n_frames + t]);
        let sum: f64 = (0..n_bands).map(|band| difference(band).powi(2)).sum();
        (sum / n_bands as f64).sqrt()
    };
    (0..n_frames).map(distance).sum::<f64>() / n_frames.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Spectrogram = Spectrogram {
        rate: 8000,
        window: 512,
        hop: 128,
        low: 0.0,
        high: 4000.0,
        floor: -60.0,
    };

    #[test]
    fn silence_is_at_the_floor_and_stays_silent() {
        let log_mel = LogMel::new(SPEC, 40);
        let map = log_mel.spectrogram(&[0.0; 4096], 32);
        assert_eq!(map.len(), 40 * 32);
        assert!(map.iter().all(|db| (db + 60.0).abs() < 1e-4));
        let sound = log_mel.sound(&map, &GriffinLim::default());
        assert_eq!(sound.len(), 4096);
        assert!(sound.iter().all(|sample| sample.abs() < 1e-6));
    }

    #[test]
    fn sound_from_a_spectrogram_has_it_nearly_again() {
        let samples: Vec<f32> = (0..4096)
            .map(|i| i as f32 / 8000.0)
            .map(|t| 0.3 * (std::f32::consts::TAU * (200.0 * t + 800.0 * t * t)).sin())
            .collect();
        let log_mel = LogMel::new(SPEC, 40);
        let map = log_mel.spectrogram(&samples, 32);
        let again = log_mel.spectrogram(&log_mel.sound(&map, &GriffinLim::default()), 32);
        // The loud bands are what is heard.
        let loud = || map.iter().zip(&again).filter(|(db, _)| **db > -20.0);
        let error = loud().map(|(a, b)| (a - b).abs()).sum::<f32>() / loud().count() as f32;
        assert!(error < 2.0, "{error} dB");
    }

    #[test]
    fn a_distance_of_one_db_everywhere_is_one_db() {
        assert!(
            (log_spectral_distance(&[1.0, 2.0, 3.0, 4.0], &[2.0, 3.0, 4.0, 5.0], 2) - 1.0).abs()
                < 1e-12
        );
        // √((3² + 4²)/2) in the first frame, 0 in the second.
        let distance = log_spectral_distance(&[3.0, 0.0, 4.0, 0.0], &[0.0; 4], 2);
        assert!((distance - 12.5_f64.sqrt() / 2.0).abs() < 1e-12);
    }
}
