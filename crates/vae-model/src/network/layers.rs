//! Initialization of weights, and the layers that use it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use super::ops::{FixedNorm, GraphLayer, NormLayer, ScaledLayer, channels_last};
use crate::graph::{EPSILON, Graph, Op, Value};
use crate::nn::{self, Init};
use crate::share::{self, Share};
use crate::watch::watch;

/// The distribution that the initial weights and biases are drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Initialization {
    /// Weights and biases uniform in ±1/√fan_in, the defaults of `torch.nn` (Kaiming uniform with
    /// a = √5). For a transposed convolution PyTorch counts the *output* channels as fan_in.
    #[default]
    Pytorch,
    /// Weights Glorot uniform, ±√(6 / (fan_in + fan_out)), biases zero: the defaults of Keras.
    Keras,
    /// Weights uniform in ±√(6 / fan_in) before a ReLU and ±1/√fan_in elsewhere, biases zero (He et al. 2015,
    /// <https://arxiv.org/abs/1502.01852>). The difference between two images then reaches the latents at its full
    /// size; with PyTorch's defaults every layer shrinks it by about √6.
    Kaiming,
}

/// What follows a layer. The initialization of its weights depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextActivation {
    /// A ReLU or a similar activation (leaky ReLU, SiLU).
    Relu,
    /// A batch norm and then a ReLU. The layer has no bias, because the norm would cancel it.
    BatchNorm,
    /// The sum at the end of a residual block. Weights and biases are zero, so that the block is initially the identity
    /// (Goyal et al. 2017, <https://arxiv.org/abs/1706.02677>, §5.1).
    Sum,
    /// No activation: another linear map follows.
    Linear,
    /// The end of one of `n` branches that are added up: as `Linear`, divided by √n, so that the sum does not grow with
    /// their number (Child 2021, <https://arxiv.org/abs/2011.10650>, §4).
    Branch { n: usize },
    /// No activation: the outputs are this many parameters for each value of a distribution.
    Output { n_params: i64 },
}

/// The numbers of inputs and outputs that a layer's weight connects. For a transposed convolution `torch.nn.init` swaps
/// the two, unlike the papers.
struct Fans {
    torch_in: i64,
    torch_out: i64,
    /// Number of terms in the sum that makes one output.
    terms: f64,
}

impl NextActivation {
    /// The outputs of one of the layers that are joined in this one: Keras has separate layers for the mean and the
    /// log-variance.
    fn outputs_of_one(self, n_out: i64) -> i64 {
        match self {
            Self::Output { n_params } => n_out / n_params,
            Self::Relu | Self::BatchNorm | Self::Sum | Self::Linear | Self::Branch { .. } => n_out,
        }
    }
}

impl Initialization {
    /// Initial weights and biases of a layer.
    fn draw(self, fans: &Fans, next: NextActivation) -> (Init, Init) {
        let uniform = |bound: f64| Init::Uniform {
            lo: -bound,
            up: bound,
        };
        match (self, next) {
            (_, NextActivation::Sum) => (Init::Const(0.0), Init::Const(0.0)),
            (_, NextActivation::Branch { n }) => {
                let (weight, bias) = self.draw(fans, NextActivation::Linear);
                let factor = 1.0 / (n.max(1) as f64).sqrt();
                (weight.scaled(factor), bias.scaled(factor))
            }
            (Self::Pytorch, _) => {
                let bound = uniform(1.0 / (fans.torch_in as f64).sqrt());
                (bound, bound)
            }
            (Self::Keras, _) => {
                let bound = (6.0 / (fans.torch_in + fans.torch_out) as f64).sqrt();
                (uniform(bound), Init::Const(0.0))
            }
            (Self::Kaiming, NextActivation::Relu | NextActivation::BatchNorm) => {
                (uniform((6.0 / fans.terms).sqrt()), Init::Const(0.0))
            }
            (Self::Kaiming, NextActivation::Linear | NextActivation::Output { .. }) => {
                (uniform((1.0 / fans.terms).sqrt()), Init::Const(0.0))
            }
        }
    }

    /// A fully connected layer.
    pub(crate) fn linear(
        self,
        path: nn::Path,
        n_in: i64,
        n_out: i64,
        next: NextActivation,
    ) -> Layer<nn::Linear> {
        let fans = Fans {
            torch_in: n_in,
            torch_out: next.outputs_of_one(n_out),
            terms: n_in as f64,
        };
        let (ws_init, bs_init) = self.draw(&fans, next);
        Layer {
            name: name(&path),
            module: nn::linear(&path, n_in, n_out, ws_init, bs_init),
        }
    }

