//! `posterior.planar`: planar flows (Rezende & Mohamed 2015, <https://arxiv.org/abs/1505.05770>).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::diagonal_gaussian::DiagonalGaussian;
use super::{GraphFamily, Latents, NoiseScale, Posterior, PosteriorFamily};
use crate::network::LARGEST_DEPTH;

/// Planar flows (Rezende & Mohamed 2015, <https://arxiv.org/abs/1505.05770>). log q(z|x) is known only for latents that
/// the posterior itself drew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlanarConfig {
    /// Number of flows in sequence. Default 4.
    #[schemars(range(min = 1, max = LARGEST_DEPTH))]
    pub flows: i64,
}

impl Default for PlanarConfig {
    fn default() -> Self {
        Self { flows: 4 }
    }
}

impl PlanarConfig {
    /// Number of values that the encoder gives for each image: mean and log-variance, and u, w, b of each flow.
    pub(super) fn n_params(&self, latent_dims: i64) -> i64 {
        2 * latent_dims + self.flows * (2 * latent_dims + 1)
    }
}

#[derive(Debug)]
pub(super) struct PlanarFamily {
    pub(super) latent_dims: i64,
}

impl PosteriorFamily for PlanarFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(Planar::new(params, self.latent_dims))
    }
}

impl GraphFamily for PlanarFamily {}

/// A diagonal Gaussian followed by flows z ← z + û·tanh(wᵀz + b), whose parameters depend on the image (eq. 10).
#[derive(Debug)]
struct Planar {
    /// The encoder's output `[B, P]`.
    params: Tensor,
    latent_dims: i64,
    base: DiagonalGaussian,
    flows: Vec<Flow>,
}

impl Planar {
    fn new(params: &Tensor, latent_dims: i64) -> Self {
        let base = params.narrow(1, 0, 2 * latent_dims);
        let n_params = params.size()[1];
        let flow_params = 2 * latent_dims + 1;
        let starts = (2 * latent_dims..n_params).step_by(flow_params as usize);
        Self {
            params: params.shallow_clone(),
            latent_dims,
            base: DiagonalGaussian::new(&base, NoiseScale::StandardDeviation),
            flows: starts
                .map(|start| Flow::new(&params.narrow(1, start, flow_params), latent_dims))
                .collect(),
        }
    }

    /// Applies all flows to latents of the base `[…, B, Z]`. Also returns ln |det ∂z/∂z₀| `[…, B]`.
    fn flow(&self, base: &Tensor) -> (Tensor, Tensor) {
        let mut latents = base.shallow_clone();
        let mut log_det = latents.select(-1, 0).zeros_like();
        for flow in &self.flows {
            let flowed;
            (latents, flowed) = flow.forward(&latents);
            log_det += flowed;
        }
        (latents, log_det)
    }
}

impl Posterior for Planar {
    fn center(&self) -> Tensor {
        self.flow(self.base.mean()).0
    }

    /// log q(z|x) = log q(z₀|x) − ln |det ∂z/∂z₀| (eq. 13).
    fn draw(&self, noise: &Tensor) -> Latents {
        let base = self.base.draw(noise);
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
        Box::new(Self::new(&self.params.detach(), self.latent_dims))
    }
}

/// One flow, with parameters for each image.
#[derive(Debug)]
struct Flow {
    /// û `[B, Z]`.
    shift: Tensor,
    /// w `[B, Z]`.
    normal: Tensor,
    /// b `[B]`.
    bias: Tensor,
    /// 1 + wᵀû > 0, `[B]`.
    slope: Tensor,
}

impl Flow {
    /// `params` `[B, 2·Z + 1]`: u, w, b.
    ///
    /// û = u + (m(wᵀu) − wᵀu)·w/‖w‖² has wᵀû = m(wᵀu) > −1, so that the flow can be inverted (A.1). Here m(x) = ln(1 +
    /// (e − 1)·eˣ) − 1 replaces the paper's ln(1 + eˣ) − 1. It also rises from −1 to ∞, but is 0 at 0, so that û stays
    /// finite for small w, as in an untrained model.
    fn new(params: &Tensor, latent_dims: i64) -> Self {
        let shift = params.narrow(1, 0, latent_dims);
        let normal = params.narrow(1, latent_dims, latent_dims);
        let along = (&shift * &normal).sum_dim_intlist(1, true, Kind::Float); // wᵀu [B, 1]
        let length = normal.square().sum_dim_intlist(1, true, Kind::Float);
        let correction = gap(&along) / length.clamp_min(1e-12);
        // m + 1 without cancellation when it is small.
        let slope = (along + ONE_TO_ZERO).softplus();
        Self {
            shift: shift + correction * &normal,
            normal,
            bias: params.select(1, 2 * latent_dims),
            slope: slope.squeeze_dim(1),
        }
    }

