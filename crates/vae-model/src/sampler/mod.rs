//! Samplers: distributions that are fitted, after training, to the latents of a trained model's training items. New
//! items decoded from their latents are better than those of the prior's, from which the latents of items differ.
//!
//! [`Vae::latent_space`] says what is fitted to, [`Sampler::new`] makes a sampler, [`Sampler::start`] fits those that
//! need no gradient and prepares the others, whose [`Sampler::loss`] is then minimized. [`Vae::latents_from`] draws.

mod autoregressive;
mod components;
mod em;
mod file;
mod flow;
mod knn;
mod mixture;
mod two_stage;

use std::fmt::{self, Debug};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};
use vae_base::{ConditionSpec, derive_seed};
use vae_torch::Generator;

pub use autoregressive::AutoregressiveConfig;
pub use file::SamplerRecord;

use crate::nn::{self, Outline};
use crate::{ModelError, Support, Vae, condition};
use components::Sizes;
use em::Start;
use mixture::Mixture;

/// Called with the share of the work that is done; false stops it.
pub type FitProgress<'a> = dyn FnMut(f64) -> bool + 'a;

/// The kinds of samplers.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerKind {
    /// A Gaussian, of models with classes one for each class.
    Gaussian,
    /// A mixture of Gaussians.
    Gmm,
    /// A normalizing flow (RealNVP).
    Flow,
    /// A second VAE on the latents (Dai & Wipf 2019).
    TwoStage,
    /// Points between training latents and their neighbors.
    Knn,
    /// A causal transformer over codes, or over the places of a latent map.
    Autoregressive,
}

impl SamplerKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Gaussian,
        Self::Gmm,
        Self::Flow,
        Self::TwoStage,
        Self::Knn,
        Self::Autoregressive,
    ];

    /// Its name, as on the command line and in the file's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gaussian => "gaussian",
            Self::Gmm => "gmm",
            Self::Flow => "flow",
            Self::TwoStage => "two-stage",
            Self::Knn => "knn",
            Self::Autoregressive => "autoregressive",
        }
    }

    /// Whether its log-likelihood is exact, so that it can be compared with others and with the prior.
    #[must_use]
    pub fn has_likelihood(self) -> bool {
        !matches!(self, Self::TwoStage | Self::Knn)
    }

    /// Checks that it can be fitted to such latents.
    ///
    /// # Errors
    /// It cannot; the message says which kind would fit.
    pub fn check(self, space: &LatentSpace) -> Result<(), ModelError> {
        let refuse = |problem: String| {
            Err(ModelError::Sampler {
                kind: self.name(),
                problem,
            })
        };
        match (self, space.support) {
            (Self::Knn, _) => Ok(()),
            (Self::Autoregressive, Support::Codes) => match &space.codes {
                Some(codes) if codes.rows() > autoregressive::MOST_CODES => refuse(format!(
                    "there are {} different codes, and its table holds at most {}; knn would fit",
                    codes.rows(),
                    autoregressive::MOST_CODES
                )),
                Some(_) => Ok(()),
                None => refuse("the codes of this model are not known; knn would fit".to_owned()),
            },
            (_, Support::Codes) => refuse(
                "this model's latents are codes, which have no density; autoregressive or knn would fit"
                    .to_owned(),
            ),
            (_, Support::Sphere) => refuse(
                "this model's latents are on a sphere, and this is a distribution of all space; knn would fit"
                    .to_owned(),
            ),
            (Self::Autoregressive, Support::Euclidean) if space.shape.is_none() => refuse(
                "this model's latents are a vector, without an order of places; flow or gmm would fit"
                    .to_owned(),
            ),
            (Self::Flow, Support::Euclidean) if space.latent_dims < 2 => refuse(
                "a coupling layer changes one part of the latent by the other, and one dimension has no two; gmm \
                 would fit"
                    .to_owned(),
            ),
            (_, Support::Euclidean) => Ok(()),
        }
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("found `{text}`, expected one of {names}")
        })
    }
}

/// The shape of the covariances of a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Covariance {
    /// Independent dimensions.
    Diagonal,
    /// Any.
    Full,
}