    /// A convolution whose padding turns n pixels into ⌈n/stride⌉.
    pub(crate) fn conv(
        self,
        path: nn::Path,
        sizes: ConvSizes,
        next: NextActivation,
    ) -> Layer<Conv> {
        let ConvSizes {
            n_in,
            n_out,
            kernel,
            stride,
            padding,
            has_bias,
        } = sizes;
        let [height, width] = kernel;
        let area = height * width;
        let fans = Fans {
            torch_in: area * n_in,
            torch_out: area * next.outputs_of_one(n_out),
            terms: (area * n_in) as f64,
        };
        let (ws_init, bs_init) = self.draw(&fans, next);
        let has_bias = has_bias && next != NextActivation::BatchNorm;
        let bias = has_bias.then(|| path.var("bias", &[n_out], bs_init));
        Layer {
            name: name(&path),
            module: Conv {
                weight: path.var("weight", &[n_out, n_in, height, width], ws_init),
                bias,
                stride,
                padding,
            },
        }
    }

    /// A transposed convolution with a square kernel, from pixels `from` to pixels `to` (H, W): the convolution of
    /// `sizes`, for an input of `to` pixels, in reverse.
    pub(super) fn conv_transpose(
        self,
        path: nn::Path,
        sizes: ConvSizes,
        [from, to]: [[i64; 2]; 2],
        next: NextActivation,
    ) -> Layer<ConvTranspose> {
        let ConvSizes {
            n_in,
            n_out,
            kernel,
            stride,
            padding,
            has_bias,
        } = sizes;
        let [kernel, _] = kernel;
        let area = kernel * kernel;
        let fans = Fans {
            torch_in: area * n_out,
            torch_out: area * n_in,
            // With a stride, each output pixel meets only a part of the weights.
            terms: (area * n_in) as f64 / (stride * stride) as f64,
        };
        let (ws_init, bs_init) = self.draw(&fans, next);
        let has_bias = has_bias && next != NextActivation::BatchNorm;
        let bias = has_bias.then(|| path.var("bias", &[n_out], bs_init));
        Layer {
            name: name(&path),
            module: ConvTranspose {
                weight: path.var("weight", &[n_in, n_out, kernel, kernel], ws_init),
                bias,
                stride,
                padding,
                output_padding: [0, 1].map(|side| {
                    to[side] - ((from[side] - 1) * stride - 2 * padding[side] + kernel)
                }),
            },
        }
    }
}

/// Sizes of a convolution that turns n pixels into ⌈n/stride⌉.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvSizes {
    pub(super) n_in: i64,
    pub(super) n_out: i64,
    pub(super) kernel: [i64; 2],
    pub(super) stride: i64,
    /// Zeros above and below, left and right.
    pub(super) padding: [i64; 2],
    pub(super) has_bias: bool,
}

impl ConvSizes {
    /// 3×3.
    pub(crate) fn three(n_in: i64, n_out: i64, stride: i64) -> Self {
        Self {
            n_in,
            n_out,
            kernel: [3, 3],
            stride,
            padding: [1, 1],
            has_bias: true,
        }
    }

    /// The same without a bias.
    pub(super) fn unbiased(self) -> Self {
        Self {
            has_bias: false,
            ..self
        }
    }

    /// 3×3 without zeros around the maps: n pixels become ⌊(n − 3)/stride⌋ + 1.
    pub(super) fn three_unpadded(n_in: i64, n_out: i64, stride: i64) -> Self {
        Self {
            padding: [0, 0],
            ..Self::three(n_in, n_out, stride)
        }
    }

    /// 4×4 with a stride of 2, for maps of `size` (H, W): each pixel is under as many places of the kernel as any other,
    /// so that neither the maps of a transposed convolution nor the gradients of a convolution have the pattern of a
    /// checkerboard (Odena et al. 2016, <https://distill.pub/2016/deconv-checkerboard>).
    pub(super) fn four(n_in: i64, n_out: i64, size: [i64; 2]) -> Self {
        Self {
            n_in,
            n_out,
            kernel: [4, 4],
            stride: 2,
            padding: size.map(|pixels| 1 + pixels % 2),
            has_bias: true,
        }
    }

