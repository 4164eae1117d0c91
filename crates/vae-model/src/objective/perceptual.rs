//! `objective.perceptual`: a reconstruction in the features of a network.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use super::checks::at_least_0;
use super::player::Seen;
use super::{Networks, PlayerNetwork};
use crate::feature_network::FeatureNetwork;
use crate::share::Shared;
use crate::{Direction, Draws, ModelError, Term, Terms, Vae};

/// A further reconstruction: ½·‖f(x) − f(x̃)‖², summed over the features f of an item, as if they were Gaussian with
/// variance 1 (Larsen et al. 2016, <https://arxiv.org/abs/1512.09300>, eq. 8; Johnson et al. 2016,
/// <https://arxiv.org/abs/1603.08155>).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PerceptualConfig {
    /// Its weight beside the reconstruction. Default 1.
    #[schemars(range(min = 0.0, max = 1e12))]
    pub weight: f64,
    /// Whose features. Default `discriminator`.
    pub features: FeaturesConfig,
}

impl Default for PerceptualConfig {
    fn default() -> Self {
        Self {
            weight: 1.0,
            features: FeaturesConfig::default(),
        }
    }
}

/// The network whose features are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FeaturesConfig {
    /// The discriminator of `[objective.adversarial]`.
    Discriminator(DiscriminatorFeaturesConfig),
    /// A network of your own as TorchScript: images f32 `[N, 3, H, W]` in `[0, 1]` to features, a tensor or a tuple or
    /// list of them, each `[N, …]`. Scaling its inputs and its features is its own task (docs/features.md).
    TorchScript(TorchScriptFeaturesConfig),
    /// The three layers of the classifier of MNIST's digits that `cargo xtask classifier` trains, for images of
    /// 1×28×28.
    Classifier(ClassifierFeaturesConfig),
}

impl Default for FeaturesConfig {
    fn default() -> Self {
        Self::Discriminator(DiscriminatorFeaturesConfig::default())
    }
}

/// Features of the discriminator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscriminatorFeaturesConfig {
    /// The hidden layer, counted from 1. By default the last.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
}

/// Features of a TorchScript file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TorchScriptFeaturesConfig {
    /// The file, as `torch.jit.save` writes it.
    #[schemars(example = &"features.pt")]
    pub file: PathBuf,
}

/// Features of the classifier of digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierFeaturesConfig {
    /// The file of `cargo xtask classifier`. Default `"datasets/mnist/classifier.safetensors"`.
    pub file: PathBuf,
}

impl Default for ClassifierFeaturesConfig {
    fn default() -> Self {
        Self {
            file: "datasets/mnist/classifier.safetensors".into(),
        }
    }
}

/// The term without its weight.
pub(super) const TERM: Term =
    Term::new("perceptual_reconstruction", Term::NO_UNIT, Direction::Lower);

impl PerceptualConfig {
    /// Checks the values; `n_layers` are the hidden layers of the discriminator, if there is one.
    pub(crate) fn check(&self, n_layers: Option<usize>) -> Result<(), ModelError> {
        at_least_0("objective.perceptual.weight", self.weight)?;
        let FeaturesConfig::Discriminator(config) = &self.features else {
            return Ok(());
        };
        let key = "objective.perceptual.features.discriminator";
        let Some(n_layers) = n_layers else {
            return Err(ModelError::config(
                key,
                "there is no discriminator; [objective.adversarial], or the features torch_script or classifier would \
                 fit",
            ));
        };
        let layer = config.layer.unwrap_or(n_layers);
        match (1..=n_layers).contains(&layer) {
            true => Ok(()),
            false => Err(ModelError::config(
                format!("{key}.layer"),
                format!("found {layer}, expected a number from 1 to {n_layers}, the hidden layers"),
            )),
        }
    }

    /// Whether its features are those of the discriminator, and change with it.
    pub(crate) fn is_of_discriminator(&self) -> bool {
        matches!(self.features, FeaturesConfig::Discriminator(_))
    }

    /// The fixed network, read from its file; `None` of a discriminator.
    ///
    /// # Errors
    /// A file that does not exist or is no such network.
    pub(super) fn network(&self, vae: &Vae) -> Result<Option<FeatureNetwork>, ModelError> {
        match &self.features {
            FeaturesConfig::Discriminator(_) => Ok(None),
            FeaturesConfig::TorchScript(config) => {
                FeatureNetwork::torch_script(&config.file, vae.device()).map(Some)
            }
            FeaturesConfig::Classifier(config) => {
                FeatureNetwork::digits(&config.file, vae.device()).map(Some)
            }
        }
    }

