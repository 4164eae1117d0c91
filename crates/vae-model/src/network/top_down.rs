//! `network.top_down`: a hierarchy of latent maps, drawn from the coarsest resolution down to the finest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layers::{Conv, ConvSizes, Layer, NextActivation, shrunk};
use super::ops::{Activation, Eager, Ops};
use super::{
    ConditionMap, GraphNetwork, LARGEST_DEPTH, LARGEST_SIZE, Network, NetworkShape, check_sizes,
};
use crate::graph::{Graph, Value};
use crate::{ImageShape, Initialization, Mode, ModelError, nn};

/// A deep hierarchy of latent maps with bottleneck blocks, after the very deep VAE (Child 2021,
/// <https://arxiv.org/abs/2011.10650>). The network says which latents there are: it takes the place of `latent_dims`,
/// `latent_shape` and `topology`. It is for square images.
///
/// All lists have an entry for each stage, from the top down. The encoder goes from the image up, and gives each group
/// of latents what it sees at that resolution. The decoder goes down with a state h, which begins as a learned map. A
/// block at a resolution computes
///
/// ```text
/// p(z_i|h) = N(μ, σ²)                       μ, σ and a residual r from a bottleneck branch of h
/// q(z_i|h, x) = N(μ + σ·d, σ²·e^v)          d, v from h and the encoder at this resolution
/// h ← h + r + projection(z_i)
/// h ← h + bottleneck branch of h
/// ```
///
/// so that the posterior is said relative to the prior (Vahdat & Kautz 2020, <https://arxiv.org/abs/2007.03898>, §3.2),
/// and KL(q(z_i|h, x) ‖ p(z_i|h)) = ½·Σ(d² + e^v − v − 1) whatever σ is. In a fresh model μ, ln σ and r are 0 and d and v
/// small: the kl is nearly 0. The last layer of every other branch, and each projection, begins 1/√(number of blocks) as
/// large as elsewhere. `initialization = "kaiming"` fits: without norms the other ones shrink what the upper groups see.
/// Between two resolutions h goes through a 1×1 convolution, nearest-neighbor upsampling and a learned offset of each
/// place. The likelihood's parameters are a 3×3 convolution of the last h.
///
/// A latent vector is the groups one behind the other, the top one first; in a group the channels first, then rows and
/// columns. The kl of each group is logged as `kl_1`, `kl_2`, … from the lowest up, and that of each resolution, as
/// `kl_at_7` for maps of 7×7. Needs the posterior `diagonal_gaussian` and the prior `standard_normal`, from which the
/// first group differs by its learned mean and scale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TopDownConfig {
    /// Rows and columns of the maps of each stage. The last is the image's size; each one before is half of the next,
    /// rounded up, or 1. Default `[1, 4, 7, 14, 28]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub sizes: Vec<i64>,
    /// Channels of h, and of the encoder's maps. Default `[64, 64, 32, 16, 8]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 1, max = LARGEST_SIZE)))]
    pub widths: Vec<i64>,
    /// Blocks of the decoder. Default `[2, 2, 2, 1, 0]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(max = LARGEST_DEPTH)))]
    pub blocks: Vec<usize>,
    /// Channels of a block's latents; 0 for blocks without latents. Default `[8, 4, 2, 1, 0]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(min = 0, max = LARGEST_SIZE)))]
    pub latents: Vec<i64>,
    /// Residual blocks of the encoder. Default `[1, 1, 1, 1, 0]`.
    #[schemars(length(min = 1, max = LARGEST_DEPTH), inner(range(max = LARGEST_DEPTH)))]
    pub encoder_blocks: Vec<usize>,
    /// How many times as wide h is as the inside of a branch. Default 2.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub squeeze: i64,
}

impl Default for TopDownConfig {
    fn default() -> Self {
        Self {
            sizes: vec![1, 4, 7, 14, 28],
            widths: vec![64, 64, 32, 16, 8],
            blocks: vec![2, 2, 2, 1, 0],
            latents: vec![8, 4, 2, 1, 0],
            encoder_blocks: vec![1, 1, 1, 1, 0],
            squeeze: 2,
        }
    }
}

