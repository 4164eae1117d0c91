//! Checks of an objective, and of whether it fits a model.

use crate::compatibility::refuse;
use crate::objective::CODE_NLL;
use crate::parts::{ModelView, OwnParts};
use crate::{
    DecoderPenalty, Estimator, LikelihoodConfig, ModelConfig, ModelError, NetworkConfig, Objective,
    Regularizer, Support, Term, Vae,
};

impl Vae {
    /// Refuses an objective with invalid values, or one that does not fit this model and its custom parts.
    ///
    /// # Errors
    /// The first invalid key, and what would fit.
    pub fn check_objective(&self, objective: &Objective) -> Result<(), ModelError> {
        objective.check_values()?;
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
        self.decoder_penalty.check()
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
        check_regularizer(self, &objective.regularizer)?;
        check_estimator(self, objective)?;
        check_decoder_penalty(self, objective)
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
            Regularizer::None | Regularizer::LatentNorm(_) => false,
            Regularizer::Mmd(config) => config.kl_weight > 0.0,
            _ => true,
        };
        return match has_kl {
            false => Ok(()),
            true => refuse(
                &key,
                format!(
                    "the posterior {} has no density and so no kl; \"none\", latent_norm, or mmd with \
                     kl_weight = 0 would fit",
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
