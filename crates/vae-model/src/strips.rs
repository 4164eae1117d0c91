//! The computation of a graph in strips of rows: the numbers of the whole, with less memory.
//!
//! A strip of a map needs a strip of the maps before it, a little taller where a kernel reaches beyond it. So most maps
//! never exist as a whole: they are computed strip by strip, wherever they are needed, sometimes twice. Stored are the
//! sums at the ends of residual blocks, maps that became smaller, and what attention and fully connected layers see: maps
//! in bands of rows, each dropped as soon as the last strip that needs it is made, so that one map gives way to the next. A
//! group norm's mean and variance are measured over all strips before it is applied to one. Nothing is approximated, unlike
//! with overlapping tiles that are blended.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use tch::{Device, Kind, Tensor, no_grad};

use crate::Mode;
use crate::graph::{Activation, Graph, Node, Op, Value};
use crate::network::ops::{Eager, Ops};

/// The last value of `graph` for the batches `inputs` of its inputs, in strips of `n_rows` rows; `None` if it has an
/// operation that networks do not have.
pub(crate) fn compute(graph: &Graph, inputs: &[&Tensor], n_rows: i64) -> Option<Tensor> {
    let plan = Plan::new(graph)?;
    let n = inputs.first()?.size()[0];
    let outputs: Option<Vec<Tensor>> = (0..n)
        .map(|i| {
            let item: Vec<Tensor> = inputs.iter().map(|input| input.narrow(0, i, 1)).collect();
            no_grad(|| Strips::new(&plan, item, n_rows.max(1)).run())
        })
        .collect();
    Some(Tensor::cat(&outputs?, 0))
}

/// Whether [`compute`] knows all operations of the graph, and it has maps.
pub(crate) fn are_possible(graph: &Graph) -> bool {
    graph.nodes.iter().all(is_known) && graph.nodes.iter().any(by_rows)
}

/// What is stored, and how long.
struct Plan<'a> {
    graph: &'a Graph,
    /// The node that makes a value, by the value's number.
    makers: HashMap<usize, usize>,
    /// Of each node, whether its output is stored.
    is_stored: Vec<bool>,
    /// Of each stored node, what its strips are computed from.
    cones: Vec<Cone>,
    /// The last node that needs a stored value or an input, by the value's number.
    last_use: HashMap<usize, usize>,
    /// Values that several operations take.
    shared: BTreeSet<usize>,
}

/// The nodes whose strips are computed for those of a stored node, itself among them, and the stored values before them.
#[derive(Default)]
struct Cone {
    nodes: BTreeSet<usize>,
    sources: BTreeSet<usize>,
}

impl<'a> Plan<'a> {
    fn new(graph: &'a Graph) -> Option<Self> {
        let constants: BTreeSet<usize> =
            graph.constants.iter().map(|(value, _)| value.id).collect();
        let mut consumers: HashMap<usize, Vec<usize>> = HashMap::new();
        for (i, node) in graph.nodes.iter().enumerate() {
            for input in &node.inputs {
                consumers.entry(input.id).or_default().push(i);
            }
        }
        let mut plan = Self {
            graph,
            makers: HashMap::new(),
            is_stored: Vec::new(),
            cones: Vec::new(),
            last_use: HashMap::new(),
            shared: consumers
                .iter()
                .filter(|(_, consumers)| consumers.len() > 1)
                .map(|(&id, _)| id)
                .collect(),
        };
        // Of each value, the group norms since the last stored one: each would compute all before it once more.
        const MOST_NORMS: usize = 2;
        let mut n_norms: HashMap<usize, usize> = HashMap::new();
        for (i, node) in graph.nodes.iter().enumerate() {
            let of_inputs = node
                .inputs
                .iter()
                .filter_map(|value| n_norms.get(&value.id));
            let is_norm = matches!(node.op, Op::GroupNorm { .. });
            let n = of_inputs.max().copied().unwrap_or(0) + usize::from(is_norm);
            let next = consumers
                .get(&node.output.id)
                .map_or(&[][..], Vec::as_slice);
            let next = || next.iter().map(|&consumer| &graph.nodes[consumer]);
            let n_variable = node
                .inputs
                .iter()
                .filter(|input| !constants.contains(&input.id));
            let is_stored = !by_rows(node)
                || next().next().is_none()
                || next().any(|consumer| !by_rows(consumer))
                || matches!(node.op, Op::Elementwise("Add")) && n_variable.count() > 1
                || matches!(node.op, Op::Conv { stride: 2.., .. })
                || n >= MOST_NORMS && next().any(|node| matches!(node.op, Op::GroupNorm { .. }));
            n_norms.insert(node.output.id, if is_stored { 0 } else { n });
            plan.makers.insert(node.output.id, i);
            plan.is_stored.push(is_stored);
            let cone = match is_stored {
                true => plan.cone(i),
                false => Cone::default(),
            };
            for &source in &cone.sources {
                plan.last_use.insert(source, i);
            }
            plan.cones.push(cone);
        }
        graph.nodes.iter().all(is_known).then_some(plan)
    }

