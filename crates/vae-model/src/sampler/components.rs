//! The components of a mixture of Gaussians over attributes and latents.

use tch::{Device, Kind, Tensor};

use super::Covariance;
use crate::math::LN_2PI;

/// ln of a share that is 0, so that it is finite in a file.
pub(super) const LN_ZERO: f64 = -1e4;

/// Values in a block of work, 32 MB of f64.
pub(super) const BLOCK: i64 = 1 << 22;

/// The numbers of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) components: i64,
    pub(super) classes: i64,
    pub(super) attributes: i64,
    pub(super) latents: i64,
    pub(super) covariance: Covariance,
}

impl Sizes {
    /// V, the number of dimensions of a component.
    pub(super) fn dims(self) -> i64 {
        self.attributes + self.latents
    }
}

/// A mixture's parameters, f64 on the CPU.
#[derive(Debug)]
pub(super) struct Parameters {
    /// ln π, `[K]`.
    pub(super) log_weights: Tensor,
    /// μ, `[K, V]`, of the attributes, then of the latents.
    pub(super) mean: Tensor,
    /// L with Σ = L·Lᵀ, `[K, V, V]`; of diagonal covariances the standard deviations `[K, V]`.
    pub(super) factor: Tensor,
    /// ln θ, `[K, Y]`, Y = 0 without classes.
    pub(super) log_classes: Tensor,
}

impl Parameters {
    /// ln π_k·N([a, z]; μ_k, Σ_k)·θ_k(y), `[N, K]`, over the dimensions `dims` of values `[N, v]`.
    pub(super) fn log_joint(&self, values: &Tensor, dims: &Tensor, classes: &Tensor) -> Tensor {
        let log_normal = match dims.numel() {
            0 => Tensor::zeros([values.size()[0], 1], (Kind::Double, Device::Cpu)),
            _ => self.log_normal(values, dims),
        };
        log_normal + &self.log_weights + self.log_class(classes)
    }

    /// ln N of the marginal over `dims`, `[N, K]`.
    fn log_normal(&self, values: &Tensor, dims: &Tensor) -> Tensor {
        let mean = self.mean.index_select(1, dims); // [K, v]
        let (n, v, k) = (values.size()[0], dims.numel() as i64, mean.size()[0]);
        let constant = v as f64 * LN_2PI;
        let step = (BLOCK / (v * k)).max(1);
        let blocks = values.split(step, 0);
        let squares: Vec<Tensor>;
        let log_det: Tensor; // [K]
        if self.is_full() {
            let factor = self.marginal_factor(dims); // [K, v, v]
            log_det = factor
                .diagonal(0, 1, 2)
                .log()
                .sum_dim_intlist(-1, false, Kind::Double);
            let eye = Tensor::eye(v, (Kind::Double, Device::Cpu)).expand([k, v, v], false);
            let inverse = factor.linalg_solve_triangular(&eye, false, true, false); // [K, v, v]
            let whitened_mean = inverse.matmul(&mean.unsqueeze(-1)).squeeze_dim(-1); // [K, v]
            let map = inverse.flatten(0, 1).transpose(0, 1); // [v, K·v]
            let of_block = |block: &Tensor| {
                let white = block.matmul(&map).unflatten(1, [k, v]) - &whitened_mean; // [n, K, v]
                white.square().sum_dim_intlist(-1, false, Kind::Double)
            };
            squares = blocks.iter().map(of_block).collect();
        } else {
            let std = self.factor.index_select(1, dims); // [K, v]
            log_det = std.log().sum_dim_intlist(-1, false, Kind::Double);
            let of_block = |block: &Tensor| {
                let white = (block.unsqueeze(1) - &mean) / &std; // [n, K, v]
                white.square().sum_dim_intlist(-1, false, Kind::Double)
            };
            squares = blocks.iter().map(of_block).collect();
        }
        let squares = match n {
            0 => Tensor::zeros([0, k], (Kind::Double, Device::Cpu)),
            _ => Tensor::cat(&squares, 0),
        };
        (squares + constant) * -0.5 - log_det
    }

    fn is_full(&self) -> bool {
        self.factor.dim() == 3
    }

    /// The Cholesky factors of the covariances of `dims`, in their order, `[K, v, v]`.
    pub(super) fn marginal_factor(&self, dims: &Tensor) -> Tensor {
        if !self.is_full() {
            return self.factor.index_select(1, dims).diag_embed(0, 1, 2);
        }
        let is_all = dims.numel() as i64 == self.factor.size()[1];
        match is_all {
            true => self.factor.shallow_clone(),
            false => {
                let rows = self.factor.index_select(1, dims); // [K, v, V]
                // Of a damaged file it may be singular, for which this gives no error.
                let covariance = rows.matmul(&rows.transpose(1, 2));
                covariance.linalg_cholesky_ex(false, false).0
            }
        }
    }

    /// ln θ_k(y), `[N, K]` or `[1, 1]`; 0 where the class is unknown.
    fn log_class(&self, classes: &Tensor) -> Tensor {
        if self.log_classes.size()[1] == 0 {
            return Tensor::zeros([1, 1], (Kind::Double, Device::Cpu));
        }
        let known = classes.ge(0).to_kind(Kind::Double).unsqueeze(1); // [N, 1]
        let of_class = self.log_classes.transpose(0, 1); // [Y, K]
        of_class.index_select(0, &classes.clamp_min(0)) * known
    }
}
