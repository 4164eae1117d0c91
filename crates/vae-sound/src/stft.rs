//! The short-time Fourier transform.

use std::fmt;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

/// The short-time Fourier transform with a periodic Hann window. Frame t is centered at sample t·hop; before the first
/// and after the last sample there is silence.
///
/// The numbers are those of librosa's `stft(y, n_fft, hop_length)` and `istft` for as many frames as are asked for.
pub struct Stft {
    window: Vec<f32>,
    hop: usize,
    forward: Arc<dyn RealToComplex<f32>>,
    backward: Arc<dyn ComplexToReal<f32>>,
}

impl fmt::Debug for Stft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (window, hop) = (self.window.len(), self.hop);
        f.debug_struct("Stft")
            .field("window", &window)
            .field("hop", &hop)
            .finish_non_exhaustive()
    }
}

impl Stft {
    /// A window of `n_window` samples, moved by `hop` from frame to frame.
    ///
    /// # Panics
    /// If the window is odd, or the hop is 0.
    #[must_use]
    pub fn new(n_window: usize, hop: usize) -> Self {
        assert!(
            n_window > 0 && n_window.is_multiple_of(2) && hop > 0,
            "window {n_window}, hop {hop}"
        );
        let angle = |i: usize| 2.0 * std::f64::consts::PI * i as f64 / n_window as f64;
        let mut planner = RealFftPlanner::new();
        Self {
            window: (0..n_window)
                .map(|i| (0.5 - 0.5 * angle(i).cos()) as f32)
                .collect(),
            hop,
            forward: planner.plan_fft_forward(n_window),
            backward: planner.plan_fft_inverse(n_window),
        }
    }

    /// The frequencies of a frame, from 0 to half of the rate.
    #[must_use]
    pub fn n_bins(&self) -> usize {
        self.window.len() / 2 + 1
    }

    /// `n_frames` frames of the samples, one after another: `[n_frames, n_bins]`.
    #[must_use]
    pub fn transform(&self, samples: &[f32], n_frames: usize) -> Vec<Complex<f32>> {
        let half = self.window.len() / 2;
        let mut input = self.forward.make_input_vec();
        let mut scratch = self.forward.make_scratch_vec();
        let mut frames = vec![Complex::default(); n_frames * self.n_bins()];
        for (t, frame) in frames.chunks_exact_mut(self.n_bins()).enumerate() {
            for (i, (value, weight)) in input.iter_mut().zip(&self.window).enumerate() {
                let sample = (t * self.hop + i)
                    .checked_sub(half)
                    .and_then(|i| samples.get(i));
                *value = sample.copied().unwrap_or(0.0) * weight;
            }
            // Fails on buffers of another length alone, which these are not.
            let _ = self
                .forward
                .process_with_scratch(&mut input, frame, &mut scratch);
        }
        frames
    }

    /// The `n_samples` samples whose transform is nearest to these frames `[n_frames, n_bins]` by least squares
    /// (Griffin & Lim 1984).
    #[must_use]
    pub fn inverse(&self, frames: &[Complex<f32>], n_samples: usize) -> Vec<f32> {
        let (n_window, half) = (self.window.len(), self.window.len() / 2);
        let mut output = self.backward.make_output_vec();
        let mut scratch = self.backward.make_scratch_vec();
        let mut input = self.backward.make_input_vec();
        let mut samples = vec![0.0; n_samples];
        let mut weights = vec![0.0; n_samples];
        for (t, frame) in frames.chunks_exact(self.n_bins()).enumerate() {
            input.copy_from_slice(frame);
            // A real signal has real values at 0 and at half of the rate; others are refused.
            for end in [0, half] {
                input[end].im = 0.0;
            }
            let _ = self
                .backward
                .process_with_scratch(&mut input, &mut output, &mut scratch);
            for (i, (value, weight)) in output.iter().zip(&self.window).enumerate() {
                let Some(i) = (t * self.hop + i).checked_sub(half) else {
                    continue;
                };
                let Some(sample) = samples.get_mut(i) else {
                    break;
                };
                *sample += value / n_window as f32 * weight;
                weights[i] += weight * weight;
            }
        }
        for (sample, weight) in samples.iter_mut().zip(&weights) {
            if *weight > f32::MIN_POSITIVE {
                *sample /= weight;
            }
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_gives_the_sound_back() {
        let samples: Vec<f32> = (0..1024)
            .map(|i| (i as f32 * 0.3).sin() * (i % 97) as f32 / 97.0)
            .collect();
        for hop in [32, 64, 100] {
            let stft = Stft::new(256, hop);
            let frames = stft.transform(&samples, 1 + 1024 / hop);
            let back = stft.inverse(&frames, 1024);
            let error = samples
                .iter()
                .zip(&back)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(error < 1e-5, "hop {hop}: {error}");
        }
    }

    #[test]
    fn a_cosine_has_its_frequency() {
        // Of a full frame the Hann window's sum is half of its length; half of that each for ±frequency.
        let samples: Vec<f32> = (0..512)
            .map(|i| (2.0 * std::f32::consts::PI * 8.0 * i as f32 / 128.0).cos())
            .collect();
        let stft = Stft::new(128, 64);
        let frames = stft.transform(&samples, 5);
        let middle = &frames[4 * stft.n_bins()..][..stft.n_bins()];
        assert!(
            (middle[8].re - 32.0).abs() < 1e-3 && middle[8].im.abs() < 1e-3,
            "{}",
            middle[8]
        );
        assert!(middle[20].norm() < 1e-3);
    }
}
