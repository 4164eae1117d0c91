//! `likelihood.logistic_mixture`: a mixture of discretized logistics for each pixel.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_torch::Generator;

use super::discretized_logistic::{LARGEST_LOG_SCALE, clipped_mean, log_mass, sample_bytes};
use super::{
    GraphLikelihood, Likelihood, MINUS_ONE_ONE, bytes_to_zero_one, to_minus_one_one, to_zero_one,
};
use crate::{Mode, ModelError};

/// A mixture of discretized logistic distributions for each pixel (PixelCNN++, Salimans et al. 2017,
/// <https://arxiv.org/abs/1701.05517>, §2.1 and 2.2), bytes scaled to `[-1, 1]`.
///
/// p(x|z) of a pixel is Σₘ πₘ·Πc P(x_c | m, x₁…x_{c−1}). Its channels share the component. The component's location in
/// a channel is linear in the true values of the preceding channels, μ_c + Σ_{j<c} tanh(a_cj)·x_j. The elbo is that of
/// the 8-bit images, so that bits/dim are defined.
///
/// For C channels the decoder gives `components`·(1 + 2C + C(C−1)/2) maps, that is 10 for each component for RGB and 3
/// for gray: the logits of π; the locations of each component, channel by channel; their log-scales, clamped to ±7;
/// their coefficients a₂₁, a₃₁, a₃₂, ….
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogisticMixtureConfig {
    /// Number of distributions in the mixture of each pixel. Default 5.
    #[schemars(range(min = 1, max = MOST_COMPONENTS))]
    pub components: i64,
}

impl Default for LogisticMixtureConfig {
    fn default() -> Self {
        Self { components: 5 }
    }
}

/// More are surely a mistake: each costs as much memory and time as a discretized logistic.
const MOST_COMPONENTS: i64 = 100;

/// Number of coefficients between the channels of one component.
fn n_pairs(channels: i64) -> i64 {
    channels * (channels - 1) / 2
}

impl LogisticMixtureConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let found = self.components;
        if (1..=MOST_COMPONENTS).contains(&found) {
            return Ok(());
        }
        Err(ModelError::config(
            "model.likelihood.logistic_mixture.components",
            format!("found {found}, expected a number from 1 to {MOST_COMPONENTS}"),
        ))
    }

    pub(super) fn n_maps(&self, channels: i64) -> i64 {
        self.components * (1 + 2 * channels + n_pairs(channels))
    }

    pub(super) fn build(&self, channels: i64) -> LogisticMixture {
        LogisticMixture {
            components: self.components,
            channels,
        }
    }
}

#[derive(Debug)]
pub(super) struct LogisticMixture {
    components: i64,
    channels: i64,
}

/// Parameters of M components, or of the single drawn one.
struct Components {
    /// `[…, M, C, H, W]`.
    location: Tensor,
    /// `[…, M, C, H, W]`.
    log_scale: Tensor,
    /// `[…, M, C(C−1)/2, H, W]`.
    coefficients: Tensor,
}

impl Components {
    /// The locations of a channel, given the values in `[-1, 1]` of the preceding ones: `[…, M, H, W]`.
    fn location(&self, channel: usize, earlier: &[Tensor]) -> Tensor {
        let first = channel * channel.saturating_sub(1) / 2;
        let own = self.location.select(-3, channel as i64);
        earlier
            .iter()
            .enumerate()
            .fold(own, |location, (j, value)| {
                location + self.coefficients.select(-3, (first + j) as i64) * value
            })
    }

    fn log_scale(&self, channel: usize) -> Tensor {
        self.log_scale.select(-3, channel as i64)
    }

    /// For each pixel the component of `index` `[N, 1, H, W]`.
    fn of(&self, index: &Tensor) -> Self {
        let index = index.unsqueeze(2); // [N, 1, 1, H, W]
        let pick = |maps: &Tensor| {
            let mut size = maps.size();
            size[1] = 1;
            maps.gather(1, &index.expand(size, false), false)
        };
        Self {
            location: pick(&self.location),
            log_scale: pick(&self.log_scale),
            coefficients: pick(&self.coefficients),
        }
    }
}

