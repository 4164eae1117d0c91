//! Writes the operations of a [`Graph`] as ONNX.

use std::collections::HashMap;

use prost::Message;
use tch::Tensor;

use super::message::{
    ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS, ATTRIBUTE_STRING, Attribute, Dimension, Entry,
    FLOAT, GraphProto, INT64, Model, NodeProto, OperatorSet, Shape, Side, TensorProto, TensorType,
    Type, ValueInfo,
};
use super::preprocessing_json;
use crate::graph::{Activation, EPSILON, Graph, Node, Op, Value};
use crate::part::Part;
use crate::weights::f32_bytes;
use crate::{ModelError, Vae};

/// Supported by every runtime since 2022; no later operator is needed.
const OPSET: i64 = 17;
/// The file format version that belongs to it.
const IR_VERSION: i64 = 8;

/// The sides of the maps that a file takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sizes {
    /// Those of the model; latents are `[N, Z]`.
    Own,
    /// Any; latents are maps `[N, C, h, w]`.
    Any,
}

pub(super) fn model(vae: &Vae, part: Part, sizes: Sizes) -> Result<Vec<u8>, ModelError> {
    let mut graph = Graph::default();
    let (inputs, outputs) = vae.part_graph(&mut graph, part)?;
    let names: &[&str] = match part {
        Part::Encoder => &["mean", "log_var"],
        Part::Decoder => &["images"],
    };
    let mut writer = Writer::default();
    writer.names.resize(graph.n_values(), None);
    if sizes == Sizes::Any {
        let latents = vae.config().latent_shape.ok_or_else(|| {
            tied_to_the_size("its latents are a vector (latent_shape makes them a map)")
        })?;
        if !vae.condition().is_empty() {
            return Err(tied_to_the_size("it has a condition"));
        }
        let flat = inputs.iter().filter(|input| input.shape.len() == 1);
        writer.maps = Some(flat.map(|input| (input.id, latents.to_vec())).collect());
        let constant = graph
            .constants
            .iter()
            .find(|(value, _)| value.shape.len() > 1);
        if constant.is_some() {
            return Err(tied_to_the_size("it adds maps of a fixed size"));
        }
    }
    for (input, name) in inputs.iter().zip(part.inputs()) {
        writer.names[input.id] = Some(name.to_owned());
    }
    for (value, tensor) in &graph.constants {
        let name = writer.tensor(format!("constant.{}", value.id), tensor)?;
        writer.names[value.id] = Some(name);
    }
    for node in &graph.nodes {
        writer.node(node)?;
    }
    let mut output_infos = Vec::new();
    for (value, name) in outputs.iter().zip(names) {
        // A later operation may use the value too, so it keeps its name.
        writer.push(
            "Identity",
            &[writer.name(value)],
            (*name).to_owned(),
            vec![],
        );
        output_infos.push(writer.value_info(name, value));
    }
    let infos = Writer {
        maps: writer.maps.clone(),
        ..Writer::default()
    };
    let model = Model {
        ir_version: IR_VERSION,
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(GraphProto {
            nodes: writer.nodes,
            name: part.name().to_owned(),
            initializers: writer.initializers,
            inputs: inputs
                .iter()
                .zip(part.inputs())
                .map(|(input, name)| infos.value_info(name, input))
                .collect(),
            outputs: output_infos,
        }),
        opset_import: vec![OperatorSet {
            domain: String::new(),
            version: OPSET,
        }],
        metadata: vec![Entry {
            key: "preprocessing".to_owned(),
            value: preprocessing_json(&vae.preprocessing())?,
        }],
    };
    if model.encoded_len() > i32::MAX as usize {
        return Err(ModelError::export(
            "ONNX files are limited to 2 GiB; TorchScript files are not",
        ));
    }
    Ok(model.encode_to_vec())
}

/// Why a model has no file for any size.
fn tied_to_the_size(why: &str) -> ModelError {
    ModelError::export(format!(
        "this model is tied to the size of its images: {why}"
    ))
}

#[derive(Default)]
struct Writer {
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// The name of each value of the graph.
    names: Vec<Option<String>>,
    /// In a file for any size, the shapes of maps that the graph has as flat values.
    maps: Option<HashMap<usize, Vec<i64>>>,
}

impl Writer {
    fn name(&self, value: &Value) -> String {
        let name = self.names.get(value.id).cloned().flatten();
        name.unwrap_or_else(|| format!("value.{}", value.id))
    }

