//! A model's operations in evaluation, in order: for `vae describe` and ONNX.

use tch::Tensor;

/// The operations of an encoder or decoder, in the order of computation.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    /// Tensors that operations take besides earlier values.
    pub(crate) constants: Vec<(Value, Tensor)>,
    n_values: usize,
}

/// One operation.
#[derive(Debug)]
pub(crate) struct Node {
    /// The path of the layer's variables; empty where it has none.
    pub(crate) name: String,
    pub(crate) op: Op,
    pub(crate) inputs: Vec<Value>,
    pub(crate) output: Value,
}

/// An input or output of an operation.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) id: usize,
    /// Shape without the batch.
    pub(crate) shape: Vec<i64>,
}

/// A layer or operation. Padding is the number of zeros above and below, left and right.
#[derive(Debug)]
pub(crate) enum Op {
    /// `weight` `[out, in]`.
    Linear {
        weight: Tensor,
        bias: Option<Tensor>,
    },
    /// `weight` `[out, in, rows, columns]`.
    Conv {
        weight: Tensor,
        bias: Option<Tensor>,
        stride: i64,
        padding: [i64; 2],
    },
    /// `weight` `[in, out, k, k]`.
    ConvTranspose {
        weight: Tensor,
        bias: Option<Tensor>,
        stride: i64,
        padding: [i64; 2],
        output_padding: [i64; 2],
    },
    /// With the running averages.
    BatchNorm {
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
    },
    GroupNorm {
        weight: Tensor,
        bias: Tensor,
        n_groups: i64,
        epsilon: f64,
    },
    Activation(Activation),
    Flatten,
    /// To `[C, H, W]`.
    Maps([i64; 3]),
    /// Nearest neighbors, to `[H, W]`.
    Upsample([i64; 2]),
    /// A row of zeros below and a column right of maps.
    PadEnd,
    /// softmax(QᵀK/√C)·V of maps `[C, H, W]`, between all their places.
    Attention,
    /// A range of the first dimension after the batch.
    Narrow {
        start: i64,
        length: i64,
    },
    /// Concatenation in the first dimension after the batch.
    Concat,
    /// An elementwise operation, by its ONNX name; inputs broadcast.
    Elementwise(&'static str),
    /// For maps `[K, H, W]` the row of `rows` `[K, d]` whose map is largest, at each place: `[d, H, W]`.
    RowsOfLargest {
        rows: Tensor,
    },
}

/// An elementwise activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Relu,
    /// Slope 0.01 below 0.
    LeakyRelu,
    Silu,
    Tanh,
}

/// ε of norm layers, unless they have their own.
pub(crate) const EPSILON: f64 = 1e-5;

impl Graph {
    /// An input of the graph.
    pub(crate) fn input(&mut self, shape: &[i64]) -> Value {
        self.n_values += 1;
        Value {
            id: self.n_values - 1,
            shape: shape.to_vec(),
        }
    }

    pub(crate) fn n_values(&self) -> usize {
        self.n_values
    }

    /// A constant that broadcasts with values; its shape has no batch dimension.
    pub(crate) fn constant(&mut self, tensor: Tensor) -> Value {
        let value = self.input(&tensor.size());
        self.constants.push((value.clone(), tensor));
        value
    }

    /// A constant scalar.
    pub(crate) fn number(&mut self, number: f64) -> Value {
        self.constant(Tensor::from(number as f32))
    }

    pub(crate) fn push(&mut self, name: &str, op: Op, inputs: &[&Value]) -> Value {
        let shape = op.output_shape(inputs);
        let output = self.input(&shape);
        self.nodes.push(Node {
            name: name.to_owned(),
            op,
            inputs: inputs.iter().map(|&value| value.clone()).collect(),
            output: output.clone(),
        });
        output
    }

    /// An elementwise operation, by its ONNX name.
    pub(crate) fn elementwise(&mut self, op: &'static str, inputs: &[&Value]) -> Value {
        self.push("", Op::Elementwise(op), inputs)
    }

    /// An elementwise operation of a value and a scalar.
    pub(crate) fn with_number(&mut self, value: &Value, op: &'static str, number: f64) -> Value {
        let number = self.number(number);
        self.elementwise(op, &[value, &number])
    }

    pub(crate) fn clamp(&mut self, value: &Value, low: f64, high: f64) -> Value {
        let (low, high) = (self.number(low), self.number(high));
        self.elementwise("Clip", &[value, &low, &high])
    }

    pub(crate) fn narrow(&mut self, value: &Value, start: i64, length: i64) -> Value {
        self.push("", Op::Narrow { start, length }, &[value])
    }
}

