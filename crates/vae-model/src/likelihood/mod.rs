//! Likelihoods p(x|z): the distribution of an item's values from the decoder's output, and the scaling of bytes.

mod bernoulli;
mod categorical;
mod continuous_bernoulli;
mod discretized_logistic;
mod gaussian;
mod laplace;
mod logistic_mixture;
mod real_values;
mod scale;
mod scaled_bernoulli;
mod spectral;
mod student_t;

use std::f64::consts::LN_2;
use std::fmt::Debug;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_torch::Generator;

pub use discretized_logistic::{DiscretizedLogisticConfig, LogisticScale};
pub use gaussian::GaussianConfig;
pub use laplace::LaplaceConfig;
pub use logistic_mixture::LogisticMixtureConfig;
pub use scale::ScaleConfig;
pub use scaled_bernoulli::ScaledBernoulliConfig;
pub use spectral::SpectralConfig;
pub use student_t::StudentTConfig;

use real_values::{Density, RealValues};

use crate::graph::{Graph, Value};
use crate::network::TokenShape;
use crate::{ImageShape, ItemKind, ItemSpec, Mode, ModelError, Term, Terms, nn};

/// p(x|z), whose parameters are the decoder's output.
pub trait Likelihood: Debug + Send {
    /// Items as the values of this distribution: f32, tokens i64, same shape. Arrays are standardized elsewhere.
    fn scale(&self, images: &Tensor) -> Tensor;

    /// log p(x|z) in nats, summed over the item's values.
    ///
    /// `params` f32 `[K, B, L, H, W]` from the decoder, with L from [`LikelihoodConfig::n_maps`], and `targets` `[B, C,
    /// H, W]` from [`Self::scale`] → `[K, B]`.
    fn log_prob(&self, params: &Tensor, targets: &Tensor, mode: Mode) -> Tensor;

    /// log p(x|z) of each value in nats, `[K, B, C, H, W]`, in evaluation, NaN for missing values; `None` for a
    /// likelihood whose values depend on each other.
    fn value_log_prob(&self, params: &Tensor, targets: &Tensor) -> Option<Tensor> {
        let _ = (params, targets);
        None
    }

    /// The mean item, `[N, C, H, W]`, for `params` f32 `[N, L, H, W]`: images in `[0, 1]`, arrays in the unit of
    /// [`Self::scale`].
    fn mean_image(&self, params: &Tensor) -> Tensor;

    /// The values of black and white after [`Self::scale`].
    fn value_range(&self) -> [f64; 2] {
        ZERO_ONE
    }

    /// Further numbers of items for logs, `[B]` each, by the names of their terms.
    fn named(&self, params: &Tensor, targets: &Tensor) -> Terms {
        let _ = (params, targets);
        Terms::default()
    }

    /// Items drawn from p(x|z), `[N, C, H, W]`, for `params` f32 `[N, L, H, W]`, in the unit of [`Self::mean_image`].
    /// Unbounded densities of pixels (Gaussian, Laplace) are clipped.
    fn sample(&self, params: &Tensor, generator: &mut Generator) -> Tensor;
}

/// A likelihood that may describe its computation as a graph.
pub(crate) trait GraphLikelihood: Likelihood {
    /// The operations of [`Likelihood::mean_image`]; `None` if it has no graph.
    fn mean_graph(&self, _: &mut Graph, _: &Value) -> Option<Value> {
        None
    }
}

const ZERO_ONE: [f64; 2] = [0.0, 1.0];
const MINUS_ONE_ONE: [f64; 2] = [-1.0, 1.0];

