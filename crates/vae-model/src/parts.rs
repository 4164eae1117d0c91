//! What a model is built of: the parts that a config names, and in their place parts of a user's own.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use vae_base::{DataSpec, ItemSpec};

use crate::condition;
use crate::graph::{Graph, Value};
use crate::likelihood::GraphLikelihood;
use crate::network::{GraphNetwork, LARGEST_SIZE, NetworkShape, TokenShape};
use crate::posterior::{GraphFamily, LadderFamily, PosteriorTraits, PyramidFamily, TopDownFamily};
use crate::prior::{LadderPrior, PriorTraits, TopDownPrior};
use crate::topology::TopDown;
use crate::{
    LadderConfig, Likelihood, LikelihoodConfig, ModelConfig, ModelError, Network, NetworkConfig,
    PosteriorConfig, PosteriorFamily, Prior, PriorConfig, TopologyConfig, nn,
};

/// What a part has to fit between.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartContext {
    /// Kind and shape of an item.
    pub item: ItemSpec,
    /// Z, the number of latents, of a map all of them.
    pub n_latents: i64,
    /// Channels, rows and columns of latents that are a map.
    pub latent_shape: Option<[i64; 3]>,
    /// F, the numbers that say what is known of an item; 0 of a model without a condition.
    pub n_condition_features: i64,
    /// P, the numbers that the encoder gives for an item.
    pub n_posterior_params: i64,
    /// L, the maps that the decoder gives for an item.
    pub n_likelihood_maps: i64,
}

/// Makes a part, its variables under the path. It is called more than once for a model: for the names and shapes
/// of its variables, for the variables themselves, for a copy.
type Make<T> = Arc<dyn Fn(&nn::Path, &PartContext) -> Box<T> + Send + Sync>;

/// A part of a user's own.
struct Own<T: ?Sized> {
    name: String,
    make: Make<T>,
}

impl<T: ?Sized> Own<T> {
    fn build(&self, path: &nn::Path, context: &PartContext) -> Box<T> {
        (self.make)(path, context)
    }
}

impl<T: ?Sized> Clone for Own<T> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            make: Arc::clone(&self.make),
        }
    }
}

/// The parts of a model that are a user's own.
#[derive(Clone, Default)]
pub(crate) struct OwnParts {
    network: Option<Own<dyn Network>>,
    posterior: Option<Own<dyn PosteriorFamily>>,
    n_posterior_params: Option<i64>,
    prior: Option<Own<dyn Prior>>,
    likelihood: Option<Own<dyn Likelihood>>,
    n_likelihood_maps: Option<i64>,
}

impl fmt::Debug for OwnParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.names()).finish()
    }
}

impl OwnParts {
    /// The names of the parts, by what they are.
    pub(crate) fn names(&self) -> BTreeMap<String, String> {
        let named = [
            ("network", self.network.as_ref().map(|own| &own.name)),
            ("posterior", self.posterior.as_ref().map(|own| &own.name)),
            ("prior", self.prior.as_ref().map(|own| &own.name)),
            ("likelihood", self.likelihood.as_ref().map(|own| &own.name)),
        ];
        let named = named.into_iter();
        named
            .filter_map(|(part, name)| Some((part.to_owned(), name?.clone())))
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names().is_empty()
    }

