//! `prior.real_nvp`: a standard normal transformed by an invertible network.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use super::{Prior, PriorContext};
use crate::math::standard_normal_log_prob;
use crate::network::{
    LARGEST_DEPTH, LARGEST_SIZE, Layer, NextActivation, check_depth, check_sizes,
};
use crate::{Initialization, ModelError, nn};

/// p(z) = N(f(z); 0, I)·|det ∂f/∂z| with f a chain of affine coupling layers (RealNVP, Dinh et al. 2017,
/// <https://arxiv.org/abs/1605.08803>, eq. 7 and 8; as a prior Huang et al. 2017, <https://arxiv.org/abs/1710.02248>).
/// Initially the flow is the identity and the prior the standard normal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RealNvpConfig {
    /// Number of coupling layers; each changes half of the dimensions. Default 8.
    #[schemars(range(min = 1, max = LARGEST_DEPTH))]
    pub layers: i64,
    /// Width of the two hidden layers of each coupling layer's network. Default 128.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub hidden: i64,
}

impl Default for RealNvpConfig {
    fn default() -> Self {
        Self {
            layers: 8,
            hidden: 128,
        }
    }
}

impl RealNvpConfig {
    pub(super) fn check(&self, latent_dims: i64) -> Result<(), ModelError> {
        check_depth("model.prior.real_nvp.layers", self.layers)?;
        check_sizes("model.prior.real_nvp.hidden", &[self.hidden])?;
        if latent_dims < 2 {
            return Err(ModelError::config(
                "model.prior.real_nvp",
                "a coupling layer changes one part of the latent by the other, and \
                 model.latent_dims = 1 has no two; at least 2 would fit, or gaussian_mixture",
            ));
        }
        Ok(())
    }

    /// A flow of this shape. With `n_features` above 0 it is p(z|c), and every method takes the features of c,
    /// `[N, n_features]`.
    pub(crate) fn build(
        &self,
        path: &nn::Path,
        latent_dims: i64,
        n_features: i64,
        initialization: Initialization,
    ) -> RealNvp {
        let sizes = CouplingSizes {
            latent_dims,
            n_features,
            hidden: self.hidden,
        };
        let couplings = (0..self.layers)
            .map(|i| Coupling::new(path / i, sizes, i, initialization))
            .collect();
        RealNvp {
            latent_dims,
            couplings,
        }
    }
}

/// The flow, also of `sampler::flow`.
#[derive(Debug)]
pub(crate) struct RealNvp {
    latent_dims: i64,
    couplings: Vec<Coupling>,
}

impl RealNvp {
    /// ln p(z) in nats, `[N]`.
    pub(crate) fn log_density(&self, latents: &Tensor, features: Option<&Tensor>) -> Tensor {
        let (normal, log_det) = self.to_normal(latents, features);
        standard_normal_log_prob(&normal) + log_det
    }

    /// f(z) `[N, Z]` and ln |det ∂f/∂z| `[N]`.
    fn to_normal(&self, latents: &Tensor, features: Option<&Tensor>) -> (Tensor, Tensor) {
        let mut x = latents.shallow_clone();
        let mut log_det = latents.zeros_like().sum_dim_intlist(-1, false, Kind::Float);
        for coupling in &self.couplings {
            let (changed, log_scale) = coupling.forward(&x, features);
            x = changed;
            log_det += log_scale.sum_dim_intlist(-1, false, Kind::Float);
        }
        (x, log_det)
    }

    /// f⁻¹.
    pub(crate) fn inverse(&self, noise: &Tensor, features: Option<&Tensor>) -> Tensor {
        let couplings = self.couplings.iter().rev();
        couplings.fold(noise.shallow_clone(), |x, coupling| {
            coupling.inverse(&x, features)
        })
    }
}

impl Prior for RealNvp {
    fn log_prob(&self, latents: &Tensor, _: PriorContext) -> Tensor {
        self.log_density(latents, None)
    }

    fn sample(
        &self,
        n: i64,
        device: Device,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Tensor {
        let noise = generator.normal([n, self.latent_dims], device) * context.temperature;
        self.inverse(&noise, None)
    }

    fn has_temperature(&self) -> bool {
        true
    }
}

/// x_b → x_b·exp(s(x_a)) + t(x_a), while x_a stays the same. The dimensions a and b alternate between layers: first and
/// second half, then even and odd.
#[derive(Debug)]
struct Coupling {
    /// Dimensions that stay the same, then those that change.
    order: Vec<i64>,
    n_kept: i64,
    layers: [Layer<nn::Linear>; 3],
}

#[derive(Clone, Copy)]
struct CouplingSizes {
    latent_dims: i64,
    n_features: i64,
    hidden: i64,
}

impl Coupling {
    fn new(
        path: nn::Path,
        sizes: CouplingSizes,
        index: i64,
        initialization: Initialization,
    ) -> Self {
        let CouplingSizes {
            latent_dims,
            n_features,
            hidden,
        } = sizes;
        let by_parity = index / 2 % 2 == 1;
        let is_first = |dim: &i64| match by_parity {
            true => dim % 2 == 0,
            false => *dim < latent_dims / 2,
        };
        let (first, second): (Vec<i64>, Vec<i64>) = (0..latent_dims).partition(is_first);
        let (kept, changed) = match index % 2 {
            0 => (first, second),
            _ => (second, first),
        };
        let n_changed = changed.len() as i64;
        let n_kept = kept.len() as i64;
        let layers = [
            initialization.linear(&path / 0, n_kept + n_features, hidden, NextActivation::Relu),
            initialization.linear(&path / 1, hidden, hidden, NextActivation::Relu),
            // Zero: the coupling is initially the identity.
            initialization.linear(&path / 2, hidden, 2 * n_changed, NextActivation::Sum),
        ];
        Self {
            order: [kept, changed].concat(),
            n_kept,
            layers,
        }
    }