/// A group of latents: a map `[channels, size, size]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupShape {
    pub(crate) channels: i64,
    pub(crate) size: i64,
}

impl GroupShape {
    pub(crate) fn n_latents(self) -> i64 {
        let area = self.size.saturating_mul(self.size);
        self.channels.saturating_mul(area)
    }

    fn maps(self) -> [i64; 3] {
        [self.channels, self.size, self.size]
    }
}

impl TopDownConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let key = |name: &str| format!("model.network.top_down.{name}");
        check_sizes(&key("sizes"), &self.sizes)?;
        check_sizes(&key("widths"), &self.widths)?;
        check_sizes(&key("squeeze"), &[self.squeeze])?;
        let n_stages = self.sizes.len();
        for (name, n) in [
            ("sizes", n_stages),
            ("widths", self.widths.len()),
            ("blocks", self.blocks.len()),
            ("latents", self.latents.len()),
            ("encoder_blocks", self.encoder_blocks.len()),
        ] {
            if n == 0 || n != n_stages {
                let problem = format!(
                    "found {n} numbers for {n_stages} sizes, expected one for each, and at least one"
                );
                return Err(ModelError::config(key(name), problem));
            }
        }
        if let Some(&n) = self
            .latents
            .iter()
            .find(|n| !(0..=LARGEST_SIZE).contains(*n))
        {
            let problem = format!("found {n}, expected numbers from 0 to {LARGEST_SIZE}");
            return Err(ModelError::config(key("latents"), problem));
        }
        for (name, blocks) in [
            ("blocks", &self.blocks),
            ("encoder_blocks", &self.encoder_blocks),
        ] {
            if blocks.iter().sum::<usize>() > LARGEST_DEPTH {
                let problem = format!("expected at most {LARGEST_DEPTH} together");
                return Err(ModelError::config(key(name), problem));
            }
        }
        for pair in self.sizes.windows(2) {
            let half = (pair[1] - 1) / 2 + 1;
            if pair[0] != half && pair[0] != 1 {
                let problem = format!(
                    "found {} above {}, expected half of it, {half}, or 1",
                    pair[0], pair[1]
                );
                return Err(ModelError::config(key("sizes"), problem));
            }
        }
        if let Some(width) = self.widths.iter().find(|&width| width % self.squeeze != 0) {
            let problem = format!(
                "found {}, which does not divide a width, {width}",
                self.squeeze
            );
            return Err(ModelError::config(key("squeeze"), problem));
        }
        if let Some(i) = (0..n_stages).find(|&i| self.latents[i] > 0 && self.blocks[i] == 0) {
            let problem = format!(
                "found {} at size {}, which has no blocks; 0 would fit, or blocks there",
                self.latents[i], self.sizes[i]
            );
            return Err(ModelError::config(key("latents"), problem));
        }
        match self.groups().is_empty() {
            true => Err(ModelError::config(
                key("latents"),
                "found none at any size, expected latents in at least one",
            )),
            false => Ok(()),
        }
    }

    /// Refuses images that the maps do not reach.
    pub(crate) fn check_image(&self, image: ImageShape) -> Result<(), ModelError> {
        let last = self.sizes.last().copied().unwrap_or(0);
        if [image.height, image.width] == [last; 2] {
            return Ok(());
        }
        let found = match image.height == image.width {
            true => format!("found {last} as the last, but the items are {image}"),
            false => format!("the maps are squares, and the items are {image}"),
        };
        Err(ModelError::config(
            "model.network.top_down.sizes",
            format!(
                "{found}; from the image's size on, each is half of the one below, rounded up, or 1"
            ),
        ))
    }

    /// The groups of latents from the top down.
    pub(crate) fn groups(&self) -> Vec<GroupShape> {
        let stages = self.sizes.iter().zip(&self.blocks).zip(&self.latents);
        let groups = stages.flat_map(|((&size, &n_blocks), &channels)| {
            let n_groups = if channels > 0 { n_blocks } else { 0 };
            std::iter::repeat_n(GroupShape { channels, size }, n_groups)
        });
        groups.collect()
    }

    /// Z, the latents of all groups.
    pub(crate) fn n_latents(&self) -> i64 {
        let groups = self.groups().into_iter();
        groups.fold(0, |sum, group| sum.saturating_add(group.n_latents()))
    }

    /// P, what the encoder gives for an item: maps for each stage with latents, then the features of the condition.
    pub(crate) fn n_posterior_params(&self, n_features: i64) -> i64 {
        let stages = self.stage_shapes().into_iter();
        stages.fold(n_features, |sum, stage| {
            sum.saturating_add(stage.evidence().iter().product())
        })
    }

    fn stage_shapes(&self) -> Vec<StageShape> {
        let stages = 0..self.sizes.len();
        stages
            .map(|i| StageShape {
                size: self.sizes[i],
                width: self.widths[i],
                inside: self.widths[i] / self.squeeze,
                n_blocks: self.blocks[i] as i64,
                latents: self.latents[i],
            })
            .collect()
    }

    /// The variables are under `encoder`, `decoder` and, those of the posteriors' branches, `posterior` of `root`.
    pub(crate) fn build(&self, root: &nn::Path, shape: NetworkShape) -> TopDownNetwork {
        TopDownNetwork {
            encoder: BottomUp::build(&(root / "encoder"), self, shape),
            condition: ConditionMap::build(&(root / "condition"), shape),
            path: TopDownPath::build(root, self, shape),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct StageShape {
    size: i64,
    width: i64,
    /// Channels inside a branch.
    inside: i64,
    n_blocks: i64,
    latents: i64,
}

impl StageShape {
    /// What the encoder gives the stage's groups, `[channels, size, size]`.
    fn evidence(self) -> [i64; 3] {
        let n_groups = if self.latents > 0 { self.n_blocks } else { 0 };
        [n_groups.saturating_mul(self.inside), self.size, self.size]
    }

    /// 3×3, or 1×1 where the padding would be most of the map.
    fn middle(self) -> ConvSizes {
        match self.size {
            ..=2 => ConvSizes::one(self.inside, self.inside),
            _ => ConvSizes::three(self.inside, self.inside, 1),
        }
    }
}

/// The last layer of a branch.
#[derive(Clone, Copy)]
enum Last {
    /// Zero, so that the branch gives 0 at first.
    Zero,
    /// Of a sum of this many branches.
    OneOf(usize),
}

impl Last {
    fn next(self) -> NextActivation {
        match self {
            Self::Zero => NextActivation::Sum,
            Self::OneOf(n) => NextActivation::Branch { n },
        }
    }
}

/// conv(silu(conv(silu(conv(silu(h)))))): a 1×1 convolution to fewer channels, a 3×3 and a 1×1 convolution.
#[derive(Debug)]
struct Bottleneck {
    layers: [Layer<Conv>; 3],
}

impl Bottleneck {
    fn build(
        path: &nn::Path,
        init: Initialization,
        stage: StageShape,
        n_out: i64,
        last: Last,
    ) -> Self {
        let next = NextActivation::Relu;
        let sizes = [
            ConvSizes::one(stage.width, stage.inside),
            stage.middle(),
            ConvSizes::one(stage.inside, n_out),
        ];
        Self {
            layers: [
                init.conv(path / 0, sizes[0], next),
                init.conv(path / 1, sizes[1], next),
                init.conv(path / 2, sizes[2], last.next()),
            ],
        }
    }

    fn apply<O: Ops>(&self, ops: &mut O, state: &O::Value) -> O::Value {
        let [first, middle, last] = &self.layers;
        let enters = enter(ops, first, state);
        leave(ops, middle, last, enters)
    }

    fn with(&self, of: &dyn Fn(&Tensor) -> Tensor) -> Self {
        Self {
            layers: self.layers.each_ref().map(|layer| layer.with(of)),
        }
    }
}

/// The first layer of a branch.
fn enter<O: Ops>(ops: &mut O, first: &Layer<Conv>, state: &O::Value) -> O::Value {
    let state = ops.share(state);
    let state = ops.activation(Activation::Silu, state);
    ops.layer(first, state)
}

/// The other two layers of a branch.
fn leave<O: Ops>(
    ops: &mut O,
    middle: &Layer<Conv>,
    last: &Layer<Conv>,
    mut maps: O::Value,
) -> O::Value {
    for layer in [middle, last] {
        maps = ops.activation(Activation::Silu, maps);
        maps = ops.layer(layer, maps);
    }
    maps
}

/// From the image up: what the posterior of each group gets of it.
#[derive(Debug)]
struct BottomUp {
    /// From the image inwards.
    stages: Vec<UpwardStage>,
}

#[derive(Debug)]
struct UpwardStage {
    rise: ToStage,
    blocks: Vec<Bottleneck>,
    /// To the first inner channels of the posteriors of all groups of the stage.
    evidence: Option<Layer<Conv>>,
}

/// From the stage below, or from the image.
#[derive(Debug)]
enum ToStage {
    FromImage(Layer<Conv>),
    /// Of half the size.
    Strided(Layer<Conv>),
    /// Of a single place, which sees all of the map.
    Whole(Layer<nn::Linear>, i64),
}

impl BottomUp {
    fn build(path: &nn::Path, config: &TopDownConfig, shape: NetworkShape) -> Self {
        let init = shape.initialization;
        let stages = config.stage_shapes();
        let n_blocks = config.encoder_blocks.iter().sum::<usize>();
        let upwards = (0..stages.len()).rev().map(|i| {
            let (path, stage) = (path / i, stages[i]);
            let rise = match stages.get(i + 1) {
                None => {
                    let sizes = ConvSizes::three(shape.encoder_channels(), stage.width, 1);
                    ToStage::FromImage(init.conv(&path / "conv", sizes, NextActivation::Relu))
                }
                Some(below) if shrunk([below.size; 2], 2) == [stage.size; 2] => {
                    let sizes = ConvSizes::three(below.width, stage.width, 2);
                    ToStage::Strided(init.conv(&path / "conv", sizes, NextActivation::Relu))
                }
                Some(below) => {
                    let n_in = below.width * below.size * below.size;
                    let next = NextActivation::Relu;
                    let layer = init.linear(&path / "whole", n_in, stage.width, next);
                    ToStage::Whole(layer, stage.width)
                }
            };
            let block = |i| {
                let path = &path / "block" / i;
                Bottleneck::build(&path, init, stage, stage.width, Last::OneOf(n_blocks))
            };
            let [n_evidence, ..] = stage.evidence();
            UpwardStage {
                rise,
                blocks: (0..config.encoder_blocks[i]).map(block).collect(),
                evidence: (n_evidence > 0).then(|| {
                    let sizes = ConvSizes::one(stage.width, n_evidence);
                    init.conv(&path / "evidence", sizes, NextActivation::Relu)
                }),
            }
        });
        Self {
            stages: upwards.collect(),
        }
    }

    /// Images `[B, C, H, W]` → the maps for each stage, flat, from the top stage down.
    fn apply<O: Ops>(&self, ops: &mut O, images: O::Value) -> Vec<O::Value> {
        let mut maps = ops.channels_last(images);
        let mut evidence = Vec::new();
        for stage in &self.stages {
            maps = match &stage.rise {
                ToStage::FromImage(layer) => ops.layer(layer, maps),
                ToStage::Strided(layer) => {
                    maps = ops.activation(Activation::Silu, maps);
                    ops.layer(layer, maps)
                }
                ToStage::Whole(layer, width) => {
                    maps = ops.activation(Activation::Silu, maps);
                    let flat = ops.flatten(maps);
                    let dot = ops.layer(layer, flat);
                    ops.maps(dot, [*width, 1, 1])
                }
            };
            for block in &stage.blocks {
                let branch = block.apply(ops, &maps);
                maps = ops.sum(maps, branch);
            }
            if let Some(layer) = &stage.evidence {
                let seen = enter(ops, layer, &maps);
                evidence.push(ops.flatten(seen));
            }
        }
        evidence.reverse();
        evidence
    }
}

/// The decoder's way from the top down, which prior, posterior and decoder share.
#[derive(Debug)]
pub(crate) struct TopDownPath {
    groups: Vec<GroupShape>,
    start: Tensor,
    condition: Option<Layer<Conv>>,
    n_features: i64,
    stages: Vec<DownwardStage>,
    likelihood: Layer<Conv>,
}

#[derive(Debug)]
struct DownwardStage {
    descent: Option<Descent>,
    blocks: Vec<Block>,
    evidence: [i64; 3],
    size: i64,
}

/// From the stage above.
#[derive(Debug)]
struct Descent {
    layer: Layer<Conv>,
    size: i64,
    /// `[C, size, size]`.
    offset: Tensor,
}

#[derive(Debug)]
struct Block {
    group: Option<Group>,
    branch: Bottleneck,
}

/// What belongs to a group of latents.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) shape: GroupShape,
    /// To mean and log-variance of p(z_i|h), and the residual.
    prior: Bottleneck,
    /// To the shift d and the log-ratio v of q(z_i|h, x): the first layer's output and the evidence are added.
    posterior: Bottleneck,
    projection: Layer<Conv>,
    width: i64,
    /// Its stage, and its first channel of the stage's evidence.
    evidence: (usize, i64),
    inside: i64,
}

impl Group {
    /// Means and declared log-variances of the prior, `[N, c, s, s]` each, of the output of its branch.
    pub(crate) fn of_prior<O: Ops>(&self, ops: &mut O, params: &O::Value) -> [O::Value; 2] {
        let c = self.shape.channels;
        [ops.narrow(params, 0, c), ops.narrow(params, c, c)]
    }

    /// Shift d and declared log-ratio v of the posterior, `[N, c, s, s]` each, at a state. `add_evidence` adds what the
    /// encoder gives this group to the first layer's output.
    pub(crate) fn of_posterior<O: Ops>(
        &self,
        ops: &mut O,
        state: &O::Value,
        add_evidence: impl FnOnce(&mut O, O::Value) -> O::Value,
    ) -> [O::Value; 2] {
        let [first, middle, last] = &self.posterior.layers;
        let entered = enter(ops, first, state);
        let entered = add_evidence(ops, entered);
        let params = leave(ops, middle, last, entered);
        let c = self.shape.channels;
        [ops.narrow(&params, 0, c), ops.narrow(&params, c, c)]
    }

    /// The stage whose evidence it takes, and the range of channels (start, length).
    pub(crate) fn evidence(&self) -> (usize, i64, i64) {
        (self.evidence.0, self.evidence.1, self.inside)
    }
}

/// Gives the latents `[N, c, s, s]` of group i, for the state above it and the output of the prior's branch.
pub(crate) type Choose<'a, O> = dyn FnMut(&mut O, usize, &Group, &<O as Ops>::Value, &<O as Ops>::Value) -> <O as Ops>::Value
    + 'a;

/// What a way down is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The latents: it ends with the last group.
    Latents,
    /// The likelihood's parameters.
    Likelihood,
}