    fn cone(&self, node: usize) -> Cone {
        let mut cone = Cone::default();
        let mut waiting = vec![node];
        while let Some(i) = waiting.pop() {
            if !cone.nodes.insert(i) {
                continue;
            }
            for input in &self.graph.nodes[i].inputs {
                match self.makers.get(&input.id) {
                    Some(&maker) if !self.is_stored[maker] => waiting.push(maker),
                    _ => _ = cone.sources.insert(input.id),
                }
            }
        }
        cone
    }
}

/// Whether networks have this operation.
fn is_known(node: &Node) -> bool {
    match &node.op {
        Op::Elementwise(name) => ["Add", "Mul"].contains(name),
        Op::RowsOfLargest { .. } => false,
        _ => true,
    }
}

/// Whether rows of the output depend on few rows of the input.
fn by_rows(node: &Node) -> bool {
    let is_map = |value: &Value| value.shape.len() == 3;
    if !is_map(&node.output) {
        return false;
    }
    match &node.op {
        Op::Linear { .. }
        | Op::ConvTranspose { .. }
        | Op::Flatten
        | Op::Maps(_)
        | Op::Attention
        | Op::RowsOfLargest { .. } => false,
        Op::Upsample([height, width]) => {
            let from = &node.inputs[0].shape;
            height % from[1] == 0 && width % from[2] == 0
        }
        Op::Conv { .. }
        | Op::BatchNorm { .. }
        | Op::GroupNorm { .. }
        | Op::Activation(_)
        | Op::PadEnd
        | Op::Narrow { .. }
        | Op::Concat
        | Op::Elementwise(_) => true,
    }
}

/// A stored value.
enum Stored {
    Whole(Tensor),
    Bands(Bands),
}

impl Stored {
    fn whole(&self) -> Tensor {
        match self {
            Self::Whole(value) => value.shallow_clone(),
            Self::Bands(map) => joined(map.bands.iter().map(Tensor::shallow_clone).collect()),
        }
    }
}

/// A map in bands of rows, the last one with as many as are left.
struct Bands {
    n_rows: i64,
    n_dropped: i64,
    bands: VecDeque<Tensor>,
}

impl Bands {
    /// These rows, none of which is in a band that was dropped.
    fn rows(&self, rows: &Range<i64>) -> Tensor {
        let bands = rows.start / self.n_rows..(rows.end - 1) / self.n_rows + 1;
        let pieces: Vec<Tensor> = bands
            .map(|i| {
                let first = i * self.n_rows;
                let band = &self.bands[(i - self.n_dropped) as usize];
                let from = rows.start.max(first) - first;
                let to = rows.end.min(first + self.n_rows) - first;
                band.narrow(2, from, to - from)
            })
            .collect();
        joined(pieces)
    }

    /// Drops the bands that end before this row.
    fn drop_before(&mut self, row: i64) {
        while (self.n_dropped + 1) * self.n_rows <= row && self.bands.pop_front().is_some() {
            self.n_dropped += 1;
        }
    }
}

