//! `posterior.lookup_free`: codes whose latents are signs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use super::quantized::{COMMITMENT, Quantized};
use super::{GraphFamily, Posterior, PosteriorFamily};
use crate::graph::{Graph, Value};
use crate::network::check_sizes;
use crate::{Direction, ModelError, Quantizer, Support, Term};

/// Lookup-free quantization (LFQ, Yu et al. 2024, <https://arxiv.org/abs/2310.05737>): each latent becomes its sign, −1 or
/// 1, and d of them together are a code, one of 2^d. The rounding has a straight-through gradient. The loss gets the
/// commitment β·|z − sign(z)|², and an entropy penalty: sure of each code, and all codes equally frequent. There is no
/// density, and so neither kl nor elbo: the regularizer is `"none"`, the prior `"uniform_codes"`.
///
/// In a latent map `[d, h, w]` each place has a code. A vector of Z latents is one code, or with `code_dims` = d it is
/// Z/d of them: the first latents of all codes, then their second ones, and so on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LookupFreeConfig {
    /// d, latents of a code. By default all channels of a place in a map, else all latents.
    #[schemars(range(min = 1, max = MOST_BITS))]
    pub code_dims: Option<i64>,
    /// β, the weight of the commitment. Default 0.25.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub commitment: f64,
    /// The weight of the entropy penalty H(b|x) − H(b), summed over the latents b of an item, whose sign is positive with
    /// probability σ(4·z). H(b) is that of a latent of the code over all items and places of the batch. Default 0.1.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub entropy: f64,
}

impl Default for LookupFreeConfig {
    fn default() -> Self {
        Self {
            code_dims: None,
            commitment: 0.25,
            entropy: 0.1,
        }
    }
}

/// H(b|x) − H(b), before its weight.
pub(crate) const ENTROPY_PENALTY: Term = Term::new("entropy_penalty", Term::NATS, Direction::Lower);

/// The most latents of a code: a counter for each code has to fit into memory.
const MOST_BITS: i64 = 20;

const KEY: &str = "model.posterior.lookup_free";

impl LookupFreeConfig {
    pub(super) fn check(&self, latent_dims: i64) -> Result<(), ModelError> {
        let refuse =
            |key: &str, problem: String| Err(ModelError::config(format!("{KEY}.{key}"), problem));
        if let Some(code_dims) = self.code_dims {
            check_sizes(&format!("{KEY}.code_dims"), &[code_dims])?;
            if code_dims > MOST_BITS {
                let problem = format!("found {code_dims}, expected at most {MOST_BITS}");
                return refuse("code_dims", problem);
            }
            if latent_dims % code_dims != 0 {
                return refuse(
                    "code_dims",
                    format!(
                        "{latent_dims} latent dimensions do not divide into codes of {code_dims}; a multiple of \
                         {code_dims} would fit"
                    ),
                );
            }
        }
        for (key, weight) in [("commitment", self.commitment), ("entropy", self.entropy)] {
            if !(0.0..=1e6).contains(&weight) {
                let problem = format!("found {weight:?}, expected a number from 0 to 1e6");
                return refuse(key, problem);
            }
        }
        Ok(())
    }

    /// Checks the channels of a latent map, or without one the number of latents.
    pub(crate) fn check_dims(
        &self,
        latent_dims: i64,
        channels: Option<i64>,
    ) -> Result<(), ModelError> {
        match (channels, self.code_dims) {
            (Some(channels), Some(dims)) if channels != dims => Err(ModelError::config(
                "model.latent_shape",
                format!(
                    "found {channels} channels, but a code at each place has {dims} latents; leave code_dims out"
                ),
            )),
            _ if self.dims(latent_dims, channels) > MOST_BITS => Err(ModelError::config(
                KEY,
                format!(
                    "a code has {} latents, expected at most {MOST_BITS}; code_dims divides them",
                    self.dims(latent_dims, channels)
                ),
            )),
            _ => Ok(()),
        }
    }

    fn dims(&self, latent_dims: i64, channels: Option<i64>) -> i64 {
        self.code_dims.or(channels).unwrap_or(latent_dims)
    }

    /// `channels` are those of a latent map.
    pub(super) fn build(&self, latent_dims: i64, channels: Option<i64>) -> LookupFreeFamily {
        LookupFreeFamily {
            config: self.clone(),
            signs: Signs {
                code_dims: self.dims(latent_dims, channels),
            },
        }
    }
}

#[derive(Debug)]
pub(super) struct LookupFreeFamily {
    config: LookupFreeConfig,
    signs: Signs,
}

/// Codes of d signs, the first one the lowest bit.
#[derive(Debug)]
struct Signs {
    code_dims: i64,
}

