//! Variational autoencoders made of parts: a network, a posterior, a prior and a likelihood make a [`Vae`]; an
//! [`Objective`] defines what training minimizes.
//!
//! A VAE is an encoder q(z|x), a prior p(z) and a decoder p(x|z). Training maximizes
//!
//! ```text
//! ELBO(x) = E_q[log p(x|z)] − KL(q(z|x) ‖ p(z))      in nats per image
//! ```
//!
//! `reconstruction` = −E_q\[log p(x|z)\] (the distortion), `kl` is the second term (the rate) and
//! `elbo` = −(reconstruction + kl). They are sums over pixels and latent dimensions (Kingma &
//! Welling 2014, <https://arxiv.org/abs/1312.6114>).
//!
//! # Shapes
//! `B` images, `C` channels, `H`×`W` pixels, `K` samples of z for each image, `Z` latent dimensions. Images are bytes
//! (u8, 0…255) of shape `[B, C, H, W]`; the likelihood scales them.
//!
//! # Example
//! ```
//! use tch::{Device, Kind};
//! use vae_model::{ImageShape, ModelConfig, Vae};
//!
//! # fn main() -> Result<(), vae_model::ModelError> {
//! // The network of `configs/mnist.toml`, freshly initialized; `Vae::load` reads a trained one.
//! let shape = ImageShape { channels: 1, height: 28, width: 28 };
//! let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?;
//!
//! let mut generator = vae.generator(2); // Everything drawn from it follows from the seed.
//! let images = generator.randint(256, [8, 1, 28, 28], (Kind::Uint8, Device::Cpu));
//! let posterior = vae.encode(&images)?;
//! assert_eq!(posterior.center().size(), [8, 2]);
//!
//! let elbo = vae.elbo(&images, &mut generator)?; // one number for each image, in nats
//! assert_eq!(elbo.size(), [8]);
//!
//! let decoded = vae.decode(&posterior.center())?; // [8, 1, 28, 28] in [0, 1]
//! let sampled = vae.sample(16, &mut generator)?; // new images from the prior
//! assert_eq!((decoded.size()[0], sampled.size()[0]), (8, 16));
//! # Ok(())
//! # }
//! ```

// README's example is compiled and run with the others.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

mod code_use;
mod compatibility;
mod condition;
mod config;
mod diffusers;
mod drawing;
mod error;
mod export;
mod feature_network;
mod fine_tuning;
mod graph;
mod import;
mod invert;
mod likelihood;
mod math;
mod mode;
mod network;
pub mod nn;
mod objective;
mod objective_compatibility;
mod part;
mod parts;
mod posterior;
mod preprocessing;
mod prior;
mod quantizer;
mod sampler;
mod share;
mod strips;
mod summary;
mod sums;
mod support;
mod tensor_file;
mod terms;
mod topology;
mod units;
mod vae;
mod watch;
mod weights;

pub use code_use::CodeUse;
pub use condition::{ConditionConfig, Conditioned};
pub use config::ModelConfig;
pub use diffusers::DiffusersFiles;
pub use drawing::Drawing;
pub use error::ModelError;
pub use export::torchscript_file;
pub use feature_network::{DigitWeights, FeatureNetwork};
pub use import::StateDictMap;
pub use invert::{InvertConfig, InvertProgress, InvertStart, InvertTerms, Inverted};
pub use likelihood::{
    DiscretizedLogisticConfig, GaussianConfig, LaplaceConfig, Likelihood, LikelihoodConfig,
    LogisticMixtureConfig, LogisticScale, MeanActivation, ScaleConfig, ScaledBernoulliConfig,
    SpectralConfig, StudentTConfig,
};
pub use mode::Mode;
pub use network::{
    AutoencoderKlConfig, AutoencoderTinyConfig, ConductorConfig, Conv1dConfig, ConvBatchNormConfig,
    ConvConfig, ConvDiscriminatorConfig, DcganConfig, DecoderSteps, DiscriminatorConfig,
    DiscriminatorNorm, Initialization, Judgement, MlpConfig, MlpDiscriminatorConfig, Network,
    NetworkConfig, RecurrentConfig, ResidualConfig, ResidualDiscriminatorConfig, SequentialDecoder,
    TopDownConfig, TransformerConfig, is_layer_weight,
};
pub use objective::{
    AdversarialConfig, AdversarialLoss, AggregateSampling, Augmentation, BetaByGroupConfig,
    BetaCyclicConfig, BetaSchedule, BetaTcConfig, BetaWarmUpConfig, CapacityConfig, CiwaeConfig,
    ClassifierFeaturesConfig, DecoderPenalty, DecoderWeightConfig, DipConfig, DipVariant,
    DiscriminatorFeaturesConfig, DiscriminatorPenalty, ElboConfig, Estimator, FactorConfig,
    FeaturesConfig, FirstGroup, GradientPenaltyConfig, IwaeConfig, Judged, Kernel, KlConfig,
    LatentAdversarialConfig, LatentNormConfig, LossContext, Losses, MmdConfig, NestedConfig,
    Networks, Objective, PerceptualConfig, PixelMeanConfig, PlayerNetwork, R1Config, Regularizer,
    Seen, TorchScriptFeaturesConfig,
};
pub use part::Part;
pub use parts::{PartContext, VaeBuilder};
pub use posterior::{
    ClosedKl, CodeDistance, CodeGradient, CodebookConfig, CodebookEmaConfig, DiagonalGaussian,
    DiagonalGaussianConfig, FiniteScalarConfig, IafConfig, Ladder, Latents, LookupFreeConfig,
    NoiseScale, PlanarConfig, Posterior, PosteriorConfig, PosteriorFamily, TopDownDraws,
    VectorQuantizedConfig,
};
pub use preprocessing::{ChannelOrder, Crop, Framing, LatentScaling, Preprocessing, Resize};
pub use prior::{
    GaussianMixtureConfig, Prior, PriorConfig, PriorContext, RealNvpConfig, VampConfig,
};
pub use quantizer::Quantizer;
pub use sampler::{
    AutoregressiveConfig, CodeSpace, Covariance, FitProgress, LatentSet, LatentSource, LatentSpace,
    Sampler, SamplerConfig, SamplerKind, SamplerRecord,
};
pub use share::Share;
pub use summary::{LayerSummary, PartSummary};
pub use sums::{SUMS_FILE, sha256, verify_sums, write_sums};
pub use support::Support;
pub use tensor_file::{TensorFile, read_tensors};
pub use terms::{Direction, Term, Terms};
pub use topology::{LadderConfig, TopologyConfig};
pub use vae::{Draws, ElboTerms, Vae};
pub use vae_base::{
    AttributeSpec, AttributeValues, ConditionSpec, DataSpec, ImageShape, ItemKind, ItemSpec,
    MelodyNote, MelodySpec, Spectrogram, Standardization, TextSpec, TextUnit, files, write_whole,
};
pub use vae_torch::Generator;
pub use watch::first_non_finite;
pub use weights::{WEIGHTS_FILE, write_tensors};