    /// 1×1: mixes channels, pixel by pixel.
    pub(super) fn one(n_in: i64, n_out: i64) -> Self {
        Self {
            n_in,
            n_out,
            kernel: [1, 1],
            stride: 1,
            padding: [0, 0],
            has_bias: true,
        }
    }

    /// 1×`kernel`: along a map with one row.
    pub(super) fn row(n_in: i64, n_out: i64, kernel: i64, stride: i64) -> Self {
        Self {
            n_in,
            n_out,
            kernel: [1, kernel],
            stride,
            padding: [0, kernel / 2],
            has_bias: true,
        }
    }
}

/// The name of the layer with variables under `path`: `encoder.conv.2`.
fn name(path: &nn::Path) -> String {
    path.components().collect::<Vec<_>>().join(".")
}

/// Whether a variable, by its name, is the matrix or kernel of a layer: weight decay is for these only. Biases, the
/// scales of norms, and the parameters of priors and likelihoods (means, log-variances, scales, weights of components,
/// pseudo-inputs) are not.
///
/// ```
/// use vae_model::is_layer_weight;
///
/// assert!(is_layer_weight("encoder.conv.0.weight") && is_layer_weight("prior.3.1.weight"));
/// assert!(!is_layer_weight("encoder.conv.0.bias") && !is_layer_weight("decoder.norm.1.weight"));
/// assert!(!is_layer_weight("prior.mean") && !is_layer_weight("likelihood.log_scale"));
/// ```
#[must_use]
pub fn is_layer_weight(name: &str) -> bool {
    let mut path = name.rsplit('.');
    path.next() == Some("weight") && !path.any(|part| part == "norm")
}

/// A layer with a name, whose outputs go through the finite check ([`crate::first_non_finite`]).
#[derive(Debug)]
pub(crate) struct Layer<M> {
    name: String,
    pub(super) module: M,
}

impl<M> Layer<M> {
    /// Its name and its module, for code that uses the variables in another way.
    pub(crate) fn into_parts(self) -> (String, M) {
        (self.name, self.module)
    }
}

impl Layer<Conv> {
    /// The number of its output channels.
    pub(super) fn n_out(&self) -> i64 {
        self.module.weight.size()[0]
    }

    /// The same layer with other tensors in place of its variables.
    pub(super) fn with(&self, of: &dyn Fn(&Tensor) -> Tensor) -> Self {
        Self {
            name: self.name.clone(),
            module: Conv {
                weight: of(&self.module.weight),
                bias: self.module.bias.as_ref().map(of),
                stride: self.module.stride,
                padding: self.module.padding,
            },
        }
    }
}

/// A layer of maps to maps, with spectral norm or without.
pub(super) trait Convolution: GraphLayer + Send + 'static {
    /// The same layer, with the same variables.
    fn shallow_clone(&self) -> Self;
}

impl Convolution for Layer<Conv> {
    fn shallow_clone(&self) -> Self {
        self.with(&Tensor::shallow_clone)
    }
}

impl NormLayer for Layer<GroupNorm> {
    /// The finite check sees what comes out of the SiLU, which is not finite where the norm is not.
    fn forward_silu(&self, maps: &Tensor) -> Tensor {
        let GroupNorm { weight, bias, .. } = &self.module;
        let (n_groups, epsilon) = (self.module.n_groups, self.module.epsilon);
        let output = if takes_channels_outermost(maps) {
            nn::Module::forward(&self.module, maps).silu()
        } else {
            refused(vae_torch::group_norm_silu(
                maps, n_groups, weight, bias, epsilon,
            ))
        };
        watch(&self.name, &output);
        output
    }
}

impl Layer<GroupNorm> {
    /// The same layer, with the same variables.
    pub(super) fn shallow_clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            module: GroupNorm {
                weight: self.module.weight.shallow_clone(),
                bias: self.module.bias.shallow_clone(),
                ..self.module
            },
        }
    }
}

impl<M: nn::Module> nn::Module for Layer<M> {
    fn forward(&self, input: &Tensor) -> Tensor {
        let output = self.module.forward(input);
        watch(&self.name, &output);
        output
    }
}

