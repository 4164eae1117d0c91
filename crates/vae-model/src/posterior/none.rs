//! `posterior = "none"`: a model without an encoder.

use tch::{Kind, Tensor};

use super::{GraphFamily, Latents, Posterior, PosteriorFamily};

#[derive(Debug)]
pub(super) struct NoneFamily;

impl PosteriorFamily for NoneFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(Unconditional {
            center: params.zeros_like().to_kind(Kind::Float),
        })
    }
}

impl GraphFamily for NoneFamily {}

/// The prior N(0, I) for every image: the latents of a generator know nothing of the image.
#[derive(Debug)]
struct Unconditional {
    /// Zeros, `[B, Z]`.
    center: Tensor,
}

impl Posterior for Unconditional {
    fn center(&self) -> Tensor {
        self.center.shallow_clone()
    }

    fn draw(&self, noise: &Tensor) -> Latents {
        Latents {
            latents: noise.shallow_clone(),
            log_prob: None,
        }
    }

    fn log_prob(&self, _: &Tensor) -> Option<Tensor> {
        None
    }

    fn detach(&self) -> Box<dyn Posterior> {
        Box::new(Self {
            center: self.center.shallow_clone(),
        })
    }
}