/// p(x|z), the distribution of an image's pixels given its latents: what the decoder's output means and
/// how the reconstruction is measured (`likelihood` or `[model.likelihood.…]` in a config file).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LikelihoodConfig {
    /// Independent Bernoulli pixels, parameterized by logits; bytes are scaled to `[0, 1]`.
    ///
    /// On gray pixels the cross-entropy is the usual convention (Kingma & Welling 2014, App. C), not a density of the
    /// 8-bit image, so bits/dim is not defined for it.
    #[default]
    Bernoulli,
    /// The cross-entropy of `bernoulli` for bytes scaled to another range.
    ScaledBernoulli(ScaledBernoulliConfig),
    /// Independent pixels in `[0, 1]` of density C(λ)·λˣ·(1 − λ)¹⁻ˣ, parameterized by logits: the cross-entropy with
    /// the constant that normalizes it to a density (Loaiza-Ganem & Cunningham 2019,
    /// <https://arxiv.org/abs/1907.06845>). Nats per image, no bits/dim.
    ContinuousBernoulli,
    /// Gaussian values with one σ for all, which gives the squared error.
    Gaussian(GaussianConfig),
    /// Laplace values with one scale for all, which gives the absolute error.
    Laplace(LaplaceConfig),
    /// Values of Student's t distribution, with heavy tails.
    StudentT(StudentTConfig),
    /// Probabilities of the 256 values of a byte from one logistic distribution.
    DiscretizedLogistic(DiscretizedLogisticConfig),
    /// Probabilities of the 256 values of a byte from a mixture of logistic distributions for each pixel,
    /// whose channels depend on each other.
    LogisticMixture(LogisticMixtureConfig),
    /// No likelihood: the distance of sound in several spectrograms.
    Spectral(SpectralConfig),
    /// A token of the vocabulary at each step, given the latents and the tokens before it; for texts and other sequences of
    /// tokens. Nats per item, up to and including its end.
    Categorical,
}

