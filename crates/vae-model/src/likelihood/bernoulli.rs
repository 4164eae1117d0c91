//! `likelihood = "bernoulli"`.

use tch::{Kind, Tensor};
use vae_torch::{Generator, bernoulli_log_prob};

use super::{GraphLikelihood, Likelihood, bytes_to_zero_one};
use crate::Mode;
use crate::graph::{Graph, Value};

#[derive(Debug)]
pub(super) struct Bernoulli;

impl Likelihood for Bernoulli {
    fn scale(&self, images: &Tensor) -> Tensor {
        bytes_to_zero_one(images)
    }

    fn log_prob(&self, logits: &Tensor, targets: &Tensor, _: Mode) -> Tensor {
        bernoulli_log_prob(logits, targets).unwrap_or_else(|error| panic!("{error}"))
    }

    fn mean_image(&self, logits: &Tensor) -> Tensor {
        logits.sigmoid()
    }

    fn sample(&self, logits: &Tensor, generator: &mut Generator) -> Tensor {
        // libtorch's own function fails on NaN, which a diverged model produces.
        let is_white = generator.uniform_like(logits).lt_tensor(&logits.sigmoid());
        is_white.to_kind(Kind::Float)
    }
}

impl GraphLikelihood for Bernoulli {
    fn mean_graph(&self, graph: &mut Graph, logits: &Value) -> Option<Value> {
        Some(graph.elementwise("Sigmoid", &[logits]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_has_its_own_log_probability() {
        let log_prob = |logits: &[f32]| {
            let logits = Tensor::from_slice(logits).view([1, 1, 1, 1, 2]);
            let targets = Tensor::from_slice(&[1_f32, 0.0]).view([1, 1, 1, 2]);
            Bernoulli
                .log_prob(&logits, &targets, Mode::Evaluate)
                .double_value(&[0, 0])
        };
        // Logits 0 and ln 3 (p = ½ and ¾), targets 1 and 0: ln ½ + ln ¼.
        assert!((log_prob(&[0.0, 3_f32.ln()]) - 0.125_f64.ln()).abs() < 1e-6);
        // Stays finite for distant logits, unlike the log of a sigmoid.
        assert!((log_prob(&[-200.0, 200.0]) + 400.0).abs() < 1e-3);
    }
}
