//! `prior.vamp`: a mixture of the posteriors of learned images.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};
use vae_torch::Generator;

use super::{Prior, PriorContext, n_components};
use crate::math::log_mean_exp;
use crate::network::LARGEST_SIZE;
use crate::nn::{self, Init};
use crate::{ImageShape, ModelError, Support};

/// p(z) = 1/n Σ_k q(z|u_k) with learned pseudo-inputs u_k (VampPrior, Tomczak & Welling 2018,
/// <https://arxiv.org/abs/1705.07120>, eq. 9). The optimal prior is the aggregate posterior of all training images;
/// this is that of n learned images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VampConfig {
    /// Number of pseudo-inputs. Each training step encodes all of them; an evaluation encodes them once. Default 500.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub pseudo_inputs: i64,
}

impl Default for VampConfig {
    fn default() -> Self {
        Self { pseudo_inputs: 500 }
    }
}

impl VampConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        n_components("model.prior.vamp.pseudo_inputs", self.pseudo_inputs)
    }

    pub(super) fn build(&self, path: &nn::Path, image: ImageShape) -> Vamp {
        let size = [
            self.pseudo_inputs,
            image.channels,
            image.height,
            image.width,
        ];
        let noise = Init::Randn {
            mean: 0.0,
            stdev: 1.0,
        };
        Vamp {
            logits: path.var("pseudo_inputs", &size, noise),
        }
    }
}

#[derive(Debug)]
pub(super) struct Vamp {
    /// Logits of the pseudo-inputs' pixels, `[n, C, H, W]`.
    logits: Tensor,
}

/// Distance of an initial pixel from black and white, where the sigmoid is flat.
const MARGIN: f64 = 0.02;

impl Vamp {
    /// The pseudo-inputs, with values from 0 to 255.
    fn pseudo_inputs(&self) -> Tensor {
        self.logits.sigmoid() * 255.0
    }
}

impl Prior for Vamp {
    fn support(&self) -> Option<Support> {
        None
    }

    fn log_prob(&self, latents: &Tensor, context: PriorContext) -> Tensor {
        let posteriors = (context.distribution)(&context.own_params(|| self.pseudo_inputs()));
        match posteriors.log_prob(&latents.unsqueeze(1)) {
            Some(log_prob) => log_mean_exp(&log_prob.tr()), // of [n, N]
            // A custom posterior may lack it at times. NaN makes the finite check name this place.
            None => Tensor::full(
                [latents.size()[0]],
                f64::NAN,
                (Kind::Float, latents.device()),
            ),
        }
    }

    fn sample(
        &self,
        n: i64,
        device: Device,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Tensor {
        let n_inputs = self.logits.size()[0];
        let chosen = generator.randint(n_inputs, [n], (Kind::Int64, device));
        let params = match context.kept {
            Some(_) => context
                .own_params(|| self.pseudo_inputs())
                .index_select(0, &chosen),
            None => (context.params)(&self.pseudo_inputs().index_select(0, &chosen)),
        };
        let posteriors = (context.distribution)(&params);
        let latent_dims = posteriors.center().size()[1];
        let noise = generator.normal([1, n, latent_dims], device) * context.temperature;
        posteriors.draw(&noise).latents.squeeze_dim(0)
    }

    fn has_temperature(&self) -> bool {
        true
    }

    fn n_start_images(&self) -> usize {
        self.logits.size()[0] as usize
    }

    /// Initializes the pseudo-inputs with training images, as the authors' `use_training_data_init`.
    fn start_from(&self, images: &Tensor) {
        let indices = Tensor::arange(self.logits.size()[0], (Kind::Int64, images.device()));
        let chosen = images.index_select(0, &indices.remainder(images.size()[0]));
        let values = (chosen.to_kind(Kind::Float) / 255.0).clamp(MARGIN, 1.0 - MARGIN);
        no_grad(|| self.logits.shallow_clone().copy_(&values.logit(None)));
    }
}
