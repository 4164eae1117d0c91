//! `posterior.finite_scalar`: discrete codes without a codebook.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::quantized::Quantized;
use super::{GraphFamily, Posterior, PosteriorFamily};
use crate::graph::{Graph, Value};
use crate::{ModelError, Quantizer, Support};

/// Finite scalar quantization (FSQ, Mentzer et al. 2024, <https://arxiv.org/abs/2309.15505>): each latent is bounded
/// and rounded to one of a few levels, and d of them together are a code, one of ∏ L_i. The rounding has a
/// straight-through gradient. There is no density, and so neither kl nor elbo: the regularizer is `"none"`, the prior
/// `"uniform_codes"`.
///
/// In a latent map `[d, h, w]` each place has a code. A vector of Z latents holds Z/d codes: the first latents of all
/// codes, then their second ones, and so on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FiniteScalarConfig {
    /// L_i, the number of levels of each of the d latents of a code. The paper recommends at least 5; the default gives
    /// 1,000 codes. The number of latents must be a multiple of d. Default `[8, 5, 5, 5]`.
    #[schemars(length(min = 1), inner(range(min = 2, max = MOST_LEVELS)))]
    pub levels: Vec<i64>,
}

impl Default for FiniteScalarConfig {
    fn default() -> Self {
        Self {
            levels: vec![8, 5, 5, 5],
        }
    }
}

/// The most levels of a latent.
const MOST_LEVELS: i64 = 1 << 10;

/// The largest number of codes. A counter for each of them has to fit into memory.
const MOST_CODES: i64 = 1 << 24;

/// Distance of the outermost levels from the limits of tanh, as in the paper's program.
const MARGIN: f64 = 1e-3;

impl FiniteScalarConfig {
    pub(super) fn check(&self, latent_dims: i64) -> Result<(), ModelError> {
        let key = "model.posterior.finite_scalar.levels";
        let refuse = |problem: String| Err(ModelError::config(key, problem));
        if let Some(n) = self.levels.iter().find(|&n| !(2..=MOST_LEVELS).contains(n)) {
            return refuse(format!(
                "found {n}, expected numbers from 2 to {MOST_LEVELS}"
            ));
        }
        let n_codes = self
            .levels
            .iter()
            .try_fold(1_i64, |product, &n| product.checked_mul(n))
            .filter(|&n| n <= MOST_CODES);
        let d = self.levels.len() as i64;
        match n_codes {
            None => refuse(format!("they make more than {MOST_CODES} codes")),
            Some(_) if d == 0 => refuse("found none, expected at least one".to_owned()),
            Some(_) if latent_dims % d != 0 => refuse(format!(
                "found {d} levels, and {latent_dims} latent dimensions do not divide into codes; a \
                 multiple of {d} would fit"
            )),
            Some(_) => Ok(()),
        }
    }

    /// ∏_{j<i} L_j of each latent, `[d, 1]`.
    fn basis(&self) -> Tensor {
        let products: Vec<i64> = (0..self.levels.len())
            .map(|i| self.levels[..i].iter().product())
            .collect();
        Tensor::from_slice(&products).unsqueeze(1)
    }

    /// ⌊L/2⌋ of each latent, `[d, 1]`. The levels are k/⌊L/2⌋ for k from −⌊L/2⌋ on.
    fn half_widths(&self, device: Device) -> Tensor {
        let halves: Vec<f32> = self.levels.iter().map(|&n| (n / 2) as f32).collect();
        Tensor::from_slice(&halves).unsqueeze(1).to_device(device)
    }
}

/// Codes from 0 on: Σ_i (k_i + ⌊L_i/2⌋)·∏_{j<i} L_j.
impl Quantizer for FiniteScalarConfig {
    fn n_codes(&self) -> i64 {
        self.levels.iter().product()
    }

    fn n_slots(&self, latent_dims: i64) -> i64 {
        latent_dims / self.levels.len() as i64
    }

