//! The generic operations of networks. On tensors they compute; on a [`Graph`] they record the computation.

use tch::Tensor;
use vae_torch::recomputed;

pub(crate) use crate::graph::Activation;

use crate::graph::{Graph, Op, Value};
use crate::watch::is_watching;
use crate::{Mode, nn};

/// The operations between images and posterior parameters, latents and likelihood parameters.
pub(crate) trait Ops {
    /// A tensor, or a value of a graph.
    type Value;

    fn layer<L: GraphLayer>(&mut self, layer: &L, input: Self::Value) -> Self::Value;

    fn activation(&mut self, activation: Activation, input: Self::Value) -> Self::Value;

    /// silu(norm(maps)), in one where there is a kernel for both.
    fn norm_silu<L: NormLayer>(&mut self, norm: &L, maps: Self::Value) -> Self::Value {
        let maps = self.layer(norm, maps);
        self.activation(Activation::Silu, maps)
    }

    /// norm(layer(maps)), in one layer where the norm's averages are fixed. Faster for transposed convolutions, whose maps are larger
    /// than what they are made of, and slower for strided ones.
    fn normalized<L: ScaledLayer, N: FixedNorm>(
        &mut self,
        layer: &L,
        norm: &N,
        maps: Self::Value,
    ) -> Self::Value {
        let maps = self.layer(layer, maps);
        self.layer(norm, maps)
    }

    /// Features `[N, C·H·W]` of maps `[N, C, H, W]`.
    fn flatten(&mut self, maps: Self::Value) -> Self::Value;

    /// Maps of the shape `[C, H, W]`, `[N, C, H, W]`, from features `[N, C·H·W]`.
    fn maps(&mut self, features: Self::Value, shape: [i64; 3]) -> Self::Value;

    /// The same maps, with the channels innermost in memory.
    fn channels_last(&mut self, maps: Self::Value) -> Self::Value;

    /// scale·x + offset, elementwise.
    fn affine(&mut self, value: Self::Value, scale: f64, offset: f64) -> Self::Value;

    /// The maps with a row of zeros below and a column right of them.
    fn pad_end(&mut self, maps: Self::Value) -> Self::Value;

    /// softmax(QᵀK/√C)·V between all places of maps `[N, C, H, W]`.
    fn attention(
        &mut self,
        query: Self::Value,
        key: Self::Value,
        value: Self::Value,
    ) -> Self::Value;

    /// Nearest-neighbor interpolation to H×W pixels.
    fn upsample(&mut self, maps: Self::Value, size: [i64; 2]) -> Self::Value;

    fn sum(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;

    /// Concatenates the channels of maps, or the values of vectors.
    fn concat(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;

    /// A range of the channels of maps, or of the values of vectors.
    fn narrow(&mut self, value: &Self::Value, start: i64, length: i64) -> Self::Value;

    /// `parameter` `[C, H, W]` added to each of the maps.
    fn offset(&mut self, maps: Self::Value, parameter: &Tensor) -> Self::Value;

    /// `parameter` `[C, H, W]` as `[N, C, H, W]`, with as many as a value `[N, D]` has.
    fn everywhere(&mut self, batch: &Self::Value, parameter: &Tensor) -> Self::Value;

    /// The same value, for a second use.
    fn share(&self, value: &Self::Value) -> Self::Value;

    /// A part of a network, whose maps need not be kept for the backward pass.
    fn segment<S: Segment>(&mut self, segment: &S, maps: Self::Value) -> Self::Value
    where
        Self: Sized,
    {
        segment.apply(self, maps)
    }
}

/// A part of a network from maps to maps, without random numbers and running averages: it gives the same values again.
pub(crate) trait Segment: Send + Sized + 'static {
    fn apply<O: Ops>(&self, ops: &mut O, maps: O::Value) -> O::Value;

    /// The same layers, with the same variables.
    fn shallow_clone(&self) -> Self;
}

/// A layer that computes and can describe its operation.
pub(crate) trait GraphLayer: nn::ModuleT {
    /// The path of its variables, `encoder.conv.2`.
    fn name(&self) -> &str;