impl Covariance {
    fn name(self) -> &'static str {
        match self {
            Self::Diagonal => "diagonal",
            Self::Full => "full",
        }
    }
}

/// A sampler's kind and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum SamplerConfig {
    /// [`SamplerKind::Gaussian`].
    Gaussian {
        /// The shape of its covariance.
        covariance: Covariance,
    },
    /// [`SamplerKind::Gmm`].
    Gmm {
        /// The number of Gaussians.
        components: i64,
        /// The shape of their covariances.
        covariance: Covariance,
    },
    /// [`SamplerKind::Flow`].
    Flow {
        /// The number of coupling layers.
        layers: i64,
        /// The width of their networks.
        hidden: i64,
    },
    /// [`SamplerKind::TwoStage`].
    TwoStage {
        /// The number of its latents.
        latent_dims: i64,
        /// The width of the two hidden layers of its networks.
        hidden: i64,
    },
    /// [`SamplerKind::Knn`].
    Knn {
        /// k.
        neighbors: i64,
        /// The number of latents that it holds.
        points: i64,
    },
    /// [`SamplerKind::Autoregressive`].
    Autoregressive(AutoregressiveConfig),
}

impl SamplerConfig {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> SamplerKind {
        match self {
            Self::Gaussian { .. } => SamplerKind::Gaussian,
            Self::Gmm { .. } => SamplerKind::Gmm,
            Self::Flow { .. } => SamplerKind::Flow,
            Self::TwoStage { .. } => SamplerKind::TwoStage,
            Self::Knn { .. } => SamplerKind::Knn,
            Self::Autoregressive(_) => SamplerKind::Autoregressive,
        }
    }

    /// Whether a gradient trains it.
    #[must_use]
    pub fn needs_gradient(&self) -> bool {
        matches!(
            self.kind(),
            SamplerKind::Flow | SamplerKind::TwoStage | SamplerKind::Autoregressive
        )
    }
}

/// Its size, as in `20 components, full`.
impl fmt::Display for SamplerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gaussian { covariance } => write!(f, "{} covariance", covariance.name()),
            Self::Gmm {
                components,
                covariance,
            } => write!(f, "{components} components, {}", covariance.name()),
            Self::Flow { layers, hidden } => write!(f, "{layers} layers of width {hidden}"),
            Self::TwoStage {
                latent_dims,
                hidden,
            } => write!(f, "{latent_dims} latents, width {hidden}"),
            Self::Knn { neighbors, points } => {
                write!(f, "{neighbors} neighbors of {points} latents")
            }
            Self::Autoregressive(config) => {
                write!(f, "{} layers of width {}", config.layers, config.width)
            }
        }
    }
}

/// The codes of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeSpace {
    /// The number of codes of each book; those of the first one come first, then those of the second, and so on.
    pub slots_of_books: Vec<i64>,
    /// The number of different codes of a book.
    pub n_codes: i64,
}

impl CodeSpace {
    /// The number of codes of an item.
    fn n_slots(&self) -> i64 {
        let slots = self.slots_of_books.iter();
        slots.fold(0, |sum, &n| sum.saturating_add(n))
    }

    /// The number of different codes of all books.
    fn rows(&self) -> i64 {
        self.n_codes
            .saturating_mul(self.slots_of_books.len() as i64)
    }
}

/// What a sampler has to know of the latents of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentSpace {
    /// Z.
    pub latent_dims: i64,
    /// Channels, rows and columns of latents that are a map.
    pub shape: Option<[i64; 3]>,
    /// Where latents lie.
    pub support: Support,
    /// If latents are codes.
    pub codes: Option<CodeSpace>,
    /// The columns of the condition.
    pub condition: ConditionSpec,
}

/// Latents, each with its condition.
#[derive(Debug)]
pub struct LatentSet {
    /// f32 `[N, Z]`; for [`SamplerKind::Autoregressive`] over codes these, i64 `[N, S]` for S codes of an item.
    pub latents: Tensor,
    /// f32 `[N, D]`, NaN where unknown; none of a model without a condition.
    pub condition: Option<Tensor>,
}