    fn codes(&self, latents: &Tensor) -> Tensor {
        let (n, device) = (self.levels.len() as i64, latents.device());
        let halves = self.half_widths(device);
        let most: Vec<f32> = self.levels.iter().map(|&n| (n - 1) as f32).collect();
        let most = Tensor::from_slice(&most).unsqueeze(1).to_device(device);
        let places = (latents.unflatten(-1, [n, -1]) * &halves + halves).round();
        let places = places.clamp_min(0.0).minimum(&most);
        let basis = self.basis().to_device(device);
        (places.to_kind(Kind::Int64) * basis).sum_dim_intlist(-2, false, Kind::Int64)
    }

    fn latents(&self, codes: &Tensor) -> Tensor {
        let device = codes.device();
        let halves = self.half_widths(device);
        let levels = Tensor::from_slice(&self.levels)
            .unsqueeze(1)
            .to_device(device);
        let places = codes
            .unsqueeze(-2)
            .divide_tensor_mode(&self.basis().to_device(device), "floor")
            .remainder_tensor(&levels); // [N, d, n]
        ((places - &halves) / halves).flatten(-2, -1)
    }
}

/// tan(offset/half) of the paper's program, which puts 0 near the middle of an even number of levels.
fn shift(levels: i64) -> f64 {
    (offset(levels) / half(levels)).tan()
}

/// Half of the distance between the outermost levels.
fn half(levels: i64) -> f64 {
    (levels - 1) as f64 * (1.0 - MARGIN) / 2.0
}

/// The shift to the left of an even number of levels.
fn offset(levels: i64) -> f64 {
    if levels % 2 == 0 { 0.5 } else { 0.0 }
}

/// The family, with the constants that bound and round each latent of a code, `[d, 1]` each. They are made once: a
/// tensor made from numbers during a trace would be uninitialized memory in it.
#[derive(Debug)]
pub(super) struct FiniteScalarFamily {
    config: FiniteScalarConfig,
    shift: Tensor,
    half: Tensor,
    offset: Tensor,
    half_width: Tensor,
}

impl FiniteScalarFamily {
    pub(super) fn new(config: FiniteScalarConfig) -> Self {
        let column = |of: fn(i64) -> f64| {
            let values: Vec<f32> = config.levels.iter().map(|&n| of(n) as f32).collect();
            Tensor::from_slice(&values).unsqueeze(1)
        };
        Self {
            shift: column(shift),
            half: column(half),
            offset: column(offset),
            half_width: config.half_widths(Device::Cpu),
            config,
        }
    }
}

impl PosteriorFamily for FiniteScalarFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        let (n, device) = (self.config.levels.len() as i64, params.device());
        let [shift, half, offset, half_width] =
            [&self.shift, &self.half, &self.offset, &self.half_width]
                .map(|column| column.to_device(device));
        let of_code = params.unflatten(1, [n, -1]); // [B, d, n_codes]
        let bounded = (of_code + shift).tanh() * half - offset;
        // Rounded, with the gradient of the unrounded values.
        let places = (bounded.round() - &bounded).detach() + &bounded;
        let latents = (places / half_width).flatten(1, 2); // [B, Z]
        Box::new(Quantized {
            codes: self.config.codes(&latents),
            latents,
            penalty: None,
            named: vec![],
        })
    }

    fn support(&self) -> Support {
        Support::Codes
    }

    fn quantizer(&self) -> Option<&dyn Quantizer> {
        Some(&self.config)
    }
}

