//! `posterior.iaf`: inverse autoregressive flow (Kingma et al. 2016,
//! <https://arxiv.org/abs/1606.04934>).

use std::cell::RefCell;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::diagonal_gaussian::DiagonalGaussian;
use super::{GraphFamily, Latents, NoiseScale, Posterior, PosteriorFamily};
use crate::network::layers::{Affine, NextActivation};
use crate::network::{LARGEST_DEPTH, LARGEST_SIZE, check_depth, check_sizes};
use crate::{Initialization, ModelError, nn};

/// Inverse autoregressive flows (Kingma et al. 2016, <https://arxiv.org/abs/1606.04934>). log q(z|x) is known only for
/// latents that the posterior itself drew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IafConfig {
    /// Number of flows in sequence, each with its own network. Default 2.
    #[schemars(range(min = 1, max = LARGEST_DEPTH))]
    pub flows: i64,
    /// Width of the two hidden layers of each network. Default 64.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub hidden: i64,
    /// Length of the context vector that the encoder passes to the flows. Default 64.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub context: i64,
}

impl Default for IafConfig {
    fn default() -> Self {
        Self {
            flows: 2,
            hidden: 64,
            context: 64,
        }
    }
}

impl IafConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        check_depth("model.posterior.iaf.flows", self.flows)?;
        check_sizes("model.posterior.iaf.hidden", &[self.hidden])?;
        check_sizes("model.posterior.iaf.context", &[self.context])
    }

    /// Number of values that the encoder gives for each image: mean, log-variance and context.
    pub(super) fn n_params(&self, latent_dims: i64) -> i64 {
        2 * latent_dims + self.context
    }

    pub(super) fn build(
        &self,
        path: &nn::Path,
        latent_dims: i64,
        initialization: Initialization,
    ) -> IafFamily {
        let network = |flow: i64| {
            let orders = (1..=latent_dims).collect::<Vec<_>>();
            let orders = match flow % 2 {
                0 => orders,
                _ => orders.into_iter().rev().collect(),
            };
            MadeVariables::new(&(path / flow), &orders, self, initialization)
        };
        IafFamily {
            latent_dims,
            networks: (0..self.flows).map(network).collect(),
        }
    }
}

#[derive(Debug)]
pub(super) struct IafFamily {
    latent_dims: i64,
    networks: Vec<MadeVariables>,
}

impl IafFamily {
    fn iaf(&self, params: &Tensor) -> Iaf {
        let context_start = 2 * self.latent_dims;
        let n_context = params.size()[1] - context_start;
        let context = params.narrow(1, context_start, n_context);
        let networks = self.networks.iter();
        Iaf {
            base_params: params.narrow(1, 0, context_start),
            networks: networks
                .map(|network| network.with_context(&context))
                .collect(),
        }
    }
}

impl PosteriorFamily for IafFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(self.iaf(params))
    }
}

impl GraphFamily for IafFamily {}

/// A diagonal Gaussian followed by flows z ← σ⊙z + (1 − σ)⊙m, in which m and σ of a dimension depend on the preceding
/// ones and on the image (eq. 10, 13, 14). The order is reversed from flow to flow.
#[derive(Debug)]
struct Iaf {
    /// Means and log-variances `[B, 2·Z]`.
    base_params: Tensor,
    networks: Vec<Made>,
}

/// Added to the gate s of the networks: initially σ = sigmoid(s) is 0.82, so that the flows change little (the paper's
/// "+1 to +2", §3).
const OPEN_GATE: f64 = 1.5;

impl Iaf {
    fn base(&self) -> DiagonalGaussian {
        DiagonalGaussian::new(&self.base_params, NoiseScale::StandardDeviation)
    }

    /// Applies all flows to latents of the base `[…, B, Z]`. Also returns ln det ∂z/∂z₀ = Σ ln σ `[…, B]`.
    fn flow(&self, base: &Tensor) -> (Tensor, Tensor) {
        let mut latents = base.shallow_clone();
        let mut log_det = latents.select(-1, 0).zeros_like();
        for network in &self.networks {
            let (mean, gate) = network.forward(&latents);
            let gate = gate + OPEN_GATE;
            let open = gate.sigmoid();
            latents = &open * latents + (1.0 - open) * mean;
            log_det += gate.log_sigmoid().sum_dim_intlist(-1, false, Kind::Float);
        }
        (latents, log_det)
    }
}

impl Posterior for Iaf {
    fn center(&self) -> Tensor {
        self.flow(self.base().mean()).0
    }

    /// log q(z|x) = log q(z₀|x) − Σ ln σ (eq. 11).
    fn draw(&self, noise: &Tensor) -> Latents {
        let base = self.base().draw(noise);
        let (latents, log_det) = self.flow(&base.latents);
        Latents {
            latents,
            log_prob: base.log_prob.map(|log_prob| log_prob - log_det),
        }
    }