    /// Its operation in evaluation.
    fn op(&self) -> Op;
}

/// A norm that may compute what it gives to a SiLU together with it.
pub(crate) trait NormLayer: GraphLayer {
    /// silu(norm(maps)).
    fn forward_silu(&self, maps: &Tensor) -> Tensor;
}

/// A norm that scales and shifts every channel by constants, except in training.
pub(crate) trait FixedNorm: GraphLayer {
    /// The constants, `[C]` each.
    fn scale_and_shift(&self) -> [Tensor; 2];
}

/// A layer that can scale and shift its output's channels by changing its variables.
pub(crate) trait ScaledLayer: GraphLayer {
    /// scale·layer(maps) + shift, for `[C]` each.
    fn forward_scaled(&self, maps: &Tensor, scale_and_shift: &[Tensor; 2]) -> Tensor;
}

/// Computes on tensors.
pub(crate) struct Eager {
    pub(crate) mode: Mode,
    /// Whether segments are computed again in the backward pass instead of being kept.
    pub(crate) recomputes: bool,
}

impl Eager {
    /// Keeps everything.
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            mode,
            recomputes: false,
        }
    }
}

impl Ops for Eager {
    type Value = Tensor;

    fn layer<L: GraphLayer>(&mut self, layer: &L, input: Tensor) -> Tensor {
        input.apply_t(layer, self.mode == Mode::Train)
    }

    fn activation(&mut self, activation: Activation, mut input: Tensor) -> Tensor {
        match activation {
            Activation::Relu => input.relu_(),
            Activation::LeakyRelu => input.leaky_relu_(),
            Activation::Silu => input.silu(),
            Activation::Tanh => input.tanh(),
        }
    }

    fn norm_silu<L: NormLayer>(&mut self, norm: &L, maps: Tensor) -> Tensor {
        norm.forward_silu(&maps)
    }

    fn normalized<L: ScaledLayer, N: FixedNorm>(
        &mut self,
        layer: &L,
        norm: &N,
        maps: Tensor,
    ) -> Tensor {
        // The finite check looks at each layer's own output.
        if self.mode == Mode::Train || is_watching() {
            let maps = self.layer(layer, maps);
            return self.layer(norm, maps);
        }
        layer.forward_scaled(&maps, &norm.scale_and_shift())
    }

    fn flatten(&mut self, maps: Tensor) -> Tensor {
        maps.flatten(1, -1)
    }

    fn maps(&mut self, features: Tensor, [channels, height, width]: [i64; 3]) -> Tensor {
        // −1 instead of the batch size: a trace must serve every batch size.
        features.view([-1, channels, height, width])
    }

    fn channels_last(&mut self, maps: Tensor) -> Tensor {
        channels_last(&maps)
    }

    fn affine(&mut self, value: Tensor, scale: f64, offset: f64) -> Tensor {
        value * scale + offset
    }

    fn pad_end(&mut self, maps: Tensor) -> Tensor {
        maps.constant_pad_nd([0, 1, 0, 1])
    }

    fn attention(&mut self, query: Tensor, key: Tensor, value: Tensor) -> Tensor {
        let [channels, height, width] = [1, 2, 3].map(|dim| value.size()[dim]);
        // [N, 1, H·W, C]: one head.
        let places = |maps: &Tensor| maps.flatten(2, -1).transpose(1, 2).unsqueeze(1);
        let attended = Tensor::scaled_dot_product_attention::<Tensor>(
            &places(&query),
            &places(&key),
            &places(&value),
            None,
            0.0,
            false,
            None,
            false,
        );
        let attended = attended.squeeze_dim(1).transpose(1, 2); // [N, C, H·W]
        attended.reshape([-1, channels, height, width])
    }

    fn upsample(&mut self, maps: Tensor, size: [i64; 2]) -> Tensor {
        maps.upsample_nearest2d(size, None, None)
    }

    fn sum(&mut self, a: Tensor, b: Tensor) -> Tensor {
        a + b
    }

    fn concat(&mut self, a: Tensor, b: Tensor) -> Tensor {
        // Under autocast one of the two may be the half-precision output of a layer.
        let b = b.to_kind(a.kind());
        Tensor::cat(&[a, b], 1)
    }

    fn narrow(&mut self, value: &Tensor, start: i64, length: i64) -> Tensor {
        value.narrow(1, start, length)
    }

    fn offset(&mut self, maps: Tensor, parameter: &Tensor) -> Tensor {
        maps + channels_last(&parameter.unsqueeze(0))
    }

    fn everywhere(&mut self, batch: &Tensor, parameter: &Tensor) -> Tensor {
        // Sizes would be constants in a trace, which must serve every batch size.
        let zeros = batch.narrow(1, 0, 1).zeros_like().view([-1, 1, 1, 1]);
        zeros + channels_last(&parameter.unsqueeze(0))
    }