    /// Refuses numbers of parameters that no network gives.
    pub(crate) fn check_sizes(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let n_latents = config.n_latents();
        let of_posterior = self.n_posterior_params;
        for (part, own, n) in [
            (
                "posterior",
                self.posterior.as_ref().map(|own| &own.name),
                of_posterior,
            ),
            (
                "likelihood",
                self.likelihood.as_ref().map(|own| &own.name),
                self.n_likelihood_maps,
            ),
        ] {
            if let (Some(name), Some(n)) = (own, n)
                && !(1..=2 * LARGEST_SIZE).contains(&n)
            {
                return Err(ModelError::config(
                    format!("own {part} {name}"),
                    format!(
                        "takes {n} numbers, from 1 to {} are possible",
                        2 * LARGEST_SIZE
                    ),
                ));
            }
        }
        match of_posterior {
            Some(n) if config.latent_shape.is_some() && n % n_latents != 0 => {
                Err(ModelError::config(
                    "model.latent_shape",
                    format!(
                        "an own posterior of {n} numbers has not the same number for each of {n_latents} \
                     latents; latent_dims would fit"
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Refuses an own network whose variables are under other names than those of the config's networks.
    pub(crate) fn check_names(&self, outline: &nn::Outline) -> Result<(), ModelError> {
        const OF_PARTS: [&str; 5] = [
            "encoder.",
            "decoder.",
            "posterior.",
            "prior.",
            "likelihood.",
        ];
        let Some(network) = &self.network else {
            return Ok(());
        };
        let is_known = |name: &str| OF_PARTS.iter().any(|part| name.starts_with(part));
        match outline.shapes().keys().find(|name| !is_known(name)) {
            Some(name) => Err(ModelError::config(
                format!("own network {}", network.name),
                format!("its variable {name} has to be under encoder or decoder"),
            )),
            None => Ok(()),
        }
    }

    /// What each part of such a model has to fit between.
    pub(crate) fn context(&self, config: &ModelConfig, data: &DataSpec) -> PartContext {
        let n_latents = config.n_latents();
        let n_features = condition::n_features(&data.condition);
        let hierarchy = config.network.top_down();
        let n_params = hierarchy.map(|config| config.n_posterior_params(n_features));
        let n_params = self.n_posterior_params.or(n_params);
        let n_maps = self.n_likelihood_maps;
        PartContext {
            item: data.item.clone(),
            n_latents,
            latent_shape: config.latent_shape,
            n_condition_features: n_features,
            n_posterior_params: n_params.unwrap_or_else(|| config.posterior.n_params(n_latents)),
            n_likelihood_maps: n_maps.unwrap_or_else(|| config.likelihood.n_maps_of(&data.item)),
        }
    }

    /// Whether such a model has an encoder.
    pub(crate) fn has_encoder(&self, config: &ModelConfig) -> bool {
        self.posterior.is_some() || config.posterior.has_encoder()
    }

    /// What a model with these parts looks like to the checks; `traits` are known once it is built.
    pub(crate) fn view<'a>(
        &'a self,
        config: &'a ModelConfig,
        traits: Option<Traits>,
    ) -> ModelView<'a> {
        let in_ladder = config.topology.ladder().map(|_| "of a ladder");
        let in_ladder = in_ladder.or_else(|| {
            let hierarchy = config.network.top_down();
            hierarchy.map(|_| "of a hierarchy")
        });
        let posterior = match &self.posterior {
            Some(own) => PartView {
                config: None,
                name: &own.name,
                traits: traits.map(|traits| traits.posterior),
            },
            None => PartView {
                config: Some(&config.posterior),
                name: in_ladder.unwrap_or_else(|| config.posterior.name()),
                traits: Some(Traits::of(config).posterior),
            },
        };
        let prior = match &self.prior {
            Some(own) => PartView {
                config: None,
                name: &own.name,
                traits: traits.map(|traits| traits.prior),
            },
            None => PartView {
                config: Some(&config.prior),
                name: in_ladder.unwrap_or_else(|| config.prior.name()),
                traits: Some(Traits::of(config).prior),
            },
        };
        let own_likelihood = self.likelihood.as_ref().map(|own| own.name.as_str());
        ModelView {
            config,
            network: self.network.is_none().then_some(&config.network),
            posterior,
            prior,
            likelihood: own_likelihood.is_none().then_some(&config.likelihood),
            likelihood_name: own_likelihood.unwrap_or_else(|| config.likelihood.name()),
        }
    }
}

/// What the checks ask of a model's parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) posterior: PosteriorTraits,
    pub(crate) prior: PriorTraits,
}

impl Traits {
    /// Of a model without own parts.
    pub(crate) fn of(config: &ModelConfig) -> Self {
        let (posterior, prior) = (config.posterior.traits(), config.prior.traits());
        match config.group_sizes() {
            None => Self { posterior, prior },
            Some(_) => Self {
                posterior: PosteriorTraits {
                    has_covariance: false,
                    is_per_latent: false,
                    is_diagonal_gaussian: false,
                    ..posterior
                },
                prior: PriorTraits {
                    is_standard_normal: false,
                    is_learned: true,
                    ..prior
                },
            },
        }
    }
}

/// A model as the checks see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelView<'a> {
    pub(crate) config: &'a ModelConfig,
    /// None of a user's own.
    pub(crate) network: Option<&'a NetworkConfig>,
    pub(crate) posterior: PartView<'a, &'a PosteriorConfig, PosteriorTraits>,
    pub(crate) prior: PartView<'a, &'a PriorConfig, PriorTraits>,
    /// None of a user's own.
    pub(crate) likelihood: Option<&'a LikelihoodConfig>,
    pub(crate) likelihood_name: &'a str,
}

/// A posterior or prior as the checks see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartView<'a, C, T> {
    /// None of a user's own.
    pub(crate) config: Option<C>,
    pub(crate) name: &'a str,
    /// None of a user's own part that is not built yet.
    pub(crate) traits: Option<T>,
}

/// Names of own parts as an error shows them: `prior = student_t, network = tiny`.
pub(crate) fn listed(names: &BTreeMap<String, String>) -> String {
    let named = names.iter().map(|(part, name)| format!("{part} = {name}"));
    match names.is_empty() {
        true => "none".to_owned(),
        false => named.collect::<Vec<_>>().join(", "),
    }
}

/// Makes models of which some parts are a user's own, without a line in the enums of a config. A config says
/// what the others are. What it says of a part that is replaced is not used, but is checked as in any config, so
/// that it has to go with the others: for an own prior on the sphere it names `hyperspherical_uniform`.
///
/// Each part has a name, which is saved with the weights: they are loaded by a builder with parts of the same
/// names. What a part learns, it makes under the [`nn::Path`] that it gets. An own network makes it under
/// `path / "encoder"` and `path / "decoder"`.
///
/// An own part is not written for ONNX; [`Vae::to_torchscript`](crate::Vae::to_torchscript) has it. There are no
/// bits/dim of an own likelihood.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// use vae_model::{Generator, ImageShape, ModelConfig, Prior, PriorContext, Vae};
///
/// /// Independent logistic latents.
/// #[derive(Debug)]
/// struct Logistic {
///     n_latents: i64,
/// }
///
/// impl Prior for Logistic {
///     fn log_prob(&self, latents: &Tensor, _: PriorContext) -> Tensor {
///         let log_prob = latents.log_sigmoid() + (-latents).log_sigmoid();
///         log_prob.sum_dim_intlist(-1, false, Kind::Float)
///     }
///
///     fn sample(&self, n: i64, device: Device, _: PriorContext, generator: &mut Generator) -> Tensor {
///         generator.uniform([1e-6, 1.0 - 1e-6], [n, self.n_latents], device).logit(None)
///     }
/// }
///
/// # fn main() -> Result<(), vae_model::ModelError> {
/// let builder = Vae::builder().prior("logistic", |_, context| Logistic {
///     n_latents: context.n_latents,
/// });
/// let shape = ImageShape { channels: 1, height: 28, width: 28 };
/// let vae = builder.build(&ModelConfig::default(), shape, Device::Cpu, 1)?;
/// let log_prob = vae.prior_log_prob(&Tensor::zeros([1, 2], (Kind::Float, Device::Cpu)))?;
/// assert!((log_prob.double_value(&[0]) - 0.25_f64.ln() * 2.0).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct VaeBuilder {
    pub(crate) own: OwnParts,
}