impl LatentSet {
    /// N.
    #[must_use]
    pub fn len(&self) -> i64 {
        self.latents.size()[0]
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of these rows, i64 `[n]`.
    #[must_use]
    pub fn rows(&self, rows: &Tensor) -> Self {
        let of_rows = |tensor: &Tensor| tensor.index_select(0, &rows.to_device(tensor.device()));
        Self {
            latents: of_rows(&self.latents),
            condition: self.condition.as_ref().map(of_rows),
        }
    }

    /// `n` of them from `start` on.
    #[must_use]
    pub fn range(&self, start: i64, n: i64) -> Self {
        let part = |tensor: &Tensor| tensor.narrow(0, start, n);
        Self {
            latents: part(&self.latents),
            condition: self.condition.as_ref().map(part),
        }
    }
}

/// A distribution of latents, possibly given a condition.
trait Distribution: Debug + Send {
    /// ln p(z|c) in nats, `[N]`, for latents `[N, Z]`; `None` if it is not known.
    fn log_prob(
        &self,
        latents: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Tensor>, ModelError>;

    /// A lower bound of ln p(z|c) in nats, `[N]`; by default ln p itself.
    fn bound(
        &self,
        latents: &Tensor,
        condition: Option<&Tensor>,
        generator: &mut Generator,
    ) -> Result<Option<Tensor>, ModelError> {
        let _ = generator;
        self.log_prob(latents, condition)
    }

    /// What a gradient minimizes, a scalar in nats; `None` of those that have no gradient.
    fn loss(
        &self,
        latents: &Tensor,
        condition: Option<&Tensor>,
        generator: &mut Generator,
    ) -> Result<Option<Tensor>, ModelError> {
        let _ = (latents, condition, generator);
        Ok(None)
    }

    /// `n` latents `[n, Z]`.
    fn sample(
        &self,
        n: i64,
        condition: Option<&Tensor>,
        temperature: f64,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError>;

    /// Fits what needs no gradient. False if `progress` stopped it.
    fn start(
        &self,
        train: &LatentSet,
        seed: u64,
        progress: &mut FitProgress,
    ) -> Result<bool, ModelError>;

    /// The variables that are not in the sampler's own store.
    fn further_variables(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }
}

/// A distribution fitted to the latents of a trained model's training items.
#[derive(Debug)]
pub struct Sampler {
    config: SamplerConfig,
    space: LatentSpace,
    variables: nn::VarStore,
    distribution: Box<dyn Distribution>,
}

/// The share of latents whose condition is hidden while a gradient trains a sampler, as a model's `condition.dropout`.
const CONDITION_DROPOUT: f64 = 0.1;

impl Sampler {
    /// A sampler that is not fitted yet.
    ///
    /// # Errors
    /// Latents that this kind has no distribution for; an invalid size.
    pub fn new(
        config: &SamplerConfig,
        space: &LatentSpace,
        device: Device,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let seed = derive_seed(seed, 0, "sampler weights");
        let mut variables = nn::VarStore::new(seed);
        let distribution = build(config, space, &variables.root(), device, seed)?;
        variables.set_device(device);
        Ok(Self {
            config: config.clone(),
            space: space.clone(),
            variables,
            distribution,
        })
    }

    /// Kind and size.
    #[must_use]
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// The latents that it is for.
    #[must_use]
    pub fn space(&self) -> &LatentSpace {
        &self.space
    }

    /// Everything that was fitted, by name. Shares memory.
    #[must_use]
    pub fn named_variables(&self) -> Vec<(String, Tensor)> {
        let mut named: Vec<_> = self.variables.variables().into_iter().collect();
        named.extend(self.distribution.further_variables());
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }

    /// Fits a sampler that needs no gradient; one that does gets the scale of the latents. Returns false if `progress`
    /// stopped it.
    ///
    /// # Errors
    /// Latents of another shape; libtorch refuses.
    pub fn start(
        &self,
        train: &LatentSet,
        seed: u64,
        progress: &mut FitProgress,
    ) -> Result<bool, ModelError> {
        self.check_set(train)?;
        no_grad(|| self.distribution.start(train, seed, progress))
    }

    /// What a gradient minimizes, the mean over latents in nats; some of them without their condition. `None` of a
    /// sampler without a gradient.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn loss(
        &self,
        batch: &LatentSet,
        generator: &mut Generator,
    ) -> Result<Option<Tensor>, ModelError> {
        self.check_set(batch)?;
        let condition = batch.condition.as_ref().map(|condition| {
            let n = condition.size()[0];
            let is_hidden = generator
                .uniform([0.0, 1.0], [n, 1], condition.device())
                .lt(CONDITION_DROPOUT);
            condition.masked_fill(&is_hidden, f64::NAN)
        });
        self.distribution
            .loss(&batch.latents, condition.as_ref(), generator)
    }

    /// ln p(z|c) of latents in nats, `[N]`; of [`SamplerKind::TwoStage`] a lower bound, of [`SamplerKind::Knn`] `None`.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn log_prob(
        &self,
        set: &LatentSet,
        generator: &mut Generator,
    ) -> Result<Option<Tensor>, ModelError> {
        self.check_set(set)?;
        self.distribution
            .bound(&set.latents, set.condition.as_ref(), generator)
    }

