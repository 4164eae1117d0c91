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
}

impl Initialization {
    /// Initial weights and biases of a layer. `fan_in` and `fan_out` are taken as
    /// `torch.nn.init` does: from dimension 1 and 0 of the weight times the kernel's area.
    fn draw(self, fan_in: i64, fan_out: i64) -> (Init, Init) {
        match self {
            Self::Pytorch => {
                let bound = 1.0 / (fan_in as f64).sqrt();
                let uniform = Init::Uniform {
                    lo: -bound,
                    up: bound,
                };
                (uniform, uniform)
            }
            Self::Keras => {
                let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
                let uniform = Init::Uniform {
                    lo: -bound,
                    up: bound,
                };
                (uniform, Init::Const(0.0))
            }
        }
    }

    /// A fully connected layer.
    pub(super) fn linear(self, path: nn::Path, n_in: i64, n_out: i64) -> nn::Linear {
        let (ws_init, bs_init) = self.draw(n_in, n_out);
        let config = nn::LinearConfig {
            ws_init,
            bs_init: Some(bs_init),
            bias: true,
        };
        nn::linear(path, n_in, n_out, config)
    }

    /// A 3×3 convolution with padding 1.
    pub(super) fn conv(self, path: nn::Path, n_in: i64, n_out: i64, stride: i64) -> nn::Conv2D {
        let (ws_init, bs_init) = self.draw(9 * n_in, 9 * n_out);
        let config = nn::ConvConfig {
            stride,
            padding: 1,
            ws_init,
            bs_init,
            ..Default::default()
        };
        nn::conv2d(path, n_in, n_out, 3, config)
    }

    /// A 3×3 transposed convolution with padding 1, from pixels `from` to pixels `to` (H, W).
    pub(super) fn conv_transpose(
        self,
        path: nn::Path,
        n_in: i64,
        n_out: i64,
        stride: i64,
        from: [i64; 2],
        to: [i64; 2],
    ) -> ConvTranspose {
        let (ws_init, bs_init) = self.draw(9 * n_out, 9 * n_in);
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
