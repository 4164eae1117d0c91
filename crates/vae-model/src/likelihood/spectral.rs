//! `likelihood.spectral`: the distance of two sounds in several spectrograms, which is no likelihood.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use super::{GraphLikelihood, Likelihood};
use crate::graph::{Graph, Value};
use crate::{Mode, ModelError};

/// The multi-scale spectral distance of sound (Engel et al. 2020, *DDSP*, <https://arxiv.org/abs/2001.04643>): of the
/// magnitudes S of short-time Fourier transforms with several windows, the mean of |S − Ŝ| + |ln S − ln Ŝ|. It ignores
/// phases, which one hardly hears and a squared error cannot predict.
///
/// It is no likelihood: no density of sound belongs to it, so that `elbo` is no bound of anything and `vae eval` measures
/// no likelihood. The distance stands in its place in the objective, where `weight` decides how much a kl costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpectralConfig {
    /// Samples of the windows, powers of two; each moves by a quarter of itself. Default `[64, 256, 1024]`.
    #[schemars(length(min = 1, max = 8), inner(range(min = 16, max = 16_384)))]
    pub windows: Vec<i64>,
    /// What a distance of 1 costs for each sample of the sound, in nats. Default 0.1.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub weight: f64,
    /// Weight of the absolute difference of the samples themselves, beside 1 for the spectrograms. Default 0.
    #[schemars(range(min = 0.0))]
    pub samples: f64,
}

impl Default for SpectralConfig {
    fn default() -> Self {
        Self {
            windows: vec![64, 256, 1024],
            weight: 0.1,
            samples: 0.0,
        }
    }
}

/// Magnitudes below are silence: −60 dB of a full-scale sine.
const SILENCE: f64 = 1e-3;

/// Keeps the gradient of a magnitude of 0 finite.
const LEAST_SQUARE: f64 = 1e-12;

impl SpectralConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let refuse = |name: &str, problem: String| {
            let key = format!("model.likelihood.spectral.{name}");
            Err(ModelError::config(key, problem))
        };
        if self.windows.is_empty() || self.windows.len() > 8 {
            let problem = format!("found {}, expected 1 to 8 windows", self.windows.len());
            return refuse("windows", problem);
        }
        let is_right = |window: &i64| (16..=16_384).contains(window) && window & (window - 1) == 0;
        if let Some(window) = self.windows.iter().find(|window| !is_right(window)) {
            let problem = format!("found {window}, expected powers of two from 16 to 16384");
            return refuse("windows", problem);
        }
        if !(self.weight.is_finite() && self.weight > 0.0) {
            return refuse(
                "weight",
                format!("found {}, expected a number above 0", self.weight),
            );
        }
        if !(self.samples.is_finite() && self.samples >= 0.0) {
            return refuse(
                "samples",
                format!("found {}, expected a number from 0 on", self.samples),
            );
        }
        Ok(())
    }

    pub(super) fn build(&self) -> Spectral {
        Spectral {
            scales: self.windows.iter().map(|&n| hann(n)).collect(),
            weight: self.weight,
            samples: self.samples,
        }
    }
}

/// The periodic Hann window, scaled so that a sine of full scale has a magnitude of 1.
fn hann(n: i64) -> Tensor {
    let angles =
        Tensor::arange(n, (Kind::Double, Device::Cpu)) * (std::f64::consts::TAU / n as f64);
    let window: Tensor = 0.5 - angles.cos() * 0.5;
    (window * (4.0 / n as f64)).to_kind(Kind::Float)
}

#[derive(Debug)]
pub(super) struct Spectral {
    /// The windows, on the CPU.
    scales: Vec<Tensor>,
    weight: f64,
    samples: f64,
}

impl Spectral {
    /// Magnitudes `[N, frames, frequencies]` of sounds `[N, T]`.
    fn magnitudes(sounds: &Tensor, window: &Tensor) -> Tensor {
        let n = window.size()[0];
        let window = window.to_device(sounds.device());
        let padded = sounds.constant_pad_nd([n / 2, n / 2]);
        let frames = padded.unfold(1, n, (n / 4).max(1)) * window; // [N, F, n]
        let transform = frames.fft_rfft(None, -1, "backward");
        let parts = transform.view_as_real(); // [N, F, n/2 + 1, 2]
        (parts
            .square()
            .sum_dim_intlist([-1_i64].as_slice(), false, Kind::Float)
            + LEAST_SQUARE)
            .sqrt()
    }

    /// The distance of each pair of sounds, `[N]`, both `[N, T]`.
    fn distance(&self, found: &Tensor, wanted: &Tensor) -> Tensor {
        let mean = |values: Tensor| {
            let values = values.abs().flatten(1, -1);
            values.mean_dim([1_i64].as_slice(), false, Kind::Float)
        };
        let mut sum = mean(found - wanted) * self.samples;
        for window in &self.scales {
            let [found, wanted] = [found, wanted].map(|sounds| Self::magnitudes(sounds, window));
            let log = |magnitudes: &Tensor| (magnitudes + SILENCE).log();
            sum += (mean(log(&found) - log(&wanted)) + mean(found - wanted))
                / self.scales.len() as f64;
        }
        sum
    }
}

impl Likelihood for Spectral {
    fn scale(&self, sounds: &Tensor) -> Tensor {
        sounds.to_kind(Kind::Float) / 32_768.0
    }

