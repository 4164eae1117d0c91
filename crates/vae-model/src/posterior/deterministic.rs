//! `posterior = "deterministic"`: one latent for an image, as in an autoencoder.

use tch::Tensor;

use super::{GraphFamily, Latents, Posterior, PosteriorFamily};
use crate::graph::{Graph, Value};

#[derive(Debug)]
pub(super) struct DeterministicFamily;

impl PosteriorFamily for DeterministicFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(Deterministic {
            code: params.shallow_clone(),
        })
    }
}

impl GraphFamily for DeterministicFamily {
    fn graph(&self, _: &mut Graph, params: &Value) -> Option<Vec<Value>> {
        Some(vec![params.clone()])
    }
}

/// q(z|x) concentrated in one point.
#[derive(Debug)]
struct Deterministic {
    /// `[B, Z]`.
    code: Tensor,
}

impl Posterior for Deterministic {
    fn center(&self) -> Tensor {
        self.code.shallow_clone()
    }

    fn draw(&self, noise: &Tensor) -> Latents {
        Latents {
            latents: self.code.unsqueeze(0).expand(noise.size(), false),
            log_prob: None,
        }
    }

    fn log_prob(&self, _: &Tensor) -> Option<Tensor> {
        None
    }

    fn detach(&self) -> Box<dyn Posterior> {
        Box::new(Self {
            code: self.code.detach(),
        })
    }
}