    fn value_info(&self, name: &str, value: &Value) -> ValueInfo {
        let shape = match &self.maps {
            Some(maps) => maps.get(&value.id).unwrap_or(&value.shape),
            None => &value.shape,
        };
        let is_image = name == "images";
        let side = |(i, &side): (usize, &i64)| match (&self.maps, i) {
            (Some(_), 1..) => {
                let of = if is_image { "" } else { "latent_" };
                let side = if i == 1 { "height" } else { "width" };
                Side::Any(format!("{of}{side}"))
            }
            _ => Side::Value(side),
        };
        let sides = shape.iter().enumerate().map(side);
        let dims = [Side::Any("batch".to_owned())].into_iter().chain(sides);
        let dims = dims.map(|side| Dimension { side: Some(side) }).collect();
        ValueInfo {
            name: name.to_owned(),
            value_type: Some(Type {
                tensor: Some(TensorType {
                    element: FLOAT,
                    shape: Some(Shape { dims }),
                }),
            }),
        }
    }

    /// In a file for any size, what an operation on flat values does to the maps that they are. `None` if the operation is
    /// not on such values.
    fn on_maps(&mut self, node: &Node) -> Result<Option<()>, ModelError> {
        let Some(maps) = &self.maps else {
            return Ok(None);
        };
        let input = &node.inputs[0];
        let known = node
            .inputs
            .iter()
            .find_map(|input| maps.get(&input.id))
            .cloned();
        let names: Vec<String> = node.inputs.iter().map(|value| self.name(value)).collect();
        let output = self.name(&node.output);
        let shape = match (&node.op, known) {
            (Op::Flatten, None) => {
                self.push("Identity", &names, output, vec![]);
                input.shape.clone()
            }
            (Op::Maps(shape), Some(known)) if shape[..] == known[..] => {
                self.push("Identity", &names, output, vec![]);
                return Ok(Some(())); // A map in the graph, too.
            }
            (Op::Narrow { start, length }, Some(known)) => {
                let area: i64 = known[1..].iter().product();
                if start % area != 0 || length % area != 0 {
                    return Err(tied_to_the_size("it takes a map apart"));
                }
                self.slice(names[0].clone(), [start / area, length / area], output);
                vec![length / area, known[1], known[2]]
            }
            (Op::Elementwise(op), Some(known)) => {
                self.push(op, &names, output, vec![]);
                known
            }
            (Op::Upsample([height, width]), None)
                if height % input.shape[1] != 0 || width % input.shape[2] != 0 =>
            {
                return Err(tied_to_the_size("it enlarges maps by no whole factor"));
            }
            (Op::ConvTranspose { .. } | Op::RowsOfLargest { .. }, None)
            | (Op::Conv { .. } | Op::BatchNorm { .. } | Op::GroupNorm { .. }, None)
            | (Op::Activation(_) | Op::Upsample(_) | Op::PadEnd | Op::Attention, None)
            | (Op::Narrow { .. } | Op::Concat | Op::Elementwise(_), None) => return Ok(None),
            _ => return Err(tied_to_the_size("it has layers between maps and vectors")),
        };
        if let Some(maps) = &mut self.maps {
            maps.insert(node.output.id, shape);
        }
        Ok(Some(()))
    }

    /// A range of the first dimension after the batch.
    fn slice(&mut self, input: String, [start, length]: [i64; 2], output: String) {
        let starts = self.integers(format!("{output}.start"), &[start]);
        let ends = self.integers(format!("{output}.end"), &[start + length]);
        let axes = self.integers(format!("{output}.axis"), &[1]);
        self.push("Slice", &[input, starts, ends, axes], output, vec![]);
    }

    fn push(&mut self, op: &str, inputs: &[String], output: String, attributes: Vec<Attribute>) {
        self.nodes.push(NodeProto {
            inputs: inputs.to_vec(),
            name: output.clone(),
            outputs: vec![output],
            op_type: op.to_owned(),
            attributes,
        });
    }

    /// Adds an f32 initializer.
    fn tensor(&mut self, name: String, tensor: &Tensor) -> Result<String, ModelError> {
        self.initializers.push(TensorProto {
            dims: tensor.size(),
            data_type: FLOAT,
            name: name.clone(),
            raw_data: f32_bytes(tensor)?,
        });
        Ok(name)
    }

    fn integers(&mut self, name: String, integers: &[i64]) -> String {
        self.initializers.push(TensorProto {
            dims: vec![integers.len() as i64],
            data_type: INT64,
            name: name.clone(),
            raw_data: integers.iter().flat_map(|n| n.to_le_bytes()).collect(),
        });
        name
    }