/// Strips, one below the other.
fn joined(mut strips: Vec<Tensor>) -> Tensor {
    match strips.len() {
        1 => strips.remove(0),
        _ => Tensor::cat(&strips, 2),
    }
}

/// The computation for one item.
struct Strips<'a> {
    plan: &'a Plan<'a>,
    n_rows: i64,
    /// By the values' numbers.
    stored: HashMap<usize, Stored>,
    /// The first row of each band-wise stored value that the current strip was made of.
    first_rows: HashMap<usize, i64>,
    /// Of a group norm the factor and the offset of each channel, `[1, C, 1, 1]`, by its node.
    norms: HashMap<usize, [Tensor; 2]>,
    /// Rows that several operations take, of the current strip.
    recent: HashMap<usize, (Range<i64>, Tensor)>,
}

impl<'a> Strips<'a> {
    fn new(plan: &'a Plan<'a>, inputs: Vec<Tensor>, n_rows: i64) -> Self {
        let constants = plan.graph.constants.iter();
        let constants = constants.map(|(value, tensor)| (value.id, tensor.unsqueeze(0)));
        // The inputs are the first values of a graph.
        let stored = inputs.into_iter().enumerate().chain(constants);
        let stored = stored.map(|(value, tensor)| (value, Stored::Whole(tensor)));
        Self {
            plan,
            n_rows,
            stored: stored.collect(),
            first_rows: HashMap::new(),
            norms: HashMap::new(),
            recent: HashMap::new(),
        }
    }

    fn run(mut self) -> Option<Tensor> {
        let nodes = &self.plan.graph.nodes;
        for (i, node) in nodes.iter().enumerate() {
            if !self.plan.is_stored[i] {
                continue;
            }
            let value = match by_rows(node) {
                true => self.swept(i),
                false => Stored::Whole(self.whole(node)),
            };
            self.stored.insert(node.output.id, value);
            for source in &self.plan.cones[i].sources {
                let is_made = self.plan.makers.contains_key(source);
                if is_made && self.plan.last_use[source] == i {
                    self.stored.remove(source);
                }
            }
        }
        Some(self.stored.remove(&nodes.last()?.output.id)?.whole())
    }

    /// The output of a node from its strips.
    fn swept(&mut self, node: usize) -> Stored {
        let norms: Vec<usize> = self.plan.cones[node].nodes.iter().copied().collect();
        for norm in norms {
            self.measure(norm);
        }
        self.first_rows.clear();
        let height = self.plan.graph.nodes[node].output.shape[1];
        let mut bands = VecDeque::new();
        for rows in strips(height, self.n_rows) {
            let strip = self.made(node, rows);
            bands.push_back(channels_innermost(&strip));
            self.recent.clear();
            // Later strips are made of these rows and later ones.
            for (source, first) in std::mem::take(&mut self.first_rows) {
                if self.plan.last_use[&source] == node
                    && let Some(Stored::Bands(map)) = self.stored.get_mut(&source)
                {
                    map.drop_before(first);
                }
            }
        }
        Stored::Bands(Bands {
            n_rows: self.n_rows,
            n_dropped: 0,
            bands,
        })
    }

