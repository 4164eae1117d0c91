//! Mel bands: frequencies as one hears them, equally spaced below 1000 Hz and by ratio above.

/// Overlapping triangular bands on the mel scale of Slaney's Auditory Toolbox, each of area 1: librosa's
/// `filters.mel(sr, n_fft, n_mels, fmin, fmax)`.
#[derive(Clone, Debug)]
pub struct MelBank {
    n_bins: usize,
    /// The first frequency of each band, and the weights from there on.
    bands: Vec<(usize, Vec<f32>)>,
    /// The sum of the weights of each frequency.
    total: Vec<f32>,
}

const HZ_PER_MEL: f64 = 200.0 / 3.0;
const FIRST_BY_RATIO: f64 = 1000.0;

/// ln 6.4 / 27: from 1000 Hz to 6400 Hz there are 27 mel.
fn log_step() -> f64 {
    6.4_f64.ln() / 27.0
}

fn mel(hz: f64) -> f64 {
    match hz < FIRST_BY_RATIO {
        true => hz / HZ_PER_MEL,
        false => FIRST_BY_RATIO / HZ_PER_MEL + (hz / FIRST_BY_RATIO).ln() / log_step(),
    }
}

fn hz(mel: f64) -> f64 {
    let first = FIRST_BY_RATIO / HZ_PER_MEL;
    match mel < first {
        true => mel * HZ_PER_MEL,
        false => FIRST_BY_RATIO * ((mel - first) * log_step()).exp(),
    }
}

impl MelBank {
    /// `n_bands` bands from `low` to `high` Hz for the transform of `n_window` samples.
    #[must_use]
    pub fn new(rate: u32, n_window: usize, n_bands: usize, low: f64, high: f64) -> Self {
        let n_bins = n_window / 2 + 1;
        let width = f64::from(rate) / n_window as f64;
        let [first, last] = [low, high].map(mel);
        let edge = |i: usize| hz(first + (last - first) * i as f64 / (n_bands + 1) as f64);
        let bands: Vec<(usize, Vec<f32>)> = (0..n_bands)
            .map(|band| {
                let [left, middle, right] = [0, 1, 2].map(|i| edge(band + i));
                let weight = |bin: usize| {
                    let f = bin as f64 * width;
                    let rising = (f - left) / (middle - left);
                    let falling = (right - f) / (right - middle);
                    rising.min(falling).max(0.0) * 2.0 / (right - left)
                };
                let weights: Vec<f32> = (0..n_bins).map(|bin| weight(bin) as f32).collect();
                let is_in = |weight: &f32| *weight > 0.0;
                let start = weights.iter().position(is_in).unwrap_or(0);
                let end = weights.iter().rposition(is_in).map_or(0, |last| last + 1);
                (start, weights[start..end.max(start)].to_vec())
            })
            .collect();
        let mut total = vec![0.0; n_bins];
        for (start, weights) in &bands {
            total[*start..]
                .iter_mut()
                .zip(weights)
                .for_each(|(sum, weight)| *sum += weight);
        }
        Self {
            n_bins,
            bands,
            total,
        }
    }

    /// How many bands there are.
    #[must_use]
    pub fn n_bands(&self) -> usize {
        self.bands.len()
    }

    /// The first band that lies between two frequencies of the transform, so that it is always 0.
    #[must_use]
    pub fn empty_band(&self) -> Option<usize> {
        self.bands
            .iter()
            .position(|(_, weights)| weights.is_empty())
    }

    /// The weights of a band for every frequency of the transform.
    #[must_use]
    pub fn weights(&self, band: usize) -> Vec<f32> {
        let (start, weights) = &self.bands[band];
        let mut all = vec![0.0; self.n_bins];
        all[*start..start + weights.len()].copy_from_slice(weights);
        all
    }

    /// The power of each band, of the powers of all frequencies.
    pub fn apply<'a>(&'a self, powers: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        self.bands.iter().map(|(start, weights)| {
            powers[*start..]
                .iter()
                .zip(weights)
                .map(|(power, weight)| power * weight)
                .sum()
        })
    }

    /// Powers of all frequencies whose bands have these powers, by the multiplicative updates of Lee & Seung (2001)
    /// for the divergence Σ m·ln(m / Ws) − m + Ws, which counts quiet bands by their ratio, as the logarithm does.
    #[must_use]
    pub fn invert(&self, bands: &[f32], n_iterations: usize) -> Vec<f32> {
        let spread = |values: &mut dyn Iterator<Item = f32>| {
            let mut sums = vec![0.0_f32; self.n_bins];
            for ((start, weights), value) in self.bands.iter().zip(values) {
                let sums = sums[*start..].iter_mut();
                sums.zip(weights)
                    .for_each(|(sum, weight)| *sum += weight * value);
            }
            // Frequencies outside of all bands are silent.
            let ratios = sums.iter().zip(&self.total);
            ratios
                .map(|(sum, total)| if *total > 0.0 { sum / total } else { 0.0 })
                .collect::<Vec<_>>()
        };
        let areas = self
            .bands
            .iter()
            .map(|(_, weights)| weights.iter().sum::<f32>());
        let mut powers = spread(
            &mut bands
                .iter()
                .zip(areas)
                .map(|(band, area)| band / area.max(f32::MIN_POSITIVE)),
        );
        for _ in 0..n_iterations {
            let found: Vec<f32> = self.apply(&powers).collect();
            let ratios = bands.iter().zip(&found);
            let change =
                spread(&mut ratios.map(|(wanted, found)| wanted / found.max(f32::MIN_POSITIVE)));
            powers
                .iter_mut()
                .zip(change)
                .for_each(|(power, change)| *power *= change);
        }
        powers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mel_and_hz_are_inverse() {
        for f in [0.0, 440.0, 999.0, 1000.0, 3000.0, 12_000.0] {
            assert!((hz(mel(f)) - f).abs() < 1e-9, "{f}");
        }
        assert!((mel(6400.0) - 42.0).abs() < 1e-12);
    }

    #[test]
    fn inverted_powers_have_the_bands_again() {
        let bank = MelBank::new(8000, 512, 40, 0.0, 4000.0);
        assert_eq!(bank.empty_band(), None);
        let powers: Vec<f32> = (0..257).map(|i| 1.0 + (i as f32 * 0.2).sin()).collect();
        let bands: Vec<f32> = bank.apply(&powers).collect();
        let back = bank.invert(&bands, 200);
        for (found, wanted) in bank.apply(&back).zip(&bands) {
            assert!((found / wanted - 1.0).abs() < 0.01, "{found} {wanted}");
        }
        assert!(back.iter().all(|power| *power >= 0.0));
    }

    #[test]
    fn too_many_bands_leave_some_empty() {
        assert!(
            MelBank::new(8000, 64, 64, 0.0, 4000.0)
                .empty_band()
                .is_some()
        );
    }
}
