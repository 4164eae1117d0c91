//! How fresh weights are drawn, and the layers that are drawn so.

use serde::{Deserialize, Serialize};
use tch::Tensor;
use tch::nn::{self, Init};

/// Distribution of fresh weights and biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialization {
    /// Weights and biases uniform in ±1/√fan_in, the defaults of `torch.nn` (Kaiming uniform with
    /// a = √5). For a transposed convolution PyTorch counts the *output* channels as fan_in.
    #[default]
    Pytorch,
    /// Weights Glorot uniform, ±√(6 / (fan_in + fan_out)), biases zero: the defaults of Keras.
    Keras,
    /// Weights uniform in ±√(6 / fan_in) before a ReLU and ±1/√fan_in elsewhere, biases zero (He et
    /// al. 2015, <https://arxiv.org/abs/1502.01852>). What distinguishes two images then reaches the
    /// latents undiminished; PyTorch's defaults shrink it by about √6 in every layer.
    Kaiming,
}

/// What follows a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Relu,
    /// Nothing: the outputs are this many parameters for each value of a distribution.
    Output {
        n_params: i64,
    },
}

/// How many inputs and outputs one weight's layer connects. For a transposed convolution
/// `torch.nn.init` counts the other way round than is meant by the papers.
struct Fans {
    torch_in: i64,
    torch_out: i64,
    /// Terms in the sum that makes one output.
    terms: f64,
}

impl Then {
    /// The outputs of one of the layers that stand side by side in one: Keras has a layer for the
    /// mean and another for the log-variance.
    fn outputs_of_one(self, n_out: i64) -> i64 {
        match self {
            Self::Relu => n_out,
            Self::Output { n_params } => n_out / n_params,
        }
    }
}

impl Initialization {
    /// Initial weights and biases of a layer.
    fn draw(self, fans: &Fans, then: Then) -> (Init, Init) {
        let uniform = |bound: f64| Init::Uniform {
            lo: -bound,
            up: bound,
        };
        match (self, then) {
            (Self::Pytorch, _) => {
                let bound = uniform(1.0 / (fans.torch_in as f64).sqrt());
                (bound, bound)
            }
            (Self::Keras, _) => {
                let bound = (6.0 / (fans.torch_in + fans.torch_out) as f64).sqrt();
                (uniform(bound), Init::Const(0.0))
            }
            (Self::Kaiming, Then::Relu) => (uniform((6.0 / fans.terms).sqrt()), Init::Const(0.0)),
            (Self::Kaiming, Then::Output { .. }) => {
                (uniform((1.0 / fans.terms).sqrt()), Init::Const(0.0))
            }
        }
    }

    /// A fully connected layer.
    pub(super) fn linear(self, path: nn::Path, n_in: i64, n_out: i64, then: Then) -> nn::Linear {
        let fans = Fans {
            torch_in: n_in,
            torch_out: then.outputs_of_one(n_out),
            terms: n_in as f64,
        };
        let (ws_init, bs_init) = self.draw(&fans, then);
        let config = nn::LinearConfig {
            ws_init,
            bs_init: Some(bs_init),
            bias: true,
        };
        nn::linear(path, n_in, n_out, config)
    }

    /// A 3×3 convolution with padding 1.
    pub(super) fn conv(
        self,
        path: nn::Path,
        n_in: i64,
        n_out: i64,
        stride: i64,
        then: Then,
    ) -> nn::Conv2D {
        let fans = Fans {
            torch_in: 9 * n_in,
            torch_out: 9 * then.outputs_of_one(n_out),
            terms: (9 * n_in) as f64,
        };
        let (ws_init, bs_init) = self.draw(&fans, then);
        let config = nn::ConvConfig {
            stride,
            padding: 1,
            ws_init,
            bs_init,
            ..Default::default()
        };
        nn::conv2d(path, n_in, n_out, 3, config)
    }

    /// A 3×3 transposed convolution with padding 1 and ReLU, from pixels `from` to pixels `to`
    /// (H, W).
    pub(super) fn conv_transpose(
        self,
        path: nn::Path,
        n_in: i64,
        n_out: i64,
        stride: i64,
        from: [i64; 2],
        to: [i64; 2],
    ) -> ConvTranspose {
        let fans = Fans {
            torch_in: 9 * n_out,
            torch_out: 9 * n_in,
            // Between the strides' gaps an output pixel meets only so many of the nine weights.
            terms: (9 * n_in) as f64 / (stride * stride) as f64,
        };
        let (ws_init, bs_init) = self.draw(&fans, Then::Relu);
        ConvTranspose {
            weight: path.var("weight", &[n_in, n_out, 3, 3], ws_init),
            bias: path.var("bias", &[n_out], bs_init),
            stride,
            output_padding: [0, 1].map(|side| to[side] - ((from[side] - 1) * stride + 1)),
        }
    }
}

/// A 3×3 transposed convolution with padding 1. tch's own knows only square output paddings.
#[derive(Debug)]
pub(super) struct ConvTranspose {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    output_padding: [i64; 2],
}

impl nn::Module for ConvTranspose {
    fn forward(&self, maps: &Tensor) -> Tensor {
        maps.conv_transpose2d(
            &self.weight,
            Some(&self.bias),
            [self.stride; 2],
            [1; 2],
            self.output_padding,
            1,
            [1; 2],
        )
    }
}