impl GraphFamily for FiniteScalarFamily {
    fn graph(&self, graph: &mut Graph, params: &Value) -> Option<Vec<Value>> {
        // The constants of each latent, in the order of the latents.
        let n_places = params.shape[0] / self.config.levels.len() as i64;
        let spread = |of: &dyn Fn(i64) -> f64| {
            let of_latents = self.config.levels.iter().map(|&n| of(n) as f32);
            let values: Vec<f32> = of_latents
                .flat_map(|value| std::iter::repeat_n(value, n_places as usize))
                .collect();
            Tensor::from_slice(&values)
        };
        let [shift, half, offset, width] = [
            spread(&shift),
            spread(&half),
            spread(&offset),
            spread(&|n| (n / 2) as f64),
        ]
        .map(|values| graph.constant(values));
        let shifted = graph.elementwise("Add", &[params, &shift]);
        let bounded = graph.elementwise("Tanh", &[&shifted]);
        let bounded = graph.elementwise("Mul", &[&bounded, &half]);
        let bounded = graph.elementwise("Sub", &[&bounded, &offset]);
        let places = graph.elementwise("Round", &[&bounded]);
        Some(vec![graph.elementwise("Div", &[&places, &width])])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(levels: &[i64]) -> FiniteScalarFamily {
        FiniteScalarFamily::new(FiniteScalarConfig {
            levels: levels.to_vec(),
        })
    }

    #[test]
    fn numbers_are_those_of_the_papers_program() {
        // From the authors' fsq.ipynb, levels [3, 5, 4] and z = (0.25, 0.6, −7): zhat (0, 0.5, −1), code 1 + 3·3 +
        // 15·0.
        let family = family(&[3, 5, 4]);
        let params = Tensor::from_slice(&[0.25_f32, 0.6, -7.0]).view([1, 3]);
        let posterior = family.distribution(&params);
        assert_eq!(
            posterior.center(),
            Tensor::from_slice(&[0.0_f32, 0.5, -1.0]).view([1, 3])
        );
        assert_eq!(
            posterior.codes().expect("codes").int64_value(&[0, 0]),
            1 + 3 * 3
        );
    }

    #[test]
    fn every_code_is_reached_once_and_the_extremes_are_the_outermost_levels() {
        let family = family(&[3, 4]);
        // A fine grid of the plane.
        let line = Tensor::linspace(-6.0, 6.0, 400, (Kind::Float, Device::Cpu));
        let params = Tensor::cartesian_prod(&[&line, &line]);
        let posterior = family.distribution(&params);
        let (latents, codes) = (posterior.center(), posterior.codes().expect("codes"));
        let counts = codes.view(-1).bincount::<Tensor>(None, 12);
        assert_eq!(counts.size(), [12]);
        assert!(counts.min().int64_value(&[]) > 500, "each code many times");
        assert_eq!(latents.select(1, 0).max().double_value(&[]), 1.0);
        assert_eq!(latents.select(1, 1).max().double_value(&[]), 0.5);
        assert_eq!(latents.min().double_value(&[]), -1.0);
        // Levels stay the same; values between them go to the nearest level.
        assert_eq!(family.config.nearest(&latents), latents);
        let between = Tensor::from_slice(&[0.4_f32, 0.9]).view([1, 2]);
        let nearest = Tensor::from_slice(&[0.0_f32, 0.5]).view([1, 2]);
        assert_eq!(family.config.nearest(&between), nearest);
    }

    #[test]
    fn a_map_has_a_code_at_each_place_in_the_order_of_its_channels() {
        let family = family(&[3, 5]);
        // Channels [2, 1, 3], so z is (c0p0, c0p1, c0p2, c1p0, c1p1, c1p2).
        let params = Tensor::from_slice(&[-9.0_f32, 0.0, 9.0, 9.0, 0.0, -9.0]).view([1, 6]);
        let codes = family.distribution(&params).codes().expect("codes");
        // Levels 0, 1, 2 of the first latent and 4, 2, 0 of the second, by place.
        assert_eq!(
            Vec::<i64>::try_from(codes.get(0)).expect("codes"),
            [12, 7, 2]
        );
    }

    #[test]
    fn gradients_are_those_of_the_bounded_numbers() {
        let family = family(&[8, 5]);
        let params = Tensor::from_slice(&[0.3_f32, -0.8])
            .view([1, 2])
            .set_requires_grad(true);
        family
            .distribution(&params)
            .center()
            .sum(Kind::Float)
            .backward();
        for (i, levels) in [8, 5].into_iter().enumerate() {
            let x = params.double_value(&[0, i as i64]) + shift(levels);
            let wanted = (1.0 - x.tanh().powi(2)) * half(levels) / (levels / 2) as f64;
            let found = params.grad().double_value(&[0, i as i64]);
            assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
        }
    }

    #[test]
    fn codes_and_their_latents_are_each_others_inverse() {
        let config = FiniteScalarConfig {
            levels: vec![3, 2, 5],
        };
        let codes = Tensor::arange(30, (Kind::Int64, Device::Cpu)).view([10, 3]);
        let latents = config.latents(&codes);
        assert_eq!(latents.size(), [10, 9]);
        assert_eq!(config.codes(&latents), codes);
        assert_eq!(config.nearest(&latents), latents);
    }
}