    fn log_prob(&self, _: &Tensor) -> Option<Tensor> {
        None
    }

    fn detach(&self) -> Box<dyn Posterior> {
        Box::new(Self {
            base_params: self.base_params.detach(),
            networks: self.networks.iter().map(Made::detach).collect(),
        })
    }
}

/// The variables of an autoregressive network (MADE, Germain et al. 2015, <https://arxiv.org/abs/1502.03509>). It has
/// two hidden layers. Each unit has a degree, the number of latent dimensions that it may depend on; units of degree 0
/// depend on the image alone.
#[derive(Debug)]
struct MadeVariables {
    latents: MaskedLinear,
    context: MaskedLinear,
    hidden: MaskedLinear,
    output: MaskedLinear,
}

impl MadeVariables {
    /// `orders`: the position of each latent dimension in the order, from 1.
    fn new(
        path: &nn::Path,
        orders: &[i64],
        config: &IafConfig,
        initialization: Initialization,
    ) -> Self {
        let n_latents = orders.len() as i64;
        let IafConfig {
            hidden, context, ..
        } = *config;
        let degrees: Vec<i64> = (0..hidden)
            .map(|unit| unit * n_latents / hidden) // 0 … Z − 1, equally often
            .collect();
        let twice = [orders, orders].concat(); // m, then s
        let linear =
            |name: &str, shape: [i64; 2], mask: &dyn Fn() -> Tensor, next: NextActivation| {
                let mask = path.constant(&shape, mask);
                MaskedLinear::new(path / name, mask, initialization, next)
            };
        let everything = || Tensor::ones([hidden, context], (Kind::Float, tch::Device::Cpu));
        Self {
            latents: linear(
                "latents",
                [hidden, n_latents],
                &|| mask(&degrees, orders, |to, from| to >= from),
                NextActivation::Relu,
            ),
            context: linear(
                "context",
                [hidden, context],
                &everything,
                NextActivation::Relu,
            ),
            hidden: linear(
                "hidden",
                [hidden, hidden],
                &|| mask(&degrees, &degrees, |to, from| to >= from),
                NextActivation::Relu,
            ),
            output: linear(
                "output",
                [2 * n_latents, hidden],
                &|| mask(&twice, &degrees, |to, from| to > from),
                NextActivation::Output { n_params: 2 },
            ),
        }
    }

    /// The network for images with the context `[B, n_context]`.
    fn with_context(&self, context: &Tensor) -> Made {
        Made {
            context: self.context.masked().forward(context),
            latents: self.latents.masked(),
            hidden: self.hidden.masked(),
            output: self.output.masked(),
        }
    }
}

/// 1 if a unit of degree `to` may depend on one of degree `from`: `[n_to, n_from]`.
fn mask(to: &[i64], from: &[i64], may_see: impl Fn(i64, i64) -> bool) -> Tensor {
    let row = |&to: &i64| from.iter().map(move |&from| (to, from));
    let seen: Vec<f32> = to
        .iter()
        .flat_map(row)
        .map(|(to, from)| f32::from(may_see(to, from)))
        .collect();
    Tensor::from_slice(&seen).view([to.len() as i64, from.len() as i64])
}

/// The variables of a layer, and the mask of its weights.
#[derive(Debug)]
struct MaskedLinear {
    name: String,
    linear: nn::Linear,
    /// `[n_out, n_in]`, not a variable. It follows the weights to their device.
    mask: RefCell<Tensor>,
}

impl MaskedLinear {
    fn new(
        path: nn::Path,
        mask: Tensor,
        initialization: Initialization,
        next: NextActivation,
    ) -> Self {
        let (n_out, n_in) = mask.size2().expect("a mask is a matrix");
        let (name, linear) = initialization.linear(path, n_in, n_out, next).into_parts();
        Self {
            name,
            linear,
            mask: RefCell::new(mask),
        }
    }

