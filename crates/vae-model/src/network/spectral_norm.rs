//! Spectral norm: layers of decoders and discriminators whose weights, as matrices, have norm 1.
//!
//! A linear layer then increases no distance. A k×k convolution, transposed or not, whose kernel has norm 1 as a matrix
//! `[out, in·k·k]` may still increase one up to k-fold: each pixel is part of up to k² patches, and the matrix maps
//! each of them separately. Like Miyato et al. and the regularized autoencoders, this code normalizes the matrix.

use tch::{Kind, Tensor, no_grad};

use super::Initialization;
use super::layers::{
    Conv, ConvSizes, ConvTranspose, Convolution, Layer, NextActivation, ScaledOutput, ToOp,
};
use super::ops::{GraphLayer, ScaledLayer};
use crate::graph::Op;
use crate::nn;

/// Makes layers with or without spectral norm.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormalizedLayers {
    pub(super) initialization: Initialization,
    pub(super) spectral_norm: bool,
}

impl NormalizedLayers {
    pub(super) fn linear(
        self,
        path: nn::Path,
        n_in: i64,
        n_out: i64,
        next: NextActivation,
    ) -> NormalizedLayer<nn::Linear> {
        let init = self.initialization;
        let layer = init.linear(path.clone(), n_in, n_out, self.started(next));
        let norm = self.norm(&path, &layer.module.ws, 0);
        NormalizedLayer { layer, norm }
    }

    pub(super) fn conv(
        self,
        path: nn::Path,
        sizes: ConvSizes,
        next: NextActivation,
    ) -> NormalizedLayer<Conv> {
        let init = self.initialization;
        let layer = init.conv(path.clone(), sizes, self.started(next));
        let norm = self.norm(&path, &layer.module.weight, 0);
        NormalizedLayer { layer, norm }
    }

    pub(super) fn conv_transpose(
        self,
        path: nn::Path,
        sizes: ConvSizes,
        from_to: [[i64; 2]; 2],
        next: NextActivation,
    ) -> NormalizedLayer<ConvTranspose> {
        let init = self.initialization;
        let layer = init.conv_transpose(path.clone(), sizes, from_to, self.started(next));
        let norm = self.norm(&path, &layer.module.weight, 1);
        NormalizedLayer { layer, norm }
    }

    /// What follows the layer, for its initialization. A zero weight, as at the end of a residual block, could not be
    /// normalized to norm 1, so it is drawn as before a linear map.
    fn started(self, next: NextActivation) -> NextActivation {
        match next {
            NextActivation::Sum if self.spectral_norm => NextActivation::Linear,
            _ => next,
        }
    }

    fn norm(self, path: &nn::Path, weight: &Tensor, output_dim: i64) -> Option<SpectralNorm> {
        self.spectral_norm
            .then(|| SpectralNorm::new(path, weight, output_dim))
    }
}

/// A layer with or without spectral norm.
#[derive(Debug)]
pub(super) struct NormalizedLayer<M> {
    layer: Layer<M>,
    norm: Option<SpectralNorm>,
}

impl NormalizedLayer<Conv> {
    /// Its weight, not divided.
    pub(super) fn weight(&self) -> &Tensor {
        &self.layer.module.weight
    }
}

impl NormalizedLayer<ConvTranspose> {
    /// Its weight, not divided.
    pub(super) fn weight(&self) -> &Tensor {
        &self.layer.module.weight
    }
}

impl NormalizedLayer<nn::Linear> {
    /// Its weight, not divided.
    pub(super) fn weight(&self) -> &Tensor {
        &self.layer.module.ws
    }
}

impl Convolution for NormalizedLayer<Conv> {
    fn shallow_clone(&self) -> Self {
        let norm = self.norm.as_ref().map(|norm| SpectralNorm {
            weight: norm.weight.shallow_clone(),
            output_dim: norm.output_dim,
            left: norm.left.shallow_clone(),
        });
        Self {
            layer: self.layer.shallow_clone(),
            norm,
        }
    }
}

