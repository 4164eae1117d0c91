//! `posterior = "full_covariance"`: a Gaussian with correlated dimensions.

use tch::{Device, Kind, Tensor};

use super::diagonal_gaussian::bounded;
use super::{ClosedKl, GraphFamily, Latents, Posterior, PosteriorFamily};
use crate::math::LN_2PI;

/// Number of entries of a Z×Z matrix below its diagonal.
fn n_below(latent_dims: i64) -> i64 {
    latent_dims * (latent_dims - 1) / 2
}

/// Values that the encoder gives for each image: mean, diagonal, and the entries below it.
pub(super) fn n_params(latent_dims: i64) -> i64 {
    2 * latent_dims + n_below(latent_dims)
}

#[derive(Debug)]
pub(super) struct FullCovarianceFamily {
    pub(super) latent_dims: i64,
}

impl PosteriorFamily for FullCovarianceFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(FullCovariance::new(params, self.latent_dims))
    }
}

impl GraphFamily for FullCovarianceFamily {}

/// N(μ, L·Lᵀ) for each image of a batch, L lower triangular (Kingma & Welling 2019,
/// <https://arxiv.org/abs/1906.02691>, §2.5.1).
#[derive(Debug)]
struct FullCovariance {
    /// μ `[B, Z]`.
    mean: Tensor,
    /// Log of the diagonal of L, `[B, Z]`.
    log_diagonal: Tensor,
    /// L `[B, Z, Z]`.
    factor: Tensor,
}

impl FullCovariance {
    /// `params` `[B, P]`: means; s, where exp(½·s) is the diagonal of L and s is bounded like the log-variances of a
    /// diagonal Gaussian; the entries of L below the diagonal, row by row.
    fn new(params: &Tensor, latent_dims: i64) -> Self {
        let log_diagonal = bounded(&params.narrow(1, latent_dims, latent_dims)) * 0.5;
        let below = params.narrow(1, 2 * latent_dims, n_below(latent_dims));
        let places = below_diagonal(latent_dims, params.device());
        let diagonal = log_diagonal.exp().diag_embed(0, -2, -1);
        Self {
            mean: params.narrow(1, 0, latent_dims),
            factor: diagonal.index_put(&places, &below, true),
            log_diagonal,
        }
    }
}

/// Indices of the entries below the diagonal in `[B, Z, Z]`, row by row.
fn below_diagonal(latent_dims: i64, device: Device) -> [Option<Tensor>; 3] {
    let places = Tensor::tril_indices(latent_dims, latent_dims, -1, (Kind::Int64, device));
    [None, Some(places.select(0, 0)), Some(places.select(0, 1))]
}

/// A product of matrices `[B, …, …]` in f32. Computed in f64, which autocast does not change: in half precision the
/// samples would not fit the density.
fn product(a: &Tensor, b: &Tensor) -> Tensor {
    let product = a.to_kind(Kind::Double).bmm(&b.to_kind(Kind::Double));
    product.to_kind(Kind::Float)
}

impl Posterior for FullCovariance {
    fn center(&self) -> Tensor {
        self.mean.shallow_clone()
    }

    /// z = μ + L·ε.
    fn draw(&self, noise: &Tensor) -> Latents {
        let correlated = product(&self.factor, &noise.permute([1, 2, 0])); // [B, Z, K]
        let log_prob = (noise.square() + LN_2PI) * -0.5 - &self.log_diagonal;
        Latents {
            latents: &self.mean + correlated.permute([2, 0, 1]),
            log_prob: Some(log_prob.sum_dim_intlist(-1, false, Kind::Float)),
        }
    }

    fn log_prob(&self, latents: &Tensor) -> Option<Tensor> {
        let offset = latents - &self.mean; // […, B, Z]
        let mut shape = offset.size();
        let latent_dims = shape.pop().expect("latents have dimensions");
        let n_images = shape[shape.len() - 1];
        let columns = offset.reshape([-1, n_images, latent_dims]);
        let columns = columns.permute([1, 2, 0]); // [B, Z, N]
        let noise = self
            .factor
            .linalg_solve_triangular(&columns, false, true, false);
        let squares = noise.square().sum_dim_intlist(1, false, Kind::Float); // [B, N]
        let log_det = self.log_diagonal.sum_dim_intlist(-1, false, Kind::Float); // [B]
        let constant = LN_2PI * latent_dims as f64;
        Some(((squares.transpose(0, 1) + constant) * -0.5 - log_det).reshape(shape))
    }

    /// ½ (tr L·Lᵀ + ‖μ‖² − Z) − ln det L.
    fn kl(&self) -> Option<ClosedKl> {
        let per_dimension =
            self.mean.square() + self.factor.square().sum_dim_intlist(-1, false, Kind::Float) - 1.0;
        let kl = per_dimension * 0.5 - &self.log_diagonal; // [B, Z]
        Some(ClosedKl::Total(kl.sum_dim_intlist(-1, false, Kind::Float)))
    }

    fn log_var(&self) -> Option<Tensor> {
        let variance = self.factor.square().sum_dim_intlist(-1, false, Kind::Float);
        Some(variance.log())
    }

    fn covariance(&self) -> Option<Tensor> {
        Some(product(&self.factor, &self.factor.transpose(-2, -1)))
    }

    fn detach(&self) -> Box<dyn Posterior> {
        Box::new(Self {
            mean: self.mean.detach(),
            log_diagonal: self.log_diagonal.detach(),
            factor: self.factor.detach(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &Tensor, wanted: &[f64]) {
        let found = Vec::<f32>::try_from(found.flatten(0, -1)).expect("numbers");
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(wanted) {
            let error = (f64::from(*found) - wanted).abs();
            assert!(error < 1e-5, "{found} vs {wanted}");
        }
    }

    #[test]
    fn two_dimensions_by_hand() {
        // μ = (1, 0), L = (2 0; 3 1), so L·Lᵀ = (4 6; 6 10) with determinant 4.
        let params = Tensor::from_slice(&[1_f32, 0.0, 2.0 * 2_f32.ln(), 0.0, 3.0]).view([1, 5]);
        let q = FullCovariance::new(&params, 2);
        close(&q.covariance().expect("it has one"), &[4.0, 6.0, 6.0, 10.0]);
        close(
            &q.log_var().expect("it has one"),
            &[4_f64.ln(), 10_f64.ln()],
        );
        // ½ (14 + 1 − 2) − ½ ln 4.
        let Some(ClosedKl::Total(kl)) = q.kl() else {
            panic!("a kl of the whole");
        };
        close(&kl, &[6.5 - 2_f64.ln()]);
        // L·(1, 1) = (2, 4).
        let noise = Tensor::ones([1, 1, 2], (Kind::Float, Device::Cpu));
        let draws = q.draw(&noise);
        close(&draws.latents, &[3.0, 4.0]);
        let wanted = [-1.0 - LN_2PI - 2_f64.ln()];
        close(&draws.log_prob.expect("a density"), &wanted);
        close(&q.log_prob(&draws.latents).expect("a density"), &wanted);
    }

    #[test]
    fn entries_below_the_diagonal_come_row_by_row() {
        let params = Tensor::from_slice(&[0_f32, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]);
        let q = FullCovariance::new(&params.view([1, 9]), 3);
        close(&q.factor, &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 2.0, 3.0, 1.0]);
    }
}