    /// Latents `[…, B, Z]` after the flow, and ln |det| `[…, B]`: 1 + (1 − tanh²)·wᵀû (eq. 11, 12).
    fn forward(&self, latents: &Tensor) -> (Tensor, Tensor) {
        let projected = (latents * &self.normal).sum_dim_intlist(-1, false, Kind::Float);
        let bend = (projected + &self.bias).tanh(); // […, B]
        let square = bend.square();
        // Positive except for underflow.
        let det: Tensor = &square + (1.0 - &square) * &self.slope;
        let flowed = latents + bend.unsqueeze(-1) * &self.shift;
        (flowed, det.clamp_min(f64::from(f32::MIN_POSITIVE)).log())
    }
}

/// ln(e − 1), where softplus is 1.
const ONE_TO_ZERO: f64 = 0.541_324_854_612_918_1;

/// m(x) − x = ln(1 + (e⁻ˣ − 1)/e), elementwise, with the relative precision of f32 even when it is small.
fn gap(x: &Tensor) -> Tensor {
    // For very negative x, where m is −1, the exponential would overflow.
    const LOWEST: f64 = -30.0;
    let near = (-x.clamp_min(LOWEST)).expm1() * (-1.0_f64).exp();
    near.log1p() + (LOWEST - x).relu()
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_gap_is_the_closed_form_to_relative_precision() {
        for x in [
            -200_f64, -40.0, -29.0, -3.0, -1e-3, -1e-6, 0.0, 1e-6, 0.5, 10.0, 200.0,
        ] {
            // For small x by its series, −x/e + x²·(1/(2e) − 1/(2e²)).
            let e = 1_f64.exp();
            let wanted = match x.abs() < 1e-2 {
                true => -x / e + x * x * (e - 1.0) / (2.0 * e * e),
                false => (((-x).exp() - 1.0) / e).ln_1p(),
            };
            let found = gap(&Tensor::from(x as f32)).double_value(&[]);
            assert!(
                (found - wanted).abs() <= 1e-6 * wanted.abs(),
                "{x}: {found} vs {wanted}"
            );
        }
        assert!((ONE_TO_ZERO - (1_f64.exp() - 1.0).ln()).abs() < 1e-15);
    }

    #[test]
    fn a_flow_without_a_correction_is_the_papers_formula() {
        // u orthogonal to w, so û = u: z + u·tanh(wᵀz + b), and a determinant of 1.
        let params = Tensor::from_slice(&[1_f32, 2.0, -2.0, 1.0, 0.25]).view([1, 5]);
        let latents = Tensor::from_slice(&[0.5_f32, 1.0]).view([1, 2]);
        let (flowed, log_det) = Flow::new(&params, 2).forward(&latents);
        let bend = 0.25_f64.tanh();
        assert!((flowed.double_value(&[0, 0]) - (0.5 + bend)).abs() < 1e-6);
        assert!((flowed.double_value(&[0, 1]) - (1.0 + 2.0 * bend)).abs() < 1e-6);
        assert!(log_det.double_value(&[0]).abs() < 1e-6);
    }

    #[test]
    fn a_shift_against_the_normal_is_shortened_until_nothing_folds() {
        // z + u·tanh(w·z) with u·w = −6 would not be invertible; û·w = m(−6) = ln(1 + (e − 1)·e⁻⁶) − 1.
        let params = Tensor::from_slice(&[-2_f32, 3.0, 0.0]).view([1, 3]);
        let flow = Flow::new(&params, 1);
        let slope = (1.0 + (1_f64.exp() - 1.0) * (-6_f64).exp()).ln();
        assert!((flow.slope.double_value(&[0]) / slope - 1.0).abs() < 1e-5);
        assert!((flow.shift.double_value(&[0, 0]) - (slope - 1.0) / 3.0).abs() < 1e-6);
        let latents = Tensor::linspace(-3.0, 3.0, 601, (Kind::Float, Device::Cpu));
        let (flowed, _) = flow.forward(&latents.view([-1, 1]));
        let rises = flowed.diff(1, 0, None::<&Tensor>, None::<&Tensor>);
        assert!(rises.min().double_value(&[]) > 0.0);
    }
}