impl PosteriorFamily for LookupFreeFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        let signs = signs_of(params);
        let commitment = (params - &signs)
            .square()
            .sum_dim_intlist(-1, false, Kind::Float); // [B]
        let of_code = (params * 4.0).unflatten(1, [self.signs.code_dims, -1]); // [B, d, P]
        let of_items = entropy(&of_code).sum_dim_intlist([1_i64, 2].as_slice(), false, Kind::Float);
        let share = of_code
            .sigmoid()
            .mean_dim([0_i64, 2].as_slice(), false, Kind::Float); // [d]
        let n_places = of_code.size()[2] as f64;
        let of_all = entropy(&share.logit(None)).sum(Kind::Float) * n_places;
        let gap = of_items - of_all;
        Box::new(Quantized {
            latents: (&signs - params).detach() + params,
            codes: self.signs.codes(params),
            penalty: Some(&commitment * self.config.commitment + &gap * self.config.entropy),
            named: vec![(COMMITMENT, commitment), (ENTROPY_PENALTY, gap)],
        })
    }

    fn support(&self) -> Support {
        Support::Codes
    }

    fn quantizer(&self) -> Option<&dyn Quantizer> {
        Some(&self.signs)
    }
}

impl GraphFamily for LookupFreeFamily {
    fn graph(&self, graph: &mut Graph, params: &Value) -> Option<Vec<Value>> {
        // The sign of 0 is 0, which counts as positive.
        let signs = graph.elementwise("Sign", &[params]);
        let signs = graph.with_number(&signs, "Add", 0.5);
        Some(vec![graph.elementwise("Sign", &[&signs])])
    }
}

impl Quantizer for Signs {
    fn n_codes(&self) -> i64 {
        1 << self.code_dims
    }

    fn n_slots(&self, latent_dims: i64) -> i64 {
        latent_dims / self.code_dims
    }

    fn codes(&self, latents: &Tensor) -> Tensor {
        let is_positive = latents.ge(0.0).unflatten(1, [self.code_dims, -1]); // [N, d, P]
        let places = Tensor::arange(self.code_dims, (Kind::Int64, latents.device()));
        let values = places.ones_like().bitwise_left_shift(&places).unsqueeze(1); // [d, 1]
        (is_positive.to_kind(Kind::Int64) * values).sum_dim_intlist(1, false, Kind::Int64)
    }

    fn latents(&self, codes: &Tensor) -> Tensor {
        let places = Tensor::arange(self.code_dims, (Kind::Int64, codes.device()));
        let bits = codes
            .unsqueeze(1)
            .bitwise_right_shift(&places.unsqueeze(1))
            .remainder(2); // [N, d, P]
        bits.flatten(1, -1).to_kind(Kind::Float) * 2.0 - 1.0
    }
}

/// −1 or 1.
fn signs_of(latents: &Tensor) -> Tensor {
    no_grad(|| latents.ge(0.0).to_kind(Kind::Float) * 2.0 - 1.0)
}

/// The entropy in nats of a Bernoulli variable with these logits l: softplus(l) − l·σ(l).
fn entropy(logits: &Tensor) -> Tensor {
    logits.softplus() - logits * logits.sigmoid()
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn family(code_dims: i64, entropy: f64) -> LookupFreeFamily {
        let config = LookupFreeConfig {
            entropy,
            ..Default::default()
        };
        config.build(code_dims, None)
    }

    #[test]
    fn codes_are_bits_and_stand_for_signs() {
        let signs = Signs { code_dims: 3 };
        // Two places: channels first.
        let latents = Tensor::from_slice(&[1.0_f32, -1.0, -1.0, -1.0, 1.0, 1.0]).view([1, 6]);
        let codes = signs.codes(&latents);
        assert_eq!(Vec::<i64>::try_from(codes.get(0)).expect("codes"), [5, 4]);
        assert_eq!(signs.latents(&codes), latents);
        let all = Tensor::arange(8, (Kind::Int64, Device::Cpu)).view([8, 1]);
        assert_eq!(signs.codes(&signs.latents(&all)), all);
    }

    #[test]
    fn the_penalty_is_commitment_and_entropies() {
        let params = Tensor::from_slice(&[0.3_f32, -0.5, 1.5, 0.2]).view([2, 2]);
        let posterior = family(2, 0.7).distribution(&params);
        let (penalty, _) = posterior.penalty().expect("one");
        let h = |p: f64| -p * p.ln() - (1.0 - p) * (1.0 - p).ln();
        let p = |z: f64| 1.0 / (1.0 + (-4.0 * z).exp());
        let of_all = h(f64::midpoint(p(0.3), p(1.5))) + h(f64::midpoint(p(-0.5), p(0.2)));
        for (i, z) in [[0.3, -0.5], [1.5, 0.2]].into_iter().enumerate() {
            let commitment: f64 = z.iter().map(|z: &f64| (z - z.signum()).powi(2)).sum();
            let wanted = 0.25 * commitment + 0.7 * (h(p(z[0])) + h(p(z[1])) - of_all);
            let found = penalty.double_value(&[i as i64]);
            assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
        }
    }

    #[test]
    fn the_gradient_passes_the_signs() {
        let params = Tensor::from_slice(&[0.3_f32, -0.5])
            .view([1, 2])
            .set_requires_grad(true);
        let center = family(2, 0.0).distribution(&params).center();
        assert_eq!(center, Tensor::from_slice(&[1.0_f32, -1.0]).view([1, 2]));
        (center * Tensor::from_slice(&[2.0_f32, 3.0]))
            .sum(Kind::Float)
            .backward();
        assert_eq!(
            params.grad(),
            Tensor::from_slice(&[2.0_f32, 3.0]).view([1, 2])
        );
    }
}
