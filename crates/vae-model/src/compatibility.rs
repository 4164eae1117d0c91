//! Checks of whole configs, and of which parts fit together. All refusals are in this module, so that a bad config is
//! refused when it is read.

use crate::config::{MOST_LATENTS, MOST_SIDE};
use crate::objective::{CODE_NLL, at_least_0};
use crate::parts::{ModelView, OwnParts};
use crate::{
    DecoderPenalty, DiagonalGaussianConfig, Estimator, ItemKind, ItemSpec, Judged,
    LikelihoodConfig, MeanActivation, ModelConfig, ModelError, NetworkConfig, NoiseScale,
    Objective, PerceptualConfig, PosteriorConfig, PriorConfig, Regularizer, ScaleConfig, Support,
    Term, Vae,
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
            let n: i64 = shape.iter().product();
            if let Some(latent_dims) = self.latent_dims.filter(|&found| found != n) {
                let [channels, height, width] = shape;
                return Err(ModelError::config(
                    "model.latent_dims",
                    format!(
                        "found {latent_dims}, but latent_shape has {channels}·{height}·{width} = {n}; leave it \
                         out"
                    ),
                ));
            }
        }
        if !(1..=MOST_LATENTS).contains(&self.n_latents()) {
            let found = self.n_latents();
            let problem = format!("found {found}, expected a number from 1 to {MOST_LATENTS}");
            return Err(ModelError::config("model.latent_dims", problem));
        }
        self.topology.check()?;
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
        self.network.check()?;
        if let Some(condition) = &self.condition {
            condition.check()?;
        }
        OwnParts::default().view(self, None).check()
    }
}