impl LikelihoodConfig {
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        match self {
            Self::Bernoulli
            | Self::ContinuousBernoulli
            | Self::DiscretizedLogistic(_)
            | Self::Categorical => Ok(()),
            Self::ScaledBernoulli(config) => config.check(),
            Self::Gaussian(config) => config.sigma.check("model.likelihood.gaussian.sigma"),
            Self::Laplace(config) => config.scale.check("model.likelihood.laplace.scale"),
            Self::StudentT(config) => config.check(),
            Self::LogisticMixture(config) => config.check(),
            Self::Spectral(config) => config.check(),
        }
    }

    /// Maps that the decoder gives for an item: a number for each value, or several.
    pub(crate) fn n_maps_of(&self, item: &ItemSpec) -> i64 {
        match (self, item.kind) {
            (Self::Categorical, ItemKind::Tokens { vocabulary, .. }) => vocabulary,
            _ => self.n_maps(item.map().channels),
        }
    }

    /// Maps that the decoder gives for an image with this number of channels: values for each pixel. (For tokens it gives a
    /// map for each token of the vocabulary.)
    #[must_use]
    pub fn n_maps(&self, channels: i64) -> i64 {
        match self {
            Self::Bernoulli
            | Self::ScaledBernoulli(_)
            | Self::ContinuousBernoulli
            | Self::Gaussian(_)
            | Self::Laplace(_)
            | Self::Spectral(_)
            | Self::StudentT(_)
            | Self::Categorical => channels,
            Self::DiscretizedLogistic(config) => config.n_params() * channels,
            Self::LogisticMixture(config) => config.n_maps(channels),
        }
    }

    /// Builds a likelihood from a checked config, with its variables under `path`.
    pub(crate) fn build(&self, path: &nn::Path, item: &ItemSpec) -> Box<dyn GraphLikelihood> {
        let image = item.map();
        let on_reals =
            |density, scale, mean| Box::new(RealValues::build(path, item, density, scale, mean));
        match self {
            Self::Gaussian(config) if !item.is_image() => {
                on_reals(Density::Gaussian, config.sigma, config.mean)
            }
            Self::Laplace(config) if !item.is_image() => {
                on_reals(Density::Laplace, config.scale, config.mean)
            }
            Self::StudentT(config) => Box::new(config.build(path, item)),
            Self::Bernoulli => Box::new(bernoulli::Bernoulli),
            Self::ScaledBernoulli(config) => Box::new(config.build()),
            Self::ContinuousBernoulli => Box::new(continuous_bernoulli::ContinuousBernoulli),
            Self::Gaussian(config) => Box::new(config.build(path)),
            Self::Laplace(config) => Box::new(config.build(path)),
            Self::DiscretizedLogistic(config) => Box::new(config.build(path, image.channels)),
            Self::LogisticMixture(config) => Box::new(config.build(image.channels)),
            Self::Spectral(config) => Box::new(config.build()),
            Self::Categorical => Box::new(categorical::Categorical {
                // Items that are no tokens are refused.
                tokens: TokenShape::of(item.kind).unwrap_or(TokenShape {
                    vocabulary: 1,
                    end: None,
                }),
            }),
        }
    }

    /// Whether the decoder gives a logit for each value, and the reconstruction is the cross-entropy.
    pub(crate) fn has_logits(&self) -> bool {
        matches!(self, Self::Bernoulli | Self::ScaledBernoulli(_))
    }

    /// Its name in a config.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Bernoulli => "bernoulli",
            Self::ScaledBernoulli(_) => "scaled_bernoulli",
            Self::ContinuousBernoulli => "continuous_bernoulli",
            Self::Gaussian(_) => "gaussian",
            Self::Laplace(_) => "laplace",
            Self::StudentT(_) => "student_t",
            Self::DiscretizedLogistic(_) => "discretized_logistic",
            Self::LogisticMixture(_) => "logistic_mixture",
            Self::Spectral(_) => "spectral",
            Self::Categorical => "categorical",
        }
    }

    /// The declarations of what [`Likelihood::named`] gives.
    pub(crate) fn terms(&self) -> Vec<Term> {
        match self {
            Self::Categorical => vec![categorical::TOKENS, categorical::TOKEN_ACCURACY],
            _ => vec![],
        }
    }

    /// The scale and the activation of the mean, for a density that arrays can have; `None` for likelihoods of images
    /// only.
    pub(crate) fn of_real_values(&self) -> Option<(ScaleConfig, MeanActivation)> {
        match self {
            Self::Gaussian(config) => Some((config.sigma, config.mean)),
            Self::Laplace(config) => Some((config.scale, config.mean)),
            Self::StudentT(config) => Some((config.scale, config.mean)),
            _ => None,
        }
    }

    /// Whether it is a distribution of items, so that an elbo bounds something.
    #[must_use]
    pub fn is_distribution(&self) -> bool {
        !matches!(self, Self::Spectral(_))
    }

    /// Whether p(x|z) is a probability of 8-bit values, so that bits/dim are defined.
    #[must_use]
    pub fn has_bits_per_dim(&self) -> bool {
        matches!(
            self,
            Self::DiscretizedLogistic(_) | Self::LogisticMixture(_)
        )
    }

    /// −elbo / (ln 2 · C·H·W), an upper bound of the bits per value of the 8-bit image, for an `elbo` in nats per
    /// image.
    ///
    /// `None` if p(x|z) is not a probability of bytes. A Bernoulli's cross-entropy on gray pixels is not a density.
    /// Densities of continuous pixels (Gaussian, Laplace, continuous Bernoulli) change with the unit of a pixel, and
    /// are unbounded for pixels that are in fact discrete.
    #[must_use]
    pub fn bits_per_dim(&self, elbo: f64, image: ImageShape) -> Option<f64> {
        self.has_bits_per_dim()
            .then(|| -elbo / (LN_2 * image.n_values() as f64))
    }
}

/// The function that turns the decoder's output into the mean of a pixel in `[-1, 1]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MeanActivation {
    /// No function: the mean can reach black and white, and the gradient of the squared error is not reduced.
    #[default]
    Linear,
    /// tanh, into `(-1, 1)`.
    Tanh,
    /// The logistic function, into `(0, 1)`. A mistake of a well-known tutorial, kept to reproduce it:
    /// pixels darker than middle gray cannot be reached.
    Sigmoid,
}