impl TopDownPath {
    fn build(root: &nn::Path, config: &TopDownConfig, shape: NetworkShape) -> Self {
        let path = &(root / "decoder");
        let init = shape.initialization;
        let stages = config.stage_shapes();
        let n_blocks = config.blocks.iter().sum::<usize>().max(1);
        let first = stages[0];
        let n_features = shape.n_condition_features;
        let condition = (n_features > 0).then(|| {
            let sizes = ConvSizes::one(n_features, first.width);
            init.conv(path / "condition", sizes, NextActivation::Linear)
        });
        let downwards = stages.iter().enumerate().map(|(i, &stage)| {
            let path = path / i;
            let descent = i.checked_sub(1).map(|above| {
                let sizes = ConvSizes::one(stages[above].width, stage.width);
                Descent {
                    layer: init.conv(&path / "conv", sizes, NextActivation::Relu),
                    size: stage.size,
                    offset: path.zeros("offset", &[stage.width, stage.size, stage.size]),
                }
            });
            let block = |n: i64| {
                let path = &path / "block" / n;
                let last = Last::OneOf(n_blocks);
                let c = stage.latents;
                let group = (c > 0).then(|| Group {
                    shape: GroupShape {
                        channels: c,
                        size: stage.size,
                    },
                    prior: {
                        let n_out = 2 * c + stage.width;
                        Bottleneck::build(&(&path / "prior"), init, stage, n_out, Last::Zero)
                    },
                    posterior: Bottleneck::build(
                        &(root / "posterior" / i / "block" / n),
                        init,
                        stage,
                        2 * c,
                        last,
                    ),
                    projection: init.conv(
                        &path / "projection",
                        ConvSizes::one(c, stage.width),
                        last.next(),
                    ),
                    width: stage.width,
                    evidence: (i, n * stage.inside),
                    inside: stage.inside,
                });
                Block {
                    group,
                    branch: Bottleneck::build(&(&path / "branch"), init, stage, stage.width, last),
                }
            };
            DownwardStage {
                descent,
                blocks: (0..stage.n_blocks).map(block).collect(),
                evidence: stage.evidence(),
                size: stage.size,
            }
        });
        let stages: Vec<DownwardStage> = downwards.collect();
        let last = config.widths[config.widths.len() - 1];
        Self {
            groups: config.groups(),
            start: path.zeros("start", &[first.width, first.size, first.size]),
            condition,
            n_features,
            stages,
            likelihood: init.conv(
                path / "likelihood",
                ConvSizes::three(last, shape.n_likelihood_maps, 1),
                shape.to_likelihood(),
            ),
        }
    }