    fn share(&self, value: &Tensor) -> Tensor {
        value.shallow_clone()
    }

    fn segment<S: Segment>(&mut self, segment: &S, maps: Tensor) -> Tensor {
        if !self.recomputes {
            return segment.apply(self, maps);
        }
        let (mode, own) = (self.mode, segment.shallow_clone());
        let compute = move |maps: &Tensor| own.apply(&mut Eager::new(mode), maps.shallow_clone());
        // Fails where the segment itself would panic.
        recomputed(&maps, compute).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Ops for Graph {
    type Value = Value;

    fn layer<L: GraphLayer>(&mut self, layer: &L, input: Value) -> Value {
        self.push(layer.name(), layer.op(), &[&input])
    }

    fn activation(&mut self, activation: Activation, input: Value) -> Value {
        self.push("", Op::Activation(activation), &[&input])
    }

    fn flatten(&mut self, maps: Value) -> Value {
        self.push("", Op::Flatten, &[&maps])
    }

    fn maps(&mut self, features: Value, shape: [i64; 3]) -> Value {
        self.push("", Op::Maps(shape), &[&features])
    }

    fn channels_last(&mut self, maps: Value) -> Value {
        maps
    }

    fn affine(&mut self, value: Value, scale: f64, offset: f64) -> Value {
        let scaled = self.with_number(&value, "Mul", scale);
        self.with_number(&scaled, "Add", offset)
    }

    fn pad_end(&mut self, maps: Value) -> Value {
        self.push("", Op::PadEnd, &[&maps])
    }

    fn attention(&mut self, query: Value, key: Value, value: Value) -> Value {
        self.push("", Op::Attention, &[&query, &key, &value])
    }

    fn upsample(&mut self, maps: Value, size: [i64; 2]) -> Value {
        self.push("", Op::Upsample(size), &[&maps])
    }

    fn sum(&mut self, a: Value, b: Value) -> Value {
        self.push("", Op::Elementwise("Add"), &[&a, &b])
    }

    fn concat(&mut self, a: Value, b: Value) -> Value {
        self.push("", Op::Concat, &[&a, &b])
    }

    fn narrow(&mut self, value: &Value, start: i64, length: i64) -> Value {
        Graph::narrow(self, value, start, length)
    }

    fn offset(&mut self, maps: Value, parameter: &Tensor) -> Value {
        let parameter = self.constant(parameter.shallow_clone());
        self.elementwise("Add", &[&maps, &parameter])
    }

    fn everywhere(&mut self, batch: &Value, parameter: &Tensor) -> Value {
        let first = Graph::narrow(self, batch, 0, 1);
        let zero = self.with_number(&first, "Mul", 0.0);
        let zero = self.push("", Op::Maps([1, 1, 1]), &[&zero]);
        self.offset(zero, parameter)
    }

    fn share(&self, value: &Value) -> Value {
        value.clone()
    }
}

impl Graph {
    /// A layer of another part of the model than the network.
    pub(crate) fn apply_layer<L: GraphLayer>(&mut self, layer: &L, input: &Value) -> Value {
        self.push(layer.name(), layer.op(), &[input])
    }
}

/// The same maps with the channels innermost in memory, a layout that convolutions preserve.
///
/// libtorch's CPU convolutions are 5–40 % faster with it. tch has no memory-format argument.
pub(crate) fn channels_last(maps: &Tensor) -> Tensor {
    let values = maps.permute([0, 2, 3, 1]).contiguous();
    let [height, width, channels] = [1, 2, 3].map(|dim| values.size()[dim]);
    // Of one channel both layouts are the same in memory, and libtorch goes by the strides, which only a new view sets: with
    // the others every map that follows would have its channels outermost.
    let values = values.view(-1).view([-1, height, width, channels]);
    values.permute([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn channels_are_innermost_also_where_there_is_one() {
        for channels in [1, 3] {
            let size = [2, channels, 4, 5];
            let maps = Tensor::arange(40 * channels, (Kind::Float, Device::Cpu)).view(size);
            let last = channels_last(&maps);
            assert_eq!(last, maps);
            assert_eq!(last.stride(), [20 * channels, 1, 5 * channels, channels]);
            // What a convolution makes of them, too.
            let weight = Tensor::ones([2, channels, 3, 3], (Kind::Float, Device::Cpu));
            let next = last.conv2d(&weight, None::<&Tensor>, [1; 2], [1; 2], [1; 2], 1);
            assert_eq!(next.stride()[1], 1, "{channels}");
        }
    }
}