/// x ↦ W·x + b with the finite check. Distributions hold it, and can detach it.
#[derive(Debug)]
pub(crate) struct Affine {
    pub(crate) name: String,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

impl Affine {
    pub(crate) fn new(layer: Layer<nn::Linear>) -> Self {
        let (name, linear) = layer.into_parts();
        Self {
            name,
            weight: linear.ws,
            bias: linear.bs,
        }
    }

    pub(crate) fn forward(&self, input: &Tensor) -> Tensor {
        let output = input.linear(&self.weight, self.bias.as_ref());
        watch(&self.name, &output);
        output
    }

    /// [`Self::forward`] as operations.
    pub(crate) fn graph(&self, graph: &mut Graph, input: &Value) -> Value {
        let op = Op::Linear {
            weight: self.weight.shallow_clone(),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
        };
        graph.push(&self.name, op, &[input])
    }

    /// The same variables.
    pub(crate) fn shallow_clone(&self) -> Self {
        self.with(Tensor::shallow_clone)
    }

    /// The same layer, detached.
    pub(crate) fn detach(&self) -> Self {
        self.with(Tensor::detach)
    }

    fn with(&self, of: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            name: self.name.clone(),
            weight: of(&self.weight),
            bias: self.bias.as_ref().map(of),
        }
    }
}

/// The output of an operation that fails only where tch's own operations panic: on maps that do not fit the layer.
fn refused(output: Result<Tensor, tch::TchError>) -> Tensor {
    output.unwrap_or_else(|error| panic!("{error}"))
}

/// A convolution. tch's own does not expose its stride.
#[derive(Debug)]
pub(crate) struct Conv {
    pub(super) weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: [i64; 2],
}

impl nn::Module for Conv {
    fn forward(&self, maps: &Tensor) -> Tensor {
        let bias = self.bias.as_ref();
        let output = vae_torch::convolution(maps, &self.weight, bias, self.stride, self.padding);
        refused(output)
    }
}

/// A linear map whose output channels can be scaled.
pub(super) trait ScaledOutput: nn::Module + Sized {
    /// The map x ↦ scale·self(x) + shift, for `[C]` each.
    fn scaled(&self, scale_and_shift: &[Tensor; 2]) -> Self;
}

/// b ↦ scale·b + shift.
fn scaled_bias(bias: Option<&Tensor>, [scale, shift]: &[Tensor; 2]) -> Option<Tensor> {
    Some(match bias {
        Some(bias) => bias * scale + shift,
        None => shift.shallow_clone(),
    })
}

impl ScaledOutput for ConvTranspose {
    fn scaled(&self, scale_and_shift: &[Tensor; 2]) -> Self {
        let scale = scale_and_shift[0].view([1, -1, 1, 1]);
        Self {
            weight: &self.weight * scale,
            bias: scaled_bias(self.bias.as_ref(), scale_and_shift),
            ..*self
        }
    }
}

impl<M: ScaledOutput + ToOp> ScaledLayer for Layer<M> {
    fn forward_scaled(&self, maps: &Tensor, scale_and_shift: &[Tensor; 2]) -> Tensor {
        self.module.scaled(scale_and_shift).forward(maps)
    }
}

/// The operation of a layer, with its own weight or a given one.
pub(super) trait ToOp {
    fn to_op(&self, weight: Option<Tensor>) -> Op;
}

impl ToOp for nn::Linear {
    fn to_op(&self, weight: Option<Tensor>) -> Op {
        Op::Linear {
            weight: weight.unwrap_or_else(|| self.ws.shallow_clone()),
            bias: self.bs.as_ref().map(Tensor::shallow_clone),
        }
    }
}

impl ToOp for Conv {
    fn to_op(&self, weight: Option<Tensor>) -> Op {
        Op::Conv {
            weight: weight.unwrap_or_else(|| self.weight.shallow_clone()),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            stride: self.stride,
            padding: self.padding,
        }
    }
}

impl ToOp for ConvTranspose {
    fn to_op(&self, weight: Option<Tensor>) -> Op {
        Op::ConvTranspose {
            weight: weight.unwrap_or_else(|| self.weight.shallow_clone()),
            bias: self.bias.as_ref().map(Tensor::shallow_clone),
            stride: self.stride,
            padding: self.padding,
            output_padding: self.output_padding,
        }
    }
}

impl<M: nn::Module + ToOp> GraphLayer for Layer<M> {
    fn name(&self) -> &str {
        &self.name
    }

    fn op(&self) -> Op {
        self.module.to_op(None)
    }
}

