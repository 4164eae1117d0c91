//! `prior.vamp`: a mixture of the posteriors of images that are learned.

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
/// <https://arxiv.org/abs/1705.07120>, eq. 9): the aggregate posterior, which is the best prior there
/// is, of n images instead of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VampConfig {
    /// Number of pseudo-inputs. Each training step encodes them all; an evaluation does so once.
    /// Default 500.
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
    /// Of the pseudo-inputs' pixels, `[n, C, H, W]`.
    logits: Tensor,
}

/// How far from black and white a pixel of a training image starts: beyond, the sigmoid is flat.
const MARGIN: f64 = 0.02;

impl Vamp {
    /// The learned images, numbers from 0 to 255.
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
            // A posterior of the user's own that has it at times: the finite check names the place.
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
        let noise = generator.normal([1, n, latent_dims], device);
        posteriors.draw(&noise).latents.squeeze_dim(0)
    }

    fn n_start_images(&self) -> usize {
        self.logits.size()[0] as usize
    }

    /// The pseudo-inputs become training images, as in the authors' `use_training_data_init`.
    fn start_from(&self, images: &Tensor) {
        let indices = Tensor::arange(self.logits.size()[0], (Kind::Int64, images.device()));
        let chosen = images.index_select(0, &indices.remainder(images.size()[0]));
        let values = (chosen.to_kind(Kind::Float) / 255.0).clamp(MARGIN, 1.0 - MARGIN);
        no_grad(|| self.logits.shallow_clone().copy_(&values.logit(None)));
    }
}
