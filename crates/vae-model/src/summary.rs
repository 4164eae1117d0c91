//! Summaries of a model: its layers with their outputs, sizes and costs.

use serde::Serialize;
use tch::Tensor;

use crate::Vae;
use crate::graph::Op;
use crate::part::Part;

/// A part of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartSummary {
    /// `encoder`, `posterior`, `prior`, `decoder` or `likelihood`.
    pub name: &'static str,
    /// The layers; those of a network in the order of computation.
    pub layers: Vec<LayerSummary>,
    /// Number of trained values.
    pub n_parameters: usize,
    /// Size of everything that is saved, in f32.
    pub n_bytes: usize,
    /// Multiply-adds of a network's layers, for one image.
    pub multiply_adds: i64,
}

/// A layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSummary {
    /// The path of its variables, `encoder.conv.2`.
    pub name: String,
    /// As in `convolution 3×3, stride 2`; `None` outside the encoder and decoder, and for custom networks.
    pub kind: Option<String>,
    /// Shape of its output for one image; `None` outside the encoder and decoder.
    pub output: Option<Vec<i64>>,
    /// Number of trained values.
    pub n_parameters: usize,
    /// Size of everything that is saved, in f32.
    pub n_bytes: usize,
    /// Multiply-adds for one image, without norms and activations. `None` outside the encoder and decoder.
    pub multiply_adds: Option<i64>,
}

impl Vae {
    /// The model's parts, layer by layer.
    ///
    /// ```
    /// use tch::Device;
    /// use vae_model::{ImageShape, ModelConfig, Vae};
    ///
    /// # fn main() -> Result<(), vae_model::ModelError> {
    /// let shape = ImageShape { channels: 1, height: 28, width: 28 };
    /// let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?;
    /// let encoder = &vae.summary()[0];
    /// assert_eq!(encoder.layers[0].name, "encoder.conv.0");
    /// assert_eq!(encoder.layers[0].output, Some(vec![32, 28, 28]));
    /// assert_eq!(encoder.layers[0].multiply_adds, Some(28 * 28 * 32 * 3 * 3));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn summary(&self) -> Vec<PartSummary> {
        let variables = self.named_variables();
        let other = |name: &'static str| {
            let mut paths: Vec<&str> = variables
                .iter()
                .filter(|(variable, _)| variable.starts_with(&format!("{name}.")))
                .filter_map(|(variable, _)| variable.rsplit_once('.').map(|(path, _)| path))
                .collect();
            paths.dedup();
            let layers = paths.into_iter().map(|path| {
                let own = |variable: &str| {
                    variable
                        .strip_prefix(path)
                        .is_some_and(|rest| rest[1..].find('.').is_none())
                };
                let own = variables.iter().filter(|(variable, _)| own(variable));
                let (n_parameters, n_bytes) = sums(own);
                LayerSummary {
                    name: path.to_owned(),
                    kind: None,
                    output: None,
                    n_parameters,
                    n_bytes,
                    multiply_adds: None,
                }
            });
            part_of(name, layers.collect())
        };
        let network = |part: Part| {
            let Some(graph) = self.network_graph(part) else {
                return other(part.name());
            };
            let nodes = graph
                .nodes
                .iter()
                .filter(|node| !node.name.is_empty() || matches!(node.op, Op::Upsample(_)));
            let layers = nodes.map(|node| {
                let (n_parameters, n_bytes) = match node.name.as_str() {
                    "" => (0, 0),
                    name => sizes(&variables, name),
                };
                LayerSummary {
                    name: node.name.clone(),
                    kind: Some(node.op.kind()),
                    output: Some(node.output.shape.clone()),
                    n_parameters,
                    n_bytes,
                    multiply_adds: Some(node.op.multiply_adds(&node.inputs[0], &node.output)),
                }
            });
            let mut layers: Vec<LayerSummary> = layers.collect();
            // Those that are no layer's: a learned start, offsets.
            let is_of = |variable: &str, layer: &LayerSummary| {
                !layer.name.is_empty() && variable.starts_with(&format!("{}.", layer.name))
            };
            let prefix = format!("{}.", part.name());
            let others = variables.iter().filter(|(name, _)| {
                name.starts_with(&prefix) && !layers.iter().any(|layer| is_of(name, layer))
            });
            let others: Vec<LayerSummary> = others
                .map(|variable| {
                    let (n_parameters, n_bytes) = sums(std::iter::once(variable));
                    LayerSummary {
                        name: variable.0.clone(),
                        kind: None,
                        output: None,
                        n_parameters,
                        n_bytes,
                        multiply_adds: None,
                    }
                })
                .collect();
            layers.extend(others);
            part_of(part.name(), layers)
        };
        let encoder = match self.has_encoder() {
            true => network(Part::Encoder),
            false => other(Part::Encoder.name()),
        };
        vec![
            encoder,
            other("posterior"),
            other("prior"),
            network(Part::Decoder),
            other("likelihood"),
        ]
    }
}

fn part_of(name: &'static str, layers: Vec<LayerSummary>) -> PartSummary {
    PartSummary {
        name,
        n_parameters: layers.iter().map(|layer| layer.n_parameters).sum(),
        n_bytes: layers.iter().map(|layer| layer.n_bytes).sum(),
        multiply_adds: layers.iter().filter_map(|layer| layer.multiply_adds).sum(),
        layers,
    }
}

/// Number of parameters and bytes of the layer with this path.
fn sizes(variables: &[(String, Tensor)], path: &str) -> (usize, usize) {
    let prefix = format!("{path}.");
    sums(
        variables
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix)),
    )
}

fn sums<'a>(variables: impl Iterator<Item = &'a (String, Tensor)>) -> (usize, usize) {
    variables.fold((0, 0), |(n_parameters, n_bytes), (_, tensor)| {
        let trained = if tensor.requires_grad() {
            tensor.numel()
        } else {
            0
        };
        (n_parameters + trained, n_bytes + 4 * tensor.numel())
    })
}