    /// The factor and the offset of a group norm, from all strips of its input.
    fn measure(&mut self, node: usize) {
        let made = &self.plan.graph.nodes[node];
        let Op::GroupNorm {
            weight,
            bias,
            n_groups,
            epsilon,
        } = &made.op
        else {
            return;
        };
        if self.norms.contains_key(&node) {
            return;
        }
        let input = &made.inputs[0];
        let mut total = 0.0;
        let mut moments: Option<[Tensor; 2]> = None; // Mean and sum of squared deviations of each channel.
        for rows in strips(input.shape[1], self.n_rows) {
            let strip = self.rows(input, rows);
            let n = (strip.size()[2] * strip.size()[3]) as f64;
            let (variance, mean) = strip.var_mean_correction(&[0_i64, 2, 3][..], 0, false);
            let (squares, mean) = (
                variance.to_kind(Kind::Double) * n,
                mean.to_kind(Kind::Double),
            );
            moments = Some(match moments {
                None => [mean, squares],
                Some([of_mean, of_squares]) => {
                    let difference = mean - &of_mean;
                    let all = total + n;
                    [
                        of_mean + &difference * (n / all),
                        of_squares + squares + difference.square() * (total * n / all),
                    ]
                }
            });
            total += n;
            self.recent.clear();
        }
        let Some([mean, squares]) = moments else {
            return; // Maps have rows.
        };
        let groups = |channels: &Tensor| channels.view([*n_groups, -1]);
        let mean_of = |groups: &Tensor| groups.mean_dim(1, true, Kind::Double);
        let (mean, variance) = (groups(&mean), groups(&(squares / total)));
        let group_mean = mean_of(&mean);
        let group_variance = mean_of(&(variance + (mean - &group_mean).square()));
        let scale = groups(&weight.to_kind(Kind::Double)) / (group_variance + *epsilon).sqrt();
        let offset = groups(&bias.to_kind(Kind::Double)) - group_mean * &scale;
        let of_channels =
            [scale, offset].map(|part| part.to_kind(weight.kind()).view([1, -1, 1, 1]));
        self.norms.insert(node, of_channels);
    }

    /// Rows of a map.
    fn rows(&mut self, value: &Value, rows: Range<i64>) -> Tensor {
        match self.stored.get(&value.id) {
            Some(Stored::Bands(map)) => {
                let first = self.first_rows.entry(value.id).or_insert(rows.start);
                *first = rows.start.min(*first);
                return map.rows(&rows);
            }
            Some(Stored::Whole(whole)) => {
                let is_map = whole.dim() == 4 && whole.size()[2] > 1;
                return match is_map {
                    true => whole.narrow(2, rows.start, rows.end - rows.start),
                    false => whole.shallow_clone(), // A map of one row, or a constant of any shape.
                };
            }
            None => (),
        }
        if let Some((known, strip)) = self.recent.get(&value.id)
            && known.start <= rows.start
            && rows.end <= known.end
        {
            return strip.narrow(2, rows.start - known.start, rows.end - rows.start);
        }
        let strip = self.made(self.plan.makers[&value.id], rows.clone());
        if self.plan.shared.contains(&value.id) {
            self.recent.insert(value.id, (rows, strip.shallow_clone()));
        }
        strip
    }

    /// Rows of a node's output, from those of its inputs.
    fn made(&mut self, node: usize, rows: Range<i64>) -> Tensor {
        let at = &self.plan.graph.nodes[node];
        let input = &at.inputs[0];
        match &at.op {
            Op::Conv {
                weight,
                bias,
                stride,
                padding: [above, beside],
            } => {
                let kernel = weight.size()[2];
                let first = rows.start * stride - above;
                let end = (rows.end - 1) * stride - above + kernel;
                let inside = first.max(0)..end.min(input.shape[1]);
                let zeros = [inside.start - first, end - inside.end];
                let strip = self.rows(input, inside);
                let strip = match zeros {
                    [0, 0] => strip,
                    [above, below] => strip.constant_pad_nd([0, 0, above, below]),
                };
                strip.conv2d(weight, bias.as_ref(), [*stride; 2], [0, *beside], [1; 2], 1)
            }
            Op::BatchNorm {
                weight,
                bias,
                mean,
                variance,
            } => self.rows(input, rows).batch_norm(
                Some(weight),
                Some(bias),
                Some(mean),
                Some(variance),
                false,
                0.0,
                crate::graph::EPSILON,
                false,
            ),
            Op::GroupNorm { .. } => {
                let strip = self.rows(input, rows);
                let [scale, offset] = &self.norms[&node];
                let mut normalized = strip * scale;
                normalized += offset;
                normalized
            }
            Op::Activation(activation) => activated(*activation, &self.rows(input, rows)),
            Op::Upsample([height, width]) => {
                let factor = height / input.shape[1];
                let from = rows.start / factor..(rows.end - 1) / factor + 1;
                let (first, n) = (from.start * factor, (from.end - from.start) * factor);
                let strip = self.rows(input, from);
                let strip = strip.upsample_nearest2d([n, *width], None, None);
                strip.narrow(2, rows.start - first, rows.end - rows.start)
            }
            Op::PadEnd => {
                let inside = rows.start..rows.end.min(input.shape[1]);
                let below = rows.end - inside.end;
                let strip = match inside.is_empty() {
                    true => self
                        .rows(input, input.shape[1] - 1..input.shape[1])
                        .zeros_like(),
                    false => self.rows(input, inside.clone()),
                };
                let below = if inside.is_empty() { 0 } else { below };
                strip.constant_pad_nd([0, 1, 0, below])
            }
            Op::Narrow { start, length } => self.rows(input, rows).narrow(1, *start, *length),
            Op::Concat => {
                let strips: Vec<Tensor> = at
                    .inputs
                    .iter()
                    .map(|input| self.rows(input, rows.clone()))
                    .collect();
                Tensor::cat(&strips, 1)
            }
            Op::Elementwise(name) => {
                let first = self.rows(input, rows.clone());
                let others = &at.inputs[1..];
                others.iter().fold(first, |sum, other| {
                    let other = self.rows(other, rows.clone());
                    match *name {
                        "Mul" => sum * other,
                        _ => sum + other,
                    }
                })
            }
            Op::Linear { .. }
            | Op::ConvTranspose { .. }
            | Op::Flatten
            | Op::Maps(_)
            | Op::Attention
            | Op::RowsOfLargest { .. } => self.whole(at),
        }
    }

