//! Checks of the config of a model, and of which of its parts fit together. All these refusals are here and, for
//! objectives, in `objective_compatibility.rs`, so that a bad config is refused when it is read.

use crate::config::{MOST_LATENTS, MOST_LATENTS_OF_A_MAP, MOST_SIDE};
use crate::parts::{ModelView, OwnParts};
use crate::{
    DiagonalGaussianConfig, ItemKind, ItemSpec, LikelihoodConfig, MeanActivation, ModelConfig,
    ModelError, NetworkConfig, NoiseScale, PosteriorConfig, PriorConfig, ScaleConfig, Support,
    TopologyConfig,
};

impl ModelConfig {
    /// Checks everything that does not depend on the data.
    ///
    /// # Errors
    /// The first key with an invalid value; parts that do not fit together.
    pub fn check(&self) -> Result<(), ModelError> {
        if let Some(shape) = self.latent_shape {
            if let Some(side) = shape.iter().find(|&side| !(1..=MOST_SIDE).contains(side)) {
                let problem = format!("found {side}, expected numbers from 1 to {MOST_SIDE}");
                return Err(ModelError::config("model.latent_shape", problem));
            }
            let n = self.n_latents();
            if let Some(latent_dims) = self.latent_dims.filter(|&found| found != n) {
                let [channels, height, width] = shape;
                return Err(ModelError::config(
                    "model.latent_dims",
                    format!(
                        "found {latent_dims}, but latent_shape has {channels}·{height}·{width} = {}{}; leave it out",
                        shape.iter().product::<i64>(),
                        match self.topology {
                            TopologyConfig::Pyramid => format!(", and {n} with the map above it"),
                            _ => String::new(),
                        }
                    ),
                ));
            }
        }
        self.network.check()?; // Before its latents are counted.
        let (key, most) = match self.latent_shape {
            Some(_) => ("model.latent_shape", MOST_LATENTS_OF_A_MAP),
            None => ("model.latent_dims", MOST_LATENTS),
        };
        if !(1..=most).contains(&self.n_latents()) {
            let found = self.n_latents();
            let problem = format!("found {found} latents, expected a number from 1 to {most}");
            return Err(ModelError::config(key, problem));
        }
        self.topology.check()?;
        if let Some(hierarchy) = self.network.top_down()
            && let Some(latent_dims) = self.latent_dims.filter(|&n| n != hierarchy.n_latents())
        {
            return Err(ModelError::config(
                "model.latent_dims",
                format!(
                    "found {latent_dims}, but the groups of network.top_down have {} together; leave it out",
                    hierarchy.n_latents()
                ),
            ));
        }
        if let Some(ladder) = self.topology.ladder()
            && let Some(latent_dims) = self.latent_dims.filter(|&n| n != ladder.n_latents())
        {
            return Err(ModelError::config(
                "model.latent_dims",
                format!(
                    "found {latent_dims}, but the levels of topology.ladder have {} together; leave it out",
                    ladder.n_latents()
                ),
            ));
        }
        self.posterior.check(self.n_latents())?;
        self.prior.check(self.n_latents())?;
        self.likelihood.check()?;
        if let Some(condition) = &self.condition {
            condition.check()?;
        }
        OwnParts::default().view(self, None).check()
    }
}