impl<M: nn::Module> nn::ModuleT for NormalizedLayer<M> {
    fn forward_t(&self, input: &Tensor, train: bool) -> Tensor {
        self.input(input, train).apply(&self.layer)
    }
}

impl<M> NormalizedLayer<M> {
    /// What the weight as it is maps to the output: (W/σ)·x + b = W·(x/σ) + b for every linear map W.
    fn input(&self, input: &Tensor, train: bool) -> Tensor {
        match &self.norm {
            None => input.shallow_clone(),
            Some(norm) => input / norm.largest_singular_value(train),
        }
    }
}

impl<M: ScaledOutput + ToOp> ScaledLayer for NormalizedLayer<M> {
    fn forward_scaled(&self, maps: &Tensor, scale_and_shift: &[Tensor; 2]) -> Tensor {
        let maps = self.input(maps, false);
        self.layer.forward_scaled(&maps, scale_and_shift)
    }
}

impl<M: nn::Module + ToOp> GraphLayer for NormalizedLayer<M> {
    fn name(&self) -> &str {
        self.layer.name()
    }

    fn op(&self) -> Op {
        let divided = self.norm.as_ref().map(|norm| {
            let divided = &norm.weight / norm.largest_singular_value(false);
            divided.detach()
        });
        self.layer.module.to_op(divided)
    }
}

/// The largest singular value of a weight as a matrix `[out, rest]`, by power iteration (Miyato et al. 2018,
/// <https://arxiv.org/abs/1802.05957>, App. A). One iteration in each training pass suffices, because the weights
/// change little from one pass to the next.
#[derive(Debug)]
struct SpectralNorm {
    weight: Tensor,
    output_dim: i64,
    /// The current estimate of the left singular vector, `[out]`. Saved with the weights, not trained.
    left: Tensor,
}

/// Iterations for an initial weight, as many as in PyTorch's `spectral_norm`.
const FIRST_ITERATIONS: usize = 15;

/// Prevents a division by zero for a weight of zeros.
const LEAST_NORM: f64 = 1e-12;

impl SpectralNorm {
    fn new(path: &nn::Path, weight: &Tensor, output_dim: i64) -> Self {
        let n_out = weight.size()[output_dim as usize];
        let left = path.normal_no_train("left_singular_vector", &[n_out]);
        let norm = Self {
            weight: weight.shallow_clone(),
            output_dim,
            left,
        };
        if path.is_outline() {
            return norm;
        }
        for _ in 0..FIRST_ITERATIONS {
            norm.iterate();
        }
        norm
    }

    /// σ = uᵀ·W·v with v = Wᵀ·u/‖Wᵀ·u‖, that is ‖Wᵀ·u‖, a scalar. Its gradient is u·vᵀ, with u and v constant: v
    /// maximizes σ for this u, so that the derivative with respect to v is 0.
    fn largest_singular_value(&self, train: bool) -> Tensor {
        if train {
            self.iterate();
        }
        // A copy: the next pass changes u in place, perhaps before this pass's backward.
        let left = self.left.copy().unsqueeze(1);
        length(&times(&self.matrix(), &left, 0))
    }

    /// v ← Wᵀ·u, u ← W·v, both normalized to length 1.
    fn iterate(&self) {
        no_grad(|| {
            let matrix = self.matrix();
            let right = times(&matrix, &self.left.unsqueeze(1), 0);
            let right = &right / length(&right);
            let left = times(&matrix, &right, 1);
            self.left.shallow_clone().copy_(&(&left / length(&left)));
        });
    }

    /// The weight as a matrix `[out, rest]`.
    fn matrix(&self) -> Tensor {
        self.weight.transpose(0, self.output_dim).flatten(1, -1)
    }
}

/// The product of a matrix and a vector that broadcasts with it, summed over `dim`. Not a matrix product, because
/// autocast would compute that in half precision.
fn times(matrix: &Tensor, vector: &Tensor, dim: i64) -> Tensor {
    (matrix * vector).sum_dim_intlist(dim, false, Kind::Float)
}

fn length(vector: &Tensor) -> Tensor {
    vector.norm().clamp_min(LEAST_NORM)
}