impl LogisticMixture {
    /// The logits of the mixture weights, `[…, M, H, W]`, and the components, from `[…, L, H, W]`.
    fn split(&self, params: &Tensor) -> (Tensor, Components) {
        let n_components = self.components;
        let mut start = n_components;
        let mut next = |n_each: i64| {
            let maps = params.narrow(-3, start, n_components * n_each);
            start += n_components * n_each;
            maps.unflatten(-3, [n_components, n_each])
        };
        let components = Components {
            location: next(self.channels),
            log_scale: next(self.channels).clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE),
            coefficients: next(n_pairs(self.channels)).tanh(),
        };
        (params.narrow(-3, 0, n_components), components)
    }

    /// log p(x|z) of each pixel in nats: `[K, B, L, H, W]` and `[B, C, H, W]` → `[K, B, H, W]`.
    fn log_prob_of_pixels(&self, params: &Tensor, targets: &Tensor) -> Tensor {
        let (logits, components) = self.split(params);
        let targets = targets.split(1, 1); // C of [B, 1, H, W], the same for every component
        let log_masses = targets.iter().enumerate().map(|(channel, target)| {
            let location = components.location(channel, &targets[..channel]);
            log_mass(&location, &components.log_scale(channel), target)
        });
        let log_weights = logits.log_softmax(-3, None::<Kind>); // [K, B, M, H, W]
        (log_weights + log_masses.sum::<Tensor>()).logsumexp(-3, false)
    }
}

impl Likelihood for LogisticMixture {
    fn scale(&self, images: &Tensor) -> Tensor {
        to_minus_one_one(images)
    }

    fn value_range(&self) -> [f64; 2] {
        MINUS_ONE_ONE
    }

    fn log_prob(&self, params: &Tensor, targets: &Tensor, _: Mode) -> Tensor {
        self.log_prob_of_pixels(params, targets).sum_dim_intlist(
            [-2_i64, -1].as_slice(),
            false,
            Kind::Float,
        )
    }

    /// The mixture's mean. It is exact in the first channel. In later ones each component's channel is at its mean
    /// given the means of the component's preceding channels, which is exact except for the clipping of values to `[-1,
    /// 1]`.
    fn mean_image(&self, params: &Tensor) -> Tensor {
        let (logits, components) = self.split(params);
        let weights = logits.softmax(-3, Kind::Float); // [N, M, H, W]
        let mut means = Vec::new();
        for channel in 0..self.channels as usize {
            let location = components.location(channel, &means);
            means.push(clipped_mean(&location, &components.log_scale(channel)));
        }
        let means = Tensor::stack(&means, 2); // [N, M, C, H, W]
        let mean = (means * weights.unsqueeze(2)).sum_dim_intlist(1, false, Kind::Float);
        to_zero_one(&mean)
    }

    fn sample(&self, params: &Tensor, generator: &mut Generator) -> Tensor {
        let (logits, components) = self.split(params);
        // Exponential race: with rates π, component m has the shortest waiting time with probability πₘ.
        let waiting = generator.exponential_like(&logits);
        let index = (logits - waiting.log()).argmax(1, true); // [N, 1, H, W]
        let component = components.of(&index);
        let mut bytes = Vec::new();
        let mut values = Vec::new();
        for channel in 0..self.channels as usize {
            let location = component.location(channel, &values);
            let drawn = sample_bytes(&location, &component.log_scale(channel), generator); // [N, 1, H, W]
            values.push(to_minus_one_one(&drawn));
            bytes.push(drawn);
        }
        bytes_to_zero_one(&Tensor::cat(&bytes, 1))
    }
}