impl MeanActivation {
    fn apply(self, params: &Tensor) -> Tensor {
        match self {
            Self::Linear => params.shallow_clone(),
            Self::Tanh => params.tanh(),
            Self::Sigmoid => params.sigmoid(),
        }
    }

    fn graph(self, graph: &mut Graph, params: &Value) -> Value {
        match self {
            Self::Linear => params.clone(),
            Self::Tanh => graph.elementwise("Tanh", &[params]),
            Self::Sigmoid => graph.elementwise("Sigmoid", &[params]),
        }
    }
}

/// Bytes to `[-1, 1]`, in f32: 2/255 for each step of a byte.
fn to_minus_one_one(images: &Tensor) -> Tensor {
    // Cast after the transfer: u8 crosses the bus at a quarter of the size.
    images.to_kind(Kind::Float) / 127.5 - 1.0
}

/// Bytes to `[0, 1]`, in f32.
fn bytes_to_zero_one(images: &Tensor) -> Tensor {
    // Cast after the transfer: u8 crosses the bus at a quarter of the size.
    images.to_kind(Kind::Float) / 255.0
}

/// Maps values in `[-1, 1]` to `[0, 1]` and clips values outside.
fn to_zero_one(values: &Tensor) -> Tensor {
    ((values + 1.0) * 0.5).clamp(0.0, 1.0)
}

/// [`to_zero_one`] as operations.
fn to_zero_one_graph(graph: &mut Graph, values: &Value) -> Value {
    let values = graph.with_number(values, "Add", 1.0);
    let values = graph.with_number(&values, "Mul", 0.5);
    graph.clamp(&values, 0.0, 1.0)
}