impl Op {
    fn output_shape(&self, inputs: &[&Value]) -> Vec<i64> {
        let input = &inputs[0].shape;
        match self {
            Self::Linear { weight, .. } => vec![weight.size()[0]],
            Self::Conv {
                weight,
                stride,
                padding,
                ..
            } => {
                let kernel = weight.size();
                let side = |i: usize| (input[i] + 2 * padding[i - 1] - kernel[i + 1]) / stride + 1;
                vec![kernel[0], side(1), side(2)]
            }
            Self::ConvTranspose {
                weight,
                stride,
                padding,
                output_padding,
                ..
            } => {
                let [_, n_out, kernel, _] = four(weight);
                let side = |i: usize| {
                    (input[i] - 1) * stride - 2 * padding[i - 1] + kernel + output_padding[i - 1]
                };
                vec![n_out, side(1), side(2)]
            }
            Self::BatchNorm { .. } | Self::GroupNorm { .. } | Self::Activation(_) => input.clone(),
            Self::Flatten => vec![input.iter().product()],
            Self::Maps(shape) => shape.to_vec(),
            Self::Upsample([height, width]) => vec![input[0], *height, *width],
            Self::PadEnd => vec![input[0], input[1] + 1, input[2] + 1],
            Self::Attention => inputs[2].shape.clone(),
            Self::Narrow { length, .. } => {
                let mut shape = input.clone();
                shape[0] = *length;
                shape
            }
            Self::Concat => {
                let mut shape = input.clone();
                shape[0] = inputs.iter().map(|value| value.shape[0]).sum();
                shape
            }
            Self::RowsOfLargest { rows } => vec![rows.size()[1], input[1], input[2]],
            Self::Elementwise(_) => {
                let size = |value: &Value| (value.shape.iter().product::<i64>(), value.shape.len());
                let largest = inputs.iter().max_by_key(|value| size(value));
                largest.map_or_else(Vec::new, |value| value.shape.clone())
            }
        }
    }

    /// The number of multiply-adds for one image, which determine the time. Norms and elementwise operations are not
    /// counted.
    pub(crate) fn multiply_adds(&self, input: &Value, output: &Value) -> i64 {
        let n_pixels = |value: &Value| value.shape[1..].iter().product::<i64>();
        match self {
            Self::Linear { weight, .. } => weight.numel() as i64,
            Self::Conv { weight, .. } => weight.numel() as i64 * n_pixels(output),
            Self::ConvTranspose { weight, .. } => weight.numel() as i64 * n_pixels(input),
            // Scores, and sums of the values.
            Self::Attention => 2 * n_pixels(input).pow(2) * input.shape[0],
            _ => 0,
        }
    }

    /// The kind of layer, as tables show it.
    pub(crate) fn kind(&self) -> String {
        let conv = |kind: &str, weight: &Tensor, stride: i64| {
            let [_, _, height, width] = four(weight);
            match stride {
                1 => format!("{kind} {height}×{width}"),
                _ => format!("{kind} {height}×{width}, stride {stride}"),
            }
        };
        match self {
            Self::Linear { .. } => "linear".to_owned(),
            Self::Conv { weight, stride, .. } => conv("convolution", weight, *stride),
            Self::ConvTranspose { weight, stride, .. } => {
                conv("transposed convolution", weight, *stride)
            }
            Self::BatchNorm { .. } => "batch norm".to_owned(),
            Self::GroupNorm { n_groups, .. } => format!("group norm, {n_groups} groups"),
            Self::Activation(Activation::Relu) => "relu".to_owned(),
            Self::Activation(Activation::LeakyRelu) => "leaky relu".to_owned(),
            Self::Activation(Activation::Silu) => "silu".to_owned(),
            Self::Activation(Activation::Tanh) => "tanh".to_owned(),
            Self::Flatten => "flatten".to_owned(),
            Self::Maps(_) => "maps".to_owned(),
            Self::Upsample(_) => "nearest neighbors".to_owned(),
            Self::PadEnd => "zeros below and right".to_owned(),
            Self::Attention => "attention".to_owned(),
            Self::Narrow { .. } => "part".to_owned(),
            Self::Concat => "concatenation".to_owned(),
            Self::Elementwise(name) => name.to_lowercase(),
            Self::RowsOfLargest { .. } => "nearest code".to_owned(),
        }
    }
}

/// Sizes of a convolution's weight.
fn four(weight: &Tensor) -> [i64; 4] {
    weight.size().try_into().unwrap_or_default()
}