    fn log_prob(&self, params: &Tensor, targets: &Tensor, _: Mode) -> Tensor {
        let size = params.size(); // [K, B, C, 1, T]
        let n_samples = *size.last().unwrap_or(&1);
        let n_channels = size[2];
        let rows = |sounds: &Tensor| sounds.contiguous().view([-1, n_samples]);
        let found = rows(&params.tanh());
        let wanted = rows(&targets.expand_as(params));
        let distance = self
            .distance(&found, &wanted)
            .view([size[0], size[1], n_channels]);
        let sum = distance.sum_dim_intlist([2_i64].as_slice(), false, Kind::Float);
        sum * (-self.weight * n_samples as f64)
    }

    fn mean_image(&self, params: &Tensor) -> Tensor {
        params.tanh()
    }

    /// The sound itself: without a density there is nothing to draw from.
    fn sample(&self, params: &Tensor, _: &mut Generator) -> Tensor {
        self.mean_image(params)
    }
}

impl GraphLikelihood for Spectral {
    fn mean_graph(&self, graph: &mut Graph, params: &Value) -> Option<Value> {
        Some(graph.elementwise("Tanh", &[params]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spectral(samples: f64) -> Spectral {
        let config = SpectralConfig {
            windows: vec![32, 128],
            samples,
            ..SpectralConfig::default()
        };
        config.check().unwrap();
        config.build()
    }

    /// A sine of amplitude ½ with 1/16 of the rate.
    fn sine() -> Tensor {
        let time = Tensor::arange(512, (Kind::Float, Device::Cpu));
        ((time * (std::f64::consts::TAU / 16.0)).sin() * 0.5).view([1, 512])
    }

    #[test]
    fn a_sine_of_full_scale_has_magnitude_1() {
        let spectral = spectral(0.0);
        for window in &spectral.scales {
            let magnitudes = Spectral::magnitudes(&(sine() * 2.0), window);
            let middle = magnitudes.get(0).get(magnitudes.size()[1] / 2);
            assert!((middle.max().double_value(&[]) - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn equal_sounds_have_no_distance_and_phases_do_not_count() {
        let spectral = spectral(0.0);
        let of = |found: &Tensor| spectral.distance(found, &sine()).double_value(&[0]);
        assert!(of(&sine()).abs() < 1e-6);
        assert!(
            of(&-sine()).abs() < 1e-5,
            "another sign is the same spectrum"
        );
        // Twice as loud: ln 2 at the frequencies that are not silent, less at the others, and more than 0 in all.
        let twice = of(&(sine() * 2.0));
        assert!(twice > 0.05 && twice < 2_f64.ln() + 0.5, "{twice}");
        assert!(of(&Tensor::zeros([1, 512], (Kind::Float, Device::Cpu))) > twice);
    }

    #[test]
    fn louder_noise_is_farther_by_the_log_of_the_factor() {
        // White noise has no silent frequencies: |ln 3S − ln S| = ln 3, and |3S − S| = 2·mean S beside it.
        let spectral = spectral(0.0);
        let mut generator = vae_torch::Generator::new(5, Device::Cpu).unwrap();
        let noise = generator.normal([1, 4096], Device::Cpu) * 0.5;
        let means = spectral.scales.iter().map(|window| {
            Spectral::magnitudes(&noise, window)
                .mean(Kind::Double)
                .double_value(&[])
        });
        let mean: f64 = means.sum::<f64>() / 2.0;
        let found = spectral
            .distance(&(&noise * 3.0), &noise)
            .double_value(&[0]);
        assert!(
            (found - 3_f64.ln() - 2.0 * mean).abs() < 0.04,
            "{found} {mean}"
        );
    }

    #[test]
    fn its_gradient_is_its_slope() {
        let spectral = spectral(0.7);
        let mut generator = vae_torch::Generator::new(1, Device::Cpu).unwrap();
        let targets = generator.normal([1, 1, 1, 256], Device::Cpu) * 0.3;
        let params = generator.normal([1, 1, 1, 1, 256], Device::Cpu) * 0.3;
        let value = |params: &Tensor| {
            spectral
                .log_prob(params, &targets, Mode::Train)
                .double_value(&[0, 0])
        };
        let leaf = params.copy().set_requires_grad(true);
        spectral
            .log_prob(&leaf, &targets, Mode::Train)
            .sum(Kind::Float)
            .backward();
        let direction = generator.normal([1, 1, 1, 1, 256], Device::Cpu);
        let step = 1e-3;
        let slope = (value(&(&params + &direction * step)) - value(&(&params - &direction * step)))
            / (2.0 * step);
        let found = (leaf.grad() * &direction)
            .sum(Kind::Double)
            .double_value(&[]);
        assert!(
            (found - slope).abs() < 0.05 * slope.abs().max(1.0),
            "{found} {slope}"
        );
        assert!(value(&params) < 0.0);
    }

    #[test]
    fn windows_that_are_no_powers_of_two_are_refused() {
        let config = SpectralConfig {
            windows: vec![100],
            ..SpectralConfig::default()
        };
        let problem = config.check().unwrap_err().to_string();
        assert!(
            problem.contains("model.likelihood.spectral.windows: found 100"),
            "{problem}"
        );
    }
}