impl ModelView<'_> {
    pub(crate) fn has_encoder(self) -> bool {
        let config = self.posterior.config;
        config.is_none_or(PosteriorConfig::has_encoder)
    }

    /// Refuses parts that do not fit together. What a custom part does not declare is not checked.
    pub(crate) fn check(self) -> Result<(), ModelError> {
        check_model(self)
    }

    /// Refuses items that the network or the likelihood does not support, and a latent map whose size differs from that
    /// of the encoder's last maps.
    pub(crate) fn check_item(self, item: &ItemSpec) -> Result<(), ModelError> {
        match item.kind {
            ItemKind::Image => check_image_model(self)?,
            ItemKind::Array => check_array_model(self, item)?,
            ItemKind::Sound { .. } => check_sound_model(self, item)?,
            ItemKind::Tokens { .. } => check_token_model(self)?,
            _ if self.likelihood.is_none() => {}
            _ => {
                return refuse(
                    "model.likelihood",
                    format!(
                        "{} does not support tokens; the likelihoods here are for images, arrays and sound",
                        self.likelihood_name
                    ),
                );
            }
        }
        let image = item.map();
        match self.network {
            Some(NetworkConfig::TopDown(hierarchy)) => hierarchy.check_image(image)?,
            Some(NetworkConfig::AutoencoderKl(network)) => network.check_image(image)?,
            Some(NetworkConfig::AutoencoderTiny(network)) => network.check_image(image)?,
            _ => {}
        }
        let (Some([_, height, width]), Some(network)) = (self.config.latent_shape, self.network)
        else {
            return Ok(());
        };
        let last = network.last_map([image.height, image.width]);
        match last {
            Some(last) if last != [height, width] => refuse(
                "model.latent_shape",
                format!(
                    "found a map of {height}×{width}, but for items of {image} the encoder's last maps are {}×{}",
                    last[0], last[1]
                ),
            ),
            _ => Ok(()),
        }
    }
}