impl VaeBuilder {
    /// Encoder and decoder.
    #[must_use]
    pub fn network<N: Network + 'static>(
        mut self,
        name: impl Into<String>,
        make: impl Fn(&nn::Path, &PartContext) -> N + Send + Sync + 'static,
    ) -> Self {
        self.own.network = Some(Own {
            name: name.into(),
            make: Arc::new(move |path, context| Box::new(make(path, context))),
        });
        self
    }

    /// q(z|x), for which the encoder gives `n_params` numbers for an item.
    #[must_use]
    pub fn posterior<F: PosteriorFamily + 'static>(
        mut self,
        name: impl Into<String>,
        n_params: i64,
        make: impl Fn(&nn::Path, &PartContext) -> F + Send + Sync + 'static,
    ) -> Self {
        self.own.posterior = Some(Own {
            name: name.into(),
            make: Arc::new(move |path, context| Box::new(make(path, context))),
        });
        self.own.n_posterior_params = Some(n_params);
        self
    }

    /// p(z).
    #[must_use]
    pub fn prior<P: Prior + 'static>(
        mut self,
        name: impl Into<String>,
        make: impl Fn(&nn::Path, &PartContext) -> P + Send + Sync + 'static,
    ) -> Self {
        self.own.prior = Some(Own {
            name: name.into(),
            make: Arc::new(move |path, context| Box::new(make(path, context))),
        });
        self
    }

    /// p(x|z), for which the decoder gives `n_maps` numbers for each place of an item.
    #[must_use]
    pub fn likelihood<L: Likelihood + 'static>(
        mut self,
        name: impl Into<String>,
        n_maps: i64,
        make: impl Fn(&nn::Path, &PartContext) -> L + Send + Sync + 'static,
    ) -> Self {
        self.own.likelihood = Some(Own {
            name: name.into(),
            make: Arc::new(move |path, context| Box::new(make(path, context))),
        });
        self.own.n_likelihood_maps = Some(n_maps);
        self
    }
}