    fn masked(&self) -> Affine {
        let device = self.linear.ws.device();
        if self.mask.borrow().device() != device {
            let _ = self.mask.replace_with(|mask| mask.to_device(device));
        }
        Affine {
            name: self.name.clone(),
            weight: &self.linear.ws * &*self.mask.borrow(),
            bias: self.linear.bs.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// An autoregressive network with the context of its images.
#[derive(Debug)]
struct Made {
    /// What the context adds to the first hidden layer, `[B, n_hidden]`.
    context: Tensor,
    latents: Affine,
    hidden: Affine,
    output: Affine,
}

impl Made {
    /// m and s `[…, B, Z]` of latents `[…, B, Z]`.
    fn forward(&self, latents: &Tensor) -> (Tensor, Tensor) {
        let hidden = (self.latents.forward(latents) + &self.context).elu(); // […, B, n_hidden]
        let hidden = self.hidden.forward(&hidden).elu();
        // Under autocast the layers compute in half precision; densities need f32.
        let output = self.output.forward(&hidden).to_kind(Kind::Float); // […, B, 2·Z]
        let latent_dims = latents.size()[latents.dim() - 1];
        (
            output.narrow(-1, 0, latent_dims),
            output.narrow(-1, latent_dims, latent_dims),
        )
    }

    fn detach(&self) -> Self {
        Self {
            context: self.context.detach(),
            latents: self.latents.detach(),
            hidden: self.hidden.detach(),
            output: self.output.detach(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, no_grad};

    use super::*;
    use crate::PosteriorConfig;
    use crate::posterior::laws::{Family, jacobian, normals};

    const CONFIG: IafConfig = IafConfig {
        flows: 2,
        hidden: 13,
        context: 6,
    };

    /// The family with fixed weights, built by hand to reach private fields.
    fn family(latent_dims: i64) -> (nn::VarStore, IafFamily) {
        let filled = Family::new(PosteriorConfig::Iaf(CONFIG), latent_dims);
        let variables = nn::VarStore::new(1);
        let family = CONFIG.build(&variables.root(), latent_dims, Initialization::default());
        let weights = filled.variables.variables();
        for (name, mut variable) in variables.variables() {
            no_grad(|| variable.copy_(&weights[&name]));
        }
        (variables, family)
    }

    #[test]
    fn each_dimension_depends_on_those_before_it_in_an_order_that_is_reversed_between_flows() {
        let (_variables, family) = family(4);
        let params = normals(&[1, 14], 3);
        let q = family.iaf(&params);
        let before = Tensor::ones([4, 4], (Kind::Float, Device::Cpu)).tril(-1);
        for (network, before) in q.networks.iter().zip([&before, &before.transpose(0, 1)]) {
            let latents = normals(&[1, 4], 4).set_requires_grad(true);
            let (mean, gate) = network.forward(&latents);
            for output in [mean, gate] {
                // Exactly 0 where a dependence is excluded, and not 0 where it is allowed.
                let depends = jacobian(&output, &latents).ne(0.0).to_kind(Kind::Float);
                assert!(depends.equal(before), "{depends}");
            }
        }
    }

    #[test]
    fn every_dimension_depends_on_the_image() {
        for latent_dims in [1, 4] {
            let (_variables, family) = family(latent_dims);
            let context = normals(&[1, CONFIG.context], 5).set_requires_grad(true);
            for network in &family.networks {
                let latents = normals(&[1, latent_dims], 6);
                let (mean, gate) = network.with_context(&context).forward(&latents);
                for output in [mean, gate] {
                    let largest = jacobian(&output, &context).abs().amax(-1, false);
                    assert!(largest.min().double_value(&[]) > 0.0);
                }
            }
        }
    }

    #[test]
    fn networks_that_say_nothing_make_a_scale_and_those_that_say_constants_an_affine_map() {
        let (variables, family) = family(3);
        let set = |name: &str, to: &Tensor| {
            no_grad(|| variables.variables()[name].shallow_clone().copy_(to));
        };
        let nothing = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        for flow in 0..2 {
            set(&format!("{flow}.output.weight"), &nothing);
            set(&format!("{flow}.output.bias"), &nothing);
        }
        let params = normals(&[2, 12], 7);
        let latents = normals(&[5, 2, 3], 8);
        let (flowed, log_det) = family.iaf(&params).flow(&latents);
        // σ = 1/(1 + e^(−3/2)) in both flows and all dimensions.
        let open = 1.0 / (1.0 + (-1.5_f64).exp());
        let largest = |t: Tensor| t.abs().max().double_value(&[]);
        assert!(largest(flowed - &latents * (open * open)) < 1e-6);
        assert!(largest(log_det - 6.0 * open.ln()) < 1e-5);

        // m = (1, 2, 3), s + 3/2 = 0 in the last flow: halfway to m.
        let bias = Tensor::from_slice(&[1_f32, 2.0, 3.0, -1.5, -1.5, -1.5]);
        set("1.output.bias", &bias);
        let (flowed, log_det) = family.iaf(&params).flow(&latents);
        let wanted = (&latents * open + bias.narrow(0, 0, 3)) * 0.5;
        assert!(largest(flowed - wanted) < 1e-6);
        assert!(largest(log_det - 3.0 * (open.ln() + 0.5_f64.ln())) < 1e-5);
    }

    #[test]
    fn masks_are_no_variables() {
        let (variables, _family) = family(2);
        let mut names: Vec<String> = variables.variables().into_keys().collect();
        names.retain(|name| name.starts_with("0."));
        names.sort();
        let layers = ["context", "hidden", "latents", "output"];
        let wanted = layers.map(|layer| [format!("0.{layer}.bias"), format!("0.{layer}.weight")]);
        assert_eq!(names, wanted.concat());
    }
}