/// Refuses parts that are not for tokens.
fn check_token_model(model: ModelView) -> Result<(), ModelError> {
    match model.likelihood {
        None | Some(LikelihoodConfig::Categorical) => {}
        Some(_) => {
            return refuse(
                "model.likelihood",
                format!(
                    "{} is a distribution of numbers, and these items are tokens; \"categorical\" would fit",
                    model.likelihood_name
                ),
            );
        }
    }
    if let Some(network) = model.network.filter(|network| !network.is_sequential()) {
        return refuse(
            &format!("model.network.{}", network.name()),
            "it is for numbers, and these items are tokens; recurrent or transformer would fit"
                .to_owned(),
        );
    }
    match model.prior.config {
        Some(PriorConfig::Vamp(_)) => refuse(
            "model.prior.vamp",
            "its pseudo-inputs are images, and these items are tokens; gaussian_mixture or real_nvp would fit"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

/// Refuses parts that are for tokens only.
fn refuse_token_parts(model: ModelView, items: &str, fits: [&str; 2]) -> Result<(), ModelError> {
    let [network_fits, likelihood_fits] = fits;
    if let Some(network) = model.network.filter(|network| network.is_sequential()) {
        return refuse(
            &format!("model.network.{}", network.name()),
            format!("it is for tokens, and these items are {items}; {network_fits} would fit"),
        );
    }
    match model.likelihood {
        Some(LikelihoodConfig::Categorical) => refuse(
            "model.likelihood",
            format!(
                "categorical is a distribution of tokens, and these items are {items}; {likelihood_fits} would fit"
            ),
        ),
        _ => Ok(()),
    }
}

/// Refuses options that exist for arrays only.
fn check_image_model(model: ModelView) -> Result<(), ModelError> {
    refuse_spectral(model, "images")?;
    refuse_token_parts(model, "images", ["conv", "bernoulli"])?;
    if let Some(NetworkConfig::Conv1d(_)) = model.network {
        return refuse(
            "model.network.conv1d",
            "it is for arrays [C, T] or [D], and these are images; conv or residual would fit"
                .to_owned(),
        );
    }
    match model.likelihood.and_then(LikelihoodConfig::of_real_values) {
        Some((ScaleConfig::LearnedPerChannel, _)) => refuse(
            &format!("model.likelihood.{}", model.likelihood_name),
            "a scale for each channel is for arrays, and these are images; \"learned\" would fit"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

fn refuse_spectral(model: ModelView, these: &str) -> Result<(), ModelError> {
    match model.likelihood {
        Some(LikelihoodConfig::Spectral(_)) => refuse(
            "model.likelihood.spectral",
            format!("it is for samples of sound, and these items are {these}; gaussian would fit"),
        ),
        _ => Ok(()),
    }
}

/// Refuses what is not for sound `[C, T]`.
fn check_sound_model(model: ModelView, item: &ItemSpec) -> Result<(), ModelError> {
    match model.likelihood {
        None | Some(LikelihoodConfig::Spectral(_)) => {}
        Some(_) => {
            return refuse(
                "model.likelihood",
                format!(
                    "{} does not support samples of sound; spectral would fit, or [dataset.audio_folder.spectrogram] with gaussian",
                    model.likelihood_name
                ),
            );
        }
    }
    if let Some(PriorConfig::Vamp(_)) = model.prior.config {
        let problem =
            "its pseudo-inputs are images, and these items are sound; gaussian_mixture would fit";
        return refuse("model.prior.vamp", problem.to_owned());
    }
    match model.network {
        None | Some(NetworkConfig::Mlp(_) | NetworkConfig::Conv1d(_)) => Ok(()),
        Some(_) => refuse(
            "model.network",
            format!(
                "its convolutions are two-dimensional, found sound of {item} samples; conv1d would fit, or a spectrogram (dataset.audio_folder.spectrogram)"
            ),
        ),
    }
}

/// Refuses options that exist for images only.
fn check_array_model(model: ModelView, item: &ItemSpec) -> Result<(), ModelError> {
    refuse_spectral(model, "arrays")?;
    refuse_token_parts(model, "arrays", ["conv1d or mlp", "gaussian"])?;
    let likelihood = model.likelihood_name;
    match model.likelihood.map(LikelihoodConfig::of_real_values) {
        Some(None) => {
            return refuse(
                "model.likelihood",
                format!(
                    "{likelihood} is a distribution of pixels, and these items are arrays of real values; \
                     gaussian, laplace or student_t would fit"
                ),
            );
        }
        Some(Some((_, MeanActivation::Tanh | MeanActivation::Sigmoid))) => {
            return refuse(
                &format!("model.likelihood.{likelihood}.mean"),
                "real values are unbounded; linear would fit".to_owned(),
            );
        }
        None | Some(Some((_, MeanActivation::Linear))) => {}
    }
    if let Some(PriorConfig::Vamp(_)) = model.prior.config {
        return refuse(
            "model.prior.vamp",
            "its pseudo-inputs are images, and these items are arrays; gaussian_mixture or real_nvp would fit"
                .to_owned(),
        );
    }
    match (model.network, item.map().height) {
        (None | Some(NetworkConfig::Mlp(_)), _) | (Some(NetworkConfig::Conv1d(_)), 1) => Ok(()),
        (Some(NetworkConfig::Conv1d(_)), _) => refuse(
            "model.network.conv1d",
            format!(
                "it is for arrays [C, T] or [D], found items of {item}; conv or residual would fit"
            ),
        ),
        (_, 1) => refuse(
            "model.network",
            format!(
                "its convolutions are two-dimensional, found items of {item}; conv1d or mlp would fit"
            ),
        ),
        _ => Ok(()),
    }
}

/// Refuses parts of a model that do not fit together.
fn check_model(model: ModelView) -> Result<(), ModelError> {
    let ModelView {
        config,
        posterior,
        prior,
        ..
    } = model;
    if config.network.top_down().is_some() {
        check_hierarchy(model)?;
    }
    match config.topology {
        TopologyConfig::Flat => {}
        TopologyConfig::Ladder(_) => check_ladder(model)?,
        TopologyConfig::Pyramid => check_pyramid(model)?,
    }
    if let (Some(of_posterior), Some(of_prior)) = (posterior.traits, prior.traits)
        && let Some(support) = of_prior.support
        && support != of_posterior.support
    {
        let fits = match of_posterior.support {
            Support::Euclidean => "a prior on all of space, such as standard_normal",
            Support::Sphere => "hyperspherical_uniform or vamp",
            Support::Codes => "uniform_codes",
        };
        return refuse(
            "model.prior",
            format!(
                "{} is a distribution {}, but the posterior {} has its latents {}; {fits} would fit",
                prior.name,
                place(support),
                posterior.name,
                place(of_posterior.support),
            ),
        );
    }
    if config.decoder_spectral_norm && model.network.is_none() {
        return refuse(
            "model.decoder_spectral_norm",
            "it applies to the built-in networks; a custom network has to normalize its own weights"
                .to_owned(),
        );
    }
    if let Some(network) = model.network.filter(|network| network.is_sequential()) {
        let name = network.name();
        if config.decoder_spectral_norm {
            return refuse(
                "model.decoder_spectral_norm",
                format!("the network {name} has no such norm; without it would fit"),
            );
        }
        if !model.has_encoder() {
            return refuse(
                "model.posterior",
                format!(
                    "without an encoder (posterior = \"none\") a discriminator has to judge samples, and the tokens of \
                     the network {name} pass no gradient; diagonal_gaussian would fit"
                ),
            );
        }
    }
    if config.latent_shape.is_some() {
        check_map(model)?;
    }
    if let Some(PosteriorConfig::LookupFree(signs)) = posterior.config {
        let channels = config.latent_shape.map(|[channels, ..]| channels);
        signs.check_dims(config.n_latents(), channels)?;
    }
    if !model.has_encoder()
        && prior
            .traits
            .is_some_and(|traits| !traits.is_standard_normal)
    {
        return refuse(
            "model.prior",
            format!(
                "without an encoder (posterior = \"none\") latents are drawn from N(0, I), and the prior is {}; \
                 standard_normal would fit",
                prior.name
            ),
        );
    }
    if let (Some(PriorConfig::ConditionalGaussian), None) = (prior.config, &config.condition) {
        return refuse(
            "model.prior",
            "conditional_gaussian has a Gaussian for each condition, and the model has none; \
             [model.condition] with classes = true or attributes would fit, or standard_normal"
                .to_owned(),
        );
    }
    if let (Some(PriorConfig::Vamp(_)), Some(_)) = (prior.config, &config.condition) {
        return refuse(
            "model.prior.vamp",
            "its pseudo-inputs go through the encoder, which in a model with a condition needs that of \
             each; standard_normal or conditional_gaussian would fit"
                .to_owned(),
        );
    }
    if let Some(PriorConfig::Vamp(_)) = prior.config {
        if posterior.traits.is_some_and(|traits| !traits.has_log_prob) {
            return refuse(
                "model.prior.vamp",
                format!(
                    "it is a mixture of posteriors and needs log q(z|x) at any z in closed form, which \
                     the posterior {} does not have; diagonal_gaussian, full_covariance or \
                     von_mises_fisher would fit",
                    posterior.name
                ),
            );
        }
        if let Some(name) = model.network.and_then(NetworkConfig::batch_norm) {
            return refuse(
                "model.prior.vamp",
                format!(
                    "its pseudo-inputs go through the encoder in a batch of their own, and the batch norm of \
                     the network {name} would take them for photos; conv or residual would fit"
                ),
            );
        }
    }
    Ok(())
}

/// Refuses parts that a hierarchy does not support.
fn check_hierarchy(model: ModelView) -> Result<(), ModelError> {
    let key = "model.network.top_down";
    let ModelView {
        config,
        posterior,
        prior,
        ..
    } = model;
    if model.network.is_none() {
        return refuse(
            key,
            "it says which latents there are, and an own network has no part in that; mlp would fit"
                .to_owned(),
        );
    }
    let other = [
        ("latent_shape", config.latent_shape.is_some()),
        ("topology", !config.topology.is_flat()),
        ("decoder_spectral_norm", config.decoder_spectral_norm),
    ];
    if let Some((other, _)) = other.iter().find(|(_, is_there)| *is_there) {
        let why = match *other {
            "decoder_spectral_norm" => {
                "the last layers of its branches begin at 0, and have no norm"
            }
            _ => "it says itself which latents there are",
        };
        return refuse(
            &format!("model.{other}"),
            format!("the network is top_down: {why}; without it would fit"),
        );
    }
    match posterior.config {
        Some(PosteriorConfig::DiagonalGaussian(DiagonalGaussianConfig {
            noise_scale: NoiseScale::StandardDeviation,
        })) => {}
        Some(PosteriorConfig::DiagonalGaussian(_)) => {
            return refuse(
                "model.posterior.diagonal_gaussian.noise_scale",
                "the network top_down has no tutorial's mistake; standard_deviation would fit"
                    .to_owned(),
            );
        }
        _ => {
            return refuse(
                "model.posterior",
                format!(
                    "the network top_down draws a Gaussian in each of its groups, and the posterior is {}; \
                     diagonal_gaussian would fit",
                    posterior
                        .config
                        .map_or(posterior.name, |config| config.name())
                ),
            );
        }
    }
    match prior.config {
        Some(PriorConfig::StandardNormal) => Ok(()),
        _ => refuse(
            "model.prior",
            format!(
                "the network top_down has a Gaussian prior for each of its groups, and the prior is {}; \
                 standard_normal would fit",
                prior.config.map_or(prior.name, |config| config.name())
            ),
        ),
    }
}

/// Refuses parts that a ladder does not support.
fn check_ladder(model: ModelView) -> Result<(), ModelError> {
    let key = "model.topology.ladder";
    let (config, posterior, prior) = (model.config, model.posterior.config, model.prior.config);
    if config.latent_shape.is_some() {
        return refuse(
            key,
            "its levels are vectors, not maps; latent_shape has to be left out".to_owned(),
        );
    }
    match posterior {
        Some(PosteriorConfig::DiagonalGaussian(DiagonalGaussianConfig {
            noise_scale: NoiseScale::StandardDeviation,
        })) => {}
        Some(PosteriorConfig::DiagonalGaussian(_)) => {
            return refuse(
                "model.posterior.diagonal_gaussian.noise_scale",
                "a ladder weighs estimates by their variances, which a tutorial's mistake has not; \
                 standard_deviation would fit"
                    .to_owned(),
            );
        }
        _ => {
            return refuse(
                key,
                format!(
                    "it weighs a Gaussian estimate of each latent, and the posterior is {}; \
                     diagonal_gaussian would fit",
                    posterior.map_or(model.posterior.name, |config| config.name())
                ),
            );
        }
    }
    match prior {
        Some(PriorConfig::StandardNormal | PriorConfig::ConditionalGaussian) => Ok(()),
        _ => refuse(
            key,
            format!(
                "the prior of its top level has to be a Gaussian, whose kl has a closed form, and the prior \
                 is {}; standard_normal or conditional_gaussian would fit",
                prior.map_or(model.prior.name, |config| config.name())
            ),
        ),
    }
}

/// Refuses parts that a pyramid does not support.
fn check_pyramid(model: ModelView) -> Result<(), ModelError> {
    let key = "model.topology";
    if model.config.latent_shape.is_none() {
        let problem =
            "pyramid has two maps of latents, and latent_shape, which is the lower one, is missing";
        return refuse(key, problem.to_owned());
    }
    match model.posterior.config {
        Some(config) if config.has_codes() => Ok(()),
        _ => refuse(
            key,
            format!(
                "pyramid has two maps of codes, and the posterior is {}; vector_quantized, finite_scalar or \
                 lookup_free would fit, or the topology flat",
                model.posterior.name
            ),
        ),
    }
}

/// Refuses a latent map for parts that do not support maps.
fn check_map(model: ModelView) -> Result<(), ModelError> {
    let posterior = model.posterior;
    if let Some(network) = model.network
        && (network.is_sequential() || matches!(network, NetworkConfig::Mlp(_)))
    {
        return refuse(
            "model.latent_shape",
            format!(
                "the network {} has no feature maps; conv, conv_batch_norm, dcgan or residual would fit, or latent_dims",
                network.name()
            ),
        );
    }
    if posterior.traits.is_some_and(|traits| !traits.is_per_latent) {
        return refuse(
            "model.latent_shape",
            format!(
                "the posterior {} has parameters that belong to no single latent; diagonal_gaussian, deterministic or \
                 finite_scalar would fit, or latent_dims",
                posterior.name
            ),
        );
    }
    match (posterior.config, model.config.latent_shape) {
        (Some(PosteriorConfig::FiniteScalar(codes)), Some([channels, ..])) => {
            let n = codes.levels.len() as i64;
            if n != channels {
                return refuse(
                    "model.latent_shape",
                    format!("found {channels} channels, but a code at each place has {n} levels"),
                );
            }
        }
        (Some(PosteriorConfig::VectorQuantized(config)), Some([channels, ..])) => {
            config.check_map(channels)?;
        }
        _ => {}
    }
    Ok(())
}

fn place(support: Support) -> &'static str {
    match support {
        Support::Euclidean => "on all of space",
        Support::Sphere => "on the unit sphere",
        Support::Codes => "at the levels of codes",
    }
}

/// An error about a key of the config.
pub(crate) fn refuse(key: &str, problem: String) -> Result<(), ModelError> {
    Err(ModelError::config(key, problem))
}