/// A network of a config, which can say what it computes, or a user's own.
#[derive(Debug)]
pub(crate) enum NetworkPart {
    Known(Box<dyn GraphNetwork>),
    Own(Box<dyn Network>),
}

impl Deref for NetworkPart {
    type Target = dyn Network;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Known(network) => &**network,
            Self::Own(network) => &**network,
        }
    }
}

impl NetworkPart {
    /// What [`Network::encode`] computes in evaluation; none where it cannot be asked.
    pub(crate) fn encoder_graph(
        &self,
        graph: &mut Graph,
        images: Value,
        features: Option<Value>,
    ) -> Option<Value> {
        match self {
            Self::Known(network) => network.encoder_graph(graph, images, features),
            Self::Own(_) => None,
        }
    }

    /// What [`Network::decode`] computes in evaluation; none where it cannot be asked.
    pub(crate) fn decoder_graph(
        &self,
        graph: &mut Graph,
        latents: Value,
        features: Option<Value>,
    ) -> Option<Value> {
        match self {
            Self::Known(network) => network.decoder_graph(graph, latents, features),
            Self::Own(_) => None,
        }
    }
}

/// A posterior of a config, or a user's own.
#[derive(Debug)]
pub(crate) enum PosteriorPart {
    Known(Box<dyn GraphFamily>),
    Own(Box<dyn PosteriorFamily>),
}

impl Deref for PosteriorPart {
    type Target = dyn PosteriorFamily;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Known(family) => &**family,
            Self::Own(family) => &**family,
        }
    }
}

impl PosteriorPart {
    /// As of [`GraphFamily::graph`].
    pub(crate) fn graph(&self, graph: &mut Graph, params: &Value) -> Option<Vec<Value>> {
        match self {
            Self::Known(family) => family.graph(graph, params),
            Self::Own(_) => None,
        }
    }
}

/// A likelihood of a config, or a user's own.
#[derive(Debug)]
pub(crate) enum LikelihoodPart {
    Known(Box<dyn GraphLikelihood>),
    Own(Box<dyn Likelihood>),
}

impl Deref for LikelihoodPart {
    type Target = dyn Likelihood;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Known(likelihood) => &**likelihood,
            Self::Own(likelihood) => &**likelihood,
        }
    }
}

impl LikelihoodPart {
    /// As of [`GraphLikelihood::mean_graph`].
    pub(crate) fn mean_graph(&self, graph: &mut Graph, params: &Value) -> Option<Value> {
        match self {
            Self::Known(likelihood) => likelihood.mean_graph(graph, params),
            Self::Own(_) => None,
        }
    }
}

/// What a model is built of.
pub(crate) struct Parts {
    pub(crate) network: NetworkPart,
    pub(crate) posterior: PosteriorPart,
    pub(crate) prior: Box<dyn Prior>,
    pub(crate) likelihood: LikelihoodPart,
}