    /// `n` draws, `[n, Z]`; of [`SamplerKind::Autoregressive`] over codes these, i64 `[n, S]` for S codes of an item.
    /// [`Vae::latents_from`] makes latents of them. The temperature is what each kind makes of it: docs/samplers.md.
    ///
    /// # Errors
    /// A condition of another shape; libtorch refuses.
    pub fn sample(
        &self,
        n: i64,
        condition: Option<&Tensor>,
        temperature: f64,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        self.check_condition(condition, n)?;
        no_grad(|| {
            self.distribution
                .sample(n, condition, temperature, generator)
        })
    }

    fn check_set(&self, set: &LatentSet) -> Result<(), ModelError> {
        let found = set.latents.size();
        let of_codes = matches!(self.config, SamplerConfig::Autoregressive(_));
        let wanted = match &self.space.codes {
            Some(codes) if of_codes => codes.n_slots(),
            _ => self.space.latent_dims,
        };
        if found.len() != 2 || found[1] != wanted {
            return Err(ModelError::Latents {
                found,
                latent_dims: wanted,
            });
        }
        self.check_condition(set.condition.as_ref(), found[0])
    }

    fn check_condition(&self, condition: Option<&Tensor>, n: i64) -> Result<(), ModelError> {
        let n_columns = self.space.condition.n_columns() as i64;
        let found = condition.map(Tensor::size);
        let fits = match &found {
            None => n_columns == 0,
            Some(size) => n_columns > 0 && *size == [n, n_columns],
        };
        match fits {
            true => Ok(()),
            false => Err(ModelError::Condition {
                found: found.map_or_else(|| "none".to_owned(), |size| format!("{size:?}")),
                wanted: format!("expected f32 [{n}, {n_columns}] for this sampler"),
            }),
        }
    }
}

/// Names and shapes of a sampler's variables.
fn outline(config: &SamplerConfig, space: &LatentSpace) -> Result<Outline, ModelError> {
    let variables = nn::VarStore::of_outline();
    let distribution = build(config, space, &variables.root(), Device::Cpu, 0)?;
    let further = distribution.further_variables();
    drop(distribution);
    let mut outline = variables.into_outline();
    for (name, variable) in further {
        outline.insert(name, variable.size());
    }
    Ok(outline)
}

fn build(
    config: &SamplerConfig,
    space: &LatentSpace,
    path: &nn::Path,
    device: Device,
    seed: u64,
) -> Result<Box<dyn Distribution>, ModelError> {
    config.kind().check(space)?;
    check_sizes(config, space)?;
    let [classes, attributes] = Mixture::columns(&space.condition);
    let sizes = |components, covariance| Sizes {
        components,
        classes,
        attributes,
        latents: space.latent_dims,
        covariance,
    };
    Ok(match config {
        SamplerConfig::Gaussian { covariance } => {
            let sizes = sizes(classes.max(1), *covariance);
            Box::new(Mixture::build(path, sizes, Start::Classes))
        }
        SamplerConfig::Gmm {
            components,
            covariance,
        } => {
            let sizes = sizes(*components, *covariance);
            Box::new(Mixture::build(path, sizes, Start::Spread))
        }
        SamplerConfig::Flow { layers, hidden } => {
            Box::new(flow::Flow::build(path, [*layers, *hidden], space))
        }
        SamplerConfig::TwoStage {
            latent_dims,
            hidden,
        } => Box::new(two_stage::TwoStage::build(
            path,
            [*latent_dims, *hidden],
            space,
            device,
            seed,
        )?),
        SamplerConfig::Knn { neighbors, points } => {
            Box::new(knn::Knn::build(path, [*neighbors, *points], space))
        }
        SamplerConfig::Autoregressive(config) => {
            Box::new(autoregressive::Autoregressive::build(path, config, space)?)
        }
    })
}

/// The most values in a sampler's variables, 1 GB of f32: more is surely a mistake, or a damaged file.
const MOST_VALUES: i64 = 1 << 28;

const MOST_LAYERS: i64 = 64;

/// Refuses sizes of a damaged or crafted file before anything is allocated.
fn check_sizes(config: &SamplerConfig, space: &LatentSpace) -> Result<(), ModelError> {
    let [classes, attributes] = Mixture::columns(&space.condition);
    let dims = space.latent_dims.saturating_add(attributes);
    let of_mixture = |components: i64, covariance: Covariance| {
        let values = match covariance {
            Covariance::Full => dims.saturating_mul(dims),
            Covariance::Diagonal => dims,
        };
        (components, values.saturating_mul(components))
    };
    let (least, n_values) = match config {
        SamplerConfig::Gaussian { covariance } => of_mixture(classes.max(1), *covariance),
        SamplerConfig::Gmm {
            components,
            covariance,
        } => of_mixture(*components, *covariance),
        SamplerConfig::Flow { layers, hidden } => (
            (*layers).min(*hidden),
            hidden
                .saturating_mul(hidden.saturating_add(dims.saturating_mul(2)))
                .saturating_mul(*layers),
        ),
        SamplerConfig::TwoStage {
            latent_dims,
            hidden,
        } => (
            (*latent_dims).min(*hidden),
            hidden
                .saturating_mul(hidden.saturating_add(dims.saturating_mul(4)))
                // Twice, and an eighth of the others' limit: this one is allocated to know its shapes.
                .saturating_mul(2 * 8),
        ),
        SamplerConfig::Knn { neighbors, points } => (
            (*neighbors).min(*points),
            points.saturating_mul(dims.saturating_add(classes)),
        ),
        SamplerConfig::Autoregressive(config) => config.check_sizes(space),
    };
    // Each layer has names of its own, even before it has values.
    let n_layers = match config {
        SamplerConfig::Flow { layers, .. } => *layers,
        SamplerConfig::Autoregressive(config) => config.layers,
        _ => 0,
    };
    if least >= 1 && n_values <= MOST_VALUES && n_layers <= MOST_LAYERS {
        return Ok(());
    }
    Err(ModelError::Sampler {
        kind: config.kind().name(),
        problem: format!(
            "the size {config:?} makes {n_values} values for latents of {} dimensions; expected sizes of at least 1 \
             and at most {MOST_VALUES} values",
            space.latent_dims
        ),
    })
}

/// Mean and standard deviation of each latent, by which those trained by a gradient scale them.
#[derive(Debug)]
struct Standardized {
    mean: Tensor,
    std: Tensor,
}

/// The least standard deviation of a latent: one that never varies keeps a density.
const LEAST_STD: f64 = 1e-4;

impl Standardized {
    fn build(path: &nn::Path, latent_dims: i64) -> Self {
        Self {
            mean: path.zeros_no_train("mean", &[latent_dims]),
            std: path.ones_no_train("std", &[latent_dims]),
        }
    }