/// A transposed convolution. tch's own supports only square output paddings.
#[derive(Debug)]
pub(super) struct ConvTranspose {
    pub(super) weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: [i64; 2],
    output_padding: [i64; 2],
}

impl nn::Module for ConvTranspose {
    fn forward(&self, maps: &Tensor) -> Tensor {
        let (stride, padding) = (self.stride, self.padding);
        let (bias, more) = (self.bias.as_ref(), self.output_padding);
        refused(vae_torch::convolution_transpose(
            maps,
            &self.weight,
            bias,
            stride,
            padding,
            more,
        ))
    }
}

/// Batch norm (Ioffe & Szegedy 2015, <https://arxiv.org/abs/1502.03167>) of maps `[B, C, H, W]`, with PyTorch's
/// constants: ε = 1e-5, and running averages with a momentum of 0.1 for each batch's mean and unbiased variance.
///
/// A batch with a single value in each channel (one image at 1×1 pixels) has no variance. PyTorch refuses it. Here it
/// is normalized by the running averages and does not change them, so that an epoch may end with a batch of one image.
#[derive(Debug)]
pub(super) struct BatchNorm {
    name: String,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm {
    pub(super) fn new(path: &nn::Path, channels: i64) -> Self {
        Self {
            name: name(path),
            weight: path.ones("weight", &[channels]),
            bias: path.zeros("bias", &[channels]),
            running_mean: path.zeros_no_train("running_mean", &[channels]),
            running_var: path.ones_no_train("running_var", &[channels]),
        }
    }
}

impl BatchNorm {
    /// The maps of this process normalized by the statistics of all, which have `n` values in each channel.
    fn of_all_processes(&self, maps: &Tensor, n: i64, share: &Share) -> Tensor {
        let layer = [&self.weight, &self.bias];
        let [output, mean, variance] = share.batch_norm(maps, layer, n, EPSILON);
        no_grad(|| {
            let unbiased = variance * (n as f64 / (n - 1) as f64);
            for (running, new) in [(&self.running_mean, mean), (&self.running_var, unbiased)] {
                let _ = running.shallow_clone().lerp_(&new, 0.1);
            }
        });
        output
    }
}

impl nn::ModuleT for BatchNorm {
    fn forward_t(&self, maps: &Tensor, train: bool) -> Tensor {
        let n_channels = self.weight.numel() as i64;
        let n = share::n_of_batch(maps.numel() as i64 / n_channels.max(1));
        let has_variance = n > 1;
        if train
            && has_variance
            && let Some(share) = share::current()
        {
            let output = self.of_all_processes(maps, n, &share);
            watch(&self.name, &output);
            return output;
        }
        let output = maps.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            train && has_variance,
            0.1,
            EPSILON,
            true,
        );
        watch(&self.name, &output);
        output
    }
}

impl FixedNorm for BatchNorm {
    /// γ/√(σ² + ε) and β − μ·γ/√(σ² + ε), with the running averages μ and σ².
    fn scale_and_shift(&self) -> [Tensor; 2] {
        let scale = &self.weight / (&self.running_var + EPSILON).sqrt();
        let shift = &self.bias - &self.running_mean * &scale;
        [scale, shift]
    }
}

impl GraphLayer for BatchNorm {
    fn name(&self) -> &str {
        &self.name
    }

    fn op(&self) -> Op {
        Op::BatchNorm {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
            mean: self.running_mean.shallow_clone(),
            variance: self.running_var.shallow_clone(),
        }
    }
}

/// Group norm (Wu & He 2018, <https://arxiv.org/abs/1803.08494>) with ε = 1e-5. It normalizes each image separately, in
/// the same way in training and evaluation. `group_size` divides `channels`.
pub(super) fn group_norm(path: nn::Path, group_size: i64, channels: i64) -> Layer<GroupNorm> {
    group_norm_of(path, channels / group_size, channels, EPSILON)
}

/// [`group_norm`] with the number of groups and ε.
pub(super) fn group_norm_of(
    path: nn::Path,
    n_groups: i64,
    channels: i64,
    epsilon: f64,
) -> Layer<GroupNorm> {
    Layer {
        name: name(&path),
        module: GroupNorm {
            weight: path.ones("weight", &[channels]),
            bias: path.zeros("bias", &[channels]),
            n_groups,
            epsilon,
        },
    }
}