impl Parts {
    /// Builds a checked model's parts, their variables under the store's root.
    pub(crate) fn build(
        config: &ModelConfig,
        data: &DataSpec,
        own: &OwnParts,
        variables: &nn::VarStore,
    ) -> Self {
        let context = own.context(config, data);
        let (image, latent_dims) = (data.item.map(), context.n_latents);
        let (root, initialization) = (variables.root(), config.initialization);
        let shape = NetworkShape {
            image,
            tokens: TokenShape::of(data.item.kind),
            latent_dims,
            latent_shape: context.latent_shape,
            is_pyramid: config.topology == TopologyConfig::Pyramid,
            n_condition_features: context.n_condition_features,
            n_posterior_params: context.n_posterior_params,
            n_likelihood_maps: context.n_likelihood_maps,
            initialization,
            decoder_spectral_norm: config.decoder_spectral_norm,
        };
        if let Some(hierarchy) = config.network.top_down() {
            // Without own parts but the likelihood; the checks say so.
            let network = hierarchy.build(&root, shape);
            let [of_posterior, of_prior] = [0, 1].map(|_| network.path().shallow_clone());
            let path = &root / "likelihood";
            return Self {
                network: NetworkPart::Known(Box::new(network)),
                posterior: PosteriorPart::Known(Box::new(TopDownFamily { path: of_posterior })),
                prior: Box::new(TopDownPrior { path: of_prior }),
                likelihood: match &own.likelihood {
                    Some(own) => LikelihoodPart::Own(own.build(&path, &context)),
                    None => LikelihoodPart::Known(config.likelihood.build(&path, &data.item)),
                },
            };
        }
        let network = match &own.network {
            Some(own) => NetworkPart::Own(own.build(&root, &context)),
            None => NetworkPart::Known(config.network.build(&root, shape)),
        };
        let path = &root / "likelihood";
        let likelihood = match &own.likelihood {
            Some(own) => LikelihoodPart::Own(own.build(&path, &context)),
            None => LikelihoodPart::Known(config.likelihood.build(&path, &data.item)),
        };
        if let Some(ladder) = config.topology.ladder() {
            // Without own posteriors and priors; the checks say so.
            let (posterior, prior) = build_ladder(config, ladder, &context, &(&root / "prior"));
            return Self {
                network,
                posterior: PosteriorPart::Known(Box::new(posterior)),
                prior: Box::new(prior),
                likelihood,
            };
        }
        let path = &root / "posterior";
        let posterior = match &own.posterior {
            Some(own) => PosteriorPart::Own(own.build(&path, &context)),
            None if let (TopologyConfig::Pyramid, Some(shape)) =
                (&config.topology, context.latent_shape) =>
            {
                let family = PyramidFamily::build(&path, &config.posterior, shape, initialization);
                PosteriorPart::Known(Box::new(family))
            }
            None => {
                let channels = context.latent_shape.map(|[channels, ..]| channels);
                let family = &config.posterior;
                PosteriorPart::Known(family.build(&path, latent_dims, channels, initialization))
            }
        };
        let path = &root / "prior";
        let prior = match &own.prior {
            Some(own) => own.build(&path, &context),
            None => config.prior.build(
                &path,
                latent_dims,
                image,
                context.n_condition_features,
                initialization,
            ),
        };
        Self {
            network,
            posterior,
            prior,
            likelihood,
        }
    }
}

/// Posterior and prior of a ladder, which share the networks from level to level.
fn build_ladder(
    config: &ModelConfig,
    ladder: &LadderConfig,
    context: &PartContext,
    path: &nn::Path,
) -> (LadderFamily, LadderPrior) {
    let top_down = TopDown::build(path, ladder, config.initialization);
    let family = LadderFamily {
        top_down: top_down.shallow_clone(),
    };
    let prior = LadderPrior {
        top: config.prior.build(
            &(path / "top"),
            ladder.levels[0],
            context.item.map(),
            context.n_condition_features,
            config.initialization,
        ),
        top_down,
    };
    (family, prior)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageShape;

    #[test]
    fn built_parts_say_the_same_of_themselves_as_their_configs() {
        let pairs = [
            ("'full_covariance'", "'standard_normal'"),
            ("{ planar = {} }", "{ gaussian_mixture = {} }"),
            ("{ iaf = {} }", "{ real_nvp = {} }"),
            ("'von_mises_fisher'", "'hyperspherical_uniform'"),
            ("'deterministic'", "{ vamp = {} }"),
            ("{ finite_scalar = { levels = [3, 4] } }", "'uniform_codes'"),
            ("{ vector_quantized = { codes = 5 } }", "'uniform_codes'"),
            ("{ lookup_free = {} }", "'uniform_codes'"),
        ];
        let shape = ImageShape {
            channels: 1,
            height: 4,
            width: 4,
        };
        for (posterior, prior) in pairs {
            let text = format!("posterior = {posterior}\nprior = {prior}");
            let config: ModelConfig = toml::from_str(&text).expect("a config");
            let (variables, own) = (nn::VarStore::new(1), OwnParts::default());
            let parts = Parts::build(&config, &shape.into(), &own, &variables);
            let traits = Traits::of(&config);
            assert_eq!(
                parts.posterior.support(),
                traits.posterior.support,
                "{text}"
            );
            assert_eq!(parts.prior.support(), traits.prior.support, "{text}");
            let has_codes = parts.posterior.quantizer().is_some();
            assert_eq!(has_codes, config.posterior.has_codes(), "{text}");
            assert_eq!(
                parts.prior.is_base() && traits.prior.support == Some(crate::Support::Euclidean),
                traits.prior.is_standard_normal,
                "{text}"
            );
        }
    }
}