    fn start(&self, train: &LatentSet) {
        let [mean, std] = moments(train);
        self.mean.shallow_clone().copy_(&mean);
        self.std.shallow_clone().copy_(&std);
    }

    fn scaled(&self, latents: &Tensor) -> Tensor {
        (latents.to_device(self.mean.device()) - &self.mean) / &self.std
    }

    fn restored(&self, scaled: &Tensor) -> Tensor {
        scaled * &self.std + &self.mean
    }

    /// ln |det| of the scaling, a scalar.
    fn log_det(&self) -> Tensor {
        -self.std.log().sum(Kind::Float)
    }
}

/// Mean and standard deviation of each latent, `[Z]`.
fn moments(train: &LatentSet) -> [Tensor; 2] {
    let latents = train.latents.to_kind(Kind::Double);
    let mean = latents.mean_dim(0, false, Kind::Double);
    let square = (latents - &mean).square();
    let std = square.mean_dim(0, false, Kind::Double).sqrt();
    let largest = std.max().clamp_min(LEAST_STD);
    let std = std.maximum(&(largest * LEAST_STD));
    [mean.to_kind(Kind::Float), std.to_kind(Kind::Float)]
}

/// The features of a condition for networks, on a device; `None` without a condition.
fn features(condition: Option<&Tensor>, scales: &Tensor, device: Device) -> Option<Tensor> {
    condition.map(|known| condition::features(&known.to_device(device), scales))
}

/// Where new latents come from.
#[derive(Clone, Copy, Debug)]
pub enum LatentSource<'a> {
    /// The model's prior, whose Gaussian noise is scaled by the temperature.
    Prior {
        /// 1 draws from it as it is.
        temperature: f64,
    },
    /// A fitted sampler.
    Sampler {
        /// It.
        sampler: &'a Sampler,
        /// 1 draws from the distribution as fitted.
        temperature: f64,
    },
}

