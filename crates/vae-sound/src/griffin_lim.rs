//! Sound whose transform has given magnitudes.

use realfft::num_complex::Complex;

use crate::Stft;

/// The fast algorithm of Griffin & Lim: magnitudes are kept, and phases become those of a sound
/// (Perraudin, Balazs & Søndergaard 2013, <https://doi.org/10.1109/WASPAA.2013.6701851>).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GriffinLim {
    /// Transforms to sound and back.
    pub n_iterations: usize,
    /// α, how far each step goes on in the direction of the one before; 0 is the algorithm of 1984.
    pub momentum: f32,
    /// The seed of the phases at the start.
    pub seed: u64,
}

impl Default for GriffinLim {
    fn default() -> Self {
        Self {
            n_iterations: 64,
            momentum: 0.99,
            seed: 0,
        }
    }
}

impl GriffinLim {
    /// `n_samples` samples whose transform has magnitudes near these, `[n_frames, n_bins]`.
    #[must_use]
    pub fn run(&self, stft: &Stft, magnitudes: &[f32], n_samples: usize) -> Vec<f32> {
        let n_frames = magnitudes.len() / stft.n_bins();
        let mut random = SplitMix(self.seed);
        let mut phase = || Complex::from_polar(1.0, random.uniform() * std::f32::consts::TAU);
        let mut phases: Vec<Complex<f32>> = magnitudes.iter().map(|_| phase()).collect();
        let with = |phases: &[Complex<f32>]| {
            let pairs = magnitudes.iter().zip(phases);
            let frames: Vec<_> = pairs.map(|(magnitude, phase)| phase * *magnitude).collect();
            stft.inverse(&frames, n_samples)
        };
        let share = self.momentum / (1.0 + self.momentum);
        let mut before = vec![Complex::default(); magnitudes.len()];
        for _ in 0..self.n_iterations {
            let found = stft.transform(&with(&phases), n_frames);
            for ((phase, found), before) in phases.iter_mut().zip(&found).zip(&before) {
                let moved = found - before * share;
                let norm = moved.norm();
                *phase = moved / norm.max(f32::MIN_POSITIVE);
            }
            before = found;
        }
        with(&phases)
    }
}

/// The generator splitmix64 (Steele, Lea & Flood 2014).
struct SplitMix(u64);

impl SplitMix {
    /// A number in `[0, 1)`.
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ‖|STFT(x)| − S‖ / ‖S‖ in dB.
    fn convergence(stft: &Stft, samples: &[f32], wanted: &[f32]) -> f64 {
        let n_frames = wanted.len() / stft.n_bins();
        let found = stft.transform(samples, n_frames);
        let square = |x: f32| f64::from(x) * f64::from(x);
        let error: f64 = found
            .iter()
            .zip(wanted)
            .map(|(c, s)| square(c.norm() - s))
            .sum();
        10.0 * (error / wanted.iter().map(|s| square(*s)).sum::<f64>()).log10()
    }

    #[test]
    fn magnitudes_come_near_and_momentum_brings_them_nearer() {
        let chirp: Vec<f32> = (0..4096)
            .map(|i| i as f32 / 8000.0)
            .map(|t| (std::f32::consts::TAU * (300.0 * t + 1500.0 * t * t)).sin() * (3.0 * t).sin())
            .collect();
        let stft = Stft::new(256, 64);
        let wanted: Vec<f32> = stft
            .transform(&chirp, 64)
            .iter()
            .map(|c| c.norm())
            .collect();
        let after = |n_iterations, momentum| {
            let griffin_lim = GriffinLim {
                n_iterations,
                momentum,
                seed: 3,
            };
            convergence(&stft, &griffin_lim.run(&stft, &wanted, 4096), &wanted)
        };
        let (start, plain, fast) = (after(0, 0.0), after(50, 0.0), after(50, 0.99));
        assert!(plain < start - 8.0, "{start} {plain}");
        assert!(fast < plain - 2.0 && fast < -20.0, "{plain} {fast}");
        assert_eq!(after(5, 0.99), after(5, 0.99));
    }
}