#[derive(Debug)]
pub(super) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    n_groups: i64,
    epsilon: f64,
}

/// Larger maps are normalized channels-outermost. In channels-last maps libtorch sums a channel's values one after another in f32 on a
/// CPU, which for 1,024×1,024 of them is off by up to 2e-3; channels-outermost it sums in parts.
const MOST_PIXELS_CHANNELS_LAST: i64 = 1 << 16;

impl nn::Module for GroupNorm {
    fn forward(&self, maps: &Tensor) -> Tensor {
        let norm = |maps: &Tensor| {
            maps.group_norm(
                self.n_groups,
                Some(&self.weight),
                Some(&self.bias),
                self.epsilon,
                true,
            )
        };
        match takes_channels_outermost(maps) {
            true => channels_last(&norm(&maps.contiguous())),
            false => norm(maps),
        }
    }
}

fn takes_channels_outermost(maps: &Tensor) -> bool {
    let sides = maps.size().into_iter().skip(2);
    sides.product::<i64>() > MOST_PIXELS_CHANNELS_LAST && maps.dim() == 4
}

impl ToOp for GroupNorm {
    fn to_op(&self, _: Option<Tensor>) -> Op {
        Op::GroupNorm {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
            n_groups: self.n_groups,
            epsilon: self.epsilon,
        }
    }
}

/// The size after a stride: ⌈n/stride⌉ pixels for each side of n.
pub(super) fn shrunk(size: [i64; 2], stride: i64) -> [i64; 2] {
    size.map(|pixels| (pixels - 1) / stride + 1)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};
    use vae_torch::Generator;

    use super::super::ops::{Eager, Ops};
    use super::super::spectral_norm::NormalizedLayers;
    use super::*;
    use crate::Mode;
    use crate::nn::Module;

    /// The largest difference between a batch norm folded into the layer before it and the two one after the other.
    fn error_of_folding<L: ScaledLayer>(layer: &L, norm: &BatchNorm, maps: &Tensor) -> f64 {
        let ops = &mut Eager::new(Mode::Evaluate);
        let folded = ops.normalized(layer, norm, maps.shallow_clone());
        let apart = ops.layer(layer, maps.shallow_clone());
        let apart = ops.layer(norm, apart);
        (folded - apart).abs().max().double_value(&[])
    }

    #[test]
    fn a_batch_norm_is_folded_into_the_layer_before_it_in_evaluation() {
        let store = nn::VarStore::new(1);
        let path = store.root();
        let norm = BatchNorm::new(&(&path / "norm"), 6);
        let mut generator = Generator::cpu(1);
        let mut random = |size: &[i64]| generator.normal(size, Device::Cpu);
        no_grad(|| {
            for variable in [&norm.weight, &norm.bias, &norm.running_mean] {
                variable.shallow_clone().copy_(&random(&[6]));
            }
            let variance = random(&[6]).square() + 0.1;
            norm.running_var.shallow_clone().copy_(&variance);
        });
        let maps = random(&[2, 3, 8, 8]);
        for (i, (spectral_norm, next)) in [
            (false, NextActivation::Relu), // with a bias of its own
            (false, NextActivation::BatchNorm),
            (true, NextActivation::BatchNorm),
        ]
        .into_iter()
        .enumerate()
        {
            let layers = NormalizedLayers {
                initialization: Initialization::Pytorch,
                spectral_norm,
            };
            let sizes = ConvSizes::four(3, 6, [16, 16]);
            let transposed =
                layers.conv_transpose(&path / "transposed" / i, sizes, [[8, 8], [16, 16]], next);
            let error = error_of_folding(&transposed, &norm, &maps);
            assert!(error < 1e-5, "spectral norm {spectral_norm}: {error}");
            assert!(error > 0.0, "nothing was folded");
        }
    }

    #[test]
    fn group_norm_of_large_maps_is_exact() {
        let store = nn::VarStore::new(1);
        let norm = group_norm(store.root() / "norm", 4, 8);
        let maps = Generator::cpu(1).normal([1, 8, 600, 500], Device::Cpu) * 1.3 + 0.7;
        let maps = channels_last(&maps);
        let exact = maps
            .to_kind(Kind::Double)
            .group_norm::<Tensor>(2, None, None, EPSILON, false);
        let found = norm.forward(&maps);
        let error = (found - exact).abs().max().double_value(&[]);
        assert!(error < 2e-6, "{error}");
    }
}