// The mean has no graph, because it is a mixture over channels that depend on each other.
impl GraphLikelihood for LogisticMixture {}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::{DiscretizedLogisticConfig, LogisticScale, nn};

    fn mixture(components: i64, channels: i64) -> LogisticMixture {
        LogisticMixtureConfig { components }.build(channels)
    }

    /// Parameters of one pixel, `[1, 1, L, 1, 1]`.
    fn pixel(params: &[f32]) -> Tensor {
        Tensor::from_slice(params).view([1, 1, -1, 1, 1])
    }

    /// The probabilities of all values of one pixel, f64 `[256]` or `[256·256]`, the first channel outermost.
    fn probabilities(mixture: &LogisticMixture, params: &Tensor) -> Tensor {
        let bytes = Tensor::arange(256, (Kind::Uint8, Device::Cpu));
        let images = match mixture.channels {
            1 => bytes.unsqueeze(1),
            _ => Tensor::cartesian_prod(&[&bytes, &bytes]),
        };
        let targets = mixture.scale(&images.unsqueeze(-1).unsqueeze(-1)); // [B, C, 1, 1]
        let log_prob = mixture.log_prob(params, &targets, Mode::Evaluate); // [1, B]
        log_prob.squeeze_dim(0).to_kind(Kind::Double).exp()
    }

    // Two components with different locations; the logits are ln 3 and 0, the weights ¾ and ¼.
    const GRAY: [f32; 6] = [1.098_612_3, 0.0, -0.4, 0.9, -2.0, -3.0];

    /// Two channels: locations, log-scales by component, and a coefficient each.
    const TWO_CHANNELS: [f32; 12] = [
        1.098_612_3,
        0.0,
        -0.2,
        0.1,
        0.4,
        0.2,
        -2.5,
        -3.0,
        -2.8,
        -2.9,
        0.7,
        -3.0,
    ];

    #[test]
    fn probabilities_sum_to_1() {
        for (channels, params) in [(1, &GRAY[..]), (2, &TWO_CHANNELS)] {
            let probabilities = probabilities(&mixture(2, channels), &pixel(params));
            let total = probabilities.sum(Kind::Double).double_value(&[]);
            assert!((total - 1.0).abs() < 5e-5, "{channels} channels: {total}");
        }
    }

    #[test]
    fn log_prob_is_the_mixture_of_products() {
        // By hand, from masses of bins in f64: bytes 100 and 30.
        let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mass = |byte: f64, location: f64, log_scale: f64| {
            let x = byte / 127.5 - 1.0 - location;
            let scale = log_scale.exp();
            sigma((x + 1.0 / 255.0) / scale) - sigma((x - 1.0 / 255.0) / scale)
        };
        let p = TWO_CHANNELS.map(f64::from);
        let first_value = 100.0 / 127.5 - 1.0;
        let component = |m: usize| {
            let location = p[3 + 2 * m] + p[10 + m].tanh() * first_value;
            mass(100.0, p[2 + 2 * m], p[6 + 2 * m]) * mass(30.0, location, p[7 + 2 * m])
        };
        let wanted = 0.75 * component(0) + 0.25 * component(1);
        let probabilities = probabilities(&mixture(2, 2), &pixel(&TWO_CHANNELS));
        let found = probabilities.double_value(&[100 * 256 + 30]);
        assert!((found / wanted - 1.0).abs() < 1e-5, "{found} vs {wanted}");
        // Three channels of bytes 204, 51 and 102, that is 0.6, −0.6 and −0.2.
        let params = pixel(&[0.3, 0.5, -0.2, 0.1, -2.0, -1.5, -1.0, 0.7, -0.4, 0.9]);
        let bytes = Tensor::from_slice(&[204_u8, 51, 102]).view([1, 3, 1, 1]);
        let mixture = mixture(1, 3);
        let found = mixture.log_prob(&params, &mixture.scale(&bytes), Mode::Train);
        let coefficients = [0.7, -0.4, 0.9].map(f64::tanh);
        let third = 0.1 + coefficients[1] * 0.6 - coefficients[2] * 0.6;
        let wanted = mass(204.0, 0.5, -2.0).ln()
            + mass(51.0, -0.2 + coefficients[0] * 0.6, -1.5).ln()
            + mass(102.0, third, -1.0).ln();
        assert!((found.double_value(&[0, 0]) - wanted).abs() < 1e-4);
    }

    #[test]
    fn one_component_of_gray_is_the_discretized_logistic() {
        let logistic = DiscretizedLogisticConfig {
            scale: LogisticScale::PerValue,
        };
        let logistic = logistic.build(&nn::VarStore::new(1).root(), 1);
        let options = (Kind::Float, Device::Cpu);
        let params = Tensor::arange(2 * 3 * 3 * 4 * 5, options).sin() * 3.0;
        let params = params.view([2, 3, 3, 4, 5]);
        let images = Tensor::arange(3 * 4 * 5, (Kind::Uint8, Device::Cpu)) * 4;
        let targets = logistic.scale(&images.view([3, 1, 4, 5]));
        let found = mixture(1, 1).log_prob(&params, &targets, Mode::Train);
        // The first map is the logit of the only component.
        let params = params.narrow(2, 1, 2);
        let wanted = logistic.log_prob(&params, &targets, Mode::Train);
        assert_eq!(found.size(), [2, 3]);
        assert!((found - wanted).abs().max().double_value(&[]) < 1e-3);
        let params = params.flatten(0, 1);
        let logits = Tensor::ones([6, 1, 4, 5], options);
        let found = mixture(1, 1).mean_image(&Tensor::cat(&[logits, params.copy()], 1));
        let error = found - logistic.mean_image(&params);
        assert!(error.abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn gradients_are_finite_differences() {
        let mixture = mixture(2, 3);
        let options = (Kind::Double, Device::Cpu);
        let params = Tensor::arange(20, options).cos().view([1, 1, 20, 1, 1]);
        let bytes = Tensor::from_slice(&[120_u8, 0, 255]).view([1, 3, 1, 1]);
        let targets = mixture.scale(&bytes).to_kind(Kind::Double);
        // In f64. `log_prob` leaves f64 only when it sums, and one pixel has no sum.
        let log_prob = |params: &Tensor| mixture.log_prob_of_pixels(params, &targets);
        let leaf = params.copy().set_requires_grad(true);
        log_prob(&leaf).sum(Kind::Double).backward();
        let gradient = leaf.grad();
        for i in 0..20 {
            let shifted = |step: f64| {
                let params = params.copy();
                let _ = params.narrow(2, i, 1).g_add_scalar_(step);
                log_prob(&params).sum(Kind::Double).double_value(&[])
            };
            let wanted = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
            let found = gradient.double_value(&[0, 0, i, 0, 0]);
            assert!((found - wanted).abs() < 1e-6, "{i}: {found} vs {wanted}");
        }
    }

    #[test]
    fn the_order_of_the_components_does_not_matter() {
        let swapped: Vec<f32> = [1, 0, 4, 5, 2, 3, 8, 9, 6, 7, 11, 10]
            .map(|i: usize| TWO_CHANNELS[i])
            .to_vec();
        let mixture = mixture(2, 2);
        let [there, back] = [&TWO_CHANNELS[..], &swapped].map(pixel);
        let error = probabilities(&mixture, &there) - probabilities(&mixture, &back);
        assert!(error.abs().max().double_value(&[]) < 1e-7);
        let error =
            mixture.mean_image(&there.squeeze_dim(0)) - mixture.mean_image(&back.squeeze_dim(0));
        assert!(error.abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn the_mean_image_is_that_of_the_probabilities() {
        let values = Tensor::arange(256, (Kind::Double, Device::Cpu)) / 255.0;
        for (channels, params) in [(1, &GRAY[..]), (2, &TWO_CHANNELS)] {
            let mixture = mixture(2, channels);
            let params = pixel(params);
            let mean = mixture.mean_image(&params.squeeze_dim(0)); // [1, C, 1, 1]
            let probabilities = probabilities(&mixture, &params).view([256, -1]);
            for channel in 0..channels {
                let others = 1 - channel;
                let marginal = probabilities.sum_dim_intlist(others, false, Kind::Double);
                let wanted = marginal.dot(&values).double_value(&[]);
                let found = mean.double_value(&[0, channel, 0, 0]);
                // The second channel's mean is approximate, here within a tenth of a gray level.
                let tolerance = [1e-5, 4e-4][channel as usize];
                assert!((found - wanted).abs() < tolerance, "{found} vs {wanted}");
            }
        }
    }

    #[test]
    fn samples_come_as_often_as_log_prob_says() {
        const N: i64 = 400_000;
        for (channels, params) in [(1, &GRAY[..]), (2, &TWO_CHANNELS)] {
            let mixture = mixture(2, channels);
            let params = pixel(params);
            // One image with as many pixels as samples.
            let params_of_all = params.squeeze_dim(0).expand([1, -1, 1, N], false);
            let images = mixture.sample(&params_of_all, &mut Generator::cpu(1));
            assert_eq!(images.size(), [1, channels, 1, N]);
            let bytes = (images.squeeze() * 255.0).view([channels, N]);
            assert!((&bytes - bytes.round()).abs().max().double_value(&[]) < 1e-4);
            let bytes = bytes.round().to_kind(Kind::Int64);
            // For two channels, blocks of 16 × 16 values.
            let (cells, probabilities) = match channels {
                1 => (bytes.get(0), probabilities(&mixture, &params)),
                _ => {
                    let blocks = bytes.divide_scalar_mode(16, "floor").to_kind(Kind::Int64);
                    let pairs = probabilities(&mixture, &params).view([16, 16, 16, 16]);
                    let sum = pairs.sum_dim_intlist([1_i64, 3].as_slice(), false, Kind::Double);
                    (blocks.get(0) * 16 + blocks.get(1), sum.flatten(0, -1))
                }
            };
            let counts = cells.bincount::<Tensor>(None, 256);
            let wanted = probabilities * N as f64;
            // Six standard errors of a count, and a few more for the rarest, whose counts are not normal.
            let allowed = wanted.sqrt() * 6.0 + 6.0;
            let worst = ((counts - wanted).abs() / allowed).max().double_value(&[]);
            assert!(worst < 1.0, "{channels} channels: {worst}");
        }
    }

    #[test]
    fn three_channels_take_ten_maps_for_each_component() {
        let config = LogisticMixtureConfig::default();
        assert_eq!(
            [1, 2, 3].map(|channels| config.n_maps(channels)),
            [15, 30, 50]
        );
        for components in [0, -1, 101] {
            let error = LogisticMixtureConfig { components }.check();
            let message = error.expect_err("refused").to_string();
            assert!(message.contains("model.likelihood.logistic_mixture.components"));
        }
    }
}
