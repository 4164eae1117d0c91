//! The `[model]` table of a config file: the parts of a model.

use std::ops::Range;

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::network::upper_map;
use crate::posterior::{COMMITMENT, ENTROPY_PENALTY};
use crate::quantizer::CODE_TERMS;
use crate::{
    ConditionConfig, Direction, Initialization, LikelihoodConfig, NetworkConfig, PosteriorConfig,
    PriorConfig, Term, TopDownConfig, TopologyConfig,
};

/// The parts of a model (`[model]` in a config file).
///
/// ```
/// let config: vae_model::ModelConfig = toml::from_str(r#"
///     latent_dims = 20
///     likelihood = "bernoulli"
///     [network.mlp]
///     hidden = [400]
/// "#).expect("a valid model");
/// assert_eq!(config.n_latents(), 20);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Z, the number of latent dimensions. With 2, `vae manifold` can draw the whole latent space.
    /// By default 2, or the size of `latent_shape`, or of all levels of `topology` or groups of `network.top_down`.
    #[schemars(range(min = 1, max = MOST_LATENTS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latent_dims: Option<i64>,
    /// Channels, rows and columns of latents that are a map, in which each place encodes its part of the image. For
    /// convolutional networks, whose last maps must have that size. By default latents are a vector.
    #[schemars(inner(range(min = 1, max = MOST_SIDE)), example = EXAMPLE_SHAPE)]
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "three_numbers"
    )]
    pub latent_shape: Option<[i64; 3]>,
    /// The dependence between latents: a single group, or levels that are drawn one given the other. Default `"flat"`.
    #[serde(skip_serializing_if = "TopologyConfig::is_flat")]
    #[schemars(extend("default" = "flat"))]
    pub topology: TopologyConfig,
    /// p(z), the distribution of latents before an image is seen; in a ladder that of the top level. Default
    /// `"standard_normal"`.
    pub prior: PriorConfig,
    /// p(x|z), the distribution of an image's pixels given its latents: what the decoder's output means
    /// and how the reconstruction is measured. Default `"bernoulli"`.
    pub likelihood: LikelihoodConfig,
    /// How the initial weights are drawn. Default `"pytorch"`.
    pub initialization: Initialization,
    /// Divide every weight of the decoder's linear maps and convolutions by its largest singular value as a matrix
    /// (spectral norm, Miyato et al. 2018, <https://arxiv.org/abs/1802.05957>, eq. 8), as the regularized autoencoder
    /// RAE-SN does (Ghosh et al. 2020, <https://arxiv.org/abs/1903.12436>). No linear map then increases a distance,
    /// and no k×k convolution increases one more than k-fold. Default false.
    pub decoder_spectral_norm: bool,
    /// q(z|x), the distribution of latents given an image, from the encoder; in a ladder the encoder's estimate of
    /// each level. Default `diagonal_gaussian`.
    pub posterior: PosteriorConfig,
    /// The layers of encoder and decoder. The default sizes of `conv` make the small MNIST network.
    /// Default `conv`.
    pub network: NetworkConfig,
    /// What the model gets of each item besides the item itself. Without this table the model is unconditional.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<ConditionConfig>,
}

/// The example in docs/config.md.
const EXAMPLE_SHAPE: [i64; 3] = [4, 7, 7];

pub(crate) const MOST_LATENTS: i64 = 1 << 16;

/// A map's latents are not connected with each other, so that there may be more: those of 8,192×8,192 pixels in sixteen channels at
/// an eighth.
pub(crate) const MOST_LATENTS_OF_A_MAP: i64 = 1 << 24;

/// The largest side of a latent map, and its largest number of channels.
pub(crate) const MOST_SIDE: i64 = 1 << 12;

/// Exactly three numbers: serde would silently drop the rest of a longer array.
fn three_numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[i64; 3]>, D::Error> {
    let numbers = Vec::<i64>::deserialize(deserializer)?;
    let n = numbers.len();
    let three = <[i64; 3]>::try_from(numbers);
    let wanted = &"three numbers: channels, rows and columns";
    three
        .map(Some)
        .map_err(|_| Error::invalid_length(n, wanted))
}

/// The kl of the groups of latents that are maps of n×n.
pub(crate) fn resolution_kl(size: i64) -> Term {
    Term {
        name: format!("kl_at_{size}").into(),
        unit: Term::NATS.into(),
        better: Direction::Lower,
    }
}

/// The kl of one level of a ladder, counted from the lowest.
pub(crate) fn level_kl(level: usize) -> Term {
    Term {
        name: format!("kl_{level}").into(),
        unit: Term::NATS.into(),
        better: Direction::Lower,
    }
}

impl ModelConfig {
    /// The declarations of the named terms of such a model besides those of the ELBO: from the draws of a step
    /// ([`Draws::named`](crate::Draws::named)), or from all images of an evaluation ([`CodeUse`](crate::CodeUse)).
    #[must_use]
    pub fn terms(&self) -> Vec<Term> {
        let mut terms = self.latent_terms();
        terms.extend(self.likelihood.terms());
        terms
    }