impl LatentSource<'_> {
    /// The prior as it is.
    pub const PRIOR: Self = Self::Prior { temperature: 1.0 };

    /// The kind of the sampler; `None` for the prior.
    #[must_use]
    pub fn kind(&self) -> Option<SamplerKind> {
        match self {
            Self::Prior { .. } => None,
            Self::Sampler { sampler, .. } => Some(sampler.config().kind()),
        }
    }
}

impl Vae {
    /// What a sampler has to know of this model's latents.
    ///
    /// # Errors
    /// A model without an encoder: no item has latents that a sampler could be fitted to.
    pub fn latent_space(&self) -> Result<LatentSpace, ModelError> {
        self.check_encoder()?;
        let latent_dims = self.config().n_latents();
        let codes = self.quantizer().map(|quantizer| CodeSpace {
            slots_of_books: quantizer.slots_of_books(latent_dims),
            n_codes: quantizer.n_codes(),
        });
        Ok(LatentSpace {
            latent_dims,
            shape: self.config().latent_shape,
            support: self.support(),
            codes,
            condition: self.condition().clone(),
        })
    }

    /// New latents `[n, Z]` on the model's device, with the condition of each in a model that has one, `[n, D]`.
    ///
    /// # Errors
    /// A condition that does not fit the model; a sampler for other latents; a temperature for a prior without Gaussian noise
    /// ([`Vae::prior_has_temperature`]).
    pub fn latents_from(
        &self,
        source: LatentSource,
        n: i64,
        condition: Option<&Tensor>,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        let unknown = self.unknown(n);
        let condition = condition.or(unknown.as_ref());
        self.check_condition(condition, n)?;
        match source {
            LatentSource::Prior { temperature } => {
                if temperature != 1.0 && !self.prior_has_temperature() {
                    return Err(ModelError::Sampler {
                        kind: "prior",
                        problem: "its draws have no Gaussian noise that a temperature could scale"
                            .to_owned(),
                    });
                }
                Ok(self.latents_at(n, condition, temperature, generator))
            }
            LatentSource::Sampler {
                sampler,
                temperature,
            } => {
                if *sampler.space() != self.latent_space()? {
                    return Err(ModelError::Sampler {
                        kind: sampler.config().kind().name(),
                        problem: "it was fitted to latents of another shape or condition than this model's"
                            .to_owned(),
                    });
                }
                let drawn = sampler.sample(n, condition, temperature, generator)?;
                let drawn = drawn.to_device(self.device());
                let is_codes = drawn.kind() == Kind::Int64;
                match (self.support(), is_codes) {
                    (Support::Codes, true) => self.latents_of_codes(&drawn),
                    (Support::Codes, false) => self.nearest_codes(&drawn),
                    (Support::Sphere, _) => Ok(crate::math::unit(&drawn, 1e-6)),
                    (Support::Euclidean, _) => Ok(drawn),
                }
            }
        }
    }
}