    /// The latents of each group, from the top down.
    pub(crate) fn group_sizes(&self) -> Vec<i64> {
        let groups = self.groups.iter();
        groups.map(|group| group.n_latents()).collect()
    }

    /// The shapes of the encoder's maps for each stage; of a stage without latents they have no channels.
    pub(crate) fn evidence_shapes(&self) -> Vec<[i64; 3]> {
        self.stages.iter().map(|stage| stage.evidence).collect()
    }

    pub(crate) fn n_features(&self) -> i64 {
        self.n_features
    }

    /// Goes down. `choose` gives the latents `[N, c, s, s]` of group i for the state above it and the output of the
    /// prior's branch ([`Group::of_prior`]). `batch` is any value `[N, …]`, which says how many there are. The result is
    /// the likelihood's parameters `[N, L, H, W]`, or `None` if they are not asked for.
    pub(crate) fn run<O: Ops>(
        &self,
        ops: &mut O,
        batch: &O::Value,
        features: Option<O::Value>,
        reach: Reach,
        choose: &mut Choose<'_, O>,
    ) -> Option<O::Value> {
        let mut state = ops.everywhere(batch, &self.start);
        if let (Some(layer), Some(features)) = (&self.condition, features) {
            let dot = ops.maps(features, [self.n_features, 1, 1]);
            let dot = ops.layer(layer, dot);
            let size = self.stages[0].size;
            let map = ops.upsample(dot, [size; 2]);
            state = ops.sum(state, map);
        }
        let mut next_group = 0;
        for stage in &self.stages {
            if let Some(Descent {
                layer,
                size,
                offset,
            }) = &stage.descent
            {
                state = ops.layer(layer, state);
                state = ops.upsample(state, [*size; 2]);
                state = ops.offset(state, offset);
            }
            for block in &stage.blocks {
                if let Some(group) = &block.group {
                    let params = group.prior.apply(ops, &state);
                    let latents = choose(ops, next_group, group, &state, &params);
                    next_group += 1;
                    if reach == Reach::Latents && next_group == self.groups.len() {
                        return None;
                    }
                    let latents = ops.channels_last(latents);
                    let projected = ops.layer(&group.projection, latents);
                    let residual = ops.narrow(&params, 2 * group.shape.channels, group.width);
                    state = ops.sum(state, residual);
                    state = ops.sum(state, projected);
                }
                let branch = block.branch.apply(ops, &state);
                state = ops.sum(state, branch);
            }
        }
        let state = ops.activation(Activation::Silu, state);
        Some(ops.layer(&self.likelihood, state))
    }