    /// The named terms of its latents.
    fn latent_terms(&self) -> Vec<Term> {
        if let Some(sizes) = self.group_sizes() {
            let mut terms: Vec<Term> = (1..=sizes.len()).rev().map(level_kl).collect();
            terms.extend(self.resolutions().into_iter().map(resolution_kl));
            return terms;
        }
        match &self.posterior {
            PosteriorConfig::FiniteScalar(_) => CODE_TERMS.to_vec(),
            PosteriorConfig::VectorQuantized(_) => [vec![COMMITMENT], CODE_TERMS.to_vec()].concat(),
            PosteriorConfig::LookupFree(_) => {
                [vec![COMMITMENT, ENTROPY_PENALTY], CODE_TERMS.to_vec()].concat()
            }
            _ => vec![],
        }
    }

    /// Whether a learned prior is trained on the codes directly, because there is no kl to train it.
    pub(crate) fn fits_prior_to_codes(&self) -> bool {
        self.prior.traits().is_learned && !self.posterior.has_density()
    }

    /// The latents of each group from the top down; `None` where there is one group.
    pub(crate) fn group_sizes(&self) -> Option<Vec<i64>> {
        let hierarchy = self.network.top_down().map(|config| {
            let groups = config.groups().into_iter();
            groups.map(|group| group.n_latents()).collect()
        });
        hierarchy.or_else(|| Some(self.topology.ladder()?.levels.clone()))
    }

    /// Ranges of groups ([`Self::latent_groups`]) that belong together, by name: those of the same resolution, as `4×4`,
    /// and where groups are vectors each of them.
    #[must_use]
    pub fn latent_levels(&self) -> Vec<(String, Range<usize>)> {
        let Some(hierarchy) = self.network.top_down() else {
            let groups = self.latent_groups().into_iter().enumerate();
            return groups.map(|(i, (name, _))| (name, i..i + 1)).collect();
        };
        let mut levels: Vec<(String, Range<usize>)> = Vec::new();
        for (i, group) in hierarchy.groups().into_iter().enumerate() {
            let name = format!("{0}×{0}", group.size);
            match levels.last_mut() {
                Some((last, range)) if *last == name => range.end = i + 1,
                _ => levels.push((name, i..i + 1)),
            }
        }
        levels
    }

    /// The sizes of the latent maps of a hierarchy, from the top down, each once; empty in other models.
    pub(crate) fn resolutions(&self) -> Vec<i64> {
        let groups = self.network.top_down().map(TopDownConfig::groups);
        let groups = groups.into_iter().flatten();
        let mut sizes: Vec<i64> = groups.map(|group| group.size).collect();
        sizes.dedup();
        sizes
    }

    /// The same config, with `latent_dims` written out unless a map or levels determine it.
    #[must_use]
    pub fn resolved(self) -> Self {
        let is_said_elsewhere = self.latent_shape.is_some() || self.group_sizes().is_some();
        let latent_dims = (!is_said_elsewhere).then(|| self.n_latents());
        Self {
            latent_dims,
            ..self
        }
    }

    /// Z, the number of latent dimensions: those of the whole map, or of all levels.
    #[must_use]
    pub fn n_latents(&self) -> i64 {
        if let Some(hierarchy) = self.network.top_down() {
            return hierarchy.n_latents();
        }
        match (self.latent_shape, self.topology.ladder()) {
            (Some(_), _) => {
                let maps = self.latent_maps().into_iter();
                maps.map(|map| map.iter().product::<i64>()).sum()
            }
            (None, Some(ladder)) => ladder.n_latents(),
            (None, None) => self.latent_dims.unwrap_or(2),
        }
    }

    /// The shapes `[C, h, w]` of the latent maps from the top down; empty if latents are a vector.
    #[must_use]
    pub fn latent_maps(&self) -> Vec<[i64; 3]> {
        match (self.latent_shape, &self.topology) {
            (Some(lower), TopologyConfig::Pyramid) => vec![upper_map(lower), lower],
            (shape, _) => shape.into_iter().collect(),
        }
    }

    /// The groups of latents by name, as ranges of a latent vector: `z` alone, or the levels of a ladder or pyramid or the
    /// groups of a hierarchy from the top down, as `z2` and `z1`.
    #[must_use]
    pub fn latent_groups(&self) -> Vec<(String, Range<usize>)> {
        let sizes = match (self.group_sizes(), &self.topology) {
            (Some(sizes), _) => sizes,
            (None, TopologyConfig::Pyramid) => {
                let maps = self.latent_maps().into_iter();
                maps.map(|map| map.iter().product()).collect()
            }
            (None, _) => return vec![("z".to_owned(), 0..self.n_latents() as usize)],
        };
        let n_levels = sizes.len();
        let levels = sizes.iter().enumerate();
        let groups = levels.scan(0, |start, (i, &n)| {
            let range = *start..*start + n as usize;
            *start = range.end;
            Some((format!("z{}", n_levels - i), range))
        });
        groups.collect()
    }
}