    /// The output of an operation that needs its inputs whole.
    fn whole(&mut self, node: &Node) -> Tensor {
        let inputs: Vec<Tensor> = node
            .inputs
            .iter()
            .map(|input| self.stored[&input.id].whole())
            .collect();
        let input = &inputs[0];
        match &node.op {
            Op::Linear { weight, bias } => input.linear(weight, bias.as_ref()),
            Op::ConvTranspose {
                weight,
                bias,
                stride,
                padding,
                output_padding,
            } => input.conv_transpose2d(
                weight,
                bias.as_ref(),
                [*stride; 2],
                padding,
                output_padding,
                1,
                [1; 2],
            ),
            Op::Flatten => input.flatten(1, -1),
            Op::Maps(shape) => input.view([&[-1], &shape[..]].concat().as_slice()),
            Op::Attention => {
                let [query, key, value] = [0, 1, 2].map(|i| inputs[i].shallow_clone());
                Eager::new(Mode::Evaluate).attention(query, key, value)
            }
            Op::Upsample(size) => input.upsample_nearest2d(size, None, None),
            Op::Activation(activation) => activated(*activation, input),
            Op::Narrow { start, length } => input.narrow(1, *start, *length),
            Op::Concat => Tensor::cat(&inputs, 1),
            Op::Elementwise(name) => {
                inputs[1..]
                    .iter()
                    .fold(input.shallow_clone(), |sum, other| match *name {
                        "Mul" => sum * other,
                        _ => sum + other,
                    })
            }
            Op::BatchNorm { .. }
            | Op::GroupNorm { .. }
            | Op::Conv { .. }
            | Op::PadEnd
            | Op::RowsOfLargest { .. } => input.shallow_clone(), // Of maps only, or refused.
        }
    }
}

fn activated(activation: Activation, input: &Tensor) -> Tensor {
    match activation {
        Activation::Relu => input.relu(),
        Activation::LeakyRelu => input.leaky_relu(),
        Activation::Silu => input.silu(),
        Activation::Tanh => input.tanh(),
    }
}

/// The rows of each strip.
fn strips(height: i64, n_rows: i64) -> impl Iterator<Item = Range<i64>> {
    let n_strips = (height + n_rows - 1) / n_rows;
    (0..n_strips).map(move |i| i * n_rows..((i + 1) * n_rows).min(height))
}