impl ModelView<'_> {
    fn has_encoder(self) -> bool {
        let config = self.posterior.config;
        config.is_none_or(PosteriorConfig::has_encoder)
    }

    /// Refuses parts that do not fit together. What a custom part does not declare is not checked.
    pub(crate) fn check(self) -> Result<(), ModelError> {
        check_model(self)
    }

    /// Refuses an objective that does not fit the model, or whose parts do not fit together.
    pub(crate) fn check_objective(self, objective: &Objective) -> Result<(), ModelError> {
        if !self.has_encoder() {
            check_generator(objective)?;
        } else {
            check_regularizer(self, &objective.regularizer)?;
        }
        check_estimator(self, objective)?;
        check_decoder_penalty(self, objective)?;
        check_adversarial(self, objective)
    }

    /// Refuses items that the network or the likelihood does not support, and a latent map whose size differs from that
    /// of the encoder's last maps.
    pub(crate) fn check_item(self, item: &ItemSpec) -> Result<(), ModelError> {
        match item.kind {
            ItemKind::Image => check_image_model(self)?,
            ItemKind::Array => check_array_model(self, item)?,
            _ if self.likelihood.is_none() => {}
            _ => {
                return refuse(
                    "model.likelihood",
                    format!(
                        "{} does not support sound or tokens; the likelihoods here are for images and arrays",
                        self.likelihood_name
                    ),
                );
            }
        }
        let image = item.map();
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

/// Refuses options that exist for arrays only.
fn check_image_model(model: ModelView) -> Result<(), ModelError> {
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

/// Refuses options that exist for images only.
fn check_array_model(model: ModelView, item: &ItemSpec) -> Result<(), ModelError> {
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

impl Vae {
    /// Refuses an objective with invalid values, or one that does not fit this model and its custom parts.
    ///
    /// # Errors
    /// The first invalid key, and what would fit.
    pub fn check_objective(&self, objective: &Objective) -> Result<(), ModelError> {
        objective.check_values()?;
        if let Some(adversarial) = &objective.adversarial
            && !adversarial.augmentation.is_empty()
            && !self.item().is_image()
        {
            return refuse(
                "objective.adversarial.augmentation",
                "it changes images, and these items are arrays; without it would fit".to_owned(),
            );
        }
        self.view().check_objective(objective)
    }
}

impl Objective {
    /// Refuses invalid values, and parts that do not fit each other or the model.
    ///
    /// # Errors
    /// The first invalid key, and what would fit.
    pub fn check(&self, model: &ModelConfig) -> Result<(), ModelError> {
        self.check_values()?;
        OwnParts::default().view(model, None).check_objective(self)
    }

    /// Refuses invalid values.
    pub(crate) fn check_values(&self) -> Result<(), ModelError> {
        self.regularizer.check()?;
        self.estimator.check()?;
        self.decoder_penalty.check()?;
        at_least_0(
            "objective.reconstruction_weight",
            self.reconstruction_weight,
        )?;
        if let Some(adversarial) = &self.adversarial {
            adversarial.check()?;
        }
        if let Some(perceptual) = &self.perceptual {
            let adversarial = self.adversarial.as_ref();
            perceptual.check(adversarial.map(|config| config.discriminator.n_features()))?;
        }
        Ok(())
    }

    /// Declares the named terms that [`Self::loss_and_terms`] returns for such a model.
    #[must_use]
    pub fn terms(&self, model: &ModelConfig) -> Vec<Term> {
        let mut terms = self.own_terms();
        terms.extend(model.fits_prior_to_codes().then_some(CODE_NLL));
        terms
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
    if !config.topology.is_flat() {
        check_ladder(model)?;
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
    if config.latent_shape.is_some() {
        check_map(model)?;
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
        if let Some(NetworkConfig::ConvBatchNorm(_)) = model.network {
            return refuse(
                "model.prior.vamp",
                "its pseudo-inputs go through the encoder in a batch of their own, and the batch norm of \
                 the network conv_batch_norm would take them for photos; conv or residual would fit"
                    .to_owned(),
            );
        }
    }
    Ok(())
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

/// Refuses a latent map for parts that do not support maps.
fn check_map(model: ModelView) -> Result<(), ModelError> {
    let posterior = model.posterior;
    if let Some(NetworkConfig::Mlp(_)) = model.network {
        return refuse(
            "model.latent_shape",
            "the network mlp has no feature maps; conv, conv_batch_norm or residual would fit, or latent_dims"
                .to_owned(),
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
    if let (Some(PosteriorConfig::FiniteScalar(codes)), Some([channels, ..])) =
        (posterior.config, model.config.latent_shape)
    {
        let n = codes.levels.len() as i64;
        if n != channels {
            return refuse(
                "model.latent_shape",
                format!("found {channels} channels, but a code at each place has {n} levels"),
            );
        }
    }
    Ok(())
}

fn check_regularizer(model: ModelView, regularizer: &Regularizer) -> Result<(), ModelError> {
    let key = format!("objective.regularizer.{}", regularizer.name());
    let posterior = model.posterior;
    let (Some(of_posterior), Some(of_prior)) = (posterior.traits, model.prior.traits) else {
        return Ok(());
    };
    let wants = |what: &str, fits: &str| {
        refuse(
            &key,
            format!(
                "{what}, but the posterior is {} and the prior {}; {fits}",
                posterior.name, model.prior.name
            ),
        )
    };
    let is_factorized = of_posterior.is_diagonal_gaussian && of_prior.is_standard_normal;
    if !of_posterior.has_density {
        let has_kl = match regularizer {
            Regularizer::None | Regularizer::LatentNorm(_) | Regularizer::Adversarial(_) => false,
            Regularizer::Mmd(config) => config.kl_weight > 0.0,
            _ => true,
        };
        return match has_kl {
            false => Ok(()),
            true => refuse(
                &key,
                format!(
                    "the posterior {} has no density and so no kl; \"none\", latent_norm, adversarial, or mmd \
                     with kl_weight = 0 would fit",
                    posterior.name
                ),
            ),
        };
    }
    match regularizer {
        Regularizer::None | Regularizer::LatentNorm(_) => wants(
            "without a kl the posterior's noise would shrink to 0",
            "the posterior deterministic, which has no noise, would fit, or the regularizer kl",
        ),
        Regularizer::Kl(config) if config.free_bits > 0.0 && !is_factorized => wants(
            "free_bits needs the kl of each latent dimension",
            "diagonal_gaussian with standard_normal would fit, or free_bits = 0",
        ),
        Regularizer::BetaTc(_) if !is_factorized => wants(
            "it needs latent dimensions that are independent in the posterior and in the prior",
            "diagonal_gaussian with standard_normal would fit, or the regularizer kl",
        ),
        Regularizer::Factor(_) if of_posterior.support != Support::Euclidean => wants(
            "its permuted latents would leave the sphere",
            "diagonal_gaussian with standard_normal would fit, or the regularizer kl",
        ),
        Regularizer::PixelMean(_) if !is_factorized => wants(
            "its formula compares a diagonal Gaussian with a standard normal",
            "diagonal_gaussian with standard_normal would fit, or the regularizer kl",
        ),
        Regularizer::PixelMean(config)
            if config.probability_clip > 0.0
                && !model.likelihood.is_some_and(LikelihoodConfig::has_logits) =>
        {
            refuse(
                &format!("{key}.probability_clip"),
                format!(
                    "the likelihood {} has no logits whose probabilities could be clipped; bernoulli or \
                     scaled_bernoulli would fit, or probability_clip = 0",
                    model.likelihood_name
                ),
            )
        }
        Regularizer::Dip(_) if !of_posterior.has_covariance => wants(
            "it needs the posterior's mean and covariance in closed form",
            "diagonal_gaussian or full_covariance would fit, or the regularizer kl",
        ),
        _ => Ok(()),
    }
}

fn check_estimator(model: ModelView, objective: &Objective) -> Result<(), ModelError> {
    let (estimator, posterior) = (&objective.estimator, model.posterior);
    let Some(of_posterior) = posterior.traits else {
        return Ok(());
    };
    let key = format!("objective.estimator.{}", estimator.name());
    if !of_posterior.has_density && estimator.n_samples() > 1 {
        return refuse(
            &key,
            format!(
                "the posterior {} gives one latent for an image, however often it is asked; \
                 elbo with samples = 1 would fit",
                posterior.name
            ),
        );
    }
    if let Estimator::Elbo(_) = estimator {
        return Ok(());
    }
    if !of_posterior.has_density {
        return refuse(
            &key,
            format!(
                "importance weights need the density of q(z|x), and the posterior {} has none; elbo \
                 would fit",
                posterior.name
            ),
        );
    }
    let is_plain = matches!(&objective.regularizer, Regularizer::Kl(config) if config.is_plain());
    if !is_plain {
        return refuse(
            &key,
            format!(
                "its weights p(x|z)·p(z)/q(z|x) are a bound only as they stand, and the regularizer {} \
                 changes them; kl with beta = 1, without schedule and free bits, would fit, or the \
                 estimator elbo",
                objective.regularizer.name()
            ),
        );
    }
    if matches!(estimator, Estimator::Piwae(_)) && !model.config.topology.is_flat() {
        return refuse(
            &key,
            "encoder and decoder follow different bounds, and the networks between the levels of a ladder are \
             of both; iwae or ciwae would fit"
                .to_owned(),
        );
    }
    if estimator.takes_gradients_apart() {
        let why = match estimator {
            Estimator::Piwae(_) => "encoder and decoder follow different bounds",
            _ => "doubly reparameterized gradients follow z alone",
        };
        if !of_posterior.has_log_prob {
            return refuse(
                &key,
                format!(
                    "{why}, which needs log q(z|x) at any z in closed form, and the posterior {} has \
                     it only where it draws; diagonal_gaussian or full_covariance would fit",
                    posterior.name
                ),
            );
        }
        if let Some(NetworkConfig::ConvBatchNorm(_)) = model.network {
            return refuse(
                &key,
                format!(
                    "{why}, image by image, and the batch norm of the network conv_batch_norm makes \
                     images depend on each other; conv or residual would fit"
                ),
            );
        }
    }
    Ok(())
}

fn check_decoder_penalty(model: ModelView, objective: &Objective) -> Result<(), ModelError> {
    let DecoderPenalty::GradientPenalty(_) = objective.decoder_penalty else {
        return Ok(());
    };
    let key = "objective.decoder_penalty.gradient_penalty";
    let estimator = &objective.estimator;
    if !matches!(estimator, Estimator::Elbo(_)) {
        return refuse(
            key,
            format!(
                "it is a mean over samples, which the estimator {} does not take; elbo would fit",
                estimator.name()
            ),
        );
    }
    if let Some(NetworkConfig::ConvBatchNorm(_)) = model.network {
        return refuse(
            key,
            "it is the gradient of each decoded image by its own latent, and the batch norm of the \
             network conv_batch_norm makes images depend on each other; conv or residual would fit, or \
             the penalty l2"
                .to_owned(),
        );
    }
    Ok(())
}

/// Refuses an objective that a model without an encoder cannot have.
fn check_generator(objective: &Objective) -> Result<(), ModelError> {
    let why = "the model has no encoder (posterior = \"none\")";
    let Some(adversarial) = &objective.adversarial else {
        return refuse(
            "objective",
            format!(
                "{why}, so that only a discriminator can tell it what to generate; [objective.adversarial] would fit"
            ),
        );
    };
    if objective.regularizer != Regularizer::None {
        return refuse(
            &format!("objective.regularizer.{}", objective.regularizer.name()),
            format!(
                "{why} and so no latents of items to regularize; regularizer = \"none\" would fit"
            ),
        );
    }
    if adversarial.judges(false) != Judged::Samples {
        return refuse(
            "objective.adversarial.judges",
            format!("{why}, so that there are only samples to judge; \"samples\" would fit"),
        );
    }
    if adversarial.adaptive_weight {
        return refuse(
            "objective.adversarial.adaptive_weight",
            format!("{why} and so no reconstruction to compare with; false would fit"),
        );
    }
    if objective.perceptual.is_some() {
        return refuse(
            "objective.perceptual",
            format!("{why} and so no reconstructions; without it would fit"),
        );
    }
    match &objective.decoder_penalty {
        DecoderPenalty::GradientPenalty(_) => refuse(
            "objective.decoder_penalty.gradient_penalty",
            format!("{why}, whose latents it is the slope at; l2 or \"none\" would fit"),
        ),
        _ => Ok(()),
    }
}

/// Refuses a discriminator, a weight or a perceptual term that the other parts do not allow.
fn check_adversarial(model: ModelView, objective: &Objective) -> Result<(), ModelError> {
    let Objective {
        adversarial,
        perceptual,
        ..
    } = objective;
    if !matches!(objective.estimator, Estimator::Elbo(_)) {
        let further = [
            ("adversarial", adversarial.is_some()),
            ("perceptual", perceptual.is_some()),
            (
                "reconstruction_weight",
                objective.reconstruction_weight != 1.0,
            ),
        ];
        if let Some((key, _)) = further.into_iter().find(|(_, is_there)| *is_there) {
            return refuse(
                &format!("objective.{key}"),
                format!(
                    "the estimator {} is a bound as a whole, without a reconstruction of its own; elbo would fit",
                    objective.estimator.name()
                ),
            );
        }
    }
    let is_tied = objective.reconstruction_weight > 0.0 || perceptual.is_some();
    let Some(adversarial) = adversarial else {
        return match is_tied {
            true => Ok(()),
            false => refuse(
                "objective.reconstruction_weight",
                "found 0, and nothing else ties the model to the data; [objective.perceptual] or \
                 [objective.adversarial] would fit"
                    .to_owned(),
            ),
        };
    };
    if let Regularizer::Factor(_) = objective.regularizer {
        return refuse(
            "objective.adversarial",
            "the regularizer factor has a discriminator of this name already; beta_tc penalizes the same without one"
                .to_owned(),
        );
    }
    if adversarial.adaptive_weight && model.has_encoder() && !is_tied {
        return refuse(
            "objective.adversarial.adaptive_weight",
            "there is no reconstruction to compare with, its weight is 0; false would fit"
                .to_owned(),
        );
    }
    if perceptual
        .as_ref()
        .is_some_and(PerceptualConfig::is_of_discriminator)
        && adversarial.judges(model.has_encoder()) == Judged::Pairs
    {
        return refuse(
            "objective.perceptual.features.discriminator",
            "the discriminator judges items together with their latents, and reconstructions would be compared by \
             both; judges = \"reconstructions\", \"samples\" or \"both\" would fit"
                .to_owned(),
        );
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

fn refuse(key: &str, problem: String) -> Result<(), ModelError> {
    Err(ModelError::config(key, problem))
}