    /// The likelihood's parameters for latents `[N, Z]`.
    fn decode<O: Ops>(
        &self,
        ops: &mut O,
        latents: &O::Value,
        features: Option<O::Value>,
    ) -> O::Value {
        let mut start = 0;
        let mut given = |ops: &mut O, _: usize, group: &Group, _: &O::Value, _: &O::Value| {
            let n = group.shape.n_latents();
            let flat = ops.narrow(latents, start, n);
            start += n;
            ops.maps(flat, group.shape.maps())
        };
        let params = self.run(ops, latents, features, Reach::Likelihood, &mut given);
        params.unwrap_or_else(|| ops.share(latents))
    }

    /// Latents `[N, Z]` by group, `[N, c, s, s]`, from the top down.
    pub(crate) fn split(&self, latents: &Tensor) -> Vec<Tensor> {
        let flat = latents.split_with_sizes(self.group_sizes().as_slice(), -1);
        let groups = flat.iter().zip(&self.groups);
        groups
            .map(|(flat, group)| {
                let [c, h, w] = group.maps();
                flat.view([-1, c, h, w])
            })
            .collect()
    }

    /// The same variables.
    pub(crate) fn shallow_clone(&self) -> Self {
        self.with(&Tensor::shallow_clone)
    }

    /// A constant to gradients.
    pub(crate) fn detach(&self) -> Self {
        self.with(&|tensor| tensor.detach())
    }