    /// The term with its weight, a scalar; `None` without the network.
    ///
    /// # Errors
    /// A layer that the network does not have; features that it cannot give of these items.
    pub(super) fn loss(
        &self,
        draws: &Draws,
        vae: &Vae,
        networks: &Networks,
        discriminator: Option<&PlayerNetwork>,
        terms: &mut Terms,
    ) -> Result<Option<Tensor>, ModelError> {
        let condition = draws.condition.as_ref();
        let condition = condition.map(|whole| vae.features(&draws.share.own(whole, 0)));
        let features = |items: Tensor| -> Result<Option<Vec<Tensor>>, ModelError> {
            match (&self.features, discriminator, &networks.features) {
                (FeaturesConfig::Discriminator(config), Some(discriminator), _) => {
                    let side = condition.as_ref().map(Tensor::shallow_clone);
                    let seen = Seen { items, side };
                    let said = draws.share.scope(|| discriminator.judge(&seen, draws.mode));
                    let layer = config.layer.unwrap_or(said.features.len());
                    let mut from = said.features.into_iter().skip(layer.saturating_sub(1));
                    let found = from.next().ok_or_else(|| {
                        ModelError::config(
                            "objective.perceptual.features.discriminator.layer",
                            format!("the discriminator has no hidden layer {layer}"),
                        )
                    })?;
                    Ok(Some(vec![found]))
                }
                (FeaturesConfig::Discriminator(_), None, _) | (_, _, None) => Ok(None),
                (_, _, Some(network)) => network.features(&((items + 1.0) * 0.5)).map(Some),
            }
        };
        let wanted = no_grad(|| features(vae.judged(&draws.targets)))?;
        let found = features(vae.judged_mean(&draws.params.select(0, 0)))?;
        let (Some(wanted), Some(found)) = (wanted, found) else {
            return Ok(None);
        };
        let mut term = Tensor::zeros([], (Kind::Float, vae.device()));
        for (wanted, found) in wanted.iter().zip(&found) {
            let squares = (found - wanted).square().flatten(1, -1);
            let sums = squares.sum_dim_intlist(1, false, Kind::Float); // [B]
            term += draws.share.gathered(&sums, 0).mean(Kind::Float) * 0.5;
        }
        terms.push(TERM, &term);
        Ok(Some(term * self.weight))
    }
}

#[cfg(test)]
mod tests {
    use tch::{CModule, Device};

    use super::*;
    use crate::{ImageShape, LossContext, Mode, ModelConfig, Objective};

    /// A network whose features are the pixels, 16 of each image, three times: the term is 1.5 times the squared error.
    #[test]
    fn the_term_of_a_users_network_is_half_the_squared_distance_of_its_features() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pixels.pt");
        let example = Tensor::zeros([2, 3, 4, 4], (Kind::Float, Device::Cpu));
        let mut pixels = |inputs: &[Tensor]| vec![inputs[0].flatten(1, -1)];
        let module =
            no_grad(|| CModule::create_by_tracing("features", "forward", &[example], &mut pixels));
        module.expect("traced").save(&file).expect("saved");
        let text = format!(
            "[perceptual]\nweight = 2.0\nfeatures.torch_script.file = '{}'",
            file.display()
        );
        let objective: Objective = toml::from_str(&text).expect("an objective");
        let model: ModelConfig = toml::from_str("network.mlp.hidden = [6]").expect("a model");
        objective.check(&model).expect("it fits");
        let shape = ImageShape {
            channels: 1,
            height: 4,
            width: 4,
        };
        let vae = Vae::new(&model, shape, Device::Cpu, 1).expect("a model");
        let networks = objective.networks(&vae, 1).expect("networks");
        let images = Tensor::arange(8 * 16, (Kind::Int64, Device::Cpu));
        let images = (images * 37).remainder(251).to_kind(Kind::Uint8);
        let images = images.view([8, 1, 4, 4]);
        let mut generator = vae.generator(1);
        let draws = vae
            .draw(&images, 1, Mode::Train, &mut generator)
            .expect("draws");
        let context = LossContext {
            vae: &vae,
            step: 0,
            n_images: 8,
        };
        let losses = objective.losses(&draws, context, &networks, &mut generator);
        let losses = losses.expect("losses");
        let errors = vae.errors(&draws, &images).expect("pixels").select(0, 0);
        let squares = errors.square().sum(Kind::Double).double_value(&[]) / 8.0;
        let term = losses
            .terms
            .get(&TERM.name)
            .expect("the term")
            .double_value(&[]);
        assert!(
            (term / (1.5 * squares) - 1.0).abs() < 1e-4,
            "{term} vs {squares}"
        );
        let plain = Objective::default()
            .loss(&draws, context, &mut generator)
            .expect("a loss");
        let added = (losses.model - plain).double_value(&[]);
        assert!(
            (added / (2.0 * term) - 1.0).abs() < 1e-4,
            "{added} vs {term}"
        );
    }

    #[test]
    fn a_missing_file_is_an_error_that_names_it() {
        let text = "[perceptual]\nfeatures.classifier.file = 'no/such/file.safetensors'";
        let objective: Objective = toml::from_str(text).expect("an objective");
        let shape = ImageShape {
            channels: 1,
            height: 28,
            width: 28,
        };
        let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1).expect("a model");
        let said = objective
            .networks(&vae, 1)
            .expect_err("refused")
            .to_string();
        assert!(said.contains("no/such/file.safetensors"), "{said}");
    }
}