/// Sums over the values of each image: `[K, B, C, H, W]` → `[K, B]`.
fn sum_over_values(values: &Tensor) -> Tensor {
    values.sum_dim_intlist([2_i64, 3, 4].as_slice(), false, Kind::Float)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::{ConvBatchNormConfig, MlpConfig, ModelConfig, NetworkConfig, ResidualConfig, Vae};

    const TWO_CHANNELS: ImageShape = ImageShape {
        channels: 2,
        height: 1,
        width: 1,
    };

    /// Means and scales that are far enough from black and white to avoid clipping.
    fn all() -> [LikelihoodConfig; 9] {
        [
            LikelihoodConfig::Bernoulli,
            LikelihoodConfig::ScaledBernoulli(ScaledBernoulliConfig {
                black: 0.0,
                white: 0.5,
            }),
            LikelihoodConfig::ContinuousBernoulli,
            LikelihoodConfig::Gaussian(GaussianConfig {
                sigma: ScaleConfig::Fixed(0.1),
                ..Default::default()
            }),
            LikelihoodConfig::Laplace(LaplaceConfig {
                scale: ScaleConfig::Fixed(0.03),
                ..Default::default()
            }),
            LikelihoodConfig::StudentT(StudentTConfig {
                scale: ScaleConfig::Fixed(0.03),
                ..Default::default()
            }),
            LikelihoodConfig::DiscretizedLogistic(DiscretizedLogisticConfig::default()),
            LikelihoodConfig::DiscretizedLogistic(DiscretizedLogisticConfig {
                scale: LogisticScale::PerValue,
            }),
            LikelihoodConfig::LogisticMixture(LogisticMixtureConfig { components: 2 }),
        ]
    }

    /// A likelihood of one pixel of two channels, and parameters for it, `[1, L, 1, 1]`.
    fn built(config: &LikelihoodConfig) -> (Box<dyn GraphLikelihood>, Tensor) {
        let variables = nn::VarStore::new(1);
        let likelihood = config.build(&variables.root(), &TWO_CHANNELS.into());
        let params = match config {
            LikelihoodConfig::DiscretizedLogistic(_) => vec![-0.3_f32, 0.4, -3.0, -1.0],
            LikelihoodConfig::LogisticMixture(_) => vec![
                0.7, 0.0, -0.4, 0.1, 0.5, -0.2, -3.0, -2.5, -3.5, -2.2, 0.7, -1.0,
            ],
            _ => vec![-0.3, 0.2],
        };
        let params = Tensor::from_slice(&params).view([1, -1, 1, 1]);
        let n_maps = config.n_maps(TWO_CHANNELS.channels);
        (likelihood, params.narrow(1, 0, n_maps))
    }

    #[test]
    fn every_network_gives_the_maps_of_every_likelihood() {
        let shape = ImageShape {
            channels: 3,
            height: 5,
            width: 7,
        };
        let networks = [
            NetworkConfig::default(),
            NetworkConfig::ConvBatchNorm(ConvBatchNormConfig { channels: vec![4] }),
            NetworkConfig::Residual(ResidualConfig {
                channels: vec![8],
                ..Default::default()
            }),
            NetworkConfig::Mlp(MlpConfig::default()),
        ];
        let latents = Tensor::zeros([4, 2], (Kind::Float, Device::Cpu));
        for network in networks {
            for likelihood in all() {
                let config = ModelConfig {
                    network: network.clone(),
                    likelihood,
                    ..Default::default()
                };
                let vae = Vae::new(&config, shape, Device::Cpu, 1).expect("a model");
                let images = vae
                    .decode_sampled(&latents, &mut vae.generator(1))
                    .expect("images");
                assert_eq!(images.size(), [4, 3, 5, 7], "{config:?}");
                let size = vae.decode(&latents).expect("images").size();
                assert_eq!(size, images.size(), "{config:?}");
            }
        }
        let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1).expect("a model");
        let refused = vae.decode_sampled(&latents.transpose(0, 1), &mut vae.generator(1));
        assert!(refused.is_err());
    }

    #[test]
    fn samples_have_the_mean_of_the_mean_image() {
        const N: i64 = 100_000;
        for config in all() {
            let (likelihood, params) = built(&config);
            let mean = likelihood.mean_image(&params).squeeze(); // [C]
            let images =
                likelihood.sample(&params.expand([N, -1, 1, 1], false), &mut Generator::cpu(1));
            assert_eq!(images.size(), [N, 2, 1, 1], "{config:?}");
            let (low, high) = (images.min(), images.max());
            assert!(low.double_value(&[]) >= 0.0 && high.double_value(&[]) <= 1.0);
            if config.has_bits_per_dim() {
                let bytes = &images * 255.0;
                let rounding = (&bytes - bytes.round()).abs().max();
                assert!(rounding.double_value(&[]) < 1e-4, "{config:?}");
            }
            let images = images.view([N, 2]).to_kind(Kind::Double);
            let found = images.mean_dim(0, false, Kind::Double);
            let standard_error = images.std_dim(0, true, false) / (N as f64).sqrt();
            // Six standard errors, and the error by clipping in a mixture's second channel.
            let worst = ((found - mean).abs() / (standard_error * 6.0 + 1e-4)).max();
            assert!(worst.double_value(&[]) < 1.0, "{config:?}");
        }
    }

    #[test]
    fn noise_of_fixed_and_learned_scale_has_that_scale() {
        const N: i64 = 100_000;
        let params = Tensor::zeros([N, 1, 1, 1], (Kind::Float, Device::Cpu));
        let shape = ImageShape {
            channels: 1,
            ..TWO_CHANNELS
        };
        // The scale learned from a single batch is its mean error: σ² = 0.01 and b = 0.1.
        let gaussian = |sigma| {
            LikelihoodConfig::Gaussian(GaussianConfig {
                sigma,
                ..Default::default()
            })
        };
        let laplace = |scale| {
            LikelihoodConfig::Laplace(LaplaceConfig {
                scale,
                ..Default::default()
            })
        };
        // E|x|: σ·√(2/π) for the Gaussian, b for the Laplace; its standard deviation is of similar size.
        let of_gaussian = 0.1 * (2.0 / std::f64::consts::PI).sqrt();
        for (config, wanted) in [
            (gaussian(ScaleConfig::Fixed(0.1)), of_gaussian),
            (gaussian(ScaleConfig::Learned), of_gaussian),
            (laplace(ScaleConfig::Fixed(0.1)), 0.1),
            (laplace(ScaleConfig::Learned), 0.1),
        ] {
            let variables = nn::VarStore::new(1);
            let likelihood = config.build(&variables.root(), &shape.into());
            let targets = Tensor::full([1, 1, 1, 1], 0.1, (Kind::Float, Device::Cpu));
            let batch = params.narrow(0, 0, 1).unsqueeze(0);
            let _ = likelihood.log_prob(&batch, &targets, Mode::Train);
            let values = likelihood.sample(&params, &mut Generator::cpu(1)) * 2.0 - 1.0;
            let found = values.abs().mean(Kind::Double).double_value(&[]);
            // Six standard errors; clipping affects e⁻¹⁰ of the Laplace noise.
            let allowed = 6.0 * wanted / (N as f64).sqrt() + 1e-5;
            assert!((found - wanted).abs() < allowed, "{config:?}: {found}");
        }
    }

    #[test]
    fn a_learned_scale_is_no_smaller_than_a_bytes_rounding() {
        // A step of a byte is 2/255: its rounding has the variance step²/12 and the mean absolute value step/4.
        let step: f64 = 2.0 / 255.0;
        let gaussian = -0.5 * (2.0 * std::f64::consts::PI * step * step / 12.0).ln();
        let laplace = -(2.0 * step / 4.0).ln();
        for (config, of_a_value) in [
            (
                LikelihoodConfig::Gaussian(GaussianConfig::default()),
                gaussian,
            ),
            (LikelihoodConfig::Laplace(LaplaceConfig::default()), laplace),
        ] {
            let variables = nn::VarStore::new(1);
            let likelihood = config.build(&variables.root(), &TWO_CHANNELS.into());
            // A decoder without any error.
            let params = Tensor::full([1, 3, 2, 1, 1], 0.25, (Kind::Float, Device::Cpu));
            let targets = params.squeeze_dim(0);
            for mode in [Mode::Train, Mode::Evaluate] {
                let log_prob = likelihood.log_prob(&params, &targets, mode);
                assert_eq!(log_prob.size(), [1, 3]);
                let difference = (log_prob - 2.0 * of_a_value).abs().max();
                let difference = difference.double_value(&[]);
                assert!(difference < 1e-4, "{config:?}, {mode:?}: {difference}");
            }
        }
    }

    #[test]
    fn a_bernoulli_pixel_is_white_as_often_as_log_prob_says() {
        const N: i64 = 100_000;
        let (likelihood, params) = built(&LikelihoodConfig::Bernoulli);
        let images =
            likelihood.sample(&params.expand([N, -1, 1, 1], false), &mut Generator::cpu(1));
        let is_binary = images.eq(0.0).logical_or(&images.eq(1.0));
        assert_eq!(is_binary.all().int64_value(&[]), 1);
        let both_white = images.prod_dim_int(1, false, Kind::Double);
        let white = Tensor::ones([1, 2, 1, 1], (Kind::Float, Device::Cpu));
        let log_prob = likelihood.log_prob(&params.unsqueeze(0), &white, Mode::Evaluate);
        let wanted = log_prob.double_value(&[0, 0]).exp();
        let found = both_white.mean(Kind::Double).double_value(&[]);
        let standard_error = (wanted * (1.0 - wanted) / N as f64).sqrt();
        assert!(
            (found - wanted).abs() < 6.0 * standard_error,
            "{found} vs {wanted}"
        );
    }
}