    fn with(&self, of: &dyn Fn(&Tensor) -> Tensor) -> Self {
        let group = |group: &Group| Group {
            shape: group.shape,
            prior: group.prior.with(of),
            posterior: group.posterior.with(of),
            projection: group.projection.with(of),
            width: group.width,
            evidence: group.evidence,
            inside: group.inside,
        };
        let block = |block: &Block| Block {
            group: block.group.as_ref().map(group),
            branch: block.branch.with(of),
        };
        let stages = self.stages.iter().map(|stage| DownwardStage {
            descent: stage.descent.as_ref().map(|descent| Descent {
                layer: descent.layer.with(of),
                size: descent.size,
                offset: of(&descent.offset),
            }),
            blocks: stage.blocks.iter().map(block).collect(),
            evidence: stage.evidence,
            size: stage.size,
        });
        Self {
            groups: self.groups.clone(),
            start: of(&self.start),
            condition: self.condition.as_ref().map(|layer| layer.with(of)),
            n_features: self.n_features,
            stages: stages.collect(),
            likelihood: self.likelihood.with(of),
        }
    }
}

/// Encoder and decoder of a hierarchy. The encoder's output is what the posteriors of all groups get of the image, and
/// behind it the features of the condition, which the posterior's way down needs too.
#[derive(Debug)]
pub(crate) struct TopDownNetwork {
    encoder: BottomUp,
    condition: Option<ConditionMap>,
    path: TopDownPath,
}

