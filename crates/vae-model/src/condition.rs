//! `[model.condition]`: models with the class or the attributes of an item as a further input, p(x|z, c) and q(z|x, c)
//! (conditional VAE, Sohn et al. 2015,
//! <https://papers.nips.cc/paper/5775-learning-structured-output-representation-using-deep-conditional-generative-models>).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_base::ConditionSpec;

use crate::ModelError;
use crate::graph::{Graph, Op, Value};

/// The example in docs/config.md.
const EXAMPLE_ATTRIBUTES: [&str; 1] = ["Smiling"];

/// What the model gets of each item besides the item itself: its class, attributes, or both. The encoder, the decoder
/// and the prior `conditional_gaussian` get it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConditionConfig {
    /// The model gets the item's class, its label in the data set. Default false.
    pub classes: bool,
    /// The model gets these columns of the data set's table of attributes, each at most once.
    /// Default `[]`.
    #[schemars(example = EXAMPLE_ATTRIBUTES)]
    pub attributes: Vec<String>,
    /// The share of the training items whose condition is hidden from the model, chosen at random in each step, so that
    /// the model learns to handle unknown conditions. Default 0.1.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub dropout: f64,
}

impl Default for ConditionConfig {
    fn default() -> Self {
        Self {
            classes: false,
            attributes: Vec::new(),
            dropout: 0.1,
        }
    }
}

impl ConditionConfig {
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        if !self.classes && self.attributes.is_empty() {
            return Err(ModelError::config(
                "model.condition",
                "it is empty; set classes = true or attributes = [\"NAME\"]",
            ));
        }
        if let Some(name) = self
            .attributes
            .iter()
            .enumerate()
            .find_map(|(i, name)| self.attributes[..i].contains(name).then_some(name))
        {
            return Err(ModelError::config(
                "model.condition.attributes",
                format!("{name} is listed twice"),
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ModelError::config(
                "model.condition.dropout",
                format!(
                    "found {}, expected a number from 0 to less than 1",
                    self.dropout
                ),
            ));
        }
        Ok(())
    }
}

/// Refuses a condition that differs from the one in the config.
pub(crate) fn check_spec(
    config: Option<&ConditionConfig>,
    spec: &ConditionSpec,
) -> Result<(), ModelError> {
    let names: Vec<&str> = spec.attributes.iter().map(|known| &*known.name).collect();
    let (classes, attributes): (bool, &[String]) = match config {
        Some(condition) => (condition.classes, &condition.attributes),
        None => (false, &[]),
    };
    if classes != spec.classes.is_empty() && names == attributes {
        return Ok(());
    }
    let there_is = match spec.is_empty() {
        true => "none".to_owned(),
        false => format!("classes {:?}, attributes {names:?}", spec.classes),
    };
    Err(ModelError::config(
        "model.condition",
        format!(
            "the data set was resolved with another condition: found {there_is}, expected \
             classes = {classes}, attributes = {attributes:?}"
        ),
    ))
}

/// Number of values that a network gets for the D columns: each column's value, and whether it is unknown.
pub(crate) fn n_features(spec: &ConditionSpec) -> i64 {
    2 * spec.n_columns() as i64
}

/// The network's input for a condition `[N, D]`: the values, with 0 in place of unknown ones (NaN), then for each
/// whether it is unknown, `[N, 2·D]`. The weights of the next layer learn what "unknown" means.
pub(crate) fn features(condition: &Tensor, scales: &Tensor) -> Tensor {
    let unknown = condition.isnan();
    let values = condition.masked_fill(&unknown, 0.0);
    let values = values * scales.to_device(condition.device());
    Tensor::cat(&[values, unknown.to_kind(Kind::Float)], 1)
}

/// Factors on the columns, `[D]`. The one-hot columns of C classes are multiplied by √C, which gives them the length of
/// C latents of the prior. Otherwise a network attends to the class less than to its latents, and the latents learn to
/// encode the class instead. Made once, when the model is built: a tensor made from numbers during a trace would be
/// uninitialized memory in it.
pub(crate) fn scales(spec: &ConditionSpec) -> Tensor {
    let n_classes = spec.classes.len();
    let mut scales = vec![(n_classes as f32).sqrt(); n_classes];
    scales.resize(spec.n_columns(), 1.0);
    Tensor::from_slice(&scales)
}

/// [`features`] as operations.
pub(crate) fn features_graph(graph: &mut Graph, condition: &Value, spec: &ConditionSpec) -> Value {
    let (zero, one) = (graph.number(0.0), graph.number(1.0));
    let unknown = graph.elementwise("IsNaN", &[condition]);
    let values = graph.elementwise("Where", &[&unknown, &zero, condition]);
    let scales = graph.constant(scales(spec));
    let values = graph.elementwise("Mul", &[&values, &scales]);
    let unknown = graph.elementwise("Where", &[&unknown, &one, &zero]);
    graph.push("", Op::Concat, &[&values, &unknown])
}

/// Items or latents, together with their condition in a model that has one.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// use vae_model::Conditioned;
///
/// let images = Tensor::zeros([2, 1, 28, 28], (Kind::Uint8, Device::Cpu));
/// let class = Tensor::from_slice2(&[[1_f32, 0.0], [0.0, 1.0]]);
/// let alone = Conditioned::from(&images);
/// let with_class = Conditioned::from((&images, &class));
/// assert!(alone.condition.is_none() && with_class.condition.is_some());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Conditioned<'a> {
    /// Items or latents.
    pub tensor: &'a Tensor,
    /// The condition of each, f32 `[N, D]` in the columns of the model's [`ConditionSpec`]; NaN is unknown. `None` for
    /// models without a condition.
    pub condition: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for Conditioned<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self {
            tensor,
            condition: None,
        }
    }
}

impl<'a> From<(&'a Tensor, &'a Tensor)> for Conditioned<'a> {
    fn from((tensor, condition): (&'a Tensor, &'a Tensor)) -> Self {
        Self {
            tensor,
            condition: Some(condition),
        }
    }
}

impl<'a> From<(&'a Tensor, Option<&'a Tensor>)> for Conditioned<'a> {
    fn from((tensor, condition): (&'a Tensor, Option<&'a Tensor>)) -> Self {
        Self { tensor, condition }
    }
}

#[cfg(test)]
mod tests {
    use vae_base::{AttributeSpec, AttributeValues};

    use super::*;

    #[test]
    fn unknown_values_are_0_and_marked() {
        let nan = f32::NAN;
        let condition = Tensor::from_slice2(&[[1.0, -1.0, nan], [nan, 0.5, 0.0]]);
        let wanted = [
            [1.0, -1.0, 0.0, 0.0, 0.0, 1.0],
            [0.0, 0.5, 0.0, 1.0, 0.0, 0.0_f32],
        ];
        let attribute = |name: &str| AttributeSpec {
            name: name.to_owned(),
            values: AttributeValues::YesNo,
        };
        let mut spec = ConditionSpec {
            classes: vec![],
            attributes: ["a", "b", "c"].map(attribute).to_vec(),
        };
        assert_eq!(
            features(&condition, &scales(&spec)),
            Tensor::from_slice2(&wanted)
        );
        // Four classes have the factor √4 = 2.
        spec.classes = ["0", "1", "2", "3"].map(str::to_owned).to_vec();
        spec.attributes.clear();
        let second = Tensor::from_slice2(&[[0_f32, 1.0, 0.0, 0.0]]);
        let wanted = [[0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0_f32]];
        assert_eq!(
            features(&second, &scales(&spec)),
            Tensor::from_slice2(&wanted)
        );
    }
}
