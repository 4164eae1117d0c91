//! Checks of an objective, and of whether it fits a model.

use crate::compatibility::refuse;
use crate::objective::{CODE_NLL, at_least_0};
use crate::parts::{ModelView, OwnParts};
use crate::{
    DecoderPenalty, Estimator, Judged, LikelihoodConfig, ModelConfig, ModelError, NetworkConfig,
    Objective, PerceptualConfig, Regularizer, Support, Term, Vae,
};

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

impl ModelView<'_> {
    /// Refuses an objective that does not fit the model, or whose parts do not fit together.
    pub(crate) fn check_objective(self, objective: &Objective) -> Result<(), ModelError> {
        if !self.has_encoder() {
            check_generator(objective)?;
        } else {
            check_regularizer(self, &objective.regularizer)?;
        }
        check_estimator(self, objective)?;
        check_decoder_penalty(self, objective)?;
        check_tokens(self, objective)?;
        check_adversarial(self, objective)
    }
}

/// Refuses objectives that compare items as numbers, of a model of tokens.
fn check_tokens(model: ModelView, objective: &Objective) -> Result<(), ModelError> {
    let Some(network) = model.network.filter(|network| network.is_sequential()) else {
        return Ok(());
    };
    let other = [
        ("adversarial", objective.adversarial.is_some()),
        ("perceptual", objective.perceptual.is_some()),
        (
            "regularizer.pixel_mean",
            matches!(objective.regularizer, Regularizer::PixelMean(_)),
        ),
        (
            "decoder_penalty.gradient_penalty",
            matches!(
                objective.decoder_penalty,
                DecoderPenalty::GradientPenalty(_)
            ),
        ),
    ];
    match other.into_iter().find(|(_, is_there)| *is_there) {
        None => Ok(()),
        Some((key, _)) => refuse(
            &format!("objective.{key}"),
            format!(
                "it compares decoded items as numbers, and those of the network {} are tokens; without it would fit",
                network.name()
            ),
        ),
    }
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
        Regularizer::Kl(config) if config.is_by_group() && model.config.group_sizes().is_none() => {
            wants(
                "free_bits_per_group and beta_schedule.by_group need groups of latents",
                "topology.ladder or network.top_down would fit, or free_bits and beta_schedule.warm_up",
            )
        }
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
    if estimator.takes_gradients_apart()
        && let Some(NetworkConfig::TopDown(_)) = model.network
    {
        return refuse(
            &key,
            "encoder and decoder get gradients of their own, and the network top_down draws its latents on the \
             decoder's way down; iwae, miwae or ciwae without doubly_reparameterized would fit"
                .to_owned(),
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
        if let Some(name) = model.network.and_then(NetworkConfig::batch_norm) {
            return refuse(
                &key,
                format!(
                    "{why}, image by image, and the batch norm of the network {name} makes \
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
    if let Some(NetworkConfig::TopDown(_)) = model.network {
        return refuse(
            key,
            "it is the gradient of each decoded image by its latents, which the network top_down draws on the \
             decoder's way down; l2 or \"none\" would fit"
                .to_owned(),
        );
    }
    if let Some(name) = model.network.and_then(NetworkConfig::batch_norm) {
        return refuse(
            key,
            format!(
                "it is the gradient of each decoded image by its own latent, and the batch norm of the \
                 network {name} makes images depend on each other; conv or residual would fit, or the \
                 penalty l2"
            ),
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