    /// The input, weight and bias of a layer.
    fn with_weights(
        &mut self,
        node: &Node,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Vec<String>, ModelError> {
        let mut inputs = vec![self.name(&node.inputs[0])];
        inputs.push(self.tensor(format!("{}.weight", node.name), weight)?);
        if let Some(bias) = bias {
            inputs.push(self.tensor(format!("{}.bias", node.name), bias)?);
        }
        Ok(inputs)
    }

    /// Attention between the places of maps `[B, C, H, W]`.
    fn attention(&mut self, node: &Node, output: &str) -> Result<(), ModelError> {
        let within = |name: &str| format!("{output}.{name}");
        let shape = &node.output.shape;
        let flat = self.integers(within("flat"), &[0, shape[0], -1]);
        for (value, name) in node.inputs.iter().zip(["query", "key", "value"]) {
            let input = self.name(value);
            self.push("Reshape", &[input, flat.clone()], within(name), vec![]); // [B, C, H·W]
        }
        let across = || vec![ints("perm", &[0, 2, 1])];
        self.push("Transpose", &[within("query")], within("queries"), across());
        let pair = [within("queries"), within("key")];
        self.push("MatMul", &pair, within("products"), vec![]); // [B, H·W, H·W]
        let scale = Tensor::from((shape[0] as f32).sqrt().recip());
        let scale = self.tensor(within("scale"), &scale)?;
        let pair = [within("products"), scale];
        self.push("Mul", &pair, within("scores"), vec![]);
        let last = vec![int("axis", -1)];
        self.push("Softmax", &[within("scores")], within("shares"), last);
        self.push("Transpose", &[within("value")], within("values"), across());
        let pair = [within("shares"), within("values")];
        self.push("MatMul", &pair, within("sums"), vec![]); // [B, H·W, C]
        self.push("Transpose", &[within("sums")], within("attended"), across());
        let query = self.name(&node.inputs[0]);
        self.push("Shape", &[query], within("shape"), vec![]);
        let pair = [within("attended"), within("shape")];
        self.push("Reshape", &pair, output.to_owned(), vec![]);
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Result<(), ModelError> {
        if self.on_maps(node)?.is_some() {
            return Ok(());
        }
        let input = self.name(&node.inputs[0]);
        let output = self.name(&node.output);
        let within = |name: &str| format!("{output}.{name}");
        match &node.op {
            Op::Linear { weight, bias } => {
                let inputs = self.with_weights(node, weight, bias.as_ref())?;
                self.push("Gemm", &inputs, output, vec![int("transB", 1)]);
            }
            Op::Conv {
                weight,
                bias,
                stride,
                padding,
            } => {
                let inputs = self.with_weights(node, weight, bias.as_ref())?;
                self.push("Conv", &inputs, output, windows(weight, *stride, *padding));
            }
            Op::ConvTranspose {
                weight,
                bias,
                stride,
                padding,
                output_padding,
            } => {
                let inputs = self.with_weights(node, weight, bias.as_ref())?;
                let mut attributes = windows(weight, *stride, *padding);
                attributes.push(ints("output_padding", output_padding));
                self.push("ConvTranspose", &inputs, output, attributes);
            }
            Op::BatchNorm {
                weight,
                bias,
                mean,
                variance,
            } => {
                let mut inputs = self.with_weights(node, weight, Some(bias))?;
                inputs.push(self.tensor(format!("{}.running_mean", node.name), mean)?);
                inputs.push(self.tensor(format!("{}.running_var", node.name), variance)?);
                self.push(
                    "BatchNormalization",
                    &inputs,
                    output,
                    vec![float("epsilon", EPSILON)],
                );
            }
            Op::GroupNorm {
                weight,
                bias,
                n_groups,
                epsilon,
            } => {
                // ONNX's own group norm was added late and with an error. Instead: an instance norm of each group, then
                // the scale and offset of each channel.
                let groups = self.integers(within("groups.shape"), &[0, *n_groups, -1]);
                self.push(
                    "Shape",
                    std::slice::from_ref(&input),
                    within("shape"),
                    vec![],
                );
                self.push("Reshape", &[input, groups], within("groups"), vec![]);
                let options = (tch::Kind::Float, tch::Device::Cpu);
                let one = self.tensor(within("one"), &Tensor::ones([*n_groups], options))?;
                let zero = self.tensor(within("zero"), &Tensor::zeros([*n_groups], options))?;
                let epsilon = vec![float("epsilon", *epsilon)];
                let inputs = [within("groups"), one, zero];
                self.push("InstanceNormalization", &inputs, within("normed"), epsilon);
                let pair = [within("normed"), within("shape")];
                self.push("Reshape", &pair, within("maps"), vec![]);
                let weight = weight.view([-1, 1, 1]);
                let weight = self.tensor(format!("{}.weight", node.name), &weight)?;
                self.push("Mul", &[within("maps"), weight], within("scaled"), vec![]);
                let bias = self.tensor(format!("{}.bias", node.name), &bias.view([-1, 1, 1]))?;
                self.push("Add", &[within("scaled"), bias], output, vec![]);
            }
            Op::Activation(Activation::Relu) => self.push("Relu", &[input], output, vec![]),
            Op::Activation(Activation::LeakyRelu) => {
                self.push("LeakyRelu", &[input], output, vec![float("alpha", 0.01)]);
            }
            Op::Activation(Activation::Tanh) => self.push("Tanh", &[input], output, vec![]),
            Op::Activation(Activation::Silu) => {
                let gated = std::slice::from_ref(&input);
                self.push("Sigmoid", gated, within("gate"), vec![]);
                self.push("Mul", &[input, within("gate")], output, vec![]);
            }
            Op::Flatten => self.push("Flatten", &[input], output, vec![int("axis", 1)]),
            Op::Maps(shape) => {
                // 0 keeps the batch size.
                let shape = self.integers(within("shape"), &[&[0], &shape[..]].concat());
                self.push("Reshape", &[input, shape], output, vec![]);
            }
            Op::Upsample([height, width])
                if height % node.inputs[0].shape[1] == 0
                    && width % node.inputs[0].shape[2] == 0 =>
            {
                let from = &node.inputs[0].shape;
                let factors = [1, 1, height / from[1], width / from[2]].map(|n| n as f32);
                let factors = self.tensor(within("factors"), &Tensor::from_slice(&factors))?;
                let inputs = [input, String::new(), factors]; // No region.
                let attributes = vec![
                    text("mode", "nearest"),
                    text("coordinate_transformation_mode", "asymmetric"),
                    text("nearest_mode", "floor"),
                ];
                self.push("Resize", &inputs, output, attributes);
            }
            Op::Upsample(size) => {
                // Gathers rows, then columns, by index: `Resize` rounds odd factors in a different way.
                let (from, within_rows) = (&node.inputs[0].shape, within("rows"));
                let rows = self.integers(within("row"), &nearest(from[1], size[0]));
                let columns = self.integers(within("column"), &nearest(from[2], size[1]));
                self.push(
                    "Gather",
                    &[input, rows],
                    within_rows.clone(),
                    vec![int("axis", 2)],
                );
                self.push(
                    "Gather",
                    &[within_rows, columns],
                    output,
                    vec![int("axis", 3)],
                );
            }
            Op::PadEnd => {
                // Before each dimension, then after it.
                let pads = self.integers(within("pads"), &[0, 0, 0, 0, 0, 0, 1, 1]);
                self.push("Pad", &[input, pads], output, vec![]);
            }
            Op::Attention => self.attention(node, &output)?,
            Op::Narrow { start, length } => self.slice(input, [*start, *length], output),
            Op::Concat => {
                let inputs: Vec<String> =
                    node.inputs.iter().map(|value| self.name(value)).collect();
                self.push("Concat", &inputs, output, vec![int("axis", 1)]);
            }
            Op::RowsOfLargest { rows } => {
                let axis = || int("axis", 1);
                let largest = vec![axis(), int("keepdims", 0)];
                self.push("ArgMax", &[input], within("codes"), largest);
                let rows = self.tensor(within("book"), rows)?;
                let codes = [rows, within("codes")];
                self.push("Gather", &codes, within("rows"), vec![int("axis", 0)]); // [B, H, W, d]
                let to_front = vec![ints("perm", &[0, 3, 1, 2])];
                self.push("Transpose", &[within("rows")], output, to_front);
            }
            Op::Elementwise(op) => {
                let inputs: Vec<String> =
                    node.inputs.iter().map(|value| self.name(value)).collect();
                self.push(op, &inputs, output, vec![]);
            }
        }
        Ok(())
    }
}

/// The source pixel, of `from`, for each of `to` pixels, as libtorch computes it.
fn nearest(from: i64, to: i64) -> Vec<i64> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|i| ((i as f32 * scale) as i64).min(from - 1))
        .collect()
}

/// Kernel, stride and padding of a convolution.
fn windows(weight: &Tensor, stride: i64, [rows, columns]: [i64; 2]) -> Vec<Attribute> {
    vec![
        ints("kernel_shape", &weight.size()[2..]),
        ints("strides", &[stride; 2]),
        // Above, left, below, right.
        ints("pads", &[rows, columns, rows, columns]),
    ]
}

fn int(name: &str, int: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        int,
        kind: ATTRIBUTE_INT,
        ..Default::default()
    }
}

fn text(name: &str, text: &str) -> Attribute {
    Attribute {
        name: name.to_owned(),
        text: text.into(),
        kind: ATTRIBUTE_STRING,
        ..Default::default()
    }
}

fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: ints.to_vec(),
        kind: ATTRIBUTE_INTS,
        ..Default::default()
    }
}

fn float(name: &str, float: f64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        float: float as f32,
        kind: ATTRIBUTE_FLOAT,
        ..Default::default()
    }
}