impl TopDownNetwork {
    pub(crate) fn path(&self) -> &TopDownPath {
        &self.path
    }

    fn encode_with<O: Ops>(
        &self,
        ops: &mut O,
        images: O::Value,
        features: Option<O::Value>,
    ) -> O::Value {
        let images = match (&self.condition, &features) {
            (Some(condition), Some(features)) => {
                let features = ops.share(features);
                let map = condition.map(ops, features);
                ops.concat(images, map) // [B, C + 1, H, W]
            }
            _ => images,
        };
        let mut parts = self.encoder.apply(ops, images).into_iter().chain(features);
        let first = parts.next().expect("a checked config has latents");
        parts.fold(first, |all, part| ops.concat(all, part)) // [B, P]
    }
}

impl Network for TopDownNetwork {
    fn encode(&self, images: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor {
        let features = features.map(Tensor::shallow_clone);
        self.encode_with(&mut Eager::new(mode), images.shallow_clone(), features)
    }

    fn decode(&self, latents: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor {
        let features = features.map(Tensor::shallow_clone);
        self.path.decode(&mut Eager::new(mode), latents, features)
    }

    fn output_weight(&self) -> Option<Tensor> {
        Some(self.path.likelihood.module.weight.shallow_clone())
    }
}

impl GraphNetwork for TopDownNetwork {
    fn encoder_graph(
        &self,
        graph: &mut Graph,
        images: Value,
        features: Option<Value>,
    ) -> Option<Value> {
        Some(self.encode_with(graph, images, features))
    }

    fn decoder_graph(
        &self,
        graph: &mut Graph,
        latents: Value,
        features: Option<Value>,
    ) -> Option<Value> {
        Some(self.path.decode(graph, &latents, features))
    }
}