/// A copy with the channels innermost in memory, as convolutions like them best, and nothing else kept with it.
fn channels_innermost(strip: &Tensor) -> Tensor {
    let [n, channels, height, width] = [0, 1, 2, 3].map(|dim| strip.size()[dim]);
    let options: (Kind, Device) = (strip.kind(), strip.device());
    let mut copy = Tensor::empty([n, height, width, channels], options).permute([0, 3, 1, 2]);
    copy.copy_(strip);
    copy
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use tch::{Device, Kind, Tensor};

    use crate::{ImageShape, InvertConfig, ModelConfig, ModelError, Vae};

    fn model(toml: &str, side: [i64; 2]) -> Vae {
        let config: ModelConfig = toml::from_str(toml).unwrap();
        let image = ImageShape {
            channels: 3,
            height: side[0],
            width: side[1],
        };
        let vae = Vae::new(&config, image, Device::Cpu, 3).unwrap();
        // Blocks end in zeros at first, which would hide mistakes within them.
        let mut noise = vae.generator(4);
        for (_, mut variable) in vae.trainable_variables() {
            let noise = noise.normal(&variable.size()[..], Device::Cpu);
            tch::no_grad(|| variable += noise * 0.05);
        }
        vae
    }

    const MODELS: [(&str, [i64; 2]); 7] = [
        (
            "latent_shape = [4, 10, 6]
            network.autoencoder_kl = { channels = [8, 8, 16], groups = 4 }",
            [40, 24],
        ),
        (
            "latent_shape = [4, 10, 6]
            network.autoencoder_kl = { channels = [8, 16], groups = 4, attention = false, blocks = 1 }",
            [20, 12],
        ),
        (
            "latent_shape = [4, 3, 5]
            posterior = 'deterministic'
            network.autoencoder_tiny = { channels = 8 }",
            [24, 40],
        ),
        (
            "latent_dims = 5
            network.residual = { channels = [8, 16], blocks = 2 }",
            [17, 14],
        ),
        (
            "latent_dims = 5
            network.conv = { channels = [8, 16], strides = [2, 1], decoder_strides = [2] }",
            [13, 18],
        ),
        (
            "latent_dims = 5
            network.conv_batch_norm = { channels = [8, 16] }",
            [16, 16],
        ),
        (
            "latent_dims = 5
            network.dcgan = { channels = [8, 16] }",
            [16, 20],
        ),
    ];

    #[test]
    fn strips_have_the_numbers_of_the_whole() {
        for (toml, side) in MODELS {
            let mut vae = model(toml, side);
            let mut noise = vae.generator(5);
            let images = noise.uniform([0.0, 255.0], [2, 3, side[0], side[1]], Device::Cpu);
            let images = images.to_kind(Kind::Uint8);
            let latents = noise.normal(&[2, vae.config().n_latents()][..], Device::Cpu);
            let all = |vae: &Vae| {
                let center = vae.encode(&images).unwrap().center();
                [center, vae.decode(&latents).unwrap()]
            };
            let whole = all(&vae);
            for n_rows in [1, 3, 8, 64] {
                vae.set_strip_rows(Some(n_rows)).unwrap();
                for (whole, strips) in whole.iter().zip(all(&vae)) {
                    let difference = (whole - &strips).abs().max().double_value(&[]);
                    let size = whole.abs().max().double_value(&[]);
                    assert!(
                        difference < 1e-5 * size.max(1.0),
                        "{toml}, {n_rows} rows: {difference} of {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn latents_are_not_searched_through_strips() {
        let (toml, side) = MODELS[0];
        let mut vae = model(toml, side);
        vae.set_strip_rows(Some(4)).unwrap();
        let images = Tensor::zeros([1, 3, side[0], side[1]], (Kind::Uint8, Device::Cpu));
        let mut go_on = |_| ControlFlow::Continue(());
        let found = vae.invert(&images, &InvertConfig::default(), &mut go_on);
        assert!(matches!(found, Err(ModelError::InStrips)), "{found:?}");
    }

    #[test]
    fn networks_without_maps_are_refused() {
        let mut vae = model("latent_dims = 2\nnetwork.mlp = {}", [4, 4]);
        let said = vae.set_strip_rows(Some(8)).unwrap_err().to_string();
        assert!(said.contains("model.network.mlp"), "{said}");
        vae.set_strip_rows(None).unwrap();
    }
}