    fn forward(&self, x: &Tensor, features: Option<&Tensor>) -> (Tensor, Tensor) {
        let (kept, changed) = self.split(x);
        let (log_scale, shift) = self.parameters(&kept, features);
        let changed = changed * log_scale.exp() + shift;
        (self.join(&kept, &changed), log_scale)
    }

    fn inverse(&self, y: &Tensor, features: Option<&Tensor>) -> Tensor {
        let (kept, changed) = self.split(y);
        let (log_scale, shift) = self.parameters(&kept, features);
        self.join(&kept, &((changed - shift) * (-log_scale).exp()))
    }

    /// ln s within ±2 and t, `[N, n_changed]` each, in f32 even if the network computes in half precision.
    fn parameters(&self, kept: &Tensor, features: Option<&Tensor>) -> (Tensor, Tensor) {
        let [first, second, last] = &self.layers;
        let input = match features {
            Some(features) => Tensor::cat(&[kept, features], 1),
            None => kept.shallow_clone(),
        };
        let output = input.apply(first).relu().apply(second).relu().apply(last);
        let halves = output.to_kind(Kind::Float).chunk(2, 1);
        ((&halves[0] * 0.5).tanh() * 2.0, halves[1].shallow_clone())
    }

    fn split(&self, x: &Tensor) -> (Tensor, Tensor) {
        let ordered = x.index_select(1, &Tensor::from_slice(&self.order).to_device(x.device()));
        let n_changed = x.size()[1] - self.n_kept;
        (
            ordered.narrow(1, 0, self.n_kept),
            ordered.narrow(1, self.n_kept, n_changed),
        )
    }

    fn join(&self, kept: &Tensor, changed: &Tensor) -> Tensor {
        let mut places = vec![0; self.order.len()];
        for (place, &dim) in (0..).zip(&self.order) {
            places[dim as usize] = place;
        }
        let places = Tensor::from_slice(&places).to_device(kept.device());
        Tensor::cat(&[kept, changed], 1).index_select(1, &places)
    }
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::*;
    use crate::prior::tests::{NO_CONTEXT, assert_integrates_to_1, assert_samples_fit_log_prob};

    /// A flow with weights from a formula.
    fn flow(latent_dims: i64) -> RealNvp {
        let variables = nn::VarStore::new(1);
        let config = RealNvpConfig {
            layers: 4,
            hidden: 7,
        };
        let flow = config.build(&variables.root(), latent_dims, 0, Initialization::default());
        let mut named: Vec<_> = variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        for (i, (_, mut variable)) in named.into_iter().enumerate() {
            let phases = Tensor::arange(variable.numel() as i64, (Kind::Float, Device::Cpu));
            let wave = (phases * 0.7 + i as f64).sin() * 0.3;
            no_grad(|| variable.copy_(&wave.view_(variable.size())));
        }
        flow
    }

    fn latents(n: i64, latent_dims: i64) -> Tensor {
        let phases = Tensor::arange(n * latent_dims, (Kind::Float, Device::Cpu));
        (phases * 1.3 + 0.4).sin().view([n, latent_dims]) * 1.5
    }

    #[test]
    fn a_fresh_flow_is_the_standard_normal() {
        let variables = nn::VarStore::new(1);
        let config = RealNvpConfig::default();
        let flow = config.build(&variables.root(), 5, 0, Initialization::default());
        let latents = latents(6, 5);
        let wanted = standard_normal_log_prob(&latents);
        let difference = (flow.log_prob(&latents, NO_CONTEXT) - wanted).abs().max();
        assert_eq!(difference.double_value(&[]), 0.0);
    }

    #[test]
    fn the_log_determinant_is_that_of_the_jacobian() {
        for latent_dims in [2, 3, 5] {
            let flow = flow(latent_dims);
            let latents = latents(4, latent_dims).set_requires_grad(true);
            let (normal, log_det) = flow.to_normal(&latents, None);
            // Row i of each latent's Jacobian: the gradient of output i.
            let rows: Vec<Tensor> = (0..latent_dims)
                .map(|i| {
                    let output = normal.select(1, i).sum(Kind::Float);
                    Tensor::run_backward(&[output], &[&latents], true, false).remove(0)
                })
                .collect();
            let jacobian = Tensor::stack(&rows, 1).to_kind(Kind::Double); // [N, Z, Z]
            let (_, wanted) = Tensor::linalg_slogdet(&jacobian);
            let difference = (log_det.to_kind(Kind::Double) - wanted).abs().max();
            assert!(difference.double_value(&[]) < 1e-5, "{latent_dims}");
        }
    }

    #[test]
    fn layers_keep_halves_and_then_every_second_dimension_in_turns() {
        let orders: Vec<_> = flow(4).couplings.into_iter().map(|c| c.order).collect();
        // Dimensions that stay the same, then those that change.
        let wanted = [[0, 1, 2, 3], [2, 3, 0, 1], [0, 2, 1, 3], [1, 3, 0, 2]];
        assert_eq!(orders, wanted);
    }

    #[test]
    fn the_inverse_leads_back() {
        let flow = flow(5);
        let latents = latents(7, 5);
        let back = flow.inverse(&flow.to_normal(&latents, None).0, None);
        assert!((back - latents).abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn it_is_a_density_and_draws_from_it() {
        let flow = flow(2);
        assert_integrates_to_1(&flow);
        assert_samples_fit_log_prob(&flow, 2);
    }
}
